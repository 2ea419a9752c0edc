"""Renewing, and more names, for a site that is active: it stays active all the while."""

from datetime import timedelta

import pytest

from db import clock
from deploy.lab.lab import Lab
from tests.support.installation import (
    DemoSite,
    Installation,
    names_of,
    new_site,
    orders_of,
    served,
)


@pytest.fixture(scope="module")
def certpilot(certpilot_of_module: Installation) -> Installation:
    return certpilot_of_module


@pytest.fixture(scope="module")
def site(lab: Lab, certpilot: Installation) -> DemoSite:
    """An active site; each test renews it once more."""
    made = new_site(lab, aliases=1)
    certpilot.issue(made)
    certpilot.wait_until_active(made)
    return made


def test_forced_renewal_brings_another_certificate_and_the_site_stays_active(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    before, told = served(lab, site.server, site.domain), certpilot.sequence(site)
    with certpilot.watching(site) as seen:
        certpilot.renew(site, force=True)
        certpilot.wait_until_active(site, after=told)
        events = [event for event in certpilot.settled_feed(site) if event.sequence > told]
    assert {status for status, _, _ in seen} == {"active"}
    assert ("active", "running", 1) in seen
    changes = [event.detail for event in events if event.kind == "ssl.status.changed"]
    assert [(c["previousStatus"], c["sslStatus"], c["error"]) for c in changes] == [
        ("active", "active", None)
    ]
    for name in site.names:
        after = served(lab, site.server, name)
        assert after.serial_number != before.serial_number
        assert names_of(after) == set(site.names)
    assert certpilot.view(site)["ssl_expiry"] == after.not_valid_after_utc


def test_renewal_inside_the_window_needs_no_force_and_orders_once(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    before, told, orders = (
        served(lab, site.server, site.domain),
        certpilot.sequence(site),
        len(orders_of(lab, site)),
    )
    certpilot.renew(site)
    assert certpilot.wait_for_event(site, "ssl.request.rejected", after=told).code == "ALREADY_ACTIVE"
    clock.move_ahead(certpilot.conn, timedelta(days=61))
    certpilot.renew(site)
    certpilot.wait_until_active(site, after=told)
    assert served(lab, site.server, site.domain).serial_number != before.serial_number
    assert len(orders_of(lab, site)) == orders + 1


def test_alias_added_to_an_active_site_is_served_and_the_site_never_stops_being_active(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab, aliases=1)
    certpilot.issue(site, aliases=[])
    certpilot.wait_until_active(site)
    assert names_of(served(lab, site.server, site.domain)) == {site.domain}
    told = certpilot.sequence(site)
    with certpilot.watching(site) as seen:
        certpilot.issue(site)
        certpilot.wait_until_active(site, after=told)
    assert {status for status, _, _ in seen} == {"active"}
    for name in site.names:
        assert names_of(served(lab, site.server, name)) == set(site.names)
    assert [order.names for order in orders_of(lab, site)] == [(site.domain,), tuple(sorted(site.names))]
