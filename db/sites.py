"""Table site: what each site has, and the counter behind `data.sequence`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from contracts.codes import Code
from db.pool import Connection
from workers.core.lifetime.watch import Schedule
from workers.core.model import Certificate, JobId, JobKind, JobState, LiveJob, Server, Site, SslStatus

_LOCK_TRIES = 5


@dataclass(frozen=True, slots=True)
class Bumped:
    """The site's row after its sequence was advanced for one event."""

    sequence: int
    domain: str | None
    ssl_status: SslStatus
    ssl_expiry: datetime | None
    at: datetime


def ensure(conn: Connection, site_id: str) -> None:
    """Make the site's row where there is none."""
    conn.execute("insert into site (site_id) values (%s) on conflict do nothing", (site_id,))


def lock(conn: Connection, site_id: str) -> Site:
    """Lock the site's row and, before it, its newest job; make the row where there is none.

    Which job is the newest stands in the site's row, so it is read first, and read again under the lock: when another
    command came in between, both locks are given back (savepoint) and taken anew, always job before site.

    Raises:
        OperationalError: the newest job changed five times in between; the delivery will come again.
    """
    ensure(conn, site_id)
    for _ in range(_LOCK_TRIES):
        with conn.transaction() as attempt, conn.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute("select job_id from site where site_id = %s", (site_id,)).fetchone()
            job_id = found and found["job_id"]
            if job_id is not None:
                cursor.execute("select 1 from job where id = %s for update", (job_id,))
            row = cursor.execute(
                "select s.site_id, s.domain, s.aliases, s.server_host, s.server_port, s.server_username,"
                " s.server_host_key, s.server_public_addresses, s.ssl_status, s.ssl_expiry, s.certificate_serial,"
                " s.certificate_names, s.certificate_issuer, s.certificate_not_before, s.certificate_server_key,"
                " s.ever_issued, s.job_id, j.kind as job_kind, j.attempt as job_attempt, j.state as job_state, j.domain as job_domain, j.names as job_names,"
                " j.server_key as job_server_key, j.error_code as job_error_code, j.retry_at as job_retry_at,"
                " exists (select from pause p where p.scope in ('*', j.server_host)) as job_paused"
                " from site s left join job j on j.id = s.job_id where s.site_id = %s for update of s",
                (site_id,),
            ).fetchone()
            assert row is not None
            if row["job_id"] == job_id:
                return _site(row)
            raise psycopg.Rollback(attempt)
    raise psycopg.OperationalError(f"the newest job of site {site_id} keeps changing")


def _site(row: dict[str, Any]) -> Site:
    return Site(
        site_id=row["site_id"],
        domain=row["domain"],
        aliases=tuple(row["aliases"]),
        server=server_of(row) if row["server_host"] else None,
        ssl_status=SslStatus(row["ssl_status"]),
        certificate=certificate_of(row),
        certificate_server_key=row["certificate_server_key"],
        ever_issued=row["ever_issued"],
        job=_live_job(row),
    )


def server_of(row: dict[str, Any]) -> Server:
    """The server in the columns server_* of a site or job."""
    return Server(
        host=row["server_host"],
        port=row["server_port"],
        username=row["server_username"],
        host_key=row["server_host_key"],
        public_addresses=tuple(row["server_public_addresses"]),
    )


def certificate_of(row: dict[str, Any]) -> Certificate | None:
    """The certificate in the columns certificate_* and ssl_expiry of a site; None where none is known."""
    if row["certificate_serial"] is None:
        return None
    return Certificate(
        serial=row["certificate_serial"],
        names=tuple(row["certificate_names"]),
        issuer=row["certificate_issuer"],
        not_before=row["certificate_not_before"],
        not_after=row["ssl_expiry"],
    )


