"""Offers of jobs to runners, as outbox rows in the offering transaction."""

from collections.abc import Sequence

from contracts.topology import JOBS_QUEUE
from db import outbox
from db.jobs import Offer
from db.outbox import Lane, OutboxMessage
from db.pool import Connection
from workers.edges.amqp.job_message import encode_job_message

REOFFER_SECONDS = 60.0
"""A queued job that nobody claimed by then is offered again: RabbitMQ may lose anything (DESIGN B.1)."""


def offer(conn: Connection, offers: Sequence[Offer]) -> None:
    """Put jobs on the runners' queue; the relay publishes them after the commit."""
    outbox.append_all(conn, [_message(one) for one in offers])


def _message(one: Offer) -> OutboxMessage:
    message_id = f"{one.job_id}.{one.epoch}"
    return OutboxMessage(
        lane=Lane.JOB,
        exchange="",
        routing_key=JOBS_QUEUE,
        message_id=message_id,
        content_type="application/json",
        headers={},
        body=encode_job_message(one.kind, one.job_id, one.epoch, message_id),
    )
