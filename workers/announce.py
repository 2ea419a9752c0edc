"""Events: each takes its site's next number and stands in the outbox of the transaction that made it true (DESIGN B.1)."""

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from contracts.event_models import ActionWord, CertificateAtRisk, CertificateRenewed, Error, RenewerWord
from contracts.events import (
    EventData,
    JobProgress,
    OperatorAction,
    RequestRejected,
    StatusChanged,
    build_event,
    error_object,
    event_properties,
    routing_key_of,
)
from contracts.topology import EVENTS_EXCHANGE
from db import outbox, pool, sites
from db.outbox import Lane, OutboxMessage
from db.pool import Connection
from workers.core.model import JobId, Problem, SslStatus, Step


@dataclass(frozen=True, slots=True)
class About:
    """What an event is about, beside the event itself.

    Attributes:
        site_id: the site.
        command_id: CloudEvents id of the command behind it; None where no command asked.
        command_source: CloudEvents source of that command.
        job_id: the job behind it.
    """

    site_id: str
    command_id: str | None = None
    command_source: str | None = None
    job_id: JobId | None = None


def status_changed(
    conn: Connection, about: About, *, previous: SslStatus, problem: Problem | None = None
) -> None:
    """Tell that a job ended or a status changed by itself; the site's row has the new status already."""
    row = sites.bump_sequence(conn, about.site_id)
    data = StatusChanged(
        site_id=about.site_id, domain=row.domain, sequence=row.sequence, command_id=about.command_id,
        command_source=about.command_source, job_id=about.job_id, previous_status=previous.value,
        ssl_status=SslStatus(row.ssl_status).value, ssl_expiry=row.ssl_expiry, error=_error(problem),
    )  # fmt: skip
    _append(conn, about.site_id, data, row.at)


def rejected(conn: Connection, about: About, problem: Problem, *, domain: str | None) -> None:
    """Tell that a command made no job. The site's row is made where it is the first that is heard of the site."""
    sites.ensure(conn, about.site_id)
    row = sites.bump_sequence(conn, about.site_id)
    data = RequestRejected(
        site_id=about.site_id, domain=domain or row.domain, sequence=row.sequence, command_id=about.command_id,
        command_source=about.command_source, job_id=about.job_id,
        error=error_object(problem.code, problem.message, problem.retry_at),
    )  # fmt: skip
    _append(conn, about.site_id, data, row.at)


def progress(
    conn: Connection,
    about: About,
    step: Step,
    message: str,
    *,
    attempt: int = 0,
    problem: Problem | None = None,
) -> None:
    """Tell that a job has reached a step; a wait carries its problem with `retry_at`."""
    row = sites.bump_sequence(conn, about.site_id)
    data = JobProgress(
        site_id=about.site_id, domain=row.domain, sequence=row.sequence, command_id=about.command_id,
        command_source=about.command_source, job_id=about.job_id, step=step.value, attempt=attempt, message=message,
        retry_at=problem.retry_at if problem else None, error=_error(problem),
    )  # fmt: skip
    _append(conn, about.site_id, data, row.at)


def operator_action(
    conn: Connection,
    action: ActionWord,
    *,
    by: str,
    reason: str | None,
    queue: str | None = None,
    count: int | None = None,
    about: About | None = None,
) -> None:
    """Tell what somebody did by hand; about a site where there is one."""
    if about is None:
        none_site = OperatorAction(action=action, by=by, reason=reason, queue=queue, count=count)
        _append(conn, None, none_site, pool.now(conn))
        return
    row = sites.bump_sequence(conn, about.site_id)
    data = OperatorAction(
        site_id=about.site_id, domain=row.domain, sequence=row.sequence, command_id=about.command_id,
        command_source=about.command_source, job_id=about.job_id, action=action, by=by, reason=reason, queue=queue, count=count,
    )  # fmt: skip
    _append(conn, about.site_id, data, row.at)


def certificate_renewed(
    conn: Connection, about: About, *, by: RenewerWord, previous_expiry: datetime | None, ssl_expiry: datetime
) -> None:
    """Tell that a newer certificate for the same names is served."""
    row = sites.bump_sequence(conn, about.site_id)
    data = CertificateRenewed(
        site_id=about.site_id, domain=row.domain, sequence=row.sequence, command_id=about.command_id,
        command_source=about.command_source, job_id=about.job_id, by=by, previous_expiry=previous_expiry,
        ssl_expiry=ssl_expiry,
    )  # fmt: skip
    _append(conn, about.site_id, data, row.at)


def certificate_at_risk(conn: Connection, about: About, problem: Problem | None) -> None:
    """Tell why the site's certificate may lapse, or (None) that it will not."""
    row = sites.bump_sequence(conn, about.site_id)
    data = CertificateAtRisk(
        site_id=about.site_id, domain=row.domain, sequence=row.sequence, command_id=about.command_id,
        command_source=about.command_source, job_id=about.job_id, ssl_expiry=row.ssl_expiry, error=_error(problem),
    )  # fmt: skip
    _append(conn, about.site_id, data, row.at)


def _error(problem: Problem | None) -> Error | None:
    return None if problem is None else error_object(problem.code, problem.message, problem.retry_at)


def _append(conn: Connection, site_id: str | None, data: EventData, occurred_at: datetime) -> None:
    event_id = str(uuid4())
    properties = event_properties(event_id=event_id, site_id=site_id, data=data)
    outbox.append(
        conn,
        OutboxMessage(
            lane=Lane.EVENT,
            exchange=EVENTS_EXCHANGE,
            routing_key=routing_key_of(data),
            message_id=properties.message_id,
            content_type=properties.content_type,
            headers=dict(properties.headers),
            body=build_event(event_id=event_id, site_id=site_id, occurred_at=occurred_at, data=data),
        ),
    )
