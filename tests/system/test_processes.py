"""Runners as processes: killed, stopped, stalled; and the ordinary ways to start one."""

import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import psycopg
import pytest

from deploy.lab.lab import Lab
from tests.support.cli import Cli
from tests.support.installation import (
    CERTPILOT,
    ISSUE_SECONDS,
    DemoSite,
    Installation,
    new_site,
    orders_of,
)
from tests.support.roles import running
from tests.support.waiting import until

DRAMATIQ = str(Path(CERTPILOT).with_name("dramatiq"))
SLOW_CA_SECONDS = 0.4
"""Before each of the CA's dozen answers: certbot is at work long enough for something to happen to its runner."""


@pytest.fixture
def served_by_processes(installation: Installation) -> Iterator[Installation]:
    """Every role but the runner in this process; the CA is slow."""
    ca = installation.lab.ca.production
    with running(installation.settings(), "intake", "relay", "activity", "scheduler"):
        ca.latency_seconds = SLOW_CA_SECONDS
        try:
            yield installation
        finally:
            ca.latency_seconds = 0.0


def runner(certpilot: Installation, tmp_path: Path, name: str) -> AbstractContextManager["Popen[bytes]"]:
    return certpilot.process(CERTPILOT, "run", "runner", log=tmp_path / f"{name}.log")


def begin(lab: Lab, certpilot: Installation) -> DemoSite:
    """A site whose certbot is at work."""
    site = new_site(lab)
    certpilot.issue(site)
    certpilot.wait_for_event(site, "requesting")
    until(lambda: lab.server.cell.processes("certbot"), what="certbot")
    return site


def check_one_order(lab: Lab, certpilot: Installation, site: DemoSite) -> None:
    """It went on where it stood: one order, one attempt, one end, and no number left out or given twice."""
    assert len(orders_of(lab, site)) == 1
    assert certpilot.view(site)["attempt"] == 1
    events = certpilot.settled_feed(site)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    changes = [event.status for event in events if event.kind == "ssl.status.changed"]
    assert changes == ["pending", "active"]


def test_job_of_a_killed_runner_goes_on_elsewhere_with_the_same_certbot_run(
    lab: Lab, served_by_processes: Installation, tmp_path: Path
) -> None:
    certpilot = served_by_processes
    with runner(certpilot, tmp_path, "killed") as killed:
        site = begin(lab, certpilot)
        with runner(certpilot, tmp_path, "other"):
            killed.kill()
            killed.wait(10)
            certpilot.wait_until_active(site)
            check_one_order(lab, certpilot, site)


def test_runner_hands_its_jobs_back_at_sigterm_and_certbot_goes_on(
    lab: Lab, served_by_processes: Installation, tmp_path: Path
) -> None:
    certpilot = served_by_processes
    with runner(certpilot, tmp_path, "stopped") as stopped:
        site = begin(lab, certpilot)
        stopped.terminate()
        assert stopped.wait(20) == 0
    held = certpilot.conn.execute(
        "select key from lease where expires_at > clock_timestamp() and key not like 'role:%%'"
    ).fetchall()
    assert held == []
    assert certpilot.conn.execute("select state, attempt_open from job").fetchall() == [("running", True)]
    assert lab.server.cell.processes("certbot")
    with runner(certpilot, tmp_path, "other"):
        certpilot.wait_until_active(site)
        check_one_order(lab, certpilot, site)


def test_job_whose_database_session_is_ended_goes_on_in_the_same_claim(
    lab: Lab, served_by_processes: Installation, tmp_path: Path
) -> None:
    """RELOAD and LOOK (PROTOCOL 1): no waiting for leases to run out, and no claim counted as a crash."""
    certpilot = served_by_processes
    blocked = (
        "from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and application_name = 'certpilot-runner'"
    )
    with runner(certpilot, tmp_path, "only"):
        site = begin(lab, certpilot)
        with psycopg.connect(certpilot.database_url) as blocker:
            blocker.execute("select from job for update")
            until(
                lambda: certpilot.conn.execute(f"select pid {blocked}").fetchall(),
                seconds=ISSUE_SECONDS,
                what="the runner to wait for the job's row",
            )
            certpilot.conn.execute(f"select pg_terminate_backend(pid) {blocked}")
        certpilot.wait_until_active(site)
        check_one_order(lab, certpilot, site)
    assert "job.interrupted" in (tmp_path / "only.log").read_text()
    assert [event.step for event in certpilot.feed(site)].count("connecting") == 1


