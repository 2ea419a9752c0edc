"""Dead letters: outbox rows in the consumer's own transaction, so that none is lost or doubled unseen (DESIGN A.9)."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from contracts import topology
from contracts.codes import Code
from contracts.times import format_time
from contracts.topology import MAX_LETTER_HEADERS_BYTES, dead_letter_queue
from db import outbox
from db.outbox import Lane, OutboxMessage
from db.pool import Connection
from workers.core.model import JobId
from workers.edges.amqp.delivery_stream import Delivery

_REASON_BYTES = MAX_LETTER_HEADERS_BYTES // 2
"""The reason is the only header that can be long; the others stay far below the other half."""

_ROUTING_KEY_BYTES = 255
_LONGEST_TIME = 40
_MOST_COUNTED = 2**31
"""A producer may set our headers, too: beyond these they are not believed."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is set aside.

    Attributes:
        code: the code.
        reason: one sentence for whoever looks at the letter.
        at: now, by the database.
    """

    code: Code
    reason: str
    at: datetime


def set_aside_command(conn: Connection, delivery: Delivery, cause: Cause) -> None:
    """Keep a message of `ssl.commands` that cannot be handled, as it came."""
    _set_aside(conn, topology.COMMANDS_QUEUE, hashlib.sha256(delivery.body).hexdigest(), delivery, cause)


def set_aside_event(conn: Connection, delivery: Delivery, event_id: str | None, cause: Cause) -> None:
    """Keep an event that cannot be stored, as it came."""
    letter_id = event_id or hashlib.sha256(delivery.body).hexdigest()
    _set_aside(conn, topology.ACTIVITY_QUEUE, letter_id, delivery, cause)


def bury_job(conn: Connection, job_id: JobId, epoch: int, cause: Cause) -> None:
    """Tell operators of a job that needs one; its body is `{job_id, epoch}`, the truth is the job's row."""
    letter_id = f"{job_id}.{epoch}"
    outbox.append(
        conn,
        OutboxMessage(
            lane=Lane.LETTER,
            exchange=topology.DEFAULT_EXCHANGE,
            routing_key=topology.JOBS_DLQ,
            message_id=letter_id,
            content_type="application/json",
            headers={
                **_cause_headers(cause),
                topology.LETTER_ID_HEADER: letter_id,
                topology.LETTER_FIRST_AT_HEADER: format_time(cause.at),
                topology.LETTER_COUNT_HEADER: epoch,
                topology.LETTER_QUEUE_HEADER: topology.JOBS_QUEUE,
                topology.LETTER_ROUTING_KEY_HEADER: topology.JOBS_QUEUE,
            },
            body=json.dumps({"job_id": job_id, "epoch": epoch}).encode(),
        ),
    )


def _set_aside(conn: Connection, queue: str, letter_id: str, delivery: Delivery, cause: Cause) -> None:
    """The count and the first time go on from a letter that was replayed and came back."""
    earlier = delivery.headers.get(topology.LETTER_COUNT_HEADER)
    first_at = delivery.headers.get(topology.LETTER_FIRST_AT_HEADER)
    outbox.append(
        conn,
        OutboxMessage(
            lane=Lane.LETTER,
            exchange=topology.DEFAULT_EXCHANGE,
            routing_key=dead_letter_queue(queue),
            message_id=letter_id,
            content_type=delivery.content_type or "application/octet-stream",
            headers={
                **_cause_headers(cause),
                topology.LETTER_ID_HEADER: letter_id,
                topology.LETTER_FIRST_AT_HEADER: first_at if _is_time(first_at) else format_time(cause.at),
                topology.LETTER_COUNT_HEADER: earlier + 1
                if isinstance(earlier, int) and 0 < earlier < _MOST_COUNTED
                else 1,
                topology.LETTER_QUEUE_HEADER: queue,
                topology.LETTER_ROUTING_KEY_HEADER: delivery.routing_key[:_ROUTING_KEY_BYTES],
            },
            body=delivery.body,
        ),
    )


def _is_time(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TIME


def _cause_headers(cause: Cause) -> dict[str, object]:
    return {
        topology.LETTER_CODE_HEADER: str(cause.code),
        topology.LETTER_REASON_HEADER: cause.reason.encode()[:_REASON_BYTES].decode(errors="ignore"),
    }
