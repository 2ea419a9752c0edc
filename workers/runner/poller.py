"""When each running certbot is looked at next: no thread waits for a run (DESIGN B.2)."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from workers import logs
from workers.runner.flights import Flight

log = logs.get(__name__)

# A run of one name takes about 3 s: looking often at first costs the server little and ends the job at once; a run
# that takes minutes (slow CA, many names) is looked at seldom.
_SCHEDULE_SECONDS = ((8.0, 0.25), (30.0, 1.0), (120.0, 3.0))
_SLOWEST_SECONDS = 5.0


def poll_interval_seconds(running_seconds: float) -> float:
    """How long until the next look at a run of this age: 0.25 s up to 8 s, 1 s up to 30 s, 3 s up to 2 min, then 5 s."""
    return next(
        (interval for until, interval in _SCHEDULE_SECONDS if running_seconds < until), _SLOWEST_SECONDS
    )


class Poller:
    """A heap of due times, one thread that waits for the earliest, and a pool that does what is due."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="poll")
        self._due: list[tuple[float, int, Flight, Callable[[Flight], None]]] = []
        self._ties = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._at_work: set[Future[None]] = set()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def schedule(self, flight: Flight, delay_seconds: float, work: Callable[[Flight], None]) -> None:
        """Have `work(flight)` done after the delay, on a thread of the pool."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + delay_seconds, next(self._ties), flight, work))
            self._changed.notify()

    def stop(self, wait_seconds: float) -> None:
        """Start nothing more and wait for what is being done, but not longer than that.

        A look at a server that has gone silent takes its whole timeout, which is more than a service manager grants.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._executor.shutdown(wait=False, cancel_futures=True)
        wait(self._at_work.copy(), timeout=wait_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (seconds := self._seconds_until_due()) != 0.0:
                    self._changed.wait(seconds)
                if self._stopping:
                    return
                _, _, flight, work = heapq.heappop(self._due)
            future = self._executor.submit(_logged, work, flight)
            self._at_work.add(future)
            future.add_done_callback(self._at_work.discard)

    def _seconds_until_due(self) -> float | None:
        """0 when something is due, the seconds until then, or None when nothing is planned."""
        if not self._due:
            return None
        return max(0.0, self._due[0][0] - time.monotonic())


def _logged(work: Callable[[Flight], None], flight: Flight) -> None:
    try:
        work(flight)
    except Exception:
        # The leases expire and the job is taken over; nothing of ours may end the pool's thread in silence.
        log.exception("poll.failed", job=flight.job_id)
        flight.lost.set()
