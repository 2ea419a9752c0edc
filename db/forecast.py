"""What `certpilot forecast` counts: certificates by day, CA and lifetime. The database adds up; no site leaves it."""

from collections.abc import Mapping
from datetime import date

from psycopg.rows import class_row

from db.pool import Connection
from workers.core.lifetime.forecast import Busiest, Group

_RENEWED = "ssl_expiry is not null and (ssl_status = 'active' or renewal_due_at is not null)"
_MAPPED = (
    "site join unnest(%(issuers)s::text[], %(cas)s::text[]) as known(issuer, ca)"
    " on known.issuer = coalesce(certificate_issuer, '')"
)


def issuers(conn: Connection) -> list[str]:
    """The issuing certificates' names, each once; empty text where it is not known."""
    rows = conn.execute(
        f"select coalesce(certificate_issuer, '') from site where {_RENEWED} group by 1 order by 1"  # noqa: S608  # a constant
    ).fetchall()
    return [row[0] for row in rows]


def groups(conn: Connection, ca_by_issuer: Mapping[str, str]) -> list[Group]:
    """Count what is to be renewed; as many rows as there are days, whatever the number of sites.

    Args:
        conn: any.
        ca_by_issuer: the CA of each of `issuers`.
    """
    with conn.cursor(row_factory=class_row(Group)) as cursor:
        return cursor.execute(
            # 90 days are written as 90 days less a second (RFC 5280 4.1.2.5).
            "select ca, greatest(1, round(extract(epoch from ssl_expiry - certificate_not_before) / 86400))::int"  # noqa: S608  # constants
            " as lifetime_days, (ssl_expiry at time zone 'UTC')::date as expires_on,"
            " (renewal_due_at at time zone 'UTC')::date as due_on, count(*)::int as count"
            f" from {_MAPPED} where {_RENEWED} group by 1, 2, 3, 4",
            _map(ca_by_issuer),
        ).fetchall()


def busiest_servers(
    conn: Connection, ca_by_issuer: Mapping[str, str], today: date, days: int
) -> list[Busiest]:
    """For each CA and day the server with the most renewals planned by certpilot; what is overdue falls on today."""
    with conn.cursor(row_factory=class_row(Busiest)) as cursor:
        return cursor.execute(
            "select distinct on (ca, day) ca, day, server, count from (select ca,"  # noqa: S608  # constants
            " greatest((renewal_due_at at time zone 'UTC')::date, %(today)s::date) as day, server_host as server,"
            f" count(*)::int as count from {_MAPPED}"
            " where renewal_due_at < (%(today)s::date + %(days)s::int)::timestamp at time zone 'UTC'"
            f" and {_RENEWED} and server_host is not null group by 1, 2, 3) as counted"
            " order by ca, day, count desc, server",
            {**_map(ca_by_issuer), "today": today, "days": days},
        ).fetchall()


def _map(ca_by_issuer: Mapping[str, str]) -> dict[str, object]:
    return {"issuers": list(ca_by_issuer), "cas": list(ca_by_issuer.values())}
