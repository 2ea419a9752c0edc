"""What a command does to a site that may already have something (DESIGN A.1).

Checked in this order, the first that applies decides: `NOT_ISSUED`, `NO_DOMAIN` and a missing server (only a renewal
can get so far without them: the contracts refuse the rest), the live job's rows, `ALREADY_ACTIVE`. Where the table
leaves room:

- *Same* means the same domain, the same set of aliases and the same server. The server is its host and port: another
  user or host key reaches the same machine. Of two words on how to reach it the newest command's counts as a whole, so
  a command that joins a job waiting for a host key can bring the right one.
- The rows of a live job come before those of the certificate, also when the site is `active`: pressing Issue while a
  renewal waits for the owner makes it check now, and an issue with fewer names takes the place of a renewal that waits
  for a bad alias (B.6). Such an issue still renews when the window is open.
- A job that waits for nothing stated (it is paused, or found its leases busy) is joined like one that waits on a server.
- After a removal that did not come to its end a valid certificate is no reason to refuse an issue either: nothing is renewed
  for the site any more, until its job has found that certificate.
- *Active* is judged by the certificate's notAfter, on the request's server, for the request's domain. Only where the
  stored word is `none` or `pending` and no job lives is a valid certificate no reason to refuse: the site was moved and
  moved back; a refusal would leave that word for ever, while the job finds the certificate and orders nothing.
- A new domain that the valid certificate already has, on the same server, is no change that could end in `none`: an
  issue with it is a mere subset (`ALREADY_ACTIVE`), a renewal leaves the site `active`.
- `issue` knows no renewal window, and its `ALREADY_ACTIVE` no `retryAt`: waiting does not make it acceptable.
- A renewal of a site without a valid certificate is the new job of the first and last row, window or not.
"""

from dataclasses import dataclass
from datetime import datetime

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Policy
from workers.core.deciding import lifecycle
from workers.core.lifetime.renewal import is_due, window_of
from workers.core.model import Certificate, JobId, JobKind, JobState, LiveJob, Server, Site, SslStatus


