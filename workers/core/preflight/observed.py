"""What the edges saw, as values: look-ups, probes, connections, handshakes. A failure is a value like any other.

The edges make these, the checks of `workers.core.preflight.judge` read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from workers.core.model import Certificate


class DnsStatus(StrEnum):
    """How a look-up ended."""

    ANSWER = "answer"
    NODATA = "nodata"  # the name exists, but has no record of this type
    NXDOMAIN = "nxdomain"
    SERVFAIL = (
        "servfail"  # a resolver answered that it cannot (also REFUSED, a broken answer, an endless CNAME)
    )
    NO_REPLY = "no_reply"  # no resolver answered in time: says nothing about the name


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """The answer to one question for addresses.

    Attributes:
        status: how it ended.
        values: the addresses, in their shortest form; empty unless ANSWER.
    """

    status: DnsStatus
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CaaRecord:
    """One CAA record (RFC 8659 section 4.1).

    Attributes:
        flags: 0 to 255; bit 128 means critical.
        tag: lower-case.
        value: as it stands in the record.
    """

    flags: int
    tag: str
    value: str


@dataclass(frozen=True, slots=True)
class CaaAnswer:
    """The CAA records that count for a name: those of the closest name upwards that has any (RFC 8659 section 3).

    Attributes:
        status: ANSWER with records; NODATA where no name up to the top has any; else the first failure on the way.
        found_at: the name whose records they are, or whose look-up failed.
        records: the records; empty unless ANSWER.
    """

    status: DnsStatus
    found_at: str | None = None
    records: tuple[CaaRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class NameAnswer:
    """Everything that DNS said of one name."""

    a: DnsAnswer
    aaaa: DnsAnswer
    caa: CaaAnswer

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every published address, IPv6 first, as Let's Encrypt prefers it."""
        return self.aaaa.values + self.a.values


class ConnectError(StrEnum):
    """Why there was no connection."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    RESET = "reset"
    HOST_UNREACHABLE = "host_unreachable"  # somebody on the way said so, often a firewall
    NO_ROUTE = "no_route"  # this machine itself has no way there, e.g. no IPv6 at all


class ProbeError(StrEnum):
    """Why a challenge file could not be fetched; the names of Let's Encrypt's own errors (FACTS-certbot 3.3)."""

    REFUSED = "refused"
    CONNECT_TIMEOUT = "connect_timeout"
    READ_TIMEOUT = "read_timeout"
    RESET = "reset"
    HOST_UNREACHABLE = "host_unreachable"
    NO_ROUTE = "no_route"
    TLS = "tls"
    HTTP2 = "http2"  # HTTP/2 spoken on a port without TLS
    BAD_RESPONSE = "bad_response"  # not HTTP
    LOOP = "loop"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    BAD_PORT = "bad_port"  # a redirect to a port other than 80 and 443
    BAD_SCHEME = "bad_scheme"
    BAD_TARGET = "bad_target"  # a redirect to nowhere: no host, `.well-known` run into the host, 303
    IP_TARGET = "ip_target"
    TARGET_DNS = "target_dns"  # the host of a redirect does not resolve


PROBE_ERRORS: Mapping[ConnectError, ProbeError] = MappingProxyType(
    {
        ConnectError.REFUSED: ProbeError.REFUSED,
        ConnectError.TIMEOUT: ProbeError.CONNECT_TIMEOUT,
        ConnectError.RESET: ProbeError.RESET,
        ConnectError.HOST_UNREACHABLE: ProbeError.HOST_UNREACHABLE,
        ConnectError.NO_ROUTE: ProbeError.NO_ROUTE,
    }
)
"""What a failed connection means for a probe."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a probe.

    Attributes:
        url: what was asked for.
        address: the address that was asked; None where none was found.
        status: the HTTP status; None where there was no answer.
    """

    url: str
    address: str | None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of fetching a challenge file of one name from one published address.

    Attributes:
        name: the name.
        address: the published address that was asked first.
        matches: whether the answer was status 200 with exactly the expected text; None where no text was expected.
        error: why there was no final answer; None where there was one.
        hops: every request, redirects included.
        headers: of the last answer, lower-case names.
        body_start: the beginning of the last answer's body.
    """

    name: str
    address: str
    matches: bool | None
    error: ProbeError | None
    hops: tuple[Hop, ...]
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body_start: str = ""

    @property
    def status(self) -> int | None:
        """The status of the last answer."""
        return self.hops[-1].status if self.hops else None

    @property
    def url(self) -> str:
        """What the last request asked for."""
        return self.hops[-1].url if self.hops else f"http://{self.name}/"


@dataclass(frozen=True, slots=True)
class TcpResult:
    """Whether a TCP connection could be made.

    Attributes:
        address: the address.
        port: the port.
        error: None where it could.
    """

    address: str
    port: int
    error: ConnectError | None


class HandshakeError(StrEnum):
    """Why there was no TLS handshake."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    RESET = "reset"
    HOST_UNREACHABLE = "host_unreachable"
    NO_ROUTE = "no_route"
    NOT_TLS = "not_tls"  # something else answers on the port, e.g. plain HTTP
    REFUSED_BY_SERVER = "refused_by_server"  # a TLS alert, e.g. the name is not known there
    UNREADABLE = "unreadable"  # a certificate that cannot be parsed


@dataclass(frozen=True, slots=True)
class Handshake:
    """What one address shows for one name on port 443.

    Attributes:
        address: the address.
        port: the port.
        server_name: the name asked for (SNI).
        certificate: the leaf that was shown, trusted or not; None where there was none.
        verified: whether it is valid for the name, by the system's roots and the extra ones.
        verify_error: why it is not, in OpenSSL's words; None where it is, or nothing was shown.
        error: why there was no handshake; None where there was one.
    """

    address: str
    port: int
    server_name: str
    certificate: Certificate | None = None
    verified: bool = False
    verify_error: str | None = None
    error: HandshakeError | None = None
