"""Table site, as the watch and our own renewals go through it: what is due, in batches, and what a look has found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from db.pool import Connection
from db.sites import certificate_of, server_of
from workers.core.model import Certificate, Server, SslStatus


@dataclass(frozen=True, slots=True)
class WatchedSite:
    """A site whose look is due; `certificate` is the one last known, `names` are the site's that are in it."""

    site_id: str
    names: tuple[str, ...]
    server: Server
    status: SslStatus
    certificate: Certificate
    at_risk_code: str | None
    looks_wrong: int


def claim_looks(conn: Connection, limit: int, hold_seconds: float) -> list[WatchedSite]:
    """Take the sites whose look is due, the longest due first, skipping those that another process has taken.

    Each is due again after `hold_seconds`, should this process die; a look that was made plans the next. Sites that
    have no certificate to look for at the moment (a command has moved them, or takes it away) are put off by an hour.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "with due as materialized (select site_id as due_id, exists (select from job where job.id = site.job_id"
            "  and job.kind = 'remove' and job.state in ('queued', 'running', 'waiting')) as is_being_removed"
            "  from site where next_check_at <= certpilot_now() order by next_check_at limit %s for update skip locked)"
            " update site set next_check_at = certpilot_now()"
            "  + case when ssl_status in ('active', 'expired') and not is_being_removed"
            "    then make_interval(secs => %s) else interval '1 hour' end"
            " from due where site_id = due_id"
            " returning site_id, domain, aliases, server_host, server_port, server_username, server_host_key,"
            " server_public_addresses, ssl_status, ssl_expiry, certificate_serial, certificate_names,"
            " certificate_issuer, certificate_not_before, certificate_server_key, at_risk_code, looks_wrong,"
            " is_being_removed",
            (limit, hold_seconds),
        ).fetchall()
    return [site for row in rows if (site := _watched(row)) is not None]


def _watched(row: dict[str, Any]) -> WatchedSite | None:
    certificate = certificate_of(row)
    if certificate is None or row["server_host"] is None or row["ssl_status"] not in {"active", "expired"}:
        return None
    if row["is_being_removed"]:
        return None
    server = server_of(row)
    if server.key != row["certificate_server_key"] or row["domain"] not in certificate.names:
        return None
    # A certificate that was there before may have names of other sites as well: what those show is not this one's.
    aliases = sorted(set(row["aliases"]) & set(certificate.names) - {row["domain"]})
    return WatchedSite(
        site_id=row["site_id"],
        names=(row["domain"], *(name for name in aliases if not name.startswith("*."))),
        server=server,
        status=SslStatus(row["ssl_status"]),
        certificate=certificate,
        at_risk_code=row["at_risk_code"],
        looks_wrong=row["looks_wrong"],
    )


def plan_looks(conn: Connection, next_looks: Sequence[tuple[WatchedSite, datetime | None]]) -> None:
    """Plan the next look of sites that show what they should, all in one statement; None: none any more.

    Those that a command or a renewal has moved since they were claimed are left alone.
    """
    conn.execute(
        "update site set next_check_at = plan.at, looks_wrong = 0, looks_gone = 0"
        " from unnest(%s::text[], %s::text[], %s::timestamptz[]) as plan(site_id, serial, at)"
        " where site.site_id = plan.site_id and certificate_serial = plan.serial"
        " and ssl_status in ('active', 'expired')",
        (
            [site.site_id for site, _ in next_looks],
            [site.certificate.serial for site, _ in next_looks],
            [at for _, at in next_looks],
        ),
    )


def count_wrong_look(
    conn: Connection, site_id: str, next_look_at: datetime, *, gone: bool
) -> tuple[int, int]:
    """Count a look that did not show the certificate.

    Returns:
        How many in a row have not shown it, and how many of those have found it gone from the server.
    """
    row = conn.execute(
        "update site set next_check_at = %s, looks_wrong = looks_wrong + 1,"
        " looks_gone = case when %s then looks_gone + 1 else 0 end"
        " where site_id = %s returning looks_wrong, looks_gone",
        (next_look_at, gone, site_id),
    ).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def renewals_due(conn: Connection, limit: int) -> list[str]:
    """Sites that certpilot has to renew now, the next to expire first.

    They are taken from those that are due the longest, so that a backlog is not read whole at each tick.
    """
    rows = conn.execute(
        "select site_id from (select site_id, ssl_expiry from site where renewal_due_at <= certpilot_now()"
        "  order by renewal_due_at limit %s) as due order by ssl_expiry limit %s",
        (10 * limit, limit),
    ).fetchall()
    return [row[0] for row in rows]


def own_renewals_under_way(conn: Connection) -> int:
    """How many jobs that no command asked for are queued or running, but for those of paused servers."""
    row = conn.execute(
        "select count(*) from job where command_id is null and state in ('queued', 'running')"
        " and not exists (select from pause where scope in ('*', server_host))"
    ).fetchone()
    return 0 if row is None else int(row[0])


def put_off_renewal(conn: Connection, site_id: str, at: datetime | None) -> None:
    """Plan our own renewal for another time, or (None) not at all."""
    conn.execute("update site set renewal_due_at = %s where site_id = %s", (at, site_id))
