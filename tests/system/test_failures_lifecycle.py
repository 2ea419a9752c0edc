"""How waiting goes on and ends: the schedule, the day that people have, new commands, and proof at the CA's staging."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from db import clock
from db.pool import now as database_now
from deploy.lab import server_files
from deploy.lab.ca_limits import LETS_ENCRYPT, CaLimits, LimitName
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.support.failures import (
    MINUTE,
    Case,
    Servers,
    all_roles,
    borrowed_servers,
    ca_clock_put_back,
    letters_about,
    wait_for_certbot,
)
from tests.support.installation import DemoSite, Event, Installation, installed, new_site, orders_of
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)

SECONDS = 90.0
SCHEDULE_MINUTES = (1, 5, 15, 60, 60)


@pytest.fixture(scope="module")
def certpilot(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode, logs: Path) -> Iterator[Installation]:
    with (
        installed(lab, postgres, rabbit, template=TEMPLATE) as made,
        ca_clock_put_back(lab),
        all_roles(made, logs / "roles.log"),
    ):
        yield made


@pytest.fixture(scope="module")
def servers(lab: Lab) -> Iterator[Servers]:
    with borrowed_servers(lab) as made:
        yield made


def waits(certpilot: Installation, site: DemoSite) -> list[Event]:
    return [event for event in certpilot.feed(site) if event.step == "waiting"]


def wait_for_wait(certpilot: Installation, site: DemoSite, number: int) -> Event:
    """The job's wait of that number, from 1."""
    return until(
        lambda: (found := waits(certpilot, site)) and len(found) >= number and found[number - 1],
        seconds=SECONDS, what=f"wait {number}",
    )  # fmt: skip


def move_to(certpilot: Installation, instant: datetime) -> None:
    by = instant - database_now(certpilot.conn)
    clock.move_ahead(certpilot.conn, max(by, timedelta(0)) + timedelta(seconds=1))


def retry_at(certpilot: Installation, *sites: DemoSite) -> datetime:
    return max(certpilot.view(site)["retry_at"] for site in sites)


def staging_orders(lab: Lab, site: DemoSite) -> int:
    return len([seen for seen in lab.ca.staging.orders() if set(seen.names) & set(site.names)])


def certificate_expired(certpilot: Installation, site: DemoSite) -> None:
    """The lineage is gone from the server and its time is over: a lab does not wait 90 days."""
    root = f"/var/www/{site.domain}"
    site.server.add_site(
        site.domain, vhost=server_files.site((site.domain,), root, ipv6=site.server.has_ipv6)
    )
    site.server.run(["certbot", "delete", "-n", "--cert-name", site.domain])
    certpilot.conn.execute(
        "update site set ssl_expiry = clock_timestamp() - interval '1 s' where site_id = %s", (site.site_id,)
    )
    certpilot.wait_for_event(site, "expired")


@pytest.fixture(scope="module")
def ended(lab: Lab, certpilot: Installation, servers: Servers) -> dict[str, tuple[DemoSite, list[timedelta]]]:
    """Three jobs that nobody mends, seen to their end: what each site is, and how long each of its waits was."""
    owner, had_one, admin = (
        new_site(lab),
        new_site(lab, server=servers.fresh()),
        new_site(lab, server=servers.fresh()),
    )
    certpilot.issue(had_one)
    certpilot.wait_until_active(had_one)
    certificate_expired(certpilot, had_one)
    for site in (owner, had_one):
        lab.dns.clear(site.domain)
    admin.server.write("/etc/nginx/conf.d/broken.conf", "servr {}\n")
    sites = {"owner": owner, "had one": had_one, "admin": admin}
    certpilot.issue_all(*sites.values())
    lengths: dict[str, list[timedelta]] = {name: [] for name in sites}
    for number in range(1, len(SCHEDULE_MINUTES) + 1):
        for name, site in sites.items():
            wait_for_wait(certpilot, site, number)
            view = certpilot.view(site)
            lengths[name].append(view["retry_at"] - view["updated_at"])
        move_to(certpilot, retry_at(certpilot, *sites.values()))
    for site in sites.values():
        wait_for_wait(certpilot, site, len(SCHEDULE_MINUTES) + 1)
    clock.move_ahead(certpilot.conn, timedelta(hours=24))
    for site in sites.values():
        certpilot.wait_for_event(site, "failed", seconds=SECONDS)
        certpilot.settled_feed(site)
    return {name: (site, lengths[name]) for name, site in sites.items()}


@pytest.mark.parametrize("whose", ["owner", "had one", "admin"])
def test_each_wait_is_as_long_as_the_schedule_says(
    ended: dict[str, tuple[DemoSite, list[timedelta]]], whose: str
) -> None:
    _, lengths = ended[whose]
    for length, minutes in zip(lengths, SCHEDULE_MINUTES, strict=True):
        assert abs(length - minutes * MINUTE) < timedelta(seconds=3), lengths


ENDS = {
    "owner": ("none", "failed", "DNS_NOT_RESOLVING"),
    "had one": ("expired", "failed", "DNS_NOT_RESOLVING"),
    "admin": ("none", "dead", "NGINX_CONFIG_BROKEN"),
}


@pytest.mark.parametrize("whose", ENDS)
def test_cause_that_lasts_a_day_ends_the_job_and_the_status_is_what_is_true_again(
    certpilot: Installation, ended: dict[str, tuple[DemoSite, list[timedelta]]], whose: str
) -> None:
    status, state, code = ENDS[whose]
    site, _ = ended[whose]
    feed, view = certpilot.feed(site), certpilot.view(site)
    assert (view["ssl_status"], view["job_state"], view["error_code"]) == (status, state, code)
    assert (view["retry_at"], view["attempt"]) == (None, 0)
    error = feed[-1].detail["error"]
    assert (feed[-1].kind, feed[-1].status, error["code"]) == ("ssl.status.changed", status, code)
    assert (error["fix"], error["retryAt"]) == (CATALOGUE[Code(code)].fix, None)
    of_job = [event for event in feed if event.detail["jobId"] == str(view["job_id"])]
    changes = [event.status for event in of_job if event.kind == "ssl.status.changed"]
    assert changes == ["pending", status]


