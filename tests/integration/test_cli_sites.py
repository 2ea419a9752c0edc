"""`certpilot status` and `activity` on a real database: for people, for programs, in a pipe, under LC_ALL=C."""

import calendar
import json
import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest

from db import activity, sites
from db.pool import Connection, connect, real_now
from tests.support.cli import HOSTILE, Cli, add_job, feed_event, without_ansi
from tests.support.waiting import until
from workers.core.lifetime.watch import schedule
from workers.core.model import Certificate

SITE_COLUMNS = [
    "site_id", "domain", "ssl_status", "ssl_expiry", "job_id", "job_state", "attempt", "retry_at", "error_code",
    "error_message", "updated_at", "sequence", "renewal_due_at", "next_check_at", "at_risk_code",
]  # fmt: skip
FEED_COLUMNS = [
    "id", "event_id", "event_type", "site_id", "domain", "ssl_status", "title", "error_code", "detail", "occurred_at",
    "recorded_at", "sequence",
]  # fmt: skip


@pytest.fixture
def cli(database_url: str) -> Cli:
    return Cli(CERTPILOT_DATABASE_URL=database_url)


def wait_on_dns(conn: Connection, job_id: str, message: str = "www points to 192.0.2.1.") -> None:
    conn.execute(
        "update job set state = 'waiting', attempt = 2, error_code = 'DNS_WRONG_SERVER', error_message = %s,"
        " because = 'the owner has to mend it', run_at = certpilot_now() + interval '5 min',"
        " retry_at = certpilot_now() + interval '5 min' where id = %s",
        (message, job_id),
    )
    conn.execute("update site set error_code = 'DNS_WRONG_SERVER', error_message = %s", (message,))


