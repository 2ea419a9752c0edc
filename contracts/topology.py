"""Names on the broker: exchanges, queues, bindings, routing keys, headers (DESIGN A.1, A.2, A.9). No I/O."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from contracts.envelope import MAX_BODY_BYTES

COMMANDS_EXCHANGE: Final = "ssl.commands"
EVENTS_EXCHANGE: Final = "ssl.events"
DEFAULT_EXCHANGE: Final = ""
"""Routes to the queue whose name is the routing key; it needs no binding, and dead-letter queues have none."""

ISSUE_ROUTING_KEY: Final = "ssl.issue"
RENEW_ROUTING_KEY: Final = "ssl.renew"
REMOVE_ROUTING_KEY: Final = "ssl.remove"
STATUS_CHANGED_ROUTING_KEY: Final = "ssl.status.changed"
REQUEST_REJECTED_ROUTING_KEY: Final = "ssl.request.rejected"
JOB_PROGRESS_ROUTING_KEY: Final = "ssl.job.progress"
OPERATOR_ACTION_ROUTING_KEY: Final = "ssl.operator.action"
CERTIFICATE_RENEWED_ROUTING_KEY: Final = "ssl.certificate.renewed"
CERTIFICATE_AT_RISK_ROUTING_KEY: Final = "ssl.certificate.at_risk"

COMMANDS_QUEUE: Final = "ssl.commands"
JOBS_QUEUE: Final = "ssl.jobs"
ACTIVITY_QUEUE: Final = "ssl.activity"
DEAD_LETTER_SUFFIX: Final = ".dlq"
COMMANDS_DLQ: Final = COMMANDS_QUEUE + DEAD_LETTER_SUFFIX
JOBS_DLQ: Final = JOBS_QUEUE + DEAD_LETTER_SUFFIX
ACTIVITY_DLQ: Final = ACTIVITY_QUEUE + DEAD_LETTER_SUFFIX

MAX_COMMAND_BYTES: Final = MAX_BODY_BYTES

DELIVERY_LIMIT: Final = 1_000_000
"""Never absent: RabbitMQ 4 takes 20 then, and drops what was returned more often. Never -1: 3.10 drops at the first."""

QUEUE_ARGUMENTS: Final[Mapping[str, str | int]] = MappingProxyType(
    {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
)
"""For every queue alike. No dead-letter exchange: letters are outbox rows that the relay publishes (DESIGN A.9)."""


EXCHANGES: Final = (COMMANDS_EXCHANGE, EVENTS_EXCHANGE)
"""Both topic, durable, without arguments, so that a producer's plain declare matches."""

QUEUES: Final = (COMMANDS_QUEUE, JOBS_QUEUE, ACTIVITY_QUEUE)
"""The queues that a role consumes; each has its `dead_letter_queue`."""

BINDINGS: Final = ((COMMANDS_EXCHANGE, COMMANDS_QUEUE), (EVENTS_EXCHANGE, ACTIVITY_QUEUE))
"""Exchange and queue, each with `BINDING_KEY`. `ssl.jobs` and the dead-letter queues are reached through the default
exchange, by our relay alone."""

BINDING_KEY: Final = "#"


def dead_letter_queue(queue: str) -> str:
    """Name the queue that holds what was set aside from a consumed queue."""
    return queue + DEAD_LETTER_SUFFIX


# Headers of an event, doubled from the envelope so that a consumer can route without parsing.
EVENT_ID_HEADER: Final = "ce-id"
EVENT_TYPE_HEADER: Final = "ce-type"
EVENT_SUBJECT_HEADER: Final = "ce-subject"

# Headers of a dead letter (DESIGN A.9).
LETTER_ID_HEADER: Final = "certpilot-letter-id"
"""SHA-256 of the body for a command, `JOB.EPOCH` for a job, the event's id for an event."""
LETTER_CODE_HEADER: Final = "certpilot-code"
LETTER_REASON_HEADER: Final = "certpilot-reason"
LETTER_FIRST_AT_HEADER: Final = "certpilot-first-at"
LETTER_COUNT_HEADER: Final = "certpilot-count"
LETTER_QUEUE_HEADER: Final = "certpilot-queue"
LETTER_ROUTING_KEY_HEADER: Final = "certpilot-routing-key"

LETTER_HEADERS: Final = (
    LETTER_ID_HEADER,
    LETTER_CODE_HEADER,
    LETTER_REASON_HEADER,
    LETTER_FIRST_AT_HEADER,
    LETTER_COUNT_HEADER,
    LETTER_QUEUE_HEADER,
    LETTER_ROUTING_KEY_HEADER,
)

MAX_LETTER_HEADERS_BYTES: Final = 4096
"""Of all headers of a letter together; the reason is cut to fit."""
