"""Table job: admission, offering to runners, supersession, cancelling. What a holder writes is in `db.outcomes`."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.rows import class_row

from db.pool import Connection
from workers.core.model import JobId, JobKind, Server


@dataclass(frozen=True, slots=True)
class NewJob:
    """An admitted command as a job; `serial_known` is the certificate that a forced renewal has to replace."""

    job_id: JobId
    site_id: str
    kind: JobKind
    names: tuple[str, ...]
    server: Server
    force: bool
    command_id: str | None
    command_source: str | None
    requested_by: str | None
    serial_known: str | None = None
    revoke: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A job to be put on the queue; the epoch lets a runner skip an outdated message without a look."""

    job_id: JobId
    kind: JobKind
    epoch: int


def insert(conn: Connection, job: NewJob, reoffer_seconds: float) -> Offer:
    """Store a queued job. It is offered again after `reoffer_seconds` unless somebody claims it."""
    conn.execute(
        "insert into job (id, site_id, kind, state, domain, names, server_host, server_port, server_username,"
        " server_host_key, server_public_addresses, server_key, force, command_id, command_source, requested_by,"
        " serial_before, revoke, run_at)"
        " values (%s, %s, %s, 'queued', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,"
        " certpilot_now() + make_interval(secs => %s))",
        (
            job.job_id, job.site_id, job.kind, job.names[0], list(job.names), job.server.host, job.server.port,
            job.server.username, job.server.host_key, list(job.server.public_addresses), job.server.key, job.force,
            job.command_id, job.command_source, job.requested_by, job.serial_known,
            job.revoke, reoffer_seconds,
        ),
    )  # fmt: skip
    return Offer(job.job_id, job.kind, 1)


def supersede_or_flag(conn: Connection, job_id: JobId, by: JobId) -> bool:
    """Let a newer job take this one's place; the row is locked by the caller (`db.sites.lock`).

    Returns:
        True when it ended here and now (queued, waiting or dead, without an open attempt); False when a run of it may
        live: then it is only flagged, and its holder ends it when the run is over (PROTOCOL 1); if it waits, at once.
    """
    ended = conn.execute(
        "update job set state = 'superseded', superseded_by = %s, finished_at = coalesce(finished_at, certpilot_now()),"
        " run_at = null, retry_at = null, updated_at = certpilot_now()"
        " where id = %s and state in ('queued', 'waiting', 'dead') and not attempt_open",
        (by, job_id),
    )
    if ended.rowcount:
        return True
    conn.execute(
        "update job set superseded_by = %s, run_at = case state when 'waiting' then certpilot_now() else run_at end"
        " where id = %s",
        (by, job_id),
    )
    return False


def asked_by(conn: Connection, job_id: JobId) -> tuple[str | None, str | None]:
    """The id and source of the command that made the job; None each where none did."""
    row = conn.execute("select command_id, command_source from job where id = %s", (job_id,)).fetchone()
    return (None, None) if row is None else (row[0], row[1])


def check_now(conn: Connection, job_id: JobId, server: Server | None, reoffer_seconds: float) -> Offer | None:
    """Make a job due that waits, or is queued on a paused server.

    A joined command may bring a newer way to reach the server.

    Returns:
        What to offer; None when it no longer waits.
    """
    if server is not None:
        conn.execute(
            "update job set server_username = %s, server_host_key = %s, server_public_addresses = %s"
            " where id = %s and server_key = %s",
            (server.username, server.host_key, list(server.public_addresses), job_id, server.key),
        )
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(
            "update job set state = 'queued', epoch = epoch + 1, run_at = certpilot_now() + make_interval(secs => %s),"
            # A person acted: the day that people have begins anew.
            " fails = 0, failing_since = null, retry_at = null, updated_at = certpilot_now()"
            " where id = %s and state in ('waiting', 'queued') returning id::text as job_id, kind, epoch",
            (reoffer_seconds, job_id),
        ).fetchone()


def queue_due(conn: Connection, limit: int, reoffer_seconds: float) -> list[Offer]:
    """Turn waiting jobs whose time has come into queued ones, the longest due first; reads only what is due."""
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(
            "update job set state = 'queued', epoch = epoch + 1, run_at = certpilot_now() + make_interval(secs => %s),"
            " retry_at = null, updated_at = certpilot_now()"
            " where id in (select id from job where state = 'waiting' and run_at <= certpilot_now()"
            "              order by run_at limit %s for update skip locked)"
            " returning id::text as job_id, kind, epoch",
            (reoffer_seconds, limit),
        ).fetchall()


