"""The preflight's checks of names: each verdict with its exact sentence, and what follows from it."""

from dataclasses import replace
from typing import Any

import pytest

from contracts.codes import Code
from tests.support.preflight import (
    APP,
    CLOUDFLARE,
    ELSEWHERE,
    OWN,
    OWN6,
    SHOP,
    dns,
    failing,
    good,
    probe,
    served,
    unsure,
    without_file,
)
from workers.core.model import Authenticator
from workers.core.preflight.judge import Observations, Verdict, judge, judge_redirect
from workers.core.preflight.observed import (
    CaaAnswer,
    CaaRecord,
    ConnectError,
    DnsStatus,
    Hop,
    ProbeError,
    TcpResult,
)
from workers.core.preflight.server_facts import Account


def names_of(o: Observations) -> tuple[Code | None, tuple[str, ...], str]:
    result = failing(o)
    return result.code, result.names, result.message


NAME_FAILURES: dict[str, tuple[dict[str, Any], Code, str]] = {
    "a name that does not exist": (
        {"dns": {"shop.example": dns(DnsStatus.NXDOMAIN, DnsStatus.NXDOMAIN)}, "probes": ()},
        Code.DNS_NOT_RESOLVING,
        "shop.example does not exist in DNS. Create an A record that points to the server's address 192.0.2.7, or leave the name out of the request.",
    ),
    "a name without an address": (
        {"dns": {"shop.example": dns(())}, "probes": ()},
        Code.DNS_NOT_RESOLVING,
        "shop.example has neither an A nor an AAAA record. Create an A record that points to the server's address 192.0.2.7, or leave the name out of the request.",
    ),
    "nameservers that fail": (
        {"dns": {"shop.example": dns(DnsStatus.SERVFAIL, DnsStatus.SERVFAIL)}, "probes": ()},
        Code.DNS_NOT_RESOLVING,
        "shop.example cannot be looked up: its nameservers fail. See that the domain's nameservers answer and that DNSSEC is in order.",
    ),
    "another server's address": (
        {"dns": {"shop.example": dns((ELSEWHERE,))}, "probes": (probe(address=ELSEWHERE, status=404),)},
        Code.DNS_WRONG_SERVER,
        ("shop.example: its A record points to 192.0.2.99, which is not this server (192.0.2.7, 2001:db8::7). "
        "Change the A record to 192.0.2.7, or leave the name out of the request."),
    ),
    "another server's address that refuses": (
        {"dns": {"shop.example": dns((ELSEWHERE,))}, "probes": (probe(address=ELSEWHERE, error=ProbeError.REFUSED),)},
        Code.DNS_WRONG_SERVER,
        ("shop.example: its A record points to 192.0.2.99, which is not this server (192.0.2.7, 2001:db8::7). "
        "Change the A record to 192.0.2.7, or leave the name out of the request."),
    ),
    "a public address of a server behind NAT that answers otherwise": (
        {"addresses": ("10.0.0.5",), "dns": {"shop.example": dns(("8.8.8.8",))}, "probes": (probe(address="8.8.8.8", status=404),)},
        Code.DNS_WRONG_SERVER,
        ("shop.example: its A record points to 8.8.8.8, which is not this server (10.0.0.5). "
        "Point it to the server's public address; if it is that already, open port 80 there and name it in publicAddresses."),
    ),
    "a forgotten AAAA record that the worker cannot reach": (
        {"addresses": (OWN,), "dns": {"shop.example": dns((OWN,), ("2001:db8::99",))},
         "probes": (served(), probe(address="2001:db8::99", error=ProbeError.NO_ROUTE))},
        Code.DNS_WRONG_SERVER,
        ("shop.example: its AAAA record points to 2001:db8::99, which is not this server (192.0.2.7). "
        "Remove the AAAA record, since this server has no such address, or name it in publicAddresses if it has."),
    ),
    "a second address that leads elsewhere": (
        {"dns": {"shop.example": dns((OWN, ELSEWHERE))}, "probes": (served(), probe(address=ELSEWHERE, error=ProbeError.CONNECT_TIMEOUT))},
        Code.DNS_WRONG_SERVER,
        ("shop.example: its A record points to 192.0.2.99, which is not this server (192.0.2.7, 2001:db8::7). "
        "Change the A record to 192.0.2.7, or leave the name out of the request."),
    ),
    "a CAA record for another CA": (
        {"dns": {"shop.example": dns(caa=CaaAnswer(DnsStatus.ANSWER, "example", (CaaRecord(0, "issue", "other.example"),)))}},
        Code.CAA_FORBIDS,
        ('The CAA records of example (0 issue "other.example") forbid this CA for shop.example. '
        'Add `0 issue "letsencrypt.org"` there, or remove them.'),
    ),
    "a closed port 80": (
        {"probes": (probe(error=ProbeError.REFUSED),)},
        Code.PORT_80_BLOCKED,
        "shop.example: port 80 of 192.0.2.7 refused the connection. Open port 80 for everyone in the server's firewall and at its provider.",
    ),
    "a dropped port 80": (
        {"probes": (probe(error=ProbeError.CONNECT_TIMEOUT),)},
        Code.PORT_80_BLOCKED,
        "shop.example: port 80 of 192.0.2.7 did not answer in time (likely a firewall). Open port 80 for everyone in the server's firewall and at its provider.",
    ),
    "a firewall that says so": (
        {"probes": (probe(error=ProbeError.HOST_UNREACHABLE),)},
        Code.PORT_80_BLOCKED,
        "shop.example: port 80 of 192.0.2.7 cannot be reached (host unreachable, likely a firewall). Open port 80 for everyone in the server's firewall and at its provider.",
    ),
    "nginx that is not running": (
        {"probes": (probe(error=ProbeError.REFUSED),), "nginx_running": False, "port80_listeners": ()},
        Code.PORT_80_BLOCKED,
        ("shop.example: port 80 of 192.0.2.7 refused the connection: nginx is installed on the server, but is not running. "
        "Start it (systemctl start nginx) and see that it starts with the server."),
    ),
    "nginx on another port": (
        {"probes": (probe(error=ProbeError.REFUSED),), "port80_listeners": ()},
        Code.PORT_80_BLOCKED,
        "shop.example: port 80 of 192.0.2.7 refused the connection: no program listens on it. Let nginx listen on port 80.",
    ),
    "a redirect to a closed port 443": (
        {"probes": (probe(error=ProbeError.REFUSED, to="https://shop.example/.well-known/acme-challenge/T"),)},
        Code.PORT_443_BLOCKED,
        ("shop.example: port 80 redirects to https://shop.example, but port 443 of 192.0.2.7 refused the connection. "
        "Open port 443, or remove the redirect until the certificate is there."),
    ),
    "a redirect to a port 443 without TLS": (
        {"probes": (probe(error=ProbeError.TLS, to="https://shop.example/.well-known/acme-challenge/T"),)},
        Code.PORT_443_BLOCKED,
        ("shop.example: port 80 redirects to https://shop.example, but port 443 of 192.0.2.7 does not answer with TLS. "
        "Open port 443, or remove the redirect until the certificate is there."),
    ),
    "a redirect in a circle": (
        {"probes": (probe(error=ProbeError.LOOP, to="https://shop.example/x"),)},
        Code.REDIRECT_LOOP,
        "shop.example: it redirects in a circle (https://shop.example/x). Remove the redirect that leads back to itself; look at the web server and the application.",
    ),
    "another answer": (
        {"probes": (probe(status=404),)},
        Code.CHALLENGE_FAILED,
        ("shop.example: http://shop.example/.well-known/acme-challenge/T at 192.0.2.7 answered 404 instead of the test file. "
        "Let /.well-known/acme-challenge/ be served as plain files, without login, rewrite or application in front."),
    ),
    "a page in place of the file": (
        {"probes": (probe(status=200, body="<!doctype html>\n<title>Shop</title>"),)},
        Code.CHALLENGE_FAILED,
        ("shop.example: http://shop.example/.well-known/acme-challenge/T at 192.0.2.7 answered with another text than the test file's "
        "(“<!doctype html> <title>Shop</title>”). "
        "Let /.well-known/acme-challenge/ be served as plain files, without login, rewrite or application in front."),
    ),
    "HTTP/2 on port 80": (
        {"probes": (probe(error=ProbeError.HTTP2),)},
        Code.CHALLENGE_FAILED,
        ("shop.example: 192.0.2.7 speaks HTTP/2 without TLS (http://shop.example/.well-known/acme-challenge/T). "
        "Let /.well-known/acme-challenge/ be served as plain files, without login, rewrite or application in front."),
    ),
    "Cloudflare with Full (strict)": (
        {"dns": {"shop.example": dns((CLOUDFLARE,))}, "probes": (probe(address=CLOUDFLARE, status=526),)},
        Code.CLOUDFLARE_STRICT_ORIGIN,
        ("shop.example: Cloudflare answers 526: it wants HTTPS with a valid certificate from the server, which has none yet. "
        "In Cloudflare set SSL/TLS to Full, or the name to DNS only, until the certificate is there; then set Full (strict)."),
    ),
    "Cloudflare that gets no answer": (
        {"dns": {"shop.example": dns((CLOUDFLARE,))}, "probes": (probe(address=CLOUDFLARE, status=522),)},
        Code.CLOUDFLARE_ORIGIN_DOWN,
        ("shop.example: Cloudflare answers 522: it gets no answer from the server. "
        "Let Cloudflare's addresses through the firewall and see that nginx answers on the port that Cloudflare uses."),
    ),
    "Cloudflare in a circle": (
        {"dns": {"shop.example": dns((CLOUDFLARE,))}, "probes": (probe(address=CLOUDFLARE, error=ProbeError.LOOP, to="https://shop.example/"),)},
        Code.CLOUDFLARE_FLEXIBLE_LOOP,
        ("shop.example: the redirect to HTTPS goes in a circle through Cloudflare (https://shop.example/). "
        "In Cloudflare set SSL/TLS to Full (not Flexible), or the name to DNS only until the certificate is there."),
    ),
    "Cloudflare by its headers alone": (
        {"dns": {"shop.example": dns((ELSEWHERE,))}, "probes": (probe(address=ELSEWHERE, status=403, headers={"server": "cloudflare"}),)},
        Code.CHALLENGE_FAILED,
        ("shop.example: http://shop.example/.well-known/acme-challenge/T at 192.0.2.99 answered 403 instead of the test file. "
        "See in Cloudflare that the record holds the server's address and that no rule or bot check stops /.well-known/acme-challenge/."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAME_FAILURES)
def test_what_the_owner_has_to_mend_is_told(case: str) -> None:
    changes, code, message = NAME_FAILURES[case]
    assert names_of(good(**changes)) == (code, ("shop.example",), message)


@pytest.mark.parametrize("status", [520, 521, 522, 523, 524, 530])
def test_the_cloudflare_statuses_for_a_dead_origin(status: int) -> None:
    o = good(dns={"shop.example": dns((CLOUDFLARE,))}, probes=(probe(address=CLOUDFLARE, status=status),))
    assert failing(o).code is Code.CLOUDFLARE_ORIGIN_DOWN


def test_a_differing_address_that_serves_the_file_is_fine() -> None:
    """NAT and floating addresses: only the probe decides."""
    o = good(dns={"shop.example": dns((ELSEWHERE,))}, probes=(served(address=ELSEWHERE),))
    assert judge(o).blocking is None
    assert judge(o).webroots == ("/srv/shop",)


@pytest.mark.parametrize("source", [{"public_addresses": (ELSEWHERE,)}, {"ssh_addresses": (ELSEWHERE,)}])
def test_an_address_told_by_the_command_or_used_by_ssh_is_the_servers(source: dict[str, Any]) -> None:
    o = good(
        dns={"shop.example": dns((ELSEWHERE,))}, probes=(probe(address=ELSEWHERE, status=404),), **source
    )
    assert failing(o).code is Code.CHALLENGE_FAILED


@pytest.mark.parametrize("address", [OWN6, "2606:4700::1"])
def test_a_family_out_of_the_workers_reach_is_unsure_where_the_address_is_the_servers_or_cloudflares(
    address: str,
) -> None:
    o = good(
        dns={"shop.example": dns((OWN,), (address,))},
        probes=(served(), probe(address=address, error=ProbeError.NO_ROUTE)),
    )
    assert unsure(o) == [f"shop.example: {address} cannot be reached from here."]
    assert judge(o).webroots == ("/srv/shop",)


def test_without_any_known_address_nothing_is_compared() -> None:
    o = good(addresses=(), probes=(probe(status=404),))
    assert failing(o).code is Code.CHALLENGE_FAILED


@pytest.mark.parametrize("error", [ProbeError.READ_TIMEOUT, ProbeError.IP_TARGET])
@pytest.mark.parametrize("address", [OWN, ELSEWHERE])
def test_what_the_ca_might_take_after_all_is_unsure(error: ProbeError, address: str) -> None:
    o = good(dns={"shop.example": dns((address,))}, probes=(probe(address=address, error=error),))
    assert len(unsure(o)) == 1
    assert judge(o).authenticator is Authenticator.NGINX


def test_a_redirect_out_of_the_workers_reach_is_unsure() -> None:
    o = good(probes=(probe(error=ProbeError.NO_ROUTE, to="https://six.example/"),))
    assert unsure(o) == ["shop.example: 192.0.2.7 leads to where this worker has no way."]


def test_what_a_redirect_target_says_is_not_shown() -> None:
    """A customer's redirect may lead into the worker's own network; only the answer of the name's address is quoted."""
    found = probe(status=200, body="secret", to="http://inner.example/")
    found = replace(found, hops=(found.hops[0], Hop("http://inner.example/", "10.0.0.1", 200)))
    assert "secret" not in failing(good(probes=(found,))).message


@pytest.mark.parametrize("status", [DnsStatus.NO_REPLY])
def test_a_silent_resolver_is_unsure(status: DnsStatus) -> None:
    assert unsure(good(dns={"shop.example": dns(status, status)}, probes=())) == [
        "No resolver answered for shop.example."
    ]


def test_one_family_that_fails_does_not_matter_where_the_other_has_an_address() -> None:
    assert judge(good(dns={"shop.example": dns((OWN,), DnsStatus.SERVFAIL)})).blocking is None


def test_a_name_of_which_one_address_fails_proves_no_directory() -> None:
    o = good(
        dns={"shop.example": dns((OWN, ELSEWHERE))}, probes=(served(), probe(address=ELSEWHERE, status=404))
    )
    assert (judge(o).authenticator, judge(o).webroots) == (Authenticator.NGINX, ())


def test_one_bad_alias_makes_the_job_wait_and_is_named() -> None:
    o = good(
        names=("shop.example", "www.shop.example"),
        dns={"shop.example": dns(), "www.shop.example": dns((ELSEWHERE,))},
        probes=(served(), probe("www.shop.example", ELSEWHERE, status=404)),
        roots={"shop.example": SHOP, "www.shop.example": SHOP},
    )
    found = judge(o)
    assert found.blocking
    assert (found.blocking.code, found.blocking.names) == (Code.DNS_WRONG_SERVER, ("www.shop.example",))
    assert found.blocking.message.startswith("www.shop.example: ")


def test_many_bad_names_are_cut_to_five_in_the_message_and_all_listed() -> None:
    names = tuple(f"n{i}.example" for i in range(8))
    o = good(
        names=names,
        dns={n: dns(DnsStatus.NXDOMAIN, DnsStatus.NXDOMAIN) for n in names},
        nginx_config="",
        probes=(),
    )
    result = failing(o)
    assert result.names == names
    assert "n4.example does not exist in DNS; and 3 more. Create" in result.message
    assert "n5.example" not in result.message


def test_of_several_failures_the_admins_comes_first_then_dns_then_ports_then_the_challenge() -> None:
    names = ("shop.example", "www.shop.example", "app.example")
    o = good(
        names=names,
        dns={names[0]: dns(DnsStatus.NXDOMAIN, DnsStatus.NXDOMAIN), names[1]: dns(), names[2]: dns()},
        probes=(probe(names[1], error=ProbeError.REFUSED), probe(names[2], status=404)),
        disk_free_kb={"etc": 1},
    )
    found = judge(o)
    codes = [r.code for r in found.results if r.verdict is Verdict.FAIL]
    assert codes == [Code.DISK_FULL, Code.DNS_NOT_RESOLVING, Code.PORT_80_BLOCKED, Code.CHALLENGE_FAILED]
    assert found.blocking
    assert found.blocking.code is Code.DISK_FULL
    assert len(found.blocking.evidence) == 3


def test_a_proxying_block_is_answered_by_the_nginx_plugin() -> None:
    o = good(**APP, probes=(without_file(probe("app.example", status=502)),))
    assert judge(o).blocking is None
    assert (judge(o).authenticator, judge(o).webroots) == (Authenticator.NGINX, ())


def test_one_name_without_a_directory_puts_the_whole_run_on_the_nginx_plugin() -> None:
    o = good(
        names=("shop.example", "app.example"),
        dns={"shop.example": dns(), "app.example": dns()},
        probes=(served(), without_file(probe("app.example"))),
        roots={"shop.example": SHOP},
    )
    assert (judge(o).blocking, judge(o).authenticator) == (None, Authenticator.NGINX)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"probes": (without_file(probe("app.example", error=ProbeError.CONNECT_TIMEOUT)),)}, Code.PORT_80_BLOCKED),
        ({"probes": (), "tcp80": (TcpResult(OWN, 80, ConnectError.REFUSED),)}, Code.PORT_80_BLOCKED),
        ({"probes": (), "tcp80": (TcpResult(OWN, 80, None),)}, None),
        ({"probes": (), "tcp80": ()}, None),
        ({"dns": {"app.example": dns((ELSEWHERE,))}, "probes": (without_file(probe("app.example", ELSEWHERE)),)}, Code.DNS_WRONG_SERVER),
        ({"addresses": ("10.0.0.5",), "dns": {"app.example": dns(("8.8.8.8",))}, "probes": (without_file(probe("app.example", "8.8.8.8")),)}, None),
        ({"probes": (without_file(probe("app.example", error=ProbeError.REFUSED, to="https://app.example/")),)}, None),
        ({"probes": (without_file(probe("app.example", error=ProbeError.LOOP, to="https://app.example/")),)}, None),
        ({"dns": {"app.example": dns((CLOUDFLARE,))}, "probes": (without_file(probe("app.example", CLOUDFLARE, status=526)),)},
         Code.CLOUDFLARE_STRICT_ORIGIN),
        ({"dns": {"app.example": dns((CLOUDFLARE,))}, "probes": (without_file(probe("app.example", CLOUDFLARE, status=404)),)}, None),
    ],
)  # fmt: skip
def test_without_a_file_port_80_and_addresses_decide(changes: dict[str, Any], code: Code | None) -> None:
    found = judge(good(**(APP | changes)))
    assert (found.blocking.code if found.blocking else None) is code


