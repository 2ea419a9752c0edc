"""Relay and activity consumer: events per second, beside plain pika and plain inserts on the same broker and database."""

import time
from collections.abc import Sequence

from contracts.topology import ACTIVITY_QUEUE
from db import outbox
from db.outbox import Lane, OutboxMessage
from db.pool import connect
from tests.bench.bare import consume_and_insert, insert_batches, publish_windowed, rows_of
from tests.bench.parts import Parts, broker_and_database, make_events, open_plain, wait
from tests.bench.rows import Row, alternate, median
from tests.support.roles import running
from workers.activity import MAX_BATCH
from workers.edges.amqp.outgoing import OutgoingMessage
from workers.edges.amqp.publisher import WINDOW

EVENTS = 20_000
ROUNDS = 4


def run() -> list[Row]:
    with broker_and_database() as parts:
        return [_relay(parts), *_activity(parts)]


def _relay(parts: Parts) -> Row:
    events = make_events(EVENTS)

    def bare() -> float:
        seconds = publish_windowed(parts.rabbitmq_url, events, window=WINDOW)
        parts.purge(ACTIVITY_QUEUE)
        return EVENTS / seconds

    def ours() -> float:
        with (
            connect(parts.database_url, "bench", autocommit=True) as conn,
            running(parts.settings, "relay"),
        ):
            _fill_outbox(conn, events[:1])
            wait(lambda: not conn.execute("select 1 from outbox where published_at is null").fetchone())
            _fill_outbox(conn, events)
            began = time.perf_counter()
            # One row by its key; whoever asked for what is left would walk over all that is done.
            last = "select published_at is not null from outbox where seq = (select max(seq) from outbox)"
            ended = wait(lambda: conn.execute(last).fetchone() == (True,), every=0.01)
            conn.execute("truncate outbox")
            conn.execute("vacuum outbox")
        parts.purge(ACTIVITY_QUEUE)
        return EVENTS / (ended - began)

    bare_rates, our_rates = alternate(ROUNDS, bare, ours)
    return _ratio(
        f"relay, confirmed events/s ÷ bare windowed publisher ({WINDOW} under way)", our_rates, bare_rates
    )


def _fill_outbox(conn: object, events: Sequence[OutgoingMessage]) -> None:
    rows = [
        OutboxMessage(
            Lane.EVENT, event.exchange, event.routing_key, event.message_id or "", event.content_type or "",
            dict(event.headers), event.body,
        )
        for event in events
    ]  # fmt: skip
    with conn.transaction():  # type: ignore[attr-defined]
        outbox.append_all(conn, rows)  # type: ignore[arg-type]


def _activity(parts: Parts) -> list[Row]:
    def fill() -> list[OutgoingMessage]:
        events = make_events(EVENTS)
        publish_windowed(parts.rabbitmq_url, events, window=WINDOW)
        return events

    def ours() -> float:
        fill()
        with open_plain(parts.database_url) as conn:
            newest = "select coalesce(max(id), 0) from activity"
            with running(parts.settings, "activity"):
                # From the first batch that is there to the last: start-up is not what is measured.
                wait(lambda: conn.execute(newest).fetchone() != (0,), every=0.001)
                began, first = time.perf_counter(), _number(conn.execute(newest).fetchone())
                ended = wait(lambda: conn.execute(newest).fetchone() == (EVENTS,))
        empty()
        return (EVENTS - first) / (ended - began)

    def script() -> float:
        fill()
        seconds = consume_and_insert(
            parts.rabbitmq_url, parts.database_url, ACTIVITY_QUEUE, count=EVENTS, batch=MAX_BATCH
        )
        empty()
        return EVENTS / seconds

    def inserts() -> float:
        seconds = insert_batches(parts.database_url, rows_of(make_events(EVENTS)), batch=MAX_BATCH)
        empty()
        return EVENTS / seconds

    def empty() -> None:
        with open_plain(parts.database_url) as conn:
            conn.execute("truncate activity restart identity")

    our_rates, script_rates, insert_rates = alternate(ROUNDS, ours, script, inserts)
    return [
        _ratio(
            "activity, events/s each once ÷ bare batched inserts of rows in memory", our_rates, insert_rates
        ),
        _ratio(
            "activity, events/s each once ÷ a bare script that consumes and inserts", our_rates, script_rates
        ),
    ]


def _ratio(measure: str, ours: list[float], bare: list[float]) -> Row:
    ratio = median(ours) / median(bare)
    return Row(measure, f"{ratio:.2f}  ({median(ours):,.0f} ÷ {median(bare):,.0f})", "≥ 0.9", ratio >= 0.9)


def _number(row: object) -> int:
    assert isinstance(row, tuple)
    return int(row[0])
