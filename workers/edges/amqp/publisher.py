"""Publishing with confirms in windows: many messages under way at once, and an answer for each.

One confirm awaited per message is ten times slower, and no confirms lose messages when the broker dies (FACTS-worker
0, finding 6, and 3.3).
"""

import re
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import pika
import pika.exceptions
import pika.spec

from workers import logs
from workers.edges.amqp.broker import BrokerUnavailableError, ensure_topology
from workers.edges.amqp.link import Link
from workers.edges.amqp.outgoing import CONFIRM_SECONDS, Batch, OutgoingMessage, PublishResult

__all__ = ["Batch", "OutgoingMessage", "PublishResult", "Publisher"]

_LOG = logs.get(__name__)

WINDOW = 1000
"""Messages under way on one connection; more gains nothing and only fills buffers."""

_CHUNK = 100
"""Published in one go before the socket is served again, so that the broker works while we encode."""

_PERSISTENT = 2
_TOO_LARGE = re.compile(r"larger than configured max size (\d+)")


class Publisher:
    """Publishes batches over one connection, which it makes again when it was lost.

    Safe to share between threads. Batches go out in the order in which `begin_batch` was called, messages in the order
    of their batch.
    """

    def __init__(self, url: str, *, name: str, confirm_seconds: float = CONFIRM_SECONDS) -> None:
        """Describe the publisher; the first batch connects.

        Args:
            url: broker URL, see `broker.connection_parameters`.
            name: shown in the broker's connection list.
            confirm_seconds: how long `publish_batch` waits for the confirms of a batch.
        """
        self._url = url
        self._name = name
        self._confirm_seconds = confirm_seconds
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._doubtful = False

    def publish_batch(self, messages: Sequence[OutgoingMessage]) -> list[PublishResult]:
        """Publish all messages and wait for their confirms.

        Returns:
            One result per message, in their order.

        Raises:
            BrokerUnavailableError: no connection could be made; nothing was published.
            TopologyError: our queues cannot be declared; nothing was published.
        """
        if self._doubtful and len(messages) > 1:
            # After a batch without answers, for instance in a memory alarm, the broker may yet take what it was sent.
            # One message tries the way, so that each further try can leave one copy and not a batch of them.
            first = self.publish_batch(messages[:1])
            if first != [PublishResult.CONFIRMED]:
                return first + [PublishResult.UNKNOWN] * (len(messages) - 1)
            return first + self.publish_batch(messages[1:])
        results = self.begin_batch(messages).wait(self._confirm_seconds)
        self._doubtful = PublishResult.UNKNOWN in results
        return results

    def begin_batch(self, messages: Sequence[OutgoingMessage]) -> Batch:
        """Start publishing and return at once, so that a caller can prepare the next batch meanwhile.

        Raises:
            BrokerUnavailableError: no connection could be made; nothing was published.
            TopologyError: our queues cannot be declared; nothing was published.
        """
        batch = Batch(messages)
        if batch.messages:
            with self._lock:
                self._live_session().begin(batch)
        return batch

    def close(self) -> None:
        """Close the connection; batches under way end as UNKNOWN."""
        with self._lock:
            if self._session is not None:
                self._session.link.close()
                self._session = None

    def _live_session(self) -> "_Session":
        session = self._session
        if session is not None and session.saw_nack:
            # A channel that was refused by a full quorum queue stays refused on RabbitMQ 3.10, even after the limit
            # was lifted and the queue drained; a new channel is taken (seen).
            session.link.close()
        if session is None or session.link.lost is not None:
            ensure_topology(self._url, name=self._name)
            session = self._session = _Session(self._url, self._name)
        elif session.saw_return and session.idle:
            # Not while a batch is under way: what is sent now would find the queue that those before it lacked, and
            # arrive first.
            session.saw_return = False
            ensure_topology(self._url, name=self._name)
        return session


