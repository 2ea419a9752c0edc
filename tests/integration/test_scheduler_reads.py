"""The scheduler's tick reads what is due and nothing else, however many sites there are (DESIGN B.9)."""

from datetime import timedelta

from db import clock
from db.pool import Connection, open_pool
from tests.support.many_sites import fill
from workers.scheduler import Scheduler

SITES = 20_000
LIVE = 300


def rows_read(conn: Connection) -> dict[str, tuple[int, int]]:
    """Rows that were read by walking through each table, and by its indexes."""
    rows = conn.execute(
        "select relname, seq_tup_read, coalesce(idx_tup_fetch, 0) from pg_stat_user_tables"
    ).fetchall()
    return {row[0]: (row[1], row[2]) for row in rows}


def tick(database_url: str) -> None:
    """One tick; a session that ends has told all its statistics."""
    with open_pool(database_url, "scheduler", max_size=1) as pool:
        Scheduler(pool).tick()


def test_tick_with_nothing_due_walks_through_no_table_that_grows(conn: Connection, database_url: str) -> None:
    fill(conn, sites=SITES, past_jobs=SITES, live_jobs=LIVE)
    conn.execute("select pg_stat_reset()")
    tick(database_url)
    read = rows_read(conn)
    assert {
        table: read[table] for table in ("site", "job", "outbox", "job_attempt", "inbox", "activity")
    } == {
        "site": (0, 0),
        # Whether a running job's holder lives is looked up for each of them, of which there are few.
        "job": (0, LIVE),
        "outbox": (0, 0),
        "job_attempt": (0, 0),
        "inbox": (0, 0),
        "activity": (0, 0),
    }
    assert read["lease"] == (0, LIVE)


def test_tick_reads_about_as_many_rows_as_are_due(conn: Connection, database_url: str) -> None:
    fill(conn, sites=SITES, past_jobs=SITES, live_jobs=LIVE)
    conn.execute("update site set ssl_expiry = now() - interval '1 s' where site_id in ('site_7', 'site_8')")
    conn.execute("delete from job where state in ('queued', 'running')")
    clock.move_ahead(conn, timedelta(hours=2))
    conn.execute("vacuum analyze site, job")
    conn.execute("select pg_stat_reset()")
    tick(database_url)
    assert conn.execute("select count(*) from job where state = 'queued'").fetchone() == (LIVE,)
    assert conn.execute("select count(*) from site where ssl_status = 'expired'").fetchone() == (2,)
    conn.commit()
    walked_site, by_index_site = rows_read(conn)["site"]
    walked_job, by_index_job = rows_read(conn)["job"]
    assert (walked_site, walked_job) == (0, 0)
    assert by_index_site <= 20
    assert by_index_job <= 5 * LIVE
