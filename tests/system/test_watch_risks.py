"""What endangers a renewal is told by the watch before it is due, and its end as well, without a new certificate."""

from datetime import timedelta

import pytest
from cryptography import x509

from db import clock
from deploy.lab.lab import Lab
from tests.support.installation import (
    DemoSite,
    Event,
    Installation,
    certbot_by_hand,
    new_site,
    served,
)
from tests.support.looks import IN_THE_WINDOW, look_now, wait_until_shown


@pytest.fixture
def site(lab: Lab, certpilot: Installation) -> DemoSite:
    """A site whose window has opened, with days left before certpilot renews."""
    site = new_site(lab)
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    clock.move_ahead(certpilot.conn, IN_THE_WINDOW)
    return site


def told(certpilot: Installation, site: DemoSite, after: int) -> Event:
    """The next event about a risk."""
    return certpilot.wait_for_event(site, "ssl.certificate.at_risk", after=after)


def test_server_that_is_off_is_told_and_that_it_is_back_only_when_it_lets_us_in(
    certpilot: Installation, site: DemoSite
) -> None:
    for port in (22, 443):
        site.server.block(port, how="reject")
    try:
        look_now(certpilot, site)
        look_now(certpilot, site)
        off = told(certpilot, site, certpilot.sequence(site) - 1)
        assert off.code == "SERVER_UNREACHABLE"
        site.server.unblock(443)
        for _ in range(2):  # visitors are served, but nothing can be renewed by us
            look_now(certpilot, site)
        assert certpilot.view(site)["at_risk_code"] == "SERVER_UNREACHABLE"
    finally:
        site.server.unblock()
    look_now(certpilot, site)
    back = told(certpilot, site, off.sequence)
    assert back.detail["error"] is None
    assert certpilot.view(site)["at_risk_code"] is None
    assert certpilot.view(site)["ssl_status"] == "active"


