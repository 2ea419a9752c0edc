"""Consuming in batches: acknowledged after the handler, redelivered whenever it did not finish, and without delay."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import pika
import pytest

from contracts.topology import ACTIVITY_QUEUE, COMMANDS_QUEUE
from deploy.lab.rabbitmq import RabbitNode
from tests.support import amqp
from tests.support.amqp import wait_for
from workers.edges.amqp.broker import TopologyError, ensure_topology
from workers.edges.amqp.consumer import Outcome, consume
from workers.edges.amqp.delivery_stream import Delivery, DeliveryStream
from workers.edges.amqp.publisher import OutgoingMessage, Publisher, PublishResult

Handler = Callable[[Sequence[Delivery]], Sequence[Outcome] | None]


@dataclass
class Consuming:
    """`consume` in a thread, with what its handler saw."""

    url: str
    handler: Handler = lambda _batch: None
    queue: str = COMMANDS_QUEUE
    prefetch: int = 100
    max_batch: int = 50
    max_wait_seconds: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    batches: list[list[bytes]] = field(default_factory=list)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    @property
    def seen(self) -> list[bytes]:
        return [body for batch in self.batches for body in batch]

    def start(self) -> "Consuming":
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def _handle(self, batch: Sequence[Delivery]) -> Sequence[Outcome] | None:
        self.batches.append([delivery.body for delivery in batch])
        return self.handler(batch)

    def _run(self) -> None:
        try:
            consume(
                self.url, self.queue, self._handle, prefetch=self.prefetch, max_batch=self.max_batch,
                max_wait_seconds=self.max_wait_seconds, stop=self.stop, name="test",
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test shall see it
            self.error = error

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for the condition; an error that ended the loop ends the wait."""
        wait_for(lambda: self.error or condition(), what)
        if self.error:
            raise self.error

    def end(self, timeout_seconds: float = 10) -> None:
        self.stop.set()
        assert self.thread is not None
        self.thread.join(timeout_seconds)
        assert not self.thread.is_alive(), "consume did not stop"


@pytest.fixture
def url(broker_url: str) -> str:
    ensure_topology(broker_url, name="test")
    return broker_url


@pytest.fixture
def start() -> Iterator[Callable[..., Consuming]]:
    started: list[Consuming] = []

    def make(url: str, **options: object) -> Consuming:
        started.append(Consuming(url, **options).start())  # type: ignore[arg-type]
        return started[-1]

    yield make
    for consuming in started:
        consuming.end()


