"""RemoveSSL: the certificate goes off its server, a working HTTP site stays."""

import subprocess
from urllib.parse import urlsplit

import pytest

from deploy.lab.lab import Lab
from tests.support.installation import (
    CERTPILOT,
    DemoSite,
    Event,
    Installation,
    new_site,
    orders_of,
    shown,
    wait_for_http,
)
from tests.support.waiting import until


@pytest.fixture(scope="module")
def certpilot(certpilot_of_module: Installation) -> Installation:
    return certpilot_of_module


def issue(certpilot: Installation, site: DemoSite) -> int:
    certpilot.issue(site)
    certpilot.wait_until_active(site)
    return certpilot.sequence(site)


def answers_https(site: DemoSite) -> bool:
    """Whether anything speaks TLS for the name, with whatever certificate."""
    return shown(site.server, site.domain) is not None


def changes(events: list[Event], after: int) -> list[tuple[str, str]]:
    return [
        (event.detail["previousStatus"], event.detail["sslStatus"])
        for event in events
        if event.sequence > after and event.kind == "ssl.status.changed"
    ]


def lineage_files(site: DemoSite) -> str:
    find = f"ls -d /etc/letsencrypt/*/{site.domain}* 2>/dev/null || true"
    return site.server.run(["sh", "-c", find]).stdout.strip()


def test_removed_and_revoked_site_answers_http_and_has_nothing_left(
    lab: Lab, certpilot: Installation
) -> None:
    revoked_before = len(lab.ca.production.requests("revoke"))
    neighbour = new_site(lab)
    issue(certpilot, neighbour)
    site = new_site(lab, aliases=1)
    told = issue(certpilot, site)
    before = site.server.read(f"/etc/nginx/sites-available/{site.domain}")
    assert "managed by Certbot" in before

    command_id = certpilot.remove(site, revoke=True)
    removed = certpilot.wait_for_event(site, "none", after=told)

    assert removed.detail["commandId"] == command_id
    events = certpilot.settled_feed(site)
    assert changes(events, told) == [("active", "none")]
    assert [event.step for event in events if event.sequence > told and event.step] == [
        "queued",
        "connecting",
        "done",
    ]
    assert "deleted" in events[-2].title
    assert "revoked" in events[-2].title
    for name in site.names:
        wait_for_http(site.server, name, 200)
        assert "Certbot" not in site.server.read(f"/etc/nginx/sites-available/{name}")
    assert lineage_files(site) == ""
    assert [seen.status for seen in lab.ca.production.requests("revoke")[revoked_before:]] == [200]
    view = certpilot.view(site)
    assert (view["ssl_status"], view["ssl_expiry"], view["renewal_due_at"], view["next_check_at"]) == (
        "none",
        None,
        None,
        None,
    )
    assert answers_https(neighbour)
    assert site.server.run(["nginx", "-t"]).returncode == 0

    again = certpilot.sequence(site)
    certpilot.remove(site)
    assert certpilot.wait_for_event(site, "ssl.request.rejected", after=again).code == "NOT_ISSUED"
    certpilot.renew(site)
    assert certpilot.wait_for_event(site, "ssl.request.rejected", after=again + 1).code == "NOT_ISSUED"

    issue_again = certpilot.sequence(site)
    certpilot.issue(site)
    certpilot.wait_until_active(site, after=issue_again)
    wait_for_http(site.server, site.domain, 301)
    assert len(orders_of(lab, site)) == 2


def test_removal_of_a_site_whose_request_waits_ends_both_with_one_status_change(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab, point=False)
    certpilot.issue(site)
    waiting = certpilot.wait_until_waiting(site, "DNS_NOT_RESOLVING")
    certpilot.remove(site)
    certpilot.wait_for_event(site, "none", after=waiting.sequence)
    events = certpilot.settled_feed(site)
    assert changes(events, 0) == [("none", "pending"), ("pending", "none")]
    assert certpilot.view(site)["job_state"] == "cancelled"
    assert orders_of(lab, site) == []


def test_lineage_on_the_server_that_a_site_has_left_is_deleted_there(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab)
    told = issue(certpilot, site)
    other = next(server for server in lab.servers if server.host != site.server.host)
    other.add_site(site.domain)
    lab.point(site.domain, to=other)
    moved = DemoSite(site.site_id, site.domain, (), other)
    certpilot.issue(moved)
    certpilot.wait_until_active(moved, after=told)
    gone = until(
        lambda: [event for event in certpilot.feed(site) if "deleted" in event.title],
        what="the end of the old lineage",
        seconds=30,
    )
    assert [(event.step, event.detail["jobId"]) for event in gone] == [("done", None)]
    assert lineage_files(site) == ""
    wait_for_http(site.server, site.domain, 200)
    assert certpilot.view(site)["ssl_status"] == "active"


def write_vhosts(site: DemoSite, *blocks: str) -> str:
    """One file of server blocks for all names of the site; its path."""
    path = f"/etc/nginx/sites-available/{site.domain}"
    site.server.write(path, "\n".join(blocks))
    for name in site.names:
        site.server.run(["mkdir", "-p", f"/var/www/{name}"])
        site.server.write(f"/var/www/{name}/index.html", f"{name}\n")
    script = f"ln -sf {path} /etc/nginx/sites-enabled/{site.domain} && nginx -t -q && nginx -s reload"
    site.server.run(["sh", "-c", script])
    return path