def test_runner_stops_in_time_although_a_server_has_gone_silent(
    lab: Lab, served_by_processes: Installation, tmp_path: Path
) -> None:
    """A look takes up to 45 s to give up; service managers kill after 30 s (Kubernetes) or 90 s (systemd)."""
    certpilot = served_by_processes
    with runner(certpilot, tmp_path, "stopped") as stopped:
        site = begin(lab, certpilot)
        lab.server.block(lab.server.port)
        try:
            time.sleep(2)  # a look is made at least every second: the next one is under way, and hangs
            began = time.monotonic()
            stopped.terminate()
            assert stopped.wait(30) == 0, (tmp_path / "stopped.log").read_text()
            assert time.monotonic() - began < 25
        finally:
            lab.server.unblock()
    held = certpilot.conn.execute(
        "select key from lease where expires_at > clock_timestamp() and key not like 'role:%%'"
    ).fetchall()
    assert held == []
    with runner(certpilot, tmp_path, "other"):
        certpilot.wait_until_active(site)
        check_one_order(lab, certpilot, site)


def test_runner_that_stalled_longer_than_its_lease_changes_nothing(
    lab: Lab, served_by_processes: Installation, tmp_path: Path
) -> None:
    certpilot = served_by_processes
    with runner(certpilot, tmp_path, "stalled") as stalled:
        site = begin(lab, certpilot)
        stalled.send_signal(signal.SIGSTOP)
        # Its lease ends; nobody waits 12 s for that here.
        certpilot.conn.execute("update lease set expires_at = '-infinity' where key not like 'role:%%'")
        with runner(certpilot, tmp_path, "other"):
            certpilot.wait_until_active(site)
            check_one_order(lab, certpilot, site)
            told, fence = certpilot.sequence(site), lab.server.read("/var/lib/certpilot/fence")
            stalled.send_signal(signal.SIGCONT)
            until(
                lambda: "job.lost" in (log := (tmp_path / "stalled.log").read_text()) or "lease.lost" in log,
                what="the stalled runner's giving up",
            )
    assert certpilot.sequence(site) == told
    assert lab.server.read("/var/lib/certpilot/fence") == fence
    check_one_order(lab, certpilot, site)


def test_ordinary_dramatiq_command_works_as_a_runner(
    lab: Lab, installation: Installation, tmp_path: Path
) -> None:
    site = new_site(lab)
    argv = (DRAMATIQ, "workers.wiring:runner", "--processes", "1", "--threads", "2")
    with (
        running(installation.settings(), "intake", "relay", "activity", "scheduler"),
        installation.process(*argv, log=tmp_path / "dramatiq.log") as dramatiq,
    ):
        installation.issue(site)
        installation.wait_until_active(site)
        # In one claim: without poller and heartbeat the job would get there too, taken over from its own runner.
        assert [event.step for event in installation.feed(site)].count("connecting") == 1
        dramatiq.terminate()
        assert dramatiq.wait(30) == 0, (tmp_path / "dramatiq.log").read_text()


def test_issue_wait_ends_0_when_the_site_is_active(lab: Lab, certpilot: Installation) -> None:
    site = new_site(lab)
    server = site.server
    done = Cli(**certpilot.environment())(
        "issue", "--site", site.site_id, "--domain", site.domain, "--server", f"root@{server.host}",
        "--host-key", server.host_key, "--wait", "--timeout", "50",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert certpilot.view(site)["ssl_status"] == "active"
    assert "active" in done.out
