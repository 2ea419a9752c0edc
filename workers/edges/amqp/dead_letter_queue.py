"""A dead-letter queue as a person browses it: every letter once, nothing changed unless it is settled.

What is looked at and not settled goes back when the browser closes, at its old place. A window of letters and what is
kept by the caller stay in memory, so a hundred thousand letters need no more than a few hundred.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from contracts import topology
from contracts.times import parse_time
from contracts.topology import dead_letter_queue
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.delivery_stream import Delivery, DeliveryStream
from workers.edges.amqp.health import BrokerLook

_WINDOW = 200
_CLIENT = "certpilot dlq"
_QUIET_SECONDS = 5.0
"""Another reader may hold the rest; then this one sees what there is."""
_PARTING_SECONDS = 2.0
"""How long a reader that has just ended may still be counted."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    Attributes:
        queue: the consumed queue it came from.
        letter_id: distinct letters have distinct ids; copies of one share it.
        code: why it was set aside.
        reason: the same as a sentence.
        first_at: when it was set aside first; None where the header is not there.
        count: how often it was.
        routing_key: what it was published with.
        delivery: the message itself.
    """

    queue: str
    letter_id: str
    code: str
    reason: str
    first_at: datetime | None
    count: int
    routing_key: str
    delivery: Delivery


class DeadLetterBrowser:
    """Goes once over the letters of one queue.

    Attributes:
        queue: the consumed queue.
        total: how many letters lay there when it was opened, those that another reader held left out.
        other_readers: how many others consumed the same queue then; each may hold letters that are not seen here.
        missing: how many of `total` did not come, since another reader had them first; known after the last.
    """

    def __init__(self, url: str, queue: str) -> None:
        """Open the dead-letter queue of a consumed queue.

        Raises:
            BrokerUnavailableError: no connection could be made.
            TopologyError: our queues cannot be declared.
        """
        self.queue = queue
        self.missing = 0
        # Counted first: a letter that is replayed and set aside again comes back at the tail, and would be browsed for
        # ever.
        ensure_topology(url, name=_CLIENT)
        self.total, self.other_readers = _look(url, dead_letter_queue(queue))
        self._stream = DeliveryStream(url, dead_letter_queue(queue), prefetch=_WINDOW, name=_CLIENT)
        self._window_from = 0
        self._unsettled = 0

    def __iter__(self) -> Iterator[Letter]:
        """Every letter that lay there at the beginning, the oldest first.

        Raises:
            BrokerUnavailableError: the connection is gone; what was not settled lies there still.
        """
        left = self.total
        while left > 0 and (deliveries := self._stream.take(min(left, _WINDOW), wait_seconds=_QUIET_SECONDS)):
            left -= len(deliveries)
            self._unsettled += len(deliveries)
            for delivery in deliveries:
                yield _letter(self.queue, delivery)
            if left > 0 and self._unsettled >= _WINDOW:
                # Letters that stay fill the window.
                self._window_from, self._unsettled = deliveries[-1].tag + 1, 0
                self._stream.next_window()
        self.missing = left

    def remove(self, letter: Letter) -> None:
        """Acknowledge the letter: it has been dealt with."""
        self._stream.ack(letter.delivery)
        if letter.delivery.tag >= self._window_from:
            self._unsettled -= 1

    def close(self) -> None:
        """Put back what was not removed."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _look(url: str, name: str) -> tuple[int, int]:
    """Ready messages of a dead-letter queue, and its consumers after those that are just leaving have left."""
    deadline = time.monotonic() + _PARTING_SECONDS
    with closing(BrokerLook(url, name=_CLIENT)) as look:
        while True:
            (found,) = (one for one in look.letters() if one.name == name)
            if not found.consumers or time.monotonic() > deadline:
                return found.messages, found.consumers
            time.sleep(0.1)


def _letter(queue: str, delivery: Delivery) -> Letter:
    headers = delivery.headers

    def text(name: str, otherwise: str) -> str:
        value = headers.get(name)
        return value if isinstance(value, str) else otherwise

    count = headers.get(topology.LETTER_COUNT_HEADER)
    return Letter(
        queue=queue,
        letter_id=text(topology.LETTER_ID_HEADER, delivery.message_id or ""),
        code=text(topology.LETTER_CODE_HEADER, "INTERNAL"),
        reason=text(topology.LETTER_REASON_HEADER, ""),
        first_at=_time(text(topology.LETTER_FIRST_AT_HEADER, "")),
        count=count if isinstance(count, int) else 1,
        routing_key=text(topology.LETTER_ROUTING_KEY_HEADER, queue),
        delivery=delivery,
    )


def _time(text: str) -> datetime | None:
    try:
        return parse_time(text)
    except ValueError:
        return None
