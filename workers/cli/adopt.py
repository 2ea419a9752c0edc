"""`certpilot server adopt HOST`: what certbot has on a server, and which of it becomes the certificate of a site of ours.

A site whose certificate lies there already is asked for like any other, by IssueSSL: its job finds the certificate, sees
that it is served, and makes the site active without an order. From then on it is watched and renewed as ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from contracts.commands import IssueSSL, ServerRef, build_command
from contracts.envelope import CONTENT_TYPE
from contracts.topology import COMMANDS_EXCHANGE, ISSUE_ROUTING_KEY
from db import operators
from db.operators import SiteThere
from db.pool import connect
from workers.cli import output
from workers.cli.arguments import by_or_self
from workers.cli.output import Column
from workers.cli.publish import SOURCE
from workers.cli.waiting import publish_confirmed
from workers.core.certificate import covers
from workers.core.model import Certificate, Fence, Server
from workers.edges.amqp.outgoing import OutgoingMessage
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection
from workers.edges.server.upkeep import Lineage, read_lineages
from workers.settings import Settings

_COLUMNS = (
    Column("LINEAGE"),
    Column("NAMES"),
    Column("EXPIRES", fixed=True),
    Column("AUTHENTICATOR"),
    Column("SITE"),
    Column("WHAT FOLLOWS"),
)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A lineage, and what becomes of it; attribute names are the keys of `--json`."""

    lineage: str
    names: list[str]
    expiry: datetime | None
    authenticator: str
    site_id: str | None
    adopted: bool
    why: str


def adopt(server: Server, config: Settings, *, as_json: bool) -> None:
    """List the server's lineages and take over what the sites table names.

    Raises:
        EdgeError: the server could not be asked.
        DatabaseError: the sites could not be read.
        BrokerError: a command could not be published.
    """
    with SshConnection.connect(
        server, key_files=config.ssh_private_key_file, known_hosts_file=config.ssh_known_hosts_file
    ) as connection:
        lineages = read_lineages(ServerAgent(connection, server, Fence(0)))
    with connect(config.database_url, "certpilot-server", autocommit=True) as conn:
        sites = operators.sites_on(conn, server.host)
    now = output.now()
    adoptions = [decide(lineage, sites, now) for lineage in lineages]
    for adoption in adoptions:
        if adoption.adopted:
            site = next(site for site in sites if site.site_id == adoption.site_id)
            publish_confirmed(config.rabbitmq_url, _command(site, server))
    if as_json:
        output.write_json_array(adoptions)
    else:
        output.write_table(_COLUMNS, [_row(adoption) for adoption in adoptions])


def decide(lineage: Lineage, sites: Sequence[SiteThere], now: datetime) -> Adoption:
    """Say what becomes of a lineage.

    Args:
        lineage: as found on the server.
        sites: those on it.
        now: real time, UTC.
    """
    certificate = lineage.certificate
    names = list(certificate.names) if certificate else []
    site = _whose(lineage.name, sites)
    if certificate is None:
        why = "its certificate cannot be read"
    elif site is None:
        why = _of_another_name(lineage.name, certificate, sites)
    elif site.removed:
        why = "its owner has had it removed: issue the site"
    elif site.ssl_status == "active":
        why = "it is the site's already"
    elif now >= certificate.not_after:
        why = "it has expired: issue the site"
    elif not covers(certificate, [site.domain, *site.aliases]):
        why = "it lacks names of the site: issue the site"
    else:
        why = "taken over"
    return Adoption(
        lineage=lineage.name,
        names=names,
        expiry=certificate.not_after if certificate else None,
        authenticator=lineage.authenticator,
        site_id=site.site_id if site else None,
        adopted=why == "taken over",
        why=why,
    )


def _whose(domain: str, sites: Sequence[SiteThere]) -> SiteThere | None:
    """The site of that domain; of several the one that has its certificate; one that was removed only where there is no other."""
    theirs = [site for site in sites if site.domain == domain]
    return min(theirs, key=lambda site: (site.ssl_status != "active", site.removed), default=None)


def _of_another_name(lineage: str, certificate: Certificate, sites: Sequence[SiteThere]) -> str:
    """Why a lineage that is no site's domain stays as it is.

    A site's lineage has its domain's name: by that name it is found again, renewed and deleted, and certbot renames none.
    """
    there = next((site for site in sites if covers(certificate, [site.domain, *site.aliases])), None)
    if there is None:
        return "no site on this server has it as its domain"
    return (
        f"it would do for site {there.site_id}, but is not named {there.domain}, and certbot renames none: issue the"
        f" site, then certbot delete --cert-name {lineage}"
    )


def _command(site: SiteThere, server: Server) -> OutgoingMessage:
    reference = ServerRef(
        server.host, server.port, server.username, server.host_key, tuple(server.public_addresses)
    )
    command = IssueSSL(site.site_id, site.domain, tuple(site.aliases), reference, by_or_self(None))
    command_id = str(uuid4())
    body = build_command(command, command_id=command_id, source=SOURCE, sent_at=output.now())
    return OutgoingMessage(
        COMMANDS_EXCHANGE, ISSUE_ROUTING_KEY, body, message_id=command_id, content_type=CONTENT_TYPE
    )


def _row(adoption: Adoption) -> list[str | output.Cell]:
    return [
        adoption.lineage,
        " ".join(adoption.names),
        output.day_of(adoption.expiry),
        adoption.authenticator,
        adoption.site_id or "",
        adoption.why,
    ]
