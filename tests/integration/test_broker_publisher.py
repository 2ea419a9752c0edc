"""Publishing: every message gets a true answer, whatever happens to the broker."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from contracts.topology import ACTIVITY_QUEUE, EVENTS_EXCHANGE, JOBS_QUEUE
from deploy.lab.rabbitmq import RabbitNode
from tests.support import amqp
from tests.support.amqp import wait_for
from workers.edges.amqp.broker import BrokerUnavailableError, ensure_topology
from workers.edges.amqp.publisher import OutgoingMessage, Publisher, PublishResult

CONFIRMED, RETURNED, NACKED = PublishResult.CONFIRMED, PublishResult.RETURNED, PublishResult.NACKED
REFUSED, UNKNOWN = PublishResult.REFUSED, PublishResult.UNKNOWN


@pytest.fixture
def publisher(broker_url: str) -> Iterator[Publisher]:
    made = Publisher(broker_url, name="test")
    yield made
    made.close()


def event(number: int, *, key: str = "ssl.status.changed", size: int = 0) -> OutgoingMessage:
    body = str(number).encode()
    return OutgoingMessage(EVENTS_EXCHANGE, key, body.ljust(size), message_id=f"event-{number}")


def test_a_batch_arrives_whole_in_order_persistent_and_as_described(
    publisher: Publisher, broker_url: str
) -> None:
    described = OutgoingMessage(
        EVENTS_EXCHANGE, "ssl.job.progress", b"{}", "id-1", "application/cloudevents+json", {"ce-id": "id-1"}, "a.type.v1"
    )  # fmt: skip
    assert publisher.publish_batch([described, *map(event, range(2500))]) == [CONFIRMED] * 2501
    (properties, body), *others = amqp.take_all(broker_url, ACTIVITY_QUEUE)
    assert [int(body) for _, body in others] == list(range(2500))
    assert body == b"{}"
    assert (properties.message_id, properties.type, properties.content_type, properties.delivery_mode) == (
        "id-1", "a.type.v1", "application/cloudevents+json", 2,
    )  # fmt: skip
    assert properties.headers["ce-id"] == "id-1"


def test_an_empty_batch_needs_no_broker() -> None:
    assert Publisher("amqp://127.0.0.1:1/", name="test").publish_batch([]) == []


def test_batches_of_several_threads_do_not_mix_their_results(publisher: Publisher, broker_url: str) -> None:
    """Each thread publishes to a queue that exists and to one that does not; the answers must be its own."""

    def publish(number: int) -> list[PublishResult]:
        there = OutgoingMessage("", JOBS_QUEUE if number % 2 else "nowhere", b"x", f"thread-{number}")
        return publisher.publish_batch([there] * 50)

    with ThreadPoolExecutor(6) as executor:
        for number, results in enumerate(executor.map(publish, range(12))):
            assert set(results) == {CONFIRMED if number % 2 else RETURNED}
    assert amqp.count(broker_url, JOBS_QUEUE) == 6 * 50


def test_only_the_message_without_a_queue_is_returned(publisher: Publisher) -> None:
    lost = OutgoingMessage("", "no.such.queue", b"x", "event-1")  # the id of another one in the batch
    assert publisher.publish_batch([event(0), event(1), lost, event(2)]) == [
        CONFIRMED,
        CONFIRMED,
        RETURNED,
        CONFIRMED,
    ]


def test_a_deleted_queue_is_declared_again_for_the_next_batch(publisher: Publisher, broker_url: str) -> None:
    assert publisher.publish_batch([event(1)]) == [CONFIRMED]
    with amqp.channel(broker_url) as channel:
        channel.queue_delete(ACTIVITY_QUEUE)
    assert publisher.publish_batch([event(2), event(3)]) == [RETURNED, RETURNED]
    assert publisher.publish_batch([event(2), event(3)]) == [CONFIRMED, CONFIRMED]
    assert amqp.bodies(broker_url, ACTIVITY_QUEUE) == [b"2", b"3"]


def test_a_deleted_exchange_is_declared_again_too(publisher: Publisher, broker_url: str) -> None:
    assert publisher.publish_batch([event(1)]) == [CONFIRMED]
    with amqp.channel(broker_url) as channel:
        channel.exchange_delete(EVENTS_EXCHANGE)
    assert publisher.publish_batch([event(2)]) == [UNKNOWN]
    assert publisher.publish_batch([event(2)]) == [CONFIRMED]


def test_a_full_queue_is_a_nack_and_not_a_success(
    publisher: Publisher, rabbit: RabbitNode, broker_url: str
) -> None:
    ensure_topology(broker_url, name="test")
    amqp.refuse_publishing(rabbit, broker_url, JOBS_QUEUE)
    full = OutgoingMessage("", JOBS_QUEUE, b"x", "job-1")

    def nacked() -> bool:
        return publisher.publish_batch([full, event(1)]) == [NACKED, CONFIRMED]

    # The limit of a quorum queue is soft: it takes a message or two before it refuses.
    wait_for(nacked, "a nack")
    amqp.accept_publishing(rabbit, broker_url)
    wait_for(lambda: publisher.publish_batch([full]) == [CONFIRMED], "the queue takes messages again")


def test_a_message_too_large_for_the_broker_does_not_hold_up_the_others(
    publisher: Publisher, rabbit: RabbitNode, broker_url: str
) -> None:
    ensure_topology(broker_url, name="test")
    before = rabbit.eval("element(2, application:get_env(rabbit, max_message_size))")
    set_max_message_size(rabbit, "100000")
    try:
        batch = [event(1), event(2, size=100_001), event(3)]
        first = publisher.publish_batch(batch)
        assert first[1] is REFUSED
        assert first[2] is UNKNOWN
        assert publisher.publish_batch([event(1), event(3)]) == [CONFIRMED, CONFIRMED]
    finally:
        set_max_message_size(rabbit, before)


def set_max_message_size(rabbit: RabbitNode, size: str) -> None:
    """RabbitMQ 3.10 asks the application's environment for it, 4 a persistent term that is set once at its start."""
    rabbit.eval(f"application:set_env(rabbit, max_message_size, {size})")
    rabbit.eval(f"persistent_term:put(max_message_size, {size})")