@dataclass(frozen=True, slots=True)
class Request:
    """What admission needs of a command; names are normalised, the primary not among the aliases.

    Attributes:
        kind: issue or renew.
        site_id: the site.
        domain: the primary name; None (renew only): the stored one.
        aliases: further names; None: the stored ones for renew, none for issue.
        server: the server; None (renew only): the stored one.
        force: renew although the window is not open.
    """

    kind: JobKind
    site_id: str
    domain: str | None = None
    aliases: tuple[str, ...] | None = None
    server: Server | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """A new job.

    Attributes:
        kind: issue or renew.
        domain: the primary name.
        names: every name, the primary first, each once.
        server: the server as the newest command describes it.
        force: the job is only done with another certificate than the one known now. True for every renewal of a
            valid certificate that has the names, asked for by `force` or by the window: without it the job would find
            that certificate and be content.
        status: what the site's status becomes, `pending` or `active`.
        supersedes: the waiting or dead job whose place it takes.
        serial_known: serial of the certificate that must be replaced where `force`; store it as the job's
            `serial_before`, so that a certificate which the server's timer renewed meanwhile counts as the new one.
    """

    kind: JobKind
    domain: str
    names: tuple[str, ...]
    server: Server
    force: bool
    status: SslStatus
    supersedes: JobId | None = None
    serial_known: str | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """The command joins the site's waiting job, which checks now.

    Attributes:
        job_id: that job.
        server: how the command says the server is reached; None where it said nothing.
    """

    job_id: JobId
    server: Server | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """One `ssl.request.rejected`; nothing stored changes.

    Attributes:
        code: one of the rejections of the catalogue.
        message: a sentence for the site's owner.
        retry_at: from when the same command would not be refused, where that is known; UTC.
    """

    code: Code
    message: str
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The request with what was stored filled in."""

    domain: str
    names: tuple[str, ...]
    server: Server

    def is_same_as(self, domain: str | None, names: tuple[str, ...], server_key: str | None) -> bool:
        return (self.domain, set(self.names), self.server.key) == (domain, set(names), server_key)


def admit(
    request: Request, site: Site | None, now: datetime, *, real_now: datetime | None = None
) -> Admitted | Joined | Rejected:
    """Decide what a command does.

    Args:
        request: the command.
        site: the site as stored, under its lock; None where it is not known.
        now: the schedule's clock (`certpilot_now()`), UTC; the renewal window goes by it.
        real_now: real time, by which a certificate is valid (DESIGN B.10); None: the same as `now`.
    """
    valid_now = now if real_now is None else real_now
    wanted = _fill_in(request, site)
    if isinstance(wanted, Rejected):
        return wanted
    job = site.job if site is not None and site.job is not None else None
    if job is not None and job.state in lifecycle.LIVE:
        answer = _answer_for_job(request, wanted, job)
        if answer is not None:
            return answer
    elif site is not None:
        refusal = _already_active(request, wanted, site, now, valid_now)
        if refusal is not None:
            return refusal
    return _new_job(request, wanted, site, now, valid_now)


def _fill_in(request: Request, site: Site | None) -> _Wanted | Rejected:
    renews = request.kind is JobKind.RENEW
    if renews and (site is None or not site.ever_issued):
        # Also without a stored domain: not its absence is the trouble, and Issue is what helps.
        return Rejected(Code.NOT_ISSUED, f"No certificate was ever issued for site {request.site_id}.")
    stored = site if renews else None
    domain = request.domain or (stored.domain if stored else None)
    server = request.server or (stored.server if stored else None)
    if not domain:
        return Rejected(Code.NO_DOMAIN, f"Site {request.site_id} has no domain.")
    if server is None:
        return Rejected(Code.INVALID_REQUEST, "data.server is missing; no server is stored for this site.")
    aliases = request.aliases
    if aliases is None:
        aliases = stored.aliases if stored else ()
    return _Wanted(domain, tuple(dict.fromkeys((domain, *aliases))), server)


def _answer_for_job(request: Request, wanted: _Wanted, job: LiveJob) -> Joined | Rejected | None:
    """Refuse or join; None: the new job supersedes this one."""
    same = wanted.is_same_as(job.domain, job.names, job.server_key)
    if job.state is JobState.RUNNING or (job.state is JobState.QUEUED and not job.paused):
        then = "" if same else " Send this one again when it has finished."
        return Rejected(Code.ALREADY_PENDING, f"A request for {job.domain} is already being worked on.{then}")
    if not same or job.kind.removes:
        # Also where it waits on a CA limit: the ledger decides when the new one goes.
        return None
    if job.waits_on is not None and CATALOGUE[job.waits_on].policy is Policy.WAIT_UNTIL:
        until = f" It goes on by itself at {_utc(job.retry_at)}." if job.retry_at else ""
        return Rejected(
            Code.ALREADY_PENDING,
            f"A request for {job.domain} waits for a limit of the certificate authority.{until}",
            job.retry_at,
        )
    return Joined(job.job_id, request.server)


def _already_active(
    request: Request, wanted: _Wanted, site: Site, now: datetime, valid_now: datetime
) -> Rejected | None:
    own = _own(wanted, site)
    if own is None or not lifecycle.is_valid(own, valid_now) or not _has_all(own, wanted):
        return None
    if request.kind is JobKind.ISSUE and site.job is not None and site.job.kind.removes:
        return None
    if site.ssl_status not in {SslStatus.ACTIVE, SslStatus.EXPIRED}:
        return None
    found = f"{wanted.domain} already has a certificate for these names, valid until {_utc(own.not_after)}."
    if request.kind is JobKind.ISSUE:
        return Rejected(Code.ALREADY_ACTIVE, found)
    stored_names = (site.domain or "", *site.aliases)
    same = wanted.is_same_as(site.domain, stored_names, site.server.key if site.server else None)
    if not same or request.force or is_due(own, now):
        return None
    opens_at = window_of(own).opens_at
    return Rejected(Code.ALREADY_ACTIVE, f"{found} It can be renewed from {_utc(opens_at)}.", opens_at)


def _new_job(
    request: Request, wanted: _Wanted, site: Site | None, now: datetime, valid_now: datetime
) -> Admitted:
    own = _own(wanted, site) if site is not None else None
    job = site.job if site is not None else None
    # A live job that is still here waits: it is superseded. A dead one is too, or its letter could be replayed beside
    # the new job. What has ended otherwise stays what it was.
    supersedes = job if job is not None and job.state in {*lifecycle.LIVE, JobState.DEAD} else None
    force = False
    if own is not None and lifecycle.is_valid(own, valid_now) and _has_all(own, wanted):
        overtaken = supersedes is not None and is_due(own, now)
        force = request.kind is JobKind.RENEW or overtaken
    status = SslStatus.NONE if site is None else site.ssl_status
    return Admitted(
        kind=request.kind,
        domain=wanted.domain,
        names=wanted.names,
        server=wanted.server,
        force=force,
        status=lifecycle.status_when_admitted(status, own, valid_now),
        supersedes=supersedes.job_id if supersedes is not None else None,
        serial_known=own.serial if own is not None and force else None,
    )


def _own(wanted: _Wanted, site: Site) -> Certificate | None:
    return lifecycle.own_certificate(
        site.certificate, site.certificate_server_key, wanted.domain, wanted.server
    )


def _has_all(certificate: Certificate, wanted: _Wanted) -> bool:
    return set(wanted.names) <= set(certificate.names)


def _utc(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
