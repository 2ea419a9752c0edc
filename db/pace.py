"""Table renewal_pace, and what the pace of our own renewals is measured from."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql
from psycopg.rows import class_row

from db.pool import Connection
from workers.core.lifetime.pacing import Cohort

OF_ONE_SERVER = 4
"""Its runs go one after the other, so more jobs would only wait there, in the places of other servers'."""

_SAMPLE_ROWS = 20_000
_SECONDS_APART = 600
_MOST_COUNTED = 200_000


@dataclass(frozen=True, slots=True)
class Pace:
    """The stored pace, its row locked.

    Attributes:
        per_hour: renewals an hour.
        paced_until: as `core.lifetime.pacing` has it, UTC.
        is_old: it has to be measured anew.
        now: by the schedule's clock, UTC.
    """

    per_hour: float
    paced_until: datetime
    is_old: bool
    now: datetime


def lock(conn: Connection) -> Pace:
    """Read the pace under its lock, to the end of the transaction."""
    with conn.cursor(row_factory=class_row(Pace)) as cursor:
        found = cursor.execute(
            "select per_hour, greatest(paced_until, certpilot_now() - interval '1 day') as paced_until,"
            " abs(extract(epoch from certpilot_now() - measured_at)) > %s as is_old, certpilot_now() as now"
            " from renewal_pace for update",
            (_SECONDS_APART,),
        ).fetchone()
    assert found is not None
    return found


def store_measured(conn: Connection, per_hour: float) -> None:
    """Store a new pace."""
    conn.execute("update renewal_pace set per_hour = %s, measured_at = certpilot_now()", (per_hour,))


def store_paced(conn: Connection, paced_until: datetime) -> None:
    """Store what was begun."""
    conn.execute("update renewal_pace set paced_until = %s", (paced_until,))


def cohorts(conn: Connection) -> list[Cohort]:
    """Count the certificates by their lifetime, to the nearest minute; of many sites from a sample of about 20,000 rows."""
    row = conn.execute("select greatest(reltuples, 1) from pg_class where oid = 'site'::regclass").fetchone()
    percent = 100.0 if row is None else min(100.0, 100.0 * _SAMPLE_ROWS / float(row[0]))
    rows = conn.execute(
        "select date_trunc('minute', ssl_expiry - certificate_not_before + interval '30 s') as lifetime, count(*),"
        " max(certificate_not_before)"
        " from site tablesample system (%s) where ssl_status = 'active' and certificate_not_before is not null"
        " group by 1",
        (percent,),
    ).fetchall()
    return [Cohort(lifetime, number * 100 / percent, newest) for lifetime, number, newest in rows]


def backlog(conn: Connection) -> tuple[int, timedelta]:
    """How many renewals are due (200,000 of them are counted), and the mean of what is left to their notAfter."""
    row = conn.execute(
        "select count(*), coalesce(avg(greatest(ssl_expiry - certpilot_now(), interval '0')), interval '0')"
        " from (select ssl_expiry from site where renewal_due_at <= certpilot_now() limit %s) as due",
        (_MOST_COUNTED,),
    ).fetchone()
    return (0, timedelta(0)) if row is None else (row[0], row[1])


def next_due(conn: Connection, limit: int) -> list[str]:
    """Sites whose renewal is due, the next to expire first, with no more under way on a server than `OF_ONE_SERVER`.

    They are taken from the 10 * `limit` sites that expire next and the as many that are due the longest: in a backlog the
    former are nearly all due, and where they are not (servers that are off) the latter are.
    """
    near = sql.SQL(
        "(select site_id, server_host, certificate_server_key, ssl_expiry, renewal_due_at from site where ssl_status = 'active'"
        "  order by ssl_expiry limit %(most)s)"
        " union (select site_id, server_host, certificate_server_key, ssl_expiry, renewal_due_at from site"
        "  where renewal_due_at <= certpilot_now() order by renewal_due_at limit %(most)s)"
    )
    due = sql.SQL("renewal_due_at <= certpilot_now()")
    return _a_few_of_each_server(conn, near, due, {"most": 10 * limit, "limit": limit})


def cannot_wait(conn: Connection, limit: int, share_of_lifetime: float) -> list[str]:
    """Of the 10 * `limit` that are due the longest, those with no more than this share of the lifetime left, likewise."""
    near = sql.SQL(
        "select site_id, server_host, certificate_server_key, ssl_expiry, certificate_not_before from site"
        " where renewal_due_at <= certpilot_now() order by renewal_due_at limit %(most)s"
    )
    late = sql.SQL("ssl_expiry - certpilot_now() <= (ssl_expiry - certificate_not_before) * %(share)s")
    values = {"most": 10 * limit, "limit": limit, "share": share_of_lifetime}
    return _a_few_of_each_server(conn, near, late, values)


def _a_few_of_each_server(
    conn: Connection, near: sql.SQL, which: sql.SQL, values: dict[str, float]
) -> list[str]:
    query = sql.SQL(
        "with busy as (select server_key, count(*) as number from job"
        "  where command_id is null and state in ('queued', 'running') group by server_key)"
        " select site_id from (select site_id, ssl_expiry, coalesce(busy.number, 0)"
        "   + row_number() over (partition by certificate_server_key order by ssl_expiry) as turn"
        "  from ({near}) as near left join busy on busy.server_key = certificate_server_key where {which}"
        "   and not exists (select from pause where scope in ('*', server_host))) as due"
        " where turn <= %(of_one_server)s order by ssl_expiry limit %(limit)s"
    ).format(near=near, which=which)
    rows = conn.execute(query, {**values, "of_one_server": OF_ONE_SERVER}).fetchall()
    return [row[0] for row in rows]
