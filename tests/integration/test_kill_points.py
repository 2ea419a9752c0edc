"""Every role killed at each of its steps in turn: before and after each commit, publish and acknowledgement.

The n-th process of a role dies at its n-th step, until one comes through with the work done. Whatever was half done then
has been done once.
"""

from collections.abc import Callable
from typing import Any

import pytest

from db.pool import Connection
from tests.support import kill_points
from tests.support.amqp import count
from tests.support.commands import command, publish
from tests.support.roles import running
from tests.support.waiting import until
from workers.edges.amqp.broker import ensure_topology
from workers.settings import Settings

SITES = 3


@pytest.fixture
def fields(database_url: str, broker_url: str) -> dict[str, Any]:
    ensure_topology(broker_url, name="test")
    return {"database_url": database_url, "rabbitmq_url": broker_url}


def sweep(
    role: str,
    fields: dict[str, Any],
    done: Callable[[], bool],
    at_least: int,
    before_each: Callable[[], object] = lambda: None,
) -> None:
    """Processes of the role one after the other until one outlives the work; so many have to die before."""
    for step in range(1, 60):
        before_each()
        process = kill_points.start(role, fields, step)
        try:
            until(
                lambda p=process: kill_points.died_at_its_step(p) or done(), what=f"step {step}", seconds=40
            )
            if process.exitcode is None:
                assert step > at_least, "too few steps: the hooks miss what they are for"
                return
        finally:
            kill_points.kill(process)
    raise AssertionError("60 processes were not enough")


def number(conn: Connection, query: str) -> int:
    row = conn.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return int(row[0])


def publish_work(fields: dict[str, Any]) -> None:
    publish(
        fields["rabbitmq_url"],
        *(command(site=f"site_{n}", domain=f"s{n}.example.com") for n in range(SITES)),
        b"{",
    )


def check(conn: Connection, url: str) -> None:
    """One job a command, a feed without gap or double, one letter, and nothing left anywhere."""
    assert number(conn, "select count(*) from job") == SITES
    assert number(conn, "select count(*) from activity where site_id is not null") == number(
        conn, "select sum(sequence) from site"
    )
    assert number(conn, "select count(*) from outbox where published_at is null") == 0
    # What is no command has no id by which a copy could be known; copies of a letter share the letter's.
    letters = "select count(distinct headers->>'certpilot-letter-id') from outbox where lane = 'letter'"
    assert number(conn, letters) == 1
    assert (count(url, "ssl.commands"), count(url, "ssl.activity")) == (0, 0)


def settled(conn: Connection, url: str) -> bool:
    feed = "select (select count(*) from activity where site_id is not null) = coalesce(sum(sequence), 0) and count(*) = {} from site"
    row = conn.execute(feed.format(SITES)).fetchone()  # type: ignore[call-overload]
    empty = "select count(*) from outbox where published_at is null"
    return row == (True,) and number(conn, empty) == 0 and count(url, "ssl.activity") == 0


def test_intake(fields: dict[str, Any], conn: Connection) -> None:
    url = fields["rabbitmq_url"]
    publish_work(fields)

    def done() -> bool:
        # Unacknowledged messages are not counted as ready: all are taken, and were settled where the next finds none.
        return (
            number(conn, "select count(*) from job") == SITES
            and count(url, "ssl.commands") == 0
            and number(conn, "select count(*) from outbox where lane = 'letter'") > 0
        )

    # A command during which three processes died is set aside; here they die of something else.
    sweep("intake", fields, done, 4, lambda: conn.execute("delete from delivery_crash"))
    with running(Settings(**fields), "intake", "relay", "activity"):
        until(lambda: settled(conn, url), what="the feed", seconds=40)
    check(conn, url)


def test_relay(fields: dict[str, Any], conn: Connection) -> None:
    url = fields["rabbitmq_url"]
    with running(Settings(**fields), "intake", "activity"):
        publish_work(fields)
        sweep("relay", fields, lambda: step_over_leases(conn) and settled(conn, url), 3)
    check(conn, url)


def step_over_leases(conn: Connection) -> bool:
    """Nobody waits here until a dead leader's lease has run out."""
    conn.execute("update lease set expires_at = '-infinity' where key like 'role:%'")
    return True


def drained(fields: dict[str, Any], conn: Connection) -> bool:
    """Let a consumer take what is there; what it had in hand when it was stopped is back on the queue."""
    url = fields["rabbitmq_url"]
    with running(Settings(**fields), "activity"):
        until(lambda: settled(conn, url), what="the rest", seconds=40)
    return count(url, "ssl.activity") == 0


def test_activity(fields: dict[str, Any], conn: Connection) -> None:
    url = fields["rabbitmq_url"]
    with running(Settings(**fields), "intake", "relay"):
        publish_work(fields)
        # Before the commit, between commit and acknowledgement; one batch may hold everything.
        sweep("activity", fields, lambda: settled(conn, url), 2)
    until(
        lambda: drained(fields, conn),
        what="the rest, and copies of what was stored before a death",
        seconds=60,
    )
    check(conn, url)


def test_scheduler(fields: dict[str, Any], conn: Connection) -> None:
    """Jobs whose wait is over are queued and offered once each."""
    url = fields["rabbitmq_url"]
    with running(Settings(**fields), "intake", "relay", "activity"):
        publish_work(fields)
        until(lambda: settled(conn, url), what="the jobs", seconds=40)
    conn.execute("delete from outbox where lane = 'job'")
    conn.execute(
        "update job set state = 'waiting', run_at = certpilot_now() - interval '1 s', error_code = 'DNS_NOT_POINTING'"
    )

    def done() -> bool:
        step_over_leases(conn)
        return number(conn, "select count(*) from job where state = 'queued'") == SITES

    sweep("scheduler", fields, done, 0)
    # However often it died, a job has one message.
    assert number(conn, "select count(*) from outbox where lane = 'job'") == SITES
