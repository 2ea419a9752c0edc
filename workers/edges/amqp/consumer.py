"""Consuming a queue in batches: what is there now goes to the handler at once, and is acknowledged after it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import tenacity

from workers import logs
from workers.edges.amqp.broker import BrokerUnavailableError
from workers.edges.amqp.delivery_stream import Delivery, DeliveryStream

_LOG = logs.get(__name__)

_FIRST_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 5.0


class Outcome(StrEnum):
    """What becomes of a delivery after its handler returned."""

    ACK = "ack"  # dealt with: committed, or set aside
    LEAVE = "leave"  # back to the head of the queue, to come again


Handler = Callable[[Sequence[Delivery]], Sequence[Outcome] | None]
"""Deals with one batch and commits. None acknowledges all; else one outcome for each delivery, in their order."""


class _HandlerFailedError(Exception):
    """The handler raised; that is logged."""


def consume(
    url: str,
    queue: str,
    handle_batch: Handler,
    *,
    prefetch: int,
    max_batch: int,
    stop: threading.Event,
    name: str,
    max_wait_seconds: float = 0.0,
) -> None:
    """Consume until `stop` is set; reconnect for as long as that takes.

    A batch is acknowledged after the handler returned, which is after its commit. Whatever ends before that (handler,
    process, connection, broker) brings the whole batch again, so a handler must bear to see a message twice. When it
    raises, nothing is acknowledged, the connection is dropped, and the messages come again after a back-off of 0.1 s
    that doubles up to 5 s and starts anew with the first success. The same wait follows a batch that was left whole.

    Args:
        url: broker URL, see `broker.connection_parameters`.
        queue: the queue's name.
        handle_batch: called in this thread; heartbeats go on meanwhile.
        prefetch: unacknowledged deliveries at a time. Two batches' worth keeps the handler busy.
        max_batch: most deliveries in a call of the handler.
        stop: ends the loop, at once where it waits, else after the handler's present batch.
        name: shown in the broker's connection list.
        max_wait_seconds: how long to wait for a batch to fill after its first delivery; 0 takes what is there.

    Raises:
        TopologyError: our queues cannot be declared.
    """
    loop = _Loop(
        lambda: DeliveryStream(url, queue, prefetch=prefetch, name=name),
        queue,
        handle_batch,
        max_batch,
        max_wait_seconds,
        stop,
    )
    ended = threading.Event()
    threading.Thread(target=loop.watch, args=(ended,), name=f"stop {name}", daemon=True).start()
    try:
        while not stop.is_set():
            loop.run_until_success_ends()
    finally:
        ended.set()


@dataclass(slots=True)
class _Loop:
    open: Callable[[], DeliveryStream]
    queue: str
    handle_batch: Handler
    max_batch: int
    max_wait_seconds: float
    stop: threading.Event
    stream: DeliveryStream | None = None
    left_whole: int = 0

    def watch(self, ended: threading.Event) -> None:
        """Wake the loop when it is to stop: it waits for deliveries and cannot wait for `stop` as well."""
        while not ended.is_set():
            if self.stop.wait(0.5):
                if stream := self.stream:
                    stream.wake()
                return

    def run_until_success_ends(self) -> None:
        """Try until a connection has handled something, and until that connection is over, or until `stop`."""
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((BrokerUnavailableError, _HandlerFailedError)),
            wait=tenacity.wait_exponential_jitter(
                multiplier=_FIRST_BACKOFF_SECONDS, max=_LONGEST_BACKOFF_SECONDS, jitter=0.1
            ),
            sleep=tenacity.sleep_using_event(self.stop),
            stop=tenacity.stop_when_event_set(self.stop),
            retry_error_callback=lambda _state: None,
        )
        attempts(self._one_connection)

    def _one_connection(self) -> None:
        handled = 0
        try:
            self.stream = self.open()
            while not self.stop.is_set():
                batch = self._next_batch(self.stream)
                if batch:
                    self._handle(self.stream, batch)
                    handled += 1
        except (BrokerUnavailableError, _HandlerFailedError) as error:
            _LOG.warning("consumer.interrupted", queue=self.queue, reason=str(error))
            if not handled:
                raise
        finally:
            if self.stream is not None:
                self.stream.close()
                self.stream = None

    def _next_batch(self, stream: DeliveryStream) -> list[Delivery]:
        batch = stream.take(self.max_batch, wait_seconds=None)
        if self.max_wait_seconds:
            deadline = time.monotonic() + self.max_wait_seconds
            while batch and len(batch) < self.max_batch:
                more = stream.take(self.max_batch - len(batch), wait_seconds=deadline - time.monotonic())
                if not more:
                    break
                batch += more
        return batch

    def _handle(self, stream: DeliveryStream, batch: Sequence[Delivery]) -> None:
        try:
            outcomes = self.handle_batch(batch)
        except Exception as error:
            _LOG.exception("consumer.handler_failed", queue=self.queue, messages=len(batch))
            raise _HandlerFailedError(f"the handler failed: {error!r}") from error
        if outcomes is None or Outcome.LEAVE not in outcomes:
            stream.ack(batch[-1], multiple=True)  # everything before it is settled already
            self.left_whole = 0
            return
        for delivery, outcome in zip(batch, outcomes, strict=True):
            if outcome is Outcome.ACK:
                stream.ack(delivery)
            else:
                stream.requeue(delivery)
        if Outcome.ACK in outcomes:
            self.left_whole = 0
        else:
            self.stop.wait(min(_FIRST_BACKOFF_SECONDS * 2**self.left_whole, _LONGEST_BACKOFF_SECONDS))
            self.left_whole += 1
