"""The watch: looks at what every active site really serves, and tells what it finds.

A look is a handshake with SNI for each name, to the site's server and never through a proxy; while the renewal window is
open, and at one of seven before it, also where public DNS leads. Only what is not as known costs more than that: a second look soon after, then one at
the server's disk by SSH, read only and without a lease. What may take long runs beside the looks, which go on.
"""

import random
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

from db import pool, watch
from db.pool import DatabaseError, Pool, transaction
from db.watch import WatchedSite
from workers import logs, metrics
from workers.core.lifetime.public_view import is_public
from workers.core.lifetime.risk import SEEN_BY_SSH
from workers.core.lifetime.watch import Sight, sight_of
from workers.core.model import Certificate
from workers.core.preflight.observed import Handshake
from workers.edges.web.dns import Resolver
from workers.edges.web.tls import Target, handshake_all
from workers.runner.wire import HTTPS_PORT, address_of, is_closed_to_us
from workers.settings import Settings
from workers.watch import findings, public_dns
from workers.watch.aside import Aside
from workers.watch.disk import DiskLook

log = logs.get(__name__)

BATCH = 200
_POLL_SECONDS = 1.0
_HOLD_SECONDS = 110.0
"""After that another process looks at what this one has taken: longer than asking a server by SSH that is off."""

_HANDSHAKE_SECONDS = 4.0
_RESOLVE_AT_ONCE = 32
_IN_DNS_AT_ONCE = 50
_TROUBLE_PAUSE_SECONDS = 5.0


class Watch:
    """Looks, until `stop` is set."""

    def __init__(self, db_pool: Pool, config: Settings) -> None:
        self._pool = db_pool
        self._config = config
        self._ca_file = config.tls_ca_file
        self._directory_url = config.acme_directory_url
        self._disk = DiskLook(db_pool, config)
        self._resolver = Resolver(
            None if config.dns_servers is None else [(one.host, one.port) for one in config.dns_servers]
        )

    def run(self, stop: threading.Event) -> None:
        """Look at what is due; trouble with the database is waited out."""
        with Aside() as aside:
            while not stop.wait(_POLL_SECONDS):
                try:
                    while self.round(aside) == BATCH and not stop.is_set():
                        pass
                except DatabaseError as error:
                    log.warning("watch.trouble", error=str(error).strip())
                    stop.wait(_TROUBLE_PAUSE_SECONDS)
                except Exception:
                    # What one look meets must not end all others; it is due again after its hold.
                    log.exception("watch.internal_error")
                    stop.wait(_TROUBLE_PAUSE_SECONDS)

    def round(self, aside: Aside) -> int:
        """Look at the sites that are due, at most `BATCH`; how many. What takes long is left to `aside`."""
        with transaction(self._pool) as conn:
            due = watch.claim_looks(conn, BATCH, _HOLD_SECONDS)
            now, real_now = pool.now(conn), pool.real_now(conn)
        if not due:
            return 0
        shown = self._shown(due)
        sights = {
            site.site_id: sight_of(site.certificate, site.names, shown[site.site_id], real_now)
            for site in due
        }
        for site in due:
            metrics.LOOKS.labels(sights[site.site_id].name.lower()).inc()
        well = [site for site in due if sights[site.site_id] is Sight.AS_KNOWN]
        findings.as_known(self._pool, well, now)
        self._look_at_disks(due, sights, shown, now, aside)
        public = [
            site for site in due if is_public(site.certificate, site.at_risk_code, now, random.random())
        ]
        for first in range(0, len(public), _IN_DNS_AT_ONCE):
            part = public[first : first + _IN_DNS_AT_ONCE]
            aside.submit(partial(public_dns.look, self._pool, self._resolver, self._config, part))
        for site in due:
            if sights[site.site_id] is Sight.RENEWED:
                findings.renewed(self._pool, self._directory_url, site, _first(shown[site.site_id]))
        return len(due)

    def _shown(self, due: Sequence[WatchedSite]) -> dict[str, list[Handshake]]:
        hosts = list({site.server.host for site in due})
        with ThreadPoolExecutor(min(_RESOLVE_AT_ONCE, len(hosts)), thread_name_prefix="resolve") as workers:
            # A host that does not resolve is asked by its name, which then fails.
            addresses = {
                host: address or host
                for host, address in zip(hosts, workers.map(address_of, hosts), strict=True)
            }
        targets = [
            Target(addresses[site.server.host], HTTPS_PORT, name) for site in due for name in site.names
        ]
        shakes = iter(handshake_all(targets, ca_file=self._ca_file, timeout_seconds=_HANDSHAKE_SECONDS))
        return {site.site_id: [next(shakes) for _ in site.names] for site in due}

    def _look_at_disks(
        self,
        due: Sequence[WatchedSite],
        sights: Mapping[str, Sight],
        shown: Mapping[str, Sequence[Handshake]],
        now: datetime,
        aside: Aside,
    ) -> None:
        """A first wrong look is looked at again, at the second the server is asked; one connection for all its sites.

        Asked at once: where the way is closed to us, what the server itself shows; and a server that is said not to let
        us in, although its site is served.
        """
        of_server: defaultdict[str, list[tuple[WatchedSite, Sequence[Handshake] | None]]] = defaultdict(list)
        for site in due:
            match sights[site.site_id]:
                case Sight.WRONG if site.looks_wrong == 0 and not any(
                    map(is_closed_to_us, shown[site.site_id])
                ):
                    findings.count_wrong(self._pool, site, now, gone=False)
                case Sight.WRONG:
                    of_server[site.server.key].append((site, shown[site.site_id]))
                case Sight.AS_KNOWN if site.at_risk_code in SEEN_BY_SSH:
                    of_server[site.server.key].append((site, None))
                case _:
                    pass
        for looks in of_server.values():
            aside.submit(partial(self._disk.look, looks, now))


def _first(shakes: Sequence[Handshake]) -> Certificate:
    certificate = shakes[0].certificate
    assert certificate is not None  # a renewal was seen
    return certificate
