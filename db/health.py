"""What `certpilot doctor` asks the database about itself. Reads only."""

from dataclasses import dataclass
from datetime import timedelta

from psycopg.rows import class_row

from db.pool import Connection

READER_ROLE = "certpilot_reader"
READER_VIEWS = ("site_ssl", "activity_feed")


def version(conn: Connection) -> tuple[int, str]:
    """The server's major version, and its whole version as it names itself."""
    return conn.info.server_version // 10_000, conn.info.parameter_status("server_version") or ""


def clock_ahead_by(conn: Connection) -> timedelta:
    """How far `certpilot_now()` is ahead of real time; zero but in tests."""
    row = conn.execute("select ahead_by from clock").fetchone()
    assert row is not None
    offset: timedelta = row[0]
    return offset


@dataclass(frozen=True, slots=True)
class ReaderRole:
    """The role that other services read through (DESIGN A.4).

    Attributes:
        exists: whether it is there.
        lacks: views that it should read and may not.
        exceeds: tables and views of this database's public schema that it may read and should not.
    """

    exists: bool
    lacks: list[str]
    exceeds: list[str]


def reader_role(conn: Connection) -> ReaderRole:
    """Look at what the reader role may read."""
    if conn.execute("select 1 from pg_roles where rolname = %s", (READER_ROLE,)).fetchone() is None:
        return ReaderRole(exists=False, lacks=[], exceeds=[])
    rows = conn.execute(
        "select c.relname, has_table_privilege(%s, c.oid, 'select') from pg_class c"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') order by c.relname",
        (READER_ROLE,),
    ).fetchall()
    readable = {name for name, may_read in rows if may_read}
    return ReaderRole(
        exists=True,
        lacks=[view for view in READER_VIEWS if view not in readable],
        exceeds=sorted(readable.difference(READER_VIEWS)),
    )


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits although its time has come.

    Attributes:
        overdue_waits: waiting jobs whose time has passed; a scheduler takes them within seconds.
        longest_seconds: how long the first of them.
    """

    overdue_waits: int
    longest_seconds: float


def overdue_waits(conn: Connection) -> Backlog:
    """Waiting jobs that are due, which only happens where no scheduler runs."""
    with conn.cursor(row_factory=class_row(Backlog)) as cursor:
        row = cursor.execute(
            "select count(*) as overdue_waits,"
            " coalesce(extract(epoch from certpilot_now() - min(run_at)), 0)::float8 as longest_seconds"
            " from job where state = 'waiting' and run_at <= certpilot_now()"
        ).fetchone()
    assert row is not None
    return row


def lead_seconds_left(conn: Connection, role: str) -> float | None:
    """For how long a role's lead is still taken (negative: it ran out); None where it never was."""
    row = conn.execute(
        "select extract(epoch from greatest(expires_at, 'epoch') - clock_timestamp())::float8 from lease"
        " where key = 'role:' || %s",
        (role,),
    ).fetchone()
    return None if row is None else row[0]
