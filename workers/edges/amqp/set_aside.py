"""The dead letter for a message on the job queue that is not a job (DESIGN A.9).

All other letters are outbox rows written in a consumer's transaction. This one has no job and no row: it is published
at once, confirmed, and only then is the message acknowledged.
"""

import hashlib
from datetime import UTC, datetime

from contracts import topology
from contracts.codes import Code
from contracts.times import format_time
from workers.edges.amqp.delivery_stream import Delivery
from workers.edges.amqp.publisher import OutgoingMessage

_MOST_REASON_BYTES = topology.MAX_LETTER_HEADERS_BYTES // 2


def malformed_job_letter(delivery: Delivery, reason: str) -> OutgoingMessage:
    """Make the letter: the body as it came, the reason in the headers."""
    letter_id = hashlib.sha256(delivery.body).hexdigest()
    return OutgoingMessage(
        exchange=topology.DEFAULT_EXCHANGE,
        routing_key=topology.JOBS_DLQ,
        body=delivery.body,
        message_id=letter_id,
        content_type="application/octet-stream",
        headers={
            topology.LETTER_ID_HEADER: letter_id,
            topology.LETTER_CODE_HEADER: str(Code.MALFORMED),
            topology.LETTER_REASON_HEADER: reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore"),
            topology.LETTER_FIRST_AT_HEADER: format_time(datetime.now(UTC)),
            topology.LETTER_COUNT_HEADER: 1,
            topology.LETTER_QUEUE_HEADER: topology.JOBS_QUEUE,
            topology.LETTER_ROUTING_KEY_HEADER: delivery.routing_key.encode()[:255].decode(errors="ignore"),
        },
    )
