"""Messages that nobody can handle, on a real broker: each is set aside with its reason, its neighbours are handled.

The roles are processes; each of them is the same one afterwards, but for the message that kills.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import pytest

from db.pool import Connection
from tests.support import amqp, kill_points
from tests.support.commands import command, publish
from tests.support.installation import CERTPILOT
from tests.support.roles import running
from tests.support.waiting import until
from workers.edges.amqp.broker import ensure_topology
from workers.settings import Settings

Properties = pika.BasicProperties
JSON = "application/cloudevents+json"
DRAMATIQ = {
    "queue_name": "ssl.commands", "actor_name": "issue_ssl", "args": [], "kwargs": {}, "options": None, "message_id": "1",
    "message_timestamp": 1,
}  # fmt: skip
GOOD = json.dumps(command(site="poison")).encode()

POISON: dict[str, tuple[bytes, Properties, str]] = {
    "not UTF-8": (b"\xff\xfe\x00", Properties(content_type=JSON), "MALFORMED"),
    "UTF-16": (GOOD.decode().encode("utf-16"), Properties(content_type=JSON), "MALFORMED"),
    "empty": (b"", Properties(), "MALFORMED"),
    "not JSON": (b"{", Properties(content_type=JSON), "MALFORMED"),
    "no CloudEvent": (b'{"siteId": "site_1"}', Properties(content_type=JSON), "MALFORMED"),
    "a list": (b"[]", Properties(content_type=JSON), "MALFORMED"),
    "nested 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, Properties(content_type=JSON), "MALFORMED"),
    "objects 50,000 deep": (b'{"a":' * 50_000, Properties(content_type=JSON), "MALFORMED"),
    "a foreign Dramatiq envelope, its options null": (json.dumps(DRAMATIQ).encode(), Properties(), "MALFORMED"),
    "a pickle": (b"\x80\x04\x95\x10\x00\x00\x00", Properties(content_type="application/x-python-serialize"), "UNSUPPORTED_CONTENT"),
    "another type": (json.dumps(command() | {"type": "com.example.v1"}).encode(), Properties(content_type=JSON), "UNKNOWN_TYPE"),
    "wrong content type": (GOOD, Properties(content_type="text/plain"), "UNSUPPORTED_CONTENT"),
    "wrong content encoding": (GOOD, Properties(content_type=JSON, content_encoding="gzip"), "UNSUPPORTED_CONTENT"),
    "a year beyond all clocks in its properties": (b"{}", Properties(content_type=JSON, timestamp=2**60), "MALFORMED"),
    "wrong types": (
        json.dumps({**command(site="wrong"), "data": {"siteId": "wrong", "domain": 5, "server": []}}).encode(),
        Properties(content_type=JSON), "INVALID_REQUEST"),
    "null everywhere": (
        json.dumps({**command(site="null"), "data": {"siteId": "null", "domain": "a.example.com", "server": None}}).encode(),
        Properties(content_type=JSON), "INVALID_REQUEST"),
    "50 MB": (b'{"a": "' + b"x" * 50_000_000 + b'"}', Properties(content_type=JSON), "TOO_LARGE"),
    "50 MB that open lists": (b"[" * 50_000_000, Properties(content_type=JSON), "TOO_LARGE"),
}  # fmt: skip


@pytest.fixture
def config(database_url: str, broker_url: str) -> Settings:
    ensure_topology(broker_url, name="test")
    return Settings(database_url=database_url, rabbitmq_url=broker_url)


@contextmanager
def process(config: Settings, role: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A role as a process that has to live until the end."""
    environment = {
        **os.environ,
        "CERTPILOT_DATABASE_URL": config.database_url,
        "CERTPILOT_RABBITMQ_URL": config.rabbitmq_url,
    }
    with log.open("wb") as output:
        child = subprocess.Popen([CERTPILOT, "run", role], env=environment, stdout=output, stderr=output)
    try:
        yield child
        assert child.poll() is None, log.read_text()[-3000:]
        assert "Traceback" not in log.read_text()
    finally:
        child.kill()
        child.wait()


