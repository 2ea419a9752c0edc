"""Messages on their way out, and what became of each."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

CONFIRM_SECONDS = 30.0


class PublishResult(StrEnum):
    """What became of one message. Whatever is not CONFIRMED may be published again: consumers drop copies."""

    CONFIRMED = "confirmed"  # in its queues, on disk on a majority of their nodes
    RETURNED = "returned"  # no queue is bound; the topology is declared anew before the next batch
    NACKED = "nacked"  # the broker could not take it: a full queue, no leader
    REFUSED = "refused"  # larger than this broker will ever take; publishing it again is of no use
    UNKNOWN = "unknown"  # the connection ended or the deadline passed first; it may or may not have arrived


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One message to publish. It is always persistent and always mandatory.

    Attributes:
        exchange: "" for the default exchange, where the routing key is a queue's name.
        routing_key: at most 255 bytes.
        body: as it goes out.
        message_id: AMQP `message_id`, at most 255 bytes; for an event, the event's id.
        content_type: AMQP `content_type`.
        headers: AMQP headers.
        type: AMQP `type`, for an event the CloudEvents type.
    """

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    content_type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    type: str | None = None


class Batch:
    """Messages on their way; `wait` gives their results. The rest is the publisher's.

    Attributes:
        messages: what is published, in this order.
        done: set once every message has its result.
        troubled: a message has a result that is not CONFIRMED; others may have none yet.
        give_up: ends the connection that the batch is on.
    """

    def __init__(self, messages: Sequence[OutgoingMessage]) -> None:
        """Begin without any result."""
        self.messages = tuple(messages)
        self.done = threading.Event()
        self.troubled = False
        self.give_up: Callable[[], None] = lambda: None
        self._results: list[PublishResult | None] = [None] * len(self.messages)
        self._left = len(self.messages)
        self._lock = threading.Lock()
        if not self.messages:
            self.done.set()

    def wait(self, timeout_seconds: float = CONFIRM_SECONDS) -> list[PublishResult]:
        """Wait until every message has its result; what has none after `timeout_seconds` is UNKNOWN.

        Passing the deadline costs the connection: a confirm that comes later must find nobody.
        """
        if not self.done.wait(timeout_seconds):
            self.give_up()
            self.done.wait(1.0)
        return [result or PublishResult.UNKNOWN for result in self._results]

    def settle(self, index: int, result: PublishResult) -> None:
        """Note one message's result; the first one holds."""
        with self._lock:
            if self._results[index] is None:
                self._results[index] = result
                self.troubled = self.troubled or result is not PublishResult.CONFIRMED
                self._left -= 1
                if not self._left:
                    self.done.set()
