"""Intake, relay, activity and scheduler on a real broker and database; no runner, so jobs stay queued."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pika
import pytest

from contracts.codes import Code
from db import claims, sites
from db.claims import HeldJob
from db.pool import Connection
from tests.support.commands import command, publish
from tests.support.feed import feed, job_id, wait_feed
from tests.support.roles import running
from tests.support.waiting import until
from workers.core.model import Certificate, JobId
from workers.edges.amqp.broker import ensure_topology
from workers.runner import outcome
from workers.settings import Settings


@pytest.fixture
def config(database_url: str, broker_url: str) -> Settings:
    ensure_topology(broker_url, name="test")
    return Settings(database_url=database_url, rabbitmq_url=broker_url)


@pytest.fixture
def roles(config: Settings) -> Iterator[Settings]:
    with running(config, "intake", "relay", "activity"):
        yield config


def rejection(conn: Connection, site: str = "site_1") -> dict[str, Any]:
    rows = until(
        lambda: [row for row in feed(conn, site) if row["type"] == "ssl.request.rejected"], what="a rejection"
    )
    return rows[-1]


def letters(config: Settings, queue: str) -> list[tuple[dict[str, Any], bytes]]:
    connection = pika.BlockingConnection(pika.URLParameters(config.rabbitmq_url))
    channel = connection.channel()
    found = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            break
        found.append((properties.headers, body))
    connection.close()
    return found


def activate(conn: Connection, job_id: str, *, lifetime: timedelta = timedelta(days=90)) -> Certificate:
    """End the job as a runner does that saw the certificate."""
    with conn.transaction():
        held = claims.claim(conn, JobId(job_id), uuid4(), 90)
        assert isinstance(held, HeldJob)
        row = conn.execute("select clock_timestamp()").fetchone()
        assert row is not None
        certificate = Certificate("0a", tuple(sorted(held.names)), "Test CA", row[0], row[0] + lifetime)
        outcome.succeed(conn, held, certificate, "test", None)
    return certificate


def test_issue_makes_the_site_pending_and_one_job(roles: Settings, conn: Connection) -> None:
    publish(roles.rabbitmq_url, command(aliases=["www.shop.example.com"]))
    events = wait_feed(conn, 2)
    assert [(e["type"], e["status"], e["sequence"]) for e in events] == [
        ("ssl.status.changed", "pending", 1),
        ("ssl.job.progress", None, 2),
    ]
    row = conn.execute("select domain, ssl_status, job_state, attempt from site_ssl").fetchone()
    assert row == ("shop.example.com", "pending", "queued", 0)


def test_same_command_ten_times_is_one_job(roles: Settings, conn: Connection) -> None:
    body = command()
    publish(roles.rabbitmq_url, *[body] * 10, command(site="last"))
    wait_feed(conn, 2, "last")
    assert conn.execute("select count(*) from job where site_id = 'site_1'").fetchone() == (1,)
    assert len(feed(conn)) == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"domain": None}, "NO_DOMAIN"),
        ({"domain": "  "}, "NO_DOMAIN"),
        ({"domain": "192.0.2.1"}, "INVALID_DOMAIN"),
        ({"domain": "*.example.com"}, "WILDCARD_NEEDS_DNS"),
        ({"aliases": [""]}, "INVALID_DOMAIN"),
    ],
)
def test_name_that_cannot_be_issued_for_is_rejected_without_a_job(
    roles: Settings, conn: Connection, fields: dict[str, Any], code: str
) -> None:
    publish(roles.rabbitmq_url, command(**fields))
    assert rejection(conn)["code"] == code
    assert conn.execute("select ssl_status, job_id from site_ssl").fetchone() == ("none", None)


def test_renew_of_a_site_never_issued_is_rejected(roles: Settings, conn: Connection) -> None:
    publish(roles.rabbitmq_url, command("renew"), routing_key="ssl.renew")
    assert rejection(conn)["code"] == "NOT_ISSUED"


def test_second_request_while_one_is_queued_is_rejected(roles: Settings, conn: Connection) -> None:
    publish(roles.rabbitmq_url, command(), command())
    assert rejection(conn)["code"] == "ALREADY_PENDING"
    assert conn.execute("select count(*) from job").fetchone() == (1,)


def test_same_id_with_another_body_is_rejected_once_per_body(roles: Settings, conn: Connection) -> None:
    first, other = command(command_id="x"), command(command_id="x", domain="other.example.com")
    publish(roles.rabbitmq_url, first, other, other, command(site="last"))
    wait_feed(conn, 2, "last")
    assert [e["code"] for e in feed(conn)] == [None, None, "DUPLICATE_ID"]


def test_issue_of_an_active_site_is_rejected_and_renew_too_before_the_window(
    roles: Settings, conn: Connection
) -> None:
    publish(roles.rabbitmq_url, command())
    wait_feed(conn, 2)
    certificate = activate(conn, job_id(conn))
    publish(roles.rabbitmq_url, command())
    assert rejection(conn)["code"] == "ALREADY_ACTIVE"
    publish(roles.rabbitmq_url, command("renew"))
    renewal = until(
        lambda: [e for e in feed(conn) if e["code"] == "ALREADY_ACTIVE"][1:], what="the second rejection"
    )[0]
    opens = certificate.not_before + timedelta(days=60)
    assert renewal["detail"]["error"]["retryAt"][:16] == f"{opens:%Y-%m-%dT%H:%M}"


def test_forced_renewal_of_an_active_site_stays_active(roles: Settings, conn: Connection) -> None:
    publish(roles.rabbitmq_url, command())
    wait_feed(conn, 2)
    activate(conn, job_id(conn))
    publish(roles.rabbitmq_url, command("renew", force=True))
    until(
        lambda: conn.execute("select 1 from site_ssl where job_state = 'queued'").fetchone(),
        what="the renewal",
    )
    assert conn.execute("select ssl_status from site_ssl").fetchone() == ("active",)
    assert conn.execute("select serial_before from job where state = 'queued'").fetchone() == ("0a",)


def test_command_joins_a_job_that_waits_on_the_owner(roles: Settings, conn: Connection) -> None:
    publish(roles.rabbitmq_url, command())
    wait_feed(conn, 2)
    waiting_job = job_id(conn)
    with conn.transaction():
        held = claims.claim(conn, JobId(waiting_job), uuid4(), 90)
        assert isinstance(held, HeldJob)
        at = conn.execute("select certpilot_now() + interval '1 h'").fetchone()
        assert at is not None
        problem = outcome.Problem(Code.DNS_NOT_RESOLVING, "No address.", retry_at=at[0])
        outcome.wait(conn, held, outcome.Wait(at[0], problem, "test", 1, at[0]), None)
    publish(roles.rabbitmq_url, command(command_id="again"))
    joined = until(lambda: [e for e in feed(conn) if e["detail"]["commandId"] == "again"], what="the join")[0]
    assert (joined["detail"]["step"], joined["detail"]["jobId"]) == ("queued", waiting_job)
    assert conn.execute("select state, epoch from job").fetchone() == ("queued", 2)


def test_other_names_supersede_a_waiting_job(roles: Settings, conn: Connection) -> None:
    publish(roles.rabbitmq_url, command())
    wait_feed(conn, 2)
    old = job_id(conn)
    conn.execute("update job set state = 'waiting', error_code = 'DNS_NOT_RESOLVING'")
    publish(roles.rabbitmq_url, command(aliases=["www.shop.example.com"]))
    gone = until(
        lambda: [e for e in feed(conn) if e["detail"].get("step") == "superseded"], what="the supersession"
    )[0]
    assert gone["detail"]["jobId"] == old
    assert job_id(conn) in gone["detail"]["message"]
    assert conn.execute("select state from job where id = %s", (old,)).fetchone() == ("superseded",)


def test_unreadable_message_is_a_letter_and_its_neighbours_are_handled(
    roles: Settings, conn: Connection
) -> None:
    broken = b"\xff\xfe not json"
    publish(roles.rabbitmq_url, command(site="before"), broken, command(site="after"))
    wait_feed(conn, 2, "before")
    wait_feed(conn, 2, "after")
    headers, body = until(lambda: letters(roles, "ssl.commands.dlq"), what="the letter")[0]
    assert body == broken
    assert headers["certpilot-code"] == "MALFORMED"
    assert headers["certpilot-routing-key"] == "ssl.issue"


def test_broken_command_of_a_known_site_is_a_letter_and_a_rejection(
    roles: Settings, conn: Connection
) -> None:
    body = command(server={"host": "203.0.113.7", "port": "22"})
    publish(roles.rabbitmq_url, body, body)
    rejected = rejection(conn)
    assert (rejected["code"], "data.server.port" in rejected["detail"]["error"]["message"]) == (
        "INVALID_REQUEST",
        True,
    )
    publish(roles.rabbitmq_url, command(site="last"))
    wait_feed(conn, 2, "last")
    until(
        lambda: not conn.execute("select 1 from outbox where published_at is null").fetchone(),
        what="the relay",
    )
    assert len(letters(roles, "ssl.commands.dlq")) == 1
    assert len(feed(conn)) == 1


def test_pending_is_stored_by_intake_alone_within_milliseconds(config: Settings, conn: Connection) -> None:
    """No relay, no runner: nothing but intake stands between a command and `pending`."""
    with running(config, "intake"):
        publish(config.rabbitmq_url, command())
        until(
            lambda: conn.execute("select 1 from site_ssl where ssl_status = 'pending'").fetchone(),
            what="pending",
        )


def test_active_becomes_expired_when_not_after_passes(config: Settings, conn: Connection) -> None:
    with running(config, "intake", "relay", "activity", "scheduler"):
        publish(config.rabbitmq_url, command())
        wait_feed(conn, 2)
        activate(conn, job_id(conn), lifetime=timedelta(seconds=2))
        until(
            lambda: conn.execute("select 1 from site_ssl where ssl_status = 'expired'").fetchone(),
            what="expired",
        )
        events = until(lambda: [e for e in feed(conn) if e["status"] == "expired"], what="the event")
    assert events[0]["detail"]["previousStatus"] == "active"
    sequences = [e["sequence"] for e in feed(conn)]
    assert sequences == list(range(1, len(sequences) + 1))


def test_due_wait_is_queued_and_dispatched(config: Settings, conn: Connection) -> None:
    with running(config, "intake", "relay", "scheduler"):
        publish(config.rabbitmq_url, command())
        until(
            lambda: conn.execute("select 1 from site_ssl where job_state = 'queued'").fetchone(),
            what="the job",
        )
        conn.execute("update job set state = 'waiting', run_at = certpilot_now() + interval '1 h'")
        conn.execute("update clock set ahead_by = interval '61 min'")
        until(
            lambda: conn.execute("select 1 from job where state = 'queued' and epoch = 2").fetchone(),
            what="queued again",
        )


def test_feed_holds_each_event_once_however_often_it_comes(config: Settings, conn: Connection) -> None:
    with running(config, "intake", "relay", "activity"):
        publish(config.rabbitmq_url, command())
        wait_feed(conn, 2)
        conn.execute("update outbox set published_at = null where lane = 'event'")
        publish(config.rabbitmq_url, command(site="last"))
        wait_feed(conn, 2, "last")
    assert [e["sequence"] for e in feed(conn)] == [1, 2]


def test_event_that_cannot_be_stored_is_a_letter(config: Settings, conn: Connection) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(config.rabbitmq_url))
    connection.channel().basic_publish("ssl.events", "ssl.status.changed", json.dumps({"id": "1"}).encode())
    connection.close()
    with running(config, "relay", "activity"):
        headers, _ = until(lambda: letters(config, "ssl.activity.dlq"), what="the letter")[0]
    assert headers["certpilot-code"] == "MALFORMED"


def test_relay_publishes_again_what_the_broker_lost_before_its_confirm(
    config: Settings, conn: Connection
) -> None:
    """The queue is gone: a returned message means declare again and publish again, not stop."""
    connection = pika.BlockingConnection(pika.URLParameters(config.rabbitmq_url))
    with running(config, "relay"):
        with conn.transaction():
            sites.ensure(conn, "site_1")
        connection.channel().queue_delete("ssl.activity")
        connection.close()
        with running(config, "intake", "activity"):
            publish(config.rabbitmq_url, command())
            wait_feed(conn, 2)
