"""The relay over many batches: every event arrives, in the order of the outbox, whatever the broker does meanwhile."""

from uuid import uuid4

import pika
import pytest

from db import outbox
from db.outbox import Lane, OutboxMessage
from db.pool import Connection, connect
from tests.support.roles import running
from tests.support.waiting import until
from workers import relay
from workers.edges.amqp.broker import ensure_topology
from workers.settings import Settings

EVENTS = 2 * relay.BATCH + 345


@pytest.fixture
def config(database_url: str, broker_url: str) -> Settings:
    ensure_topology(broker_url, name="test")
    return Settings(database_url=database_url, rabbitmq_url=broker_url)


def event(number: int) -> OutboxMessage:
    body = str(number).encode()
    return OutboxMessage(
        Lane.EVENT, "ssl.events", "ssl.job.progress", str(uuid4()), "application/json", {}, body
    )


def published(conn: Connection) -> bool:
    return conn.execute("select from outbox where published_at is null limit 1").fetchone() is None


def arrivals(url: str) -> list[int]:
    """What lies in the queue of the feed, in its order."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    found: list[int] = []
    while (got := channel.basic_get("ssl.activity", auto_ack=True))[0] is not None:
        found.append(int(got[2]))
    connection.close()
    return found


def test_events_of_many_batches_arrive_once_and_in_order(config: Settings, conn: Connection) -> None:
    outbox.append_all(conn, [event(number) for number in range(EVENTS)])
    with running(config, "relay"):
        until(lambda: published(conn), what="all published", seconds=30)
    assert arrivals(config.rabbitmq_url) == list(range(EVENTS))


def test_events_without_a_queue_all_go_again_in_order(config: Settings, conn: Connection) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(config.rabbitmq_url))
    with running(config, "relay"):
        outbox.append(conn, event(0))
        until(lambda: published(conn), what="the first one published")
        assert arrivals(config.rabbitmq_url) == [0]
        connection.channel().queue_delete("ssl.activity")
        with conn.transaction():
            outbox.append_all(conn, [event(number) for number in range(1, EVENTS)])
        until(lambda: published(conn), what="all published", seconds=30)
    connection.close()
    # A copy may follow; what counts is where each came first.
    assert list(dict.fromkeys(arrivals(config.rabbitmq_url))) == list(range(1, EVENTS))


def test_event_that_is_committed_late_is_read_before_younger_ones(
    conn: Connection, database_url: str
) -> None:
    """Its site's next event can only be younger: left out once, it would be overtaken."""
    with connect(database_url, "late", autocommit=False) as late:
        outbox.append(late, event(1))
        outbox.append(conn, event(2))
        on_their_way = [row.seq for row in outbox.unpublished(conn, Lane.EVENT, 10)]
        late.commit()
    outbox.append(conn, event(3))
    rest = outbox.unpublished(conn, Lane.EVENT, 10, besides=on_their_way)
    assert [int(row.body) for row in rest] == [1, 3]
