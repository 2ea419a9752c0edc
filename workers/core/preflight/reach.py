"""What stands between the CA and one published address of one name.

The fetched probe file decides. An address that differs from the server's own only explains a probe that failed:
behind NAT or with a floating address a good site differs as well (DESIGN B.6).
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from contracts.codes import Code
from workers.core.preflight.cloudflare import BAD_ORIGIN_CERTIFICATE, ORIGIN_DOWN
from workers.core.preflight.model import Observations, Verdict
from workers.core.preflight.observed import PROBE_ERRORS, Probe, ProbeError

_START_NGINX = "Start it (systemctl start nginx) and see that it starts with the server"
_OPEN_80 = "Open port 80 for everyone in the server's firewall and at its provider"
_OPEN_443 = "Open port 443, or remove the redirect until the certificate is there"
_SERVE_FILES = "Let /.well-known/acme-challenge/ be served as plain files, without login, rewrite or application in front"
_FIX_LOOP = "Remove the redirect that leads back to itself; look at the web server and the application"
_FULL = (
    "In Cloudflare set SSL/TLS to Full (not Flexible), or the name to DNS only until the certificate is there"
)
_NOT_STRICT = "In Cloudflare set SSL/TLS to Full, or the name to DNS only, until the certificate is there; then set Full (strict)"
_LET_CLOUDFLARE_IN = "Let Cloudflare's addresses through the firewall and see that nginx answers on the port that Cloudflare uses"
_LET_BOTS_IN = "See in Cloudflare that the record holds the server's address and that no rule or bot check stops /.well-known/acme-challenge/"

_CONNECTING = {
    ProbeError.REFUSED: "refused the connection",
    ProbeError.CONNECT_TIMEOUT: "did not answer in time (likely a firewall)",
    ProbeError.RESET: "reset the connection",
    ProbeError.HOST_UNREACHABLE: "cannot be reached (host unreachable, likely a firewall)",
}
_LOOPING = frozenset({ProbeError.LOOP, ProbeError.TOO_MANY_REDIRECTS})
_BAD_ANSWERS = {
    ProbeError.HTTP2: "speaks HTTP/2 without TLS",
    ProbeError.BAD_RESPONSE: "answers with something that is not HTTP",
    ProbeError.BAD_PORT: "redirects to a port other than 80 and 443",
    ProbeError.BAD_SCHEME: "redirects to something that is neither http nor https",
    ProbeError.BAD_TARGET: "sends a redirect that the CA does not follow",
    ProbeError.TARGET_DNS: "redirects to a name that does not resolve",
    ProbeError.TLS: "redirects to HTTPS, which does not answer with TLS",
}


@dataclass(frozen=True, slots=True)
class Reach:
    """What one address came to.

    Attributes:
        name: the host name.
        address: the published address.
        verdict: PASS, FAIL or UNSURE.
        code: of a failure.
        found: what was found and where, as a clause.
        do: what to do, as a clause.
    """

    name: str
    address: str
    verdict: Verdict
    code: Code | None = None
    found: str = ""
    do: str = ""


@dataclass(frozen=True, slots=True)
class _Case:
    """One address of one name, with what was seen there."""

    o: Observations
    name: str
    address: str
    probe: Probe | None
    error: ProbeError | None

    @property
    def over_https(self) -> bool:
        return self.probe is not None and self.probe.url.startswith("https:")

    @property
    def redirected(self) -> bool:
        return self.probe is not None and len(self.probe.hops) > 1

    def passed(self, found: str) -> Reach:
        return Reach(self.name, self.address, Verdict.PASS, found=f"{self.name}: {found}")

    def unsure(self, found: str) -> Reach:
        return Reach(self.name, self.address, Verdict.UNSURE, found=f"{self.name}: {self.address} {found}")

    def failed(self, code: Code, found: str, do: str) -> Reach:
        return Reach(self.name, self.address, Verdict.FAIL, code, f"{self.name}: {found}", do)


def judge_addresses(o: Observations) -> tuple[Reach, ...]:
    """Judge every published address of every name."""
    return tuple(_judge(o, name, a) for name in o.names if name in o.dns for a in o.dns[name].addresses)


def _judge(o: Observations, name: str, address: str) -> Reach:
    probe = o.probe(name, address)
    case = _Case(o, name, address, probe, probe.error if probe else _tcp_error(o, address))
    return next(reach for rule in _RULES if (reach := rule(case)))


def _tcp_error(o: Observations, address: str) -> ProbeError | None:
    tried = next((t for t in o.tcp80 if t.address == address), None)
    if tried is None:
        return ProbeError.READ_TIMEOUT  # nobody asked: nothing can be told
    return None if tried.error is None else PROBE_ERRORS[tried.error]


def _served(case: _Case) -> Reach | None:
    served = case.probe is not None and case.probe.matches
    return case.passed(f"{case.address} served the test file") if served else None


def _no_way_there(case: _Case) -> Reach | None:
    """The worker has no way to this kind of address, the CA has: only a comparison is left.

    A worker without IPv6 is told so by its own kernel or by the next router.
    """
    by_router = case.error is ProbeError.HOST_UNREACHABLE and ":" in case.address
    if case.error is not ProbeError.NO_ROUTE and not by_router:
        return None
    own = case.o.own_addresses
    if case.redirected or not own or case.address in own or case.o.is_proxied(case.name, case.address):
        return case.unsure(
            "leads to where this worker has no way" if case.redirected else "cannot be reached from here"
        )
    return _wrong_server(case)


def _too_slow(case: _Case) -> Reach | None:
    if case.error is ProbeError.IP_TARGET:
        return case.unsure("redirects to an address instead of a name")
    return case.unsure("was too slow to tell") if case.error is ProbeError.READ_TIMEOUT else None


def _origin_refused(case: _Case) -> Reach | None:
    """Cloudflare answers in place of the server behind it; also where no file was asked for, since the CA sees the same."""
    if case.probe is None or not case.o.is_proxied(case.name, case.address):
        return None
    status = case.probe.status
    if status in BAD_ORIGIN_CERTIFICATE:
        found = f"Cloudflare answers {status}: it wants HTTPS with a valid certificate from the server, which has none yet"
        return case.failed(Code.CLOUDFLARE_STRICT_ORIGIN, found, _NOT_STRICT)
    if status in ORIGIN_DOWN:
        found = f"Cloudflare answers {status}: it gets no answer from the server"
        return case.failed(Code.CLOUDFLARE_ORIGIN_DOWN, found, _LET_CLOUDFLARE_IN)
    return None


def _proxied(case: _Case) -> Reach | None:
    if not case.o.is_proxied(case.name, case.address):
        return None
    probe = case.probe
    if probe is None or case.error in _CONNECTING:
        return case.unsure("is Cloudflare's and did not answer")
    if probe.matches is None:
        return case.passed(f"Cloudflare answers at {case.address}")
    if case.error in _LOOPING:
        found = f"the redirect to HTTPS goes in a circle through Cloudflare ({probe.url})"
        return case.failed(Code.CLOUDFLARE_FLEXIBLE_LOOP, found, _FULL)
    return case.failed(Code.CHALLENGE_FAILED, _other_answer(probe, case.address), _LET_BOTS_IN)


def _elsewhere(case: _Case) -> Reach | None:
    """Another address than the server's. Where no file could be fetched at all, the comparison has to do."""
    own = case.o.own_addresses
    if not own or case.address in own:
        return None
    fetched = case.probe is not None and case.probe.matches is not None
    if fetched or case.error is not None or _comparable(own, case.address):
        return _wrong_server(case)
    return case.unsure("answers on port 80, but is not known to be this server's")


