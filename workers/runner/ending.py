"""From what went wrong to how the turn ends: the core decides, one transaction writes it."""

import random
from dataclasses import replace
from datetime import datetime, timedelta

from contracts.codes import Code
from db import claims, pool
from db.claims import HeldJob
from db.outcomes import ClosedAttempt
from db.pool import Connection, OperationalError, Pool, transaction
from workers import logs
from workers.core.model import Certificate, JobState, Problem
from workers.core.retry import History, RetryAction, RetryDecision, decide_retry, wait_for_ledger
from workers.edges.short_retry import with_short_retry
from workers.runner import outcome
from workers.runner.flights import Flight
from workers.runner.outcome import End, Wait

log = logs.get(__name__)

_HOUR = timedelta(hours=1)


def end_with_problem(
    db_pool: Pool, flight: Flight, problem: Problem, closed: ClosedAttempt | None = None
) -> None:
    """Wait, fail or die, as the code's policy wants.

    Raises:
        ClaimLostError: the job is no longer ours; nothing was written.
        OperationalError: the database is away; the leases run out and the job is taken over.
    """

    def write() -> RetryDecision | None:
        with transaction(db_pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            if _end_as_wished(conn, job, closed):
                return None
            now = pool.now(conn)
            decision = decide_retry(
                problem.code,
                history_of(job),
                now=now,
                jitter=random.random(),
                ca_retry_at=problem.retry_at,
            )
            _write(conn, job, decision, problem, closed)
        return decision

    decision = with_short_retry(write, OperationalError)
    if decision is not None:
        log.info(
            "job.turn_ended", job=flight.job_id, code=str(problem.code), action=str(decision.action),
            run_at=decision.run_at and decision.run_at.isoformat(), reason=problem.message,
        )  # fmt: skip


def end_unseen(db_pool: Pool, flight: Flight, problem: Problem) -> None:
    """The server could not be looked at: wait, and leave an open attempt as it is (PROTOCOL 4.3).

    Where the policy would end the job, it goes on waiting as long as an attempt is open (PROTOCOL 7).
    """
    with transaction(db_pool) as conn:
        job = claims.hold(conn, flight.job.claim)
        now = pool.now(conn)
        decision = decide_retry(problem.code, history_of(job), now=now, jitter=random.random())
        if job.attempt_open and decision.action is not RetryAction.WAIT:
            decision = replace(decision, action=RetryAction.WAIT, run_at=now + _HOUR)
        _write(conn, job, decision, problem, None)
    log.info("job.unseen", job=flight.job_id, code=str(problem.code), reason=problem.message)


def end_waiting_for_ledger(db_pool: Pool, flight: Flight, free_at: datetime, limit: str) -> None:
    """Wait until our own ledger of the CA's limits allows the order; nothing was sent and nothing failed."""
    with transaction(db_pool) as conn:
        job = claims.hold(conn, flight.job.claim)
        decision = wait_for_ledger(
            history_of(job),
            free_at=free_at,
            now=pool.now(conn),
            jitter=random.random(),
        )
        problem = Problem(Code.TOO_MANY_REQUESTS, f"The certificate authority's limit {limit} is used up.")
        _write(conn, job, decision, problem, None)


def end_well(
    db_pool: Pool, flight: Flight, certificate: Certificate, because: str, closed: ClosedAttempt | None = None
) -> None:
    """The certificate is on disk and on the wire.

    Raises:
        ClaimLostError: the job is no longer ours; nothing was written.
        OperationalError: the database is away.
    """

    def write() -> None:
        with transaction(db_pool) as conn:
            outcome.succeed(conn, claims.hold(conn, flight.job.claim), certificate, because, closed)

    with_short_retry(write, OperationalError)
    log.info(
        "job.succeeded",
        job=flight.job_id,
        domain=flight.job.domain,
        not_after=certificate.not_after.isoformat(),
    )


def end_superseded_or_cancelled(db_pool: Pool, flight: Flight, closed: ClosedAttempt | None = None) -> None:
    """End as a newer command or an operator wanted; the run, if there was one, is over.

    Raises:
        ClaimLostError: the job is no longer ours, or nobody wants that any more.
    """
    with transaction(db_pool) as conn:
        job = claims.hold(conn, flight.job.claim)
        if not _end_as_wished(conn, job, closed):
            raise claims.ClaimLostError(flight.job_id)


def history_of(job: HeldJob) -> History:
    """What the retry policy wants to know of the job's past."""
    return History(job.admitted_at, job.error_code, job.fails, job.failing_since)


def _end_as_wished(conn: Connection, job: HeldJob, closed: ClosedAttempt | None) -> bool:
    if job.superseded_by is not None:
        outcome.superseded(conn, job, closed)
        return True
    if job.cancel_requested:
        outcome.cancelled(conn, job, closed)
        return True
    return False


def _write(
    conn: Connection, job: HeldJob, decision: RetryDecision, problem: Problem, closed: ClosedAttempt | None
) -> None:
    if decision.action is RetryAction.WAIT:
        assert decision.run_at is not None
        shown = Problem(problem.code, problem.message, problem.names, decision.run_at, problem.evidence)
        ending = Wait(decision.run_at, shown, decision.because, decision.fails, decision.failing_since)
        outcome.wait(conn, job, ending, closed)
        return
    state = JobState.DEAD if decision.action is RetryAction.DEAD else JobState.FAILED
    ended = Problem(problem.code, problem.message, problem.names, None, problem.evidence)
    outcome.end(conn, job, state, End(ended, decision.because), closed)
