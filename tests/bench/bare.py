"""The same work without certpilot: what the figures are held against."""

import json
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import pika
import pika.spec
import psycopg
from psycopg.types.json import Jsonb

from contracts.events import read_event
from contracts.titles import activity_title
from workers.edges.amqp.outgoing import OutgoingMessage


def publish_windowed(url: str, messages: Sequence[OutgoingMessage], *, window: int) -> float:
    """Publish all with confirms, at most `window` of them unconfirmed; seconds from the first to the last confirm.

    Plain pika, one connection, persistent and mandatory, nothing else done meanwhile.
    """
    waiting = deque(messages)
    unconfirmed: dict[int, None] = {}
    times: list[float] = []
    last_tag = 0

    def pump(channel: Any) -> None:
        nonlocal last_tag
        while waiting and len(unconfirmed) < window:
            message = waiting.popleft()
            properties = pika.BasicProperties(
                content_type=message.content_type, headers=dict(message.headers) or None, delivery_mode=2,
                message_id=message.message_id,
            )  # fmt: skip
            channel.basic_publish(
                message.exchange, message.routing_key, message.body, properties, mandatory=True
            )
            last_tag += 1
            unconfirmed[last_tag] = None

    def on_confirm(channel: Any, method: Any) -> None:
        assert isinstance(method, pika.spec.Basic.Ack)
        upto = method.delivery_tag
        tags: Iterable[int] = [tag for tag in unconfirmed if tag <= upto] if method.multiple else (upto,)
        for tag in tags:
            del unconfirmed[tag]
        if not waiting and not unconfirmed:
            times.append(time.perf_counter())
            channel.connection.close()
        elif len(unconfirmed) <= window // 2:
            pump(channel)

    def begin(channel: Any) -> None:
        channel.confirm_delivery(
            lambda frame: on_confirm(channel, frame.method), callback=lambda _: start(channel)
        )

    def start(channel: Any) -> None:
        times.append(time.perf_counter())
        pump(channel)

    connection = pika.SelectConnection(
        pika.URLParameters(url),
        on_open_callback=lambda opened: opened.channel(on_open_callback=begin),
        on_close_callback=lambda closed, _: closed.ioloop.stop(),
    )
    connection.ioloop.start()
    assert len(times) == 2
    return times[1] - times[0]


_INSERT = (
    "insert into activity (event_id, event_type, site_id, domain, ssl_status, title, error_code, detail, occurred_at, sequence)"
    " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (event_id) do nothing"
)
Values = tuple[object, ...]


def rows_of(messages: Sequence[OutgoingMessage]) -> list[Values]:
    """The rows of the feed that these events make."""
    rows: list[Values] = []
    for message in messages:
        event = read_event(message.body)
        rows.append((
            event.event_id, event.event_type, event.site_id, event.domain, event.ssl_status, activity_title(event),
            event.error_code, Jsonb(event.data), event.occurred_at, event.sequence,
        ))  # fmt: skip
    return rows


def insert_batches(database_url: str, rows: Sequence[Values], *, batch: int) -> float:
    """Insert rows that are in memory, a batch a transaction; seconds."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        began = time.perf_counter()
        for start in range(0, len(rows), batch):
            with conn.transaction(), conn.cursor() as cursor:
                cursor.executemany(_INSERT, rows[start : start + batch])
        return time.perf_counter() - began


def consume_and_insert(rabbitmq_url: str, database_url: str, queue: str, *, count: int, batch: int) -> float:
    """What a short script would do: pika's blocking connection, JSON, a batch a transaction, one acknowledgement each.

    Nothing is checked, no title is made, ids of two such scripts would become visible out of order. Seconds from the
    first batch to the last.
    """
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq_url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=2 * batch)
    rows: list[Values] = []
    stored, first, began, ended = 0, 0, 0.0, 0.0
    with psycopg.connect(database_url, autocommit=True) as conn:
        for method, _, body in channel.consume(queue):
            event = json.loads(body)
            data = event["data"]
            rows.append((
                event["id"], event["type"], event["subject"], data["domain"], None, data["message"], None,
                Jsonb(data), event["time"], data["sequence"],
            ))  # fmt: skip
            if len(rows) == batch or stored + len(rows) == count:
                with conn.transaction(), conn.cursor() as cursor:
                    cursor.executemany(_INSERT, rows)
                channel.basic_ack(method.delivery_tag, multiple=True)
                stored += len(rows)
                rows.clear()
                ended = time.perf_counter()
                if not began:
                    began, first = ended, stored
                if stored == count:
                    break
    channel.cancel()
    connection.close()
    return (ended - began) * count / (count - first)
