"""Whether and when a job goes on after trouble (DESIGN A.5), as a value with its reason; nothing sleeps here.

| policy | waits | ends |
|---|---|---|
| RECHECK (the owner mends) | 1, 5, 15, 60 min, then every 60 min; elapsed 1, 6, 21, 81 min, then hourly | failed after 24 h |
| ADMIN (the server's admin mends) | the same | dead letter after 24 h |
| BACK_OFF (CA outage, 503) | 1, 2, 4, 8, 16, then every 30 min, each ± 25 %; not before the CA's Retry-After | failed after 30 d |
| WAIT_UNTIL (CA limit) | until the CA's own time, 1 h where it names none, plus at most 1 % and 60 s | failed after 30 d |
| SNOOZE (another certbot) | 60 to 120 s | dead letter after 24 h: that certbot hangs |
| DEAD, SET_ASIDE | | dead letter at once |
| FAIL | | failed at once |

Two numbers are kept with the job. `fails` counts troubles of one policy in a row and picks the step of the schedule: it
starts anew when another policy takes over, since a new cause deserves a quick second look; mere waits (WAIT_UNTIL,
SNOOZE) leave it, or failed validations that run into their own limit would begin at one minute again and again.
`failing_since` is the day that people have, one for owner and admin together: it never starts anew, or a job that flips
between two causes would never end. It stands still while only the CA can act (WAIT_UNTIL, BACK_OFF), so a job that was
made to wait a week finds its people's time as it left it. A person's new command that joins the job gives a new day:
then store `fails` 0 and `failing_since` None. So every job ends: each wait of the first three kinds of people's time
uses up some of 24 h, each of the CA's some of 30 days, and waits for our own ledger end as its buckets refill.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Mender, Policy

PEOPLE_DELAYS_MINUTES = (1, 5, 15, 60)
"""The last one repeats."""

PEOPLE_TIME = timedelta(hours=24)
"""How long a cause that a person must mend may last (DESIGN A.3)."""

CA_TIME = timedelta(days=30)
"""How long after its admission a job may still wait for the CA: more than four times the longest limit (168 h)."""

_OUTAGE_CAP_MINUTES = 30
_OUTAGE_SPREAD = 0.25
_WITHOUT_A_TIME = timedelta(
    hours=1
)  # a failure limit lasts an hour at most, and a refused order costs nothing
_SOONEST_AFTER_REFUSAL = timedelta(minutes=1)  # whatever the CA's time says, its clock and ours differ
_LATEST = timedelta(days=31)  # a time beyond every published limit was misread
# DESIGN B.7 allows 3 %; that much of a week is five hours, and every waiting job has its own turn anyway.
_LIMIT_JITTER_SHARE = 0.01
_LIMIT_JITTER_MAX = timedelta(seconds=60)
_SNOOZE_SECONDS = (60, 120)
_MERE_WAITS = frozenset({Policy.WAIT_UNTIL, Policy.SNOOZE})


class RetryAction(StrEnum):
    """What becomes of the job."""

    WAIT = "wait"
    FAIL = "fail"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class History:
    """What is stored of the trouble that a job had.

    Attributes:
        admitted_at: when the job was made (or replayed), UTC.
        previous: the code that it waited for last, None at first.
        fails: troubles of that code's policy in a row.
        failing_since: when people's time began, moved on by what the CA took of it; UTC.
    """

    admitted_at: datetime
    previous: Code | None = None
    fails: int = 0
    failing_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What follows, to be stored as it is.

    Attributes:
        action: wait, fail or dead.
        code: the cause.
        run_at: when the job goes on, and what people see as `retryAt`; None where it ends. UTC.
        ends_at: when the same cause would end the job; None where nothing but success does, or where it ends now.
        counts_as_attempt: whether it is a failure; mere waits are none.
        because: why it is tried then, a sentence for `certpilot jobs show`.
        fails: to be stored.
        failing_since: to be stored.
    """

    action: RetryAction
    code: Code
    run_at: datetime | None
    ends_at: datetime | None
    counts_as_attempt: bool
    because: str
    fails: int
    failing_since: datetime | None