def activate(conn: Connection, site_id: str) -> datetime:
    begin = real_now(conn).replace(microsecond=0)
    certificate = Certificate("0a", ("shop.example.com",), "Test CA", begin, begin + timedelta(days=90))
    sites.set_certificate(
        conn, site_id, certificate, "server:203.0.113.7:22", schedule(certificate, begin, 0.5)
    )
    return certificate.not_after


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_json_is_an_array_with_the_views_columns(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1")
    until_when = activate(conn, "site_1")
    done = cli("status", "--json")
    [row] = done.json
    assert done.code == 0
    assert list(row) == SITE_COLUMNS
    assert (row["site_id"], row["domain"], row["ssl_status"], row["job_id"]) == (
        "site_1", "shop.example.com", "active", job_id,
    )  # fmt: skip
    assert row["ssl_expiry"] == f"{until_when:%Y-%m-%dT%H:%M:%S.%f}Z"
    assert row["retry_at"] is None
    assert cli("status", "site_1", "--json").json == done.json


def test_status_of_no_site_is_an_empty_array(cli: Cli) -> None:
    done = cli("status", "--json")
    assert (done.code, done.json) == (0, [])


def test_status_table_has_a_line_for_each_site(cli: Cli, conn: Connection) -> None:
    until_when = activate_new(conn, "site_1")
    wait_on_dns(conn, add_job(conn, "site_2", domain="www.example.org"))
    done = cli("status")
    assert done.code == 0
    heading, *rows = done.lines
    assert heading.split() == ["SITE", "DOMAIN", "STATUS", "EXPIRES", "WORK"]
    by_site = {row.split()[0]: row for row in rows}
    month = calendar.month_abbr[until_when.month]
    assert f"active   {until_when.day} {month} {until_when.year}" in by_site["site_1"]
    assert "waiting DNS_WRONG_SERVER next " in by_site["site_2"]
    assert by_site["site_2"].endswith(" UTC")


def activate_new(conn: Connection, site_id: str) -> datetime:
    add_job(conn, site_id)
    conn.execute("update job set state = 'succeeded', run_at = null, finished_at = certpilot_now()")
    return activate(conn, site_id)


def test_status_of_one_site_says_what_it_waits_for_and_what_to_do(cli: Cli, conn: Connection) -> None:
    wait_on_dns(conn, add_job(conn, "site_1"))
    done = cli("status", "site_1")
    assert done.code == 0
    fields = dict(line.strip().split("  ", 1) for line in done.lines[1:])
    fields = {name: value.strip() for name, value in fields.items()}
    assert done.lines[0] == "Site site_1"
    assert fields["status"] == "pending"
    assert fields["reason"] == "DNS_WRONG_SERVER"
    assert fields["found"] == "www points to 192.0.2.1."
    assert fields["to do"].startswith("Change the A (and AAAA) record")
    assert fields["attempts"] == "2"
    assert fields["goes on at"].endswith("(in 5 min)")


def test_status_of_an_unknown_site_fails_with_a_sentence(cli: Cli) -> None:
    for form in ((), ("--json",)):
        done = cli("status", "nowhere", *form)
        assert (done.code, done.out) == (1, "")
        assert done.err == "status: there is no site nowhere: no command for it was ever taken\n"


def test_status_says_when_it_shows_only_a_part(cli: Cli, conn: Connection) -> None:
    for number in range(3):
        add_job(conn, f"site_{number}")
    done = cli("status", "--limit", "2", "--json")
    assert (done.code, len(done.json)) == (0, 2)
    assert "only the 2 most recently changed" in done.err
    assert cli("status", "--limit", "0").code == 2


def test_database_that_does_not_answer_or_is_empty_is_a_sentence(cli: Cli, database_url: str) -> None:
    gone = cli("status", CERTPILOT_DATABASE_URL="postgresql://certpilot:geheim@127.0.0.1:1/certpilot")
    assert (gone.code, gone.out) == (1, "")
    assert gone.err.startswith("status: the database of CERTPILOT_DATABASE_URL does not answer: ")
    assert "geheim" not in gone.err
    empty = cli("status", CERTPILOT_DATABASE_URL=database_url.rpartition("/")[0] + "/postgres")
    assert (empty.code, "run `certpilot migrate`" in empty.err) == (1, True)


def test_wrong_setting_is_a_usage_error(cli: Cli) -> None:
    done = cli("status", CERTPILOT_DATABASE_URL="mysql://x")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("CERTPILOT_DATABASE_URL: ")


# --- text that is not ours, terminals that cannot show it -----------------------------------------------------------


def assert_harmless(text: str) -> None:
    assert not [character for character in text if not character.isprintable() and character != "\n"]


def test_hostile_text_stays_in_its_line_and_sends_no_escape(cli: Cli, conn: Connection) -> None:
    wait_on_dns(conn, add_job(conn, "site_1"), HOSTILE)
    activity.insert_batch(conn, [feed_event(conn, HOSTILE)])
    for done in (cli("status", "site_1"), cli("activity"), cli("status")):
        assert done.code == 0
        assert_harmless(done.out)
    assert r"[/x] [bold]\x1b[2J\x1b]0;owned\x07 line break \u202eesrever" in cli("activity").out
    assert len(cli("activity").lines) == 1


def test_hostile_text_on_a_terminal_leaves_only_our_own_colours(cli: Cli, conn: Connection) -> None:
    wait_on_dns(conn, add_job(conn, "site_1"), HOSTILE)
    activity.insert_batch(conn, [feed_event(conn, HOSTILE)])
    for args in (("status", "site_1"), ("activity",)):
        done = cli.on_terminal(*args)
        assert done.code == 0
        assert_harmless("\n".join(without_ansi(done.out)))
        assert "\x1b[2J" not in done.out
        assert r"[/x] [bold]\x1b[2J" in " ".join("".join(without_ansi(done.out)).split())


def test_json_carries_hostile_text_whole(cli: Cli, conn: Connection) -> None:
    activity.insert_batch(conn, [feed_event(conn, HOSTILE)])
    done = cli("activity", "--json")
    assert [row["title"] for row in done.json] == [HOSTILE]
    assert_harmless(done.out)


@pytest.mark.parametrize("extra", [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0"}])
def test_plain_c_locale_stops_nothing(cli: Cli, conn: Connection, extra: dict[str, str]) -> None:
    wait_on_dns(conn, add_job(conn, "site_1"), "Ünïcode … 漢字")
    activity.insert_batch(conn, [feed_event(conn, "Ünïcode … 漢字")])
    for args in (
        ("status",),
        ("status", "site_1"),
        ("activity",),
        ("activity", "--json"),
        ("status", "--json"),
    ):
        done = cli(*args, LC_ALL="C", **extra)
        assert (done.code, done.err) == (0, "")
        terminal = cli.on_terminal(*args, LC_ALL="C", **extra)
        assert (terminal.code, terminal.err) == (0, "")
    if extra:
        assert r"\xdcn\xefcode \u2026 \u6f22\u5b57" in cli("activity", LC_ALL="C", **extra).out


def test_reader_that_closes_the_pipe_is_no_error(cli: Cli, conn: Connection) -> None:
    activity.insert_batch(conn, [feed_event(conn, "x" * 1000) for _ in range(500)])
    for args in ((), ("--json",), ("--since", "0"), ("--follow", "--since", "0")):
        process = cli.start("activity", *args, "--limit", "500")
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()


def test_follower_ends_when_its_reader_has_gone_although_nothing_comes(cli: Cli, conn: Connection) -> None:
    """`activity --follow | grep -m1 active`: the next event may be hours away."""
    activity.insert_batch(conn, [feed_event(conn, "one")])
    process = cli.start("activity", "--follow")
    assert process.stdout is not None
    assert b"one" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    process.communicate()


@pytest.mark.parametrize("site_id", ["site_1", "0198c0de-0000-7000-8000-000000000001", "s" * 128])
def test_everything_fits_into_eighty_columns(cli: Cli, conn: Connection, site_id: str) -> None:
    domain = ".".join(["a" * 40] * 4) + ".example.com"
    wait_on_dns(conn, add_job(conn, site_id, domain=domain), "A long sentence. " * 20)
    events = [feed_event(conn, f"Checking DNS, ports and web server of {domain}", site=site_id)]
    activity.insert_batch(conn, events)
    for args in (("status",), ("status", site_id), ("activity",)):
        lines = without_ansi(cli.on_terminal(*args).out)
        assert max(map(len, lines)) <= 80, lines
        assert "".join(lines).count("a") >= domain.count("a")  # folded, nothing cut off


# --- activity -------------------------------------------------------------------------------------------------------


def test_activity_json_is_an_array_with_the_views_columns(cli: Cli, conn: Connection) -> None:
    activity.insert_batch(conn, [feed_event(conn, "first"), feed_event(conn, "second", site="site_2")])
    done = cli("activity", "--json")
    assert done.code == 0
    assert [list(row) for row in done.json] == [FEED_COLUMNS, FEED_COLUMNS]
    assert [row["title"] for row in done.json] == ["first", "second"]
    assert done.json[0]["occurred_at"].endswith("Z")
    assert [row["title"] for row in cli("activity", "--site", "site_2", "--json").json] == ["second"]
    assert cli("activity", "--site", "nowhere", "--json").json == []


def test_activity_since_gives_everything_after_the_id_and_nothing_before(cli: Cli, conn: Connection) -> None:
    activity.insert_batch(conn, [feed_event(conn, f"title {number}") for number in range(1200)])
    rows = cli("activity", "--json", "--since", "0").json
    assert [row["title"] for row in rows] == [f"title {number}" for number in range(1200)]
    assert cli("activity", "--json", "--since", str(rows[1196]["id"])).json == rows[1197:]
    assert cli("activity", "--json").json == rows[-50:]
    assert cli("activity", "--since", "soon").code == 2


def test_activity_in_a_pipe_is_one_line_an_event(cli: Cli, conn: Connection) -> None:
    at = datetime(2026, 11, 24, 10, 0, 1, 999999, tzinfo=UTC)
    activity.insert_batch(conn, [feed_event(conn, "A certificate is on its way", occurred_at=at)])
    [line] = cli("activity").lines
    assert line.split(maxsplit=3)[:1] + line.split(maxsplit=3)[2:] == [
        "2026-11-24T10:00:01Z", "site_1", "A certificate is on its way",
    ]  # fmt: skip


def test_activity_on_a_terminal_aligns_and_colours_by_meaning(cli: Cli, conn: Connection) -> None:
    at = datetime(2026, 11, 24, 23, 59, 58, tzinfo=UTC)
    status = {"event_type": "com.cloudaipilot.ssl.status.changed.v1", "ssl_status": "active"}
    activity.insert_batch(
        conn,
        [
            feed_event(conn, "Requested", occurred_at=at),
            feed_event(conn, "Waiting: " + "DNS " * 30, occurred_at=at, detail={"step": "waiting"}),
            feed_event(conn, "Active", occurred_at=at + timedelta(seconds=2), **status),
        ],
    )
    done = cli.on_terminal("activity")
    lines = without_ansi(done.out)
    assert lines[0] == "24 Nov 2026 (times UTC)"
    columns = lines[1].index("Requested")
    folded = [line for line in lines if line.strip().startswith("DNS")]
    assert folded
    assert all(line.index("DNS") == columns for line in folded)
    assert "25 Nov 2026 (times UTC)" in lines
    assert "\x1b[1;32mActive" in done.out
    assert "\x1b[33mWaiting" in done.out
    assert "\x1b[" not in cli.on_terminal("activity", NO_COLOR="1", TERM="dumb").out


class Following:
    """`certpilot activity --follow` with its output read by a thread; killed at the end of the block if it still runs."""

    def __init__(self, cli: Cli, *args: str) -> None:
        self.process = cli.start("activity", "--follow", "--json", *args)
        self.lines: list[bytes] = []
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def titles(self) -> list[str]:
        return [json.loads(line)["title"] for line in list(self.lines)]

    def interrupt(self) -> tuple[int, bytes]:
        """Ctrl-C: the exit code, and what standard error holds."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        self._thread.join()
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


def write_burst(url: str, writer: int, batches: int) -> None:
    with connect(url, f"writer-{writer}", autocommit=True) as conn:
        for batch in range(batches):
            with conn.transaction():
                titles = [f"{writer}.{batch}.{number}" for number in range(5)]
                activity.insert_batch(conn, [feed_event(conn, title) for title in titles])


def test_follower_sees_each_row_once_in_a_burst_of_two_writers(
    cli: Cli, conn: Connection, database_url: str
) -> None:
    activity.insert_batch(conn, [feed_event(conn, "before")])
    with Following(cli) as following:
        until(lambda: following.titles() == ["before"], seconds=30, what="the row that was there")
        writers = [
            threading.Thread(target=write_burst, args=(database_url, number, 200)) for number in (1, 2)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        written = conn.execute("select title from activity_feed order by id").fetchall()
        assert len(written) == 2001
        until(lambda: len(following.lines) >= 2001, seconds=30, what="every row")
        assert following.interrupt() == (0, b"")
        assert following.titles() == [row[0] for row in written]


def test_follower_goes_on_after_a_lost_connection_where_it_was(cli: Cli, conn: Connection) -> None:
    """Both of its connections are cut, and rows are written before it is back."""
    with Following(cli, "--since", "0") as following:
        activity.insert_batch(conn, [feed_event(conn, "one")])
        until(lambda: following.titles() == ["one"], seconds=30, what="the first row")
        with conn.transaction():
            ended = conn.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where application_name like 'certpilot-activity%%' and datname = current_database()"
            ).fetchone()
            activity.insert_batch(conn, [feed_event(conn, "two")])
        assert ended == (2,)
        until(lambda: following.titles() == ["one", "two"], seconds=30, what="the row of meanwhile")
        code, said = following.interrupt()
    assert code == 0
    assert b"lost the database" in said


def test_follower_is_woken_by_the_commit(cli: Cli, conn: Connection) -> None:
    """Ten rows, each after the one before was seen, would take 20 s by polling alone."""
    with Following(cli, "--since", "0") as following:
        activity.insert_batch(conn, [feed_event(conn, "0")])
        until(lambda: following.titles() == ["0"], seconds=30, what="the first row")
        began = time.monotonic()
        for number in range(1, 11):
            activity.insert_batch(conn, [feed_event(conn, str(number))])
            until(lambda n=number: len(following.lines) > n, seconds=30, what=f"row {number}")
        assert time.monotonic() - began < 10
        assert following.titles() == [str(number) for number in range(11)]


def test_follower_of_one_site_shows_no_other(cli: Cli, conn: Connection) -> None:
    with Following(cli, "--since", "0", "--site", "site_2") as following:
        activity.insert_batch(conn, [feed_event(conn, "other"), feed_event(conn, "mine", site="site_2")])
        until(lambda: following.titles() == ["mine"], seconds=30, what="the site's row")
        assert following.interrupt()[0] == 0


def test_follower_on_a_terminal_shows_rows_as_they_come(cli: Cli, conn: Connection) -> None:
    activity.insert_batch(conn, [feed_event(conn, "before")])
    with cli.terminal("activity", "--follow") as terminal:
        terminal.read_until("before")
        activity.insert_batch(conn, [feed_event(conn, "after")])
        terminal.read_until("after")
        os.kill(terminal.process.pid, signal.SIGINT)
        done = terminal.finish()
    assert (done.code, done.err) == (0, "")
