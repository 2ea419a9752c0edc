"""Role runner: a job from its claim to the end of its turn (PROTOCOL 2).

    begin   claim, connect, LOOK, decide; COUNT and START; hand the job to the poller        (an actor's thread)
    poll    LOOK, decide                                                                    (the poller's threads)
    finish  the run is over: read it, verify on disk and on the wire, OUTCOME                (the poller's threads)

B.2 would have an actor finish the run. The poller's pool does it instead: the leases and the connection are in this
process, and a message to an actor could go to another one.
"""

import threading
from uuid import uuid4

from contracts.codes import Code
from db import claims, outcomes
from db.claims import ClaimLostError, HeldJob, Unclaimable
from db.pool import DatabaseError, OperationalError, Pool, transaction
from workers import announce, logs
from workers.core.model import JobId, JobKind, Problem, Step
from workers.edges.errors import EdgeError, StaleFenceError
from workers.edges.short_retry import with_short_retry
from workers.runner import outcome
from workers.runner.ending import Endings
from workers.runner.flights import LEASE_SECONDS, Flight, Flights, Heartbeat
from workers.runner.ledger import Ledger
from workers.runner.poller import Poller
from workers.runner.turn import Turns, TurnTools, TurnWork
from workers.settings import Settings

log = logs.get(__name__)

_CRASHES_BEFORE_DEATH = 3
_RELOAD_SECONDS = 1.0
"""Between the loss of a database session and the next try: a restart takes about as long."""


class _LeftError(Exception):
    """The job is not to be had."""

    def __init__(self, why: Unclaimable) -> None:
        super().__init__(why.value)
        self.why = why


class Runner:
    """All jobs that this process holds."""

    def __init__(self, pool: Pool, config: Settings) -> None:
        self._pool = pool
        self.flights = Flights()
        self._heartbeat = Heartbeat(pool, self.flights)
        self._poller = Poller(config.runner_threads)
        self._endings = Endings(pool, ledger := Ledger(config.acme_directory_url, config.ca_limits_file))
        self._turns = Turns(pool, config, TurnTools(self._endings, ledger, self._poller), self._guarded)
        self._refusing = threading.Event()

    def start(self) -> None:
        """Start heartbeat and poller."""
        self._heartbeat.start()
        self._poller.start()

    def refuse_new(self) -> None:
        """Claim nothing more; what is refused stays queued and the scheduler offers it again."""
        self._refusing.set()

    def stop(self, wait_seconds: float) -> None:
        """Hand every job back, so that another runner goes on at once; the certbot runs go on without us.

        Args:
            wait_seconds: how long to wait for looks that are being made. What hangs longer is handed back under its
                thread's feet, whose next write the guard refuses, and whose next command the server.
        """
        self._refusing.set()
        self._poller.stop(wait_seconds)
        for flight in self.flights.all():
            if not self._hand_back(flight):
                # The database is away: each further try would wait as long, and the leases run out by themselves.
                break
        self._heartbeat.stop()

    def begin(self, job_id: JobId, epoch: int) -> None:
        """Claim a job and take its turn as far as it goes without waiting for certbot.

        Returns at once when the job is not to be had: its holder, or the scheduler, sees to it.
        """
        if self._refusing.is_set():
            return
        try:
            flight = Flight(with_short_retry(lambda: self._claim(job_id), OperationalError))
        except DatabaseError as error:
            log.warning("job.not_claimed", job=job_id, reason=str(error).strip())
            return
        except _LeftError as left:
            log.info("job.left", job=job_id, epoch=epoch, reason=left.why.value)
            return
        self.flights.add(flight)
        self._guarded(flight, self._turns.begin)

    def _claim(self, job_id: JobId) -> HeldJob:
        with transaction(self._pool) as conn:
            held = claims.claim(conn, job_id, uuid4(), LEASE_SECONDS)
            if isinstance(held, Unclaimable):
                # A half-taken set of leases must not stay.
                raise _LeftError(held)
            outcomes.count_crash_risk(conn, held)
            if held.kind is not JobKind.CLEANUP:
                message = f"Connecting to {held.server.host}."
                announce.progress(conn, outcome.about(held), Step.CONNECTING, message, attempt=held.attempt)
        return held

    def _guarded(self, flight: Flight, work: TurnWork) -> None:
        """Do a part of a turn; whatever goes wrong ends in an outcome, or in letting go of the job."""
        keep = False
        try:
            keep = self._attempt(flight, work)
        except (ClaimLostError, StaleFenceError) as error:
            log.warning("job.lost", job=flight.job_id, reason=str(error))
        except OperationalError as error:
            # What was written is not known: RELOAD and LOOK (PROTOCOL 1). Letting go would make the job wait for its
            # leases to run out, and count this claim among those whose process died.
            keep = True
            log.warning("job.interrupted", job=flight.job_id, reason=str(error).strip())
            self._poller.schedule(flight, _RELOAD_SECONDS, self._reload_and_go_on)
        except DatabaseError as error:
            # Nothing was written; the leases run out and whoever takes over looks first.
            log.warning("job.dropped", job=flight.job_id, reason=str(error).strip())
        except Exception:
            log.exception("job.internal_error", job=flight.job_id)
            self._end_as_bug(flight)
        finally:
            if not keep:
                self.flights.remove(flight)

    def _reload_and_go_on(self, flight: Flight) -> None:
        """Until the database answers; when it stays away, the heartbeat marks the flight as lost and ends this."""
        self._guarded(flight, self._turns.go_on)

    def _attempt(self, flight: Flight, work: TurnWork) -> bool:
        if flight.lost.is_set():
            raise ClaimLostError(flight.job_id)
        if flight.job.crashes >= _CRASHES_BEFORE_DEATH and not flight.job.attempt_open:
            message = f"The process that worked on it died {flight.job.crashes} times in a row."
            self._endings.problem(flight, Problem(Code.CRASHED, message))
            return False
        try:
            return work(flight)
        except EdgeError as error:
            return self._turns.unseen(flight, error)

    def _end_as_bug(self, flight: Flight) -> None:
        problem = Problem(Code.INTERNAL, "Something went wrong that certpilot does not understand.")
        try:
            with transaction(self._pool) as conn:
                flight.job = claims.hold(conn, flight.job.claim)
            # No job ends with an open attempt (PROTOCOL 7): it waits, or every claim would meet the bug at once again.
            end = self._endings.unseen if flight.job.attempt_open else self._endings.problem
            end(flight, problem)
        except (ClaimLostError, DatabaseError) as error:
            log.warning("job.lost", job=flight.job_id, reason=str(error).strip())

    def _hand_back(self, flight: Flight) -> bool:
        """Give the leases back; False when the database did not answer."""
        answered = True
        try:
            with transaction(self._pool) as conn:
                outcome.hand_back(conn, claims.hold(conn, flight.job.claim))
        except (ClaimLostError, DatabaseError) as error:
            answered = isinstance(error, ClaimLostError)
            log.warning("job.not_handed_back", job=flight.job_id, reason=str(error).strip())
        self.flights.remove(flight)
        return answered
