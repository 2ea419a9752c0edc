"""A refusal corrects the bucket that it is about and no other; a failed run is charged as the CA charges it."""

from datetime import UTC, datetime

import pytest

from contracts.codes import Code
from workers.core.limits.buckets import LimitName
from workers.core.limits.costs import Order, OrderFate, Spend, spends_of_order, spends_of_registration
from workers.core.limits.profiles import builtin_profiles
from workers.core.limits.refusal import (
    failed_names,
    has_registered,
    refused_limit,
    refused_spends,
    unpause_link,
)
from workers.core.model import RunOutput
from workers.core.reading import read_run

LE = builtin_profiles().of("https://acme-v02.api.letsencrypt.org/directory")
NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
NAMES = ("shop.example.com", "badexample.com", "www.shop.example.com")
ORDER = Order(None, "server:203.0.113.7:22", NAMES, ("badexample.com", "example.com"))
SPENDS = (*spends_of_registration(LE, "2001:db8::7"), *spends_of_order(LE, ORDER, NOW))
SEE = ": see https://letsencrypt.org/docs/rate-limits/"
L = LimitName


def subjects(spends: tuple[Spend, ...]) -> set[tuple[LimitName, str]]:
    return {(one.limit.name, one.subject) for one in spends}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (f"too many new orders (300) from this account in the last 3h0m0s, retry after 2026-11-24 10:00:36 UTC{SEE}", L.ORDERS_PER_ACCOUNT),
        (f"too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after{SEE}", L.CERTIFICATES_PER_EXACT_SET),
        ("Error creating new order :: too many certificates already issued for exact set of domains: a,b", L.CERTIFICATES_PER_EXACT_SET),
        ("too many certificates (5) already issued for this exact\n  set of domains in the last 168 hours", L.CERTIFICATES_PER_EXACT_SET),
        (f'too many certificates (50) already issued for "example.com" in the last 168h0m0s{SEE}', L.CERTIFICATES_PER_REGISTERED_DOMAIN),
        ("too many certificates already issued for: example.com", L.CERTIFICATES_PER_REGISTERED_DOMAIN),
        (f'too many failed authorizations (5) for "shop.example.com" in the last 1h0m0s{SEE}', L.FAILURES_PER_NAME),
        ("Error creating new order :: too many failed authorizations recently", L.FAILURES_PER_NAME),
        ("too many new registrations (10) from this IP address in the last 3h0m0s", L.REGISTRATIONS_PER_ADDRESS),
        ("too many new registrations (500) from this /48 subnet of IPv6 addresses in the last 3h0m0s", L.REGISTRATIONS_PER_IPV6_RANGE),
        ("too many registrations for this IP", L.REGISTRATIONS_PER_ADDRESS),
        ("too many currently pending authorizations", None),
        ("The request exceeds a rate limit", None),  # smallstep
        ("Request rate limit exceeded for the account", None),  # another CA
    ],
)  # fmt: skip
def test_the_cas_words_name_the_limit(text: str, limit: LimitName | None) -> None:
    assert refused_limit(["urn:ietf:params:acme:error:rateLimited", text]) is limit


def test_failures_concern_the_name_that_is_shown_and_not_the_others_of_the_order() -> None:
    about = refused_spends(SPENDS, ["too many failed authorizations (5)"], ("shop.example.com",))
    assert subjects(about) == {(L.FAILURES_PER_NAME, "shop.example.com")}


def test_registered_domain_is_not_matched_by_the_end_of_its_letters() -> None:
    about = refused_spends(SPENDS, ["too many certificates (50) already issued for"], ("badexample.com",))
    assert subjects(about) == {(L.CERTIFICATES_PER_REGISTERED_DOMAIN, "badexample.com")}


@pytest.mark.parametrize("shown", [(), ("other.test",)])
def test_where_the_text_shows_no_name_of_the_order_every_bucket_of_the_limit_is_corrected(
    shown: tuple[str, ...],
) -> None:
    about = refused_spends(SPENDS, ["too many failed authorizations recently"], shown)
    assert {one.subject for one in about} == set(NAMES)


def test_refusal_in_unknown_words_corrects_nothing() -> None:
    assert refused_spends(SPENDS, ["Request rate limit exceeded"], NAMES) == ()


def test_orders_and_sets_are_one_bucket_each_whatever_names_are_shown() -> None:
    assert subjects(refused_spends(SPENDS, ["too many new orders"], NAMES)) == {
        (L.ORDERS_PER_ACCOUNT, "server:203.0.113.7:22")
    }
    assert len(refused_spends(SPENDS, ["exact set of identifiers"], NAMES)) == 1


def output(text: str) -> RunOutput:
    return RunOutput(1, text, "", "")


TWO_FAILURES = """\
Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
  Domain: shop.example.com
  Type:   connection
  Detail: 203.0.113.7: Fetching http://shop.example.com/.well-known/acme-challenge/x: Connection refused

  Domain: badexample.com
  Type:   dns
  Detail: DNS problem: NXDOMAIN looking up A for badexample.com - check that a DNS record exists for this domain
"""


def test_every_name_that_failed_is_charged_whichever_cause_decides() -> None:
    reading = read_run(output(TWO_FAILURES))
    assert failed_names(reading.findings, NAMES) == ("shop.example.com", "badexample.com")


def test_refusal_of_an_order_charges_no_name() -> None:
    reading = read_run(output("too many new orders (300) from this account in the last 3h0m0s"))
    assert failed_names(reading.findings, NAMES) == ()


def test_failure_that_shows_no_name_charges_all() -> None:
    text = "Some challenges have failed.\nDetail: 203.0.113.7: Fetching: Timeout during connect (likely firewall problem)"
    reading = read_run(output(text))
    assert reading.main.names == ()
    assert failed_names(reading.findings, NAMES) == NAMES


@pytest.mark.parametrize(
    ("fate", "code", "text", "registered"),
    [
        (OrderFate.ISSUED, None, "", True),
        (OrderFate.MADE, Code.CHALLENGE_FAILED, "", True),
        (OrderFate.UNKNOWN, Code.INTERRUPTED, "", True),
        (OrderFate.NOT_MADE, Code.SERVER_BUSY, "", False),
        (OrderFate.NOT_MADE, Code.INTERRUPTED, "", False),
        (OrderFate.NOT_MADE, Code.ACCOUNT_CONTACT_INVALID, "", False),
        (OrderFate.NOT_MADE, Code.TOO_MANY_REQUESTS, "too many new registrations (10) from this IP address", False),
        (OrderFate.NOT_MADE, Code.TOO_MANY_REQUESTS, "from this /48 subnet of IPv6 addresses", False),
        (OrderFate.NOT_MADE, Code.TOO_MANY_REQUESTS, "too many new orders (300) from this account", True),
        (OrderFate.NOT_MADE, Code.REJECTED_BY_CA, "forbidden by policy", True),
    ],
)  # fmt: skip
def test_a_registration_is_spent_where_the_ca_took_it(
    fate: OrderFate, code: Code | None, text: str, registered: bool
) -> None:
    assert has_registered(fate, code, [text]) is registered


def test_link_that_lifts_a_pause_is_found_whole_in_a_debug_log() -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9." + "a_-B9" * 120 + ".sig"
    link = f"https://portal.letsencrypt.org/sfe/v1/unpause?jwt={jwt}"
    log = f'  "detail": "Your account is temporarily prevented from requesting certificates for x. Please visit: {link}",\n'
    assert unpause_link(("nothing here", log)) == link
    assert unpause_link(("see https://letsencrypt.org/docs/rate-limits/",)) is None