def block(*names: str, more: str = "") -> str:
    return f"""
server {{
    listen 80;
    listen [::]:80;
    server_name {" ".join(names)};
    {more}
    root /var/www/{names[0]};
}}
"""


OWN_TLS = "listen 443 ssl; ssl_certificate /root/own.pem; ssl_certificate_key /root/own.key;".replace(
    "; ", ";\n    "
)


def test_every_shape_of_vhost_is_left_as_a_working_http_site(lab: Lab, certpilot: Installation) -> None:
    """One block for several names, two sites in one file, and a block that had TLS of its own before."""
    together = new_site(lab, aliases=1, vhosts=False)
    first, second = (new_site(lab, vhosts=False) for _ in range(2))
    had_tls = new_site(lab, vhosts=False)
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=own"
    had_tls.server.run(["sh", "-c", f"{make} -keyout /root/own.key -out /root/own.pem 2>/dev/null"])
    write_vhosts(together, block(*together.names))
    shared = DemoSite(first.site_id, first.domain, (second.domain,), first.server)
    write_vhosts(shared, block(first.domain), block(second.domain))
    write_vhosts(had_tls, block(had_tls.domain, more=OWN_TLS))
    sites = (together, first, second, had_tls)
    certpilot.issue_all(*sites)
    certpilot.wait_until_active(*sites)

    for site in (together, first, had_tls):
        told = certpilot.sequence(site)
        certpilot.remove(site)
        certpilot.wait_for_event(site, "none", after=told)

    for name in (*together.names, first.domain, had_tls.domain):
        wait_for_http(together.server, name, 200)
    wait_for_http(second.server, second.domain, 301)
    assert answers_https(second)
    config = first.server.read(f"/etc/nginx/sites-available/{first.domain}")
    assert f"live/{second.domain}/" in config
    assert f"live/{first.domain}/" not in config
    kept = first.server.run(["sh", "-c", "cat /var/lib/certpilot/removed/*/1"]).stdout
    assert f"live/{first.domain}/" in kept  # the old file


def test_broken_configuration_is_left_as_it_is_and_the_removal_goes_on_once_it_is_mended(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab)
    told = issue(certpilot, site)
    vhost = f"/etc/nginx/sites-available/{site.domain}"
    before = site.server.read(vhost)
    site.server.write("/etc/nginx/conf.d/broken.conf", "server { listen 80; nonsense on; }\n")
    try:
        certpilot.remove(site)
        waiting = certpilot.wait_until_waiting(site, "NGINX_CONFIG_BROKEN", after=told)
        assert site.server.read(vhost) == before
        assert certpilot.view(site)["ssl_status"] == "active"
    finally:
        site.server.run(["rm", "/etc/nginx/conf.d/broken.conf"])
    certpilot.remove(site)
    certpilot.wait_for_event(site, "none", after=waiting.sequence)
    assert lineage_files(site) == ""
    assert changes(certpilot.settled_feed(site), told) == [("active", "none")]


def test_site_stays_as_it_is_while_the_ca_cannot_be_reached_to_revoke(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab)
    told = issue(certpilot, site)
    vhost = f"/etc/nginx/sites-available/{site.domain}"
    before = site.server.read(vhost)
    port = urlsplit(lab.ca.directory_url).port
    assert port is not None
    site.server.block(port, outgoing=True, how="reject")
    try:
        certpilot.remove(site, revoke=True)
        waiting = certpilot.wait_until_waiting(site, "CA_UNREACHABLE", after=told)
        assert site.server.read(vhost) == before
        assert certpilot.view(site)["ssl_status"] == "active"
        wait_for_http(site.server, site.domain, 301)
    finally:
        site.server.unblock()
    certpilot.remove(site, revoke=True)
    certpilot.wait_for_event(site, "none", after=waiting.sequence)
    assert lineage_files(site) == ""
    wait_for_http(site.server, site.domain, 200)
    assert changes(certpilot.settled_feed(site), told) == [("active", "none")]


def test_site_that_is_back_before_its_old_lineage_was_cleaned_up_keeps_it(
    lab: Lab, certpilot: Installation
) -> None:
    site = new_site(lab)
    told = issue(certpilot, site)
    old, other = site.server, next(server for server in lab.servers if server.host != site.server.host)
    other.add_site(site.domain)
    lab.point(site.domain, to=other)
    command(certpilot, "pause", "--server", old.host)
    moved = DemoSite(site.site_id, site.domain, (), other)
    certpilot.issue(moved)
    certpilot.wait_until_active(moved, after=told)

    told = certpilot.sequence(site)
    lab.point(site.domain, to=old)
    certpilot.issue(site)
    certpilot.wait_for_event(site, "pending", after=told)
    command(certpilot, "resume", "--server", old.host)

    certpilot.wait_until_active(site, after=told)
    until(
        lambda: [event for event in certpilot.feed(site) if f"stays on {old.host}" in event.title],
        what="the end of the cleanup",
        seconds=30,
    )
    assert answers_https(site)
    assert lineage_files(site) != ""
    assert certpilot.view(site)["ssl_status"] == "active"
    assert len(orders_of(lab, site)) == 2


def command(certpilot: Installation, *words: str) -> None:
    run = [CERTPILOT, *words]
    subprocess.run(run, env=certpilot.environment(), check=True, capture_output=True, timeout=30)
