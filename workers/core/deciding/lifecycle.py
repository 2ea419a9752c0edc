"""What a job and a site's sslStatus may become: two tables, and the pure functions that choose the event.

`docs/status.md` is generated from the tables (`render_markdown`). An event that has no cell is a bug of the caller:
`advance` raises and nothing changes.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar, overload

from workers.core.model import Certificate, JobState, Server, Site, SslStatus

_State = TypeVar("_State", JobState, SslStatus)
_Event = TypeVar("_Event", "JobEvent", "StatusEvent")


class JobEvent(StrEnum):
    """What happens to a job."""

    DUE = "due"
    CHECK_NOW = "check now"
    CLAIM = "claim"
    WAIT = "wait"
    SUCCEED = "succeed"
    FAIL = "fail"
    DIE = "die"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"
    REPLAY = "replay"


class StatusEvent(StrEnum):
    """What happens to a site's sslStatus."""

    ADMITTED = "admitted"
    RENEWING = "renewing"
    VERIFIED = "verified"
    ENDED_VALID = "ended, certificate valid"
    ENDED_EXPIRED = "ended, certificate expired"
    ENDED_NONE = "ended, no certificate"
    EXPIRED = "notAfter passed"
    REMOVED = "removed"
    GONE = "gone from its server"


_JOB_WORDS: Mapping[JobEvent, str] = {
    JobEvent.DUE: "its `run_at` has come; the scheduler queues it",
    JobEvent.CHECK_NOW: "a command joined it, so it is checked at once",
    JobEvent.CLAIM: "a runner took its leases; an orphan is claimed like any other (PROTOCOL 4.1)",
    JobEvent.WAIT: "it goes on by itself later: a retry, a limit, a busy server",
    JobEvent.SUCCEED: "the certificate is on disk and served for every name",
    JobEvent.FAIL: "it ends without what was asked for",
    JobEvent.DIE: "an operator or the server's admin must act; its letter lies in `ssl.jobs.dlq`",
    JobEvent.CANCEL: "an operator cancelled it",
    JobEvent.SUPERSEDE: "a newer command took its place",
    JobEvent.REPLAY: "an operator replayed its letter: a new epoch",
}

_STATUS_WORDS: Mapping[StatusEvent, str] = {
    StatusEvent.ADMITTED: "a command was accepted, and the site has no valid certificate for its domain on its server",
    StatusEvent.RENEWING: "a command was accepted while the certificate is valid",
    StatusEvent.VERIFIED: "a valid certificate was seen on disk and in a handshake, for every name",
    StatusEvent.ENDED_VALID: "a job ended without a new certificate; the one last seen is still valid",
    StatusEvent.ENDED_EXPIRED: "a job ended without a certificate; the one last seen has expired",
    StatusEvent.ENDED_NONE: "a job ended without a certificate; none was ever seen for this domain on this server",
    StatusEvent.EXPIRED: "the certificate's notAfter has passed",
    StatusEvent.REMOVED: "a removal was asked for, and no certificate of the site is left on its server",
    StatusEvent.GONE: "two looks in a row found the certificate gone from its server",
}

JOB_TRANSITIONS: Mapping[JobState, Mapping[JobEvent, JobState]] = MappingProxyType({
    JobState.QUEUED: {
        JobEvent.CHECK_NOW: JobState.QUEUED,  # queued on a paused server: a command joins it all the same
        JobEvent.CLAIM: JobState.RUNNING,
        JobEvent.DIE: JobState.DEAD,  # its process died three times before it got as far as a claim (CRASHED)
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.SUPERSEDE: JobState.SUPERSEDED,
    },
    JobState.RUNNING: {
        JobEvent.CLAIM: JobState.RUNNING,
        JobEvent.WAIT: JobState.WAITING,
        JobEvent.SUCCEED: JobState.SUCCEEDED,
        JobEvent.FAIL: JobState.FAILED,
        JobEvent.DIE: JobState.DEAD,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.SUPERSEDE: JobState.SUPERSEDED,
    },
    JobState.WAITING: {
        JobEvent.DUE: JobState.QUEUED,
        JobEvent.CHECK_NOW: JobState.QUEUED,
        JobEvent.CANCEL: JobState.CANCELLED,
        JobEvent.SUPERSEDE: JobState.SUPERSEDED,
    },
    JobState.DEAD: {
        JobEvent.REPLAY: JobState.QUEUED,
        JobEvent.SUPERSEDE: JobState.SUPERSEDED,  # so that its letter cannot bring it back beside the new job
    },
    JobState.SUCCEEDED: {},
    JobState.FAILED: {},
    JobState.CANCELLED: {},
    JobState.SUPERSEDED: {},
})  # fmt: skip
"""Job states. There is no way from running back to queued: a runner that stops leaves the job running (PROTOCOL 4.5)."""