def decide_retry(
    code: Code, history: History, *, now: datetime, jitter: float, ca_retry_at: datetime | None = None
) -> RetryDecision:
    """Decide what follows a failure.

    Args:
        code: what went wrong.
        history: what the job had before.
        now: the schedule's clock (`certpilot_now()`), UTC.
        jitter: a draw in [0, 1); drawn once, since what it makes is stored.
        ca_retry_at: the CA's own time (Retry-After or the text of its refusal), where it gave one; UTC.

    Raises:
        ValueError: a rejection; it has no job.
    """
    row = CATALOGUE[code]
    match row.policy:
        case Policy.RECHECK | Policy.ADMIN:
            return _wait_for_people(code, history, now)
        case Policy.SNOOZE:
            return _snooze(code, history, now, jitter)
        case Policy.BACK_OFF:
            return _back_off(code, history, now, jitter, ca_retry_at)
        case Policy.WAIT_UNTIL:
            return _refused_by_ca(code, history, now, jitter, ca_retry_at)
        case Policy.DEAD | Policy.SET_ASIDE | Policy.FAIL:
            return _end(code, history, "no wait can mend it")
        case Policy.REJECT:
            raise ValueError(f"{code} is a rejection: there is no job to retry")


def wait_for_ledger(history: History, *, free_at: datetime, now: datetime, jitter: float) -> RetryDecision:
    """Wait until our own buckets allow the order (`core.limits.buckets`); nothing was sent, nothing failed.

    It has no end of its own: buckets refill, and a job that waits its turn for weeks behind thousands is in order.

    Args:
        history: what the job had before.
        free_at: when the strictest bucket allows it, UTC.
        now: UTC.
        jitter: a draw in [0, 1).
    """
    run_at = _with_jitter(free_at, now, jitter)
    because = f"{Code.TOO_MANY_REQUESTS}: our ledger of the CA's limits"
    since = _stopped(history, run_at - now)
    return _wait(
        Code.TOO_MANY_REQUESTS, run_at, because, fails=history.fails, since=since, ends_at=None, counts=False
    )


def with_open_attempt(decision: RetryDecision, now: datetime) -> RetryDecision:
    """The same where an attempt stays open: a job never ends with one, it looks again every hour (PROTOCOL 7)."""
    if decision.run_at is not None:
        return decision
    because = f"{decision.because}; but a run of it may still live on the server"
    run_at = now + timedelta(minutes=PEOPLE_DELAYS_MINUTES[-1])
    return replace(decision, action=RetryAction.WAIT, run_at=run_at, because=because)


def prove_with_staging(results: Sequence[Code | None], staging_url: str | None) -> bool:
    """Whether the next run is a dry run at the CA's staging: after a failed validation, until one has passed there.

    Staging allows 200 failures an hour and name, production 5.

    Args:
        results: how the job's closed attempts ended, the oldest first; None: without an error (a dry run that passed).
        staging_url: the staging directory; None: there is none, and a dry run would spend the CA's own limits.
    """
    if staging_url is None:
        return False
    # Runs that never came to a validation (killed, refused, busy) prove nothing either way.
    validations = [code for code in results if code is None or CATALOGUE[code].spends_ca_limit]
    return bool(validations) and validations[-1] is not None


def _wait_for_people(code: Code, history: History, now: datetime) -> RetryDecision:
    fails = _count(code, history)
    since = history.failing_since or now
    ends_at = since + PEOPLE_TIME
    who = "the owner" if CATALOGUE[code].mender is Mender.OWNER else "the server's admin"
    if now >= ends_at:
        return _end(code, history, f"it was not mended in the day since {_utc(since)}", fails)
    minutes = PEOPLE_DELAYS_MINUTES[min(fails, len(PEOPLE_DELAYS_MINUTES)) - 1]
    # The last look comes when the time is up, not up to an hour before.
    run_at = min(now + timedelta(minutes=minutes), ends_at)
    because = (
        f"{code}, time {fails}: looked at again after {minutes} min, until {_utc(ends_at)}; {who} mends it"
    )
    return _wait(code, run_at, because, fails=fails, since=since, ends_at=ends_at, counts=True)


