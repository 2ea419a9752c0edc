"""Ways to a server: whose host key counts, which user logs in, and what happens while it is off."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from db import clock
from deploy.lab.keys import KeyPair
from deploy.lab.lab import Lab
from tests.support.installation import (
    ROLES,
    Installation,
    names_of,
    new_site,
    orders_of,
    served,
)
from tests.support.roles import running

SOMEBODY_ELSE = KeyPair.generate().public


@pytest.fixture
def known_hosts(tmp_path: Path) -> Path:
    """A known_hosts file of the test's own, empty."""
    path = tmp_path / "known_hosts"
    path.touch()
    return path


@pytest.fixture
def knowing(installation: Installation, known_hosts: Path) -> Iterator[Installation]:
    """A certpilot that goes by that file."""
    with running(installation.settings(ssh_known_hosts_file=known_hosts), *ROLES):
        yield installation


def test_host_key_in_the_command_counts_and_known_hosts_does_not(
    lab: Lab, knowing: Installation, known_hosts: Path
) -> None:
    known_hosts.write_text(f"{lab.server.host} {SOMEBODY_ELSE}\n")
    site = new_site(lab)
    knowing.issue(site)
    knowing.wait_until_active(site)


def test_without_a_host_key_in_the_command_known_hosts_decides(
    lab: Lab, knowing: Installation, known_hosts: Path
) -> None:
    site = new_site(lab)
    knowing.issue(site, server={"host": lab.server.host})
    knowing.wait_until_waiting(site, "HOST_KEY_MISMATCH")
    known_hosts.write_text(lab.server.known_hosts_line())
    told = knowing.sequence(site)
    clock.move_ahead(knowing.conn, timedelta(minutes=2))
    knowing.wait_until_active(site, after=told)


def test_other_key_than_the_commands_is_refused_until_a_command_brings_the_right_one(
    lab: Lab, knowing: Installation, known_hosts: Path
) -> None:
    known_hosts.write_text(lab.server.known_hosts_line())
    site = new_site(lab)
    knowing.issue(site, server={"host": lab.server.host, "hostKey": SOMEBODY_ELSE})
    waiting = knowing.wait_until_waiting(site, "HOST_KEY_MISMATCH")
    assert waiting.detail["retryAt"] is not None
    assert (knowing.view(site)["ssl_status"], knowing.view(site)["job_state"]) == ("pending", "waiting")
    assert orders_of(lab, site) == []
    knowing.issue(site)
    knowing.wait_until_active(site, after=waiting.sequence)


def test_server_that_is_off_is_waited_for_and_the_job_goes_on_by_itself(
    lab: Lab, certpilot: Installation
) -> None:
    server = lab.servers[1]
    site = new_site(lab, server=server)
    server.stop()
    try:
        certpilot.issue(site)
        waiting = certpilot.wait_until_waiting(site, "SERVER_UNREACHABLE")
        view = certpilot.view(site)
        assert (view["ssl_status"], view["job_state"], view["attempt"]) == ("pending", "waiting", 0)
        assert view["error_code"] == "SERVER_UNREACHABLE"
        assert view["retry_at"] is not None
    finally:
        server.start()
    clock.move_ahead(certpilot.conn, timedelta(minutes=2))
    certpilot.wait_until_active(site, after=waiting.sequence)
    assert len(orders_of(lab, site)) == 1


def test_user_with_one_sudo_rule_is_enough(lab: Lab, certpilot: Installation) -> None:
    server = lab.servers[1]
    lab.install_agent(server)
    site = new_site(lab, server=server, aliases=1)
    certpilot.issue(site, server={"host": server.host, "hostKey": server.host_key, "username": "certpilot"})
    certpilot.wait_until_active(site)
    assert names_of(served(lab, server, site.aliases[0])) == set(site.names)
