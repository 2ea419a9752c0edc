"""What the holder of a job writes: the attempt it counts, and how its turn ends. Always after `db.claims.hold`.

Each statement repeats the fence and the state in its WHERE, so that even a caller without the guard could not write to
a job that is no longer its own (PROTOCOL 5 p, w).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from contracts.codes import Code
from db import claims
from db.claims import ClaimLostError, HeldJob
from db.pool import Connection
from workers.core.limits.costs import OrderFate
from workers.core.model import JobState


@dataclass(frozen=True, slots=True)
class ClosedAttempt:
    """How the open attempt ended, and what became of its order as far as the CA's limits go (PROTOCOL 2).

    Attributes:
        result: one word or two for people.
        code: how it failed; None: it did not.
        exit_code: certbot's, where there is one.
        evidence: the lines that decided.
        fate: of the order that was reserved.
        failed_names: whose validation failed at the CA; each has cost a failure.
    """

    result: str
    code: Code | None = None
    exit_code: int | None = None
    evidence: str | None = None
    fate: OrderFate = OrderFate.UNKNOWN
    failed_names: tuple[str, ...] = ()


def count_attempt(
    conn: Connection,
    job: HeldJob,
    *,
    serial_seen: str | None,
    orders: bool,
    spec: dict[str, object],
    spends: Sequence[dict[str, object]] = (),
) -> int:
    """COUNT: number and open the next attempt before anything starts on the server.

    Args:
        conn: the transaction that holds the job.
        job: the held job.
        serial_seen: serial of the certificate on disk; the first attempt keeps it, since a forced renewal has reached
            its goal only when the serial is another one.
        orders: whether the attempt may make a CA order.
        spec: what the server is told to run, so that whoever takes over can send the very same START.
        spends: the limit buckets reserved for it, as stored for giving back.

    Returns:
        The attempt's number.

    Raises:
        ClaimLostError: an attempt is open, the job was superseded, or it is no longer ours.
    """
    row = conn.execute(
        "with u as (update job set attempt = attempt + 1, attempt_open = true,"
        "  serial_before = case when attempt = 0 then coalesce(serial_before, %s) else serial_before end, crashes = 0, updated_at = certpilot_now()"
        "  where id = %s and state = 'running' and fence = %s and not attempt_open and superseded_by is null"
        "  returning id, attempt),"
        " a as (insert into job_attempt (job_id, attempt, fence, orders, spec, spends)"
        "  select id, attempt, %s, %s, %s, %s from u)"
        " select attempt from u",
        (
            serial_seen,
            job.claim.job_id,
            job.claim.fence,
            job.claim.fence,
            orders,
            Jsonb(spec),
            Jsonb(list(spends)),
        ),
    ).fetchone()
    if row is None:
        raise ClaimLostError(job.claim.job_id)
    attempt: int = row[0]
    return attempt


def count_crash_risk(conn: Connection, job: HeldJob) -> int:
    """Count this claim before anything of the job runs here; COUNT and every outcome set it back to 0.

    Returns:
        Claims in a row that ended in neither: three dead processes make the job `CRASHED` (DESIGN A.5).
    """
    row = conn.execute(
        "update job set crashes = crashes + 1 where id = %s and fence = %s returning crashes",
        (job.claim.job_id, job.claim.fence),
    ).fetchone()
    if row is None:
        raise ClaimLostError(job.claim.job_id)
    crashes: int = row[0]
    return crashes


def forgive_crash_risk(conn: Connection, job: HeldJob) -> None:
    """The process lives and lets go in an orderly way: this claim was no crash."""
    conn.execute(
        "update job set crashes = 0 where id = %s and fence = %s", (job.claim.job_id, job.claim.fence)
    )


def _close_attempt(conn: Connection, job: HeldJob, closed: ClosedAttempt) -> None:
    conn.execute(
        "update job_attempt set closed_at = clock_timestamp(), result = %s, error_code = %s, exit_code = %s, evidence = %s,"
        " orders = orders and %s where job_id = %s and attempt = %s and closed_at is null",
        (
            closed.result, closed.code, closed.exit_code, closed.evidence,
            closed.fate is not OrderFate.NOT_MADE, job.claim.job_id, job.attempt,
        ),
    )  # fmt: skip


def has_ordered(conn: Connection, job: HeldJob) -> bool:
    """Whether any of the job's attempts may have made an order; one that only installs does not."""
    row = conn.execute(
        "select exists (select from job_attempt where job_id = %s and orders)", (job.claim.job_id,)
    ).fetchone()
    return row is not None and bool(row[0])


