"""Names behind Cloudflare: what stands in the way is told with the setting to change, and redirects never go in a circle.

Cloudflare is the lab's stand-in (deploy/lab/cloudflare.py), which certpilot knows by its response headers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from deploy.lab import server_files
from deploy.lab.cloudflare import Cloudflare, Mode, Zone
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.support.failures import (
    Case,
    Step,
    Story,
    Trouble,
    all_roles,
    borrowed_servers,
    ca_clock_put_back,
    check_mended,
    check_told,
    go_through,
)
from tests.support.installation import (
    DemoSite,
    Event,
    Installation,
    get_http,
    installed,
    new_site,
    orders_of,
    wait_for_http,
)
from workers.core.preflight.observed import Probe
from workers.edges.web.dns import Resolver
from workers.edges.web.http_probe import Prober

pytestmark = pytest.mark.timeout(600)

ANSWERING = """
server {{
    listen 80; listen [::]:80;
    server_name {domain};
    root /var/www/{domain};
    if ($remote_addr ~ .) {{ return 301 https://$host$request_uri; }}
}}
"""
SINGLE_PAGE = """
server {{
    listen 80; listen [::]:80;
    server_name {domain};
    root /var/www/{domain};
    location / {{ try_files $uri /index.html; }}
}}
"""


@pytest.fixture(scope="module")
def cloudflare(lab: Lab) -> Iterator[Cloudflare]:
    folder = lab.directory / "cloudflare"
    with Cloudflare(lab.network, folder, trusted_roots=lab.ca.roots_file) as started:
        THE[lab.directory.name] = started
        yield started


THE: dict[str, Cloudflare] = {}
"""The stand-in of each lab, for the table's functions."""


def put_behind(
    lab: Lab, cloudflare: Cloudflare, site: DemoSite, *names: str, mode: Mode, always_https: bool = False
) -> None:
    for name in names or site.names:
        lab.dns.set_a(name, cloudflare.address)
        lab.dns.set_aaaa(name)
        cloudflare.proxy(name, zone=Zone(site.server.host, mode, always_https))


def behind(mode: Mode, *, always_https: bool = False) -> Step:
    def put(case: Case) -> None:
        cloudflare = THE[case.lab.directory.name]
        put_behind(case.lab, cloudflare, case.site, mode=mode, always_https=always_https)

    return put


def behind_and_kept_out(how: str) -> Step:
    def put(case: Case) -> None:
        behind(Mode.FULL)(case)
        address = THE[case.lab.directory.name].address
        case.server.block(80, how="drop" if how == "drop" else "reject", source=address)

    return put


def redirecting_behind_flexible(case: Case) -> None:
    behind(Mode.FLEXIBLE)(case)
    case.server.add_site(case.domain, vhost=ANSWERING.format(domain=case.domain))


def without_its_redirect(case: Case) -> None:
    root = f"/var/www/{case.domain}"
    case.server.add_site(
        case.domain, vhost=server_files.site((case.domain,), root, ipv6=case.server.has_ipv6)
    )
    behind(Mode.FULL)(case)


TROUBLES = (
    Trouble(
        "Full (strict) and Always Use HTTPS before there is a certificate", Code.CLOUDFLARE_STRICT_ORIGIN,
        behind(Mode.STRICT, always_https=True), behind(Mode.FULL),
        # Nothing listens on 443 of a fresh server; with another site's certificate there it would be 526.
        says=("{domain}: Cloudflare answers 526", "set SSL/TLS to Full", "then set Full (strict)"),
    ),
    Trouble(
        "the server's firewall drops Cloudflare", Code.CLOUDFLARE_ORIGIN_DOWN,
        behind_and_kept_out("drop"), lambda case: case.server.unblock(80),
        says=("{domain}: Cloudflare answers 522", "Let Cloudflare's addresses through"), own_server=True,
    ),
    Trouble(
        "the server refuses Cloudflare", Code.CLOUDFLARE_ORIGIN_DOWN,
        behind_and_kept_out("reject"), lambda case: case.server.unblock(80),
        says=("{domain}: Cloudflare answers 521",), own_server=True,
    ),
    Trouble(
        "Flexible, and the server redirects to HTTPS already", Code.CLOUDFLARE_FLEXIBLE_LOOP,
        redirecting_behind_flexible, without_its_redirect,
        says=("{domain}: the redirect to HTTPS goes in a circle through Cloudflare", "Full (not Flexible)"),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def certpilot(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode, logs: Path) -> Iterator[Installation]:
    with (
        installed(lab, postgres, rabbit, template=TEMPLATE) as made,
        ca_clock_put_back(lab),
        all_roles(made, logs / "roles.log"),
    ):
        yield made


@pytest.fixture(scope="module")
def stories(lab: Lab, certpilot: Installation, cloudflare: Cloudflare) -> Iterator[dict[str, Story]]:
    # A site with a certificate of another name on each shared server: strict then meets a certificate, not a closed port.
    for server in lab.servers[:2]:
        first = new_site(lab, server=server)
        certpilot.issue(first)
        certpilot.wait_until_active(first)
    with borrowed_servers(lab) as servers:
        yield go_through(lab, certpilot, servers, TROUBLES)


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_what_cloudflare_keeps_from_the_ca_is_told_with_the_setting_to_change(
    stories: dict[str, Story], trouble: Trouble
) -> None:
    check_told(stories[trouble.name])


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_site_goes_through_by_itself_once_the_setting_is_changed(
    stories: dict[str, Story], trouble: Trouble
) -> None:
    check_mended(stories[trouble.name])


# --- the order of steps ----------------------------------------------------------------------------------------------


@dataclass
class Issued:
    """What was seen of one issue behind Cloudflare."""

    site: DemoSite
    feed: list[Event]
    view: dict[str, object]
    orders: int
    http_status: dict[str, int]
    visits: dict[str, Probe]

    @property
    def end(self) -> Event:
        return self.feed[-1]


def visit(lab: Lab, name: str) -> Probe:
    """What a visitor gets who goes by public DNS."""
    host, _, port = lab.dns.server.rpartition(":")
    (found,) = Prober(Resolver([(host, int(port))])).follow_public([name])
    return found


@pytest.fixture(scope="module")
def issued(lab: Lab, certpilot: Installation, cloudflare: Cloudflare) -> dict[str, Issued]:
    """One site in each situation, all issued at once."""
    sites = {name: new_site(lab, server=lab.servers[n % 2]) for n, name in enumerate((*Mode, "page"))}
    sites["mixed"] = new_site(lab, aliases=1)
    page = sites["page"]
    page.server.add_site(page.domain, vhost=SINGLE_PAGE.format(domain=page.domain))
    for mode in Mode:
        put_behind(lab, cloudflare, sites[mode], mode=mode)
    put_behind(lab, cloudflare, page, mode=Mode.FULL)
    put_behind(lab, cloudflare, sites["mixed"], sites["mixed"].domain, mode=Mode.FLEXIBLE)
    certpilot.issue_all(*sites.values())
    certpilot.wait_until_active(*sites.values())
    return {
        name: Issued(
            site,
            certpilot.settled_feed(site),
            certpilot.view(site),
            len(orders_of(lab, site)),
            {one: get_http(site.server, one)[0] for one in site.names},
            {one: visit(lab, one) for one in site.names},
        )
        for name, site in sites.items()
    }


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.STRICT])
def test_redirect_comes_as_a_second_step_where_cloudflare_speaks_https(
    issued: dict[str, Issued], mode: Mode
) -> None:
    found = issued[mode]
    domain = found.site.domain
    assert found.orders == 1
    assert (found.view["attempt"], found.view["error_code"]) == (2, None)
    assert found.end.detail["error"] is None
    assert found.http_status[domain] == 301
    seen = found.visits[domain]
    assert (seen.error, seen.url, seen.status) == (None, f"https://{domain}/", 200)


@pytest.mark.parametrize("mode", [Mode.FLEXIBLE, Mode.OFF])
def test_site_that_cloudflare_reaches_over_http_becomes_active_without_a_redirect_and_says_what_to_set(
    issued: dict[str, Issued], mode: Mode
) -> None:
    found = issued[mode]
    domain = found.site.domain
    error = found.end.detail["error"]
    assert (found.end.status, error["code"]) == ("active", "CLOUDFLARE_FLEXIBLE_LOOP")
    assert error["fix"] == CATALOGUE[Code.CLOUDFLARE_FLEXIBLE_LOOP].fix
    assert "In Cloudflare set SSL/TLS to Full (strict)." in error["message"]
    assert (found.view["ssl_status"], found.view["job_state"]) == ("active", "succeeded")
    assert found.view["error_code"] == "CLOUDFLARE_FLEXIBLE_LOOP"
    assert (found.orders, found.view["attempt"]) == (1, 1)
    assert found.http_status[domain] == 200
    assert (found.visits[domain].error, found.visits[domain].status) == (None, 200)


def test_every_job_behind_cloudflare_ends_in_one_status_changed_and_none_is_called_a_wrong_server(
    issued: dict[str, Issued],
) -> None:
    for found in issued.values():
        changes = [event.status for event in found.feed if event.kind == "ssl.status.changed"]
        assert changes == ["pending", "active"]
        assert {event.code for event in found.feed} <= {None, "CLOUDFLARE_FLEXIBLE_LOOP"}


def test_site_whose_way_cannot_be_told_stays_without_a_redirect_and_nothing_is_called_wrong(
    issued: dict[str, Issued],
) -> None:
    found = issued["page"]
    assert (found.end.detail["error"], found.view["error_code"]) == (None, None)
    done = found.feed[-2]
    assert done.step == "done"
    assert "Turn on Always Use HTTPS in Cloudflare." in done.detail["message"]
    assert found.http_status[found.site.domain] == 200


def test_direct_name_of_the_same_certificate_gets_its_redirect_and_the_flexible_one_does_not(
    issued: dict[str, Issued],
) -> None:
    found = issued["mixed"]
    (alias,) = found.site.aliases
    assert found.end.code == "CLOUDFLARE_FLEXIBLE_LOOP"
    assert found.site.domain in found.end.detail["error"]["message"]
    assert alias not in found.end.detail["error"]["message"].replace(found.site.domain, "", 1)
    assert found.orders == 1
    assert found.http_status == {found.site.domain: 200, alias: 301}


def test_once_the_mode_is_changed_the_next_renewal_puts_the_redirect_in_and_has_nothing_left_to_tell(
    lab: Lab, certpilot: Installation, cloudflare: Cloudflare, issued: dict[str, Issued]
) -> None:
    found = issued[Mode.FLEXIBLE]
    site = found.site
    put_behind(lab, cloudflare, site, mode=Mode.STRICT)
    certpilot.renew(site, force=True)
    certpilot.wait_until_active(site, after=found.end.sequence)
    assert certpilot.view(site)["error_code"] is None
    wait_for_http(site.server, site.domain, 301)
    assert visit(lab, site.domain).status == 200
