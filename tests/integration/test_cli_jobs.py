"""`certpilot jobs`, `pause` and `resume` on a real database."""

import threading
from typing import Any
from uuid import uuid4

import pytest

from db import claims, sites
from db.claims import HeldJob, Unclaimable
from db.pool import Connection, connect
from tests.support.cli import HOSTILE, Cli, add_job, offered_jobs, outbox_events, without_ansi
from tests.support.waiting import until
from workers.core.model import JobId, Server

LIST_KEYS = [
    "job_id", "site_id", "kind", "state", "domain", "names", "server_key", "attempt", "fails", "run_at", "retry_at",
    "error_code", "error_message", "because", "created_at", "started_at", "finished_at",
]  # fmt: skip


@pytest.fixture
def cli(database_url: str) -> Cli:
    return Cli(CERTPILOT_DATABASE_URL=database_url)


def state_of(conn: Connection, job_id: str) -> str:
    row = conn.execute("select state from job where id = %s", (job_id,)).fetchone()
    assert row is not None
    return str(row[0])


def take(conn: Connection, job_id: str) -> HeldJob:
    """Claim the job as a runner does."""
    with conn.transaction():
        held = claims.claim(conn, JobId(job_id), uuid4(), 90)
        assert isinstance(held, HeldJob)
    return held


def words(event: dict[str, Any]) -> tuple[Any, ...]:
    data = event["data"]
    kind = event["type"].removeprefix("com.cloudaipilot.ssl.").removesuffix(".v1")
    return kind, data.get("action") or data.get("step") or data.get("sslStatus"), data["sequence"]


# --- list and show --------------------------------------------------------------------------------------------------


def test_list_as_json_and_as_a_table_are_the_same_jobs(cli: Cli, conn: Connection) -> None:
    first = add_job(conn, "site_1")
    second = add_job(conn, "site_2", domain="www.example.org")
    done = cli("jobs", "list", "--json")
    assert (done.code, [list(row) for row in done.json]) == (0, [LIST_KEYS, LIST_KEYS])
    assert [row["job_id"] for row in done.json] == [second, first]
    heading, *rows = cli("jobs", "list").lines
    assert heading.split() == ["JOB", "SITE", "DOMAIN", "STATE", "TRY", "REASON"]
    assert [row.split() for row in rows] == [
        [second, "site_2", "www.example.org", "queued", "0"],
        [first, "site_1", "shop.example.com", "queued", "0"],
    ]
    terminal = without_ansi(cli.on_terminal("jobs", "list").out)
    assert [line.split()[0] for line in terminal[1:3]] == [second[:8], first[:8]]


def test_list_filters_by_state_and_site(cli: Cli, conn: Connection) -> None:
    first, second = add_job(conn, "site_1"), add_job(conn, "site_2")
    conn.execute("update job set state = 'dead', run_at = null, finished_at = now() where id = %s", (first,))

    def ids(*args: str) -> list[str]:
        return [row["job_id"] for row in cli("jobs", "list", "--json", *args).json]

    assert ids("--state", "dead") == [first]
    assert ids("--state", "queued") == [second]
    assert ids("--state", "queued", "--state", "dead") == [second, first]
    assert ids("--site", "site_2") == [second]
    assert ids("--site", "site_2", "--state", "dead") == []
    assert cli("jobs", "list", "--state", "broken").code == 2
    limited = cli("jobs", "list", "--limit", "1", "--json")
    assert (len(limited.json), limited.err) == (1, "jobs: only the newest 1; --limit for more\n")


