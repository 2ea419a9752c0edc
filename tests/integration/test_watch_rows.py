"""What the watch reads of a site and writes of a look: nothing of a site that was moved between the two."""

from datetime import UTC, datetime

import pytest

from contracts.codes import Code
from db import sites, watch
from db.pool import Connection, Pool, transaction
from db.watch import WatchedSite
from tests.support.many_sites import fill
from workers.core.model import Problem
from workers.watch import findings

NOW = datetime(2026, 11, 25, tzinfo=UTC)
ROW = "select ssl_status, next_check_at, at_risk_code, looks_wrong from site where site_id = 'site_1'"


@pytest.fixture
def looked_at(conn: Connection, pool: Pool) -> WatchedSite:
    """A site whose look is under way."""
    fill(conn, sites=3, past_jobs=0, live_jobs=0)
    conn.execute(
        "update site set next_check_at = certpilot_now() - interval '1 minute',"
        " certificate_names = array[domain, 'of.another.example', 'b.example'], aliases = '{b.example,c.example}'"
        " where site_id = 'site_1'"
    )
    with transaction(pool) as claiming:
        (site,) = watch.claim_looks(claiming, 10, 110)
    return site


def write_everything(pool: Pool, site: WatchedSite) -> None:
    findings.as_known(pool, [site], NOW)
    findings.count_wrong(pool, site, NOW, gone=True)
    findings.at_risk(pool, site, Problem(Code.SERVER_UNREACHABLE, "off"))
    findings.gone(pool, site)


def test_names_of_other_sites_in_the_certificate_are_not_looked_at(looked_at: WatchedSite) -> None:
    assert looked_at.names == (looked_at.names[0], "b.example")


def test_look_that_ends_after_a_removal_writes_nothing(
    conn: Connection, pool: Pool, looked_at: WatchedSite
) -> None:
    with transaction(pool) as removing:
        sites.set_removed(removing, "site_1")
    write_everything(pool, looked_at)
    assert conn.execute(ROW).fetchone() == ("none", None, None, 0)


@pytest.mark.parametrize(
    "change", ["certificate_serial = 'other'", "ssl_status = 'pending'", "server_host = '192.0.2.77'"]
)
def test_look_that_ends_after_a_renewal_or_a_move_writes_nothing(
    conn: Connection, pool: Pool, looked_at: WatchedSite, change: str
) -> None:
    conn.execute(f"update site set {change} where site_id = 'site_1'")
    before = conn.execute(ROW).fetchone()
    findings.count_wrong(pool, looked_at, NOW, gone=True)
    findings.at_risk(pool, looked_at, Problem(Code.SERVER_UNREACHABLE, "off"))
    findings.gone(pool, looked_at)
    assert conn.execute(ROW).fetchone() == before


def test_risk_is_told_over_only_of_the_site_that_was_looked_at(
    conn: Connection, pool: Pool, looked_at: WatchedSite
) -> None:
    told = "update site set at_risk_code = 'NOT_SERVED', certificate_serial = %s where site_id = 'site_1'"
    conn.execute(told, ("other",))
    findings.over(pool, looked_at, {Code.NOT_SERVED})
    assert (conn.execute(ROW).fetchone() or ())[2] == "NOT_SERVED"
    conn.execute(told, (looked_at.certificate.serial,))
    findings.over(pool, looked_at, {Code.NOT_SERVED})
    assert (conn.execute(ROW).fetchone() or ())[2] is None
