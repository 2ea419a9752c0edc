"""`certpilot dlq` on a real broker and database: what lies there, and what replaying and discarding does."""

import json
import os
import signal
import subprocess
from typing import Any
from uuid import uuid4

import pika
import pytest

from contracts.codes import Code
from db import claims
from db.claims import HeldJob
from db.pool import Connection
from tests.support.amqp import channel
from tests.support.commands import command, publish
from tests.support.feed import job_id, wait_feed
from tests.support.installation import CERTPILOT
from tests.support.roles import running
from tests.support.waiting import until
from workers.cli.main import main
from workers.core.model import JobId, JobState, Problem
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.dead_letter_queue import DeadLetterBrowser
from workers.runner import outcome
from workers.settings import Settings

BROKEN = b"\xff not json"


@pytest.fixture
def config(database_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    ensure_topology(broker_url, name="test")
    monkeypatch.setenv("CERTPILOT_DATABASE_URL", database_url)
    monkeypatch.setenv("CERTPILOT_RABBITMQ_URL", broker_url)
    return Settings()


def environment(config: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "CERTPILOT_DATABASE_URL": config.database_url,
        "CERTPILOT_RABBITMQ_URL": config.rabbitmq_url,
    }


def dlq(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Run it, expect success, and give its JSON."""
    capsys.readouterr()
    assert main(["dlq", *words]) == 0
    out = capsys.readouterr().out
    return json.loads(out) if "--json" in words else out


def groups(capsys: pytest.CaptureFixture[str], *words: str) -> dict[tuple[str, str], int]:
    return {(row["queue"], row["code"]): row["count"] for row in dlq(capsys, "list", "--json", *words)}


def ready(config: Settings, queue: str) -> int:
    connection = pika.BlockingConnection(pika.URLParameters(config.rabbitmq_url))
    count: int = connection.channel().queue_declare(queue, passive=True).method.message_count
    connection.close()
    return count


def bury(conn: Connection, site: str) -> str:
    """End the site's queued job as one that an operator has to mend."""
    dead = job_id(conn, site)
    with conn.transaction():
        held = claims.claim(conn, JobId(dead), uuid4(), 90)
        assert isinstance(held, HeldJob)
        problem = Problem(Code.ACCOUNT_PAUSED, "paused")
        outcome.end(conn, held, JobState.DEAD, outcome.End(problem, "test"), None)
    return dead


def test_list_groups_by_queue_and_code_and_changes_nothing(
    config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(config, "intake", "relay"):
        publish(config.rabbitmq_url, BROKEN, b"{", command(server=None))
        until(lambda: ready(config, "ssl.commands.dlq") == 3, what="three letters")
    expected = {("ssl.commands", "MALFORMED"): 2, ("ssl.commands", "INVALID_REQUEST"): 1}
    assert groups(capsys) == expected
    assert groups(capsys) == expected
    assert groups(capsys, "--code", "MALFORMED") == {("ssl.commands", "MALFORMED"): 2}
    assert groups(capsys, "--site", "site_1") == {("ssl.commands", "INVALID_REQUEST"): 1}
    assert groups(capsys, "--queue", "ssl.jobs") == {}


def test_replayed_command_that_is_broken_still_comes_back_once(
    config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(config, "intake", "relay"):
        publish(config.rabbitmq_url, BROKEN)
        until(lambda: ready(config, "ssl.commands.dlq") == 1, what="the letter")
        assert "replayed: 1" in dlq(capsys, "replay", "--all", "--by", "me", "--reason", "again")
        until(lambda: ready(config, "ssl.commands.dlq") == 1, what="the letter's return")
    (letter,) = dlq(capsys, "show", "--json")
    assert letter["count"] == 2
    row = conn.execute(
        "select headers from outbox where lane = 'event' and routing_key = 'ssl.operator.action'"
    ).fetchone()
    assert row is not None


def test_dead_job_is_replayed_once_however_often_it_is_asked(
    config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(config, "intake", "relay", "activity"):
        publish(config.rabbitmq_url, command())
        wait_feed(conn, 2)
        dead = bury(conn, "site_1")
        until(lambda: ready(config, "ssl.jobs.dlq") == 1, what="the letter")
        assert conn.execute("select ssl_status from site_ssl").fetchone() == ("none",)
        assert groups(capsys) == {("ssl.jobs", "ACCOUNT_PAUSED"): 1}
        assert "replayed: 1" in dlq(capsys, "replay", "--domain", "shop.example.com")
        assert ready(config, "ssl.jobs.dlq") == 0
        assert conn.execute("select state, epoch from job where id = %s", (dead,)).fetchone() == ("queued", 2)
        assert conn.execute("select ssl_status from site_ssl").fetchone() == ("pending",)
        assert "no letter matches" in dlq(capsys, "replay", "--all")
    assert conn.execute(
        "select count(*) from activity_feed where event_type like '%operator.action%'"
    ).fetchone() == (1,)


def test_letter_of_a_superseded_job_is_reported_and_removed(
    config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(config, "intake", "relay", "activity"):
        publish(config.rabbitmq_url, command())
        wait_feed(conn, 2)
        dead = bury(conn, "site_1")
        until(lambda: ready(config, "ssl.jobs.dlq") == 1, what="the letter")
        publish(config.rabbitmq_url, command())
        until(lambda: job_id(conn) != dead, what="the new job")
        assert "superseded: 1" in dlq(capsys, "replay", "--all")
        assert ready(config, "ssl.jobs.dlq") == 0
    assert conn.execute("select state from job where id = %s", (dead,)).fetchone() == ("superseded",)


def test_dry_run_does_nothing(config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    with running(config, "intake", "relay"):
        publish(config.rabbitmq_url, BROKEN)
        until(lambda: ready(config, "ssl.commands.dlq") == 1, what="the letter")
    assert "would replay: 1" in dlq(capsys, "replay", "--all", "--dry-run")
    assert "would discard: 1" in dlq(capsys, "discard", "--all", "--dry-run")
    assert ready(config, "ssl.commands.dlq") == 1


def test_discard_keeps_a_copy_and_tells_the_feed(
    config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(config, "intake", "relay", "activity"):
        publish(config.rabbitmq_url, BROKEN, b"{")
        until(lambda: ready(config, "ssl.commands.dlq") == 2, what="two letters")
        assert "discarded: 1" in dlq(capsys, "discard", "--all", "--limit", "1", "--yes", "--by", "ops")
        assert ready(config, "ssl.commands.dlq") == 1
        told = until(
            lambda: conn.execute(
                "select detail from activity_feed where event_type like '%operator.action%'"
            ).fetchone(),
            what="the event",
        )
    assert told is not None
    assert (told[0]["action"], told[0]["by"], told[0]["queue"], told[0]["count"]) == (
        "discard",
        "ops",
        "ssl.commands",
        1,
    )
    assert conn.execute("select body, discarded_by from discarded_letter").fetchone() == (BROKEN, "ops")


def test_discard_without_a_terminal_wants_to_be_told(
    config: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dlq", "discard", "--all"]) == 1
    assert "--yes" in capsys.readouterr().err


def test_replay_of_everything_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "replay"]) == 2
    assert "--all" in capsys.readouterr().err


MANY = 450
"""More than two windows of letters that stay."""


def fill(config: Settings, count: int = MANY) -> None:
    """Letters as `letters` makes them, of commands that lack their server, without going through intake."""
    with channel(config.rabbitmq_url) as open_channel:
        for number in range(count):
            headers = {
                "certpilot-letter-id": f"{number:064x}", "certpilot-code": "INVALID_REQUEST", "certpilot-reason": "r",
                "certpilot-first-at": "2026-11-24T10:00:00Z", "certpilot-count": 1, "certpilot-routing-key": "ssl.issue",
            }  # fmt: skip
            body = json.dumps(command(site=f"site_{number}", command_id=f"c-{number}", server=None)).encode()
            open_channel.basic_publish(
                "", "ssl.commands.dlq", body, pika.BasicProperties(delivery_mode=2, headers=headers)
            )
    until(lambda: ready(config, "ssl.commands.dlq") == count, what="the letters")


def acted(conn: Connection, action: str) -> list[tuple[str, int]]:
    """Who did it to how many, as it is written for the feed."""
    rows = conn.execute(
        "select convert_from(body, 'UTF8')::jsonb->'data' from outbox where routing_key = 'ssl.operator.action' order by seq"
    ).fetchall()
    return [(data["by"], data["count"]) for (data,) in rows if data["action"] == action]


def test_letters_that_stay_do_not_hide_those_behind_them(
    config: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are never all in memory: what stays fills the broker's window, and another is asked for."""
    fill(config)
    assert groups(capsys) == {("ssl.commands", "INVALID_REQUEST"): MANY}
    (last,) = dlq(capsys, "show", "--json", "--site", f"site_{MANY - 1}")
    assert last["siteId"] == f"site_{MANY - 1}"
    chosen = ["--site", f"site_{MANY - 3}"]
    assert "discarded: 1" in dlq(capsys, "discard", *chosen, "--yes")
    assert groups(capsys) == {("ssl.commands", "INVALID_REQUEST"): MANY - 1}


def test_no_more_than_a_window_of_letters_is_held_at_a_time(config: Settings) -> None:
    fill(config)
    with DeadLetterBrowser(config.rabbitmq_url, "ssl.commands") as browser:
        letters = iter(browser)
        for _ in range(10):
            next(letters)
        # The others are the broker's: a passive declare counts what was not sent to anybody.
        until(lambda: ready(config, "ssl.commands.dlq") == MANY - 200, what="the window to be full")
        assert len(list(letters)) == MANY - 10
        assert ready(config, "ssl.commands.dlq") == 0
    until(lambda: ready(config, "ssl.commands.dlq") == MANY, what="all of them to be back")


def test_all_are_replayed_and_the_feed_counts_them(
    config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(config)
    assert f"replayed: {MANY}" in dlq(capsys, "replay", "--all", "--by", "ops", "--reason", "mended")
    assert (ready(config, "ssl.commands.dlq"), ready(config, "ssl.commands")) == (0, MANY)
    told = acted(conn, "replay")
    assert sum(count for _, count in told) == MANY
    assert {by for by, _ in told} == {"ops"}


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_interrupted_half_way_the_rest_is_done_by_the_next_run_and_nothing_twice(
    action: str, config: Settings, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(config)
    words = ["dlq", action, "--all", "--by", "ops", *(["--yes"] if action == "discard" else [])]
    process = subprocess.Popen(
        [CERTPILOT, *words, "--rate", "50"],
        env=environment(config),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # A batch is told just before its letters are removed, and the next begins a second later.
    settled = "select from outbox where routing_key = 'ssl.operator.action' and created_at < clock_timestamp() - interval '0.3 s'"
    until(lambda: conn.execute(settled).fetchone() is not None, what="the first batch")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert b"the rest lies where it was" in err
    left = MANY - sum(count for _, count in acted(conn, action))
    assert 0 < left < MANY
    assert f"ed: {MANY - left}".encode() in out
    until(lambda: ready(config, "ssl.commands.dlq") == left, what="the rest to be back")
    assert main(words) == 0
    assert f"ed: {left}" in capsys.readouterr().out
    assert sum(count for _, count in acted(conn, action)) == MANY
    kept = conn.execute("select count(*), count(distinct letter_id) from discarded_letter").fetchone()
    assert kept == ((0, 0) if action == "replay" else (MANY, MANY))
    assert ready(config, "ssl.commands") == (MANY if action == "replay" else 0)


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_killed_between_its_effect_and_the_letters_removal_it_can_be_run_again(
    action: str,
    config: Settings,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A job that was replayed is not dead any more; a copy that was kept is not kept twice."""
    with running(config, "intake", "relay", "activity"):
        publish(config.rabbitmq_url, command())
        wait_feed(conn, 2)
        dead = bury(conn, "site_1")
        until(lambda: ready(config, "ssl.jobs.dlq") == 1, what="the letter")
        words = ["dlq", action, "--all", *(["--yes"] if action == "discard" else [])]
        with monkeypatch.context() as patch:
            patch.setattr(DeadLetterBrowser, "remove", lambda *_: (_ for _ in ()).throw(SystemExit))
            with pytest.raises(SystemExit):
                main(words)
        until(lambda: ready(config, "ssl.jobs.dlq") == 1, what="the letter to be back")
        assert main(words) == 0
        assert ready(config, "ssl.jobs.dlq") == 0
    assert conn.execute("select epoch from job where id = %s", (dead,)).fetchone() == (
        (2,) if action == "replay" else (1,)
    )
    assert conn.execute("select count(*) from discarded_letter").fetchone() == (
        (1,) if action == "discard" else (0,)
    )


@pytest.mark.parametrize("words", [["list"], ["show"], ["replay", "--all"], ["discard", "--all", "--yes"]])
def test_letters_that_another_reader_holds_are_not_passed_over_in_silence(
    words: list[str], config: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(config, 3)
    with DeadLetterBrowser(config.rabbitmq_url, "ssl.commands") as other:
        assert len(list(other)) == 3
        assert main(["dlq", *words, "--queue", "ssl.commands"]) == 1
        assert "ssl.commands.dlq has another reader" in capsys.readouterr().err
    until(lambda: ready(config, "ssl.commands.dlq") == 3, what="the letters to be back")
    assert main(["dlq", *words, "--queue", "ssl.commands"]) == 0