def close_and_go_on(conn: Connection, job: HeldJob, closed: ClosedAttempt) -> None:
    """Close the open attempt; the job stays with its holder, who counts the next one.

    Raises:
        ClaimLostError: the job is no longer ours, or no attempt is open.
    """
    _close_attempt(conn, job, closed)
    done = conn.execute(
        "update job set attempt_open = false, crashes = 0, updated_at = certpilot_now()"
        " where id = %s and state = 'running' and fence = %s and attempt = %s and attempt_open",
        (job.claim.job_id, job.claim.fence, job.attempt),
    )
    _check(done.rowcount, job)


def closed_codes(conn: Connection, job: HeldJob) -> list[Code | None]:
    """How the job's closed attempts ended, the oldest first; None: without an error."""
    rows = conn.execute(
        "select error_code from job_attempt where job_id = %s and closed_at is not null order by attempt",
        (job.claim.job_id,),
    ).fetchall()
    return [Code(row[0]) if row[0] else None for row in rows]


def finish(
    conn: Connection,
    job: HeldJob,
    state: JobState,
    *,
    code: Code | None,
    message: str | None,
    because: str,
    closed: ClosedAttempt | None = None,
) -> None:
    """OUTCOME, final: the job ends in `state`, its open attempt is closed, its leases are free.

    Raises:
        ClaimLostError: the job is no longer ours, or an attempt is open that `closed` does not close.
    """
    if closed is not None:
        _close_attempt(conn, job, closed)
    done = conn.execute(
        "update job set state = %s, attempt_open = attempt_open and not %s, crashes = 0, error_code = %s,"
        " error_message = %s, because = %s, run_at = null, retry_at = null, finished_at = certpilot_now(),"
        " updated_at = certpilot_now()"
        " where id = %s and state = 'running' and fence = %s and attempt = %s and (not attempt_open or %s)",
        (
            state, closed is not None, code, message, because,
            job.claim.job_id, job.claim.fence, job.attempt, closed is not None,
        ),
    )  # fmt: skip
    _check(done.rowcount, job)
    claims.release(conn, job.claim)


def wait(
    conn: Connection,
    job: HeldJob,
    *,
    run_at: datetime,
    code: Code | None,
    message: str | None,
    because: str,
    fails: int,
    failing_since: datetime | None,
    waits_for_limit: str | None = None,
    closed: ClosedAttempt | None = None,
) -> None:
    """OUTCOME, not final: the job waits until `run_at` (which is what a person sees as retryAt); its leases are free.

    Raises:
        ClaimLostError: the job is no longer ours.
    """
    if closed is not None:
        _close_attempt(conn, job, closed)
    done = conn.execute(
        "update job set state = 'waiting', attempt_open = attempt_open and not %s, crashes = 0, error_code = %s,"
        " error_message = %s, because = %s, run_at = %s, retry_at = %s, fails = %s, failing_since = %s,"
        " waits_for_limit = %s, updated_at = certpilot_now()"
        " where id = %s and state = 'running' and fence = %s and attempt = %s",
        (
            closed is not None, code, message, because, run_at, run_at, fails, failing_since, waits_for_limit,
            job.claim.job_id, job.claim.fence, job.attempt,
        ),
    )  # fmt: skip
    _check(done.rowcount, job)
    claims.release(conn, job.claim)


def _check(rows: int, job: HeldJob) -> None:
    if rows != 1:
        raise ClaimLostError(job.claim.job_id)


@dataclass(frozen=True, slots=True)
class CountedAttempt:
    """What was stored when the current attempt was counted.

    Attributes:
        spec: what the server is told to run.
        spends: the limit buckets reserved.
        orders: whether it may make a CA order.
        opened_at: when it was counted, real time, UTC.
    """

    spec: dict[str, object]
    spends: list[dict[str, object]]
    orders: bool
    opened_at: datetime


def read_attempt(conn: Connection, job: HeldJob) -> CountedAttempt:
    """Read the job's current attempt; there is one (`job.attempt` > 0)."""
    with conn.cursor(row_factory=class_row(CountedAttempt)) as cursor:
        row = cursor.execute(
            "select spec, spends, orders, opened_at from job_attempt where job_id = %s and attempt = %s",
            (job.claim.job_id, job.attempt),
        ).fetchone()
    assert row is not None
    return row
