"""Dramatiq as the executor of jobs, on our quorum queue and with its ways to lose or repeat a message closed.

It runs actors and nothing more: no delays, no retries, no time limits, no dead-letter queue of its own. Every wait is
a row in PostgreSQL (DESIGN B.1, B.2). Each override names its reason; numbers are the findings of FACTS-worker 0. They
reach into private names, so pyproject pins Dramatiq exactly.
"""

import time
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.common import iter_queue
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Middleware, SkipMessage

from contracts.topology import JOBS_DLQ, JOBS_QUEUE
from workers import logs
from workers.edges.amqp.broker import BrokerError, connection_parameters, declare_topology
from workers.edges.amqp.delivery_stream import Delivery, DeliveryStream
from workers.edges.amqp.job_message import ACTOR_NAMES, MalformedJobMessageError, decode_job_message
from workers.edges.amqp.publisher import Publisher, PublishResult
from workers.edges.amqp.set_aside import malformed_job_letter

_LOG = logs.get(__name__)

_NAME = "certpilot-runner"
_SET_ASIDE_SECONDS = 5.0
"""How long the job consumer waits for a dead letter's confirm: innocent messages wait behind it."""

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_IDLE_WAKE_MILLISECONDS = 500


def build_broker(url: str, *, threads: int) -> "JobBroker":
    """Make the broker for actors `issue_ssl` and `renew_ssl`; nothing connects before a worker starts.

    For the ordinary `dramatiq` command also give it to `dramatiq.set_broker`. Actors take `job_id` and `epoch` as
    keywords, have `queue_name=JOBS_QUEUE`, and no options: those of Dramatiq's own middleware do not exist here.

    An actor that raises is logged with its traceback, and its message is acknowledged: the job's row in PostgreSQL is
    the truth, and the scheduler offers a queued job anew that nobody claimed. Redelivery would only run the same fault
    again at once. What an actor must not lose it has committed before it returns or raises.

    Args:
        url: broker URL, see `broker.connection_parameters`.
        threads: prefetch until a worker says how many threads it has.
    """
    return JobBroker(url, threads=threads)


def start_worker(broker: "JobBroker", *, threads: int) -> dramatiq.Worker:
    """Start worker threads on the broker's actors, all of which must be declared by now.

    `worker.stop(timeout=MILLISECONDS)` takes no more from the queue, hands back what no actor has begun, waits for
    running actors, and leaves the message of one that takes longer unacknowledged, to be delivered to another runner.
    """
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=_IDLE_WAKE_MILLISECONDS)
    worker.start()
    return worker


class JobBroker(RabbitmqBroker):
    """Dramatiq's RabbitMQ broker on the one queue `ssl.jobs`.

    Attributes:
        prefetch: unacknowledged messages a worker holds: one for each thread. More would sit behind a running actor
            while another runner is idle, and go down with a message that kills the process (finding 8).
    """

    def __init__(self, url: str, *, threads: int) -> None:
        """Describe the broker; see `build_broker`."""
        super().__init__(confirm_delivery=True, middleware=[_WorkerBounds()])
        self.parameters = connection_parameters(url, name=_NAME)
        self.prefetch = threads
        self._url = url
        self._consumers: set[JobConsumer] = set()
        self._letters = Publisher(url, name=f"{_NAME}-letters", confirm_seconds=_SET_ASIDE_SECONDS)

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Note our queue, without the delay queue beside it that would make the worker consume `ssl.jobs.DQ`.

        Raises:
            ValueError: it is another queue.
        """
        if queue_name != JOBS_QUEUE:
            raise ValueError(f"actors run on the queue {JOBS_QUEUE}, not {queue_name}")
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.queues_pending.add(queue_name)
            self.emit_after("declare_queue", queue_name)
        if ensure:
            self._ensure_queue(queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> "JobConsumer":
        """Consume with our own prefetch: the command line fixes twice the threads before our code is imported."""
        del prefetch
        consumer = JobConsumer(self, self._url, queue_name, self.prefetch, timeout / 1000)
        self._consumers.add(consumer)
        return consumer

    def stop_consuming(self) -> None:
        """Take no more messages and hand back those that no thread has taken; what runs goes on."""
        for consumer in tuple(self._consumers):
            consumer.cancel()

    def set_aside(self, delivery: Delivery, reason: str) -> bool:
        """Publish a message that cannot be run to `ssl.jobs.dlq` (DESIGN A.9); False where that is not confirmed."""
        try:
            results = self._letters.publish_batch([malformed_job_letter(delivery, reason)])
        except BrokerError as error:
            _LOG.warning("job_message.not_set_aside", reason=str(error))
            return False
        return results == [PublishResult.CONFIRMED]

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Publish a message, for tests and trials: the relay publishes the real ones.

        Raises:
            ValueError: it has a delay (kept in memory by Dramatiq, lost or repeated after 30 minutes: finding 5), or
                is not a thin message of ours.
        """
        if delay is not None:
            raise ValueError("a job that waits is a row with run_at, not a delayed message")
        decode_job_message(message.encode())
        return super().enqueue(message)

    def close(self) -> None:
        """Close every connection."""
        self._letters.close()
        super().close()

    def forget(self, consumer: "JobConsumer") -> None:
        """Drop a consumer that was closed."""
        self._consumers.discard(consumer)

    def _ensure_queue(self, canonical_queue_name: str) -> None:
        """Declare as every role does, instead of classic queues and a dead-letter queue that forgets (finding 7)."""
        if canonical_queue_name in self.queues_pending:
            declare_topology(self.channel)
            self.queues_pending.discard(canonical_queue_name)

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        """Count what waits: on the queue, delayed (never any), in the dead-letter queue."""
        counts = [
            self.channel.queue_declare(q, passive=True).method.message_count for q in (queue_name, JOBS_DLQ)
        ]
        return counts[0], 0, counts[1]


