"""Role activity: events into the activity feed, each once, a batch a transaction, acknowledged after the commit."""

from collections.abc import Sequence

from contracts.codes import Code
from contracts.envelope import SetAside
from contracts.events import ReceivedEvent, read_event
from contracts.titles import activity_title
from db import activity, pool
from db.activity import ActivityEvent
from db.pool import Connection, DataError, Pool, transaction
from workers import letters, logs, metrics
from workers.edges.amqp.delivery_stream import Delivery
from workers.letters import Cause

log = logs.get(__name__)

PREFETCH = 2000
MAX_BATCH = 1000


class Activity:
    """Handles deliveries of `ssl.activity`."""

    def __init__(self, db_pool: Pool) -> None:
        self._pool = db_pool

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Store a batch.

        Raises:
            DatabaseError: nothing was stored; the broker delivers the batch again.
        """
        readable, broken = _read(deliveries)
        try:
            with transaction(self._pool) as conn:
                new = activity.insert_batch(conn, [event for _, event in readable])
                self._set_aside(conn, broken)
            metrics.EVENTS.inc(new)
        except DataError:
            # One of them is something PostgreSQL cannot hold: find it, so that it does not hold up the others.
            self._one_by_one(readable, broken)

    def _one_by_one(
        self, readable: list[tuple[Delivery, ActivityEvent]], broken: list[tuple[Delivery, SetAside]]
    ) -> None:
        with transaction(self._pool) as conn:
            self._set_aside(conn, broken)
        for delivery, event in readable:
            try:
                with transaction(self._pool) as conn:
                    activity.insert_batch(conn, [event])
            except DataError as error:
                with transaction(self._pool) as conn:
                    reason = f"PostgreSQL cannot store it: {error}"
                    letters.set_aside_event(
                        conn, delivery, event.event_id, Cause(Code.MALFORMED, reason, pool.now(conn))
                    )

    def _set_aside(self, conn: Connection, broken: list[tuple[Delivery, SetAside]]) -> None:
        for delivery, problem in broken:
            log.warning("event.set_aside", code=str(problem.code), reason=problem.reason)
            letters.set_aside_event(
                conn, delivery, problem.command_id, Cause(problem.code, problem.reason, pool.now(conn))
            )


def _read(
    deliveries: Sequence[Delivery],
) -> tuple[list[tuple[Delivery, ActivityEvent]], list[tuple[Delivery, SetAside]]]:
    readable: list[tuple[Delivery, ActivityEvent]] = []
    broken: list[tuple[Delivery, SetAside]] = []
    for delivery in deliveries:
        try:
            readable.append((delivery, _row(read_event(delivery.body))))
        except SetAside as problem:
            broken.append((delivery, problem))
    return readable, broken


def _row(event: ReceivedEvent) -> ActivityEvent:
    return ActivityEvent(
        event_id=event.event_id,
        event_type=event.event_type,
        site_id=event.site_id,
        domain=event.domain,
        ssl_status=event.ssl_status,
        title=activity_title(event),
        error_code=event.error_code,
        detail=event.data,
        occurred_at=event.occurred_at,
        sequence=event.sequence,
    )
