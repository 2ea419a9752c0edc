"""What RemoveSSL does to a site (issue "Certificates never lapse"): the rules of `core.deciding.admission` for the third command.

`NOT_ISSUED` is said only where nothing is issued and no job waits; `ALREADY_PENDING` where a job is queued or runs. A job
that waits is cancelled, and its end is told together with the removal: one `ssl.status.changed`, to `none`.
"""

from dataclasses import dataclass

from contracts.codes import Code
from workers.core.deciding.admission import Rejected
from workers.core.model import JobId, JobState, LiveJob, Server, Site


@dataclass(frozen=True, slots=True)
class RemovalAdmitted:
    """A new job that takes the certificate off the site's server.

    Attributes:
        names: every name of the site, the primary first; the lineage has the primary's name.
        server: where the site is.
        cancels: the waiting job that ends for it, without a status of its own.
        supersedes: a dead job, whose letter must not bring it back.
        left_server_key: `Server.key` of another server, on which the certificate last seen lies; None: there is none.
    """

    names: tuple[str, ...]
    server: Server
    cancels: JobId | None = None
    supersedes: JobId | None = None
    left_server_key: str | None = None


@dataclass(frozen=True, slots=True)
class RemovedAtOnce:
    """Nothing of the site is on any server: its waiting job is cancelled, and that is all.

    Attributes:
        cancels: that job.
    """

    cancels: JobId


def admit_removal(site: Site) -> RemovalAdmitted | RemovedAtOnce | Rejected:
    """Decide what a removal does.

    Args:
        site: the site as stored, under its lock.
    """
    job = site.job
    waiting = job is not None and (
        job.state is JobState.WAITING or (job.state is JobState.QUEUED and job.paused)
    )
    if job is not None and job.state in {JobState.QUEUED, JobState.RUNNING} and not waiting:
        return Rejected(
            Code.ALREADY_PENDING,
            f"A request for {job.domain} is already being worked on. Send this one again when it has finished.",
        )
    if site.certificate is None and not waiting:
        return Rejected(Code.NOT_ISSUED, f"No certificate is issued for site {site.site_id}.")
    if waiting and job is not None and site.certificate is None and not _may_be_on_a_server(job):
        return RemovedAtOnce(job.job_id)
    # A waiting job and a certificate both came by a command that named domain and server.
    assert site.domain is not None
    assert site.server is not None
    elsewhere = site.certificate is not None and site.certificate_server_key != site.server.key
    return RemovalAdmitted(
        names=tuple(dict.fromkeys((site.domain, *site.aliases))),
        server=site.server,
        cancels=job.job_id if waiting and job is not None else None,
        supersedes=job.job_id if job is not None and job.state is JobState.DEAD else None,
        left_server_key=site.certificate_server_key if elsewhere else None,
    )


def _may_be_on_a_server(job: LiveJob) -> bool:
    """Whether certbot may have left a lineage: it ran, or the job is a removal that had found one."""
    return job.attempt > 0 or job.kind.removes
