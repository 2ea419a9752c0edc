"""The values of the preflight: what was gathered, what one check said, what follows."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from contracts.codes import Code
from workers.core.model import Authenticator, Problem
from workers.core.nginx.challenge import ChallengeRoot
from workers.core.nginx.config import NginxConfig
from workers.core.preflight.cloudflare import is_cloudflare, served_by_cloudflare
from workers.core.preflight.observed import NameAnswer, Probe, TcpResult
from workers.core.preflight.server_facts import ServerFacts


class Verdict(StrEnum):
    """What a check came to. UNSURE never blocks (cert-manager #1292)."""

    PASS = "pass"  # noqa: S105 - a word, no secret
    FAIL = "fail"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check said.

    Attributes:
        check: its name.
        verdict: what it came to.
        code: of a failure.
        names: the host names at fault, where it is about names.
        message: what was found, where, and what to do.
    """

    check: str
    verdict: Verdict
    code: Code | None
    names: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that was gathered before an order.

    Attributes:
        names: every name of the certificate, the primary first.
        facts: what the server says of itself.
        nginx: its configuration.
        dns: what DNS says, by name.
        probes: what came of fetching a file from each published address of each name. Names without a directory for
            the file are asked as well, with no text expected.
        tcp80: connections to port 80, for addresses that were not probed.
        roots: where each name's challenge is served from, as far as a file could be put there.
        ssh_addresses: the addresses at which SSH reached the server.
        public_addresses: `server.publicAddresses` of the command.
        ca_identities: the CA's names in CAA records; None: not known.
        asked_at: the worker's real time before the server was asked for its clock.
        answered_at: and after.
    """

    names: tuple[str, ...]
    facts: ServerFacts
    nginx: NginxConfig
    dns: Mapping[str, NameAnswer]
    probes: tuple[Probe, ...] = ()
    tcp80: tuple[TcpResult, ...] = ()
    roots: Mapping[str, ChallengeRoot] = field(default_factory=lambda: MappingProxyType({}))
    ssh_addresses: tuple[str, ...] = ()
    public_addresses: tuple[str, ...] = ()
    ca_identities: tuple[str, ...] | None = None
    asked_at: datetime | None = None
    answered_at: datetime | None = None

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """Every address known to be the server's, public ones as told first; without loopback and link-local."""
        return own_addresses(self.public_addresses, self.ssh_addresses, self.facts.addresses)

    def probe(self, name: str, address: str) -> Probe | None:
        """The probe of this name at this address."""
        return next((p for p in self.probes if p.name == name and p.address == address), None)

    def is_proxied(self, name: str, address: str) -> bool:
        """Whether Cloudflare stands in front of this name at this address."""
        probe = self.probe(name, address)
        return is_cloudflare(address) or (probe is not None and served_by_cloudflare(probe.headers))


@dataclass(frozen=True, slots=True)
class Preflight:
    """What follows from all checks.

    Attributes:
        results: every check's result, in their order.
        blocking: the failure that the job waits on; None: go on. Further failures stand in its evidence.
        authenticator: WEBROOT only where each name's file was fetched from its own directory.
        webroots: for WEBROOT, the directory of each name, in the order of the names; else empty.
        proxied: names behind Cloudflare.
        redirect_now: whether the redirect to HTTPS may be put in by the same run (DESIGN B.5).
    """

    results: tuple[CheckResult, ...]
    blocking: Problem | None
    authenticator: Authenticator
    webroots: tuple[str, ...]
    proxied: tuple[str, ...]
    redirect_now: bool


Check = Callable[[Observations], CheckResult]


def own_addresses(*sources: Iterable[str]) -> tuple[str, ...]:
    """Put addresses of a server together, each once and in its shortest form."""
    found: dict[str, None] = {}
    for source in sources:
        for text in source:
            try:
                ip = ipaddress.ip_address(text.partition("%")[0])
            except ValueError:
                continue
            if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified):
                found[str(ip)] = None
    return tuple(found)