STATUS_TRANSITIONS: Mapping[SslStatus, Mapping[StatusEvent, SslStatus]] = MappingProxyType({
    SslStatus.NONE: {
        StatusEvent.ADMITTED: SslStatus.PENDING,
        StatusEvent.VERIFIED: SslStatus.ACTIVE,
        StatusEvent.ENDED_NONE: SslStatus.NONE,
        StatusEvent.REMOVED: SslStatus.NONE,
    },
    SslStatus.PENDING: {
        StatusEvent.ADMITTED: SslStatus.PENDING,  # the new job supersedes the one that waited
        StatusEvent.VERIFIED: SslStatus.ACTIVE,
        StatusEvent.ENDED_VALID: SslStatus.ACTIVE,  # a command that moved the site was taken back by a newer one
        StatusEvent.ENDED_EXPIRED: SslStatus.EXPIRED,
        StatusEvent.ENDED_NONE: SslStatus.NONE,
        StatusEvent.EXPIRED: SslStatus.PENDING,
        StatusEvent.REMOVED: SslStatus.NONE,
    },
    SslStatus.ACTIVE: {
        StatusEvent.ADMITTED: SslStatus.PENDING,  # domain or server changed, or notAfter has passed unnoticed
        StatusEvent.RENEWING: SslStatus.ACTIVE,
        StatusEvent.VERIFIED: SslStatus.ACTIVE,
        StatusEvent.ENDED_VALID: SslStatus.ACTIVE,
        StatusEvent.ENDED_EXPIRED: SslStatus.EXPIRED,
        StatusEvent.EXPIRED: SslStatus.EXPIRED,
        StatusEvent.REMOVED: SslStatus.NONE,
        StatusEvent.GONE: SslStatus.NONE,
    },
    SslStatus.EXPIRED: {
        StatusEvent.ADMITTED: SslStatus.PENDING,
        StatusEvent.VERIFIED: SslStatus.ACTIVE,
        StatusEvent.ENDED_EXPIRED: SslStatus.EXPIRED,  # a renewal that notAfter overtook
        StatusEvent.EXPIRED: SslStatus.EXPIRED,
        StatusEvent.REMOVED: SslStatus.NONE,
    },
})  # fmt: skip
"""sslStatus. `active` is left by notAfter, by a command that moves or removes the site, or when the certificate is gone
from its server; never by a job that fails."""

LIVE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.WAITING})
"""States in which a job still works for its site."""


class IllegalTransitionError(Exception):
    """An event met a state in which it cannot happen; nothing was changed."""

    def __init__(self, state: JobState | SslStatus, event: JobEvent | StatusEvent) -> None:
        super().__init__(f"{event!r} cannot happen to {state!r}")
        self.state = state
        self.event = event


@overload
def advance(state: JobState, event: JobEvent) -> JobState: ...
@overload
def advance(state: SslStatus, event: StatusEvent) -> SslStatus: ...
def advance(state: JobState | SslStatus, event: JobEvent | StatusEvent) -> JobState | SslStatus:
    """Look the next state up.

    Raises:
        IllegalTransitionError: the table has no cell for this event in this state.
    """
    try:
        if isinstance(state, JobState):
            return JOB_TRANSITIONS[state][JobEvent(event)]
        return STATUS_TRANSITIONS[state][StatusEvent(event)]
    except (KeyError, ValueError):
        raise IllegalTransitionError(state, event) from None


