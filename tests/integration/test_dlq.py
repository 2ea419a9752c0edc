"""`certpilot dlq` on a real broker and database: what lies there, and what replaying and discarding does."""

import json
from typing import Any
from uuid import uuid4

import pika
import pytest

from contracts.codes import Code
from db import claims
from db.claims import HeldJob
from db.pool import Connection
from tests.support.commands import command, publish
from tests.support.feed import job_id, wait_feed
from tests.support.roles import running
from tests.support.waiting import until
from workers.cli.main import main
from workers.core.model import JobId, JobState, Problem
from workers.edges.broker import ensure_topology
from workers.runner import outcome
from workers.settings import Settings

BROKEN = b"\xff not json"


@pytest.fixture
def config(database_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    ensure_topology(broker_url, name="test")
    monkeypatch.setenv("CERTPILOT_DATABASE_URL", database_url)
    monkeypatch.setenv("CERTPILOT_RABBITMQ_URL", broker_url)
    return Settings()


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
