"""The jobs that this process holds, and the heartbeat that keeps their leases."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from db import claims
from db.claims import HeldJob
from db.pool import DatabaseError, Pool, transaction
from workers import logs, metrics
from workers.core.model import JobId
from workers.edges.server.agent import ServerAgent

log = logs.get(__name__)

LEASE_SECONDS = 12.0
"""A dead runner's job goes on elsewhere within 15 s: this, plus the scheduler's round and the claim. A living runner
that stalls longer loses nothing: whoever takes over attaches to the same certbot run (PROTOCOL 4)."""

HEARTBEAT_SECONDS = 3.0
"""Three heartbeats may fail before a lease expires."""


@dataclass(slots=True)
class Flight:
    """One job in this process's hands.

    Attributes:
        job: the row as last read under the guard.
        agent: the open connection to the server's script; None before connecting and after closing.
        started_at: `time.monotonic()` of the claim.
        run_started_at: the same of the START or the attach.
        announced_installing: whether the step was told already.
        stop_sent: whether the run was asked to stop at its deadline.
        lost: set when the leases are no longer ours; nothing more may be sent or written.
    """

    job: HeldJob
    agent: ServerAgent | None = None
    started_at: float = field(default_factory=time.monotonic)
    run_started_at: float = 0.0
    announced_installing: bool = False
    stop_sent: bool = False
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def job_id(self) -> JobId:
        """The job's id."""
        return self.job.claim.job_id

    def close(self) -> None:
        """Close the connection; a certbot run that goes on does not notice."""
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.close()


class Flights:
    """The registry: a job is in it from its claim to its outcome."""

    def __init__(self) -> None:
        self._flights: dict[JobId, Flight] = {}
        self._lock = threading.Lock()

    def add(self, flight: Flight) -> None:
        """Hold the flight; its leases are renewed from now on."""
        with self._lock:
            self._flights[flight.job_id] = flight
            metrics.JOBS_HELD.set(len(self._flights))

    def remove(self, flight: Flight) -> None:
        """Let go of the flight and close its connection; a newer claim of the same job stays."""
        with self._lock:
            if self._flights.get(flight.job_id) is flight:
                del self._flights[flight.job_id]
            metrics.JOBS_HELD.set(len(self._flights))
        metrics.TURN_SECONDS.observe(time.monotonic() - flight.started_at)
        flight.close()

    def all(self) -> list[Flight]:
        """The flights at this moment."""
        with self._lock:
            return list(self._flights.values())

    def __len__(self) -> int:
        return len(self._flights)


class Heartbeat:
    """A thread that renews all leases of the process in one statement a round."""

    def __init__(self, pool: Pool, flights: Flights) -> None:
        self._pool = pool
        self._flights = flights
        self._stop = threading.Event()
        self._last_success = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, at once."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._beat(self._flights.all())

    def _beat(self, flights: list[Flight]) -> None:
        begun = time.monotonic()
        if not flights:
            self._last_success = begun
            return
        try:
            with transaction(self._pool) as conn:
                whole = claims.renew_all(conn, [flight.job.claim for flight in flights], LEASE_SECONDS)
        except DatabaseError as error:
            log.warning("lease.renew_failed", error=str(error).strip())
            if time.monotonic() - self._last_success > LEASE_SECONDS:
                _mark_lost(flights)
            return
        self._last_success = begun
        _mark_lost(flight for flight in flights if flight.job.claim.owner not in whole)


def _mark_lost(flights: Iterable[Flight]) -> None:
    for flight in flights:
        if not flight.lost.is_set():
            log.warning("lease.lost", job=flight.job_id, server=flight.job.server_key)
            flight.lost.set()
