"""The preflight from end to end with real parts: DNS, nginx, the probe over HTTP and HTTPS, and the judge."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.codes import Code
from tests.support.authority import Authority
from tests.support.dns_server import DnsServer, Zone
from tests.support.nginx import NGINX, Nginx
from tests.support.preflight import FACTS
from workers.core.model import Authenticator
from workers.core.nginx.challenge import challenge_root
from workers.core.nginx.config import parse_nginx_config
from workers.core.preflight.judge import Observations, Preflight, judge
from workers.edges.web.dns import Resolver
from workers.edges.web.http_probe import Prober, ProbeRequest

TOKEN = "certpilot-probe-of-the-chain"
SERVERS = """
server { listen 80; server_name a.test; root ROOT1; }
server { listen 80; server_name www.a.test; return 301 https://www.a.test$request_uri; }
server { listen 443 ssl; server_name www.a.test; root ROOT2; }
server { listen 80; server_name app.test; location / { proxy_pass http://127.0.0.1:9; } }
server { listen 80; server_name spa.test; root ROOT3; location ~ acme-challenge { rewrite ^ /index.html break; } }
"""


@pytest.fixture
def nginx(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    assert NGINX, "nginx is missing"
    tls = tmp_path_factory.mktemp("tls")
    pem = Authority(tls).leaf("self.signed.test").read_text()
    (tls / "key.pem").write_text(pem)
    (tls / "cert.pem").write_text(pem)
    nginx = Nginx(tmp_path, tls)
    nginx.write(SERVERS)
    with nginx.running():
        yield nginx


@pytest.fixture
def names() -> Iterator[DnsServer]:
    zone: Zone = {(f"{n}.test", "A"): ["127.0.0.1"] for n in ("a", "www.a", "app", "spa")}
    zone["a.test", "CAA"] = ['0 issue "letsencrypt.org"']
    zone["test", "TXT"] = ["x"]
    server = DnsServer(zone)
    yield server
    server.stop()


def preflight(nginx: Nginx, dns: DnsServer, *asked: str) -> Preflight:
    """What a runner does: read the configuration, place a file in each root, ask DNS, fetch, judge."""
    text = nginx.dump(SERVERS)
    config = parse_nginx_config(text)
    roots = {name: challenge_root(config, name) for name in asked}
    bodies = {name: f"{TOKEN}.{n}" for n, name in enumerate(asked) if roots[name].path}
    for name, body in bodies.items():
        (Path(roots[name].path or "") / ".well-known/acme-challenge" / TOKEN).write_text(body)
    resolver = Resolver([("127.0.0.1", dns.port)])
    answers = resolver.look_up(asked)
    requests = [ProbeRequest(n, a, TOKEN, bodies.get(n)) for n in asked for a in answers[n].addresses]
    prober = Prober(resolver, ports={80: nginx.http, 443: nginx.https}, loopback_allowed=True)
    now = datetime.now(UTC)
    return judge(
        Observations(
            names=asked,
            facts=replace(FACTS, addresses=(), nginx_config=text, epoch_ms=int(now.timestamp() * 1000)),
            nginx=config,
            dns=answers,
            probes=prober.fetch_all(requests),
            roots=roots,
            ca_identities=("letsencrypt.org",),
            asked_at=now,
            answered_at=now,
        )
    )


def test_names_with_roots_of_their_own_are_proven_for_webroot_also_over_https(
    nginx: Nginx, names: DnsServer
) -> None:
    found = preflight(nginx, names, "a.test", "www.a.test")
    assert found.blocking is None
    assert found.authenticator is Authenticator.WEBROOT
    assert found.webroots == (f"{nginx.folder}/r1", f"{nginx.folder}/r2")


def test_a_proxying_name_puts_the_run_on_the_nginx_plugin(nginx: Nginx, names: DnsServer) -> None:
    found = preflight(nginx, names, "a.test", "app.test")
    assert (found.blocking, found.authenticator) == (None, Authenticator.NGINX)


def test_a_rewrite_in_front_of_the_file_puts_the_run_on_the_nginx_plugin(
    nginx: Nginx, names: DnsServer
) -> None:
    found = preflight(nginx, names, "spa.test")
    assert (found.blocking, found.authenticator) == (None, Authenticator.NGINX)


def test_an_alias_that_does_not_resolve_is_named(nginx: Nginx, names: DnsServer) -> None:
    del names.zone["www.a.test", "A"]
    found = preflight(nginx, names, "a.test", "www.a.test")
    assert found.blocking
    assert (found.blocking.code, found.blocking.names) == (Code.DNS_NOT_RESOLVING, ("www.a.test",))


def test_silent_dns_ends_within_its_deadline_and_blocks_nothing(nginx: Nginx, names: DnsServer) -> None:
    names.silent = True
    start = time.monotonic()
    found = preflight(nginx, names, "a.test")
    assert time.monotonic() - start < 5
    assert (found.blocking, found.authenticator) == (None, Authenticator.NGINX)
