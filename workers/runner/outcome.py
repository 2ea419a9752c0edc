"""How a job's turn ends: one transaction each, behind the guard, with the site's status and the events in it.

Whoever lost its claim writes nothing (`ClaimLostError`); a repetition after a lost commit reply finds the job ended and
is refused the same way (PROTOCOL 4.7).
"""

import random
from dataclasses import dataclass
from datetime import datetime

from contracts.codes import Code
from contracts.event_models import RenewerWord
from contracts.titles import REMOVAL
from db import claims, jobs, lineages, outcomes, pool, sites
from db.claims import HeldJob
from db.jobs import Offer
from db.outcomes import ClosedAttempt
from db.pool import Connection
from workers import announce, removals, risks
from workers.announce import About
from workers.core.deciding import lifecycle
from workers.core.deciding.lifecycle import StatusEvent
from workers.core.deciding.removal import needed_no_more
from workers.core.lifetime.risk import over_for_a_job
from workers.core.lifetime.watch import schedule
from workers.core.model import Certificate, JobId, JobKind, JobState, Problem, Site, SslStatus, Step
from workers.dispatch import offer
from workers.letters import Cause, bury_job


@dataclass(frozen=True, slots=True)
class Wait:
    """A turn that ends in waiting.

    Attributes:
        run_at: when the job goes on, and what people see as retryAt.
        problem: what it waits for.
        because: why it is tried then; kept with the job.
        fails: failures in a row, this one included where it counts as one.
        failing_since: the first of them.
        waits_for_limit: the bucket it waits for, where it waits for our ledger.
    """

    run_at: datetime
    problem: Problem
    because: str
    fails: int
    failing_since: datetime | None
    waits_for_limit: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """A turn that ends the job without a certificate: why, and why nothing more is tried."""

    problem: Problem
    because: str


@dataclass(frozen=True, slots=True)
class Remark:
    """What is told with a success.

    Attributes:
        problem: what the owner has to mend all the same, e.g. Cloudflare's mode; None: nothing.
        note: a sentence more for the last message; empty: none.
    """

    problem: Problem | None = None
    note: str = ""


NOTHING = Remark()
_RENEWAL_CODES = frozenset({Code.AUTO_RENEW_MISSING, Code.AUTO_RENEW_FAILING})


def about(job: HeldJob) -> About:
    """What the job's events are about. A cleanup is no job that the site's owner waits for: its events name none."""
    job_id = None if job.kind is JobKind.CLEANUP else job.claim.job_id
    return About(job.site_id, job.command_id, job.command_source, job_id)


def succeed(
    conn: Connection,
    job: HeldJob,
    certificate: Certificate,
    because: str,
    closed: ClosedAttempt | None,
    *,
    remark: Remark = NOTHING,
) -> None:
    """The certificate is on disk and served for every name.

    What is left to be mended stands with the site and in the last progress event, and in `ssl.status.changed` where
    the site was not active before: beside active → active an error says that a renewal failed.
    """
    problem = remark.problem
    outcomes.finish(conn, job, JobState.SUCCEEDED, code=None, message=None, because=because, closed=closed)
    site = sites.lock(conn, job.site_id)
    # A newer command may have moved the site meanwhile: then this certificate says nothing of it.
    is_the_sites = (
        lifecycle.own_certificate(certificate, job.server_key, site.domain, site.server) is not None
    )
    if is_the_sites:
        plan = schedule(certificate, pool.now(conn), random.random())
        sites.set_certificate(conn, job.site_id, certificate, job.server_key, plan)
        if problem is not None:
            sites.set_error(conn, job.site_id, problem.code, problem.message)
        _tell_what_it_replaced(conn, job, site, certificate, remark)
    message = f"The certificate is served until {certificate.not_after:%d %b %Y}. {remark.note}".strip()
    announce.progress(conn, about(job), Step.DONE, message, attempt=job.attempt, problem=problem)
    was_active = site.ssl_status is SslStatus.ACTIVE
    announce.status_changed(
        conn, about(job), previous=site.ssl_status, problem=None if was_active else problem
    )
    _let_the_next_one_go(conn, job)
    # A certificate that was there before may have more names than the site; a cleanup has to know of them.
    others = (name for name in certificate.names if name != job.domain)
    lineages.put(conn, job.site_id, (job.domain, *others), job.server)
    if is_the_sites:
        # After the offer above, which would otherwise find the cleanups among those that have waited, and offer them again.
        for left in needed_no_more(lineages.of_site(conn, job.site_id), certificate, job.domain, job.server):
            removals.clean_up(conn, about(job), left)


