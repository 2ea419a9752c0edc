"""Role runner, the Dramatiq side: the actors `issue_ssl`, `renew_ssl`, `remove_ssl`, `cleanup_ssl`. They begin a job and return.

No actor waits for certbot: `Runner.begin` starts the run and hands the job to the process's poller, so a handful of
threads holds hundreds of jobs (DESIGN B.2).
"""

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from contracts.topology import JOBS_QUEUE
from workers.core.model import JobId
from workers.edges.amqp.job_message import ACTOR_NAMES
from workers.runner.runner import Runner

_STOP_SECONDS = 5.0
"""For looks that are being made when the ordinary `dramatiq` command stops: it has waited for the actors already."""


def register(broker: RabbitmqBroker, runner: Runner) -> None:
    """Register the actors on this broker; the entry is the same, the job's row says what was asked for."""

    def begin(job_id: str, epoch: int) -> None:
        runner.begin(JobId(job_id), epoch)

    for name in ACTOR_NAMES.values():
        dramatiq.actor(actor_name=name, queue_name=JOBS_QUEUE, broker=broker)(begin)


class RunnerLifetime(dramatiq.Middleware):
    """Starts and stops the runner with dramatiq's worker, for the ordinary `dramatiq` command."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def after_process_boot(self, broker: Any) -> None:
        """Begin polling and heartbeats in the worker process, after its fork."""
        del broker
        self._runner.start()

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Claim nothing more while actors finish."""
        del broker, worker
        self._runner.refuse_new()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Hand back what is held."""
        del broker, worker
        self._runner.stop(_STOP_SECONDS)
