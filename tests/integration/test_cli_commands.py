"""`certpilot issue` and `renew` on a real broker: what is published, and `--wait` to every kind of end.

Intake and relay are the real roles in threads. No runner runs: how a job ends is simulated by the functions that the
runner itself calls (`workers.runner.outcome`), in a transaction of the test's.
"""

import json
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pika
import pytest

from contracts.codes import Code
from db import claims, pool
from db.claims import HeldJob
from db.pool import Connection
from deploy.lab.rabbitmq import RabbitNode
from tests.support import amqp
from tests.support.cli import Cli, Terminal, without_ansi
from tests.support.roles import running
from tests.support.waiting import until
from workers import announce
from workers.announce import About
from workers.core.model import Certificate, JobId, JobState, Problem, Step
from workers.edges.amqp.broker import ensure_topology
from workers.runner import outcome
from workers.runner.outcome import End, Wait
from workers.settings import Settings

ISSUE = ("issue", "--site", "site_1", "--domain", "Shop.Example.COM", "--server", "deploy@203.0.113.7:2222")
LIFETIME = timedelta(days=90)


@pytest.fixture
def cli(database_url: str, broker_url: str) -> Cli:
    """No address of the database: waiting has to do without."""
    return Cli(CERTPILOT_RABBITMQ_URL=broker_url, CERTPILOT_DATABASE_URL="postgresql://127.0.0.1:1/none")


@pytest.fixture
def roles(database_url: str, broker_url: str) -> Iterator[None]:
    ensure_topology(broker_url, name="test")
    config = Settings(database_url=database_url, rabbitmq_url=broker_url)
    with running(config, "intake", "relay"):
        yield


def newest_job(conn: Connection, state: str = "queued") -> str:
    """The id of the site's newest job, once it is in that state."""
    row = until(
        lambda: conn.execute(
            "select job_id::text from site_ssl where site_id = 'site_1' and job_state = %s", (state,)
        ).fetchone(),
        seconds=30,
        what=f"a job that is {state}",
    )
    return str(row[0])


def take(conn: Connection, job_id: str) -> HeldJob:
    held = claims.claim(conn, JobId(job_id), uuid4(), 90)
    assert isinstance(held, HeldJob)
    return held


def succeed(conn: Connection, job_id: str) -> None:
    """What a runner does that saw the certificate served."""
    with conn.transaction():
        held = take(conn, job_id)
        announce.progress(conn, outcome.about(held), Step.VERIFYING, "Checking what is served.")
        begin = pool.real_now(conn)
        certificate = Certificate(uuid4().hex, tuple(sorted(held.names)), "Test CA", begin, begin + LIFETIME)
        outcome.succeed(conn, held, certificate, "test", None)


def fail(conn: Connection, job_id: str) -> None:
    with conn.transaction():
        problem = Problem(Code.CAA_FORBIDS, "The CAA record of shop.example.com allows [/x] only.")
        outcome.end(conn, take(conn, job_id), JobState.FAILED, End(problem, "test"), None)


def wait_on_dns(conn: Connection, job_id: str) -> None:
    with conn.transaction():
        at = pool.now(conn) + timedelta(minutes=5)
        problem = Problem(Code.DNS_WRONG_SERVER, "www points to 192.0.2.1.", retry_at=at)
        outcome.wait(conn, take(conn, job_id), Wait(at, problem, "test", 1, at), None)


