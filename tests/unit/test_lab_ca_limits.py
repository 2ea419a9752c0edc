"""The lab's limits are Let's Encrypt's: figures, arithmetic and words."""

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.lab.ca_limits import (
    LETS_ENCRYPT,
    LETS_ENCRYPT_STAGING,
    CaLimits,
    Figure,
    LimitName,
    Refusal,
    as_setting,
    go_duration,
)
from workers.core.limits import buckets as ours
from workers.core.limits.profiles import builtin_profiles, parse_ca_limits
from workers.settings import LETS_ENCRYPT as DIRECTORY

NOW = 1_795_564_800.0  # 2026-11-25 00:00:00 UTC


def limits(figures: Mapping[LimitName, Figure] = LETS_ENCRYPT, draw: float = 0.0) -> CaLimits:
    return CaLimits(figures, registered_domain=lambda name: ".".join(name.split(".")[-2:]), draw=lambda: draw)


def refusals(ca: CaLimits, orders: Iterable[tuple[str, ...]], now: float = NOW) -> list[Refusal | None]:
    return [ca.new_order("acct", names, now) for names in orders]


def test_sixth_certificate_for_an_exact_set_is_refused_in_the_words_of_boulder() -> None:
    ca = limits()
    for _ in range(5):
        assert ca.new_order("acct", ["a.test", "www.a.test"], NOW) is None
        ca.issued(["www.a.test", "a.test"], NOW)
    refusal = ca.new_order("acct", ["a.test", "www.a.test"], NOW)
    assert refusal == Refusal(
        LimitName.CERTIFICATES_PER_SET,
        "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, "
        "retry after 2026-11-26 09:36:00 UTC: "
        "see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers",
        120960,  # 7 days / 5
    )
    assert ca.new_order("acct", ["a.test"], NOW) is None
    assert ca.new_order("acct", ["a.test", "www.a.test"], NOW + 120960) is None


def test_five_quick_failures_refuse_the_sixth_for_twelve_minutes() -> None:
    ca = limits()
    for _ in range(5):
        assert ca.new_order("acct", ["a.test"], NOW) is None
        ca.failed("acct", "a.test", NOW)
    refusal = ca.new_order("acct", ["b.test", "a.test"], NOW)
    assert refusal is not None
    assert refusal.retry_after_seconds == 720
    assert refusal.detail.startswith(
        'too many failed authorizations (5) for "a.test" in the last 1h0m0s, retry after'
    )
    assert ca.new_order("other", ["a.test"], NOW) is None
    assert ca.new_order("acct", ["b.test"], NOW) is None
    assert ca.new_order("acct", ["a.test"], NOW + 720) is None


def test_three_hundred_orders_at_once_then_one_each_36_seconds() -> None:
    ca = limits()
    assert refusals(ca, [(f"s{i}.site{i}.test",) for i in range(300)]) == [None] * 300
    refusal = ca.new_order("acct", ["x.test"], NOW)
    assert refusal is not None
    assert refusal.retry_after_seconds == 36
    assert refusal.detail.startswith(
        "too many new orders (300) from this account in the last 3h0m0s, retry after"
    )
    assert ca.new_order("acct", ["x.test"], NOW + 36) is None
    assert ca.new_order("acct", ["y.test"], NOW + 36) is not None


def test_fifty_certificates_for_a_registered_domain_whatever_the_account() -> None:
    ca = limits()
    for i in range(50):
        assert ca.new_order(f"acct{i}", [f"s{i}.a.test"], NOW) is None
        ca.issued([f"s{i}.a.test"], NOW)
    refusal = ca.new_order("fresh", ["s50.a.test"], NOW)
    assert refusal is not None
    assert refusal.detail.startswith(
        'too many certificates (50) already issued for "a.test" in the last 168h0m0s'
    )
    assert refusal.retry_after_seconds == 12096  # 202 minutes
    assert ca.new_order("fresh", ["s1.a.test"], NOW) is None  # the same set again is a renewal: exempt


def test_renewal_spends_no_order_and_no_domain_within_120_days() -> None:
    ca = limits({LimitName.ORDERS_PER_ACCOUNT: Figure(1, 3600)})
    ca.issued(["a.test"], NOW)
    assert refusals(ca, [("a.test",), ("a.test",), ("b.test",)]) == [None, None, None]
    assert ca.new_order("acct", ["c.test"], NOW) is not None
    assert not ca.is_renewal(frozenset(["a.test"]), NOW + 121 * 86400)


def test_order_that_was_not_made_costs_nothing() -> None:
    ca = limits({LimitName.ORDERS_PER_ACCOUNT: Figure(1, 3600)})
    assert ca.new_order("acct", ["a.test"], NOW) is None
    ca.order_not_made("acct", ["a.test"], NOW)
    assert ca.new_order("acct", ["b.test"], NOW) is None


def test_refused_order_spends_nothing() -> None:
    ca = limits()
    for _ in range(5):
        ca.failed("acct", "a.test", NOW)
    for _ in range(400):
        assert ca.new_order("acct", ["a.test"], NOW) is not None
    assert ca.new_order("acct", ["b.test"], NOW) is None


