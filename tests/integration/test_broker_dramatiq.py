"""Dramatiq on our queue: what it runs, what it sets aside, and how it stops."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from contracts.topology import JOBS_DLQ, JOBS_QUEUE
from deploy.lab.rabbitmq import RabbitNode
from tests.support import amqp
from tests.support.amqp import wait_for
from tests.support.job_worker import JobWorker, job_id, message
from workers.core.model import JobKind
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.delivery_stream import DeliveryStream
from workers.edges.amqp.dramatiq_setup import build_broker
from workers.edges.amqp.job_message import (
    JobMessage,
    MalformedJobMessageError,
    decode_job_message,
    encode_job_message,
)

Start = Callable[..., JobWorker]
GOOD = {
    "queue_name": "ssl.jobs",
    "actor_name": "issue_ssl",
    "args": [],
    "kwargs": {"job_id": job_id("x"), "epoch": 1},
    "options": {},
    "message_id": "m",
    "message_timestamp": 0,
}


def body(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


POISON = {
    "not UTF-8": b"\xff\xfe\x00",
    "not JSON": b"{",
    "empty": b"",
    "not an object": b"[1]",
    "nested 100,000 deep": b"[" * 100_000,
    "more than the relay writes": body(message_id="m" * 5000),
    "without a field": json.dumps({key: GOOD[key] for key in GOOD if key != "options"}).encode(),
    "with one too many": body(extra=1),
    "options null": body(options=None),
    "a delay": body(options={"eta": 1}),
    "a pipe": body(options={"pipe_target": {}}),
    "another queue": body(queue_name="ssl.commands"),
    "a queue that is none": body(queue_name=None),
    "another actor": body(actor_name="drop_tables"),
    "an actor that is none": body(actor_name=["issue_ssl"]),
    "positional arguments": body(args=[1]),
    "no keywords": body(kwargs=None),
    "a keyword too many": body(kwargs={"job_id": job_id("x"), "epoch": 1, "shell": "rm"}),
    "a job that is no UUID": body(kwargs={"job_id": "../../etc", "epoch": 1}),
    "a true epoch": body(kwargs={"job_id": job_id("x"), "epoch": True}),
    "a negative epoch": body(kwargs={"job_id": job_id("x"), "epoch": -1}),
    "a number as id": body(message_id=5),
    "a text as timestamp": body(message_timestamp="now"),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00",
}


@pytest.fixture
def url(broker_url: str) -> str:
    ensure_topology(broker_url, name="test")
    return broker_url


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[JobWorker] = []

    def make(url: str, plan: dict[str, dict[str, Any]], **options: Any) -> JobWorker:
        started.append(JobWorker("ours", url, plan, log=tmp_path / f"{len(started)}.log", **options).start())
        return started[-1]

    yield make
    for worker in started:
        worker.kill()
        print(worker.events(), worker.errors[-3000:], sep="\n")  # noqa: T201  # pytest shows it where the test fails


def ended(worker: JobWorker) -> list[str]:
    return [event.removeprefix("end ") for event in worker.events() if event.startswith("end ")]


@pytest.mark.parametrize("kind", JobKind)
def test_a_job_message_comes_back_as_it_was_written(kind: JobKind) -> None:
    written = encode_job_message(kind, job_id("x"), 7, "message-1")
    assert decode_job_message(written) == JobMessage(kind, job_id("x"), 7, "message-1")
    assert written == encode_job_message(kind, job_id("x"), 7, "message-1")


def test_dramatiq_itself_reads_the_job_message() -> None:
    read = dramatiq.Message.decode(encode_job_message(JobKind.RENEW, job_id("x"), 7, "message-1"))
    assert (read.queue_name, read.actor_name, read.message_id) == (JOBS_QUEUE, "renew_ssl", "message-1")
    assert read.kwargs == {"job_id": job_id("x"), "epoch": 7}


@pytest.mark.parametrize("foreign", POISON.values(), ids=POISON.keys())
def test_nothing_but_our_own_message_is_read(foreign: bytes) -> None:
    with pytest.raises(MalformedJobMessageError) as caught:
        decode_job_message(foreign)
    assert len(str(caught.value)) < 300


def test_poison_is_set_aside_whole_with_its_reason_and_all_else_runs(url: str, start: Start) -> None:
    innocent = [f"s{number}" for number in range(len(POISON))]
    for foreign, name in zip(POISON.values(), innocent, strict=True):
        amqp.put(url, JOBS_QUEUE, foreign, message(name))
    amqp.put(
        url, JOBS_QUEUE, encode_job_message(JobKind.RENEW, job_id("x"), 1, "m")
    )  # no such actor in this worker
    worker = start(url, {name: {} for name in innocent}, threads=2)
    wait_for(lambda: sorted(ended(worker)) == sorted(innocent), "every innocent job, once")
    wait_for(lambda: amqp.count(url, JOBS_DLQ) == len(POISON) + 1, "every letter")
    worker.ask_to_stop()
    worker.wait_stopped(10)
    assert amqp.count(url, JOBS_QUEUE) == 0
    letters = amqp.take_all(url, JOBS_DLQ)
    assert [letter for _, letter in letters][:-1] == list(POISON.values())
    for properties, letter in letters:
        headers = properties.headers
        assert headers["certpilot-letter-id"] == properties.message_id == sha256(letter).hexdigest()
        assert (headers["certpilot-code"], headers["certpilot-count"]) == ("MALFORMED", 1)
        assert (headers["certpilot-queue"], headers["certpilot-routing-key"]) == (JOBS_QUEUE, JOBS_QUEUE)
        assert headers["certpilot-first-at"].endswith("Z")
        assert headers["certpilot-reason"]
    assert "renew_ssl" in letters[-1][0].headers["certpilot-reason"]


def test_a_letter_that_cannot_be_published_is_kept_and_placed_later(
    rabbit: RabbitNode, url: str, start: Start
) -> None:
    amqp.refuse_publishing(rabbit, url, JOBS_DLQ)
    amqp.put(url, JOBS_QUEUE, *[b"poison %d" % number for number in range(4)], message("s1"))
    worker = start(url, {"s1": {}}, threads=8)
    wait_for(lambda: ended(worker) == ["s1"], "the innocent job behind it")
    amqp.accept_publishing(rabbit, url)
    wait_for(lambda: amqp.count(url, JOBS_DLQ) == 4, "the letters")
    worker.ask_to_stop()
    worker.wait_stopped(10)
    assert amqp.count(url, JOBS_QUEUE) == 0


def test_a_worker_goes_on_after_lost_connections_and_a_killed_broker(
    rabbit: RabbitNode, url: str, start: Start
) -> None:
    worker = start(url, {"s1": {}, "s2": {}, "s3": {}})
    amqp.put(url, JOBS_QUEUE, message("s1"))
    wait_for(lambda: ended(worker) == ["s1"], "the first job")
    rabbit.close_all_connections()
    amqp.put(url, JOBS_QUEUE, message("s2"))
    wait_for(lambda: ended(worker) == ["s1", "s2"], "the second job")
    rabbit.settle()
    rabbit.kill()
    rabbit.start()
    amqp.put(url, JOBS_QUEUE, message("s3"))
    wait_for(lambda: ended(worker)[-1] == "s3", "the third job")


def test_on_stop_the_running_job_ends_and_the_rest_is_free_for_others_at_once(url: str, start: Start) -> None:
    worker = start(url, {"s1": {"holds": True}, "s2": {}}, threads=3)
    amqp.put(url, JOBS_QUEUE, message("s1"))
    wait_for(lambda: worker.times("start", "s1"), "the running job")
    worker.ask_to_stop()
    other = DeliveryStream(url, JOBS_QUEUE, prefetch=10, name="another runner")
    wait_for(lambda: worker.times("stopping", "worker"), "the stop")
    amqp.put(url, JOBS_QUEUE, message("s2"))
    assert len(other.take(1, wait_seconds=2)) == 1
    assert ended(worker) == []
    worker.release()
    worker.wait_stopped(10)
    assert ended(worker) == ["s1"]
    other.close()
    assert amqp.count(url, JOBS_QUEUE) == 1


def test_a_job_longer_than_the_stop_may_take_goes_back(url: str, start: Start) -> None:
    worker = start(url, {"s1": {"seconds": 60}}, stop_seconds=1)
    amqp.put(url, JOBS_QUEUE, message("s1"))
    wait_for(lambda: worker.times("start", "s1"), "the running job")
    worker.ask_to_stop()
    assert worker.wait_stopped(10) < 6
    assert amqp.count(url, JOBS_QUEUE) == 1


def test_the_ordinary_dramatiq_command_runs_our_broker_with_one_message_a_thread(
    rabbit: RabbitNode, url: str, start: Start
) -> None:
    """It fixes a prefetch of twice the threads before it imports ours, and its stop may be as slow as the last job."""
    command = (
        str(Path(sys.executable).with_name("dramatiq")),
        "tests.support.job_worker:runner",
        "-p",
        "1",
        "-t",
        "3",
    )
    names = [f"s{number}" for number in range(6)]
    amqp.put(url, JOBS_QUEUE, *map(message, names))
    worker = start(url, {name: {"holds": True} for name in names}, command=command)
    wait_for(lambda: sum(event.startswith("start") for event in worker.events()) == 3, "three running jobs")
    assert amqp.count(url, JOBS_QUEUE) == 3
    listed = rabbit.ctl("list_consumers", "-p", amqp.vhost(url), "prefetch_count", "--no-table-headers")
    assert listed.split() == ["3"]
    worker.ask_to_stop()
    wait_for(lambda: worker.times("stopping", "worker"), "the stop")
    worker.release()
    worker.wait_stopped(20)
    assert sorted(ended(worker)) == names[:3]
    assert amqp.count(url, JOBS_QUEUE) == 3


def test_other_queues_and_foreign_messages_are_refused_before_they_are_sent(url: str) -> None:
    broker = build_broker(url, threads=1)
    with pytest.raises(ValueError, match=r"ssl\.jobs"):
        dramatiq.actor(lambda: None, actor_name="other", queue_name="other", broker=broker)
    with pytest.raises(MalformedJobMessageError):
        broker.enqueue(dramatiq.Message(JOBS_QUEUE, "issue_ssl", (), {}, {"max_retries": 3}))
    broker.enqueue(dramatiq.Message.decode(message("s1")))
    assert broker.get_queue_message_counts(JOBS_QUEUE) == (1, 0, 0)
    broker.close()


def test_importing_the_setup_connects_to_nothing() -> None:
    code = "import workers.edges.amqp.dramatiq_setup as d; d.build_broker('amqp://127.0.0.1:1/', threads=2)"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20, cwd=Path(__file__).parents[2])
    assert time.monotonic() - began < 10
