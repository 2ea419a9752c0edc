"""The feed and the newest job of a site, as the reader views show them."""

from typing import Any

from db.pool import Connection
from tests.support.waiting import until


def feed(conn: Connection, site: str | None = "site_1") -> list[dict[str, Any]]:
    rows = conn.execute(
        "select event_type, ssl_status, error_code, detail, sequence from activity_feed"
        " where %s::text is null or site_id = %s order by id",
        (site, site),
    ).fetchall()
    return [
        {
            "type": row[0].removeprefix("com.cloudaipilot.").removesuffix(".v1"),
            "status": row[1],
            "code": row[2],
            "detail": row[3],
            "sequence": row[4],
        }
        for row in rows
    ]


def wait_feed(conn: Connection, count: int, site: str | None = "site_1") -> list[dict[str, Any]]:
    return until(
        lambda: (rows := feed(conn, site)) and len(rows) >= count and rows, what=f"{count} feed rows"
    )


def job_id(conn: Connection, site: str = "site_1") -> str:
    row = conn.execute("select job_id::text from site_ssl where site_id = %s", (site,)).fetchone()
    assert row is not None
    return str(row[0])