def put(url: str, exchange: str, key: str, body: bytes, properties: Properties) -> bool:
    """Whether the broker took it: RabbitMQ 4 refuses more than 16 MiB by itself."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish(exchange, key, body, properties, mandatory=True)
        except pika.exceptions.ChannelClosedByBroker:
            if len(body) <= 16 * 1024 * 1024:
                raise
            return False
    return True


def codes(conn: Connection) -> list[str]:
    rows = conn.execute("select headers->>'certpilot-code' from outbox where lane = 'letter' order by seq")
    return [row[0] for row in rows]


def number(conn: Connection, query: str) -> int:
    row = conn.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return int(row[0])


def test_poison_among_commands_is_set_aside_and_its_neighbours_become_jobs(
    config: Settings, conn: Connection, tmp_path: Path
) -> None:
    url, expected = config.rabbitmq_url, []
    for turn, (body, properties, code) in enumerate(POISON.values()):
        publish(url, command(site=f"before_{turn}", domain=f"b{turn}.example.com"))
        if put(url, "ssl.commands", "ssl.issue", body, properties):
            expected.append((code, body))
    publish(url, command(site="last", domain="last.example.com"))
    with (
        process(config, "intake", tmp_path / "intake.log") as intake,
        process(config, "relay", tmp_path / "relay.log"),
    ):
        until(
            lambda: number(conn, "select count(*) from job") == len(POISON) + 1,
            seconds=60,
            what="every good command",
        )
        until(lambda: amqp.count(url, "ssl.commands.dlq") == len(expected), seconds=60, what="every letter")
        # One body at a time is looked into, and no copy more is made of it than must be.
        assert peak_megabytes(intake) < 600
    assert codes(conn) == [code for code, _ in expected]
    letters = amqp.take_all(url, "ssl.commands.dlq")
    assert [body for _, body in letters] == [body for _, body in expected]
    assert all(properties.headers["certpilot-reason"] for properties, _ in letters)
    assert amqp.count(url, "ssl.commands") == 0


def peak_megabytes(child: "subprocess.Popen[bytes]") -> float:
    status = Path(f"/proc/{child.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_poison_among_events_is_set_aside_and_its_neighbours_reach_the_feed(
    config: Settings, conn: Connection, tmp_path: Path
) -> None:
    url, sent = config.rabbitmq_url, 0
    with running(config, "intake", "relay"):
        for turn, (body, properties, _) in enumerate(POISON.values()):
            publish(url, command(site=f"site_{turn}", domain=f"e{turn}.example.com"))
            until(
                lambda n=turn: amqp.count(url, "ssl.activity") >= 2 * (n + 1),
                what="two events of its neighbour",
            )
            sent += put(url, "", "ssl.activity", body, properties)
        publish(url, command(site="last", domain="last.example.com"))
        with process(config, "activity", tmp_path / "activity.log"):
            wanted = 2 * (len(POISON) + 1)
            until(
                lambda: number(conn, "select count(*) from activity_feed") == wanted,
                seconds=60,
                what="the feed",
            )
            until(lambda: amqp.count(url, "ssl.activity.dlq") == sent, seconds=60, what="every letter")
    assert amqp.count(url, "ssl.activity") == 0


def test_command_that_kills_its_process_kills_three_and_no_neighbour_is_lost(
    config: Settings, conn: Connection
) -> None:
    """The fourth sets it aside unread. DESIGN A.5 CRASHED."""
    url, deaths = config.rabbitmq_url, 0
    publish(url, *(command(site=site, domain=f"{site}.example.com") for site in ("first", "killer", "last")))
    fields: dict[str, Any] = {"database_url": config.database_url, "rabbitmq_url": url}
    with running(config, "relay"):
        while codes(conn) != ["CRASHED"]:
            child = kill_points.start_killed_by(fields, "killer")
            try:
                until(
                    lambda p=child: kill_points.died_at_its_step(p) or codes(conn),
                    seconds=40,
                    what="its death",
                )
                if kill_points.died_at_its_step(child):
                    deaths += 1
                    continue
                until(
                    lambda: number(conn, "select count(*) from job") == 2, what="the neighbours", seconds=40
                )
                until(lambda: amqp.count(url, "ssl.commands.dlq") == 1, what="the letter", seconds=40)
            finally:
                kill_points.kill(child)
    assert deaths == 3
    ((_, letter),) = amqp.take_all(url, "ssl.commands.dlq")
    assert b"killer" in letter
    assert conn.execute("select site_id from job order by site_id").fetchall() == [("first",), ("last",)]