def _tell_what_it_replaced(
    conn: Connection, job: HeldJob, site: Site, certificate: Certificate, remark: Remark
) -> None:
    """Tell of a renewal, and of a risk: of its end, or that the server will not renew by itself."""
    known = lifecycle.own_certificate_of(site)
    if (
        known is not None
        and known.serial != certificate.serial
        and set(known.names) == set(certificate.names)
    ):
        by: RenewerWord = "certpilot" if outcomes.has_ordered(conn, job) else "server"
        announce.certificate_renewed(
            conn, about(job), by=by, previous_expiry=known.not_after,
            ssl_expiry=certificate.not_after,
        )  # fmt: skip
    if remark.problem is not None and remark.problem.code in _RENEWAL_CODES:
        risks.found(conn, about(job), remark.problem)
    else:
        risks.over(conn, about(job))


def end(conn: Connection, job: HeldJob, state: JobState, ending: End, closed: ClosedAttempt | None) -> None:
    """The job ends failed or dead, without a certificate. The site's status is what is true again."""
    problem = ending.problem
    if job.kind is JobKind.CLEANUP:
        _give_up(conn, job, problem)
        return
    outcomes.finish(
        conn, job, state, code=problem.code, message=problem.message, because=ending.because, closed=closed
    )
    site = sites.lock(conn, job.site_id)
    if restore_status(conn, site, job.claim.job_id):
        sites.set_error(conn, site.site_id, problem.code, problem.message)
    _tell_risk(conn, job, problem)
    if state is JobState.DEAD:
        bury_job(conn, job.claim.job_id, job.epoch, Cause(problem.code, problem.message, pool.now(conn)))
    announce.progress(conn, about(job), Step.FAILED, problem.message, attempt=job.attempt, problem=problem)
    announce.status_changed(conn, about(job), previous=site.ssl_status, problem=problem)
    _let_the_next_one_go(conn, job)


def _tell_risk(conn: Connection, job: HeldJob, problem: Problem) -> None:
    """A renewal of our own comes late in the window: what holds it up may let the certificate lapse."""
    if job.is_own_renewal:
        expiry = sites.expiry(conn, job.site_id)
        lapsed = expiry is not None and expiry <= pool.real_now(conn)
        risks.found(conn, about(job), problem, lapsed=lapsed, ended=over_for_a_job(problem))


def removed(conn: Connection, job: HeldJob, message: str) -> None:
    """The certificate is off the server; the site has none, unless it is another server's that it has."""
    outcomes.finish(conn, job, JobState.SUCCEEDED, code=None, message=None, because=message)
    lineages.drop(conn, job.site_id, job.server_key, job.domain)
    if job.kind is JobKind.CLEANUP:
        announce.progress(conn, about(job), Step.DONE, message)
    else:
        site = sites.lock(conn, job.site_id)
        lifecycle.advance(site.ssl_status, StatusEvent.REMOVED)
        risks.over(conn, about(job))
        sites.set_removed(conn, job.site_id)
        announce.progress(conn, about(job), Step.DONE, message)
        announce.status_changed(conn, about(job), previous=site.ssl_status)
    _let_the_next_one_go(conn, job)


