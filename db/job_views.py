"""Tables job and job_attempt as people read them (`certpilot jobs`); nothing is written here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from db.pool import Connection
from workers.core.model import JobState


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as `certpilot jobs` shows it."""

    job_id: str
    site_id: str
    kind: str
    state: str
    domain: str
    names: list[str]
    server_key: str
    attempt: int
    fails: int
    run_at: datetime | None
    retry_at: datetime | None
    error_code: str | None
    error_message: str | None
    because: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def read(
    conn: Connection,
    *,
    job_id: str | None = None,
    site_id: str | None = None,
    states: Sequence[JobState] = (),
    limit: int = 100,
) -> list[JobRow]:
    """Jobs, the newest first, by id, site or state."""
    with conn.cursor(row_factory=class_row(JobRow)) as cursor:
        return cursor.execute(
            "select id::text as job_id, site_id, kind, state, domain, names, server_key, attempt, fails, run_at, retry_at,"
            " error_code, error_message, because, created_at, started_at, finished_at from job"
            " where (%(id)s::uuid is null or id = %(id)s) and (%(site)s::text is null or site_id = %(site)s)"
            " and (cardinality(%(states)s::text[]) = 0 or state = any(%(states)s)) order by created_at desc limit %(limit)s",
            {"id": job_id, "site": site_id, "states": list(states), "limit": limit},
        ).fetchall()


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of a job, for `certpilot jobs show`."""

    attempt: int
    opened_at: datetime
    closed_at: datetime | None
    result: str | None
    error_code: str | None
    exit_code: int | None
    evidence: str | None


def attempts(conn: Connection, job_id: str) -> list[AttemptRow]:
    """The attempts of a job in their order."""
    with conn.cursor(row_factory=class_row(AttemptRow)) as cursor:
        return cursor.execute(
            "select attempt, opened_at, closed_at, result, error_code, exit_code, evidence from job_attempt"
            " where job_id = %s order by attempt",
            (UUID(job_id),),
        ).fetchall()
