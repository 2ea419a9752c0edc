"""What `certpilot doctor` asks the broker: its version, and who consumes what."""

from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions

from contracts.topology import QUEUES, dead_letter_queue
from workers.edges.amqp.broker import (
    BrokerUnavailableError,
    connection_parameters,
    declare_topology,
    describe,
)


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """One queue, as a passive declare tells it.

    Attributes:
        name: the queue.
        messages: ready messages; those that a consumer holds are not counted.
        consumers: how many consume it.
    """

    name: str
    messages: int
    consumers: int


class BrokerLook:
    """A connection to look at the broker with."""

    def __init__(self, url: str, *, name: str) -> None:
        """Connect.

        Args:
            url: broker URL, see `broker.connection_parameters`.
            name: shown in the broker's connection list.

        Raises:
            BrokerUnavailableError: the broker cannot be reached, or the URL cannot be used.
        """
        try:
            self._connection = pika.BlockingConnection(connection_parameters(url, name=name))
        except (pika.exceptions.AMQPError, OSError, ValueError) as error:
            raise BrokerUnavailableError(describe(error)) from error

    def product(self) -> tuple[str, tuple[int, ...]]:
        """What the broker calls itself, and its version as numbers."""
        # pika keeps what the server said at connection start in its implementation object only.
        said: dict[str, Any] = self._connection._impl.server_properties or {}  # noqa: SLF001
        version = _text(said.get("version"))
        numbers = tuple(int(part) for part in version.split("-")[0].split(".") if part.isdigit())
        return f"{_text(said.get('product')) or 'AMQP broker'} {version}".strip(), numbers

    def declare(self) -> None:
        """Declare the whole topology as each role does: the only way to learn whether it is as we need it.

        Raises:
            TopologyError: it is not, or the user may not declare it.
            BrokerUnavailableError: the connection was lost.
        """
        try:
            declare_topology(self._connection.channel())
        except (pika.exceptions.AMQPError, OSError) as error:
            raise BrokerUnavailableError(describe(error)) from error

    def queues(self) -> tuple[QueueHealth, ...]:
        """Look at the queues that roles consume; they exist."""
        return self._look(QUEUES)

    def letters(self) -> tuple[QueueHealth, ...]:
        """Look at their dead-letter queues; they exist."""
        return self._look(tuple(map(dead_letter_queue, QUEUES)))

    def close(self) -> None:
        """Disconnect."""
        if self._connection.is_open:
            self._connection.close()

    def _look(self, names: tuple[str, ...]) -> tuple[QueueHealth, ...]:
        try:
            channel = self._connection.channel()
            answers = [channel.queue_declare(name, passive=True).method for name in names]
        except (pika.exceptions.AMQPError, OSError) as error:
            raise BrokerUnavailableError(describe(error)) from error
        return tuple(
            QueueHealth(name, answer.message_count, answer.consumer_count)
            for name, answer in zip(names, answers, strict=True)
        )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