def test_of_several_limits_the_one_that_waits_longest_speaks() -> None:
    ca = limits()
    for _ in range(5):
        ca.failed("acct", "a.test", NOW)
        ca.issued(["a.test"], NOW)
    refusal = ca.new_order("acct", ["a.test"], NOW)
    assert refusal is not None
    assert refusal.limit is LimitName.CERTIFICATES_PER_SET


def test_jitter_is_at_most_three_percent() -> None:
    ca = limits({LimitName.REGISTRATIONS_PER_ADDRESS: Figure(1, 1000)}, draw=0.999)
    assert ca.new_account("192.0.2.1", NOW) is None
    refusal = ca.new_account("192.0.2.1", NOW)
    assert refusal is not None
    assert refusal.retry_after_seconds == 1030
    assert ca.new_account("192.0.2.2", NOW) is None


def test_months_of_failures_pause_the_name_for_this_account_until_a_person_acts() -> None:
    ca = limits({LimitName.FAILURES_FOR_PAUSING: Figure(3, 86400, 1)})
    for _ in range(4):
        ca.failed("acct", "a.test", NOW)
    refusal = ca.new_order("acct", ["a.test", "b.test"], NOW)
    assert refusal is not None
    assert refusal.retry_after_seconds is None
    assert refusal.detail.startswith(
        "Your account is temporarily prevented from requesting certificates for a.test and possibly others. "
        "Please visit: https://"
    )
    assert ca.new_order("acct", ["b.test"], NOW) is None
    assert ca.new_order("other", ["a.test"], NOW) is None
    ca.unpause("acct")
    assert ca.new_order("acct", ["a.test"], NOW) is None


def test_success_starts_the_count_of_failures_in_a_row_anew() -> None:
    ca = limits({LimitName.FAILURES_FOR_PAUSING: Figure(3, 86400, 1)})
    for _ in range(10):
        ca.failed("acct", "a.test", NOW)
        ca.validated("acct", "a.test")
    assert ca.new_order("acct", ["a.test"], NOW) is None


@given(
    gaps=st.lists(st.floats(0, 5000), max_size=200), burst=st.integers(1, 20), period=st.integers(60, 10000)
)
def test_no_window_ever_holds_more_than_burst_and_refill(gaps: list[float], burst: int, period: int) -> None:
    ca = limits({LimitName.ORDERS_PER_ACCOUNT: Figure(burst, period)})
    now, granted = NOW, []
    for number, gap in enumerate(gaps):
        now += gap
        refusal = ca.new_order("acct", [f"n{number}.test"], now)
        if refusal is None:
            granted.append(now)
    for start, first in enumerate(granted):
        for end in range(start, len(granted)):
            span = granted[end] - first
            assert end - start + 1 <= burst + span * burst / period + 1e-3


@given(burst=st.integers(1, 20), period=st.integers(600, 100000), early=st.floats(1, 10))
def test_who_comes_when_told_is_taken_and_who_comes_earlier_is_not(
    burst: int, period: int, early: float
) -> None:
    ca = limits({LimitName.ORDERS_PER_ACCOUNT: Figure(burst, period)})
    for number in range(burst):
        assert ca.new_order("acct", [f"n{number}.test"], NOW) is None
    wait = period / burst
    assert ca.new_order("acct", ["x.test"], NOW + wait - early) is not None
    assert ca.new_order("acct", ["x.test"], NOW + wait + 1e-6) is None


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(604800, "168h0m0s"), (3600, "1h0m0s"), (10800, "3h0m0s"), (300, "5m0s"), (7, "7s")],
)
def test_durations_are_written_as_go_writes_them(seconds: int, written: str) -> None:
    assert go_duration(seconds) == written


def test_the_file_for_workers_says_of_lets_encrypt_what_workers_know_by_themselves() -> None:
    """Two tables, one in the lab and one in the program, written from the same page: they must not drift apart."""
    known = builtin_profiles().of(DIRECTORY)
    told = parse_ca_limits(as_setting(DIRECTORY, LETS_ENCRYPT)).of(DIRECTORY)
    by_ipv6_range = ours.LimitName.REGISTRATIONS_PER_IPV6_RANGE  # the lab's servers have few addresses
    assert told.limits == {name: limit for name, limit in known.limits.items() if name is not by_ipv6_range}
    assert told.renewal_days == known.renewal_days


@pytest.mark.parametrize("figures", [LETS_ENCRYPT, LETS_ENCRYPT_STAGING])
def test_workers_never_reckon_with_a_faster_refill_than_the_ca(figures: Mapping[LimitName, Figure]) -> None:
    told = parse_ca_limits(as_setting(DIRECTORY, figures)).of(DIRECTORY)
    assert len(told.limits) == len(figures)
    for figure, limit in zip(figures.values(), told.limits.values(), strict=True):
        assert limit.emission.total_seconds() * 1e9 >= figure.emission_nanoseconds
        assert limit.burst == figure.burst