def _live_job(row: dict[str, Any]) -> LiveJob | None:
    if row["job_id"] is None:
        return None
    state = JobState(row["job_state"])
    waits_on = row["job_error_code"] if state is JobState.WAITING else None
    return LiveJob(
        job_id=JobId(str(row["job_id"])),
        state=state,
        domain=row["job_domain"],
        names=tuple(row["job_names"]),
        server_key=row["job_server_key"],
        waits_on=Code(waits_on) if waits_on else None,
        retry_at=row["job_retry_at"] if state is JobState.WAITING else None,
        paused=row["job_paused"],
        kind=JobKind(row["job_kind"]),
        attempt=row["job_attempt"],
    )


def bump_sequence(conn: Connection, site_id: str) -> Bumped:
    """Take the next sequence number of the site, for exactly one event appended in the same transaction.

    The row stays locked until the commit, so events of a site enter the outbox in the order of their numbers.
    """
    with conn.cursor(row_factory=class_row(Bumped)) as cursor:
        row = cursor.execute(
            "update site set sequence = sequence + 1, updated_at = certpilot_now() where site_id = %s"
            " returning sequence, domain, ssl_status, ssl_expiry, updated_at as at",
            (site_id,),
        ).fetchone()
    assert row is not None
    return row


def set_request(
    conn: Connection,
    site_id: str,
    *,
    domain: str,
    aliases: Sequence[str],
    server: Server,
    job_id: JobId,
    status: SslStatus,
) -> None:
    """Store what an admitted command asked for: names, server, newest job, and the status it makes."""
    conn.execute(
        "update site set domain = %s, aliases = %s, server_host = %s, server_port = %s, server_username = %s,"
        " server_host_key = %s, server_public_addresses = %s, job_id = %s, ssl_status = %s,"
        " error_code = null, error_message = null, updated_at = certpilot_now() where site_id = %s",
        (
            domain, list(aliases), server.host, server.port, server.username,
            server.host_key, list(server.public_addresses), job_id, status, site_id,
        ),
    )  # fmt: skip


def set_server(conn: Connection, site_id: str, server: Server) -> None:
    """Store the newest word on how the server is reached (a joined command may bring a new host key)."""
    conn.execute(
        "update site set server_host = %s, server_port = %s, server_username = %s, server_host_key = %s,"
        " server_public_addresses = %s where site_id = %s",
        (server.host, server.port, server.username, server.host_key, list(server.public_addresses), site_id),
    )


def set_certificate(
    conn: Connection, site_id: str, certificate: Certificate, server_key: str, plan: Schedule
) -> None:
    """Make the site active with a certificate that was seen, and plan what comes next: no renewal while a removal stands."""
    conn.execute(
        "update site set ssl_status = 'active', ssl_expiry = %s, certificate_serial = %s, certificate_names = %s,"
        " certificate_issuer = %s, certificate_not_before = %s, certificate_server_key = %s, ever_issued = true,"
        " next_check_at = %s, looks_gone = 0, renewal_due_at = case when exists (select from job where job.id = site.job_id"
        "  and job.kind = 'remove' and job.state <> 'succeeded') then null else %s end,"
        " error_code = null, error_message = null, updated_at = certpilot_now() where site_id = %s",
        (
            certificate.not_after, certificate.serial, list(certificate.names),
            certificate.issuer, certificate.not_before, server_key,
            plan.next_check_at, plan.renewal_due_at, site_id,
        ),
    )  # fmt: skip


def set_status(conn: Connection, site_id: str, status: SslStatus) -> None:
    """Set the status alone; `active` only where the certificate is still there."""
    conn.execute(
        "update site set ssl_status = %s, updated_at = certpilot_now() where site_id = %s", (status, site_id)
    )


def forget_certificate(conn: Connection, site_id: str) -> None:
    """Make the site `none`: the certificate last seen is another domain's or server's, and says nothing of it now."""
    conn.execute(
        "update site set ssl_status = 'none', ssl_expiry = null, certificate_serial = null, certificate_names = null,"
        " certificate_issuer = null, certificate_not_before = null, certificate_server_key = null,"
        " renewal_due_at = null, next_check_at = null, at_risk_code = null, at_risk_message = null, looks_gone = 0,"
        " updated_at = certpilot_now() where site_id = %s",
        (site_id,),
    )


