"""What a queue delivers, as a stream that one thread takes from while another answers."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workers.edges.amqp.broker import BrokerUnavailableError, ensure_topology
from workers.edges.amqp.link import UNREADABLE_HEADER, Link


@dataclass(frozen=True, slots=True)
class Delivery:
    r"""One message as it was delivered. A text that is not UTF-8 has its odd bytes written as `\xNN`.

    Attributes:
        body: as it came.
        content_type: AMQP `content_type`.
        content_encoding: AMQP `content_encoding`.
        headers: AMQP headers.
        message_id: AMQP `message_id`.
        exchange: where it was published.
        routing_key: what it was published with.
        redelivered: it may have been delivered before.
        readable: False where its AMQP properties could not be read; they are all absent then.
        tag: delivery tag, of use to `stream` alone.
        stream: the stream that delivered it and the only one that may settle it.
    """

    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    message_id: str | None
    exchange: str
    routing_key: str
    redelivered: bool
    readable: bool
    tag: int = field(compare=False)
    stream: "DeliveryStream" = field(repr=False, compare=False)


class DeliveryStream:
    """One consumer of one queue on one connection. When that is lost, the stream is over: open another.

    Attributes:
        queue: the queue's name.
    """

    def __init__(self, url: str, queue: str, *, prefetch: int, name: str) -> None:
        """Declare the topology and start to consume.

        Args:
            url: broker URL, see `broker.connection_parameters`.
            queue: its name.
            prefetch: how many deliveries may be unsettled at a time, at least 1.
            name: shown in the broker's connection list.

        Raises:
            BrokerUnavailableError: no connection could be made.
            TopologyError: our queues cannot be declared.
        """
        self.queue = queue
        self._prefetch = prefetch
        self._buffer: deque[Delivery] = deque()
        self._ready = threading.Event()
        self._woken = False
        self._cancelled = False
        self._channel: Any = None
        self._consumer_tag = ""
        ensure_topology(url, name=name)
        self._link = Link(url, name=name, prepare=self._prepare, on_lost=lambda _error: self._ready.set())
        self._link.open()

    @property
    def lost(self) -> BrokerUnavailableError | None:
        """Why the stream is over, or None while it goes on."""
        return self._link.lost

    def take(self, most: int, *, wait_seconds: float | None) -> list[Delivery]:
        """Take up to `most` deliveries: those that are here, or the first to come within `wait_seconds`.

        Args:
            most: at least 1.
            wait_seconds: how long to wait for the first; None waits until it comes or `wake` is called.

        Returns:
            At least one delivery, or none when the time passed, or after `wake`.

        Raises:
            BrokerUnavailableError: the stream is over. What it had delivered comes again to somebody.
        """
        deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
        while True:
            self._ready.clear()  # before looking, so that nothing set meanwhile is missed
            if self._link.lost is not None:
                raise self._link.lost
            if self._buffer:
                return self._pop(most)
            left = None if deadline is None else deadline - time.monotonic()
            if self._woken or (left is not None and left <= 0):
                return []
            self._ready.wait(left)

    def wake(self) -> None:
        """Let `take` return at once, now and from now on."""
        self._woken = True
        self._ready.set()

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """Acknowledge a delivery (with `multiple` all before it as well). Any thread may.

        Returns:
            False where it was not sent: the delivery is another stream's, or this stream is over. Its tag would name
            nothing, or another message; the broker delivers it again, and its handler finds it done.
        """
        return self._settle(delivery, lambda: self._channel.basic_ack(delivery.tag, multiple=multiple))

    def requeue(self, delivery: Delivery) -> bool:
        """Hand a delivery back to the queue's head. Any thread may; False as in `ack`."""
        return self._settle(delivery, lambda: self._channel.basic_nack(delivery.tag, requeue=True))

    def next_window(self) -> None:
        """Let as many more come as the window holds, beside those that are not settled: theirs counts no more.

        What is left unsettled stays so until `close`. A window of everything would have the broker send everything
        at once, and a look at 100,000 messages would need memory for all of them.
        """
        self._link.call(self._next_window)

    def cancel(self) -> None:
        """Take no more from the queue and hand back what nobody has taken; what was taken can still be settled."""
        self._link.call(self._cancel)

    def close(self) -> None:
        """End the stream after what was settled; all else goes back to the queue."""
        self._link.close()

    def _settle(self, delivery: Delivery, send: Callable[[], None]) -> bool:
        if delivery.stream is not self:
            return False
        return self._link.call(lambda: send() if self._channel.is_open else None)

    def _pop(self, most: int) -> list[Delivery]:
        taken: list[Delivery] = []
        try:
            while len(taken) < most:
                taken.append(self._buffer.popleft())
        except IndexError:  # the buffer is empty
            pass
        return taken

    def _prepare(self, channel: Any, ready: Callable[[], None]) -> None:
        self._channel = channel
        # The broker cancels a consumer whose queue is deleted or, from 4.3 on, one that is slow to acknowledge.
        channel.add_on_cancel_callback(lambda _frame: self._link.abort("the broker cancelled the consumer"))
        channel.basic_qos(prefetch_count=self._prefetch)
        self._consumer_tag = channel.basic_consume(
            self.queue, self._on_message, callback=lambda _frame: ready()
        )

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        headers = properties.headers or {}
        readable = UNREADABLE_HEADER not in headers
        self._buffer.append(
            Delivery(
                body=body,
                content_type=_text(properties.content_type),
                content_encoding=_text(properties.content_encoding),
                headers={_text(key) or "": value for key, value in headers.items()} if readable else {},
                message_id=_text(properties.message_id),
                exchange=_text(method.exchange) or "",
                routing_key=_text(method.routing_key) or "",
                redelivered=method.redelivered,
                readable=readable,
                tag=method.delivery_tag,
                stream=self,
            )
        )
        if not self._ready.is_set():
            self._ready.set()

    def _next_window(self) -> None:
        """A consumer of its own for each window; the channel keeps what a cancelled one left unsettled."""
        if not self._cancelled and self._channel.is_open:
            self._channel.basic_cancel(self._consumer_tag, callback=lambda _frame: self._consume())

    def _consume(self) -> None:
        if not self._cancelled and self._channel.is_open:
            self._consumer_tag = self._channel.basic_consume(self.queue, self._on_message)

    def _cancel(self) -> None:
        if not self._cancelled and self._channel.is_open:
            self._cancelled = True
            self._channel.basic_cancel(self._consumer_tag, callback=lambda _frame: self._hand_back())

    def _hand_back(self) -> None:
        for delivery in self._pop(len(self._buffer)):
            self._channel.basic_nack(delivery.tag, requeue=True)


def _text(value: str | bytes | None) -> str | None:
    """Give pika's short strings as text; it leaves those that are not UTF-8 as bytes."""
    return value.decode("ascii", "backslashreplace") if isinstance(value, bytes) else value