def test_a_name_behind_cloudflare_is_issued_without_redirect_first() -> None:
    o = good(dns={"shop.example": dns((CLOUDFLARE,))}, probes=(served(address=CLOUDFLARE),))
    found = judge(o)
    assert (found.blocking, found.proxied, found.redirect_now) == (None, ("shop.example",), False)
    assert found.authenticator is Authenticator.WEBROOT


def test_a_caa_record_bound_to_the_servers_account_is_fine() -> None:
    bound = CaaAnswer(
        DnsStatus.ANSWER, "example", (CaaRecord(0, "issue", "letsencrypt.org; accounturi=https://ca/1"),)
    )
    o = good(dns={"shop.example": dns(caa=bound)}, accounts=(Account("ca/dir", "x", "https://ca/1"),))
    assert judge(o).blocking is None
    assert unsure(good(dns={"shop.example": dns(caa=bound)})) == [
        "It could not be told whether CAA records forbid this CA for shop.example."
    ]


def test_a_circle_after_installing_is_told_with_the_setting_to_change() -> None:
    behind = replace(
        probe(address=CLOUDFLARE, error=ProbeError.LOOP, to="https://shop.example/"), matches=None
    )
    problem = judge_redirect([behind])
    assert problem
    assert problem.code is Code.CLOUDFLARE_FLEXIBLE_LOOP
    assert problem.message == (
        "Visitors of shop.example go in a circle: Cloudflare speaks HTTP to the server (Flexible), which redirects to HTTPS. "
        "In Cloudflare set SSL/TLS to Full (strict): the server has a certificate now."
    )
    direct = judge_redirect([probe(error=ProbeError.TOO_MANY_REDIRECTS, to="https://shop.example/")])
    assert direct
    assert (direct.code, direct.names) == (Code.REDIRECT_LOOP, ("shop.example",))
    assert judge_redirect([probe(status=200), probe(error=ProbeError.REFUSED)]) is None