def set_removed(conn: Connection, site_id: str) -> None:
    """Forget what the site had: nothing is renewed or watched any more, and a renewal finds nothing issued."""
    forget_certificate(conn, site_id)
    conn.execute(
        "update site set ever_issued = false, error_code = null, error_message = null where site_id = %s",
        (site_id,),
    )


def set_job(conn: Connection, site_id: str, job_id: JobId) -> None:
    """Make a job the site's newest without changing what is asked for; the last error goes."""
    conn.execute(
        "update site set job_id = %s, error_code = null, error_message = null, updated_at = certpilot_now()"
        " where site_id = %s",
        (job_id, site_id),
    )


def set_error(conn: Connection, site_id: str, code: Code | None, message: str | None) -> None:
    """Keep the last failure for readers of `site_ssl`, or clear it."""
    conn.execute(
        "update site set error_code = %s, error_message = %s, updated_at = certpilot_now() where site_id = %s",
        (code, message, site_id),
    )


def set_error_of_job(conn: Connection, site_id: str, job_id: JobId, code: Code, message: str) -> None:
    """Keep what a waiting job waits for, where it is still the site's newest."""
    conn.execute(
        "update site set error_code = %s, error_message = %s, updated_at = certpilot_now() where site_id = %s and job_id = %s",
        (code, message, site_id, job_id),
    )


def lock_risk(conn: Connection, site_id: str) -> tuple[str | None, str | None]:
    """Code and message of the cause of a lapse that was told last and is not over, under the site's lock; None: none."""
    row = conn.execute(
        "select at_risk_code, at_risk_message from site where site_id = %s for update", (site_id,)
    ).fetchone()
    return (None, None) if row is None else (row[0], row[1])


def expiry(conn: Connection, site_id: str) -> datetime | None:
    """NotAfter of the certificate last seen, UTC; None where there is none."""
    row = conn.execute("select ssl_expiry from site where site_id = %s", (site_id,)).fetchone()
    return None if row is None else row[0]


def set_risk(conn: Connection, site_id: str, code: Code | None, message: str | None) -> None:
    """Keep the cause that is told now, or none."""
    conn.execute(
        "update site set at_risk_code = %s, at_risk_message = %s, updated_at = certpilot_now() where site_id = %s",
        (code, message, site_id),
    )


def lock_expired(conn: Connection, limit: int) -> list[str]:
    """Lock sites that are called active although their notAfter has passed (real time), skipping locked ones.

    Returns:
        Their ids, the longest expired first. The index holds active sites only, so nothing due costs one probe.
    """
    # clock_timestamp() is volatile and cannot bound an index scan: the whole index was read, every second.
    rows = conn.execute(
        "select site_id from site where ssl_status = 'active' and ssl_expiry <= statement_timestamp()"
        " order by ssl_expiry limit %s for update skip locked",
        (limit,),
    ).fetchall()
    return [row[0] for row in rows]


def sharing_lineage(conn: Connection, domain: str, server: Server, *, but: str | None) -> str | None:
    """A site, but for this one, that has its certificate from the lineage of the domain on the server; None: no site."""
    row = conn.execute(
        "select site_id from site where server_host = %s and server_port = %s and domain = %s and site_id is distinct from %s"
        " and ssl_status in ('active', 'pending') limit 1",
        (server.host, server.port, domain, but),
    ).fetchone()
    return None if row is None else row[0]


def next_expiry_seconds(conn: Connection) -> float | None:
    """Seconds until the next active site expires (real time); None without one."""
    row = conn.execute(
        "select extract(epoch from min(ssl_expiry) - clock_timestamp())::float8 from site where ssl_status = 'active'"
    ).fetchone()
    return None if row is None else row[0]