def _snooze(code: Code, history: History, now: datetime, jitter: float) -> RetryDecision:
    since = history.failing_since or now
    ends_at = since + PEOPLE_TIME
    if now >= ends_at:
        return _end(code, history, f"another certbot has held the server's lock since {_utc(since)}")
    low, high = _SNOOZE_SECONDS
    run_at = min(now + timedelta(seconds=low + (high - low) * jitter), ends_at)
    because = f"{code}: nothing failed, it is tried again shortly"
    return _wait(code, run_at, because, fails=history.fails, since=since, ends_at=ends_at, counts=False)


def _back_off(
    code: Code, history: History, now: datetime, jitter: float, ca_retry_at: datetime | None
) -> RetryDecision:
    fails = _count(code, history)
    ends_at = history.admitted_at + CA_TIME
    if now >= ends_at:
        return _end(code, history, f"the CA is still out of order after {CA_TIME.days} days", fails)
    minutes = min(2 ** min(fails - 1, 10), _OUTAGE_CAP_MINUTES)
    run_at = now + timedelta(minutes=minutes) * (1 - _OUTAGE_SPREAD + 2 * _OUTAGE_SPREAD * jitter)
    because = f"{code}, try {fails}: about {minutes} min"
    if ca_retry_at is not None and ca_retry_at > run_at:
        run_at = _with_jitter(min(ca_retry_at, now + _LATEST), now, jitter)
        because = f"{code}, try {fails}: the CA says {_utc(ca_retry_at)}"
    since = _stopped(history, run_at - now)
    return _wait(code, run_at, because, fails=fails, since=since, ends_at=ends_at, counts=True)


def _refused_by_ca(
    code: Code, history: History, now: datetime, jitter: float, ca_retry_at: datetime | None
) -> RetryDecision:
    ends_at = history.admitted_at + CA_TIME
    if now >= ends_at:
        return _end(code, history, f"the CA still refuses after {CA_TIME.days} days")
    if ca_retry_at is None:
        at, because = now + _WITHOUT_A_TIME, f"{code}: the CA names no time"
    else:
        at, because = (
            max(ca_retry_at, now + _SOONEST_AFTER_REFUSAL),
            f"{code}: the CA says {_utc(ca_retry_at)}",
        )
    run_at = _with_jitter(min(at, now + _LATEST), now, jitter)
    since = _stopped(history, run_at - now)
    return _wait(code, run_at, because, fails=history.fails, since=since, ends_at=ends_at, counts=False)


def _wait(
    code: Code,
    run_at: datetime,
    because: str,
    *,
    fails: int,
    since: datetime | None,
    ends_at: datetime | None,
    counts: bool,
) -> RetryDecision:
    return RetryDecision(RetryAction.WAIT, code, run_at, ends_at, counts, because, fails, since)


def _with_jitter(at: datetime, now: datetime, jitter: float) -> datetime:
    return at + min((at - now) * _LIMIT_JITTER_SHARE, _LIMIT_JITTER_MAX) * jitter


def _count(code: Code, history: History) -> int:
    if history.previous is None:
        return 1
    before = CATALOGUE[history.previous].policy
    goes_on = before is CATALOGUE[code].policy or before in _MERE_WAITS
    return history.fails + 1 if goes_on else 1


def _stopped(history: History, wait: timedelta) -> datetime | None:
    """People's time stands still while the CA makes us wait."""
    return None if history.failing_since is None else history.failing_since + wait


def _end(code: Code, history: History, because: str, fails: int | None = None) -> RetryDecision:
    # A letter is for whoever can act on it: an admin or an operator (DESIGN A.9: not owners' failures).
    dies = CATALOGUE[code].policy in {Policy.ADMIN, Policy.DEAD, Policy.SET_ASIDE, Policy.SNOOZE}
    return RetryDecision(
        action=RetryAction.DEAD if dies else RetryAction.FAIL,
        code=code,
        run_at=None,
        ends_at=None,
        counts_as_attempt=True,
        because=f"{code}: {because}",
        fails=history.fails + 1 if fails is None else fails,
        failing_since=history.failing_since,
    )


def _utc(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
