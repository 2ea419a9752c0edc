"""What a look has found, written down and told; every function is one transaction."""

import random
from collections.abc import Collection, Sequence
from datetime import datetime

from contracts.codes import Code
from db import ca_memory, lineages, pool, sites, watch
from db.pool import Connection, Pool, transaction
from db.watch import WatchedSite
from workers import announce, logs, risks
from workers.announce import About
from workers.core.deciding import lifecycle
from workers.core.deciding.lifecycle import StatusEvent
from workers.core.lifetime.risk import SEEN_BY_A_LOOK
from workers.core.lifetime.watch import next_look_at, schedule
from workers.core.limits.costs import exact_set_hash
from workers.core.model import Certificate, JobState, Problem, Site, SslStatus

log = logs.get(__name__)


def renewed(db_pool: Pool, acme_directory_url: str, site: WatchedSite, found: Certificate) -> None:
    """The server's own timer has renewed: the certificate that visitors are shown is the site's from now on."""
    with transaction(db_pool) as conn:
        before = _unmoved(conn, site)
        if before is None or (before.job is not None and before.job.state is JobState.RUNNING):
            return  # a job is about to see the same, or a command has moved the site
        plan = schedule(found, pool.now(conn), random.random())
        sites.set_certificate(conn, site.site_id, found, site.server.key, plan)
        ca_memory.note_seen(conn, acme_directory_url, exact_set_hash(found.names), found.not_before)
        about = About(site.site_id)
        announce.certificate_renewed(
            conn, about, by="server", previous_expiry=site.certificate.not_after, ssl_expiry=found.not_after
        )
        risks.over(conn, about)
        if before.ssl_status is SslStatus.EXPIRED:
            announce.status_changed(conn, about, previous=before.ssl_status)
    log.info("watch.renewed_by_server", site=site.site_id, not_after=found.not_after.isoformat())


def as_known(db_pool: Pool, well: Sequence[WatchedSite], now: datetime) -> None:
    """What is as it should be is looked at again after its interval; what a look had found wrong is over."""
    if well:
        with transaction(db_pool) as conn:
            watch.plan_looks(conn, [(site, _next(site, now)) for site in well])
    for site in well:
        if site.at_risk_code in SEEN_BY_A_LOOK:
            over(db_pool, site, SEEN_BY_A_LOOK)


def _next(site: WatchedSite, now: datetime) -> datetime | None:
    """The next look; none for a certificate that lapsed a whole lifetime ago."""
    known = site.certificate
    if now > known.not_after + (known.not_after - known.not_before):
        return None
    return next_look_at(known, now, random.random())


def count_wrong(db_pool: Pool, site: WatchedSite, now: datetime, *, gone: bool) -> int:
    """Plan the next look soon; how many in a row have found the certificate gone from the server."""
    at = next_look_at(site.certificate, now, random.random(), doubt=True)
    with transaction(db_pool) as conn:
        if _unmoved(conn, site) is None:
            return 0
        return watch.count_wrong_look(conn, site.site_id, at, gone=gone)[1]


def at_risk(
    db_pool: Pool, site: WatchedSite, problem: Problem, ended: Collection[Code] = frozenset()
) -> None:
    """Tell a cause, if it is news; `ended` as for `risks.found`."""
    with transaction(db_pool) as conn:
        before = _unmoved(conn, site)
        if before is not None:
            lapsed = before.ssl_status is SslStatus.EXPIRED
            risks.found(conn, About(site.site_id), problem, lapsed=lapsed, ended=ended, by_a_look=True)


def over(db_pool: Pool, site: WatchedSite, ended: Collection[Code]) -> None:
    """Tell the end of the cause that was told last, if it is one of these."""
    with transaction(db_pool) as conn:
        before = _unmoved(conn, site)
        if before is not None:
            risks.over(conn, About(site.site_id), set(ended) - _shown_to_its_job(before))


def gone(db_pool: Pool, site: WatchedSite) -> None:
    """Two looks in a row found the lineage gone: the site has no certificate any more."""
    problem = Problem(
        Code.LINEAGE_BROKEN, f"The certificate's files were deleted from {site.server.host}.", site.names
    )
    with transaction(db_pool) as conn:
        before = _unmoved(conn, site)
        if before is None or _has_live_job(before) or before.ssl_status is not SslStatus.ACTIVE:
            return
        lifecycle.advance(before.ssl_status, StatusEvent.GONE)
        risks.over(conn, About(site.site_id))
        lineages.drop(conn, site.site_id, site.server.key, site.names[0])
        sites.set_removed(conn, site.site_id)
        sites.set_error(conn, site.site_id, problem.code, problem.message)
        announce.status_changed(conn, About(site.site_id), previous=before.ssl_status, problem=problem)
    log.warning("watch.gone", site=site.site_id, server=site.server.key)


def _unmoved(conn: Connection, site: WatchedSite) -> Site | None:
    """The site, locked; None where it is not as it was when the look was claimed: a removal, a move, a renewal."""
    before = sites.lock(conn, site.site_id)
    known = lifecycle.own_certificate_of(before)
    if known is None or known.serial != site.certificate.serial:
        return None
    return before if before.ssl_status in {SslStatus.ACTIVE, SslStatus.EXPIRED} else None


def _shown_to_its_job(site: Site) -> frozenset[Code]:
    """What a job waits on that has put a newer certificate on the disk: a look which sees the known one ends nothing."""
    return SEEN_BY_A_LOOK if site.job is not None and site.job.waits_on in SEEN_BY_A_LOOK else frozenset()


def _has_live_job(site: Site) -> bool:
    return site.job is not None and site.job.state in lifecycle.LIVE
