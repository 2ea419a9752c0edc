"""What reading a command gives: frozen values without any library's types."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from contracts.codes import Code
from contracts.command_models import DEFAULT_PORT, DEFAULT_USERNAME


class CommandKind(StrEnum):
    """What a command asks for; the same words as the kinds of a job."""

    ISSUE = "issue"
    RENEW = "renew"
    REMOVE = "remove"


COMMAND_TYPES: Final[Mapping[CommandKind, str]] = {
    CommandKind.ISSUE: "com.cloudaipilot.ssl.issue.v1",
    CommandKind.RENEW: "com.cloudaipilot.ssl.renew.v1",
    CommandKind.REMOVE: "com.cloudaipilot.ssl.remove.v1",
}
"""The CloudEvents `type` of each command; it, not the routing key, decides what a message is."""


@dataclass(frozen=True, slots=True)
class ServerRef:
    """A customer's server as a command names it; every field normalised.

    Attributes:
        host: address in its shortest form, or a lower-case name.
        port: SSH port.
        username: SSH user.
        host_key: `TYPE BASE64`, the only key accepted; None means the known_hosts file decides.
        public_addresses: where the public reaches the server, if SSH uses another address.
    """

    host: str
    port: int = DEFAULT_PORT
    username: str = DEFAULT_USERNAME
    host_key: str | None = None
    public_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IssueSSL:
    """Issue a certificate.

    Attributes:
        site_id: the site.
        domain: the primary name.
        aliases: further names, each once, without the domain.
        server: where the site is served.
        requested_by: who asked, for the record.
    """

    site_id: str
    domain: str
    aliases: tuple[str, ...]
    server: ServerRef
    requested_by: str | None = None


@dataclass(frozen=True, slots=True)
class RenewSSL:
    """Renew a certificate; None means what is stored for the site.

    Attributes:
        site_id: the site.
        domain: the primary name, or None.
        aliases: further names, each once, without the domain; never empty; or None.
        server: where the site is served, or None.
        requested_by: who asked, for the record.
        force: also before the renewal window opens.
    """

    site_id: str
    domain: str | None = None
    aliases: tuple[str, ...] | None = None
    server: ServerRef | None = None
    requested_by: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class RemoveSSL:
    """Remove a site's certificate from its server and stop renewing it.

    Attributes:
        site_id: the site.
        revoke: tell the CA too that the certificate is not to be trusted any more.
        requested_by: who asked, for the record.
    """

    site_id: str
    revoke: bool = False
    requested_by: str | None = None


Command = IssueSSL | RenewSSL | RemoveSSL


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a command that could be read is refused.

    Attributes:
        code: INVALID_REQUEST, NO_DOMAIN, INVALID_DOMAIN or WILDCARD_NEEDS_DNS.
        message: one sentence that names the field, what was expected and what came.
        field: path of the field, like `data.aliases[1]`.
    """

    code: Code
    message: str
    field: str


@dataclass(frozen=True, slots=True)
class ReadCommand:
    """A message that is one of our commands, good or refused.

    Exactly one of `command` and `rejection` is set. A rejection with INVALID_REQUEST is dead-lettered as well, and
    where `site_id` is None it is dead-lettered only (DESIGN A.9).

    Attributes:
        source: with `command_id` the idempotency key.
        command_id: the CloudEvents id.
        site_id: `data.siteId`, else `subject`; None where neither can be read.
        kind: what is asked for.
        body_hash: hex SHA-256; equal for the same request, whatever its `time`, spelling of names and key order.
        domain: the primary name that was asked for, where one was and it normalises.
        command: the command, normalised.
        rejection: why not.
    """

    source: str
    command_id: str
    site_id: str | None
    kind: CommandKind
    body_hash: str
    domain: str | None
    command: Command | None
    rejection: Rejection | None
