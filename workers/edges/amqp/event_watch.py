"""Watching the events of one site as they are published: on a queue of its own that is gone when the watch ends."""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from contracts.topology import BINDING_KEY, EVENT_SUBJECT_HEADER, EVENTS_EXCHANGE
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.link import Link

# A name of its own instead of the broker's `amq.gen-…`: users may be confined to `ssl.*`.
_QUEUE_PREFIX = "ssl.watch."


class EventWatch:
    """Every event of a site that is published while the watch is open, in order.

    Made before the command is published, it misses no answer. It cannot be resumed: when its connection is lost, so
    are its queue and what came in between.
    """

    def __init__(self, url: str, site_id: str, *, name: str) -> None:
        """Declare the topology, and a queue that is bound to `ssl.events`.

        Args:
            url: broker URL, see `broker.connection_parameters`.
            site_id: whose events.
            name: shown in the broker's connection list.

        Raises:
            BrokerUnavailableError: no connection could be made.
            TopologyError: our exchanges or queues cannot be declared.
        """
        self._site_id = site_id
        self._queue = f"{_QUEUE_PREFIX}{uuid4()}"
        self._channel: Any = None
        self._bodies: deque[bytes] = deque()
        self._changed = threading.Event()
        ensure_topology(url, name=name)
        self._link = Link(url, name=name, prepare=self._prepare, on_lost=lambda _error: self._changed.set())
        self._link.open()

    def next_body(self, timeout_seconds: float) -> bytes | None:
        """Wait for the next event.

        Returns:
            Its body, or None when none came in time.

        Raises:
            BrokerUnavailableError: the connection was lost, and everything before that was given.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._changed.clear()  # before looking, so that nothing set meanwhile is missed
            lost = self._link.lost
            if self._bodies:
                return self._bodies.popleft()
            if lost is not None:
                raise lost
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._changed.wait(left)

    def close(self) -> None:
        """End the watch; the broker deletes its queue."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, channel: Any, ready: Callable[[], None]) -> None:
        self._channel = channel
        # Classic whatever the vhost's default is: a quorum queue can be neither exclusive nor unreplicated.
        channel.queue_declare(
            self._queue,
            exclusive=True,
            auto_delete=True,
            arguments={"x-queue-type": "classic"},
            callback=lambda _frame: self._bind(ready),
        )

    def _bind(self, ready: Callable[[], None]) -> None:
        self._channel.queue_bind(
            self._queue, EVENTS_EXCHANGE, BINDING_KEY, callback=lambda _frame: self._consume(ready)
        )

    def _consume(self, ready: Callable[[], None]) -> None:
        self._channel.basic_consume(
            self._queue, self._on_message, auto_ack=True, callback=lambda _frame: ready()
        )

    def _on_message(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        # By the header, so that a busy system's other events cost no parsing.
        if (properties.headers or {}).get(EVENT_SUBJECT_HEADER) == self._site_id:
            self._bodies.append(body)
            self._changed.set()
