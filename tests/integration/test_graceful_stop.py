"""SIGTERM under the rules of service managers: in time whatever hangs, and with the limits that we ship in order."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from contracts.topology import QUEUES
from deploy.lab.tcp_proxy import TcpProxy
from tests.support.amqp import channel
from tests.support.installation import CERTPILOT
from tests.support.waiting import until
from workers.edges.amqp.broker import ensure_topology
from workers.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
STOP_SECONDS = 4
GRACE_SECONDS = 10
"""Between the roles' own limit and the manager's KILL, on a busy machine."""


def test_each_service_manager_waits_longer_than_a_role_may_take() -> None:
    limit = Settings.model_fields["stop_seconds"].default
    unit = (DEPLOY / "systemd" / "certpilot@.service").read_text()
    compose = (DEPLOY / "compose.yaml").read_text()
    kubernetes = (DEPLOY / "README.md").read_text()
    found: list[Any] = [
        re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE),
        re.search(r"^ +stop_grace_period: (\d+)s$", compose, re.MULTILINE),
        re.search(r"terminationGracePeriodSeconds: (\d+)", kubernetes),
    ]
    assert all(found)
    assert min(int(match[1]) for match in found) >= limit + 5
    # The main process alone is told, and everything it left behind is killed with it.
    assert re.search("^KillMode=mixed$", unit, re.MULTILINE)
    assert re.search("^KillSignal=SIGTERM$", unit, re.MULTILINE)


@pytest.fixture
def urls(database_url: str, broker_url: str) -> tuple[str, str]:
    return database_url, broker_url


@pytest.mark.parametrize("silent", [(), ("broker",), ("database",), ("broker", "database")])
def test_all_roles_stop_in_time_although_a_part_has_gone_silent(
    silent: tuple[str, ...], urls: tuple[str, str], tmp_path: Path
) -> None:
    """Connections stay open and nothing is answered: what a manager kills then would have to be found by others."""
    database_url, broker_url = urls
    ensure_topology(broker_url, name="test")
    targets = [("127.0.0.1", urlsplit(url).port or 0) for url in urls]
    with TcpProxy(targets[0]) as database, TcpProxy(targets[1]) as broker:
        environment = {
            **os.environ,
            "CERTPILOT_RABBITMQ_URL": broker_url.replace(f":{targets[1][1]}/", f":{broker.port}/"),
            "CERTPILOT_DATABASE_URL": database_url.replace(f":{targets[0][1]}/", f":{database.port}/"),
            "CERTPILOT_STOP_SECONDS": str(STOP_SECONDS),
        }
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [CERTPILOT, "run", "all"], env=environment, stdout=output, stderr=output
            )
        try:
            until(lambda: all_roles_consume(broker_url), seconds=30, what="all roles")
            for name, proxy in (("broker", broker), ("database", database)):
                if name in silent:
                    proxy.black_hole()
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_SECONDS + GRACE_SECONDS)
            assert time.monotonic() - began < STOP_SECONDS + GRACE_SECONDS
            assert code == 0 or silent, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()
            process.wait()


def all_roles_consume(url: str) -> bool:
    with channel(url) as opened:
        return all(opened.queue_declare(queue, passive=True).method.consumer_count for queue in QUEUES)
