"""Fetching a challenge file as the CA would, from one given address; and following redirects through public names.

The rules are Let's Encrypt's (https://letsencrypt.org/docs/challenge-types/, boulder's va/http.go): port 80 first, up to 10
redirects with status 301, 302, 307 or 308 to http and https on their own ports, TLS not verified, then status 200 and exactly
the text. All fetches of a call run in one thread, each within the same deadline.
"""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from workers.core.nginx.challenge import CHALLENGE_FOLDER
from workers.core.preflight.observed import DnsStatus, Hop, Probe, ProbeError
from workers.edges.web.connecting import tcp_open
from workers.edges.web.dns import Resolver
from workers.edges.web.http_wire import Answer, Call, RequestFailedError, get

__all__ = ["ProbeRequest", "Prober", "tcp_open"]

MAX_REDIRECTS = 10
MAX_AT_ONCE = 128
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_FOLLOWED = 303
"""The Baseline Requirements (3.2.2.4.19) name the other four."""

_PORTS = MappingProxyType({80: 80, 443: 443})
_KEPT_HEADERS = ("server", "cf-ray", "cf-mitigated", "location", "content-type", "via")
_SAFE = "/%:=&?~#+!$,;'@()*[]-._"


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """One file to fetch from one address.

    Attributes:
        name: the host name.
        address: a published address of it; the first request, and redirects to the same name, go there.
        token: the file's name under `/.well-known/acme-challenge/`.
        expected: its text; None: no such file exists, only the way is of interest.
    """

    name: str
    address: str
    token: str
    expected: str | None


@dataclass(frozen=True, slots=True)
class _Errand:
    """One chain of requests: where it starts and what it is to bring."""

    name: str
    address: str
    path: str
    expected: str | None


