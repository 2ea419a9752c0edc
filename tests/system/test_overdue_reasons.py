"""An overdue certificate: why the server's own renewal failed is told from its certbot's log, and certpilot renews."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from contracts.codes import Code
from db import clock
from deploy.lab.lab import Lab
from tests.support.installation import DemoSite, Event, Installation, new_site, served

HAS_NOT = "The server should have renewed the certificate by now, and has not."
OVERDUE = timedelta(days=79)
"""Of 90; certpilot renews after 75."""


@pytest.fixture
def site(lab: Lab, certpilot: Installation) -> DemoSite:
    """A site that certpilot has issued; the server's cron job is there."""
    site = new_site(lab)
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    return site


def try_to_renew(site: DemoSite) -> None:
    """What the server's cron job does, for this lineage; it fails."""
    words = ["certbot", "-q", "renew", "--cert-name", site.domain, "--force-renewal", "--no-random-sleep-on-renew"]  # fmt: skip
    done = site.server.run(words, check=False)
    assert done.returncode == 1, done.stdout + done.stderr


def spoil(site: DemoSite, change: Callable[[str], str]) -> None:
    path = f"/etc/letsencrypt/renewal/{site.domain}.conf"
    before = site.server.read(path)
    after = change(before)
    assert after != before, before
    site.server.write(path, after)


def told_when_overdue(certpilot: Installation, site: DemoSite) -> Event:
    """The risk that is told once the certificate is overdue; certpilot has renewed it then."""
    told, before = certpilot.sequence(site), served(certpilot.lab, site.server, site.domain)
    clock.move_ahead(certpilot.conn, OVERDUE)
    at_risk = certpilot.wait_for_event(site, "ssl.certificate.at_risk", after=told)
    renewed = certpilot.wait_for_event(site, "ssl.certificate.renewed", after=at_risk.sequence)
    certpilot.wait_for_event(site, "active", after=renewed.sequence)
    assert renewed.detail["by"] == "certpilot"
    assert served(certpilot.lab, site.server, site.domain).serial_number != before.serial_number
    return at_risk


def message(event: Event) -> str:
    return str(event.detail["error"]["message"])


def test_path_that_the_renewal_file_names_and_nginx_no_longer_serves(
    certpilot: Installation, site: DemoSite
) -> None:
    spoil(site, lambda text: text.replace(f"/var/www/{site.domain}", "/srv/moved"))
    try_to_renew(site)
    at_risk = told_when_overdue(certpilot, site)
    assert at_risk.code == Code.AUTO_RENEW_FAILING
    assert message(at_risk).startswith(
        f"{HAS_NOT} Its last try failed: The site answered the CA's check with something else: {site.domain}."
        " certbot put the file for the check into /srv/moved. Its log says: "
    )
    assert "returned 404" in message(at_risk)


def test_authenticator_that_the_renewal_file_names_and_certbot_no_longer_has(
    certpilot: Installation, site: DemoSite
) -> None:
    spoil(site, lambda text: text.replace("authenticator = webroot", "authenticator = dns-cloudflare"))
    try_to_renew(site)
    at_risk = told_when_overdue(certpilot, site)
    says = (
        "Its last try failed: its renewal file names a plugin that certbot there does not have."
        ' Its log says: "The requested dns-cloudflare plugin does not appear to be installed".'
    )
    assert (at_risk.code, message(at_risk)) == (Code.AUTO_RENEW_FAILING, f"{HAS_NOT} {says}")


def test_server_that_has_not_tried_is_told_as_such(certpilot: Installation, site: DemoSite) -> None:
    """Another site's failure stands in the same log."""
    at_risk = told_when_overdue(certpilot, site)
    assert (at_risk.code, message(at_risk)) == (
        Code.AUTO_RENEW_FAILING,
        f"{HAS_NOT} A cron job renews (/etc/cron.d/certbot).",
    )
