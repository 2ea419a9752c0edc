"""What a site's server blocks look like decides how the certificate comes, and whether it can be installed."""

from datetime import timedelta

from db import clock
from deploy.lab.lab import Lab
from tests.support.installation import (
    Installation,
    certbot_by_hand,
    names_of,
    new_site,
    orders_of,
    renewal_setting,
    served,
    wait_for_http,
)

PROXYING = """
server {{
    listen 80;
    {six}
    server_name {name};
    location / {{ proxy_pass http://127.0.0.1:{port}; }}
}}
server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 "from the application"; }}
}}
"""


def test_one_proxying_vhost_makes_the_whole_run_use_the_nginx_authenticator(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab, aliases=1)
    alias = site.aliases[0]
    six = "listen [::]:80;" if lab.server.has_ipv6 else ""
    lab.server.add_site(alias, vhost=PROXYING.format(name=alias, port=8081, six=six))
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    assert renewal_setting(lab.server, site.domain, "authenticator") == "nginx"
    for name in site.names:
        assert names_of(served(lab, lab.server, name)) == set(site.names)
        wait_for_http(lab.server, name, 301)


def test_name_without_a_vhost_is_told_before_anything_is_ordered(lab: Lab, certpilot: Installation) -> None:
    site = new_site(lab, vhosts=False)
    certpilot.issue(site)
    waiting = certpilot.wait_until_waiting(site, "NO_MATCHING_VHOST")
    assert site.domain in waiting.detail["error"]["message"]
    assert certpilot.view(site)["attempt"] == 0
    assert orders_of(lab, site) == []


def test_certificate_that_is_there_but_has_no_vhost_waits_and_is_installed_without_another_order(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab, vhosts=False)
    certbot_by_hand(
        lab, lab.server, "certonly", "--webroot", "-w", "/var/www/html", "--cert-name", site.domain, "-d", site.domain
    )  # fmt: skip
    certpilot.issue(site)
    waiting = certpilot.wait_until_waiting(site, "NO_MATCHING_VHOST")
    assert certpilot.view(site)["ssl_status"] == "pending"
    lab.server.add_site(site.domain)
    clock.move_ahead(certpilot.conn, timedelta(minutes=2))
    certpilot.wait_until_active(site, after=waiting.sequence)
    assert names_of(served(lab, lab.server, site.domain)) == {site.domain}
    wait_for_http(lab.server, site.domain, 301)
    assert len(orders_of(lab, site)) == 1
