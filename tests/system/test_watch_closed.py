"""The watch where port 443 is closed to the worker: an origin that lets only its proxy in is asked itself."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from deploy.lab.lab import Lab
from tests.support.installation import DemoSite, Installation, certbot_by_hand, new_site
from tests.support.looks import look_now
from tests.support.waiting import until


@pytest.fixture
def site(lab: Lab, certpilot: Installation) -> Iterator[DemoSite]:
    """An active site at whose port 443 the worker is not let in."""
    site = new_site(lab)
    site.server.block(443, how="drop", source=lab.network.host)
    try:
        certpilot.issue(site)
        certpilot.wait_until_active(site)
        yield site
    finally:
        site.server.unblock()


def until_next_look(certpilot: Installation, site: DemoSite) -> timedelta:
    row = certpilot.conn.execute(
        "select next_check_at - certpilot_now() from site where site_id = %s", (site.site_id,)
    ).fetchone()
    assert row is not None
    return timedelta() + row[0]


def test_site_that_the_server_itself_shows_is_well_and_looked_at_as_rarely_as_any(
    certpilot: Installation, site: DemoSite
) -> None:
    told = certpilot.sequence(site)
    for _ in range(3):
        look_now(certpilot, site)
        assert until_next_look(certpilot, site) > timedelta(hours=17)
    assert certpilot.sequence(site) == told
    certpilot.conn.execute(
        "update site set at_risk_code = 'NOT_SERVED', at_risk_message = 'as told before' where site_id = %s",
        (site.site_id,),
    )
    look_now(certpilot, site)
    over = certpilot.wait_for_event(site, "ssl.certificate.at_risk", after=told)
    assert over.detail["error"] is None


def test_renewal_by_the_servers_own_certbot_is_seen(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    told, before = certpilot.sequence(site), certpilot.view(site)["ssl_expiry"]
    certbot_by_hand(
        lab, site.server, "renew", "--cert-name", site.domain, "--force-renewal", "--no-random-sleep-on-renew"
    )
    look_now(certpilot, site)
    renewed = certpilot.wait_for_event(site, "ssl.certificate.renewed", after=told)
    assert renewed.detail["by"] == "server"
    assert certpilot.view(site)["ssl_expiry"] > before


def test_what_the_server_itself_does_not_show_is_told_at_the_second_look_and_its_end(
    certpilot: Installation, site: DemoSite
) -> None:
    told, vhost = certpilot.sequence(site), f"/etc/nginx/sites-available/{site.domain}"
    site.server.run(
        ["sh", "-c", f"cp {vhost} /root/vhost && sed -i '/443/d' {vhost} && nginx -s stop && nginx"]
    )
    try:
        look_now(certpilot, site)
        assert certpilot.sequence(site) == told
        look_now(certpilot, site)
        assert certpilot.wait_for_event(site, "ssl.certificate.at_risk", after=told).code == "NOT_SERVED"
    finally:
        site.server.run(["sh", "-c", f"cp /root/vhost {vhost} && nginx -s reload"])
    look_now(certpilot, site)
    until(lambda: certpilot.view(site)["at_risk_code"] is None, what="the end of the risk", seconds=10)