def _wrong_server(case: _Case) -> Reach:
    own, address = case.o.own_addresses, case.address
    kind = "AAAA" if ":" in address else "A"
    same_kind = [a for a in own if (":" in a) == (":" in address)]
    found = f"its {kind} record points to {address}, which is not this server ({', '.join(own[:4])})"
    if not same_kind:
        do = f"Remove the {kind} record, since this server has no such address, or name it in publicAddresses if it has"
    elif _comparable(own, address):
        do = f"Change the {kind} record to {same_kind[0]}, or leave the name out of the request"
    else:
        do = "Point it to the server's public address; if it is that already, open port 80 there and name it in publicAddresses"
    return case.failed(Code.DNS_WRONG_SERVER, found, do)


def _comparable(own: tuple[str, ...], address: str) -> bool:
    """Whether an address of this kind is known of the server: behind NAT it knows its private ones alone."""
    ip = ipaddress.ip_address(address)
    return any(
        o.version == ip.version and o.is_private == ip.is_private for o in map(ipaddress.ip_address, own)
    )


def _port_80(case: _Case) -> Reach | None:
    if case.error not in _CONNECTING or case.redirected:
        return None
    found, do = f"port 80 of {case.address} {_CONNECTING[case.error]}", _OPEN_80
    if case.error is ProbeError.REFUSED and case.o.facts.nginx_running is False:
        found, do = f"{found}: nginx is installed on the server, but is not running", _START_NGINX
    elif case.error is ProbeError.REFUSED and case.o.facts.port80_listeners == ():
        found, do = f"{found}: no program listens on it", "Let nginx listen on port 80"
    return case.failed(Code.PORT_80_BLOCKED, found, do)