def reoffer_orphans(conn: Connection, limit: int, reoffer_seconds: float) -> list[Offer]:
    """Running jobs whose holder is gone (server lease free or expired). They come before queued ones (PROTOCOL 4.4)."""
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(
            "update job set run_at = certpilot_now() + make_interval(secs => %s)"
            " where id in (select j.id from job j join lease l on l.key = j.server_key"
            "              where j.state = 'running' and lease_over(l.expires_at)"
            "                and (j.run_at is null or j.run_at <= certpilot_now()"
            # Later than any offer is due: planned before the clock was set back.
            "                     or j.run_at > certpilot_now() + make_interval(secs => %s))"
            "                and not exists (select from pause where scope in ('*', j.server_host))"
            "              limit %s for update of j skip locked)"
            " returning id::text as job_id, kind, epoch",
            (reoffer_seconds, reoffer_seconds, limit),
        ).fetchall()


_FIRST_CLAIMABLE = sql.SQL(
    "(select e.id from job e where e.state = 'queued' and {which}"
    " and not exists (select from job o where o.id <> e.id and o.names && e.names"
    "                 and (o.state = 'running' or o.attempt_open))"
    " order by e.created_at, e.id limit 1)"
)
"""The oldest queued job, but for those that `claims.claim` would refuse since another job has their names: that one may be
of a server that is off for a day, or queue behind them where the clock was set back, and all others would wait for it."""


def reoffer_queued(conn: Connection, limit: int, reoffer_seconds: float) -> list[Offer]:
    """Queued jobs that nobody claimed in time although their server is free: the oldest claimable of each server."""
    # Later than any offer is due: planned before the clock was set back. In a statement of its own it has an index.
    conn.execute(
        "update job set run_at = certpilot_now()"
        " where state = 'queued' and run_at > certpilot_now() + make_interval(secs => %s)",
        (reoffer_seconds,),
    )
    query = sql.SQL(
        "update job set run_at = certpilot_now() + make_interval(secs => %s)"
        " where id in (select j.id from job j left join lease l on l.key = j.server_key"
        "              where j.state = 'queued' and j.run_at <= certpilot_now()"
        "                and (l.key is null or lease_over(l.expires_at))"
        "                and not exists (select from pause where scope in ('*', j.server_host))"
        "                and j.id = {first}"
        "              order by j.run_at limit %s for update of j skip locked)"
        " returning id::text as job_id, kind, epoch"
    ).format(first=_FIRST_CLAIMABLE.format(which=sql.SQL("e.server_key = j.server_key")))
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(query, (reoffer_seconds, limit)).fetchall()


def next_after(conn: Connection, server_key: str, names: Sequence[str]) -> list[Offer]:
    """What a holder that lets go should offer at once: the oldest claimable job of the server, and one for its names.

    Without it a job that found the server busy would sit until the scheduler's next round.
    """
    query = sql.SQL(
        "select id::text as job_id, kind, epoch from job where id in ({of_server}, {of_names})"
    ).format(
        of_server=_FIRST_CLAIMABLE.format(which=sql.SQL("e.server_key = %s")),
        of_names=_FIRST_CLAIMABLE.format(which=sql.SQL("e.names && %s")),
    )
    with conn.cursor(row_factory=class_row(Offer)) as cursor:
        return cursor.execute(query, (server_key, list(names))).fetchall()


def cancel_for_removal(conn: Connection, job_id: JobId) -> bool:
    """Cancel a job that waits, for a removal that its site's owner asked for; False where a run of it may live."""
    done = conn.execute(
        "update job set state = 'cancelled', finished_at = certpilot_now(), run_at = null, retry_at = null,"
        " because = 'removal', updated_at = certpilot_now()"
        " where id = %s and state in ('queued', 'waiting') and not attempt_open",
        (job_id,),
    )
    return bool(done.rowcount)


def cancel_or_flag(conn: Connection, job_id: str) -> tuple[str, bool] | None:
    """Cancel a job that waits or is queued; flag one that runs.

    Returns:
        Its site and whether it ended here and now; None when there is no live job of that id.
    """
    row = conn.execute(
        "update job set cancel_requested = true,"
        " state = case when state in ('queued', 'waiting') and not attempt_open then 'cancelled' else state end,"
        " finished_at = case when state in ('queued', 'waiting') and not attempt_open then certpilot_now() end,"
        " run_at = case when state in ('queued', 'waiting') and not attempt_open then null else run_at end,"
        " retry_at = case when state in ('queued', 'waiting') and not attempt_open then null else retry_at end,"
        " updated_at = certpilot_now()"
        " where id = %s and state in ('queued', 'waiting', 'running') returning site_id, state = 'cancelled'",
        (job_id,),
    ).fetchone()
    return None if row is None else (row[0], row[1])
