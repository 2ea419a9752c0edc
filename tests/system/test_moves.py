"""A site that moves to another server, address or domain: what it leaves behind goes, and nothing that it still needs."""

import pytest

from deploy.lab.lab import Lab
from deploy.lab.server import CustomerServer
from tests.support.installation import (
    DemoSite,
    Event,
    Installation,
    names_of,
    new_site,
    orders_of,
    shown,
)
from tests.support.waiting import until


@pytest.fixture(scope="module")
def certpilot(certpilot_of_module: Installation) -> Installation:
    return certpilot_of_module


@pytest.fixture
def site(lab: Lab, certpilot: Installation) -> DemoSite:
    site = new_site(lab)
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    return site


def has_lineage(server: CustomerServer, name: str) -> bool:
    return any(server.exists(f"/etc/letsencrypt/{part}/{name}") for part in ("live", "archive"))


def is_served(server: CustomerServer, name: str) -> bool:
    """Whether port 443 has a certificate for the name; that of another site is none."""
    certificate = shown(server, name)
    return certificate is not None and name in names_of(certificate)


def wait_for_cleanup(certpilot: Installation, site: DemoSite, says: str) -> Event:
    """The end of the job that looks after what the site has left; it is no job of the site's own."""

    def ended() -> Event | None:
        told = (
            event for event in certpilot.feed(site) if says in event.title and event.detail["jobId"] is None
        )
        return next(told, None)

    return until(ended, what=f"a cleanup that says {says!r}", seconds=40)


def moved(site: DemoSite, server: CustomerServer) -> DemoSite:
    return DemoSite(site.site_id, site.domain, (), server)


@pytest.mark.parametrize("how", ["by IPv6", "by another SSH port"])
def test_server_that_is_only_reached_another_way_keeps_the_certificate(
    lab: Lab, certpilot: Installation, site: DemoSite, how: str
) -> None:
    server, told = site.server, certpilot.sequence(site)
    reference = {"host": server.host, "hostKey": server.host_key}
    if how == "by IPv6":
        reference |= {"host": server.host6}
    else:
        server.run(["/usr/sbin/sshd", "-p", "2222", "-o", "PidFile=/run/sshd-2222.pid"])
        reference |= {"port": 2222}
    certpilot.issue(site, server=reference)
    certpilot.wait_until_active(site, after=told)
    wait_for_cleanup(certpilot, site, "stays on")
    assert has_lineage(server, site.domain)
    assert is_served(server, site.domain)
    assert len(orders_of(lab, site)) == 1


def test_move_that_failed_first_leaves_nothing_on_the_old_server_when_it_has_succeeded(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    old, new = lab.servers[:2]
    new.add_site(site.domain)
    told = certpilot.sequence(site)
    certpilot.issue(moved(site, new))  # while DNS still leads to the old one
    waiting = certpilot.wait_for_event(site, "waiting", after=told)
    job_id = certpilot.view(site)["job_id"]
    certpilot.conn.execute(
        "update job set cancel_requested = true, run_at = certpilot_now() where id = %s", (job_id,)
    )
    none = certpilot.wait_for_event(site, "none", after=waiting.sequence)
    view = certpilot.view(site)
    assert (view["renewal_due_at"], view["next_check_at"]) == (None, None)
    lab.point(site.domain, to=new)
    certpilot.issue(moved(site, new))
    certpilot.wait_until_active(site, after=none.sequence)
    wait_for_cleanup(certpilot, site, f"deleted on {old.host}")
    assert not has_lineage(old, site.domain)
    assert has_lineage(new, site.domain)


def test_removal_after_a_failed_move_takes_away_what_is_on_the_old_server(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    new = lab.servers[1]
    told = certpilot.sequence(site)
    certpilot.issue(moved(site, new))
    waiting = certpilot.wait_for_event(site, "waiting", after=told)
    certpilot.remove(site, revoke=True)
    certpilot.wait_for_event(site, "none", after=waiting.sequence)
    assert not has_lineage(site.server, site.domain)
    until(lambda: not is_served(site.server, site.domain), what="nginx's new workers")
    again = certpilot.sequence(site)
    certpilot.remove(site)
    assert certpilot.wait_for_event(site, "ssl.request.rejected", after=again).code == "NOT_ISSUED"


@pytest.mark.parametrize("succeeds", [False, True])
def test_removal_after_a_change_of_domain_takes_away_and_revokes_the_former_ones_too(
    lab: Lab, certpilot: Installation, site: DemoSite, *, succeeds: bool
) -> None:
    revoked = len(lab.ca.production.requests("revoke"))
    other = new_site(lab, point=succeeds)
    told = certpilot.sequence(site)
    certpilot.issue(site, domain=other.domain)
    changed = certpilot.wait_for_event(site, "active" if succeeds else "waiting", after=told)
    assert has_lineage(site.server, site.domain)
    certpilot.remove(site, revoke=True)
    certpilot.wait_for_event(site, "none", after=changed.sequence)
    until(lambda: not has_lineage(site.server, site.domain), what="the former domain's removal", seconds=40)
    assert not has_lineage(site.server, other.domain)
    until(
        lambda: len(lab.ca.production.requests("revoke")) == revoked + (2 if succeeds else 1),
        what="each revocation",
    )
    until(lambda: not is_served(site.server, site.domain), what="nginx's new workers")


def test_change_of_domain_whose_certificate_has_the_former_name_too_replaces_its_lineage(
    lab: Lab, certpilot: Installation, site: DemoSite
) -> None:
    other, told = new_site(lab), certpilot.sequence(site)
    certpilot.issue(site, domain=other.domain, aliases=[site.domain])
    certpilot.wait_until_active(site, after=told)
    wait_for_cleanup(certpilot, site, f"certificate for {site.domain} was deleted")
    assert has_lineage(site.server, other.domain)
    certificate = shown(site.server, site.domain)
    assert certificate is not None
    assert certificate == shown(site.server, other.domain)
