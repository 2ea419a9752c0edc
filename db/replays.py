"""What an operator does with the jobs behind dead letters, and the copies of discarded letters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from db.jobs import Offer
from db.pool import Connection


def replay_job(conn: Connection, job_id: str, epoch: int, reoffer_seconds: float) -> Offer | None:
    """Give a dead job a new epoch and queue it; the people's day and the CA's month begin anew.

    Returns:
        What to offer; None where the job is not dead any more in this epoch: superseded, replayed already, or unknown.
        However often it is run, at most one replay of a letter has an effect.
    """
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(
            "update job set state = 'queued', epoch = epoch + 1, fails = 0, failing_since = null, crashes = 0,"
            " finished_at = null, error_code = null, error_message = null, because = 'replayed by an operator',"
            " admitted_at = certpilot_now(), run_at = certpilot_now() + make_interval(secs => %s),"
            " updated_at = certpilot_now()"
            " where id = %s and state = 'dead' and epoch = %s returning id::text as job_id, kind, epoch",
            (reoffer_seconds, job_id, epoch),
        ).fetchone()


@dataclass(frozen=True, slots=True)
class LetterJob:
    """The job behind a letter, as an operator wants to see it."""

    job_id: str
    site_id: str
    domain: str
    state: str
    epoch: int
    superseded_by: str | None
    command_id: str | None
    command_source: str | None


def jobs_of_letters(conn: Connection, job_ids: Sequence[str]) -> dict[str, LetterJob]:
    """Read the jobs of many letters in one round trip; unknown ones are left out."""
    with conn.cursor(row_factory=class_row(LetterJob)) as cursor:
        rows = cursor.execute(
            "select id::text as job_id, site_id, domain, state, epoch, superseded_by::text, command_id, command_source"
            " from job where id = any(%s::uuid[])",
            (list(job_ids),),
        ).fetchall()
    return {row.job_id: row for row in rows}


@dataclass(frozen=True, slots=True)
class Discarded:
    """A letter as it is kept after it was discarded."""

    letter_id: str
    queue: str
    code: str
    reason: str
    headers: Mapping[str, Any]
    body: bytes


def keep_copies(conn: Connection, letters: Sequence[Discarded], by: str) -> None:
    """Keep what is about to be discarded; a copy that is there already is not kept twice."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into discarded_letter (letter_id, queue, code, reason, headers, body, discarded_by)"
            " select %s, %s, %s, %s, %s, %s, %s where not exists"
            " (select from discarded_letter where letter_id = %s and queue = %s)",
            [
                (
                    one.letter_id,
                    one.queue,
                    one.code,
                    one.reason,
                    Jsonb(dict(one.headers)),
                    one.body,
                    by,
                    one.letter_id,
                    one.queue,
                )
                for one in letters
            ],
        )
