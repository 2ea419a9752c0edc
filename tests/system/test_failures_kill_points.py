"""The runner killed at each of its steps in turn: before and after each commit, SSH command, look-up and handshake."""

import time

from deploy.lab.lab import Lab
from tests.support import kill_points
from tests.support.installation import Installation, new_site, orders_of
from tests.support.roles import running
from tests.support.waiting import until

_SLOW_CA_SECONDS = 0.15
"""Certbot is at work long enough for several runners to die beside it."""


def test_runner_killed_at_each_step_of_a_job_orders_once_and_tells_everything_once(
    lab: Lab, installation: Installation
) -> None:
    site = new_site(lab, aliases=1)
    fields = {
        name.removeprefix("CERTPILOT_").lower(): value
        for name, value in lab.settings(
            database_url=installation.database_url, rabbitmq_url=installation.rabbitmq_url
        ).items()
    }
    deaths = 0
    lab.ca.production.latency_seconds = _SLOW_CA_SECONDS
    try:
        with running(installation.settings(), "intake", "relay", "activity", "scheduler"):
            installation.issue(site)
            deadline = time.monotonic() + 200
            while installation.view(site).get("ssl_status") != "active":
                assert time.monotonic() < deadline, f"{deaths} runners died\n{installation.story(site)}"
                process = kill_points.start("runner", fields, deaths + 1)
                try:
                    until(
                        lambda p=process: (
                            kill_points.died_at_its_step(p)
                            or installation.view(site).get("ssl_status") == "active"
                        ),
                        seconds=60,
                        what="the runner's death or the job's end",
                    )
                finally:
                    kill_points.kill(process)
                deaths += 1
                # Nobody waits here until a lease has run out; and nobody takes these deaths for the job's doing.
                installation.conn.execute(
                    "update lease set expires_at = '-infinity' where key not like 'role:%'"
                )
                installation.conn.execute("update job set crashes = 0, run_at = null where state = 'running'")
            events = installation.settled_feed(site)
    finally:
        lab.ca.production.latency_seconds = 0.0
    assert deaths > 15, "too few steps: the hooks miss what they are for"
    assert len(orders_of(lab, site)) == 1
    assert installation.conn.execute("select state, attempt from job").fetchall() == [("succeeded", 1)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.status for event in events if event.kind == "ssl.status.changed"] == ["pending", "active"]