def _give_up(conn: Connection, job: HeldJob, problem: Problem) -> None:
    """A cleanup is an effort, not a promise: no letter, and the site's status is not touched."""
    because = f"not deleted: {problem.message}"
    outcomes.finish(conn, job, JobState.FAILED, code=problem.code, message=problem.message, because=because)
    message = f"{REMOVAL}the old certificate on {job.server.host} could not be deleted. {problem.message}"
    announce.progress(conn, about(job), Step.FAILED, message, problem=problem)
    _let_the_next_one_go(conn, job)


def cancelled(conn: Connection, job: HeldJob, closed: ClosedAttempt | None) -> None:
    """An operator wanted it to end; the run, if there was one, is over without a certificate."""
    outcomes.finish(
        conn, job, JobState.CANCELLED, code=None, message=None, because="cancelled", closed=closed
    )
    if job.kind is not JobKind.CLEANUP:
        announce_cancelled(conn, about(job), attempt=job.attempt)
    _let_the_next_one_go(conn, job)


def announce_cancelled(conn: Connection, whose: About, *, attempt: int) -> None:
    """Put the site's status back and tell; the job's row says cancelled already."""
    site = sites.lock(conn, whose.site_id)
    if whose.job_id is not None:
        restore_status(conn, site, whose.job_id)
    announce.progress(conn, whose, Step.FAILED, "Cancelled by an operator.", attempt=attempt)
    announce.status_changed(conn, whose, previous=site.ssl_status)


def restore_status(conn: Connection, site: Site, job_id: JobId) -> bool:
    """Set the status to what is true without a new certificate, where this job is still the site's newest.

    Returns:
        Whether it is.
    """
    if site.job is None or site.job.job_id != job_id:
        return False
    own = lifecycle.own_certificate_of(site)
    status = lifecycle.status_when_ended(site.ssl_status, own, pool.real_now(conn))
    if status is SslStatus.NONE:
        risks.over(conn, About(site.site_id, job_id=job_id))
        sites.forget_certificate(conn, site.site_id)
    else:
        sites.set_status(conn, site.site_id, status)
    return True


def wait(conn: Connection, job: HeldJob, ending: Wait, closed: ClosedAttempt | None) -> None:
    """The job goes on by itself later, and says when and why."""
    problem = ending.problem
    outcomes.wait(
        conn, job, run_at=ending.run_at, code=problem.code, message=problem.message, because=ending.because,
        fails=ending.fails, failing_since=ending.failing_since, waits_for_limit=ending.waits_for_limit, closed=closed,
    )  # fmt: skip
    _tell_risk(conn, job, problem)
    sites.set_error_of_job(conn, job.site_id, job.claim.job_id, problem.code, problem.message)
    if job.kind is not JobKind.CLEANUP:
        announce.progress(
            conn, about(job), Step.WAITING, problem.message, attempt=job.attempt, problem=problem
        )
    _let_the_next_one_go(conn, job)


def superseded(conn: Connection, job: HeldJob, closed: ClosedAttempt | None) -> None:
    """A newer job has taken its place; the run, if there was one, is over."""
    message = f"Superseded by job {job.superseded_by}."
    outcomes.finish(
        conn, job, JobState.SUPERSEDED, code=None, message=message, because="superseded", closed=closed
    )
    announce.progress(conn, about(job), Step.SUPERSEDED, message, attempt=job.attempt)
    _let_the_next_one_go(conn, job)


def hand_back(conn: Connection, job: HeldJob) -> None:
    """Let go without a result (SIGTERM): the job stays running, an open attempt stays open (PROTOCOL 4.5)."""
    outcomes.forgive_crash_risk(conn, job)
    claims.release(conn, job.claim)
    offer(conn, [Offer(job.claim.job_id, job.kind, job.epoch)])


def _let_the_next_one_go(conn: Connection, job: HeldJob) -> None:
    offer(conn, jobs.next_after(conn, job.server_key, job.names))
