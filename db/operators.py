"""What operators ask and do by hand, beyond one table's own module: jobs by a short id, work offered after a pause."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row, dict_row

from db.pauses import EVERYTHING
from db.pool import Connection
from db.sites import server_of
from workers.core.model import JobId, Server

_UUID_DIGITS = 32


def job_ids_beginning(conn: Connection, hex_digits: str, limit: int = 10) -> list[JobId]:
    """Find jobs by the beginning of their id, as tables show it; one probe of the primary key.

    Args:
        conn: a connection.
        hex_digits: 1 to 32 hexadecimal digits, without hyphens.
        limit: most ids given.
    """
    first, last = hex_digits.ljust(_UUID_DIGITS, "0"), hex_digits.ljust(_UUID_DIGITS, "f")
    rows = conn.execute(
        "select id::text from job where id between %s and %s order by id limit %s",
        (UUID(first), UUID(last), limit),
    ).fetchall()
    return [JobId(row[0]) for row in rows]


@dataclass(frozen=True, slots=True)
class JobOrigin:
    """Who asked for a job, and what else was asked of it since.

    Attributes:
        command_id: CloudEvents id of the command behind it; None where none asked.
        command_source: CloudEvents source of that command.
        requested_by: who asked, in the command's words.
        force: renew although not due.
        superseded_by: the newer job that takes or took its place.
        cancel_requested: an operator wants it to end.
        epoch: how often it was offered anew.
        failing_since: the first of the failures in a row, UTC.
    """

    command_id: str | None
    command_source: str | None
    requested_by: str | None
    force: bool
    superseded_by: str | None
    cancel_requested: bool
    epoch: int
    failing_since: datetime | None


def job_origin(conn: Connection, job_id: JobId) -> JobOrigin | None:
    """Read it; None where there is no such job."""
    with conn.cursor(row_factory=class_row(JobOrigin)) as cursor:
        return cursor.execute(
            "select command_id, command_source, requested_by, force, superseded_by::text, cancel_requested, epoch,"
            " failing_since from job where id = %s",
            (job_id,),
        ).fetchone()


def make_queued_due(conn: Connection, scope: str) -> int:
    """Make the queued jobs of a scope due now, after their pause was lifted.

    Runners dropped the messages of paused jobs. Those queued within the last minute would otherwise wait for the rest
    of it until they are offered again.

    Args:
        conn: inside a transaction.
        scope: a server's host, or `EVERYTHING`.

    Returns:
        How many were made due; jobs that somebody is writing to at this moment are left to the scheduler.
    """
    return conn.execute(
        "update job set run_at = certpilot_now() where id in (select id from job where state = 'queued'"
        " and run_at > certpilot_now() and (%(scope)s = %(everything)s or server_host = %(scope)s)"
        " for update skip locked)",
        {"scope": scope, "everything": EVERYTHING},
    ).rowcount


def queued_jobs(conn: Connection, scope: str) -> int:
    """How many jobs of a scope wait for a runner."""
    row = conn.execute(
        "select count(*) from job where state = 'queued' and (%(scope)s = %(everything)s or server_host = %(scope)s)",
        {"scope": scope, "everything": EVERYTHING},
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def is_server_known(conn: Connection, host: str) -> bool:
    """Whether any site is on this server."""
    row = conn.execute("select exists (select from site where server_host = %s)", (host,)).fetchone()
    return bool(row and row[0])


def server_at(conn: Connection, host: str) -> Server | None:
    """How the newest command for any site on this host reaches it; None where no site is on it."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "select server_host, server_port, server_username, server_host_key, server_public_addresses from site"
            " where server_host = %s order by updated_at desc limit 1",
            (host,),
        ).fetchone()
    return None if row is None else server_of(row)


@dataclass(frozen=True, slots=True)
class SiteThere:
    """A site on a server, as far as an adoption needs it; `removed`: its owner has had its certificate taken away."""

    site_id: str
    domain: str
    aliases: list[str]
    ssl_status: str
    removed: bool


def sites_on(conn: Connection, host: str) -> list[SiteThere]:
    """The sites on a host that have a domain, by their id."""
    with conn.cursor(row_factory=class_row(SiteThere)) as cursor:
        return cursor.execute(
            "select s.site_id, s.domain, s.aliases, s.ssl_status,"
            " coalesce(j.kind = 'remove' and j.state = 'succeeded', false) as removed"
            " from site s left join job j on j.id = s.job_id where s.server_host = %s and s.domain is not null"
            " order by s.site_id",
            (host,),
        ).fetchall()


@dataclass(frozen=True, slots=True)
class PauseRow:
    """What is paused: everything (`*`) or one server by its host."""

    scope: str
    paused_by: str
    reason: str | None
    paused_at: datetime


def pauses(conn: Connection) -> list[PauseRow]:
    """What is paused, by whom and why."""
    with conn.cursor(row_factory=class_row(PauseRow)) as cursor:
        return cursor.execute(
            "select scope, paused_by, reason, paused_at from pause order by scope"
        ).fetchall()
