"""The scheduler's tick reads what is due and nothing else, however many sites there are (DESIGN B.9)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from db import clock, watch
from db.pool import Connection, connect, open_pool, transaction
from deploy.lab.postgres import PostgresServer
from tests.support.many_sites import fill
from tests.support.waiting import until
from workers.scheduler import Scheduler

SITES = 20_000
LIVE = 300
GROWING = ("site", "job", "lease", "outbox", "job_attempt", "inbox", "activity")


@contextmanager
def preparing(conn: Connection, database_url: str) -> Iterator[Connection]:
    """A session that makes rows; when it is over the counters stand at nothing."""
    with connect(database_url, "prepare", autocommit=True) as session:
        yield session
    wait_for_counters(conn)
    conn.execute("select pg_stat_reset()")


def rows_read_by_a_tick(conn: Connection, database_url: str) -> dict[str, tuple[int, int]]:
    """Rows that were read by walking through each table, and by its indexes."""
    with open_pool(database_url, "scheduler", max_size=1) as pool:
        Scheduler(pool).tick()
    wait_for_counters(conn)
    rows = conn.execute(
        "select relname, seq_tup_read, coalesce(idx_tup_fetch, 0) from pg_stat_user_tables"
    ).fetchall()
    return {row[0]: (row[1], row[2]) for row in rows}


def wait_for_counters(conn: Connection) -> None:
    """A session adds up what it has read before it is gone from the list."""
    others = (
        "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and application_name in ('prepare', 'scheduler')"
    )
    until(lambda: conn.execute(others).fetchone() is None, what="the session's end")


def test_tick_with_nothing_due_walks_through_no_table_that_grows(conn: Connection, database_url: str) -> None:
    with preparing(conn, database_url) as session:
        fill(session, sites=SITES, past_jobs=SITES, live_jobs=LIVE)
    read = rows_read_by_a_tick(conn, database_url)
    # Whether a running job's holder lives is looked up for each of them, of which there are few.
    expected = dict.fromkeys(GROWING, (0, 0)) | {"job": (0, LIVE), "lease": (0, LIVE)}
    assert {table: read[table] for table in GROWING} == expected


def test_plans_of_a_tick_and_of_the_watch_go_by_indexes(
    conn: Connection, database_url: str, postgres: PostgresServer
) -> None:
    """EXPLAIN of every statement that ran, as PostgreSQL itself logs it."""
    with preparing(conn, database_url) as session:
        fill(session, sites=SITES, past_jobs=SITES, live_jobs=LIVE)
        name = conn.info.dbname
        session.execute(f"alter database {name} set session_preload_libraries = 'auto_explain'")
        session.execute(f"alter database {name} set auto_explain.log_min_duration = 0")
    said = postgres.log.stat().st_size
    with open_pool(database_url, "scheduler", max_size=1) as pool:
        Scheduler(pool).tick()
        with transaction(pool) as looking:
            watch.claim_looks(looking, 50, 60)
    wait_for_counters(conn)
    plans = postgres.log.read_bytes()[said:].decode()
    by_index = set(re.findall(r"Index (?:Only )?Scan using (\w+)", plans))
    assert {"site_expiry", "site_renewal_due", "site_check_due", "job_due"} <= by_index
    assert set(re.findall(r"Seq Scan on (\w+)", plans)) & set(GROWING) == set()


def test_tick_reads_about_as_many_rows_as_are_due(conn: Connection, database_url: str) -> None:
    with preparing(conn, database_url) as session:
        fill(session, sites=SITES, past_jobs=SITES, live_jobs=LIVE)
        session.execute(
            "update site set ssl_expiry = now() - interval '1 s' where site_id in ('site_7', 'site_8')"
        )
        session.execute("delete from job where state in ('queued', 'running')")
        clock.move_ahead(session, timedelta(hours=2))
        session.execute("vacuum analyze site, job")
    read = rows_read_by_a_tick(conn, database_url)
    assert conn.execute("select count(*) from job where state = 'queued'").fetchone() == (LIVE,)
    assert conn.execute("select count(*) from site where ssl_status = 'expired'").fetchone() == (2,)
    assert (read["site"][0], read["job"][0]) == (0, 0)
    assert read["site"][1] <= 20
    assert read["job"][1] <= 5 * LIVE


def test_planning_the_watch_reads_the_looks_that_are_due_and_nothing_else(
    conn: Connection, database_url: str
) -> None:
    with preparing(conn, database_url) as session:
        fill(session, sites=SITES, past_jobs=0, live_jobs=0)
        session.execute(
            "update site set next_check_at = now() - interval '1 s' where site_id in ('site_7', 'site_8')"
        )
        session.execute("vacuum analyze site")
    with open_pool(database_url, "scheduler", max_size=1) as pool, transaction(pool) as looking:
        due = watch.claim_looks(looking, 50, 60)
    wait_for_counters(conn)
    read = conn.execute(
        "select seq_tup_read, idx_tup_fetch from pg_stat_user_tables where relname = 'site'"
    ).fetchone()
    assert sorted(site.site_id for site in due) == ["site_7", "site_8"]
    assert read is not None
    assert read[0] == 0
    assert read[1] <= 10


def test_renewals_that_are_due_are_found_by_their_time_and_made_by_the_next_to_expire(
    conn: Connection, database_url: str
) -> None:
    with preparing(conn, database_url) as session:
        fill(session, sites=SITES, past_jobs=0, live_jobs=0)
        due = "update site set renewal_due_at = now() - %s * interval '1 s', ssl_expiry = now() + %s * interval '1 day' where site_id = %s"
        for site_id, late_seconds, left_days in (("site_7", 30, 9), ("site_8", 20, 3), ("site_9", 10, 6)):
            session.execute(due, (late_seconds, left_days, site_id))
        session.execute("vacuum analyze site")
    with open_pool(database_url, "scheduler", max_size=1) as pool, transaction(pool) as looking:
        found = watch.renewals_due(looking, 2)
    wait_for_counters(conn)
    read = conn.execute(
        "select seq_tup_read, idx_tup_fetch from pg_stat_user_tables where relname = 'site'"
    ).fetchone()
    assert found == ["site_8", "site_9"]
    assert read == (0, 3)
