"""From what happened to how the turn ends: the core decides, one transaction writes it, ledger included."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from contracts.codes import Code
from db import claims, pool, sites
from db.claims import HeldJob
from db.outcomes import ClosedAttempt
from db.pool import Connection, OperationalError, Pool, transaction
from workers import logs, metrics
from workers.core.deciding.retry import (
    History,
    RetryAction,
    RetryDecision,
    decide_retry,
    wait_for_ledger,
    with_open_attempt,
)
from workers.core.lifetime.own_renewal import before_expiry
from workers.core.limits.costs import Spend
from workers.core.model import Certificate, JobState, Problem
from workers.edges.short_retry import with_short_retry
from workers.runner import outcome
from workers.runner.flights import Flight
from workers.runner.ledger import Ledger, Wait
from workers.runner.outcome import End, Remark

log = logs.get(__name__)

T = TypeVar("T")


class Endings:
    """The ways in which a turn ends.

    Every method raises
        ClaimLostError: the job is no longer ours; nothing was written.
        OperationalError: the database is away; the leases run out and the job is taken over.
    """

    def __init__(self, db_pool: Pool, ledger: Ledger) -> None:
        self._pool = db_pool
        self._ledger = ledger

    def problem(self, flight: Flight, problem: Problem, closed: ClosedAttempt | None = None) -> None:
        """Wait, fail or die, as the code's policy wants."""

        def write(conn: Connection, job: HeldJob) -> RetryDecision | None:
            self._settle(conn, job, closed, problem)
            if _end_as_wished(conn, job, closed):
                return None
            wait = self._ledger.wait_after_refusal(conn, job, closed, problem) if closed is not None else None
            decision = decide_retry(
                problem.code,
                history_of(job),
                now=pool.now(conn),
                jitter=random.random(),
                ca_retry_at=wait.turn_at if wait else problem.retry_at,
            )
            if wait is None and job.is_own_renewal:
                decision = before_expiry(decision, sites.expiry(conn, job.site_id), pool.now(conn))
            _write(conn, job, decision, problem, closed, waits_for_limit=wait.bucket if wait else None)
            return decision

        decision = self._in_transaction(flight, write)
        if decision is not None:
            metrics.TURNS.labels(problem.code).inc()
            log.info(
                "job.turn_ended", job=flight.job_id, code=str(problem.code), action=str(decision.action),
                run_at=decision.run_at and decision.run_at.isoformat(), reason=problem.message,
            )  # fmt: skip

    def unseen(self, flight: Flight, problem: Problem) -> None:
        """The server could not be looked at: wait, and leave an open attempt as it is (PROTOCOL 4.3).

        Where the policy would end the job, it goes on waiting as long as an attempt is open (PROTOCOL 7).
        """

        def write(conn: Connection, job: HeldJob) -> None:
            now = pool.now(conn)
            decision = decide_retry(problem.code, history_of(job), now=now, jitter=random.random())
            if job.attempt_open:
                decision = with_open_attempt(decision, now)
            if job.is_own_renewal:
                decision = before_expiry(decision, sites.expiry(conn, job.site_id), now)
            _write(conn, job, decision, problem, None)

        self._in_transaction(flight, write)
        log.info("job.unseen", job=flight.job_id, code=str(problem.code), reason=problem.message)

    def limited(self, flight: Flight, spends: tuple[Spend, ...]) -> None:
        """Our ledger does not allow the order yet: wait for this job's turn; nothing was sent and nothing failed."""

        def write(conn: Connection, job: HeldJob) -> Wait | None:
            if _end_as_wished(conn, job, None):
                return None
            wait = self._ledger.wait_for_turn(conn, job, spends)
            decision = wait_for_ledger(
                history_of(job), free_at=wait.turn_at, now=pool.now(conn), jitter=random.random()
            )
            words = wait.limit.replace("_", " ")
            problem = Problem(
                Code.TOO_MANY_REQUESTS, f"The certificate authority's limit of {words} is used up."
            )
            _write(conn, job, decision, problem, None, waits_for_limit=wait.bucket)
            return wait

        wait = self._in_transaction(flight, write)
        if wait is not None:
            log.info("job.limited", job=flight.job_id, limit=wait.limit, turn_at=wait.turn_at.isoformat())

    def well(
        self,
        flight: Flight,
        certificate: Certificate,
        because: str,
        closed: ClosedAttempt | None,
        remark: Remark,
    ) -> None:
        """The certificate is on disk and on the wire; what else was seen is told with it."""

        def write(conn: Connection, job: HeldJob) -> None:
            self._settle(conn, job, closed, None)
            outcome.succeed(conn, job, certificate, because, closed, remark=remark)

        self._in_transaction(flight, write)
        metrics.TURNS.labels("succeeded").inc()
        log.info(
            "job.succeeded",
            job=flight.job_id,
            domain=flight.job.domain,
            not_after=certificate.not_after.isoformat(),
        )

    def unwanted(self, flight: Flight) -> None:
        """End as a newer command or an operator wanted; no run of it can live any more."""

        def write(conn: Connection, job: HeldJob) -> None:
            if not _end_as_wished(conn, job, None):
                raise claims.ClaimLostError(flight.job_id)

        self._in_transaction(flight, write)

    def _in_transaction(self, flight: Flight, write: Callable[[Connection, HeldJob], T]) -> T:
        """Write behind the guard; again after a blip. After a lost commit reply the guard refuses, which is right."""

        def once() -> T:
            with transaction(self._pool) as conn:
                return write(conn, claims.hold(conn, flight.job.claim))

        return with_short_retry(once, OperationalError)

    def _settle(
        self, conn: Connection, job: HeldJob, closed: ClosedAttempt | None, problem: Problem | None
    ) -> None:
        if closed is not None:
            self._ledger.settle(conn, job, closed, problem)


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
    conn: Connection,
    job: HeldJob,
    decision: RetryDecision,
    problem: Problem,
    closed: ClosedAttempt | None,
    *,
    waits_for_limit: str | None = None,
) -> None:
    if decision.action is RetryAction.WAIT:
        assert decision.run_at is not None
        shown = replace(problem, retry_at=decision.run_at)
        ending = outcome.Wait(
            decision.run_at, shown, decision.because, decision.fails, decision.failing_since, waits_for_limit
        )
        outcome.wait(conn, job, ending, closed)
        return
    state = JobState.DEAD if decision.action is RetryAction.DEAD else JobState.FAILED
    outcome.end(conn, job, state, End(replace(problem, retry_at=None), decision.because), closed)
