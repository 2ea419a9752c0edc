"""The CA's limits through the whole path: a real certbot, a CA that enforces them, and a ledger that asks only in turn."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from db.pool import now as database_now
from deploy.lab.ca_limits import CaLimits, Figure, LimitName, as_setting
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.support.failures import all_roles, ca_clock_put_back, move_to
from tests.support.installation import (
    DemoSite,
    Event,
    Installation,
    certbot_by_hand,
    installed,
    new_site,
    orders_of,
)
from tests.support.waiting import until

SITES = 4
BURST = 2
PERIOD = timedelta(hours=1)
FIGURES = {LimitName.ORDERS_PER_ACCOUNT: Figure(BURST, int(PERIOD.total_seconds()))}


@pytest.fixture
def limited(
    lab: Lab, postgres: PostgresServer, rabbit: RabbitNode, logs: Path, tmp_path: Path
) -> Iterator[Installation]:
    """A CA with a small limit, and a certpilot that knows its figures."""
    ca = lab.ca.production
    before = ca.limits
    figures = tmp_path / "limits.json"
    figures.write_text(as_setting(lab.ca.directory_url, FIGURES))
    with (
        installed(lab, postgres, rabbit, template=TEMPLATE) as certpilot,
        ca_clock_put_back(lab),
        all_roles(certpilot, logs / "limits.log", CERTPILOT_CA_LIMITS_FILE=str(figures)),
    ):
        ca.limits = CaLimits(FIGURES, before.registered_domain)
        try:
            yield certpilot
        finally:
            ca.limits = before


def state(certpilot: Installation, site: DemoSite) -> str | None:
    view = certpilot.view(site)
    return "active" if view.get("ssl_status") == "active" else view.get("error_code")


def settled(certpilot: Installation, sites: list[DemoSite]) -> list[str | None]:
    """What each has come to: active, or what it waits for."""
    return until(
        lambda: (states := [state(certpilot, site) for site in sites]) and all(states) and states,
        what="an end or a wait for each",
        seconds=90,
    )


def waits(certpilot: Installation, site: DemoSite) -> list[Event]:
    return [
        event for event in certpilot.feed(site) if event.step == "waiting" and event.code != "SERVER_BUSY"
    ]


def test_burst_over_the_accounts_limit_drains_in_turn_without_one_refusal(
    lab: Lab, limited: Installation
) -> None:
    sites = [new_site(lab) for _ in range(SITES)]
    refused_before = len(lab.ca.production.refusals())
    limited.issue_all(*sites)
    first = settled(limited, sites)
    assert sorted(map(str, first)) == ["TOO_MANY_REQUESTS"] * (SITES - BURST) + ["active"] * BURST
    waiting = [site for site, found in zip(sites, first, strict=True) if found != "active"]
    for site in waiting:
        view = limited.view(site)
        assert (view["ssl_status"], view["job_state"], view["attempt"]) == ("pending", "waiting", 0)
        assert view["retry_at"] is not None
    # A token comes back each half hour; each of those that wait has its own.
    turns = sorted(limited.view(site)["retry_at"] for site in waiting)
    assert timedelta(minutes=29) < turns[1] - turns[0] < timedelta(minutes=33)
    for turn in turns:
        move_to(lab, limited, turn)
        due = next(site for site in waiting if limited.view(site)["retry_at"] == turn)
        limited.wait_until_active(due)
    assert len(lab.ca.production.refusals()) == refused_before
    assert [len(orders_of(lab, site)) for site in sites] == [1] * SITES


def test_limit_that_another_client_has_used_up_is_learnt_from_the_cas_refusal_and_waited_for(
    lab: Lab, limited: Installation
) -> None:
    """The first refusal teaches the ledger; the second site is told to wait without asking the CA."""
    for _ in range(BURST):
        by_hand = new_site(lab)
        certbot_by_hand(lab, by_hand.server, "certonly", "--nginx", "-d", by_hand.domain)
    first, second = new_site(lab), new_site(lab)
    limited.issue(first)
    told = limited.wait_until_waiting(first, "TOO_MANY_REQUESTS")
    [refusal] = [seen for seen in lab.ca.production.refusals() if first.domain in seen.names]
    assert refusal.status == 429
    view = limited.view(first)
    left = view["retry_at"] - database_now(limited.conn)
    assert timedelta(minutes=20) < left < timedelta(minutes=32)
    assert told.detail["retryAt"] is not None
    limited.issue(second)
    limited.wait_until_waiting(second, "TOO_MANY_REQUESTS")
    assert orders_of(lab, second) == []
    assert not [seen for seen in lab.ca.production.refusals() if second.domain in seen.names]
    for site in (first, second):
        move_to(lab, limited, limited.view(site)["retry_at"])
        limited.wait_until_active(site)
