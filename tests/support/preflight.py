"""A server and a name where all is well, to be changed by the tests of the preflight."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from workers.core.nginx.challenge import ChallengeRoot, RootReason
from workers.core.nginx.config import parse_nginx_config
from workers.core.preflight.judge import CheckResult, Observations, Verdict, judge
from workers.core.preflight.observed import (
    CaaAnswer,
    DnsAnswer,
    DnsStatus,
    Hop,
    NameAnswer,
    Probe,
    ProbeError,
)
from workers.core.preflight.server_facts import Lineage, Part, ServerFacts

OWN, OWN6, ELSEWHERE, CLOUDFLARE = "192.0.2.7", "2001:db8::7", "192.0.2.99", "104.16.1.1"
NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
NODATA = DnsAnswer(DnsStatus.NODATA)
CONFIG = """http { server { listen 80; server_name shop.example www.shop.example; root /srv/shop; }
server { listen 80; server_name app.example; location / { proxy_pass http://127.0.0.1:3000; } } }"""
NO_LINEAGE = Lineage(Part.NO, Part.NO, Part.NO)
FACTS = ServerFacts(
    complete=True,
    user_id=0,
    epoch_ms=int(NOW.timestamp() * 1000),
    certbot_path="/usr/bin/certbot",
    certbot_version="2.1.0",
    certbot_plugins=("nginx",),
    nginx_path="/usr/sbin/nginx",
    nginx_version="1.22.1",
    nginx_running=True,
    nginx_test_exit=0,
    nginx_config=CONFIG,
    disk_free_kb=MappingProxyType({"etc": 900_000, "var": 800_000}),
    inode_free=MappingProxyType({"etc": 1000}),
    memory_available_kb=900_000,
    lineages=MappingProxyType(dict.fromkeys(("shop.example", "app.example"), NO_LINEAGE)),
    port80_listeners=("nginx",),
    addresses=(OWN, OWN6, "127.0.0.1", "fe80::1%eth0"),
)
SHOP = ChallengeRoot("/srv/shop", RootReason.FOUND)


def dns(a: Any = (OWN,), aaaa: Any = (), caa: CaaAnswer | None = None) -> NameAnswer:
    def answer(values: Any) -> DnsAnswer:
        if isinstance(values, DnsStatus):
            return DnsAnswer(values)
        return DnsAnswer(DnsStatus.ANSWER, tuple(values)) if values else NODATA

    return NameAnswer(answer(a), answer(aaaa), caa or CaaAnswer(DnsStatus.NODATA))


def probe(
    name: str = "shop.example",
    address: str = OWN,
    *,
    error: ProbeError | None = None,
    status: int = 200,
    matches: bool | None = None,
    to: str | None = None,
    body: str = "",
    headers: Mapping[str, str] | None = None,
) -> Probe:
    """A probe that expected a text; `to` is where it was redirected before it ended."""
    first = Hop(
        f"http://{name}/.well-known/acme-challenge/T", address, 301 if to else None if error else status
    )
    hops = (first, Hop(to, address, None if error else status)) if to else (first,)
    return Probe(
        name,
        address,
        matches if matches is not None else False,
        error,
        hops,
        MappingProxyType(dict(headers or {})),
        body,
    )


def served(name: str = "shop.example", address: str = OWN) -> Probe:
    return probe(name, address, matches=True)


def without_file(found: Probe) -> Probe:
    return replace(found, matches=None)


def good(**changes: Any) -> Observations:
    """A server and a name where all is well, with what the test changes."""
    facts = {key: changes.pop(key) for key in list(changes) if key in ServerFacts.__dataclass_fields__}
    base = Observations(
        names=("shop.example",),
        facts=replace(FACTS, **facts),
        nginx=parse_nginx_config(facts.get("nginx_config", CONFIG)),
        dns={"shop.example": dns()},
        probes=(served(),),
        roots={"shop.example": SHOP},
        ca_identities=("letsencrypt.org",),
        asked_at=NOW - timedelta(milliseconds=200),
        answered_at=NOW + timedelta(milliseconds=200),
    )
    return replace(base, **changes)


def failing(o: Observations) -> CheckResult:
    """The one check that fails."""
    (result,) = [r for r in judge(o).results if r.verdict is Verdict.FAIL]
    return result


def unsure(o: Observations) -> list[str]:
    assert judge(o).blocking is None
    return [r.message for r in judge(o).results if r.verdict is Verdict.UNSURE]


APP = {
    "names": ("app.example",),
    "dns": {"app.example": dns()},
    "roots": {"app.example": ChallengeRoot(None, RootReason.PROXIED)},
}
