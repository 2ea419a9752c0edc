"""`certpilot run`: one role, or all of them in one process."""

import argparse
import signal
import sys
import threading

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
            stop.set()
        else:
            log.info("role.stopped", role=name)

    threads = [threading.Thread(target=run_one, args=(name,), name=name) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return FAILED if failed.is_set() else DONE
