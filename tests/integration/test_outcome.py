"""What a job's end leaves in its site's row."""

from dataclasses import replace
from datetime import UTC, datetime

from contracts.codes import Code
from db import lineages, reader_views, sites
from db.pool import Connection, Pool, transaction
from tests.support.held_jobs import SERVER, add_job, take
from workers.core.deciding.removal import LeftLineage
from workers.core.lifetime.watch import schedule
from workers.core.model import Certificate, JobState, Problem
from workers.runner import outcome
from workers.runner.outcome import End

CERTIFICATE = Certificate(
    "a1", ("old.example",), "Lab CA", datetime(2026, 11, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
)


def fail(pool: Pool, *names: str) -> None:
    """A job for these names fails."""
    with pool.connection() as conn:
        job = take(pool, add_job(conn, *names, site="site"))
    with transaction(pool) as conn:
        outcome.end(conn, job, JobState.FAILED, End(Problem(Code.REJECTED_BY_CA, "No."), "test"), None)


def activate(pool: Pool) -> None:
    with transaction(pool) as conn:
        sites.lock(conn, "site")
        sites.set_certificate(
            conn, "site", CERTIFICATE, SERVER.key, schedule(CERTIFICATE, CERTIFICATE.not_before, 0.5)
        )


def test_certificate_of_the_domain_that_a_site_had_before_is_forgotten_when_the_new_one_fails(
    pool: Pool, conn: Connection
) -> None:
    activate(pool)
    fail(pool, "new.example")
    row = reader_views.read(conn, "site")[0]
    assert (row.domain, row.ssl_status, row.ssl_expiry) == ("new.example", "none", None)
    with conn.transaction():
        site = sites.lock(conn, "site")
    assert (site.certificate, site.certificate_server_key, site.ever_issued) == (None, None, True)


def test_certificate_that_is_still_the_sites_own_stays_when_a_job_fails(pool: Pool, conn: Connection) -> None:
    activate(pool)
    fail(pool, "old.example")
    row = reader_views.read(conn, "site")[0]
    assert (row.ssl_status, row.ssl_expiry) == ("active", CERTIFICATE.not_after)


def test_lineage_that_a_site_leaves_on_a_server_is_known_by_every_name_of_its_certificate(
    pool: Pool, conn: Connection
) -> None:
    """One that was there before certpilot may serve other names too, which a cleanup must not take away unawares."""
    job = take(pool, add_job(conn, "old.example", site="site"))
    found = replace(CERTIFICATE, names=("extra.example", "old.example"))
    with transaction(pool) as writing:
        outcome.succeed(writing, job, found, "found", None)
    (left,) = lineages.of_site(conn, "site")
    assert left == LeftLineage(("old.example", "extra.example"), SERVER)
