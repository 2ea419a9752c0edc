"""A plain AMQP client for tests: what any tool of any service would do, with none of our code in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel

from deploy.lab.rabbitmq import RabbitNode
from tests.support.waiting import until

T = TypeVar("T")


@contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()


def count(url: str, queue: str) -> int:
    """Ready messages, by a passive declare: rabbitmqctl's counters lag by seconds on quorum queues."""
    with channel(url) as open_channel:
        return int(open_channel.queue_declare(queue, passive=True).method.message_count)


def put(url: str, queue: str, *bodies: bytes, properties: pika.BasicProperties | None = None) -> None:
    """Publish straight into a queue, each confirmed."""
    with channel(url) as open_channel:
        open_channel.confirm_delivery()
        for body in bodies:
            open_channel.basic_publish("", queue, body, properties, mandatory=True)


def take_all(url: str, queue: str) -> list[tuple[pika.BasicProperties, bytes]]:
    """Remove and give everything that is ready in a queue."""
    found = []
    with channel(url) as open_channel:
        while True:
            method, properties, body = open_channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.append((properties, body))


def bodies(url: str, queue: str) -> list[bytes]:
    return [body for _, body in take_all(url, queue)]


def wait_for(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """The first true value of a condition that needs the broker or another process, on a busy machine."""
    return until(condition, seconds=seconds, what=what)


def vhost(url: str) -> str:
    return unquote(urlsplit(url).path[1:])


def refuse_publishing(node: RabbitNode, url: str, queue: str) -> None:
    """Make the broker answer every publish into a queue by a nack, by the policy that an operator would set."""
    node.ctl(
        "set_policy", "-p", vhost(url), "full", f"^{queue}$".replace(".", "[.]"),
        '{"max-length": 0, "overflow": "reject-publish"}', "--apply-to", "queues",
    )  # fmt: skip


def accept_publishing(node: RabbitNode, url: str) -> None:
    node.ctl("clear_policy", "-p", vhost(url), "full")


@contextmanager
def consumer_timeout(node: RabbitNode, milliseconds: int) -> Iterator[None]:
    """Close channels opened inside this block that leave a delivery unacknowledged for longer; default 30 minutes."""
    node.eval(
        f"application:set_env(rabbit, consumer_timeout, {milliseconds}), "
        "application:set_env(rabbit, channel_tick_interval, 500)"
    )
    try:
        yield
    finally:
        node.eval(
            "application:set_env(rabbit, consumer_timeout, 1800000), "
            "application:set_env(rabbit, channel_tick_interval, 60000)"
        )


@contextmanager
def memory_alarm(node: RabbitNode) -> Iterator[None]:
    """Block publishers, as the broker does when its memory runs out."""
    alarm = "{resource_limit, memory, node()}"
    # Setting it is only a notice to whom `get_alarms` asks: once that answers, every connection has been told.
    alarms = node.eval(f"begin rabbit_alarm:set_alarm({{{alarm}, []}}), rabbit_alarm:get_alarms() end")
    assert "memory" in alarms
    try:
        yield
    finally:
        node.eval(f"rabbit_alarm:clear_alarm({alarm})")


class RawHeaders(pika.BasicProperties):
    """Properties whose headers are given as bytes: other clients can send what pika's encoder cannot."""

    def __init__(self, table: bytes) -> None:
        super().__init__()
        self.table = table

    def encode(self) -> list[bytes]:
        flags = self.FLAG_HEADERS.to_bytes(2, "big")
        return [flags, len(self.table).to_bytes(4, "big"), self.table]
