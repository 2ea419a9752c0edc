"""`certpilot run`: one role, or all of them in one process."""

import argparse
import os
import signal
import sys
import threading
import time

from db.migrate import MigrationError
from workers import logs, metrics, settings, wiring
from workers.cli.main import DONE, FAILED
from workers.settings import Settings

log = logs.get(__name__)


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the role."""
    del command
    parser.add_argument("role", choices=[*wiring.ROLES, "all"])


def run(command: str, args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT. A role that fails ends the process with 1: the service manager starts it anew."""
    del command
    config = settings.load()
    logs.configure(config.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        if not wiring.wait_for_schema(config, stop):
            return DONE
    except MigrationError as error:
        print(f"run: {error}", file=sys.stderr)
        return FAILED
    if config.metrics_addr is not None:
        metrics.serve(config.metrics_addr)
    names = list(wiring.ROLES) if args.role == "all" else [args.role]
    return _run_roles(names, config, stop)


def _run_roles(names: list[str], config: Settings, stop: threading.Event) -> int:
    failed = threading.Event()

    def run_one(name: str) -> None:
        log.info("role.started", role=name)
        try:
            wiring.ROLES[name](config, stop)
        except Exception:
            log.exception("role.failed", role=name)
            failed.set()
        else:
            log.info("role.stopped", role=name)
        finally:
            stop.set()

    threads = [threading.Thread(target=run_one, args=(name,), name=name) for name in names]
    for thread in threads:
        thread.start()
    stop.wait()
    deadline = time.monotonic() + config.stop_seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    code = FAILED if failed.is_set() else DONE
    _leave(code, late=[thread.name for thread in threads if thread.is_alive()])
    return code


def _leave(code: int, late: list[str]) -> None:
    """End the process here where a thread still hangs at a silent server or database, which it may do for a minute.

    Nothing is lost with it: what was not committed is not acknowledged, and leases run out.
    """
    if late:
        log.warning("role.stop_overdue", roles=late)
    if late or any(
        not thread.daemon for thread in threading.enumerate() if thread is not threading.current_thread()
    ):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
