"""Role relay: what the outbox holds goes to the broker, in order, with publisher confirms (DESIGN B.1).

One relay leads by a lease and the others stand by, so that the events of a site leave in their order. A leader that
stalls and comes back can publish a message twice, which consumers drop by its id; none is lost, since a row counts as
published only after the broker's confirm.
"""

import threading
from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from uuid import uuid4

from db import leases, outbox
from db.listen import Listener
from db.outbox import Lane, OutboxRow
from db.pool import DatabaseError, OperationalError, Pool, transaction
from workers import logs, metrics
from workers.edges.amqp.broker import BrokerError
from workers.edges.amqp.publisher import Batch, OutgoingMessage, Publisher, PublishResult

log = logs.get(__name__)

LEAD_SECONDS = 5.0
POLL_SECONDS = 1.0
BATCH = 1000
_BATCHES_ON_THEIR_WAY = 2
"""While the broker confirms one, the next is read and the last is marked: one after the other takes twice as long."""
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
        flows = [_LaneFlow(self._pool, self._publisher, lane) for lane in _LANES]
        while not stop.is_set():
            with transaction(self._pool) as conn:
                led, leading = leading, leases.lead(conn, "relay", self._owner, LEAD_SECONDS)
            if leading != led:
                log.info("relay.leads" if leading else "relay.stands_by")
            if not leading:
                stop.wait(POLL_SECONDS)
                continue
            more = [flow.step() for flow in flows]
            if not any(more):
                self._measure()
                listener.wait(POLL_SECONDS)
        for flow in flows:
            flow.finish()

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


class _LaneFlow:
    """One lane from the table to the broker, a few batches at a time on their way."""

    def __init__(self, pool: Pool, publisher: Publisher, lane: Lane) -> None:
        self._pool = pool
        self._publisher = publisher
        self._lane = lane
        self._on_their_way: deque[tuple[list[OutboxRow], Batch]] = deque()
        # After trouble one message tries the way, so that each further try can leave one copy and not a batch of them.
        self._trying = True

    def step(self) -> bool:
        """Send the next batch off and see to the oldest; whether there is more to do at once."""
        if any(batch.troubled for _, batch in self._on_their_way):
            # What goes off now would arrive before the messages that have to go again.
            return self._settle_oldest()
        besides = [row.seq for rows, _ in self._on_their_way for row in rows]
        with transaction(self._pool) as conn:
            rows = outbox.unpublished(conn, self._lane, 1 if self._trying else BATCH, besides=besides)
        if rows:
            self._on_their_way.append((rows, self._publisher.begin_batch([_outgoing(row) for row in rows])))
        if self._trying or not rows or len(self._on_their_way) >= _BATCHES_ON_THEIR_WAY:
            return self._settle_oldest()
        return True

    def finish(self) -> None:
        """See to all that is on its way."""
        while self._on_their_way:
            self._settle_oldest()

    def _settle_oldest(self) -> bool:
        """Wait for the oldest batch's confirms and mark what has them; whether there is more to do at once."""
        if not self._on_their_way:
            return False
        rows, batch = self._on_their_way.popleft()
        results = batch.wait()
        done = _confirmed(self._lane, rows, results)
        if done:
            with transaction(self._pool) as conn:
                outbox.mark_published(conn, done)
            metrics.PUBLISHED.labels(self._lane).inc(len(done))
        self._trying = len(done) < len(rows)
        if self._trying:
            log.warning(
                "relay.unconfirmed",
                lane=str(self._lane),
                messages=len(rows) - len(done),
                results=sorted(set(results)),
            )
            # What followed on its heels counts as not published either, and goes again after it, in order.
            for _, later in self._on_their_way:
                later.wait()
            self._on_their_way.clear()
        return bool(done)


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
