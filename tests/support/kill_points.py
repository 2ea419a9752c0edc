"""A role in a process of its own that kills itself at its n-th step: just before or after a commit or an external call."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

from workers import intake, logs, wiring
from workers.edges.amqp.delivery_stream import DeliveryStream
from workers.edges.amqp.publisher import Publisher
from workers.edges.server.ssh import SshConnection
from workers.edges.web.dns import Resolver
from workers.edges.web.http_probe import Prober
from workers.runner import wire
from workers.settings import Settings

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])
_COMMITS = [(psycopg.Transaction, "__exit__")]
_CALLS: list[tuple[Any, str]] = [
    (SshConnection, "connect"), (SshConnection, "run"), (Resolver, "look_up"), (Prober, "fetch_all"),
    (wire, "handshake_all"), (Publisher, "begin_batch"), (DeliveryStream, "ack"),
]  # fmt: skip


def start(role: str, config: dict[str, Any], die_at: int) -> Any:
    """A process of that role; the caller kills it where it outlives its work."""
    process = _context.Process(target=_run, args=(role, config, die_at), daemon=True)
    process.start()
    return process


def start_killed_by(config: dict[str, Any], site_id: str) -> Any:
    """An intake that dies as soon as it looks into a command of that site, as of a body that eats all memory."""
    process = _context.Process(target=_run_killed_by, args=(config, site_id), daemon=True)
    process.start()
    return process


def died_at_its_step(process: Any) -> bool:
    """Whether it killed itself; False where it still lives."""
    process.join(0)
    if process.exitcode is None:
        return False
    assert process.exitcode == -signal.SIGKILL, f"the role ended by itself with {process.exitcode}"
    return True


def kill(process: Any) -> None:
    """End it where it still lives."""
    process.kill()
    process.join(10)


def _run(role: str, config: dict[str, Any], die_at: int) -> None:
    steps, lock = itertools.count(1), threading.Lock()

    def step() -> None:
        with lock:
            if next(steps) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def stepping(*args: Any, **kwargs: Any) -> Any:
            step()
            result = inner(*args, **kwargs)
            step()
            return result

        # A bound classmethod stays bound; anything else becomes a function of the class or module.
        setattr(owner, name, staticmethod(stepping) if hasattr(inner, "__self__") else stepping)

    for owner, name in (*_COMMITS, *_CALLS):
        around(owner, name)
    logs.configure("text")
    with suppress(KeyboardInterrupt):
        wiring.ROLES[role](Settings(**config), threading.Event())


def _run_killed_by(config: dict[str, Any], site_id: str) -> None:
    inner = intake.take

    def taking(conn: Any, delivery: Any) -> None:
        if site_id.encode() in delivery.body:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(conn, delivery)

    intake.take = taking
    logs.configure("text")
    wiring.ROLES["intake"](Settings(**config), threading.Event())