def test_dns_that_leads_elsewhere_or_nowhere_is_told_and_its_return(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    before = certpilot.sequence(site)
    lab.point(site.domain, to=lab.servers[1])
    look_now(certpilot, site)
    moved = told(certpilot, site, before)
    lab.dns.clear(site.domain)
    look_now(certpilot, site)
    nowhere = told(certpilot, site, moved.sequence)
    lab.dns.set_silent(site.domain)
    look_now(certpilot, site)
    lab.dns.set_silent(site.domain, silent=False)
    lab.point(site.domain, to=site.server)
    look_now(certpilot, site)
    back = told(certpilot, site, nowhere.sequence)
    assert [moved.code, nowhere.code, back.code] == ["DNS_WRONG_SERVER", "DNS_NOT_RESOLVING", None]
    assert certpilot.view(site)["at_risk_code"] is None


def test_renewed_certificate_that_nginx_has_not_loaded_is_told_and_loaded_without_an_order(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    before, old = certpilot.sequence(site), served(lab, site.server, site.domain)
    certbot_by_hand(
        lab, site.server, "certonly", "--webroot", "-w", f"/var/www/{site.domain}", "--cert-name", site.domain,
        "-d", site.domain, "--force-renewal", "--no-directory-hooks",
    )  # fmt: skip
    look_now(certpilot, site)
    assert certpilot.sequence(site) == before  # it has half of the window's time to load it
    certpilot.conn.execute(
        "update site set renewal_due_at = certpilot_now() where site_id = %s", (site.site_id,)
    )
    at_risk = told(certpilot, site, before)
    renewed = certpilot.wait_for_event(site, "ssl.certificate.renewed", after=at_risk.sequence)
    over = told(certpilot, site, renewed.sequence)
    assert (at_risk.code, renewed.detail["by"], over.detail["error"]) == (
        "NGINX_RELOAD_FAILED",
        "server",
        None,
    )
    assert served(lab, site.server, site.domain).serial_number != old.serial_number


def test_look_at_the_known_certificate_ends_only_what_it_disproves(
    certpilot: Installation, site: DemoSite
) -> None:
    at_risk = "update site set at_risk_code = %s, at_risk_message = 'as told before' where site_id = %s"
    kept = ("NGINX_RELOAD_FAILED", "PORT_80_BLOCKED", "AUTO_RENEW_MISSING")
    for code in kept:
        certpilot.conn.execute(at_risk, (code, site.site_id))
        look_now(certpilot, site)
        assert certpilot.view(site)["at_risk_code"] == code
    certpilot.conn.execute(at_risk, ("NOT_SERVED", site.site_id))
    before = certpilot.sequence(site)
    look_now(certpilot, site)
    assert told(certpilot, site, before).detail["error"] is None


def test_expired_site_whose_server_renews_at_last_is_active_again(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    old: x509.Certificate = served(lab, site.server, site.domain)
    certpilot.conn.execute(
        "update site set ssl_expiry = now() - interval '1 second' where site_id = %s", (site.site_id,)
    )
    expired = certpilot.wait_for_event(site, "expired", seconds=5)
    certbot_by_hand(
        lab, site.server, "renew", "--cert-name", site.domain, "--force-renewal", "--no-random-sleep-on-renew"
    )
    wait_until_shown(site, old.serial_number, gone=True)
    look_now(certpilot, site)
    active = certpilot.wait_for_event(site, "active", after=expired.sequence)
    assert active.detail["previousStatus"] == "expired"
    assert certpilot.view(site)["ssl_status"] == "active"


def risks(certpilot: Installation, site: DemoSite, after: int) -> list[str | None]:
    """The causes that were told, in their order; None: the end of one."""
    told = [event for event in certpilot.settled_feed(site) if event.kind == "ssl.certificate.at_risk"]
    return [event.code for event in told if event.sequence > after]


def try_again(certpilot: Installation, site: DemoSite) -> None:
    """Let the job that waits go on, and wait until it waits again."""
    told = certpilot.sequence(site)
    clock.move_ahead(certpilot.conn, timedelta(hours=3))
    certpilot.wait_for_event(site, "waiting", after=told)


def keep_unwatched(certpilot: Installation, site: DemoSite) -> None:
    certpilot.conn.execute(
        "update site set next_check_at = certpilot_now() + interval '80 days' where site_id = %s",
        (site.site_id,),
    )


def test_causes_that_stand_together_are_not_told_in_turn_by_looks_and_jobs(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab, aliases=1)
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    before = certpilot.sequence(site)
    lab.point(site.domain, to=lab.servers[1])
    lab.dns.clear(site.aliases[0])
    clock.move_ahead(certpilot.conn, timedelta(days=79))
    certpilot.wait_for_event(site, "waiting", after=before)
    for _ in range(2):
        look_now(certpilot, site)
        try_again(certpilot, site)
    assert risks(certpilot, site, before) == ["DNS_NOT_RESOLVING"]
    lab.point(site.aliases[0], to=site.server)
    keep_unwatched(certpilot, site)
    for _ in range(2):  # now the other one is what the job waits on
        try_again(certpilot, site)
        look_now(certpilot, site)
    assert risks(certpilot, site, before) == ["DNS_NOT_RESOLVING", "DNS_WRONG_SERVER"]


def test_job_that_is_held_up_by_something_else_than_before_tells_it(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    before = certpilot.sequence(site)
    lab.point(site.domain, to=lab.servers[1])
    keep_unwatched(certpilot, site)
    clock.move_ahead(certpilot.conn, timedelta(days=14))
    certpilot.wait_for_event(site, "waiting", after=before)
    lab.point(site.domain, to=site.server)
    site.server.write("/etc/nginx/conf.d/broken.conf", "nonsense;\n")
    try:
        keep_unwatched(certpilot, site)
        try_again(certpilot, site)
        assert risks(certpilot, site, before) == ["DNS_WRONG_SERVER", "NGINX_CONFIG_BROKEN"]
    finally:
        site.server.run(["rm", "/etc/nginx/conf.d/broken.conf"])


def test_machine_that_the_certificate_was_copied_to_is_not_the_sites_server(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    before, other, domain = certpilot.sequence(site), lab.servers[1], site.domain
    listen = "listen 80;\n listen [::]:80;\n listen 443 ssl;\n listen [::]:443 ssl;\n"
    vhost = f"server {{\n {listen} server_name {domain};\n root /var/www/html;\n"
    for file in ("fullchain", "privkey"):
        other.write(f"/root/{domain}.{file}", site.server.read(f"/etc/letsencrypt/live/{domain}/{file}.pem"))
    vhost += f" ssl_certificate /root/{domain}.fullchain;\n ssl_certificate_key /root/{domain}.privkey;\n}}\n"
    other.write(f"/etc/nginx/conf.d/{domain}.conf", vhost)
    try:
        other.run(["nginx", "-s", "reload"])
        wait_until_shown(
            DemoSite(site.site_id, domain, (), other), served(lab, site.server, domain).serial_number
        )
        lab.point(domain, to=other)
        look_now(certpilot, site)  # nothing that is sure
        clock.move_ahead(certpilot.conn, timedelta(days=14))
        certpilot.wait_for_event(site, "waiting", after=before)
        for _ in range(2):
            look_now(certpilot, site)
            try_again(certpilot, site)
        assert risks(certpilot, site, before) == ["DNS_WRONG_SERVER"]
    finally:
        other.run(["sh", "-c", f"rm /etc/nginx/conf.d/{domain}.conf; nginx -s reload"])


def test_dns_at_fault_is_followed_before_the_window_opens(lab: Lab, certpilot: Installation) -> None:
    site = new_site(lab)
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    before = certpilot.sequence(site)
    certpilot.conn.execute(
        "update site set at_risk_code = 'DNS_NOT_RESOLVING', at_risk_message = 'as told before' where site_id = %s",
        (site.site_id,),
    )
    lab.point(site.domain, to=lab.servers[1])
    look_now(certpilot, site)
    moved = told(certpilot, site, before)
    lab.point(site.domain, to=site.server)
    look_now(certpilot, site)
    back = told(certpilot, site, moved.sequence)
    assert [moved.code, back.code] == ["DNS_WRONG_SERVER", None]
