"""A dead-letter queue as a person browses it: every letter once, nothing changed unless it is settled.

What is looked at and not settled goes back when the browser closes, at its old place. Only what is kept by the caller
stays in memory, so a hundred thousand letters need no more than one.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from contracts import topology
from contracts.times import parse_time
from contracts.topology import dead_letter_queue
from workers.edges.broker import ensure_topology
from workers.edges.broker_health import BrokerLook
from workers.edges.delivery_stream import Delivery, DeliveryStream

_PREFETCH = 0
"""Everything: a letter that is left is not acknowledged, and a window would fill with those."""

_CLIENT = "certpilot dlq"
_QUIET_SECONDS = 5.0
"""Another browser may hold the rest; then this one sees what there is."""
_BATCH = 200


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
        total: how many letters lay there when it was opened.
    """

    def __init__(self, url: str, queue: str) -> None:
        """Open the dead-letter queue of a consumed queue.

        Raises:
            BrokerUnavailableError: no connection could be made.
            TopologyError: our queues cannot be declared.
        """
        self.queue = queue
        # Counted first: a letter that is replayed and set aside again comes back at the tail, and would be browsed for
        # ever.
        ensure_topology(url, name=_CLIENT)
        with closing(BrokerLook(url, name=_CLIENT)) as look:
            self.total = {one.name: one.messages for one in look.letters()}[dead_letter_queue(queue)]
        self._stream = DeliveryStream(url, dead_letter_queue(queue), prefetch=_PREFETCH, name=_CLIENT)

    def __iter__(self) -> Iterator[Letter]:
        """Every letter that lay there at the beginning, the oldest first.

        Raises:
            BrokerUnavailableError: the connection is gone; what was not settled lies there still.
        """
        left = self.total
        while left > 0 and (deliveries := self._stream.take(min(left, _BATCH), wait_seconds=_QUIET_SECONDS)):
            left -= len(deliveries)
            for delivery in deliveries:
                yield _letter(self.queue, delivery)

    def remove(self, letter: Letter) -> None:
        """Acknowledge the letter: it has been dealt with."""
        self._stream.ack(letter.delivery)

    def close(self) -> None:
        """Put back what was not removed."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
