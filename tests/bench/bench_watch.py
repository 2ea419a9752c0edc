"""How many sites the watch looks at in a second, while some of their servers are off.

Real handshakes with nginx on two servers of the lab. The other servers of the fleet are addresses where nobody is, each
with the sites of one server: what they cost is waiting, for the handshake and, being in doubt, for SSH.
"""

import time
from datetime import timedelta

from db.pool import open_pool
from deploy.lab.server import CustomerServer
from tests.bench.parts import certpilot_in_a_lab, open_plain
from tests.bench.rows import Row
from tests.support.authority import Authority
from tests.support.installation import Installation
from workers.core.certificate import certificate_from_pem
from workers.core.lifetime.watch import looks_per_day
from workers.core.model import Certificate
from workers.watch.aside import Aside
from workers.watch.watch import Watch

SITES, SITES_OF_A_SERVER, OFF_SHARE = 3_000, 10, 0.02
FLEET = 1_000_000
LIFETIME = timedelta(days=45)
NAME = "watched.example.com"

_VHOST = """
server {{
    listen 443 ssl default_server;
    server_name *.{name};
    ssl_certificate /etc/nginx/watched.pem;
    ssl_certificate_key /etc/nginx/watched.pem;
}}
"""
_SITES = """
insert into site (site_id, domain, server_host, server_port, server_username, ssl_status, ssl_expiry, certificate_serial,
                  certificate_names, certificate_issuer, certificate_not_before, certificate_server_key, ever_issued,
                  looks_wrong, next_check_at)
select 'site_' || n, n || '.' || %(name)s, host, 22, 'root', 'active', %(not_after)s, %(serial)s,
       array[n || '.' || %(name)s], %(issuer)s, %(not_before)s, 'server:' || host || ':22', true,
       case when host = any(%(off)s) then 1 else 0 end, now()
from generate_series(1, %(sites)s) n
cross join lateral (select (%(hosts)s::text[])[1 + n / %(of_server)s %% cardinality(%(hosts)s::text[])] as host) as of_site
"""


def run() -> list[Row]:
    with certpilot_in_a_lab(servers=2) as installation:
        folder = installation.lab.directory / "watched"
        folder.mkdir()
        authority = Authority(folder)
        pem = authority.leaf(f"*.{NAME}", days=80).read_text()
        for server in installation.lab.servers:
            _serve(server, pem)
        off = _fill(installation, certificate_from_pem(pem.encode()))
        settings = installation.settings(tls_ca_file=authority.file)
        with open_pool(installation.database_url, "watch", max_size=4) as db_pool, Aside() as aside:
            watch = Watch(db_pool, settings)
            began, cpu = time.perf_counter(), time.process_time()
            while watch.round(aside):
                pass
            aside.wait()
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        counted = "select count(*) filter (where looks_wrong = 0), count(*) from site where next_check_at > now() + interval '5 minutes'"
        with open_plain(installation.database_url) as conn:
            as_known, looked_at = conn.execute(counted).fetchone() or (0, 0)
        assert (as_known, looked_at) == (SITES - off, SITES), (as_known, looked_at)
    needed = FLEET * looks_per_day(LIFETIME) / 86_400
    return [
        Row(
            f"watch, {SITES:,} sites of which {off} on servers that are off: looks per second",
            f"{SITES / seconds:.0f}  ({cpu / SITES * 1000:.1f} ms of one core each)",
            f"≥ {needed:.0f} (a million sites of {LIFETIME.days} days)",
            SITES / seconds >= needed,
        )
    ]


def _serve(server: CustomerServer, pem: str) -> None:
    server.write("/etc/nginx/watched.pem", pem, mode=0o600)
    server.add_site(NAME, vhost=_VHOST.format(name=NAME))


def _fill(installation: Installation, certificate: Certificate) -> int:
    """All sites, due now; how many are on servers that are off."""
    servers = SITES // SITES_OF_A_SERVER
    nobody = [installation.lab.network.address(200 + n) for n in range(round(servers * OFF_SHARE))]
    hosts = [*nobody, *(installation.lab.servers[n % 2].host for n in range(servers - len(nobody)))]
    values = {
        "name": NAME, "not_after": certificate.not_after, "not_before": certificate.not_before,
        "serial": certificate.serial, "issuer": certificate.issuer, "off": nobody, "sites": SITES, "hosts": hosts,
        "of_server": SITES_OF_A_SERVER,
    }  # fmt: skip
    with open_plain(installation.database_url) as conn:
        conn.execute(_SITES, values)
        row = conn.execute("select count(*) from site where looks_wrong > 0").fetchone()
    assert row is not None
    return int(str(row[0]))