def numbered(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


def test_what_is_there_comes_in_batches_in_order_and_is_gone_afterwards(
    url: str, start: Callable[..., Consuming]
) -> None:
    amqp.put(url, COMMANDS_QUEUE, *numbered(230))
    consuming = start(url, max_wait_seconds=1.0)
    consuming.until(lambda: len(consuming.seen) == 230, "all deliveries")
    consuming.end()
    assert consuming.seen == numbered(230)
    assert [len(batch) for batch in consuming.batches] == [50, 50, 50, 50, 30]
    assert amqp.count(url, COMMANDS_QUEUE) == 0


def test_nothing_is_acknowledged_before_the_handler_returns(
    url: str, start: Callable[..., Consuming]
) -> None:
    """What a process held when it was killed is all still there."""
    amqp.put(url, COMMANDS_QUEUE, *numbered(3))
    working, go_on = threading.Event(), threading.Event()

    def hold(_batch: Sequence[Delivery]) -> None:
        working.set()
        assert go_on.wait(10)

    consuming = start(url, handler=hold)
    try:
        assert working.wait(10)
        other = DeliveryStream(url, COMMANDS_QUEUE, prefetch=10, name="other")
        assert other.take(1, wait_seconds=0.3) == []
        consuming.stop.set()
    finally:
        go_on.set()
    consuming.end()
    left = 3 - len(consuming.seen)
    assert len(other.take(10, wait_seconds=5) if left else []) == left
    other.close()


def test_a_handler_that_raises_gets_the_whole_batch_again(url: str, start: Callable[..., Consuming]) -> None:
    amqp.put(url, COMMANDS_QUEUE, *numbered(5))
    redelivered: list[bool] = []

    def fail_twice(batch: Sequence[Delivery]) -> None:
        redelivered.extend(delivery.redelivered for delivery in batch)
        if len(consuming.batches) <= 2:
            raise RuntimeError("no database")

    consuming = Consuming(url, handler=fail_twice, max_wait_seconds=0.2)
    consuming.start()
    consuming.until(lambda: len(consuming.batches) == 3, "the third try")
    consuming.end()
    assert consuming.batches == [numbered(5)] * 3
    assert redelivered == [False] * 5 + [True] * 10
    assert amqp.count(url, COMMANDS_QUEUE) == 0


def test_each_delivery_can_have_its_own_outcome(url: str, start: Callable[..., Consuming]) -> None:
    amqp.put(url, COMMANDS_QUEUE, *numbered(6))

    def leave_odd_ones_at_first(batch: Sequence[Delivery]) -> list[Outcome]:
        return [
            Outcome.LEAVE if int(delivery.body) % 2 and not delivery.redelivered else Outcome.ACK
            for delivery in batch
        ]

    consuming = start(url, handler=leave_odd_ones_at_first, max_wait_seconds=0.1)
    consuming.until(lambda: len(consuming.seen) == 9, "the odd ones again")
    consuming.end()
    assert sorted(consuming.seen) == sorted([*numbered(6), b"1", b"3", b"5"])
    assert amqp.count(url, COMMANDS_QUEUE) == 0


def test_a_batch_that_is_left_whole_comes_again_slower_and_slower(
    url: str, start: Callable[..., Consuming]
) -> None:
    amqp.put(url, COMMANDS_QUEUE, b"x")
    times: list[float] = []

    def leave(_batch: Sequence[Delivery]) -> list[Outcome]:
        times.append(time.monotonic())
        return [Outcome.LEAVE]

    start(url, handler=leave)
    wait_for(lambda: len(times) >= 5, "five tries")
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] >= 0.1
    assert gaps[3] >= 0.8


def test_a_connection_lost_in_the_handler_brings_the_batch_again_and_loses_none(
    rabbit: RabbitNode, url: str, start: Callable[..., Consuming]
) -> None:
    """The first batch's tags name other messages on the next connection; acknowledging them there would lose those."""
    amqp.put(url, COMMANDS_QUEUE, *numbered(40))

    def lose(batch: Sequence[Delivery]) -> None:
        if len(consuming.batches) == 2:
            rabbit.close_all_connections()
            wait_for(lambda: batch[0].stream.lost, "the loss")

    consuming = Consuming(url, handler=lose, max_batch=5, prefetch=20)
    consuming.start()
    consuming.until(lambda: set(consuming.seen) == set(numbered(40)), "all of them")
    consuming.end()
    again = [body for body in set(consuming.seen) if consuming.seen.count(body) > 1]
    assert set(consuming.batches[1]) <= set(again)
    assert amqp.count(url, COMMANDS_QUEUE) == 0


def test_a_stale_delivery_is_never_settled_on_another_connection(url: str) -> None:
    amqp.put(url, COMMANDS_QUEUE, b"a", b"b")
    first = DeliveryStream(url, COMMANDS_QUEUE, prefetch=2, name="first")
    (stale,) = first.take(1, wait_seconds=5)
    first.close()
    second = DeliveryStream(url, COMMANDS_QUEUE, prefetch=2, name="second")
    assert len(second.take(1, wait_seconds=5)) == 1
    assert not first.ack(stale)
    assert not second.ack(stale)
    assert not second.requeue(stale)
    second.close()
    assert amqp.count(url, COMMANDS_QUEUE) == 2