class JobConsumer(dramatiq.Consumer):
    """Delivers thin messages to Dramatiq's threads; everything else is set aside before Dramatiq sees it."""

    def __init__(self, broker: JobBroker, url: str, queue: str, prefetch: int, wait_seconds: float) -> None:
        """Connect.

        Raises:
            ConnectionClosed: that failed; Dramatiq tries again after its `dramatiq_restart_delay` (3 s).
        """
        self._broker = broker
        self._wait_seconds = wait_seconds
        self._unplaced: list[tuple[Delivery, str]] = []
        self._pause_seconds = 0.0
        self._try_again_at = 0.0
        try:
            self._stream = DeliveryStream(url, queue, prefetch=prefetch, name=_NAME)
        except BrokerError as error:
            _LOG.error("runner.cannot_consume", reason=str(error))
            raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]  # Dramatiq's

    def __next__(self) -> "JobDelivery | None":
        """Give the next message, or None when none came in time.

        Raises:
            ConnectionClosed: the connection was lost.
        """
        if self._unplaced and time.monotonic() >= self._try_again_at:
            self._place_letters()
        try:
            taken = self._stream.take(1, wait_seconds=self._wait_seconds)
        except BrokerError as error:
            _LOG.warning("runner.interrupted", reason=str(error))
            raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]  # Dramatiq's
        return self._read(taken[0]) if taken else None

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """Acknowledge, on the connection that delivered it.

        Dramatiq calls the consumer of the moment. After a reconnect the tag that a running actor holds names another
        message there, which would be lost unseen (finding 1). The broker delivers the actor's own message again, and
        the second run finds the job claimed.
        """
        if isinstance(message, JobDelivery) and not self._stream.ack(message.delivery):
            _LOG.info("job_message.redelivered_later", message_id=message.message_id)

    def nack(self, message: dramatiq.MessageProxy) -> None:
        """Set the message aside: rejecting it would delete it, as our queues have no dead-letter exchange."""
        if isinstance(message, JobDelivery):
            reason = "Dramatiq gave it up"
            if self._broker.set_aside(message.delivery, reason):
                self._stream.ack(message.delivery)

    def cancel(self) -> None:
        """Take no more messages; those that were taken can still be acknowledged."""
        self._stream.cancel()

    def close(self) -> None:
        """Close the connection; what is not acknowledged goes back."""
        self._broker.forget(self)
        self._stream.close()

    def _read(self, delivery: Delivery) -> "JobDelivery | None":
        try:
            job = decode_job_message(delivery.body)
        except MalformedJobMessageError as error:
            self._refuse(delivery, str(error))
            return None
        actor = ACTOR_NAMES[job.kind]
        if actor not in self._broker.actors:
            self._refuse(delivery, f"this runner has no actor {actor}")
            return None
        # The queue's name is ours, whatever a body says: a wrong one kills a worker thread (finding 4).
        kwargs = {"job_id": job.job_id, "epoch": job.epoch}
        return JobDelivery(
            dramatiq.Message(JOBS_QUEUE, actor, (), kwargs, options={}, message_id=job.message_id), delivery
        )

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        self._unplaced.append((delivery, reason))
        self._place_letters()

    def _place_letters(self) -> None:
        """Set aside what waits for it. What cannot be placed stays unacknowledged and is tried again, later and later."""
        while self._unplaced:
            delivery, reason = self._unplaced[0]
            if not self._broker.set_aside(delivery, reason):
                self._pause_seconds = min(
                    self._pause_seconds * 2 or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS
                )
                self._try_again_at = time.monotonic() + self._pause_seconds
                return
            _LOG.warning("job_message.set_aside", reason=reason)
            self._stream.ack(delivery)
            self._unplaced.pop(0)
            self._pause_seconds = 0.0


class JobDelivery(dramatiq.MessageProxy):
    """A message in Dramatiq's hands, with the delivery that it came by."""

    def __init__(self, message: dramatiq.Message[Any], delivery: Delivery) -> None:
        """Tie the two."""
        super().__init__(message)
        self.delivery = delivery


class _WorkerBounds(Middleware):
    """Where a worker begins and ends.

    There is no other middleware. Retries and AgeLimit would decide what PostgreSQL decides, TimeLimit and
    ShutdownNotifications raise in the midst of a clean-up, Callbacks and Pipelines obey whoever wrote the message.
    """

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        broker.prefetch = worker.queue_prefetch = worker.worker_threads

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Skip what a lost connection had delivered and no thread had begun: it comes again, and would run twice."""
        del broker
        if message.delivery.stream.lost is not None:
            raise SkipMessage

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Hand back at once what no actor has begun; Dramatiq goes on taking messages until the last actor has ended."""
        broker.stop_consuming()
        for item in iter_queue(worker.work_queue):  # type: ignore[no-untyped-call]  # Dramatiq's
            item.message.delivery.stream.requeue(item.message.delivery)
            worker.work_queue.task_done()
