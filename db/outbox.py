"""Table outbox: what has to reach the broker, written in the transaction that made it true (DESIGN B.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from db.pool import Connection

WAKE_CHANNEL = "certpilot_outbox"
"""NOTIFY channel; a listener drains the table after each wake-up and each time-out, since a wake-up can be lost."""


class Lane(StrEnum):
    """Lanes are published apart, so that a refused event does not hold up a job."""

    EVENT = "event"
    JOB = "job"
    LETTER = "letter"


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """One message on its way to the broker; always published persistent and mandatory."""

    lane: Lane
    exchange: str
    routing_key: str
    message_id: str
    content_type: str
    headers: dict[str, object]
    body: bytes


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message that waits, with its place in the order."""

    seq: int
    exchange: str
    routing_key: str
    message_id: str
    content_type: str
    headers: dict[str, object]
    body: bytes


def append(conn: Connection, message: OutboxMessage) -> None:
    """Add a message. For an event the site's row must be locked already: that is what makes seq order publish order."""
    append_all(conn, (message,))


def append_all(conn: Connection, messages: Sequence[OutboxMessage]) -> None:
    """Add several messages in one round trip, in their order."""
    if not messages:
        return
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into outbox (lane, exchange, routing_key, message_id, content_type, headers, body)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            [
                (m.lane, m.exchange, m.routing_key, m.message_id, m.content_type, Jsonb(m.headers), m.body)
                for m in messages
            ],
        )


def unpublished(conn: Connection, lane: Lane, limit: int, *, besides: Sequence[int] = ()) -> list[OutboxRow]:
    """The oldest messages of a lane that the broker has not confirmed, in order.

    Args:
        conn: any connection.
        lane: the lane.
        limit: at most so many.
        besides: messages that are on their way. They are named one by one, since "all after the last of them" would
            leave out an older one that was committed later, and overtake it with the next event of its site.
    """
    with conn.cursor(row_factory=class_row(OutboxRow)) as cursor:
        return cursor.execute(
            "select seq, exchange, routing_key, message_id, content_type, headers, body from outbox"
            " where published_at is null and lane = %s and seq <> all(%s) order by seq limit %s",
            (lane, list(besides), limit),
            binary=True,  # bodies as they are, and not twice as long in hexadecimal digits
        ).fetchall()


def mark_published(conn: Connection, seqs: Sequence[int]) -> None:
    """Record that the broker confirmed these messages."""
    conn.execute(
        "update outbox set published_at = clock_timestamp() where seq = any(%s) and published_at is null",
        (list(seqs),),
    )


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far the relay is behind."""

    messages: int
    oldest_age_seconds: float


def backlog(conn: Connection) -> Backlog:
    """Number and age of the messages that the broker has not confirmed."""
    row = conn.execute(
        "select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8"
        " from outbox where published_at is null"
    ).fetchone()
    assert row is not None
    return Backlog(row[0], row[1])


def prune(conn: Connection, keep_days: int, limit: int) -> int:
    """Delete confirmed messages older than `keep_days`, at most `limit` of them.

    Returns:
        How many were deleted. They are kept for a while so that a broker that lost its disk can be fed again.
    """
    return conn.execute(
        "delete from outbox where seq in (select seq from outbox"
        " where published_at < statement_timestamp() - make_interval(days => %s) limit %s)",
        (keep_days, limit),
    ).rowcount