def test_show_says_why_it_is_where_it_is_and_what_each_attempt_came_to(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1", aliases=("www.shop.example.com",))
    conn.execute(
        "update job set state = 'waiting', attempt = 1, fails = 1, error_code = 'DNS_WRONG_SERVER', error_message = %s,"
        " because = 'checked again free of CA cost', run_at = certpilot_now() + interval '5 min',"
        " retry_at = certpilot_now() + interval '5 min' where id = %s",
        ("www points to 192.0.2.1.", job_id),
    )
    conn.execute(
        "insert into job_attempt (job_id, attempt, fence, opened_at, closed_at, spec, result, error_code, exit_code, evidence)"
        " values (%s, 1, 7, now() - interval '12 s', now(), '{}', 'failed', 'CHALLENGE_FAILED', 1, %s)",
        (job_id, "Type: unauthorized\nDetail: 404 [/x]\x1b[2J"),
    )
    done = cli("jobs", "show", job_id[:8])
    assert done.code == 0
    assert done.lines[0] == f"Job {job_id}"
    fields = dict(line.strip().split("  ", 1) for line in done.lines[1 : done.lines.index("")])
    shown = {name: value.strip() for name, value in fields.items()}
    assert shown.pop("created").endswith(" UTC")
    assert shown.pop("goes on at").endswith(" UTC (in 5 min)")
    assert shown.pop("to do").startswith("Change the A (and AAAA) record")
    assert shown == {
        "site": "site_1",
        "names": "shop.example.com, www.shop.example.com",
        "server": "203.0.113.7:22",
        "asked for": "issue",
        "asked by": "user_42",
        "command": "/sites command-1",
        "state": "waiting",
        "because": "checked again free of CA cost",
        "reason": "DNS_WRONG_SERVER",
        "found": "www points to 192.0.2.1.",
        "failures in a row": "1",
    }
    attempts = done.lines[done.lines.index("") + 1 :]
    assert attempts[0].split() == ["TRY", "BEGAN", "TOOK", "RESULT", "REASON", "EXIT"]
    assert attempts[1].split()[0] == "1"
    assert attempts[1].split()[-5:] == ["12", "s", "failed", "CHALLENGE_FAILED", "1"]
    assert attempts[-3:] == ["What decided try 1:", "  Type: unauthorized", r"  Detail: 404 [/x]\x1b[2J"]
    assert "\x1b[2J" not in cli.on_terminal("jobs", "show", job_id).out


def test_show_as_json_is_one_object_with_its_attempts(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1")
    conn.execute(
        "insert into job_attempt (job_id, attempt, fence, spec, result, exit_code) values (%s, 1, 7, '{}', 'ended', 0)",
        (job_id,),
    )
    shown = cli("jobs", "show", job_id, "--json").json
    assert list(shown)[: len(LIST_KEYS)] == LIST_KEYS
    assert (shown["command_id"], shown["requested_by"], shown["because"]) == ("command-1", "user_42", None)
    assert shown["run_at"].endswith("Z")
    [attempt] = shown["attempts"]
    assert (attempt["attempt"], attempt["result"], attempt["exit_code"]) == (1, "ended", 0)


def test_job_is_found_by_the_beginning_of_its_id_and_only_by_one_that_is_clear(
    cli: Cli, conn: Connection
) -> None:
    job_id = add_job(conn, "site_1")
    assert cli("jobs", "show", job_id[:13].upper()).code == 0
    unknown = cli("jobs", "show", str(uuid4()))
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err.startswith("jobs: there is no job ")
    assert cli("jobs", "show", "nonsense").code == 2
    assert cli("jobs", "show", "abc").code == 2
    second = add_job(conn, "site_2")
    conn.execute("update site set job_id = null")
    conn.execute(
        "update job set id = %s where id = %s", (f"{job_id[:8]}-ffff-4fff-bfff-ffffffffffff", second)
    )
    several = cli("jobs", "show", job_id[:8])
    assert (several.code, several.out) == (2, "")
    assert job_id in several.err


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_cancelling_a_queued_job_ends_it_with_exactly_one_status_change(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1")
    done = cli("jobs", "cancel", job_id, "--by", "me", "--reason", HOSTILE.split("\x1b")[0])
    assert (done.code, done.out, done.err) == (0, f"cancelled job {job_id}\n", "")
    assert state_of(conn, job_id) == "cancelled"
    assert conn.execute("select ssl_status from site").fetchone() == ("none",)
    events = outbox_events(conn)
    assert [words(event) for event in events] == [
        ("operator.action", "cancel", 1),
        ("job.progress", "failed", 2),
        ("status.changed", "none", 3),
    ]
    assert {event["data"]["jobId"] for event in events} == {job_id}
    assert {(e["data"]["commandId"], e["data"]["commandSource"]) for e in events} == {("command-1", "/sites")}
    assert (events[0]["data"]["by"], events[0]["data"]["reason"]) == ("me", "[/x] [bold]")
    assert events[2]["data"]["previousStatus"] == "pending"


def test_cancelling_says_who_by_itself(cli: Cli, conn: Connection) -> None:
    cli("jobs", "cancel", add_job(conn, "site_1"))
    by = outbox_events(conn)[0]["data"]["by"]
    assert by.startswith("tester@")
    assert len(by) > len("tester@")


def test_cancelling_a_running_job_flags_it_and_leaves_the_end_to_its_run(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1")
    take(conn, job_id)
    done = cli("jobs", "cancel", job_id)
    assert (done.code, done.out) == (
        0,
        f"job {job_id} runs: it ends as cancelled when its certbot run is over\n",
    )
    assert state_of(conn, job_id) == "running"
    assert [words(event) for event in outbox_events(conn)] == [("operator.action", "cancel", 1)]
    assert "cancelling" in cli("jobs", "show", job_id).out
    assert conn.execute("select ssl_status from site").fetchone() == ("pending",)


def test_job_that_has_ended_cannot_be_cancelled(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1")
    assert cli("jobs", "cancel", job_id).code == 0
    again = cli("jobs", "cancel", job_id)
    assert (again.code, again.out) == (1, "")
    assert again.err == f"jobs: job {job_id} has ended already: it is cancelled\n"
    assert len(outbox_events(conn)) == 3
    assert cli("jobs", "cancel", str(uuid4())).code == 1


def test_cancelling_an_older_job_leaves_the_site_to_the_newer_one(cli: Cli, conn: Connection) -> None:
    older = add_job(conn, "site_1")
    newer = add_job(conn, "site_1", domain="www.example.org")
    assert cli("jobs", "cancel", older).code == 0
    assert (state_of(conn, older), state_of(conn, newer)) == ("cancelled", "queued")
    assert conn.execute("select ssl_status, job_id::text from site").fetchone() == ("pending", newer)
    assert words(outbox_events(conn)[-1]) == ("status.changed", "pending", 3)


def test_cancelling_a_cleanup_says_nothing_of_its_site(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1")
    conn.execute("update job set kind = 'cleanup' where id = %s", (job_id,))
    conn.execute("update site set job_id = null, ssl_status = 'none'")
    done = cli("jobs", "cancel", job_id)
    assert (done.code, done.out) == (0, f"cancelled job {job_id}\n")
    assert state_of(conn, job_id) == "cancelled"
    assert [words(event) for event in outbox_events(conn)] == [("operator.action", "cancel", 1)]


def test_cancelling_offers_the_next_job_of_the_server(cli: Cli, conn: Connection) -> None:
    first, second = add_job(conn, "site_1"), add_job(conn, "site_2", domain="www.example.org")
    cli("jobs", "cancel", first)
    assert offered_jobs(conn) == [f"{second}.1"]


def test_cancelling_waits_for_whoever_writes_to_the_site_and_deadlocks_with_nobody(
    cli: Cli, conn: Connection, database_url: str
) -> None:
    """The order is job before site: another writer that holds the newest job gets the site while we wait for the job."""
    older = add_job(conn, "site_1")
    newer = add_job(conn, "site_1", domain="www.example.org")
    with connect(database_url, "other writer") as other:
        other.execute("select 1 from job where id = %s for update", (newer,))
        cancelling = cli.start("jobs", "cancel", older)
        until(
            lambda: conn.execute(
                "select 1 from pg_stat_activity where application_name = 'certpilot-jobs' and wait_event_type = 'Lock'"
                " and datname = current_database()"
            ).fetchone(),
            seconds=30,
            what="the cancelling waits for the newest job's row",
        )
        assert (state_of(conn, older), outbox_events(conn)) == ("queued", [])  # all of it or nothing
        sites.bump_sequence(other, "site_1")
        other.commit()
    _, err = cancelling.communicate(timeout=60)
    assert (cancelling.returncode, err) == (0, b"")
    assert [words(event)[2] for event in outbox_events(conn)] == [2, 3, 4]


# --- pause and resume -----------------------------------------------------------------------------------------------


def pauses(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute("select scope, paused_by, reason from pause order by scope").fetchall()


def actions(conn: Connection) -> list[tuple[Any, ...]]:
    return [
        (event["data"]["action"], event["data"]["by"], event["data"]["reason"], event["data"]["siteId"])
        for event in outbox_events(conn)
    ]


def test_pause_and_resume_of_everything_are_told_once_each(cli: Cli, conn: Connection) -> None:
    job_id = add_job(conn, "site_1")
    done = cli("pause", "--by", "me", "--reason", "CA is down")
    assert (done.code, done.out, done.err) == (0, "paused everything; what runs goes on to its end\n", "")
    assert pauses(conn) == [("*", "me", "CA is down")]
    with conn.transaction():
        assert claims.claim(conn, job_id, uuid4(), 90) is Unclaimable.PAUSED
    again = cli("pause", "--by", "somebody else")
    assert again.code == 0
    assert again.out.startswith("everything is paused already since ")
    assert again.out.endswith(" by me: CA is down\n")
    lifted = cli("resume", "--by", "me")
    assert (lifted.code, lifted.out) == (0, "resumed everything; jobs offered to runners: 1\n")
    assert cli("resume").out == "there is no pause of everything\n"
    assert pauses(conn) == []
    assert actions(conn) == [("pause", "me", "CA is down", None), ("resume", "me", None, None)]


def test_resume_offers_at_once_what_runners_dropped_and_nothing_that_stays_paused(
    cli: Cli, conn: Connection
) -> None:
    """A job queued a moment ago is due in 60 s only; without the offer it would wait for the rest of that."""
    mine = [add_job(conn, f"site_{number}", domain=f"{number}.example.com") for number in (1, 2)]
    elsewhere = add_job(conn, "site_3", domain="3.example.com", server=Server("203.0.113.8"))
    third = add_job(conn, "site_4", domain="4.example.com", server=Server("203.0.113.9"))
    for host in ("203.0.113.7", "203.0.113.8"):
        assert cli("pause", "--server", host).code == 0
    done = cli("resume", "--server", "203.0.113.7", "--by", "me", "--reason", "new kernel")
    assert done.lines[0] == "resumed server 203.0.113.7; jobs offered to runners: 1"
    assert done.lines[1].startswith("still paused: server 203.0.113.8 since ")
    assert offered_jobs(conn) == [f"{mine[0]}.1"]  # the oldest; its end offers the next
    due = dict(
        conn.execute("select id::text, run_at > certpilot_now() + interval '30 s' from job").fetchall()
    )
    assert due == {mine[0]: True, mine[1]: False, elsewhere: True, third: True}
    assert actions(conn)[-1] == ("resume", "me", "server 203.0.113.7: new kernel", None)


def test_pause_of_a_server_names_it_as_commands_do(cli: Cli, conn: Connection) -> None:
    add_job(conn, "site_1", server=Server("2001:db8::1"))
    done = cli("pause", "--server", "2001:0DB8:0:0::1")
    assert (done.code, done.err) == (0, "")
    assert [row[0] for row in pauses(conn)] == ["2001:db8::1"]
    unknown = cli("pause", "--server", "203.0.113.99")
    assert unknown.code == 0
    assert "no site is on server 203.0.113.99 yet" in unknown.err
    wrong = cli("pause", "--server", "a b")
    assert (wrong.code, wrong.out) == (2, "")
    assert '"a b" has a space' in wrong.err


@pytest.mark.parametrize(
    "text", ["", " ", "two\nlines", "\x1b[2J", "x" * 501, b"\xff".decode(errors="surrogateescape")]
)
def test_who_and_why_must_be_a_line_of_text(cli: Cli, conn: Connection, text: str) -> None:
    for option in ("--by", "--reason"):
        done = cli("pause", option, text)
        assert (done.code, done.out) == (2, "")
        assert "must be one line of 1 to 500 characters" in done.err
    assert pauses(conn) == []


def test_two_pauses_at_once_are_one(cli: Cli, conn: Connection) -> None:
    threads = [
        threading.Thread(target=cli.process, args=("pause", "--by", f"{number}")) for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pauses(conn)) == 1
    assert len(actions(conn)) == 1
