"""The eight findings of FACTS-worker section 0, each as a pair: what the plain library does, and what ours does with the same.

Both sides run at the same time on the same broker, so each test also proves that its fault took effect.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dramatiq
import pika
import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.errors import ConnectionClosed

from contracts.topology import JOBS_DLQ, JOBS_QUEUE
from deploy.lab.rabbitmq import RabbitNode
from tests.support import amqp
from tests.support.amqp import wait_for
from tests.support.job_worker import JobWorker, PlainQuorumBroker, job_id, message
from workers.core.model import JobKind
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.dramatiq_setup import build_broker
from workers.edges.amqp.job_message import encode_job_message
from workers.edges.amqp.publisher import OutgoingMessage, Publisher, PublishResult

PLAIN_DLQ = f"{JOBS_QUEUE}.XQ"


@pytest.fixture
def plain_url(rabbit: RabbitNode) -> str:
    """A second vhost, for the plain library's queues of the same names."""
    return rabbit.url(rabbit.add_vhost())


Start = Callable[..., JobWorker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker; none outlives the test. Its errors are shown where the test fails."""
    started: list[JobWorker] = []

    def make(mode: str, url: str, plan: dict[str, dict[str, Any]], **options: Any) -> JobWorker:
        options.setdefault("log", tmp_path / f"{mode}-{len(started)}.log")
        started.append(JobWorker(mode, url, plan, **options).start())
        return started[-1]

    yield make
    for worker in started:
        worker.kill()
        print(worker.mode, worker.events(), worker.errors[-3000:], sep="\n")  # noqa: T201  # pytest shows it


def declare_plain(url: str, kind: type[RabbitmqBroker] = RabbitmqBroker) -> None:
    broker = kind(url=url)
    broker.declare_queue(JOBS_QUEUE, ensure=True)
    broker.close()


def waiting(url: str) -> set[str]:
    """The names of the jobs whose messages are still in the queue."""
    names = {job_id(name): name for name in [f"s{n}" for n in range(10)] + ["crash", "innocent"]}
    found = amqp.bodies(url, JOBS_QUEUE)
    return {name for key, name in names.items() if any(key.encode() in body for body in found)}


def ended(worker: JobWorker) -> set[str]:
    return {event.removeprefix("end ") for event in worker.events() if event.startswith("end ")}


def test_1_an_acknowledgement_after_a_reconnect_hits_no_other_message(
    rabbit: RabbitNode, broker_url: str, plain_url: str, start: Start
) -> None:
    """s3 holds tag 3 of the first connection; on the second, tag 3 is s5, which nobody has run."""
    jobs = [f"s{number}" for number in range(1, 7)]
    plan: dict[str, dict[str, Any]] = {name: {} for name in jobs}
    plan["s3"] = {"seconds": 2}
    plan["s4"] = {"seconds": 30}
    declare_plain(plain_url)
    ensure_topology(broker_url, name="test")
    for url in (plain_url, broker_url):
        amqp.put(url, JOBS_QUEUE, *map(message, jobs))
    workers = [
        start("plain", plain_url, plan, environment={"dramatiq_queue_prefetch": "4"}),
        start("ours", broker_url, plan, environment={"FORCED_PREFETCH": "4"}),
    ]
    for worker in workers:
        wait_for(lambda worker=worker: worker.times("start", "s3"), "s3")
    rabbit.close_all_connections()
    for worker in workers:
        wait_for(lambda worker=worker: worker.times("end", "s3"), "the end of s3")
    # The next job begins after the acknowledgement of s3 went out, or did not.
    wait_for(lambda: workers[0].times("start", "s4"), "the next job of the plain one")
    wait_for(
        lambda: len(workers[1].events()) > workers[1].events().index("end s3") + 1, "the next job of ours"
    )
    for worker in workers:
        worker.kill()
    plain, ours = workers
    after = ours.events()[ours.events().index("end s3") + 1]
    assert after == "delivered s3", "what no thread had begun waits for its second delivery"
    assert ended(plain) | waiting(plain_url) == set(jobs) - {"s5"}, "plain Dramatiq is mended: simplify ours"
    assert ended(ours) | waiting(broker_url) == set(jobs)


def test_2_what_the_broker_does_not_take_is_not_acknowledged_away(
    rabbit: RabbitNode, broker_url: str, plain_url: str, start: Start
) -> None:
    """Dramatiq enqueues a retry and acknowledges even where that failed. Ours enqueues nothing: the relay does, and knows."""
    declare_plain(plain_url)
    ensure_topology(broker_url, name="test")
    amqp.refuse_publishing(rabbit, plain_url, f"{JOBS_QUEUE}.DQ")
    amqp.refuse_publishing(rabbit, broker_url, JOBS_QUEUE)
    amqp.put(plain_url, JOBS_QUEUE, message("s1"))
    plain = start("plain", plain_url, {"s1": {"fail": True}})
    wait_for(lambda: "Unexpected failure in after_process_message" in plain.errors, "the failed retry")
    plain.ask_to_stop()
    plain.wait_stopped(10)
    assert plain.times("start", "s1") == 1
    assert [amqp.count(plain_url, queue) for queue in (JOBS_QUEUE, f"{JOBS_QUEUE}.DQ", PLAIN_DLQ)] == [
        0,
        0,
        0,
    ]

    publisher = Publisher(broker_url, name="test")
    offer = OutgoingMessage("", JOBS_QUEUE, message("s1"), "s1")
    wait_for(lambda: publisher.publish_batch([offer]) == [PublishResult.NACKED], "the refusal")
    publisher.close()


def test_2_a_failing_actor_is_logged_and_publishes_nothing(broker_url: str, start: Start) -> None:
    """Its row is the truth: the scheduler offers the job again."""
    ensure_topology(broker_url, name="test")
    amqp.put(broker_url, JOBS_QUEUE, message("s1"), message("s2"))
    ours = start("ours", broker_url, {"s1": {"fail": True}, "s2": {}})
    wait_for(lambda: ended(ours) == {"s2"}, "the next job")
    ours.ask_to_stop()
    ours.wait_stopped(10)
    assert ours.times("start", "s1") == 1
    assert "RuntimeError: s1 fails" in ours.errors
    assert waiting(broker_url) == set()
    assert amqp.count(broker_url, JOBS_DLQ) == 0
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        amqp.count(broker_url, f"{JOBS_QUEUE}.DQ")


def test_3_options_null_stop_no_queue(broker_url: str, plain_url: str, start: Start) -> None:
    innocent = ["s1", "s2", "s3"]
    plan: dict[str, dict[str, Any]] = {name: {} for name in [*innocent, "s0"]}
    declare_plain(plain_url)
    ensure_topology(broker_url, name="test")
    for url in (plain_url, broker_url):
        amqp.put(url, JOBS_QUEUE, message("s0", options=None), *map(message, innocent))
    plain, ours = start("plain", plain_url, plan), start("ours", broker_url, plan)
    wait_for(
        lambda: plain.errors.count("Consumer encountered an unexpected error") >= 3,
        "the plain one goes round in circles",
    )
    assert plain.events() == []
    wait_for(lambda: ended(ours) == set(innocent), "the innocent jobs")
    wait_for(lambda: amqp.count(broker_url, JOBS_DLQ) == 1, "the dead letter")


def test_4_a_wrong_queue_name_kills_no_thread(broker_url: str, plain_url: str, start: Start) -> None:
    innocent = ["s1", "s2", "s3"]
    plan: dict[str, dict[str, Any]] = {name: {} for name in [*innocent, "s8", "s9"]}
    poison = [message(name, queue_name="elsewhere") for name in ("s8", "s9")]
    declare_plain(plain_url)
    ensure_topology(broker_url, name="test")
    for url in (plain_url, broker_url):
        amqp.put(url, JOBS_QUEUE, *poison, *map(message, innocent))
    plain, ours = start("plain", plain_url, plan, threads=2), start("ours", broker_url, plan, threads=2)
    wait_for(lambda: plain.errors.count("KeyError: 'elsewhere'") == 2, "both threads' death")
    wait_for(lambda: ended(ours) == set(innocent), "the innocent jobs")
    assert plain.lives()
    assert not ended(plain) & set(innocent)
    assert amqp.bodies(broker_url, JOBS_DLQ) == poison


def test_5_a_job_longer_than_the_consumer_timeout_takes_effect_once(
    rabbit: RabbitNode, broker_url: str, plain_url: str, start: Start
) -> None:
    """RabbitMQ takes the message back and delivers it again. The copy leaves, as the job is claimed."""
    declare_plain(plain_url)
    ensure_topology(broker_url, name="test")
    for url in (plain_url, broker_url):
        amqp.put(url, JOBS_QUEUE, message("s1"))
    with amqp.consumer_timeout(rabbit, 1000):
        plain = start("plain", plain_url, {"s1": {"seconds": 5}}, threads=2)
        ours = start("ours", broker_url, {"s1": {"seconds": 5, "claims": True}}, threads=2)
        wait_for(lambda: plain.times("start", "s1") == 2, "two runs at once")
        assert plain.times("end", "s1") == 0
        wait_for(lambda: ours.times("delivered", "s1") == 2, "the second delivery")
        wait_for(lambda: ours.times("end", "s1"), "its end")
        ours.ask_to_stop()
        ours.wait_stopped(10)
    assert ours.times("start", "s1") == 1
    assert waiting(broker_url) == set()


def test_5_delays_are_refused(broker_url: str) -> None:
    broker = build_broker(broker_url, threads=1)
    body = encode_job_message(JobKind.ISSUE, job_id("s1"), 1, "m")
    with pytest.raises(ValueError, match="run_at"):
        broker.enqueue(dramatiq.Message.decode(body), delay=1000)
    broker.close()


def test_6_what_was_confirmed_survives_the_brokers_death(
    rabbit: RabbitNode, broker_url: str, plain_url: str
) -> None:
    declare_plain(plain_url)
    ensure_topology(broker_url, name="test")
    said_ok = 0

    def send_plain() -> None:
        nonlocal said_ok
        broker = RabbitmqBroker(url=plain_url)  # confirm_delivery is off by default
        with suppress(ConnectionClosed):
            while True:
                broker.enqueue(dramatiq.Message(JOBS_QUEUE, "issue_ssl", (), {}, {}))
                said_ok += 1

    sender = threading.Thread(target=send_plain)
    publisher = Publisher(broker_url, name="test", confirm_seconds=10)
    batches = [
        publisher.begin_batch(
            [OutgoingMessage("", JOBS_QUEUE, b"%d" % (base + n), "id") for n in range(1000)]
        )
        for base in range(0, 30000, 1000)
    ]
    sender.start()
    batches[3].done.wait(20)
    wait_for(lambda: said_ok > 500, "plain sending")
    rabbit.settle()
    rabbit.kill()
    try:
        sender.join(60)
        confirmed, uncertain = set[bytes](), 0
        for batch in batches:
            for sent, result in zip(batch.messages, batch.wait(), strict=True):
                if result is PublishResult.CONFIRMED:
                    confirmed.add(sent.body)
                else:
                    uncertain += 1
    finally:
        rabbit.start()
        publisher.close()
    assert uncertain, "the broker was killed too late to prove anything"
    assert confirmed <= set(amqp.bodies(broker_url, JOBS_QUEUE))
    assert amqp.count(plain_url, JOBS_QUEUE) < said_ok


def test_7_a_dead_letter_does_not_delete_itself(broker_url: str, plain_url: str, start: Start) -> None:
    declare = {
        "dramatiq_dead_message_ttl": "500"
    }  # a week by default; nothing can be told apart in a test by waiting it
    ensure_topology(broker_url, name="test")
    plain = start("plain", plain_url, {}, environment=declare)
    ours = start("ours", broker_url, {}, environment=declare)
    wait_for(lambda: exists(plain_url, PLAIN_DLQ), "the plain one's queues")
    for url in (plain_url, broker_url):
        amqp.put(url, JOBS_QUEUE, b"not a message")
    wait_for(lambda: "Failed to decode message" in plain.errors, "the plain one's dead letter")
    wait_for(lambda: amqp.count(broker_url, JOBS_DLQ) == 1, "our dead letter")
    time.sleep(1.5)  # three times the time to live: that nothing happens can only be waited for
    assert amqp.count(plain_url, JOBS_QUEUE) + amqp.count(plain_url, PLAIN_DLQ) == 0
    assert amqp.bodies(broker_url, JOBS_DLQ) == [b"not a message"]
    assert ours.lives()


def exists(url: str, queue: str) -> bool:
    try:
        return amqp.count(url, queue) >= 0
    except pika.exceptions.ChannelClosedByBroker:
        return False


def test_8_a_message_that_kills_its_process_takes_no_innocent_one_along(
    broker_url: str, plain_url: str, start: Start, tmp_path: Path
) -> None:
    """A small delivery limit counts for every message that the dying process had fetched, also one it never ran."""
    plan: dict[str, dict[str, Any]] = {"crash": {"kill": True}, "innocent": {"seconds": 30}}
    declare_plain(plain_url, PlainQuorumBroker)
    ensure_topology(broker_url, name="test")
    for url in (plain_url, broker_url):
        amqp.put(url, JOBS_QUEUE, message("crash"), message("innocent"))
    for life in range(1, 5):
        plain = start("plain-quorum", plain_url, plan, log=tmp_path / f"plain{life}")
        # Two threads, so that the innocent one is fetched and even running each time.
        ours = start("ours", broker_url, plan, threads=2, log=tmp_path / f"ours{life}")
        for worker in (plain, ours):
            wait_for(lambda worker=worker: not worker.lives(), "its death")
            assert worker.times("start", "crash") == 1
    assert plain.times("start", "innocent") == 0
    wait_for(lambda: amqp.count(plain_url, PLAIN_DLQ) == 2, "both in the plain one's dead-letter queue")
    assert waiting(broker_url) == {"crash", "innocent"}
    assert amqp.count(broker_url, JOBS_DLQ) == 0
