"""`certpilot forecast` on a real database: counted there, shown as a table, as JSON and as a picture."""

import json
from pathlib import Path

import pytest

from db import forecast as counts
from db.pool import Connection
from tests.support.cli import Cli

_SITES = """
insert into site (site_id, domain, server_host, server_port, server_username, ssl_status, ssl_expiry, certificate_serial,
                  certificate_issuer, certificate_not_before, certificate_server_key, ever_issued, renewal_due_at)
select 's' || n, 'd' || n || '.example.com', '203.0.113.' || n %% 10, 22, 'root', 'active', at + interval '90 days - 1 s', n::text,
       %(issuer)s, at, 'k', true, at + interval '76 days'
from (select n, date_trunc('day', certpilot_now()) - interval '59 days 12 hours' + n %% 4 * interval '1 day' as at
      from generate_series(%(first)s::int, %(last)s::int) n) as made
"""


@pytest.fixture
def cli(database_url: str) -> Cli:
    return Cli(CERTPILOT_DATABASE_URL=database_url)


def fill(conn: Connection, first: int, last: int, issuer: str = "R12") -> None:
    conn.execute(_SITES, {"first": first, "last": last, "issuer": issuer})


def test_json_has_each_day_and_ca_with_counts_that_add_up(cli: Cli, conn: Connection) -> None:
    fill(conn, 1, 400)
    fill(conn, 401, 440, "YR2")
    conn.execute("insert into site (site_id) values ('never_issued')")
    document = json.loads(cli("forecast", "--days", "40", "--json").out)
    days = document["days"]
    assert len(days) == 40
    assert {day["ca"] for day in days} == {"Let's Encrypt"}
    assert sum(day["expiries"] for day in days) == 440
    assert [day["by_certpilot"] for day in days[16:20]] == [110] * 4
    assert [day["by_servers"] for day in days[:4]] == [110] * 4
    assert {day["busiest_count"] for day in days[16:20]} == {22}
    exact = next(one for one in document["limits"] if one["limit"] == "certificates_per_exact_set")
    assert (exact["allowed"], exact["expected"], exact["exempt"]) == (5, 1, False)


def test_as_many_rows_leave_the_database_as_there_are_days_not_sites(conn: Connection) -> None:
    fill(conn, 1, 4000)
    known = counts.issuers(conn)
    assert known == ["R12"]
    groups = counts.groups(conn, {"R12": "LE"})
    assert (len(groups), sum(group.count for group in groups)) == (4, 4000)
    assert {group.lifetime_days for group in groups} == {90}
    today = min(group.due_on for group in groups if group.due_on)
    tops = counts.busiest_servers(conn, {"R12": "LE"}, today, 3)
    assert [(top.day - today).days for top in tops] == [0, 1, 2]


def test_the_table_shows_the_days_with_something_and_the_limits(cli: Cli, conn: Connection) -> None:
    fill(conn, 1, 400)
    fill(conn, 401, 404, "Some Other CA")
    shown = cli("forecast").out
    assert "EXPIRE" in shown.splitlines()[0]
    assert "Some Other CA" in shown
    assert "renewals of the same names are exempt" in shown
    assert "1 for one site" in shown


def test_shorter_certificates_show_as_more_renewals(cli: Cli, conn: Connection) -> None:
    fill(conn, 1, 400)

    def renewals(*words: str) -> int:
        days = json.loads(cli("forecast", "--days", "120", "--json", *words).out)["days"]
        return sum(day["by_certpilot"] for day in days)

    assert renewals("--lifetime", "45") > renewals("--lifetime", "90")


def test_plot_writes_a_picture_and_says_what_stands_in_its_way(
    cli: Cli, conn: Connection, tmp_path: Path
) -> None:
    fill(conn, 1, 4)
    picture = tmp_path / "renewals.svg"
    assert cli("forecast", "--plot", str(picture)).code == 0
    assert picture.read_text().startswith("<svg")
    nowhere = cli("forecast", "--plot", str(tmp_path / "no folder" / "a.svg"))
    assert nowhere.code == 1
    assert "could not be written" in nowhere.err
    usage = cli("forecast", "--plot", "a.png")
    assert usage.code == 2
    assert "must end in .svg" in usage.err


def test_nothing_issued_is_said(cli: Cli) -> None:
    done = cli("forecast")
    assert (done.code, done.out) == (0, "")
    assert "no certificate yet" in done.err
    assert cli("forecast", "--days", "0").code == 2
