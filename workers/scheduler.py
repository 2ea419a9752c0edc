"""Role scheduler: what has to happen because time passed. Any number of them may run; rows are taken SKIP LOCKED."""

import threading
from collections.abc import Callable

from db import ca_memory, jobs, limits, outbox, sites
from db.jobs import Offer
from db.pool import Connection, DatabaseError, Pool, transaction
from workers import announce, logs, metrics, own_renewals, risks
from workers.announce import About
from workers.core.model import SslStatus
from workers.dispatch import REOFFER_SECONDS, offer

log = logs.get(__name__)

TICK_SECONDS = 1.0
"""An expired certificate is called expired within 2 s of its notAfter, a due wait begins within 1 s."""

ORPHAN_REOFFER_SECONDS = 5.0
BATCH = 200
_TROUBLE_PAUSE_SECONDS = 1.0
_PRUNE_EVERY_TICKS = 600
_KEEP_OUTBOX_DAYS = 7
_PRUNE_BATCH = 10_000


class Scheduler:
    """The role. `run` returns when `stop` is set."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ticks = 0

    def run(self, stop: threading.Event) -> None:
        """Tick once a second; trouble with the database is waited out."""
        while not stop.wait(TICK_SECONDS):
            try:
                self.tick()
            except DatabaseError as error:
                log.warning("scheduler.trouble", error=str(error).strip())
                stop.wait(_TROUBLE_PAUSE_SECONDS)

    def tick(self) -> None:
        """Do everything that is due; each duty in batches, each batch in its own transaction."""
        # Orphans first (PROTOCOL 4.4): a certbot run of theirs may hold up the whole server.
        self._offer_in_batches(
            "rescued", lambda conn: jobs.reoffer_orphans(conn, BATCH, ORPHAN_REOFFER_SECONDS)
        )
        self._offer_in_batches("due", lambda conn: jobs.queue_due(conn, BATCH, REOFFER_SECONDS))
        self._offer_in_batches(
            "offered again", lambda conn: jobs.reoffer_queued(conn, BATCH, REOFFER_SECONDS)
        )
        while self._expire_batch() == BATCH:
            pass
        own_renewals.renew_due(self._pool)
        self._ticks += 1
        if self._ticks % _PRUNE_EVERY_TICKS == 0:
            self._prune()

    def _offer_in_batches(self, why: str, take: Callable[[Connection], list[Offer]]) -> None:
        while True:
            with transaction(self._pool) as conn:
                offers = take(conn)
                offer(conn, offers)
            if offers:
                log.info("jobs.offered", why=why, jobs=len(offers))
                metrics.OFFERED.labels(why).inc(len(offers))
            if len(offers) < BATCH:
                return

    def _expire_batch(self) -> int:
        """Call expired what is past its notAfter, at once and not at the next sweep (DESIGN A.3)."""
        with transaction(self._pool) as conn:
            expired = sites.lock_expired(conn, BATCH)
            for site_id in expired:
                sites.set_status(conn, site_id, SslStatus.EXPIRED)
                announce.status_changed(conn, About(site_id), previous=SslStatus.ACTIVE)
                risks.lapsed(conn, About(site_id))
        return len(expired)

    def _prune(self) -> None:
        with transaction(self._pool) as conn:
            pruned = outbox.prune(conn, _KEEP_OUTBOX_DAYS, _PRUNE_BATCH)
        with transaction(self._pool) as conn:
            buckets = limits.prune(conn, _PRUNE_BATCH)
            ca_memory.prune_issued(conn, _PRUNE_BATCH)
        log.info("tables.pruned", messages=pruned, buckets=buckets)