def test_a_message_that_amqp_cannot_carry_does_not_hold_up_the_others(publisher: Publisher) -> None:
    long_id = OutgoingMessage("", JOBS_QUEUE, b"x", "i" * 256)
    odd_header = OutgoingMessage("", JOBS_QUEUE, b"x", "id", headers={"number": 2**64})
    assert publisher.publish_batch([event(1), long_id, odd_header, event(2)]) == [
        CONFIRMED,
        REFUSED,
        REFUSED,
        CONFIRMED,
    ]


def test_no_broker_is_an_error_and_not_a_wait() -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        Publisher("amqp://127.0.0.1:1/", name="test").publish_batch([event(1)])
    assert time.monotonic() - began < 5


def test_connections_closed_by_the_broker_cost_no_message(
    publisher: Publisher, rabbit: RabbitNode, broker_url: str
) -> None:
    """Whatever was not confirmed is published again, as the relay does: all arrive, some perhaps twice."""
    todo = list(range(6000))
    closed = 0
    while todo:
        batch = publisher.begin_batch([event(number) for number in todo[:1000]])
        if closed < 3:
            rabbit.close_all_connections()
            closed += 1
        results = batch.wait()
        todo = [n for n, result in zip(todo, results, strict=False) if result is not CONFIRMED] + todo[1000:]
    assert {int(body) for body in amqp.bodies(broker_url, ACTIVITY_QUEUE)} == set(range(6000))


def test_a_memory_alarm_ends_in_unknown_and_risks_one_copy_a_try(rabbit: RabbitNode, broker_url: str) -> None:
    """A blocked broker answers nothing, and may take what it was sent when the alarm ends (FACTS-rabbitmq 2)."""
    publisher = Publisher(broker_url, name="test", confirm_seconds=1.5)
    wait_for(lambda: publisher.publish_batch([event(0)]) == [CONFIRMED], "the broker")
    batch = [event(number) for number in range(200)]
    with amqp.memory_alarm(rabbit), capture_logs() as logged:
        for _ in range(3):
            began = time.monotonic()
            assert publisher.publish_batch(batch) == [UNKNOWN] * 200
            assert 1.5 <= time.monotonic() - began < 10
    assert [line["unconfirmed"] for line in logged if line["event"] == "publisher.lost"] == [200, 1, 1]
    wait_for(lambda: set(publisher.publish_batch(batch)) == {CONFIRMED}, "the alarm's end")
    publisher.close()
    assert {int(body) for body in amqp.bodies(broker_url, ACTIVITY_QUEUE)} == set(range(200))


def test_a_frozen_broker_ends_in_unknown_at_the_deadline(rabbit: RabbitNode, broker_url: str) -> None:
    publisher = Publisher(broker_url, name="test", confirm_seconds=2)
    wait_for(lambda: publisher.publish_batch([event(0)]) == [CONFIRMED], "the broker")
    rabbit.pause()
    try:
        began = time.monotonic()
        assert publisher.publish_batch([event(1), event(2)]) == [UNKNOWN, UNKNOWN]
        assert 2 <= time.monotonic() - began < 10
    finally:
        rabbit.resume()
    wait_for(lambda: set(publisher.publish_batch([event(1), event(2)])) == {CONFIRMED}, "the broker goes on")
    publisher.close()
    assert {int(body) for body in amqp.bodies(broker_url, ACTIVITY_QUEUE)} == {0, 1, 2}


def test_closing_with_a_batch_under_way_answers_it(publisher: Publisher) -> None:
    batch = publisher.begin_batch([event(number) for number in range(1000)])
    publisher.close()
    assert set(batch.wait(5)) <= {CONFIRMED, UNKNOWN}
    assert batch.done.is_set()