def own_certificate(
    certificate: Certificate | None,
    certificate_server_key: str | None,
    domain: str | None,
    server: Server | None,
) -> Certificate | None:
    """The certificate last seen, if it is one for this domain on this server; valid or not.

    What was seen for the old domain or on the old server says nothing of a site that a command has moved (DESIGN A.1:
    on failure `none`).
    """
    if certificate is None or server is None or domain not in certificate.names:
        return None
    return certificate if certificate_server_key == server.key else None


def own_certificate_of(site: Site) -> Certificate | None:
    """`own_certificate` for what the site's row says."""
    return own_certificate(site.certificate, site.certificate_server_key, site.domain, site.server)


def is_valid(certificate: Certificate | None, now: datetime) -> bool:
    """Whether visitors may still be shown it: notAfter against now, whatever word is stored (DESIGN A.1)."""
    return certificate is not None and now < certificate.not_after


def status_when_admitted(status: SslStatus, own: Certificate | None, now: datetime) -> SslStatus:
    """What an accepted command makes of the site's status.

    Args:
        status: the stored word.
        own: `own_certificate` for the domain and server that the command asks for.
        now: real time, UTC.

    Returns:
        `active` where it was that and the certificate is still good for the request's domain and server; else
        `pending`, at once. A pending site stays pending even where its certificate is valid: a command had moved it,
        and `active` is only set from a certificate that was looked at since (DESIGN A.3).
    """
    if status is SslStatus.ACTIVE and is_valid(own, now):
        return advance(status, StatusEvent.RENEWING)
    return advance(status, StatusEvent.ADMITTED)


def status_when_verified(status: SslStatus) -> SslStatus:
    """What a certificate makes of it that is valid, on disk, and served for every name."""
    return advance(status, StatusEvent.VERIFIED)


def status_when_ended(status: SslStatus, own: Certificate | None, now: datetime) -> SslStatus:
    """What is true when a job ends without a new certificate: failed, dead or cancelled.

    Args:
        status: the stored word.
        own: `own_certificate` for the site's stored domain and server.
        now: real time, UTC.
    """
    if own is None and status is not SslStatus.ACTIVE:
        return advance(
            status, StatusEvent.ENDED_NONE if status is not SslStatus.EXPIRED else StatusEvent.ENDED_EXPIRED
        )
    # An active site has a certificate of its own; only notAfter can have ended that, never a job.
    return advance(status, StatusEvent.ENDED_VALID if is_valid(own, now) else StatusEvent.ENDED_EXPIRED)


def status_after_expiry(status: SslStatus, not_after: datetime, now: datetime) -> SslStatus:
    """What the passing of notAfter makes of it; before that, nothing.

    A renewal under way changes nothing: visitors see an expired certificate, and the job stands beside the status.
    """
    return status if now < not_after else advance(status, StatusEvent.EXPIRED)


def render_markdown() -> str:
    """The two tables as the text of `docs/status.md`: a table of events and a Mermaid diagram each."""
    return "\n".join([
        "# What a job and a site's status may become",
        "",
        "Generated from `workers/core/deciding/lifecycle.py` by `make generate`; do not edit.",
        "",
        "## sslStatus",
        "",
        *_render(STATUS_TRANSITIONS, _STATUS_WORDS, start=SslStatus.NONE),
        "",
        "## Job state",
        "",
        *_render(JOB_TRANSITIONS, _JOB_WORDS, start=JobState.QUEUED),
        "",
    ])  # fmt: skip


def _render(
    table: Mapping[_State, Mapping[_Event, _State]], words: Mapping[_Event, str], start: _State
) -> list[str]:
    lines: list[str] = ["| state | event | becomes | when |", "|---|---|---|---|"]
    arrows: list[str] = ["", "```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    for state, row in table.items():
        if not row:
            lines.append(f"| `{state}` | | | final |")
            arrows.append(f"    {state} --> [*]")
        for event, after in row.items():
            lines.append(f"| `{state}` | {event} | `{after}` | {words[event]} |")
            arrows.append(f"    {state} --> {after}: {event}")
    return [*lines, *arrows, "```"]
