"""RemoveSSL at the intake: the waiting job ends, a job that takes the certificate away begins; the caller's transaction."""

from dataclasses import replace
from uuid import uuid4

from contracts.commands import RemoveSSL
from contracts.titles import REMOVAL
from db import jobs, lineages, sites, watch
from db.jobs import NewJob
from db.pool import Connection
from workers import announce, risks
from workers.announce import About
from workers.core.deciding import lifecycle
from workers.core.deciding.admission import Rejected
from workers.core.deciding.lifecycle import StatusEvent
from workers.core.deciding.removal import LeftLineage, RemovalAdmitted, RemovedAtOnce, admit_removal
from workers.core.model import JobId, JobKind, Problem, Server, Site, Step
from workers.dispatch import REOFFER_SECONDS, offer

_CANCELLED = f"{REMOVAL}the request for a certificate is cancelled."


def remove(conn: Connection, about: About, site: Site, command: RemoveSSL) -> None:
    """Do what the command does to the site; `site` is locked."""
    decision = admit_removal(site, lineages.of_site(conn, about.site_id))
    match decision:
        case Rejected():
            problem = Problem(decision.code, decision.message, retry_at=decision.retry_at)
            announce.rejected(conn, about, problem, domain=site.domain)
        case RemovedAtOnce():
            _cancel_and_forget(conn, about, site, decision.cancels)
        case RemovalAdmitted():
            _admit(conn, about, decision, command)


def _cancel_and_forget(conn: Connection, about: About, site: Site, job_id: JobId) -> None:
    """Nothing is on any server: the end of the waiting job is the removal, and one status change tells both."""
    lifecycle.advance(site.ssl_status, StatusEvent.REMOVED)
    _cancel(conn, about.site_id, job_id)
    risks.over(conn, about)
    sites.set_removed(conn, about.site_id)
    whose = About(about.site_id, about.command_id, about.command_source, job_id)
    announce.status_changed(conn, whose, previous=site.ssl_status)


def _admit(conn: Connection, about: About, decision: RemovalAdmitted, command: RemoveSSL) -> None:
    job_id = JobId(str(uuid4()))
    if decision.cancels is not None and not _cancel(conn, about.site_id, decision.cancels):
        # A run of it may live: it ends superseded when that is over, and the removal comes after it.
        jobs.supersede_or_flag(conn, decision.cancels, job_id)
    if decision.supersedes is not None:
        supersede(conn, about.site_id, decision.supersedes, job_id)
    whose = About(about.site_id, about.command_id, about.command_source, job_id)
    removal = _new_job(JobKind.REMOVE, whose, decision.names, decision.server, command)
    queued = jobs.insert(conn, removal, REOFFER_SECONDS)
    sites.set_job(conn, about.site_id, job_id)
    # For good, also where the removal dies: whoever asked for it wants no renewal.
    watch.put_off_renewal(conn, about.site_id, None)
    announce.progress(conn, whose, Step.QUEUED, f"{REMOVAL}waiting for a free runner.")
    offer(conn, [queued])
    for left in decision.also:
        clean_up(conn, whose, left, command)


def supersede(conn: Connection, site_id: str, old: JobId, new: JobId) -> None:
    """Let the newer job take the older one's place, and tell whoever waits for the older command."""
    if jobs.supersede_or_flag(conn, old, new):
        about = About(site_id, *jobs.asked_by(conn, old), job_id=old)
        announce.progress(conn, about, Step.SUPERSEDED, f"Superseded by job {new}.")


def clean_up(conn: Connection, about: About, left: LeftLineage, command: RemoveSSL | None = None) -> None:
    """Begin the best-effort removal of a lineage that the site needs no more.

    Args:
        conn: the transaction of whatever moved or removes the site.
        about: the command behind it.
        left: the lineage.
        command: the removal that asks for it, and whether to revoke; None: the site has moved.
    """
    whose = replace(about, job_id=JobId(str(uuid4())))
    job = _new_job(JobKind.CLEANUP, whose, left.names, left.server, command)
    offer(conn, [jobs.insert(conn, job, REOFFER_SECONDS)])


def _new_job(
    kind: JobKind, about: About, names: tuple[str, ...], server: Server, command: RemoveSSL | None
) -> NewJob:
    assert about.job_id is not None
    return NewJob(
        job_id=about.job_id, site_id=about.site_id, kind=kind, names=names, server=server, force=False,
        command_id=about.command_id, command_source=about.command_source,
        requested_by=command.requested_by if command else None, revoke=command.revoke if command else False,
    )  # fmt: skip


def _cancel(conn: Connection, site_id: str, job_id: JobId) -> bool:
    """Cancel the waiting job, without a status of its own; False where a run of it may live."""
    asked_by = jobs.asked_by(conn, job_id)
    if not jobs.cancel_for_removal(conn, job_id):
        return False
    about = About(site_id, *asked_by, job_id=job_id)
    announce.progress(conn, about, Step.FAILED, _CANCELLED)
    return True
