"""What RemoveSSL does to a site (issue "Certificates never lapse"): the rules of `core.deciding.admission` for the third command.

`NOT_ISSUED` is said only where nothing is issued and no job waits; `ALREADY_PENDING` where a job is queued or runs. A job
that waits is cancelled, and its end is told together with the removal: one `ssl.status.changed`, to `none`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.codes import Code
from workers.core.deciding.admission import Rejected
from workers.core.model import Certificate, JobId, JobState, LiveJob, Server, Site


@dataclass(frozen=True, slots=True)
class LeftLineage:
    """A certificate's files that certpilot has put on a server for a site, and has not taken away.

    Attributes:
        names: of the certificate, the one that the lineage is called by first.
        server: where it lies.
    """

    names: tuple[str, ...]
    server: Server

    @property
    def cert_name(self) -> str:
        """What certbot calls it."""
        return self.names[0]


@dataclass(frozen=True, slots=True)
class RemovalAdmitted:
    """A new job that takes the certificate off the site's server.

    Attributes:
        names: every name of the lineage that goes, its own name first.
        server: where it lies.
        cancels: the waiting job that ends for it, without a status of its own.
        supersedes: a dead job, whose letter must not bring it back.
        also: what the site has left elsewhere: on a server that it was moved from, or under its former domain.
    """

    names: tuple[str, ...]
    server: Server
    cancels: JobId | None = None
    supersedes: JobId | None = None
    also: tuple[LeftLineage, ...] = ()


@dataclass(frozen=True, slots=True)
class RemovedAtOnce:
    """Nothing of the site is on any server: its waiting job is cancelled, and that is all.

    Attributes:
        cancels: that job.
    """

    cancels: JobId


def admit_removal(site: Site, left: Sequence[LeftLineage] = ()) -> RemovalAdmitted | RemovedAtOnce | Rejected:
    """Decide what a removal does.

    Args:
        site: the site as stored, under its lock.
        left: every lineage that certpilot has put on a server for the site and not taken away since.
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
    if site.certificate is None and not left and not waiting:
        return Rejected(Code.NOT_ISSUED, f"No certificate is issued for site {site.site_id}.")
    started = waiting and job is not None and _may_be_on_a_server(job)
    if waiting and job is not None and site.certificate is None and not left and not started:
        return RemovedAtOnce(job.job_id)
    target = _target(site, left, started=started)
    return RemovalAdmitted(
        names=target.names,
        server=target.server,
        cancels=job.job_id if waiting and job is not None else None,
        supersedes=job.job_id if job is not None and job.state is JobState.DEAD else None,
        also=tuple(one for one in left if _place(one) != _place(target)),
    )


def _target(site: Site, left: Sequence[LeftLineage], *, started: bool) -> LeftLineage:
    """What the removal's own job takes away: the site's lineage where it is now, unless only others are there."""
    # A waiting job and a certificate both came by a command that named domain and server.
    assert site.domain is not None
    assert site.server is not None
    here = LeftLineage(tuple(dict.fromkeys((site.domain, *site.aliases))), site.server)
    if not left or started or _place(here) in {_place(one) for one in left}:
        return here
    return left[0]


def needed_no_more(
    left: Sequence[LeftLineage], certificate: Certificate, cert_name: str, server: Server
) -> list[LeftLineage]:
    """Which of a site's lineages its new certificate makes needless.

    On another server all are: the site has moved. On the same one, after a change of domain, those whose names the new
    certificate has: visitors of the others would lose HTTPS, so they stay until the site's removal.

    Args:
        left: what the site has.
        certificate: the one that is served now.
        cert_name: its lineage.
        server: where.
    """
    return [
        one
        for one in left
        if _place(one) != (server.key, cert_name)
        and (one.server.key != server.key or set(one.names) <= set(certificate.names))
    ]


def _place(lineage: LeftLineage) -> tuple[str, str]:
    return lineage.server.key, lineage.cert_name


def _may_be_on_a_server(job: LiveJob) -> bool:
    """Whether certbot may have left a lineage: it ran, or the job is a removal that had found one."""
    return job.attempt > 0 or job.kind.removes
