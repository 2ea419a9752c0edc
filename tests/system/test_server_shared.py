"""Several sites of one server, and certificates that are there already."""

from deploy.lab.lab import Lab
from tests.support.installation import (
    Installation,
    certbot_by_hand,
    certbot_logs,
    names_of,
    new_site,
    orders_of,
    served,
)

ANOTHER = "Another instance of Certbot is already running"


def test_two_sites_of_one_server_at_the_same_moment_both_succeed_one_after_the_other(
    lab: Lab, certpilot: Installation
) -> None:
    sites = new_site(lab), new_site(lab)
    certpilot.issue_all(*sites)
    certpilot.wait_until_active(*sites)
    for site in sites:
        assert names_of(served(lab, site.server, site.domain)) == {site.domain}
        assert certpilot.view(site)["attempt"] == 1
        assert [event.step for event in certpilot.feed(site)].count("waiting") == 0
    logs = certbot_logs(lab.server)
    assert all(f"Requesting a certificate for {site.domain}" in logs for site in sites)
    assert ANOTHER not in logs


def test_six_sites_over_two_servers_at_once_all_succeed_with_one_order_each(
    lab: Lab, certpilot: Installation
) -> None:
    sites = [new_site(lab, server=server) for server in (*lab.servers, *lab.servers, *lab.servers)]
    certpilot.issue_all(*sites)
    certpilot.wait_until_active(*sites)
    for site in sites:
        assert names_of(served(lab, site.server, site.domain)) == {site.domain}
        assert len(orders_of(lab, site)) == 1
        events = certpilot.settled_feed(site)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for server in lab.servers:
        assert ANOTHER not in certbot_logs(server)


def test_certificate_that_is_on_the_server_already_makes_the_site_active_without_an_order(
    lab: Lab, certpilot: Installation
) -> None:
    site, twin = new_site(lab, aliases=1), new_site(lab, vhosts=False, point=False)
    words = [word for name in site.names for word in ("-d", name)]
    certbot_by_hand(lab, site.server, "run", "--nginx", "--redirect", "--cert-name", site.domain, *words)
    assert len(orders_of(lab, site)) == 1
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    # Another site that names the same domain finds the certificate too.
    certpilot.issue(twin, domain=site.domain, aliases=list(site.aliases))
    certpilot.wait_until_active(twin)
    assert len(orders_of(lab, site)) == 1
    for one in (site, twin):
        view = certpilot.view(one)
        assert (view["attempt"], view["job_state"]) == (0, "succeeded")
        assert view["ssl_expiry"] == served(lab, site.server, site.domain).not_valid_after_utc