class Prober:
    """Fetches. Usable from several threads at once."""

    def __init__(
        self, resolver: Resolver, *, ports: Mapping[int, int] = _PORTS, loopback_allowed: bool = False
    ) -> None:
        """Set up.

        Args:
            resolver: who resolves the hosts of redirects.
            ports: where ports 80 and 443 really are; others than these two only in tests.
            loopback_allowed: whether addresses of this machine may be asked. A customer's DNS or redirect must not make
                the worker ask its own host's services.
        """
        self._resolver = resolver
        self._ports = ports
        self._loopback_allowed = loopback_allowed

    def fetch(self, request: ProbeRequest, *, deadline_seconds: float = 2.5) -> Probe:
        """Fetch one file; see `fetch_all`."""
        return self.fetch_all([request], deadline_seconds=deadline_seconds)[0]

    def fetch_all(
        self, requests: Sequence[ProbeRequest], *, deadline_seconds: float = 2.5
    ) -> tuple[Probe, ...]:
        """Fetch many files at once.

        Args:
            requests: what to fetch from where.
            deadline_seconds: how long the whole may take. The CA waits longer (10 s), so what was merely slow is
                READ_TIMEOUT and proves nothing.

        Returns:
            What came of each, in their order. Never raises for what a peer does.
        """
        return asyncio.run(self._fetch_all(requests, deadline_seconds))

    def follow_public(self, names: Sequence[str], *, deadline_seconds: float = 5.0) -> tuple[Probe, ...]:
        """Ask for `http://NAME/` as a visitor would, redirects followed: does it go in a circle?

        Args:
            names: host names, resolved here.
            deadline_seconds: how long the whole may take.

        Returns:
            One probe for each name that has an address.
        """
        return asyncio.run(self._follow_public(names, deadline_seconds))

    def first_answers(self, urls: Sequence[str], *, deadline_seconds: float = 3.0) -> tuple[Probe, ...]:
        """Ask for each URL at the public address of its name; redirects are not followed.

        Args:
            urls: `http://…` or `https://…`, TLS not verified.
            deadline_seconds: how long the whole may take.

        Returns:
            One probe for each URL whose name has an address.
        """
        return asyncio.run(self._first_answers(urls, deadline_seconds))

    async def _first_answers(self, urls: Sequence[str], seconds: float) -> tuple[Probe, ...]:
        deadline = asyncio.get_running_loop().time() + seconds

        async def one(url: str) -> Probe | None:
            parts = urlsplit(url)
            errand = _Errand(parts.hostname or "", "", parts.path, None)
            address = await self._address_of(errand.name, deadline)
            if isinstance(address, ProbeError):
                return None
            errand = replace(errand, address=address)
            try:
                answer = await self._ask(parts, address, deadline)
            except RequestFailedError as failed:
                return _probe(errand, failed.error, [Hop(url, address)], None)
            return _probe(errand, None, [Hop(url, address, answer.status)], answer)

        return tuple(probe for probe in await asyncio.gather(*map(one, urls)) if probe)

    async def _fetch_all(self, requests: Sequence[ProbeRequest], seconds: float) -> tuple[Probe, ...]:
        deadline = asyncio.get_running_loop().time() + seconds
        turn = asyncio.Semaphore(MAX_AT_ONCE)

        async def one(request: ProbeRequest) -> Probe:
            async with turn:
                path = CHALLENGE_FOLDER + request.token
                errand = _Errand(request.name, request.address, path, request.expected)
                return await self._fetch(errand, deadline)

        return tuple(await asyncio.gather(*map(one, requests)))

    async def _follow_public(self, names: Sequence[str], seconds: float) -> tuple[Probe, ...]:
        deadline = asyncio.get_running_loop().time() + seconds

        async def one(name: str) -> Probe | None:
            address = await self._address_of(name, deadline)
            if isinstance(address, ProbeError):
                return None
            return await self._fetch(_Errand(name, address, "/", None), deadline)

        return tuple(probe for probe in await asyncio.gather(*map(one, names)) if probe)

    async def _fetch(self, errand: _Errand, deadline: float) -> Probe:
        url, asked = f"http://{errand.name}{errand.path}", errand.address
        hops: list[Hop] = []
        answer: Answer | None = None
        while True:
            try:
                answer = await self._ask(urlsplit(url), asked, deadline)
            except RequestFailedError as failed:
                return _probe(errand, failed.error, [*hops, Hop(url, asked)], answer)
            hops.append(Hop(url, asked, answer.status))
            target = _target(url, answer)
            if target is None:
                return _probe(errand, None, hops, answer)
            error = _refused_target(target, answer.status) or _endless(target, hops)
            if error is None:
                host = urlsplit(target).hostname or ""
                found = errand.address if host == errand.name else await self._address_of(host, deadline)
                if not isinstance(found, ProbeError):
                    url, asked = target, found
                    continue
                error = found
            return _probe(errand, error, [*hops, Hop(target, None)], answer)

    async def _ask(self, url: SplitResult, address: str, deadline: float) -> Answer:
        https = url.scheme == "https"
        port = url.port or (443 if https else 80)
        if not self._may_ask(address):
            raise RequestFailedError(ProbeError.NO_ROUTE)
        host = url.hostname or ""
        usual = port == (443 if https else 80)
        target = quote(url.path or "/", safe=_SAFE) + (
            f"?{quote(url.query, safe=_SAFE)}" if url.query else ""
        )
        call = Call(
            address, self._ports[port], host if https else None, host if usual else f"{host}:{port}", target
        )
        return await get(call, deadline)

    def _may_ask(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        inner = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped else ip
        if inner.is_loopback:
            return self._loopback_allowed
        return not (inner.is_link_local or inner.is_multicast or inner.is_unspecified)

    async def _address_of(self, host: str, deadline: float) -> str | ProbeError:
        """The address that Let's Encrypt would take: the first IPv6 one, else the first IPv4 one."""
        left = deadline - asyncio.get_running_loop().time()
        a, aaaa = await self._resolver.addresses(host, deadline_seconds=max(left, 0.0))
        if aaaa.values or a.values:
            return (aaaa.values + a.values)[0]
        return (
            ProbeError.READ_TIMEOUT
            if DnsStatus.NO_REPLY in {a.status, aaaa.status}
            else ProbeError.TARGET_DNS
        )


def _probe(errand: _Errand, error: ProbeError | None, hops: Sequence[Hop], answer: Answer | None) -> Probe:
    body = answer.body.decode("utf-8", "replace") if answer else ""
    headers = {key: answer.headers[key] for key in _KEPT_HEADERS if key in answer.headers} if answer else {}
    matches: bool | None = None
    if errand.expected is not None:
        found = error is None and answer is not None and answer.status == 200  # noqa: PLR2004 - HTTP's own word for yes
        matches = found and body.rstrip() == errand.expected
    return Probe(
        errand.name, errand.address, matches, error, tuple(hops), MappingProxyType(headers), body[:200]
    )


def _target(url: str, answer: Answer) -> str | None:
    """Where the answer sends the CA; None where it is final."""
    location = answer.headers.get("location")
    if answer.status not in _REDIRECTS or not location:
        return None
    try:
        parts = urlsplit(urljoin(url, location))
    except ValueError:
        return location
    return parts._replace(netloc=parts.netloc.lower(), fragment="").geturl()


def _refused_target(target: str, status: int) -> ProbeError | None:
    """Why the CA does not go where a redirect leads, or None."""
    try:
        parts = urlsplit(target)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ProbeError.BAD_TARGET
    if parts.scheme not in {"http", "https"}:
        return ProbeError.BAD_SCHEME
    if port not in {None, 80, 443}:
        return ProbeError.BAD_PORT
    # A redirect whose slash is missing runs the path into the host: https://example.org.well-known/…
    if status == _NOT_FOLLOWED or not host or host.endswith(".well-known"):
        return ProbeError.BAD_TARGET
    return ProbeError.IP_TARGET if _is_address(host) else None


def _endless(target: str, hops: Sequence[Hop]) -> ProbeError | None:
    if any(hop.url == target for hop in hops):
        return ProbeError.LOOP
    return ProbeError.TOO_MANY_REDIRECTS if len(hops) > MAX_REDIRECTS else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
