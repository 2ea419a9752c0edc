"""The composition root: settings in, running roles out. The only place that builds edges.

`dramatiq workers.wiring:runner` starts a runner with the ordinary dramatiq command; importing this module connects to
nothing.
"""

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

import dramatiq

from contracts.topology import ACTIVITY_QUEUE, COMMANDS_QUEUE
from db import migrate
from db.pool import OperationalError, connect, open_pool
from workers import activity, actors, intake, logs, metrics, settings
from workers.edges.amqp.broker import BrokerUnavailableError, ensure_topology
from workers.edges.amqp.consumer import consume
from workers.edges.amqp.dramatiq_setup import build_broker, start_worker
from workers.edges.amqp.publisher import Publisher
from workers.relay import Relay
from workers.runner.runner import Runner
from workers.scheduler import Scheduler
from workers.settings import Settings
from workers.watch.watch import Watch

log = logs.get(__name__)

_INTAKE_BATCH = 25
_SCHEMA_POLL_SECONDS = 1.0
_BROKER_POLL_SECONDS = 1.0
_WATCH_STOP_SECONDS = 5.0

Role = Callable[[Settings, threading.Event], None]
"""Works until the event is set."""


def run_intake(config: Settings, stop: threading.Event) -> None:
    """Role intake."""
    with open_pool(config.database_url, "certpilot-intake", max_size=2) as pool:
        handler = intake.Intake(pool).handle
        consume(
            config.rabbitmq_url, COMMANDS_QUEUE, handler,
            prefetch=intake.PREFETCH, max_batch=_INTAKE_BATCH, stop=stop, name="certpilot-intake",
        )  # fmt: skip


def run_activity(config: Settings, stop: threading.Event) -> None:
    """Role activity."""
    with open_pool(config.database_url, "certpilot-activity", max_size=2) as pool:
        handler = activity.Activity(pool).handle
        consume(
            config.rabbitmq_url, ACTIVITY_QUEUE, handler,
            prefetch=activity.PREFETCH, max_batch=activity.MAX_BATCH, stop=stop, name="certpilot-activity",
        )  # fmt: skip


def run_relay(config: Settings, stop: threading.Event) -> None:
    """Role relay."""
    publisher = Publisher(config.rabbitmq_url, name="certpilot-relay")
    try:
        with open_pool(config.database_url, "certpilot-relay", max_size=2) as pool:
            Relay(pool, config.database_url, publisher).run(stop)
    finally:
        publisher.close()


def run_scheduler(config: Settings, stop: threading.Event) -> None:
    """Role scheduler, and beside it the watch, whose looks must not hold up what is due."""
    with (
        open_pool(config.database_url, "certpilot-scheduler", max_size=2) as pool,
        open_pool(config.database_url, "certpilot-watch", max_size=4) as watch_pool,
    ):
        watch = threading.Thread(
            target=Watch(watch_pool, config).run, args=(stop,), name="watch", daemon=True
        )
        watch.start()
        try:
            Scheduler(pool).run(stop)
        finally:
            stop.set()
            watch.join(_WATCH_STOP_SECONDS)


def run_runner(config: Settings, stop: threading.Event) -> None:
    """Role runner: dramatiq's worker threads begin jobs, the poller sees them through."""
    _ensure_topology(config, stop)
    broker = build_broker(config.rabbitmq_url, threads=config.runner_threads)
    with open_pool(config.database_url, "certpilot-runner", max_size=config.runner_threads + 4) as pool:
        job_runner = Runner(pool, config)
        actors.register(broker, job_runner)
        job_runner.start()
        worker = start_worker(broker, threads=config.runner_threads)
        stop.wait()
        log.info("runner.stopping", jobs=len(job_runner.flights))
        # First nothing more is taken from the queue, then nothing new is claimed, then what is held is handed back.
        broker.stop_consuming()
        job_runner.refuse_new()
        worker.stop(timeout=config.stop_seconds * 1000 // 2)
        job_runner.stop(config.stop_seconds / 5)
        broker.close()


def _ensure_topology(config: Settings, stop: threading.Event) -> None:
    """Declare the queues before Dramatiq does, which would log a clash every three seconds for ever.

    Raises:
        TopologyError: a queue of that name was declared otherwise; the message says what to do.
    """
    while not stop.is_set():
        try:
            ensure_topology(config.rabbitmq_url, name="certpilot-runner")
        except BrokerUnavailableError as error:
            log.warning("start.waits", reason=str(error))
            stop.wait(_BROKER_POLL_SECONDS)
        else:
            return


ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "intake": run_intake,
        "runner": run_runner,
        "relay": run_relay,
        "activity": run_activity,
        "scheduler": run_scheduler,
    }
)


def wait_for_schema(config: Settings, stop: threading.Event) -> bool:
    """Wait until the database answers and has every migration of this version.

    Returns:
        False when `stop` was set first.

    Raises:
        MigrationError: the database is newer than this program, or a migration was edited.
    """
    said = ""
    while not stop.is_set():
        try:
            with connect(config.database_url, "certpilot-start", autocommit=True) as conn:
                missing = migrate.pending(conn)
        except OperationalError as error:
            problem = f"the database does not answer: {str(error).strip()}"
        else:
            if not missing:
                return True
            problem = f"the database lacks {', '.join(missing)}: run `certpilot migrate`"
        if problem != said:
            log.warning("start.waits", reason=problem)
            said = problem
        stop.wait(_SCHEMA_POLL_SECONDS)
    return False


def runner() -> None:
    """Entry point of `dramatiq workers.wiring:runner`: sets dramatiq's global broker, with our actors on it."""
    config = settings.load()
    logs.configure(config.log_format)
    wait_for_schema(config, threading.Event())
    if config.metrics_addr is not None:
        metrics.serve(config.metrics_addr)
    broker = build_broker(config.rabbitmq_url, threads=config.runner_threads)
    pool = open_pool(config.database_url, "certpilot-runner", max_size=config.runner_threads + 4)
    job_runner = Runner(pool, config)
    actors.register(broker, job_runner)
    broker.add_middleware(actors.RunnerLifetime(job_runner))
    dramatiq.set_broker(broker)