def test_a_handler_slower_than_the_consumer_timeout_loses_none(
    rabbit: RabbitNode, url: str, start: Callable[..., Consuming]
) -> None:
    """RabbitMQ closes the channel; the copies wait for the one handler and do not overtake it."""
    amqp.put(url, COMMANDS_QUEUE, *numbered(4))
    running: list[int] = []

    def slow_once(batch: Sequence[Delivery]) -> None:
        assert not running
        running.append(1)
        if len(consuming.batches) == 1:
            wait_for(lambda: batch[0].stream.lost, "the broker's patience ends")
            assert "timed out" in str(batch[0].stream.lost)
        running.clear()

    consuming = Consuming(url, handler=slow_once, max_batch=2)
    with amqp.consumer_timeout(rabbit, 1000):
        consuming.start()
        wait_for(lambda: len(consuming.seen) >= 6, "redelivery")
    consuming.end()
    assert set(consuming.seen) == set(numbered(4))
    assert amqp.count(url, COMMANDS_QUEUE) == 0


def test_heartbeats_go_on_while_the_handler_works(url: str, start: Callable[..., Consuming]) -> None:
    """With heartbeat 1 the broker gives up a silent client after two to three seconds."""
    amqp.put(url, COMMANDS_QUEUE, b"x")
    silent = pika.BlockingConnection(pika.URLParameters(url + "?heartbeat=1"))
    lost: list[object] = []

    def work(batch: Sequence[Delivery]) -> None:
        time.sleep(5)  # stands for work in another library, which serves no connection
        lost.append(batch[0].stream.lost)

    consuming = start(url + "?heartbeat=1", handler=work)
    wait_for(lambda: lost, "the handler's end")
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        silent.process_data_events()
    assert lost == [None]
    consuming.end()
    assert consuming.batches == [[b"x"]]


def test_one_delivery_reaches_the_handler_at_once(url: str, start: Callable[..., Consuming]) -> None:
    """No polling anywhere: the median of fifty is far below any poll interval."""
    delays: list[float] = []
    consuming = start(url, handler=lambda batch: delays.append(time.perf_counter() - float(batch[0].body)))
    publisher = Publisher(url, name="test")
    publisher.publish_batch([])
    for _ in range(51):
        before = len(delays)
        publisher.begin_batch([OutgoingMessage("", COMMANDS_QUEUE, str(time.perf_counter()).encode(), "id")])
        wait_for(lambda before=before: len(delays) > before, "the delivery")
    publisher.close()
    consuming.end()
    assert sorted(delays)[25] < 0.02


@pytest.mark.parametrize("state", ["idle", "reconnecting"])
def test_stop_ends_the_loop_at_once(url: str, start: Callable[..., Consuming], state: str) -> None:
    def fail(_batch: Sequence[Delivery]) -> None:
        raise RuntimeError("no database")

    consuming = start(url, handler=fail)
    if state == "reconnecting":
        amqp.put(url, COMMANDS_QUEUE, b"x")
        wait_for(lambda: len(consuming.batches) >= 5, "a back-off of more than a second")
        wait_for(lambda: consumers(url) == 0, "its begin")
    else:
        wait_for(lambda: consumers(url) == 1, "the consumer")
    began = time.monotonic()
    consuming.end()
    assert time.monotonic() - began < 0.5


def consumers(url: str) -> int:
    """Consumers of the command queue; none where it does not exist."""
    with suppress(pika.exceptions.ChannelClosedByBroker), amqp.channel(url) as channel:
        return int(channel.queue_declare(COMMANDS_QUEUE, passive=True).method.consumer_count)
    return 0


def test_a_deleted_queue_is_declared_again(url: str, start: Callable[..., Consuming]) -> None:
    consuming = start(url)
    wait_for(lambda: consumers(url) == 1, "the consumer")
    with amqp.channel(url) as channel:
        channel.queue_delete(COMMANDS_QUEUE)
    wait_for(lambda: consumers(url) == 1, "the queue is back, with its consumer")
    amqp.put(url, COMMANDS_QUEUE, b"x")
    consuming.until(lambda: consuming.seen == [b"x"], "the message")


def test_a_topology_that_a_person_must_mend_ends_the_loop(
    broker_url: str, start: Callable[..., Consuming]
) -> None:
    with amqp.channel(broker_url) as channel:
        channel.queue_declare(COMMANDS_QUEUE, durable=True)
    consuming = start(broker_url)
    wait_for(lambda: consuming.error, "the error")
    assert isinstance(consuming.error, TopologyError)


