"""A removal in the database: from its admission on nothing is renewed for the site, and nobody looks for what goes."""

import random
from datetime import datetime, timedelta

import pytest

from contracts.codes import Code
from contracts.command_values import RemoveSSL
from db import claims, sites, watch
from db import pool as db_pool
from db.pool import Connection, Pool, transaction
from tests.support.held_jobs import SERVER, add_job, take
from workers import removals
from workers.announce import About
from workers.core.lifetime.watch import schedule
from workers.core.model import Certificate, JobId, JobState, Problem
from workers.own_renewals import renew_due
from workers.runner import outcome
from workers.runner.outcome import End

NAME = "a.example"


def certificate(now: datetime, serial: str = "0a") -> Certificate:
    return Certificate(serial, (NAME,), "CA", now - timedelta(days=80), now + timedelta(days=10))


def succeed(pool: Pool, conn: Connection) -> None:
    """A job of the site ends with a certificate."""
    job = take(pool, add_job(conn, NAME, site="site", force=True))
    with transaction(pool) as writing:
        held = claims.hold(writing, job.claim)
        outcome.succeed(writing, held, certificate(db_pool.now(writing), "0b"), "test", None)


def admit(pool: Pool, command_id: str = "r") -> JobId:
    with transaction(pool) as conn:
        about = About("site", command_id, "/sites")
        removals.remove(conn, about, sites.lock(conn, "site"), RemoveSSL("site"))
    return newest_job(pool)


def newest_job(pool: Pool) -> JobId:
    with transaction(pool) as conn:
        job = sites.lock(conn, "site").job
    assert job is not None
    return job.job_id


def renewal_due_at(conn: Connection) -> datetime | None:
    row = conn.execute("select renewal_due_at from site where site_id = 'site'").fetchone()
    assert row is not None
    return row[0]


def die(pool: Pool, job_id: JobId) -> None:
    job = take(pool, job_id)
    with transaction(pool) as conn:
        ending = End(Problem(Code.SERVER_UNREACHABLE, "off"), "test")
        outcome.end(conn, claims.hold(conn, job.claim), JobState.DEAD, ending, None)


def test_removal_that_dies_lets_nothing_be_renewed_until_a_command_asks_again(
    pool: Pool, conn: Connection
) -> None:
    succeed(pool, conn)
    assert renewal_due_at(conn) is not None
    removal = admit(pool)
    assert renewal_due_at(conn) is None
    die(pool, removal)
    assert renewal_due_at(conn) is None

    with transaction(pool) as writing:  # the server renews by itself, as the watch sees
        now = db_pool.now(writing)
        found = certificate(now, "0c")
        sites.set_certificate(writing, "site", found, SERVER.key, schedule(found, now, random.random()))
    assert renewal_due_at(conn) is None
    # As where one was chosen a moment before the removal came.
    conn.execute("update site set renewal_due_at = certpilot_now()")
    assert renew_due(pool) == 0
    assert renewal_due_at(conn) is None
    assert newest_job(pool) == removal

    succeed(pool, conn)
    assert renewal_due_at(conn) is not None


@pytest.mark.parametrize("state", ["queued", "running", "waiting"])
def test_site_whose_certificate_is_being_removed_is_not_looked_at(
    pool: Pool, conn: Connection, state: str
) -> None:
    succeed(pool, conn)
    removal = admit(pool)
    due = "update site set next_check_at = certpilot_now() - interval '1 s'"
    conn.execute(due)
    conn.execute("update job set state = %s where id = %s", (state, removal))
    with transaction(pool) as looking:
        assert watch.claim_looks(looking, 9, 60) == []
    left = conn.execute("select next_check_at - certpilot_now() from site").fetchone()
    assert left is not None
    assert timedelta(minutes=59) < left[0] <= timedelta(hours=1)

    conn.execute(
        "update job set state = 'dead', run_at = null, finished_at = now() where id = %s", (removal,)
    )
    conn.execute(due)
    with transaction(pool) as looking:
        assert [site.site_id for site in watch.claim_looks(looking, 9, 60)] == ["site"]
