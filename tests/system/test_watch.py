"""The watch over real servers: renewed behind our back, replaced, gone; and what nobody renewed is renewed by us."""

from datetime import timedelta

from db import clock
from deploy.lab.lab import Lab
from tests.support.installation import (
    DemoSite,
    Event,
    Installation,
    certbot_by_hand,
    names_of,
    new_site,
    orders_of,
    served,
)
from tests.support.looks import look_now, wait_until_shown


def issued(lab: Lab, certpilot: Installation, *, aliases: int = 0) -> DemoSite:
    site = new_site(lab, aliases=aliases)
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    return site


def certificate_events(events: list[Event], after: int) -> list[tuple[str, str | None]]:
    """Renewals (by whom) and risks (of what), in their order."""
    return [
        (event.kind.rpartition(".")[2], event.detail.get("by") or event.code)
        for event in events
        if event.sequence > after and event.kind.startswith("ssl.certificate.")
    ]


def test_site_is_looked_at_once_a_day_and_renewed_by_us_when_half_its_window_is_gone(
    lab: Lab, certpilot: Installation
) -> None:
    site = issued(lab, certpilot)
    view = certpilot.view(site)
    now = view["updated_at"]
    assert timedelta(hours=17) < view["next_check_at"] - now < timedelta(hours=31)
    assert timedelta(days=74) < view["renewal_due_at"] - now < timedelta(days=79)
    assert view["at_risk_code"] is None


def test_renewal_by_the_servers_own_certbot_is_seen_on_the_wire(lab: Lab, certpilot: Installation) -> None:
    site = issued(lab, certpilot, aliases=1)
    before, told = certpilot.view(site), certpilot.sequence(site)
    serial = served(lab, site.server, site.domain).serial_number
    certbot_by_hand(
        lab, site.server, "renew", "--cert-name", site.domain, "--force-renewal", "--no-random-sleep-on-renew"
    )
    wait_until_shown(site, serial, gone=True)
    look_now(certpilot, site)
    renewed = certpilot.wait_for_event(site, "ssl.certificate.renewed", after=told)
    after = certpilot.view(site)
    assert renewed.detail["by"] == "server"
    assert renewed.detail["jobId"] is None
    assert after["ssl_expiry"] > before["ssl_expiry"]
    assert after["renewal_due_at"] != before["renewal_due_at"]
    assert after["ssl_status"] == "active"
    assert after["ssl_expiry"] == served(lab, site.server, site.domain).not_valid_after_utc


def test_what_the_server_has_not_renewed_certpilot_renews_and_says_why(
    lab: Lab, certpilot: Installation
) -> None:
    site = issued(lab, certpilot, aliases=1)
    before, told = served(lab, site.server, site.domain), certpilot.sequence(site)
    site.server.run(["mv", "/etc/cron.d/certbot", "/root/certbot.cron"])
    try:
        with certpilot.watching(site) as seen:
            clock.move_ahead(certpilot.conn, timedelta(days=79))
            renewed = certpilot.wait_for_event(site, "ssl.certificate.renewed", after=told)
            certpilot.wait_for_event(site, "active", after=renewed.sequence)
        events = certpilot.settled_feed(site)
    finally:
        site.server.run(["mv", "/root/certbot.cron", "/etc/cron.d/certbot"])
    assert {status for status, _, _ in seen} == {"active"}
    assert certificate_events(events, told) == [
        ("at_risk", "AUTO_RENEW_MISSING"), ("renewed", "certpilot"), ("at_risk", None),
    ]  # fmt: skip
    assert all(event.detail["commandId"] is None for event in events if event.sequence > told)
    after = served(lab, site.server, site.domain)
    assert after.serial_number != before.serial_number
    assert names_of(after) == set(site.names)
    assert len(orders_of(lab, site)) == 2
    # What nobody had installed is there now: the next renewal is the server's.
    assert "certbot" in site.server.read("/etc/cron.d/certpilot-renew")
    site.server.run(["rm", "/etc/cron.d/certpilot-renew"])


def test_another_certificate_on_the_wire_is_a_risk_until_it_is_gone_and_the_site_stays_active(
    lab: Lab, certpilot: Installation
) -> None:
    site = issued(lab, certpilot)
    told = certpilot.sequence(site)
    serial = served(lab, site.server, site.domain).serial_number
    vhost = f"/etc/nginx/sites-available/{site.domain}"
    mine = f"/etc/letsencrypt/live/{site.domain}"
    script = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 300 -subj /CN=other"
        f" -keyout /root/other.key -out /root/other.pem 2>/dev/null && cp {vhost} /root/vhost &&"
        f" sed -i 's#{mine}/fullchain.pem#/root/other.pem#; s#{mine}/privkey.pem#/root/other.key#' {vhost}"
        " && nginx -s reload"
    )
    site.server.run(["sh", "-c", script])
    wait_until_shown(site, serial, gone=True)
    look_now(certpilot, site)
    assert certpilot.sequence(site) == told  # once may be a reload under way
    look_now(certpilot, site)
    at_risk = certpilot.wait_for_event(site, "ssl.certificate.at_risk", after=told)
    assert at_risk.code == "NOT_SERVED"
    assert certpilot.view(site)["at_risk_code"] == "NOT_SERVED"
    assert certpilot.view(site)["ssl_status"] == "active"
    look_now(certpilot, site)
    assert certpilot.sequence(site) == at_risk.sequence  # once per cause
    site.server.run(["sh", "-c", f"cp /root/vhost {vhost} && nginx -s reload"])
    wait_until_shown(site, serial)
    look_now(certpilot, site)
    over = certpilot.wait_for_event(site, "ssl.certificate.at_risk", after=at_risk.sequence)
    assert over.detail["error"] is None
    assert certpilot.view(site)["at_risk_code"] is None


def test_certificate_that_is_gone_from_its_server_in_two_looks_ends_active(
    lab: Lab, certpilot: Installation
) -> None:
    site = issued(lab, certpilot)
    told, serial = certpilot.sequence(site), served(lab, site.server, site.domain).serial_number
    vhost = f"/etc/nginx/sites-available/{site.domain}"
    delete = (
        f"sed -i '/managed by Certbot/d' {vhost} && sed -i '/^server {{/,$!d' {vhost};"
        f" rm -rf /etc/letsencrypt/*/{site.domain} /etc/letsencrypt/renewal/{site.domain}.conf;"
        f" rm -f /etc/nginx/sites-enabled/{site.domain}; nginx -s reload"
    )
    site.server.run(["sh", "-c", delete])
    wait_until_shown(site, serial, gone=True)
    look_now(certpilot, site)
    look_now(certpilot, site)
    assert certpilot.view(site)["ssl_status"] == "active"
    due = "update site set next_check_at = certpilot_now() where site_id = %s"
    certpilot.conn.execute(due, (site.site_id,))
    gone = certpilot.wait_for_event(site, "none", after=told)
    assert (gone.detail["previousStatus"], gone.code) == ("active", "LINEAGE_BROKEN")
    assert certpilot.view(site)["next_check_at"] is None