def test_a_broker_killed_and_restarted_loses_nothing_that_was_confirmed(
    rabbit: RabbitNode, url: str, start: Callable[..., Consuming]
) -> None:
    consuming = start(url, queue=ACTIVITY_QUEUE, max_batch=500, prefetch=1000)
    publisher = Publisher(url, name="test", confirm_seconds=10)
    confirmed: set[bytes] = set()
    uncertain = 0
    under_way = [
        publisher.begin_batch([event(base + n) for n in range(500)]) for base in range(0, 20000, 500)
    ]
    under_way[5].done.wait(20)
    rabbit.settle()
    rabbit.kill()
    try:
        for batch in under_way:
            for message, result in zip(batch.messages, batch.wait(), strict=True):
                if result is PublishResult.CONFIRMED:
                    confirmed.add(message.body)
                else:
                    uncertain += 1
    finally:
        rabbit.start()
    assert uncertain, "the broker was killed too late to prove anything"
    assert len(confirmed) >= 2500
    wait_for(lambda: confirmed <= set(consuming.seen), "all that was confirmed")
    publisher.close()


def event(number: int) -> OutgoingMessage:
    return OutgoingMessage("ssl.events", "ssl.status.changed", str(number).encode(), f"event-{number}")


def _entry(name: bytes, kind: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + kind + value


def _nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = _entry(b"t", b"F", len(table).to_bytes(4, "big") + table)
    return table


POISON_HEADERS = {
    "a timestamp of the year 36812": _entry(b"at", b"T", (1_100_000_000_000).to_bytes(8, "big")),
    "a timestamp beyond time": _entry(b"at", b"T", b"\xff" * 8),
    "tables in tables": _nested(3000),
}


def get(url: str, count: int) -> None:
    """Look at messages with plain pika and leave them in the queue."""
    with amqp.channel(url) as channel:
        for _ in range(count):
            channel.basic_get(COMMANDS_QUEUE)


@pytest.mark.parametrize("table", POISON_HEADERS.values(), ids=POISON_HEADERS.keys())
def test_properties_that_pika_cannot_read_stop_pika_but_not_us(
    url: str, start: Callable[..., Consuming], table: bytes
) -> None:
    amqp.put(url, COMMANDS_QUEUE, b"before")
    amqp.put(url, COMMANDS_QUEUE, b"poison", properties=amqp.RawHeaders(table))
    amqp.put(url, COMMANDS_QUEUE, b"after")
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        get(url, 3)
    readable: dict[bytes, bool] = {}
    start(url, handler=lambda batch: readable.update({d.body: d.readable for d in batch}))
    wait_for(lambda: b"after" in readable, "the message behind it")
    assert readable == {b"before": True, b"poison": False, b"after": True}


def test_a_delivery_tells_what_was_sent_and_odd_bytes_do_no_harm(url: str) -> None:
    properties = pika.BasicProperties(
        content_type="application/json",
        content_encoding="gzip",
        message_id="id-1",
        headers={"n": 5, "at": datetime(2026, 11, 25, tzinfo=UTC)},
    )
    amqp.put(url, COMMANDS_QUEUE, b"1", properties=properties)
    amqp.put(url, COMMANDS_QUEUE, b"2", properties=pika.BasicProperties(content_type=b"\xff/\xfe"))
    stream = DeliveryStream(url, COMMANDS_QUEUE, prefetch=10, name="test")
    found: list[Delivery] = []
    while len(found) < 2:
        found += stream.take(10, wait_seconds=5)
    stream.close()
    first, second = found
    assert (first.content_type, first.content_encoding, first.message_id) == (
        "application/json",
        "gzip",
        "id-1",
    )
    assert (first.headers["n"], first.exchange, first.routing_key) == (5, "", COMMANDS_QUEUE)
    assert not first.redelivered
    assert second.content_type == r"\xff/\xfe"
