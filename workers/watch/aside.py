"""What the watch does beside its looks: a bounded number of tasks, so that servers that are off hold up nobody else."""

import contextlib
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from db.pool import DatabaseError
from workers import logs

log = logs.get(__name__)

_AT_ONCE = 16
"""At half a minute for a server that lets nobody in, as many as 1,900 an hour."""

_MOST_WAITING = 48


class Aside:
    """Runs tasks, from entering it to leaving it; who leaves waits for none."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)

    def submit(self, task: Callable[[], None]) -> None:
        """Run it soon; waits while too many do. What it raises is logged: its sites are due again after their hold."""
        self._tasks.put(task)

    def wait(self) -> None:
        """Wait until every task has run."""
        self._tasks.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except DatabaseError as error:
                log.warning("watch.trouble", error=str(error).strip())
            except Exception:
                log.exception("watch.internal_error")
            finally:
                self._tasks.task_done()

    def __enter__(self) -> Self:
        # Daemons, as an executor's threads are not: half a minute at a server that is off must not hold up a stop.
        for number in range(_AT_ONCE):
            threading.Thread(target=self._work, name=f"watch-aside-{number}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(_AT_ONCE):
            self._tasks.put(None)
