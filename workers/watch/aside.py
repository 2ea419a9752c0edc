"""What the watch does beside its looks: a bounded number of tasks, so that servers that are off hold up nobody else."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from db.pool import DatabaseError
from workers import logs

log = logs.get(__name__)

_AT_ONCE = 16
"""At half a minute for a server that lets nobody in, as many as 1,900 an hour."""

_MOST = 64


class Aside:
    """Runs tasks; leaving it drops those that have not begun and waits for the others."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="watch-aside")
        self._room = threading.BoundedSemaphore(_MOST)

    def submit(self, task: Callable[[], None]) -> None:
        """Run it soon; waits while 64 others are under way. What it raises is logged: it is due again after its hold."""
        self._room.acquire()
        self._executor.submit(self._run, task).add_done_callback(lambda _: self._room.release())

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except DatabaseError as error:
            log.warning("watch.trouble", error=str(error).strip())
        except Exception:
            log.exception("watch.internal_error")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)
