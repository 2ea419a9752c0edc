"""`certpilot server check` against customer servers of the lab: real sshd, sudo, nginx and certbot."""

from typing import Any

import pytest

from db.pool import Connection
from deploy.lab.lab import Lab
from tests.support.cli import Cli, add_job, without_ansi
from tests.support.loopback import make_key
from workers.core.model import Server

NAMES = [
    "ssh", "script", "permission", "certbot", "certbot plugin", "certbot lock", "nginx", "nginx configuration", "disk",
    "memory", "clock", "renewal", "port 80", "port 443",
]  # fmt: skip


@pytest.fixture
def cli(lab: Lab, database_url: str, broker_url: str) -> Cli:
    return Cli(**lab.settings(database_url=database_url, rabbitmq_url=broker_url))


def checks(cli: Cli, *args: str, **environment: str) -> dict[str, dict[str, Any]]:
    done = cli("server", "check", *args, "--json", **environment)
    rows = done.json
    assert all(list(row) == ["name", "state", "found", "fix", "code"] for row in rows)
    assert done.code == (1 if any(row["state"] == "failed" for row in rows) else 0)
    assert done.err == ""
    return {row["name"]: row for row in rows}


def test_server_that_can_issue_passes_every_check(cli: Cli, lab: Lab) -> None:
    found = checks(cli, lab.server.host)
    assert list(found) == NAMES
    assert {name: row for name, row in found.items() if row["state"] == "failed"} == {}
    assert found["ssh"]["found"].startswith(
        f"root@{lab.server.host}:22 lets our key in and shows its host key in "
    )
    assert found["certbot"]["found"].startswith("certbot ")
    assert found["port 80"]["found"] == "It can be reached from here, on the server nginx."
    done = cli("server", "check", lab.server.host)
    assert (done.code, [line[8:27].strip() for line in done.lines]) == (0, NAMES)
    assert max(map(len, without_ansi(cli.on_terminal("server", "check", lab.server.host).out))) <= 80


def test_user_with_the_sudo_rule_passes_and_one_without_is_told(cli: Cli, lab: Lab) -> None:
    lab.install_agent(lab.servers[1])
    found = checks(cli, f"certpilot@{lab.servers[1].host}")
    assert found["permission"]["found"] == "The script runs as root."
    assert found["ssh"]["found"].startswith("certpilot@")
    missing = checks(cli, f"nobody@{lab.servers[1].host}:22")
    assert list(missing) == ["ssh"]
    assert (missing["ssh"]["state"], missing["ssh"]["code"]) == ("failed", "SSH_AUTH_FAILED")


def test_host_alone_is_reached_as_its_newest_command_says(
    cli: Cli, lab: Lab, conn: Connection, tmp_path: Any
) -> None:
    host = lab.servers[1].host
    wrong = make_key(tmp_path / "wrong")
    add_job(conn, "site_1", server=Server(host, 22, "root", wrong))
    row = checks(cli, host)["ssh"]
    assert (row["state"], row["code"]) == ("failed", "HOST_KEY_MISMATCH")
    assert "the request's hostKey" in row["found"]
    assert checks(cli, host, "--host-key", lab.servers[1].host_key)["ssh"]["state"] == "ok"
    assert checks(cli, f"root@{host}")["ssh"]["state"] == "ok"
    assert checks(cli, host, CERTPILOT_DATABASE_URL="postgresql://127.0.0.1:1/x")["ssh"]["state"] == "ok"


def test_what_is_wrong_on_the_server_is_named_with_what_to_do(cli: Cli, lab: Lab) -> None:
    server = lab.servers[1]
    server.write("/etc/nginx/conf.d/broken.conf", "server { listen 80; nonsense on; }\n")
    server.block(80)
    try:
        found = checks(cli, server.host)
    finally:
        server.run(["rm", "/etc/nginx/conf.d/broken.conf"])
        server.unblock(80)
    failed = {name: row["code"] for name, row in found.items() if row["state"] == "failed"}
    assert failed == {"nginx configuration": "NGINX_CONFIG_BROKEN", "port 80": "PORT_80_BLOCKED"}
    assert 'unknown directive "nonsense"' in found["nginx configuration"]["found"]
    assert found["port 80"]["fix"].startswith("Open port 80 for everyone")


@pytest.mark.parametrize("host", ["a b", "host:ssh", "host:0", "host:65536", "@host", "a/b"])
def test_wrong_host_is_a_usage_error(cli: Cli, host: str) -> None:
    done = cli("server", "check", host)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("server: ")


def test_server_that_is_off_is_one_failed_line(cli: Cli) -> None:
    done = cli("server", "check", "root@127.0.0.1:1")
    assert done.code == 1
    assert done.out.startswith("failed  ssh                  127.0.0.1:1 refused the connection")
    assert len(done.lines) == 1