def _answers_without_file(case: _Case) -> Reach | None:
    """No file is there to be fetched: certbot's nginx authenticator answers the CA's first request by itself."""
    asked_for_file = case.probe is not None and case.probe.matches is not None
    if asked_for_file or (case.error is not None and not case.redirected):
        return None
    return case.passed(f"port 80 of {case.address} answers")


def _port_443(case: _Case) -> Reach | None:
    if (
        case.probe is None
        or not case.over_https
        or (case.error not in _CONNECTING and case.error is not ProbeError.TLS)
    ):
        return None
    host = urlsplit(case.probe.url).hostname or case.name
    what = _CONNECTING.get(case.error, "does not answer with TLS")
    found = (
        f"port 80 redirects to https://{host}, but port 443 of {case.probe.hops[-1].address or host} {what}"
    )
    return case.failed(Code.PORT_443_BLOCKED, found, _OPEN_443)


def _loops(case: _Case) -> Reach | None:
    if case.probe is None or case.error not in _LOOPING:
        return None
    return case.failed(Code.REDIRECT_LOOP, f"it redirects in a circle ({case.probe.url})", _FIX_LOOP)


def _answers_otherwise(case: _Case) -> Reach:
    if case.probe is None:
        return case.unsure("was not asked")
    return case.failed(Code.CHALLENGE_FAILED, _other_answer(case.probe, case.address), _SERVE_FILES)


def _other_answer(probe: Probe, address: str) -> str:
    if probe.error is not None:
        what = _BAD_ANSWERS.get(probe.error) or _CONNECTING.get(probe.error, "gave no answer")
        return f"{address} {what} ({probe.url})"
    last = probe.hops[-1].address or address
    if probe.status != 200:  # noqa: PLR2004 - HTTP's own word for yes
        return f"{probe.url} at {last} answered {probe.status} instead of the test file"
    # What other hosts say is not shown: a redirect may lead into the worker's own network.
    start = f" (“{' '.join(probe.body_start.split())[:60]}”)" if last == address else ""
    return f"{probe.url} at {last} answered with another text than the test file's{start}"


_RULES: tuple[Callable[[_Case], Reach | None], ...] = (
    _served,
    _no_way_there,
    _too_slow,
    _origin_refused,
    _proxied,
    _elsewhere,
    _port_80,
    _answers_without_file,
    _port_443,
    _loops,
    _answers_otherwise,
)
"""The first that has something to say decides; the last always has."""
