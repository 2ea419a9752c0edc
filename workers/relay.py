"""Role relay: what the outbox holds goes to the broker, in order, with publisher confirms (DESIGN B.1).

One relay leads by a lease and the others stand by, so that the events of a site leave in their order. A leader that
stalls and comes back can publish a message twice, which consumers drop by its id; none is lost, since a row counts as
published only after the broker's confirm.
"""

import threading
from collections.abc import Sequence
from itertools import takewhile
from uuid import uuid4

from db import leases, outbox
from db.listen import Listener
from db.outbox import Lane, OutboxRow
from db.pool import DatabaseError, OperationalError, Pool, transaction
from workers import logs, metrics
from workers.edges.broker import BrokerError
from workers.edges.publisher import OutgoingMessage, Publisher, PublishResult

log = logs.get(__name__)

LEAD_SECONDS = 5.0
POLL_SECONDS = 1.0
BATCH = 1000
_TROUBLE_PAUSE_SECONDS = 0.5
_DONE = frozenset({PublishResult.CONFIRMED, PublishResult.REFUSED})
# Jobs first: a runner may be idle. Letters last: nobody waits for them.
_LANES = (Lane.JOB, Lane.EVENT, Lane.LETTER)


class Relay:
    """The role. `run` returns when `stop` is set."""

    def __init__(self, pool: Pool, database_url: str, publisher: Publisher) -> None:
        self._pool = pool
        self._database_url = database_url
        self._publisher = publisher
        self._owner = uuid4()

    def run(self, stop: threading.Event) -> None:
        """Lead or stand by until stopped; trouble with database or broker is waited out."""
        while not stop.is_set():
            try:
                with Listener(self._database_url, "certpilot-relay-listen", outbox.WAKE_CHANNEL) as listener:
                    self._lead_or_stand_by(listener, stop)
            except (DatabaseError, BrokerError) as error:
                log.warning("relay.trouble", error=str(error).strip())
                stop.wait(_TROUBLE_PAUSE_SECONDS)
        self._step_down()

    def _lead_or_stand_by(self, listener: Listener, stop: threading.Event) -> None:
        leading = False
        while not stop.is_set():
            with transaction(self._pool) as conn:
                led, leading = leading, leases.lead(conn, "relay", self._owner, LEAD_SECONDS)
            if leading != led:
                log.info("relay.leads" if leading else "relay.stands_by")
            if not leading:
                stop.wait(POLL_SECONDS)
            elif self.drain() == 0:
                self._measure()
                listener.wait(POLL_SECONDS)

    def drain(self) -> int:
        """Publish one batch of each lane; how many messages the broker confirmed."""
        return sum(self._drain_lane(lane) for lane in _LANES)

    def _drain_lane(self, lane: Lane) -> int:
        with transaction(self._pool) as conn:
            rows = outbox.unpublished(conn, lane, BATCH)
        if not rows:
            return 0
        results = self._publisher.publish_batch([_outgoing(row) for row in rows])
        done = _confirmed(lane, rows, results)
        if done:
            with transaction(self._pool) as conn:
                outbox.mark_published(conn, done)
            metrics.PUBLISHED.labels(lane).inc(len(done))
        if len(done) < len(rows):
            log.warning(
                "relay.unconfirmed",
                lane=str(lane),
                messages=len(rows) - len(done),
                results=sorted(set(results)),
            )
        return len(done)

    def _measure(self) -> None:
        """Tell how far behind we are; with nothing to do there is time for it."""
        with transaction(self._pool) as conn:
            backlog = outbox.backlog(conn)
        metrics.OUTBOX_MESSAGES.set(backlog.messages)
        metrics.OUTBOX_OLDEST_SECONDS.set(backlog.oldest_age_seconds)

    def _step_down(self) -> None:
        try:
            with transaction(self._pool) as conn:
                leases.step_down(conn, "relay", self._owner)
        except OperationalError:
            log.warning("relay.step_down_failed")


def _outgoing(row: OutboxRow) -> OutgoingMessage:
    return OutgoingMessage(
        exchange=row.exchange,
        routing_key=row.routing_key,
        body=row.body,
        message_id=row.message_id,
        content_type=row.content_type,
        headers=row.headers,
    )


def _confirmed(lane: Lane, rows: Sequence[OutboxRow], results: Sequence[PublishResult]) -> list[int]:
    """Which rows are done. Of events only those before the first that is not: the rest goes again, in order.

    A message that this broker will never take is done as well: it would hold up its lane for ever. It stays in the
    table, and the log names it.
    """
    pairs = list(zip(rows, results, strict=True))
    for row, result in pairs:
        if result is PublishResult.REFUSED:
            log.error("relay.refused", lane=str(lane), seq=row.seq, message_id=row.message_id)
    if lane is Lane.EVENT:
        return [row.seq for row, _ in takewhile(lambda pair: pair[1] in _DONE, pairs)]
    return [row.seq for row, result in pairs if result in _DONE]
