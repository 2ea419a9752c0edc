"""Renewals that no command asks for: the server had its chance, half its window is gone (part of the role scheduler)."""

from uuid import uuid4

from db import jobs, pace, pool, sites, watch
from db.jobs import NewJob, Offer
from db.pool import Connection, Pool, transaction
from workers import announce, logs
from workers.announce import About
from workers.core.lifetime import pacing
from workers.core.lifetime.own_renewal import OwnRenewal, decide_own_renewal
from workers.core.model import JobId, JobKind, Step
from workers.dispatch import REOFFER_SECONDS, offer

log = logs.get(__name__)

MOST_AT_ONCE = 300
"""Queued or running. They wait for weeks, people for seconds: the queue in front of a command stays short."""

_BATCH = 50


def renew_due(db_pool: Pool) -> int:
    """Make jobs for the sites that are due, the next to expire first, each in its own transaction; how many."""
    made = 0
    while True:
        with transaction(db_pool) as conn:
            room = MOST_AT_ONCE - watch.own_renewals_under_way(conn)
            due = _next(conn, min(_BATCH, room)) if room > 0 else []
        for site_id in due:
            with transaction(db_pool) as conn:
                made += _renew(conn, site_id)
        if len(due) < _BATCH:
            return made


def _next(conn: Connection, most: int) -> list[str]:
    """Those of the due sites that the pace lets begin, and those that cannot wait for it."""
    if not watch.renewals_due(conn, 1):
        return []
    stored = pace.lock(conn)
    per_hour = stored.per_hour
    if stored.is_old:
        demand = pacing.fleet_demand_per_hour(pace.cohorts(conn))
        per_hour = pacing.pace_per_hour(demand, *pace.backlog(conn))
        pace.store_measured(conn, per_hour)
    room = min(most, pacing.room(stored.paced_until, per_hour, stored.now))
    due = pace.next_due(conn, room) if room else pace.cannot_wait(conn, most, pacing.SHARE_KEPT_FREE)
    pace.store_paced(conn, pacing.paced(stored.paced_until, len(due), per_hour, stored.now))
    return due


def _renew(conn: Connection, site_id: str) -> bool:
    site = sites.lock(conn, site_id)
    decision = decide_own_renewal(site, pool.now(conn))
    if not isinstance(decision, OwnRenewal):
        watch.put_off_renewal(conn, site_id, decision)
        return False
    offer(conn, [_insert(conn, site_id, decision)])
    watch.put_off_renewal(conn, site_id, decision.next_try_at)
    log.info("renewal.due", site=site_id, server=decision.server.key)
    return True


def _insert(conn: Connection, site_id: str, renewal: OwnRenewal) -> Offer:
    job = NewJob(
        job_id=JobId(str(uuid4())), site_id=site_id, kind=JobKind.RENEW, names=renewal.names, server=renewal.server,
        force=True, command_id=None, command_source=None, requested_by=None, serial_known=renewal.serial_known,
    )  # fmt: skip
    queued = jobs.insert(conn, job, REOFFER_SECONDS)
    sites.set_job(conn, site_id, job.job_id)
    message = "The server has not renewed the certificate in the first half of its window, so certpilot does."
    announce.progress(conn, About(site_id, job_id=job.job_id), Step.QUEUED, message)
    return queued
