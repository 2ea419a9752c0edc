"""A process that runs jobs with Dramatiq: with its own broker (`plain…`) or with ours (`ours`), the rest being equal.

What each job does stands in the plan, so that the same messages meet the same actors in both.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from contracts.topology import JOBS_QUEUE
from workers.core.model import JobId, JobKind
from workers.edges.amqp.dramatiq_setup import build_broker
from workers.edges.amqp.job_message import encode_job_message

ROOT = Path(__file__).parents[2]


def job_id(name: str) -> JobId:
    """The UUID by which a job of a plan goes on the queue."""
    return JobId(str(uuid5(NAMESPACE_OID, name)))


def message(name: str, **changes: Any) -> bytes:
    """The body for a job as our relay writes it, with fields of the envelope changed."""
    body = encode_job_message(JobKind.ISSUE, job_id(name), 1, f"message-{name}")
    return json.dumps(json.loads(body) | changes).encode() if changes else body


class PlainQuorumBroker(RabbitmqBroker):
    """The remedy that is usually named against classic queues: quorum with a small delivery limit."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum", "x-delivery-limit": 3}


class ForcedPrefetch(dramatiq.Middleware):
    """Fetches more than one message a thread, which our broker never does, so that only its other guards are left."""

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        broker.prefetch = worker.queue_prefetch = int(os.environ["FORCED_PREFETCH"])


class NotesStop(dramatiq.Middleware):
    """Writes down that the worker has begun to stop and that the broker's own middleware has seen it."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        note(self.log, "stopping", "worker")


def note(log: Path, what: str, name: str) -> None:
    with log.open("a") as file:
        file.write(f"{what} {name}\n")


def make_broker(mode: str, url: str, threads: int) -> RabbitmqBroker:
    if mode == "ours":
        broker: RabbitmqBroker = build_broker(url, threads=threads)
    else:
        kind = PlainQuorumBroker if mode == "plain-quorum" else RabbitmqBroker
        broker = kind(url=url, confirm_delivery=True)
    if "FORCED_PREFETCH" in os.environ:
        broker.add_middleware(ForcedPrefetch())
    return broker


def add_actor(broker: RabbitmqBroker, log: Path, plan: dict[str, dict[str, Any]]) -> None:
    """An actor that does what the plan says and writes down when."""
    broker.add_middleware(NotesStop(log))
    names = {job_id(name): name for name in plan}

    def issue_ssl(job_id: str, epoch: int) -> None:
        name = names[job_id]
        does = plan[name]
        note(log, "delivered", name)
        if does.get("claims"):
            try:  # stands for the claim of the job's row: the first delivery has it, every copy leaves
                os.close(os.open(f"{log}.{name}.{epoch}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        note(log, "start", name)
        if does.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait(does.get("seconds", 0))
        while does.get("holds") and not Path(f"{log}.go").exists():
            threading.Event().wait(0.02)
        if does.get("fail"):
            raise RuntimeError(f"{name} fails")
        note(log, "end", name)

    dramatiq.actor(issue_ssl, queue_name=JOBS_QUEUE, broker=broker)


def runner() -> None:
    """Entry point for the ordinary command: `dramatiq tests.support.job_worker:runner`."""
    options = json.loads(os.environ["JOB_WORKER"])
    broker = make_broker(options["mode"], options["url"], threads=1)
    add_actor(broker, Path(options["log"]), options["plan"])
    dramatiq.set_broker(broker)


def main() -> None:
    options = json.loads(os.environ["JOB_WORKER"])
    broker = make_broker(options["mode"], options["url"], options["threads"])
    add_actor(broker, Path(options["log"]), options["plan"])
    worker = dramatiq.Worker(broker, worker_threads=options["threads"], worker_timeout=200)
    worker.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    worker.stop(timeout=options["stop_seconds"] * 1000)
    broker.close()


@dataclass
class JobWorker:
    """The process, as a test holds it."""

    mode: str
    url: str
    plan: dict[str, dict[str, Any]]
    log: Path
    threads: int = 1
    stop_seconds: int = 30
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = (sys.executable, "-m", "tests.support.job_worker")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "JobWorker":
        options = {key: getattr(self, key) for key in ("mode", "url", "plan", "threads", "stop_seconds")}
        environment = {
            **os.environ,
            # Dramatiq waits three seconds after each lost connection.
            "dramatiq_restart_delay": "300",
            **self.environment,
            "JOB_WORKER": json.dumps({**options, "log": str(self.log)}),
        }
        with Path(f"{self.log}.err").open("ab") as errors:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdout=errors, stderr=errors, start_new_session=True
            )
        return self

    @property
    def errors(self) -> str:
        return Path(f"{self.log}.err").read_text()

    def times(self, what: str, name: str) -> int:
        return self.events().count(f"{what} {name}")

    def events(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)
            self.process = None

    def release(self) -> None:
        """Let the jobs go on that hold."""
        Path(f"{self.log}.go").touch()

    def ask_to_stop(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def wait_stopped(self, timeout_seconds: float) -> float:
        """Wait for the end of an orderly stop; how long that took."""
        assert self.process is not None
        began = time.monotonic()
        assert self.process.wait(timeout=timeout_seconds) == 0, self.errors
        return time.monotonic() - began


if __name__ == "__main__":
    main()
