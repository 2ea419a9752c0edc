"""The pace of our own renewals, as the scheduler keeps it in PostgreSQL."""

from datetime import timedelta

import pytest

from db import pace
from db.pool import Connection, open_pool
from workers.core.lifetime.pacing import SHARE_KEPT_FREE
from workers.own_renewals import MOST_AT_ONCE, renew_due

_SITES = """
insert into site (site_id, domain, server_host, server_port, server_username, ssl_status, ssl_expiry, certificate_serial,
                  certificate_names, certificate_issuer, certificate_not_before, certificate_server_key, ever_issued,
                  renewal_due_at)
select 's' || n, 'd' || n || '.example.com', %(host)s || n %% %(servers)s, 22, 'root', 'active', certpilot_now() + %(left)s, n::text,
       array['d' || n || '.example.com'], 'CA', certpilot_now() + %(left)s - interval '90 days' + interval '1 s',
       'server:' || %(host)s || n %% %(servers)s || ':22', true, certpilot_now() - interval '1 hour'
from generate_series(%(first)s::int, %(last)s::int) n
"""


def fill(conn: Connection, first: int, last: int, left: timedelta, *, host: str = "203.0.113.") -> None:
    """Sites that are due; those of another `host` are all on one server."""
    servers = 250 if host.endswith(".") else 1
    conn.execute(_SITES, {"first": first, "last": last, "left": left, "host": host, "servers": servers})


def jobs(conn: Connection) -> int:
    row = conn.execute("select count(*) from job").fetchone()
    assert row is not None
    return int(row[0])


def test_the_fleet_is_counted_by_lifetime_and_the_backlog_with_what_is_left(conn: Connection) -> None:
    fill(conn, 1, 30, timedelta(days=12))
    fill(conn, 31, 40, timedelta(days=-1))
    (cohort,) = pace.cohorts(conn)
    assert (cohort.lifetime, cohort.certificates) == (timedelta(days=90), 40.0)
    newest = conn.execute("select max(certificate_not_before) from site").fetchone()
    assert newest == (cohort.newest,)
    number, left = pace.backlog(conn)
    assert number == 40
    assert abs(left - timedelta(days=9)) < timedelta(minutes=1)
    assert len(pace.cannot_wait(conn, 50, SHARE_KEPT_FREE)) == 10


def test_a_backlog_goes_at_the_pace_however_often_it_is_asked_for(
    conn: Connection, database_url: str
) -> None:
    fill(conn, 1, 120, timedelta(days=12))
    with open_pool(database_url, "test", max_size=2) as pool:
        assert renew_due(pool) == 50
        assert renew_due(pool) <= 2  # 300 an hour are one in 12 s
        assert jobs(conn) <= 52
        # Time goes on; the same for a second scheduler, since the pace is one row.
        conn.execute("update renewal_pace set paced_until = paced_until - interval '2 minutes'")
        assert 10 <= renew_due(pool) <= 12


def test_what_is_about_to_lapse_does_not_wait_for_the_pace(conn: Connection, database_url: str) -> None:
    fill(conn, 1, 60, timedelta(days=12))
    with open_pool(database_url, "test", max_size=2) as pool:
        assert renew_due(pool) == 50
        fill(conn, 61, 64, timedelta(days=3))
        assert 4 <= renew_due(pool) <= 6
    row = conn.execute("select count(*) from job where site_id in ('s61', 's62', 's63', 's64')").fetchone()
    assert row == (4,)


def test_a_server_with_many_sites_that_are_due_leaves_others_their_places(
    conn: Connection, database_url: str
) -> None:
    fill(conn, 1, 100, timedelta(days=11), host="198.51.100.1")
    fill(conn, 101, 110, timedelta(days=12))
    with open_pool(database_url, "test", max_size=2) as pool:
        assert renew_due(pool) == 14
        renew_due(pool)
    counted = "select server_host, count(*) from job group by server_host order by 2 desc, 1 limit 2"
    assert conn.execute(counted).fetchall() == [("198.51.100.10", 4), ("203.0.113.101", 1)]


def test_paused_servers_hold_up_nobody_elses_renewals(conn: Connection, database_url: str) -> None:
    fill(conn, 1, MOST_AT_ONCE, timedelta(hours=2))
    with open_pool(database_url, "test", max_size=2) as pool:
        assert renew_due(pool) == MOST_AT_ONCE
        conn.execute("insert into pause (scope, paused_by) select distinct server_host, 'test' from site")
        fill(conn, 1001, 1010, timedelta(hours=1))  # on servers that are paused
        fill(conn, 2001, 2010, timedelta(hours=1), host="198.51.100.1")
        assert renew_due(pool) == 4
    counted = "select count(*) from job where server_host like '198.51.100.%'"
    assert conn.execute(counted).fetchone() == (4,)


def test_many_sites_due_at_once_make_the_pace_faster(conn: Connection, database_url: str) -> None:
    fill(conn, 1, 100, timedelta(minutes=30))
    with open_pool(database_url, "test", max_size=2) as pool:
        renew_due(pool)
    with conn.transaction():
        assert pace.lock(conn).per_hour == pytest.approx(100 / (0.5 * 0.4), rel=0.05)


def test_the_pace_is_measured_anew_after_ten_minutes(conn: Connection, database_url: str) -> None:
    fill(conn, 1, 1, timedelta(days=12))
    with open_pool(database_url, "test", max_size=2) as pool:
        renew_due(pool)
    with conn.transaction():
        assert not pace.lock(conn).is_old
    conn.execute("update renewal_pace set measured_at = measured_at - interval '11 minutes'")
    with conn.transaction():
        assert pace.lock(conn).is_old


def test_the_next_to_expire_goes_first_and_what_is_not_due_not_at_all(conn: Connection) -> None:
    fill(conn, 1, 30, timedelta(days=12))
    fill(conn, 31, 33, timedelta(days=8))
    fill(conn, 34, 60, timedelta(days=5))
    conn.execute(
        "update site set renewal_due_at = certpilot_now() + interval '1 hour' where ssl_expiry < certpilot_now() + interval '6 days'"
    )
    assert set(pace.next_due(conn, 3)) == {"s31", "s32", "s33"}
    assert len(pace.next_due(conn, 50)) == 33


def test_due_renewals_behind_many_that_are_not_are_found(conn: Connection) -> None:
    fill(conn, 1, 40, timedelta(days=5))
    conn.execute("update site set renewal_due_at = null")
    fill(conn, 41, 42, timedelta(days=12))
    assert len(pace.next_due(conn, 2)) == 2