class _Session:
    """What is under way on one link. Only `begin` is called from outside the I/O thread.

    Attributes:
        link: the link; all here ends with it.
        saw_return: a message had no queue; cleared by who declares the topology again.
        saw_nack: the broker refused a message.
    """

    def __init__(self, url: str, name: str) -> None:
        self.saw_return = False
        self.saw_nack = False
        self._channel: Any = None
        self._batches: set[Batch] = set()
        self._waiting: deque[tuple[Batch, int]] = deque()
        self._in_flight: dict[int, tuple[Batch, int]] = {}
        self._returned: set[int] = set()
        self._last_tag = 0
        self.link = Link(url, name=name, prepare=self._prepare, on_lost=self._lost)
        self.link.open()

    @property
    def idle(self) -> bool:
        """Whether every message has its result."""
        return not self._batches

    def begin(self, batch: Batch) -> None:
        """Hand the batch to the I/O thread. If the link ends before it is sent, `_lost` finds it in `_batches`."""
        batch.give_up = lambda: self.link.abort("no confirm in time")
        self._batches.add(batch)
        if not self.link.call(lambda: self._send(batch)):
            self._forget(batch)

    def _prepare(self, channel: Any, ready: Callable[[], None]) -> None:
        self._channel = channel
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: ready())

    def _send(self, batch: Batch) -> None:
        self._waiting.extend((batch, index) for index in range(len(batch.messages)))
        self._pump()

    def _pump(self) -> None:
        room = min(_CHUNK, WINDOW - len(self._in_flight), len(self._waiting))
        if room <= 0 or not self._channel.is_open:
            return
        with self.link.gathering():
            for _ in range(room):
                batch, index = self._waiting.popleft()
                try:
                    self._publish(batch.messages[index])
                except (ValueError, TypeError, struct.error, pika.exceptions.AMQPError) as error:
                    # pika encodes before it sends anything, so the broker did not count this one.
                    _LOG.exception(
                        "publisher.cannot_encode",
                        message_id=batch.messages[index].message_id,
                        reason=str(error),
                    )
                    batch.settle(index, PublishResult.REFUSED)
                else:
                    self._last_tag += 1
                    self._in_flight[self._last_tag] = (batch, index)
        self.link.call(self._pump)

    def _publish(self, message: OutgoingMessage) -> None:
        self._channel.basic_publish(
            message.exchange,
            message.routing_key,
            message.body,
            pika.BasicProperties(
                content_type=message.content_type,
                headers=dict(message.headers) or None,
                delivery_mode=_PERSISTENT,
                message_id=message.message_id,
                type=message.type,
            ),
            mandatory=True,
        )

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """Remember an unroutable message. Its confirm follows, sometimes together with others' (AMQP 0-9-1 confirms)."""
        self.saw_return = True
        returned = (properties.message_id, method.exchange, method.routing_key)
        for tag, (batch, index) in self._in_flight.items():
            message = batch.messages[index]
            if (message.message_id, message.exchange, message.routing_key) == returned:
                self._returned.add(tag)

    def _on_confirm(self, frame: Any) -> None:
        upto = frame.method.delivery_tag
        acked = isinstance(frame.method, pika.spec.Basic.Ack)
        self.saw_nack = self.saw_nack or not acked
        tags = takewhile(lambda tag: tag <= upto, list(self._in_flight)) if frame.method.multiple else (upto,)
        for tag in tags:
            batch, index = self._in_flight.pop(tag)
            if not acked:
                result = PublishResult.NACKED
            elif tag in self._returned:
                self._returned.discard(tag)
                result = PublishResult.RETURNED
            else:
                result = PublishResult.CONFIRMED
            batch.settle(index, result)
            if batch.done.is_set():
                self._batches.discard(batch)
        if self._waiting and len(self._in_flight) <= WINDOW // 2:
            self._pump()

    def _lost(self, error: BrokerUnavailableError) -> None:
        if self._in_flight or self._waiting:
            _LOG.warning(
                "publisher.lost", reason=str(error), unconfirmed=len(self._in_flight) + len(self._waiting)
            )
        if limit := _TOO_LARGE.search(str(error)):
            for batch, index in self._in_flight.values():
                if len(batch.messages[index].body) > int(limit[1]):
                    batch.settle(index, PublishResult.REFUSED)
        for batch in tuple(self._batches):
            self._forget(batch)

    def _forget(self, batch: Batch) -> None:
        self._batches.discard(batch)
        for index in range(len(batch.messages)):
            batch.settle(index, PublishResult.UNKNOWN)
