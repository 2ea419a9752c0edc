"""`certpilot doctor` on a real broker and database: well, and with one thing wrong at a time."""

import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
import pytest

from db import leases
from db.pool import Connection
from tests.support import amqp
from tests.support.cli import Cli, add_job, without_ansi
from tests.support.loopback import make_key
from tests.support.roles import running
from tests.support.waiting import until
from workers.cli.doctor_services import without_password
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.consumer import consume
from workers.settings import Settings

NAMES = [
    "python", "packages", "suffix list", "settings", "ssh key", "known hosts", "broker", "topology", "ssl.commands",
    "ssl.jobs", "ssl.activity", "letters", "database", "clocks", "migrations", "reader role", "relay", "outbox", "scheduler",
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the operator's key and known_hosts lie as they should."""
    make_key(tmp_path / "key")
    (tmp_path / "known_hosts").write_text("# a comment\n203.0.113.7 ssh-ed25519 AAAA\n")
    return tmp_path


@pytest.fixture
def cli(database_url: str, broker_url: str, home: Path) -> Cli:
    return Cli(
        CERTPILOT_DATABASE_URL=database_url,
        CERTPILOT_RABBITMQ_URL=broker_url,
        CERTPILOT_SSH_PRIVATE_KEY_FILE=str(home / "key"),
        CERTPILOT_SSH_KNOWN_HOSTS_FILE=str(home / "known_hosts"),
    )


def checks(cli: Cli, **environment: str) -> dict[str, dict[str, Any]]:
    """Every check by its name; the exit code is right for them."""
    done = cli("doctor", "--json", **environment)
    rows = done.json
    assert all(list(row) == ["name", "state", "found", "fix", "code"] for row in rows)
    assert done.code == (1 if any(row["state"] == "failed" for row in rows) else 0)
    assert done.err == ""
    assert all(row["fix"] for row in rows if row["state"] == "failed")
    return {row["name"]: row for row in rows}


@pytest.fixture
def everything_runs(database_url: str, broker_url: str) -> Iterator[None]:
    """Intake, relay and activity run; a plain consumer stands in for the runner, which needs no server here."""
    ensure_topology(broker_url, name="test")
    stop = threading.Event()
    runner = threading.Thread(
        target=consume, args=(broker_url, "ssl.jobs", lambda _batch: None),
        kwargs={"prefetch": 1, "max_batch": 1, "stop": stop, "name": "test"},
    )  # fmt: skip
    runner.start()
    with running(Settings(database_url=database_url, rabbitmq_url=broker_url), "intake", "relay", "activity"):
        until(lambda: consumers(broker_url) == [1, 1, 1], what="the consumers")
        yield
    stop.set()
    runner.join()


def consumers(url: str) -> list[int]:
    with amqp.channel(url) as channel:
        queues = ("ssl.commands", "ssl.jobs", "ssl.activity")
        return [channel.queue_declare(queue, passive=True).method.consumer_count for queue in queues]


@pytest.mark.usefixtures("everything_runs")
def test_everything_well_is_one_ok_line_each_and_exit_code_0(cli: Cli, conn: Connection, home: Path) -> None:
    until(lambda: conn.execute("select 1 from lease where key = 'role:relay'").fetchone(), what="a leader")
    found = checks(cli)
    assert list(found) == NAMES
    assert {row["state"] for row in found.values()} == {"ok"}, found
    assert re.fullmatch(
        r"RabbitMQ \d+\.\d+\.\d+.* at amqp://guest:\*\*\*@127.0.0.1:\d+/test-.*", found["broker"]["found"]
    )
    assert re.fullmatch(r"PostgreSQL \d+\.\d+.* at postgresql://.*", found["database"]["found"])
    assert found["python"]["found"] == f"{sys.version.split()[0]} in {sys.prefix}"
    root = Path(__file__).parents[2]
    assert found["packages"]["found"] == ", ".join(
        str(root / name) for name in ("contracts", "db", "workers")
    )
    assert re.fullmatch(r"Public Suffix List of \d+ \w+ \d{4}", found["suffix list"]["found"])
    assert found["ssh key"]["found"].startswith(f"{home}/key, ssh-ed25519 SHA256:")
    assert found["known hosts"]["found"] == f"{home}/known_hosts, 1 key"
    assert found["ssl.commands"]["found"] == "1 consumer, 0 messages waiting"
    done = cli("doctor")
    assert done.code == 0
    assert [line[8:20].strip() for line in done.lines] == NAMES
    assert {line.split()[0] for line in done.lines} == {"ok"}
    assert max(map(len, without_ansi(cli.on_terminal("doctor").out))) <= 80


def test_nothing_running_is_told_role_by_role(cli: Cli) -> None:
    found = checks(cli)
    failed = {name: row["fix"] for name, row in found.items() if row["state"] == "failed"}
    assert failed == {
        "ssl.commands": "start `certpilot run intake`",
        "ssl.jobs": "start `certpilot run runner`",
        "ssl.activity": "start `certpilot run activity`",
        "relay": "start `certpilot run relay`",
    }
    done = cli("doctor")
    assert done.code == 1
    [line] = [line for line in done.lines if "ssl.jobs" in line]
    assert line == "failed  ssl.jobs      0 consumers, 0 messages waiting To do: start `certpilot run runner`"


def test_services_that_are_down_cost_their_checks_only(cli: Cli) -> None:
    found = checks(
        cli,
        CERTPILOT_RABBITMQ_URL="amqp://me:geheim@127.0.0.1:1/",
        CERTPILOT_DATABASE_URL="postgresql://me:geheim@127.0.0.1:1/x",
    )
    assert list(found) == [*NAMES[:7], "database"]
    assert [name for name, row in found.items() if row["state"] == "failed"] == ["broker", "database"]
    assert "geheim" not in str(found)
    assert "amqp://me:***@127.0.0.1:1/" in found["broker"]["found"]


def test_wrong_setting_is_a_failed_check_and_ends_there(cli: Cli) -> None:
    found = checks(cli, CERTPILOT_DATABASE_URL="mysql://x", CERTPILOT_LOG_FORMAT="xml")
    assert list(found) == NAMES[:4]
    done = cli("doctor", CERTPILOT_DATABASE_URL="mysql://x", CERTPILOT_LOG_FORMAT="xml")
    assert done.code == 1
    assert done.out.count("CERTPILOT_") == 2


def test_unknown_setting_is_a_note(cli: Cli) -> None:
    row = checks(cli, CERTPILOT_DATABASEURL="x")["settings"]
    assert (row["state"], row["found"]) == ("note", "no such setting: CERTPILOT_DATABASEURL")


@pytest.mark.parametrize(
    ("make", "found", "fix"),
    [
        (lambda path: path.unlink(), "No such file or directory", "make one with `ssh-keygen"),
        (lambda path: path.chmod(0o640), "has mode 0640: others may use it", "chmod 600"),
        (lambda path: path.chmod(0o604), "has mode 0604: others may use it", "chmod 600"),
        (lambda path: path.write_text("no key\n"), "it is no private key that SSH can use", "make one with"),
        (
            lambda path: os.system(f"ssh-keygen -q -p -N secret -f {path} >/dev/null"), "it needs a passphrase",
            "make one with `ssh-keygen -t ed25519 -N ''",
        ),
    ],
)  # fmt: skip
def test_private_key_that_cannot_be_used_or_is_not_private(
    cli: Cli, home: Path, make: Any, found: str, fix: str
) -> None:
    make(home / "key")
    row = checks(cli)["ssh key"]
    assert row["state"] == "failed"
    assert f"{home}/key" in row["found"]
    assert found in row["found"]
    assert fix in row["fix"]


def test_every_private_key_is_looked_at(cli: Cli, home: Path) -> None:
    done = cli("doctor", "--json", CERTPILOT_SSH_PRIVATE_KEY_FILE=f"{home}/key:{home}/missing")
    keys = [row for row in done.json if row["name"] == "ssh key"]
    assert [row["state"] for row in keys] == ["ok", "failed"]


def test_known_hosts_that_others_can_write_fail_and_missing_ones_are_a_note(cli: Cli, home: Path) -> None:
    (home / "known_hosts").chmod(0o666)
    row = checks(cli)["known hosts"]
    assert (row["state"], row["fix"]) == ("failed", f"chmod 644 {home}/known_hosts")
    (home / "known_hosts").unlink()
    assert checks(cli)["known hosts"]["state"] == "note"
    assert checks(cli, CERTPILOT_SSH_KNOWN_HOSTS_FILE="")["known hosts"]["state"] == "note"


def test_queue_declared_otherwise_is_told_with_what_to_do(cli: Cli, broker_url: str) -> None:
    with amqp.channel(broker_url) as channel:
        channel.queue_declare("ssl.jobs", durable=True)
    row = checks(cli)["topology"]
    assert row["state"] == "failed"
    assert "The queue ssl.jobs exists already and is not what certpilot needs" in row["fix"]


def test_dead_letters_are_a_note(cli: Cli, broker_url: str) -> None:
    ensure_topology(broker_url, name="test")
    amqp.put(broker_url, "ssl.jobs.dlq", b"{}", properties=pika.BasicProperties())
    row = checks(cli)["letters"]
    assert (row["state"], row["found"]) == ("note", "1 in ssl.jobs.dlq")


@pytest.mark.parametrize(
    ("statements", "name", "found", "fix"),
    [
        (["delete from schema_migration where name like '0003%'"], "migrations", "missing: 0003", "certpilot migrate"),
        (["update schema_migration set checksum = 'x'"], "migrations", "was edited after it", "run the version"),
        (["insert into schema_migration values ('9999_new.sql', 'x')"], "migrations", "9999_new.sql", "run the version"),
        (["grant select on job to certpilot_reader"], "reader role", "more than the views: job", "revoke all on job"),
        (["revoke select on site_ssl from certpilot_reader"], "reader role", "may not read site_ssl", "grant select on site_ssl"),
        (["update clock set ahead_by = '90 min'"], "moved clock", "1:30:00 ahead", "update clock"),
        (["update outbox set created_at = now() - interval '5 min'"], "outbox", "1 message behind, the oldest 5 min", "relay"),
        (
            ["update job set state = 'waiting', run_at = certpilot_now() - interval '1 h'"], "scheduler",
            "1 job overdue by up to 60 min", "certpilot run scheduler",
        ),
    ],
)  # fmt: skip
def test_database_with_one_thing_wrong(  # noqa: PLR0917  # a row of the table
    cli: Cli, conn: Connection, statements: list[str], name: str, found: str, fix: str
) -> None:
    add_job(conn, "site_1")
    conn.execute(
        "insert into outbox (lane, exchange, routing_key, message_id, content_type, body)"
        " values ('job', '', 'ssl.jobs', 'x', 'x', '')"
    )
    for statement in statements:
        conn.execute(statement)
    row = checks(cli)[name]
    assert (row["name"], row["state"]) == (name, "failed")
    assert found in row["found"]
    assert fix in row["fix"]


def test_lead_that_ran_out_is_no_leader(cli: Cli, conn: Connection) -> None:
    owner = uuid4()
    leases.lead(conn, "relay", owner, 60)
    assert checks(cli)["relay"]["state"] == "ok"
    leases.step_down(conn, "relay", owner)
    assert checks(cli)["relay"]["state"] == "failed"


def test_pauses_are_notes_with_their_reason(cli: Cli) -> None:
    cli("pause", "--server", "203.0.113.7", "--by", "me", "--reason", "new kernel [/x]")
    row = checks(cli)["paused"]
    assert (row["state"], row["found"]) == ("note", "server 203.0.113.7, by me (new kernel [/x])")
    assert row["fix"] == "`certpilot resume --server 203.0.113.7` when that is over"


def test_foreign_package_of_our_name_is_found(cli: Cli, tmp_path: Path) -> None:
    """PyPI has distributions called contracts, db and workers; one in site-packages would be imported in our place."""
    info = tmp_path / "site" / "contracts-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: contracts\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("contracts\n")
    row = checks(cli, PYTHONPATH=str(tmp_path / "site"))["packages"]
    assert (row["state"], row["fix"]) == ("failed", "uninstall contracts: it has a package of the same name")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://guest:secret@host:5672/%2F", "amqp://guest:***@host:5672/%2F"),
        ("amqp://a:s1@h1,amqp://b:s2@h2", "amqp://a:***@h1,amqp://b:***@h2"),
        ("amqps://a:p@ss:word@host/", "amqps://a:***@host/"),
        (
            "postgresql://me@host/db?password=secret&sslmode=require",
            "postgresql://me@host/db?password=***&sslmode=require",
        ),
        ("postgresql:///certpilot", "postgresql:///certpilot"),
    ],
)
def test_password_is_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
