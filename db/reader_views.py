"""The view site_ssl, as other services read it (DESIGN A.4)."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from db.pool import Connection


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One row of the view site_ssl; attribute names are the view's columns."""

    site_id: str
    domain: str | None
    ssl_status: str
    ssl_expiry: datetime | None
    job_id: str | None
    job_state: str | None
    attempt: int | None
    retry_at: datetime | None
    error_code: str | None
    error_message: str | None
    updated_at: datetime
    sequence: int
    renewal_due_at: datetime | None
    next_check_at: datetime | None
    at_risk_code: str | None


_SITE_ROW = (
    "select site_id, domain, ssl_status, ssl_expiry, job_id::text, job_state, attempt, retry_at, error_code,"
    " error_message, updated_at, sequence, renewal_due_at, next_check_at, at_risk_code from site_ssl"
)


def read(conn: Connection, site_id: str | None = None, *, limit: int = 1000) -> list[SiteRow]:
    """Rows of the reader view, one site's or the most recently changed ones."""
    with conn.cursor(row_factory=class_row(SiteRow)) as cursor:
        if site_id is not None:
            return cursor.execute(_SITE_ROW + " where site_id = %s", (site_id,)).fetchall()
        return cursor.execute(_SITE_ROW + " order by updated_at desc limit %s", (limit,)).fetchall()