def finish(process: Any) -> tuple[int, list[str], str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode().splitlines(), err.decode()


def steps(lines: list[str]) -> list[str]:
    """The second column: elapsed time, step, text."""
    return [line[11:21].strip() for line in lines]


# --- publishing -----------------------------------------------------------------------------------------------------


def test_command_is_published_as_any_producer_would(cli: Cli, broker_url: str) -> None:
    """No role has ever run: the queue is made, so that the command waits for the first."""
    done = cli(
        *ISSUE,
        "--alias",
        "www.shop.example.com",
        "--public-address",
        "198.51.100.7",
        "--requested-by",
        "user_42",
    )
    [(properties, body)] = amqp.take_all(broker_url, "ssl.commands")
    command = json.loads(body)
    assert done.code == 0
    assert done.lines[0] == f"sent issue of site site_1 as command {command['id']}"
    assert (properties.content_type, properties.delivery_mode) == ("application/cloudevents+json", 2)
    assert command["type"] == "com.cloudaipilot.ssl.issue.v1"
    assert command["source"] == "/certpilot/cli"
    assert command["data"] == {
        "siteId": "site_1",
        "domain": "Shop.Example.COM",
        "aliases": ["www.shop.example.com"],
        "server": {
            "host": "203.0.113.7", "port": 2222, "username": "deploy", "publicAddresses": ["198.51.100.7"],
        },
        "requestedBy": "user_42",
    }  # fmt: skip


def test_json_is_the_command_as_published(cli: Cli, broker_url: str) -> None:
    done = cli("renew", "--site", "site_1", "--force", "--json")
    [(_, body)] = amqp.take_all(broker_url, "ssl.commands")
    assert (done.code, done.json) == (0, json.loads(body))
    assert done.json["type"] == "com.cloudaipilot.ssl.renew.v1"
    by = done.json["data"]["requestedBy"]
    assert by.startswith("tester@")
    assert done.json["data"] == {"siteId": "site_1", "force": True, "requestedBy": by}


@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_broker_that_cannot_be_reached_is_one_sentence(cli: Cli, wait: tuple[str, ...]) -> None:
    done = cli(*ISSUE, *wait, CERTPILOT_RABBITMQ_URL="amqp://guest:geheim@127.0.0.1:1/")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("issue: RabbitMQ cannot be reached: ")
    assert done.err.count("\n") == 1
    assert "geheim" not in done.err


def test_command_that_the_broker_does_not_take_is_a_failure(
    cli: Cli, rabbit: RabbitNode, broker_url: str
) -> None:
    ensure_topology(broker_url, name="test")
    amqp.refuse_publishing(rabbit, broker_url, "ssl.commands")
    # The limit of a quorum queue is soft: it takes a message or two before it refuses.
    done = until(lambda: (tried := cli(*ISSUE)).code and tried, seconds=30, what="a refusal")
    assert (done.code, done.out) == (1, "")
    assert "RabbitMQ did not confirm the command (nacked)" in done.err


def test_topology_in_the_way_is_one_sentence_that_says_what_to_do(cli: Cli, broker_url: str) -> None:
    with amqp.channel(broker_url) as channel:
        channel.exchange_declare("ssl.commands", "fanout")
    done = cli(*ISSUE, "--wait")
    assert (done.code, done.out) == (1, "")
    assert "exists already and is not what certpilot needs" in done.err


# --- waiting --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("roles")
def test_wait_ends_0_when_the_site_is_active_and_shows_each_step(cli: Cli, conn: Connection) -> None:
    process = cli.start(*ISSUE, "--wait")
    succeed(conn, newest_job(conn))
    code, lines, err = finish(process)
    assert (code, err) == (0, "")
    assert steps(lines) == ["sent", "pending", "queued", "verifying", "done", "active"]
    assert all(line[:11].strip().endswith(" s") for line in lines)
    assert lines[-1].split(maxsplit=3)[3].startswith("The certificate is served until ")


@pytest.mark.usefixtures("roles")
def test_wait_as_json_is_one_cloud_event_a_line(cli: Cli, conn: Connection) -> None:
    process = cli.start(*ISSUE, "--wait", "--json")
    succeed(conn, newest_job(conn))
    code, lines, err = finish(process)
    command, *events = map(json.loads, lines)
    assert (code, err) == (0, "")
    assert command["type"] == "com.cloudaipilot.ssl.issue.v1"
    assert [event["data"]["sequence"] for event in events] == [1, 2, 3, 4, 5]
    assert {event["data"]["commandId"] for event in events} == {command["id"]}
    assert (events[-1]["data"]["sslStatus"], events[-1]["source"]) == ("active", "/certpilot")


@pytest.mark.usefixtures("roles")
def test_wait_ends_1_when_the_job_failed_and_says_what_to_do(cli: Cli, conn: Connection) -> None:
    process = cli.start(*ISSUE, "--wait")
    fail(conn, newest_job(conn))
    code, lines, err = finish(process)
    assert (code, err) == (1, "")
    assert steps(lines) == ["sent", "pending", "queued", "failed", "none", "to do"]
    assert lines[3].endswith("The CAA record of shop.example.com allows [/x] only.")
    assert "CAA_FORBIDS: " in lines[-1]
    assert "Add `0 issue" in lines[-1]


@pytest.mark.usefixtures("roles")
def test_wait_ends_1_when_the_command_is_rejected(cli: Cli, conn: Connection) -> None:
    assert cli(*ISSUE).code == 0
    succeed(conn, newest_job(conn))
    code, lines, err = finish(cli.start(*ISSUE, "--wait"))
    assert (code, err) == (1, "")
    assert steps(lines) == ["sent", "rejected", "to do"]
    assert "ALREADY_ACTIVE: " in lines[1]
    code, lines, _ = finish(cli.start("renew", "--site", "never", "--wait"))
    assert (code, steps(lines)) == (1, ["sent", "rejected", "to do"])
    assert "NOT_ISSUED: " in lines[1]


@pytest.mark.usefixtures("roles")
def test_wait_for_a_forced_renewal_ends_0_although_the_site_was_active_all_the_time(
    cli: Cli, conn: Connection
) -> None:
    assert cli(*ISSUE).code == 0
    succeed(conn, newest_job(conn))
    process = cli.start("renew", "--site", "site_1", "--force", "--wait")
    succeed(conn, newest_job(conn))
    code, lines, _ = finish(process)
    assert (code, steps(lines)) == (0, ["sent", "queued", "verifying", "done", "active"])


def test_remove_is_published_under_its_own_key_with_what_was_asked(cli: Cli, broker_url: str) -> None:
    done = cli("remove", "--site", "site_1", "--revoke", "--requested-by", "user_42")
    [(_, body)] = amqp.take_all(broker_url, "ssl.commands")
    command = json.loads(body)
    assert (done.code, command["type"]) == (0, "com.cloudaipilot.ssl.remove.v1")
    assert command["data"] == {"siteId": "site_1", "revoke": True, "requestedBy": "user_42"}


@pytest.mark.usefixtures("roles")
def test_wait_for_a_removal_ends_0_when_nothing_is_left(cli: Cli, conn: Connection) -> None:
    assert cli(*ISSUE).code == 0
    wait_on_dns(conn, newest_job(conn))
    code, lines, _ = finish(cli.start("remove", "--site", "site_1", "--wait"))
    assert (code, steps(lines)[-1]) == (0, "none")
    assert lines[-1].endswith("The certificate is removed.")


@pytest.mark.usefixtures("roles")
def test_wait_follows_a_job_that_the_command_joined(cli: Cli, conn: Connection) -> None:
    assert cli(*ISSUE).code == 0
    job_id = newest_job(conn)
    wait_on_dns(conn, job_id)
    process = cli.start(*ISSUE, "--wait")
    assert newest_job(conn) == job_id
    succeed(conn, job_id)
    code, lines, _ = finish(process)
    assert (code, steps(lines)) == (0, ["sent", "queued", "verifying", "done", "active"])


@pytest.mark.usefixtures("roles")
def test_wait_ends_1_with_the_new_jobs_id_when_it_is_superseded(cli: Cli, conn: Connection) -> None:
    process = cli.start(*ISSUE, "--wait")
    wait_on_dns(conn, newest_job(conn))
    assert cli(*ISSUE, "--alias", "www.shop.example.com").code == 0
    newer = newest_job(conn)
    code, lines, _ = finish(process)
    assert (code, steps(lines)[-1]) == (1, "superseded")
    assert lines[-1].endswith(f"Superseded by job {newer}.")


@pytest.mark.usefixtures("roles")
def test_wait_ends_1_when_an_operator_cancels(cli: Cli, conn: Connection, database_url: str) -> None:
    process = cli.start(*ISSUE, "--wait")
    job_id = newest_job(conn)
    assert cli("jobs", "cancel", job_id, "--by", "me", CERTPILOT_DATABASE_URL=database_url).code == 0
    code, lines, _ = finish(process)
    assert (code, steps(lines)) == (1, ["sent", "pending", "queued", "cancel", "failed", "none"])
    assert lines[3].endswith("by me")


@pytest.mark.usefixtures("roles")
def test_wait_ends_2_at_the_timeout_and_says_what_for(cli: Cli, conn: Connection) -> None:
    process = cli.start(*ISSUE, "--wait", "--timeout", "6")
    wait_on_dns(conn, newest_job(conn))
    code, lines, err = finish(process)
    assert code == 2
    assert steps(lines) == ["sent", "pending", "queued", "waiting", "to do"]
    assert err.startswith(
        "wait: Still waiting after 6 s. It waits (waiting: DNS_WRONG_SERVER: www points to 192.0.2.1."
    )
    assert "The request goes on by itself; `certpilot status site_1` shows how it stands.\n" in err


def test_wait_ends_2_where_nobody_takes_the_command(cli: Cli, broker_url: str) -> None:
    done = cli(*ISSUE, "--wait", "--timeout", "1")
    assert (done.code, steps(done.lines)) == (2, ["sent"])
    assert "Nobody has taken the command yet" in done.err
    assert amqp.count(broker_url, "ssl.commands") == 1


@pytest.mark.usefixtures("roles")
def test_events_of_other_sites_and_commands_are_not_shown(cli: Cli, conn: Connection) -> None:
    process = cli.start(*ISSUE, "--wait")
    job_id = newest_job(conn)
    assert cli("issue", "--site", "site_2", "--domain", "b.example.com", "--server", "203.0.113.8").code == 0
    until(lambda: conn.execute("select 1 from job where site_id = 'site_2'").fetchone(), what="the other job")
    with conn.transaction():
        announce.rejected(
            conn, About("site_1", "other", "/sites"), Problem(Code.ALREADY_PENDING, "x"), domain=None
        )
        announce.status_changed(conn, About("site_1"), previous=outcome.sites.SslStatus.ACTIVE)
    succeed(conn, job_id)
    code, lines, _ = finish(process)
    assert (code, steps(lines)) == (0, ["sent", "pending", "queued", "verifying", "done", "active"])


def test_wait_on_a_terminal_shows_a_spinner_and_leaves_only_the_lines(
    cli: Cli, conn: Connection, roles: None
) -> None:
    for locale, frames in (("C.UTF-8", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"), ("C", "-\\|/")):
        with cli.terminal(*ISSUE, "--wait", LC_ALL=locale) as terminal:
            job_id = newest_job(conn)
            terminal.read_until("queued")
            spun = spinner_frames(terminal, frames)
            fail(conn, job_id)
            done = terminal.finish()
        assert (done.code, done.err) == (1, "")
        assert len(spun) >= 2
        assert "\x1b[1;31mnone" in done.out
        assert "\x1b[?25h" in done.out.rpartition("none")[2]  # the cursor is shown again
        assert done.out.isascii() == (locale == "C")
        assert "".join(done.out.split()).count("[/x]only.") == 2


def spinner_frames(terminal: Terminal, frames: str) -> set[str]:
    """The different pictures that were drawn, as soon as there are two."""

    def drawn() -> set[str]:
        terminal.read_until("queued")
        terminal._read()
        lines = "\n".join(without_ansi(terminal.raw)).replace("\r", "\n").splitlines()
        return {line[0] for line in lines if line and line[0] in frames}

    return until(lambda: drawn() if len(drawn()) >= 2 else set(), what="a moving spinner")


def test_interrupted_wait_ends_130_and_says_that_the_request_goes_on(cli: Cli, broker_url: str) -> None:
    process = cli.start(*ISSUE, "--wait")
    until(lambda: queue_exists(broker_url) and amqp.count(broker_url, "ssl.commands") == 1, seconds=30)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err.startswith("wait: No longer waiting. The request goes on by itself; ")
    assert err.count("\n") == 1


def queue_exists(url: str) -> bool:
    try:
        amqp.count(url, "ssl.commands")
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


def test_lost_connection_ends_the_wait_with_2_and_a_sentence(
    cli: Cli, rabbit: RabbitNode, broker_url: str
) -> None:
    process = cli.start(*ISSUE, "--wait")
    assert process.stdout is not None
    assert b"sent" in process.stdout.readline()
    rabbit.close_all_connections()
    code, _, err = finish(process)
    assert code == 2
    assert err.startswith("wait: no connection to RabbitMQ: ")
    assert "what came since is not known here. The request goes on by itself;" in err


def test_watch_leaves_no_queue_behind(cli: Cli, rabbit: RabbitNode, broker_url: str) -> None:
    def queues() -> list[str]:
        return rabbit.ctl("list_queues", "-p", amqp.vhost(broker_url), "name", "--no-table-headers").split()

    process = cli.start(*ISSUE, "--wait")
    assert process.stdout is not None
    assert b"sent" in process.stdout.readline()
    assert any(name.startswith("ssl.watch.") for name in queues())
    process.kill()
    finish(process)
    until(lambda: not any(name.startswith("ssl.watch.") for name in queues()), seconds=30, what="no queue")
