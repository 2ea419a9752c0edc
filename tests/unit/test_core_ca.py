"""CA profiles as data, and which buckets an order touches."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from workers.core.limits.buckets import LimitName
from workers.core.limits.costs import (
    Order,
    OrderFate,
    PaidBy,
    exact_set_hash,
    is_renewal,
    reset_by_success,
    spends_of_failure,
    spends_of_order,
    spends_of_registration,
)
from workers.core.limits.profiles import CaLimitsError, builtin_profiles, parse_ca_limits

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
PRODUCTION = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
ACCOUNT = "https://acme-v02.api.letsencrypt.org/acme/acct/1"
LE = builtin_profiles().of(PRODUCTION)
NAMES = ("shop.example.com", "www.shop.example.com")
NEW = Order(ACCOUNT, "server:203.0.113.7:22", NAMES, ("example.com",))
RENEWAL = Order(ACCOUNT, "server:203.0.113.7:22", NAMES, ("example.com",), NOW - timedelta(days=60))


def _figures(url: str) -> dict[str, tuple[int, int, int]]:
    limits = builtin_profiles().of(url).limits
    return {name: (limit.count, limit.period_seconds, limit.burst) for name, limit in limits.items()}


def test_lets_encrypts_published_figures() -> None:
    """letsencrypt.org/docs/rate-limits, page of 2026-08-05."""
    assert _figures(PRODUCTION) == {
        "registrations_per_address": (10, 3 * 3600, 10),
        "registrations_per_ipv6_range": (500, 3 * 3600, 500),
        "orders_per_account": (300, 3 * 3600, 300),
        "certificates_per_registered_domain": (50, 7 * 86400, 50),
        "certificates_per_exact_set": (5, 7 * 86400, 5),
        "failures_per_name": (5, 3600, 5),
        "consecutive_failures_per_name": (1, 86400, 1152),
    }
    assert LE.names_per_certificate == 100


def test_stagings_figures_are_its_own() -> None:
    """letsencrypt.org/docs/staging-environment, page of 2026-04-10."""
    figures = _figures(STAGING)
    assert figures["failures_per_name"] == (200, 3600, 200)
    assert figures["orders_per_account"] == (1500, 3 * 3600, 1500)
    assert figures["certificates_per_exact_set"] == (30000, 7 * 86400, 30000)


def test_another_ca_has_no_limits_so_an_order_there_spends_nothing() -> None:
    profile = builtin_profiles().of("https://pebble.example:14000/dir")
    assert (profile.limits, profile.names_per_certificate) == ({}, None)
    assert spends_of_order(profile, NEW, NOW) == ()


def test_a_directory_is_found_however_its_host_is_written() -> None:
    assert builtin_profiles().of("HTTPS://ACME-v02.api.letsencrypt.org/directory/").limits


def test_a_file_replaces_the_profile_of_its_directory_and_leaves_the_others() -> None:
    other = parse_ca_limits(json.dumps({"cas": [{"directory_url": PRODUCTION}]}))
    merged = builtin_profiles().overridden_by(other)
    assert merged.of(PRODUCTION).limits == {}
    assert merged.of(STAGING).limits


def _file(**changes: Any) -> str:
    limits = {"orders_per_account": {"count": 3, "period_seconds": 60}}
    return json.dumps({"cas": [{"directory_url": "http://ca.test/dir", "limits": limits, **changes}]})


def test_a_small_file_is_enough() -> None:
    profile = parse_ca_limits(_file()).of("http://ca.test/dir")
    limit = profile.limits[LimitName.ORDERS_PER_ACCOUNT]
    assert (limit.count, limit.period_seconds, limit.burst, profile.name) == (3, 60, 3, "ca.test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ("[]", "the file: must be an object"),
        ("{}", "the file.cas: is missing"),
        ('{"cas": {}}', "cas: must be a list"),
        ('{"cas": [], "ca": 1}', "the file.ca: not known; there is as_of, cas, source"),
        ('{"cas": [3]}', "cas[0]: must be an object"),
        ('{"cas": [{}]}', "cas[0].directory_url: is missing"),
        (_file(directory_url="ca.test"), "cas[0].directory_url: must be an http or https URL, not 'ca.test'"),
        (_file(name=3), "cas[0].name: must be a text, not 3"),
        (_file(names_per_certificate=0), "cas[0].names_per_certificate: must be a whole number above 0, not 0"),
        (_file(renewal_days=1.5), "cas[0].renewal_days: must be a whole number above 0, not 1.5"),
        (_file(limit={}), "cas[0].limit: not known; there is directory_url, "),
        (_file(limits=[]), "cas[0].limits: must be an object"),
        (_file(limits={"orders": {}}), "cas[0].limits.orders: not known; there is certificates_per_exact_set, "),
        (_file(limits={"failures_per_name": {"count": 1}}), "cas[0].limits.failures_per_name.period_seconds: is missing"),
        (
            _file(limits={"failures_per_name": {"count": True, "period_seconds": 1}}),
            "cas[0].limits.failures_per_name.count: must be a whole number above 0, not True",
        ),
        (
            json.dumps({"cas": [{"directory_url": "http://ca.test/a"}, {"directory_url": "http://CA.test/a/"}]}),
            "cas[1].directory_url: http://ca.test/a is there twice",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_field_and_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(CaLimitsError) as caught:
        parse_ca_limits(text)
    assert str(caught.value).startswith(message)


def _touched(spends: tuple[Any, ...]) -> list[tuple[str, str, bool]]:
    return [(spend.limit.name, spend.key.removeprefix(PRODUCTION + "|"), spend.only_asks) for spend in spends]


def test_a_new_order_touches_account_domain_set_and_each_names_failures() -> None:
    assert _touched(spends_of_order(LE, NEW, NOW)) == [
        ("orders_per_account", ACCOUNT, False),
        ("certificates_per_registered_domain", "example.com", False),
        ("certificates_per_exact_set", exact_set_hash(NAMES), False),
        ("failures_per_name", f"{ACCOUNT}|shop.example.com", True),
        ("consecutive_failures_per_name", f"{ACCOUNT}|shop.example.com", True),
        ("failures_per_name", f"{ACCOUNT}|www.shop.example.com", True),
        ("consecutive_failures_per_name", f"{ACCOUNT}|www.shop.example.com", True),
    ]


def test_a_renewal_of_an_unchanged_set_is_spared_orders_and_domain_but_not_set_and_failures() -> None:
    names = {spend.limit.name for spend in spends_of_order(LE, RENEWAL, NOW)}
    assert names == {
        LimitName.CERTIFICATES_PER_EXACT_SET,
        LimitName.FAILURES_PER_NAME,
        LimitName.CONSECUTIVE_FAILURES_PER_NAME,
    }


@pytest.mark.parametrize(("days", "renewal"), [(0, True), (119, True), (120, False), (400, False)])
def test_a_set_is_a_renewal_for_120_days(days: int, renewal: bool) -> None:
    order = Order(ACCOUNT, "server:a:22", NAMES, (), NOW - timedelta(days=days))
    assert is_renewal(LE, order, NOW) == renewal
    assert not is_renewal(LE, NEW, NOW)


def test_until_the_account_is_known_the_server_stands_for_it() -> None:
    order = Order(None, "server:203.0.113.7:22", NAMES, ("example.com",))
    first = spends_of_order(LE, order, NOW)[0]
    assert first.key == f"{PRODUCTION}|server:203.0.113.7:22"


def test_no_two_limits_of_an_order_share_a_bucket() -> None:
    spends = spends_of_order(LE, NEW, NOW)
    assert len({(spend.limit.name, spend.key) for spend in spends}) == len(spends)


def test_the_exact_set_ignores_order_case_and_repetition() -> None:
    assert exact_set_hash(("b.test", "A.test")) == exact_set_hash(("a.test", "b.test", "a.test"))
    assert exact_set_hash(("a.test",)) != exact_set_hash(("a.test", "b.test"))


def test_production_and_staging_share_no_bucket() -> None:
    staging = builtin_profiles().of(STAGING)
    keys = {spend.key for spend in spends_of_order(LE, NEW, NOW)}
    assert keys.isdisjoint(spend.key for spend in spends_of_order(staging, NEW, NOW))


@pytest.mark.parametrize(
    ("fate", "spent"),
    [
        (OrderFate.NOT_MADE, set()),
        (OrderFate.MADE, {PaidBy.ORDER}),
        (OrderFate.ISSUED, {PaidBy.ORDER, PaidBy.CERTIFICATE}),
        (OrderFate.UNKNOWN, {PaidBy.ORDER, PaidBy.CERTIFICATE}),
    ],
)
def test_what_the_ca_took_depends_on_how_far_the_order_came(fate: OrderFate, spent: set[PaidBy]) -> None:
    """A failed validation costs an order and a failure, not a certificate; in doubt everything was taken."""
    assert {spend.paid_by for spend in spends_of_order(LE, NEW, NOW) if spend.is_spent(fate)} == spent


def test_a_failed_validation_costs_only_the_names_that_failed() -> None:
    spends = spends_of_failure(LE, ACCOUNT, ("www.shop.example.com",))
    assert {spend.key for spend in spends} == {f"{PRODUCTION}|{ACCOUNT}|www.shop.example.com"}
    assert [spend.limit.name for spend in reset_by_success(LE, ACCOUNT, NAMES)] == [
        LimitName.CONSECUTIVE_FAILURES_PER_NAME
    ] * 2


@pytest.mark.parametrize(
    ("address", "keys"),
    [
        ("203.0.113.7", ["203.0.113.7"]),
        ("2001:db8:1:2::3", ["2001:db8:1:2::3", "2001:db8:1::/48"]),
        ("web1.example.net", ["web1.example.net"]),
    ],
)
def test_a_registration_is_counted_where_it_comes_from(address: str, keys: list[str]) -> None:
    assert [spend.key.removeprefix(PRODUCTION + "|") for spend in spends_of_registration(LE, address)] == keys
