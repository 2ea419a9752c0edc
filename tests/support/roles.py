"""Roles of ours in threads of the test, stopped at its end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from workers import wiring
from workers.settings import Settings


@contextmanager
def running(config: Settings, *names: str) -> Iterator[None]:
    """Run the roles while the block lasts; a role that fails fails the test."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run(name: str) -> None:
        try:
            wiring.ROLES[name](config, stop)
        except BaseException as error:  # noqa: BLE001  # handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(name,), name=f"role {name}") for name in names]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in threads)