def test_only_what_an_admin_must_mend_leaves_a_letter(
    certpilot: Installation, ended: dict[str, tuple[DemoSite, list[timedelta]]]
) -> None:
    letters = {
        whose: [letter.code for letter in letters_about(certpilot, certpilot.view(site)["job_id"])]
        for whose, (site, _) in ended.items()
    }
    assert letters == {"owner": [], "had one": [], "admin": ["NGINX_CONFIG_BROKEN"]}


def test_looking_again_for_a_day_cost_no_order(
    lab: Lab, ended: dict[str, tuple[DemoSite, list[timedelta]]]
) -> None:
    orders = {whose: len(orders_of(lab, site)) for whose, (site, _) in ended.items()}
    assert orders == {"owner": 0, "had one": 1, "admin": 0}
    assert all(staging_orders(lab, site) == 0 for site, _ in ended.values())


# --- a new command for a job that waits -----------------------------------------------------------------------------


def test_command_for_a_job_that_waits_on_the_owner_makes_it_check_now(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab, point=False)
    first = certpilot.issue(site)
    waiting = wait_for_wait(certpilot, site, 1)
    lab.point(site.domain)
    second = certpilot.issue(site)
    certpilot.wait_until_active(site)
    events = certpilot.settled_feed(site)
    joined = next(event for event in events if event.detail["commandId"] == second)
    assert (joined.step, joined.detail["jobId"]) == ("queued", waiting.detail["jobId"])
    assert {event.detail["jobId"] for event in events} == {waiting.detail["jobId"]}
    assert {event.detail["commandId"] for event in events} == {first, second}
    assert [event.status for event in events if event.kind == "ssl.status.changed"] == ["pending", "active"]
    assert len(orders_of(lab, site)) == 1


def test_command_for_a_job_that_waits_on_a_limit_is_refused_with_its_time(
    lab: Lab, certpilot: Installation
) -> None:
    site, ca = new_site(lab), lab.ca.production
    before = ca.limits
    week = LETS_ENCRYPT[LimitName.CERTIFICATES_PER_SET]
    ca.limits = CaLimits({LimitName.CERTIFICATES_PER_SET: week}, before.registered_domain)
    try:
        for _ in range(week.burst):
            ca.limits.issued([site.domain], ca.now())
        certpilot.issue(site)
        waiting = wait_for_wait(certpilot, site, 1)
        second = certpilot.issue(site)
        refused = certpilot.wait_for_event(
            site, "ssl.request.rejected", after=waiting.sequence, seconds=SECONDS
        )
    finally:
        ca.limits = before
    assert (refused.code, refused.detail["commandId"]) == ("ALREADY_PENDING", second)
    assert refused.detail["error"]["retryAt"] == waiting.detail["retryAt"]
    view = certpilot.view(site)
    assert (view["ssl_status"], view["job_state"]) == ("pending", "waiting")
    assert datetime.fromisoformat(waiting.detail["retryAt"]) == view["retry_at"]


# --- proof at the staging CA -----------------------------------------------------------------------------------------


def test_after_a_failed_validation_production_sees_no_order_until_one_has_passed_at_the_staging_ca(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab)
    lab.dns.show_to(lab.network.authority, site.domain, lab.servers[1].host)
    certpilot.issue(site)
    wait_for_wait(certpilot, site, 1)
    assert (len(orders_of(lab, site)), staging_orders(lab, site)) == (1, 0)
    move_to(certpilot, retry_at(certpilot, site))
    second = wait_for_wait(certpilot, site, 2)
    assert second.code == "CHALLENGE_FAILED"
    assert (len(orders_of(lab, site)), staging_orders(lab, site)) == (1, 1)
    lab.dns.show_to(lab.network.authority, site.domain)
    move_to(certpilot, retry_at(certpilot, site))
    certpilot.wait_until_active(site)
    assert (len(orders_of(lab, site)), staging_orders(lab, site)) == (2, 2)
    assert certpilot.view(site)["attempt"] == 4


# --- a server that goes away in the midst ----------------------------------------------------------------------------


def test_server_out_of_reach_keeps_its_attempt_open_and_a_power_cut_meanwhile_is_told_as_what_it_was(
    lab: Lab, certpilot: Installation, servers: Servers
) -> None:
    site = new_site(lab, server=servers.fresh())
    lab.ca.production.latency_of[site.server.host] = 2.0
    try:
        certpilot.issue(site)
        wait_for_certbot(Case(lab, certpilot, site))
        site.server.block(22, how="reject")
        assert wait_for_wait(certpilot, site, 1).code == "SERVER_UNREACHABLE"
        assert certpilot.conn.execute(
            "select attempt, attempt_open from job where site_id = %s", (site.site_id,)
        ).fetchone() == (1, True)
        assert site.server.cell.processes("certbot")
        site.server.reboot()
    finally:
        lab.ca.production.latency_of.pop(site.server.host)
    site.server.unblock(22)
    move_to(certpilot, retry_at(certpilot, site))
    interrupted = wait_for_wait(certpilot, site, 2)
    assert interrupted.code == "INTERRUPTED"
    assert "rebooted" in interrupted.detail["error"]["message"]
    move_to(certpilot, retry_at(certpilot, site))
    certpilot.wait_until_active(site)
    assert certpilot.view(site)["attempt"] == 2
    assert len(orders_of(lab, site)) <= 2
