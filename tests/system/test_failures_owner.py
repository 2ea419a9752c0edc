"""What a site's owner has to mend: told before anything is ordered, re-checked free of cost, and it goes on by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.codes import Code
from deploy.lab import server_files
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.server import CustomerServer
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
from tests.support.installation import installed

pytestmark = pytest.mark.timeout(600)

# What depends on the visitor cannot be read out of a configuration: a file is placed, and fetched.
ANSWERING = """
server {{
    listen 80; listen [::]:80;
    server_name {domain};
    root /var/www/{domain};
    if ($remote_addr ~ .) {{ {answer} }}
}}
"""


def answering(answer: str) -> Step:
    """The site's server block answers every visitor so."""

    def break_it(case: Case) -> None:
        vhost = ANSWERING.format(domain=case.domain, answer=answer)
        case.server.add_site(case.domain, vhost=vhost)

    return break_it


def ordinary_vhost(case: Case) -> None:
    root = f"/var/www/{case.domain}"
    vhost = server_files.site((case.domain,), root, ipv6=case.server.has_ipv6)
    case.server.add_site(case.domain, vhost=vhost)


def another_server(case: Case) -> CustomerServer:
    return next(server for server in case.lab.servers[:2] if server is not case.server)


def point_right(case: Case) -> None:
    case.lab.point(*case.site.names, to=case.server)


def shown_elsewhere_to_the_ca(case: Case) -> None:
    case.lab.dns.show_to(case.lab.network.authority, case.domain, another_server(case).host)


def refused_to_the_ca(case: Case) -> None:
    case.lab.dns.set_aaaa(case.domain)  # the firewall of the lab tells IPv4 peers apart
    case.server.block(80, how="reject", source=case.lab.network.authority)


def seen_by_the_ca(kind: str, detail: str) -> Step:
    """The CA's own validators say so, in boulder's words (FACTS-certbot 3.3)."""

    def break_it(case: Case) -> None:
        case.lab.ca.production.fail_validation(
            case.domain, kind, detail.format(domain=case.domain, host=case.server.host)
        )

    return break_it


def validates_again(case: Case) -> None:
    case.lab.ca.production.let_validate(case.domain)


TROUBLES = (
    Trouble(
        "the name does not exist", Code.DNS_NOT_RESOLVING,
        lambda case: case.lab.dns.clear(case.domain), point_right,
        says=("{domain} does not exist in DNS", "{host}"),
    ),
    Trouble(
        "the nameservers fail", Code.DNS_NOT_RESOLVING,
        lambda case: case.lab.dns.set_servfail(case.domain),
        lambda case: case.lab.dns.set_servfail(case.domain, broken=False),
        says=("{domain} cannot be looked up: its nameservers fail",),
    ),
    Trouble(
        "the name points to another server", Code.DNS_WRONG_SERVER,
        lambda case: case.lab.point(case.domain, to=another_server(case)), point_right,
        says=("{domain}", "not this server ({host}"),
    ),
    Trouble(
        "one alias points to another server", Code.DNS_WRONG_SERVER,
        lambda case: case.lab.dns.set_a(case.site.aliases[0], another_server(case).host), point_right,
        says=("{alias}: its A record points to", "Change the A record to {host}"), aliases=2,
    ),
    Trouble(
        "the AAAA record alone points elsewhere", Code.DNS_WRONG_SERVER,
        lambda case: case.lab.dns.set_aaaa(case.domain, "2001:db8::1"), point_right,
        says=("{domain}: its AAAA record points to 2001:db8::1",),
    ),
    Trouble(
        "a firewall drops port 80", Code.PORT_80_BLOCKED,
        lambda case: case.server.block(80), lambda case: case.server.unblock(80),
        says=("port 80 of {host} did not answer in time (likely a firewall)",), own_server=True,
    ),
    Trouble(
        "nginx is there but not running", Code.PORT_80_BLOCKED,
        lambda case: case.server.nginx.stop(), lambda case: case.server.nginx.start(),
        says=("nginx is installed on the server, but is not running", "systemctl start nginx"), own_server=True,
    ),
    Trouble(
        "the CA alone is refused at port 80", Code.PORT_80_BLOCKED,
        refused_to_the_ca, lambda case: case.server.unblock(80),
        says=("{domain}",), orders=1, attempts=1, orders_after=2, own_server=True,
    ),
    Trouble(
        "port 80 redirects to a dead port 443", Code.PORT_443_BLOCKED,
        answering("return 301 https://$host$request_uri;"), ordinary_vhost,
        says=("port 80 redirects to https://{domain}, but port 443",), own_server=True,
    ),
    Trouble(
        "the challenge is answered with something else", Code.CHALLENGE_FAILED,
        answering("return 403;"), ordinary_vhost,
        says=("answered 403 instead of the test file", "plain files"),
    ),
    Trouble(
        "the CA is shown another address than we are", Code.CHALLENGE_FAILED,
        shown_elsewhere_to_the_ca,
        lambda case: case.lab.dns.show_to(case.lab.network.authority, case.domain),
        says=("{domain}",), orders=1, attempts=1, orders_after=2,
    ),
    Trouble(
        "only the CA's far vantage points are refused", Code.GEO_BLOCKED,
        seen_by_the_ca(
            "unauthorized",
            "During secondary validation: {host}: Invalid response from http://{domain}/.well-known/acme-challenge/x: 403",
        ),
        validates_again,
        says=("{domain}",), orders=1, attempts=1, orders_after=2,
    ),
    Trouble(
        "the site redirects in a circle", Code.REDIRECT_LOOP,
        answering("return 301 http://$host$request_uri;"), ordinary_vhost,
        says=("{domain}: it redirects in a circle",),
    ),
    Trouble(
        "CAA forbids every CA", Code.CAA_FORBIDS,
        lambda case: case.lab.dns.set_caa(case.domain, ";"), lambda case: case.lab.dns.set_caa(case.domain),
        says=('The CAA records of {domain} (0 issue ";")', 'Add `0 issue "ca.lab.test"`'),
    ),
    Trouble(
        "CAA names another CA only", Code.CAA_FORBIDS,
        lambda case: case.lab.dns.set_caa(case.domain, "another-ca.test"),
        lambda case: case.lab.dns.set_caa(case.domain, "another-ca.test", "ca.lab.test"),
        says=('0 issue "another-ca.test"',),
    ),
    Trouble(
        "the CA itself sees a CAA record that forbids it", Code.CAA_FORBIDS,
        seen_by_the_ca("caa", "While processing CAA for {domain}: CAA record for {domain} prevents issuance"),
        validates_again,
        says=("{domain}",), orders=1, attempts=1, orders_after=2,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def stories(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode, logs: Path) -> Iterator[dict[str, Story]]:
    with (
        installed(lab, postgres, rabbit, template=TEMPLATE) as certpilot,
        borrowed_servers(lab) as servers,
        ca_clock_put_back(lab),
        all_roles(certpilot, logs / "roles.log"),
    ):
        yield go_through(lab, certpilot, servers, TROUBLES)


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_owners_trouble_is_told_exactly_and_looked_at_again_in_a_minute(
    stories: dict[str, Story], trouble: Trouble
) -> None:
    check_told(stories[trouble.name])


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_site_goes_through_by_itself_once_its_owner_has_mended_it(
    stories: dict[str, Story], trouble: Trouble
) -> None:
    check_mended(stories[trouble.name])
