"""The buckets against an exact token bucket, against the CA's side with random delays, and drained to the end."""

import heapq
import itertools
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.core.limits.buckets import (
    Bucket,
    Limit,
    LimitName,
    Verdict,
    refund,
    refused_until,
    reserve,
    settle,
    spend,
    strictest,
)

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
NAME = LimitName.ORDERS_PER_ACCOUNT
US = timedelta(microseconds=1)
ORDERS = Limit(NAME, count=300, period_seconds=3 * 3600, burst=300)
EXACT_SET = Limit(LimitName.CERTIFICATES_PER_EXACT_SET, count=5, period_seconds=7 * 86400, burst=5)
FAILURES = Limit(LimitName.FAILURES_PER_NAME, count=5, period_seconds=3600, burst=5)

limits = st.builds(
    Limit,
    name=st.just(NAME),
    count=st.integers(1, 12),
    period_seconds=st.integers(1, 5000),
    burst=st.integers(1, 12),
)
gaps = st.integers(0, 2_000_000_000).map(lambda us: timedelta(microseconds=us))


class TokenBucket:
    """The definition, in exact fractions: `burst` tokens at first, one more each emission interval, never above `burst`."""

    def __init__(self, limit: Limit) -> None:
        self.limit, self.tokens, self.at = limit, Fraction(limit.burst), NOW

    def take(self, now: datetime, cost: int) -> bool:
        grown = Fraction((now - self.at) // US, self.limit.emission // US)
        self.tokens, self.at = min(self.tokens + grown, Fraction(self.limit.burst)), now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


@settings(deadline=None)  # a busy machine is no failure
@given(limit=limits, steps=st.lists(st.tuples(gaps, st.integers(0, 3)), max_size=60))
def test_every_decision_is_that_of_an_exact_token_bucket(
    limit: Limit, steps: list[tuple[timedelta, int]]
) -> None:
    oracle, tat, now = TokenBucket(limit), None, NOW
    for gap, wanted in steps:
        now, cost = now + gap, min(wanted, limit.burst)
        verdict = spend(limit, tat, now, cost)
        assert verdict.allowed == oracle.take(now, cost)
        assert verdict.remaining == int(oracle.tokens)
        tat = verdict.new_tat


@settings(deadline=None)  # a busy machine is no failure
@given(limit=limits, steps=st.lists(gaps, max_size=60))
def test_no_window_whatever_its_length_sees_more_than_the_limit(limit: Limit, steps: list[timedelta]) -> None:
    taken: list[datetime] = []
    tat, now = None, NOW
    for gap in steps:
        now += gap
        verdict = spend(limit, tat, now)
        tat = verdict.new_tat
        if verdict.allowed:
            taken.append(now)
    for first, last in itertools.combinations(range(len(taken)), 2):
        over_burst = last - first + 1 - limit.burst
        assert limit.emission * over_burst <= taken[last] - taken[first]


@settings(deadline=None)  # a busy machine is no failure
@given(limit=limits, steps=st.lists(gaps, max_size=30))
def test_retry_at_is_the_first_instant_that_is_allowed(limit: Limit, steps: list[timedelta]) -> None:
    tat, now = None, NOW
    for gap in steps:
        now += gap
        verdict = spend(limit, tat, now)
        if not verdict.allowed:
            assert verdict.new_tat == tat
            assert not spend(limit, tat, verdict.retry_at - US).allowed
            assert spend(limit, tat, verdict.retry_at).allowed
        tat = verdict.new_tat


@settings(deadline=None)  # a busy machine is no failure
@given(limit=limits, jobs=st.integers(1, 40))
def test_draining_a_burst_takes_exactly_what_the_limit_imposes(limit: Limit, jobs: int) -> None:
    tat, now = None, NOW
    for _ in range(jobs):
        verdict = spend(limit, tat, now)
        now = max(now, verdict.retry_at) if not verdict.allowed else now
        verdict = spend(limit, tat, now)
        assert verdict.allowed
        tat = verdict.new_tat
    assert now - NOW == limit.emission * max(0, jobs - limit.burst)


@settings(deadline=None)  # a busy machine is no failure
@given(limit=limits, jobs=st.integers(2, 40))
def test_everybodys_turn_is_known_at_once(limit: Limit, jobs: int) -> None:
    """All of a burst ask at one instant; each is told the time at which it will really go."""
    bucket = Bucket(reserved=limit.burst)
    told = [reserve(limit, bucket, NOW).behind(ahead) for ahead in range(jobs)]
    bucket = Bucket(tat=NOW + limit.burst_offset)
    for turn in told:
        verdict = reserve(limit, bucket, turn)
        assert verdict.allowed
        assert not reserve(limit, bucket, turn - US).allowed
        bucket = settle(limit, Bucket(bucket.tat, 1), turn, spent=True)


@settings(deadline=None)  # a busy machine is no failure
@given(limit=limits, steps=st.lists(st.tuples(gaps, st.booleans()), max_size=40))
def test_a_refund_undoes_a_spend_and_never_overfills(
    limit: Limit, steps: list[tuple[timedelta, bool]]
) -> None:
    tat, now = None, NOW
    for gap, back in steps:
        now += gap
        before = spend(limit, tat, now, 0).remaining
        if not back:
            tat = spend(limit, tat, now).new_tat
            continue
        tat = refund(limit, tat, now)
        assert before <= spend(limit, tat, now, 0).remaining <= min(before + 1, limit.burst)
        assert tat is None or tat >= now or before == limit.burst
    spent = spend(limit, tat, now)
    if spent.allowed:
        given_back = refund(limit, spent.new_tat, now)
        assert max(given_back or now, now) == max(tat or now, now)


class CertificateAuthority:
    """The CA's side: it asks its own bucket when an order comes, and spends then or at issuance, as boulder does."""

    def __init__(self, limit: Limit, *, at_issuance: bool) -> None:
        self.limit, self.at_issuance, self.tat, self.refusals = limit, at_issuance, None, 0

    def new_order(self, now: datetime) -> None:
        verdict = spend(self.limit, self.tat, now)
        self.refusals += not verdict.allowed
        if not self.at_issuance:
            self.tat = verdict.new_tat

    def issue(self, now: datetime) -> None:
        if self.at_issuance:
            self.tat = spend(self.limit, self.tat, now).new_tat


delays = st.integers(0, 400_000_000).map(lambda us: timedelta(microseconds=us))


@settings(deadline=None)  # a busy machine is no failure
@given(
    limit=limits,
    at_issuance=st.booleans(),
    jobs=st.lists(st.tuples(gaps, delays, delays, delays, st.booleans()), max_size=40),
)
def test_the_ca_never_refuses_however_long_an_order_takes(
    limit: Limit, at_issuance: bool, jobs: list[tuple[timedelta, timedelta, timedelta, timedelta, bool]]
) -> None:
    """Reserve, then the order reaches the CA, then it issues (or the validation fails), then we hear of it."""
    ca, bucket, number = CertificateAuthority(limit, at_issuance=at_issuance), Bucket(), itertools.count()
    start = itertools.accumulate((job[0] for job in jobs), initial=NOW)
    events = [(at, next(number), "ask", job) for at, job in zip(start, jobs, strict=False)]
    heapq.heapify(events)
    done = 0
    while events:
        now, _, step, job = heapq.heappop(events)
        _, to_order, to_issue, to_us, valid = job
        if step == "ask":
            verdict = reserve(limit, bucket, now)
            if not verdict.allowed:
                assert verdict.retry_at > now
                heapq.heappush(events, (verdict.retry_at, next(number), "ask", job))
                continue
            bucket = Bucket(bucket.tat, bucket.reserved + 1)
            heapq.heappush(events, (now + to_order, next(number), "order", job))
        elif step == "order":
            ca.new_order(now)
            heapq.heappush(events, (now + to_issue, next(number), "issue", job))
        elif step == "issue":
            if valid:
                ca.issue(now)
            heapq.heappush(events, (now + to_us, next(number), "outcome", job))
        else:
            bucket = settle(limit, bucket, now, spent=valid or not at_issuance)
            done += 1
    assert ca.refusals == 0
    assert (done, bucket.reserved) == (len(jobs), 0)


def test_a_ledger_that_spends_at_the_decision_would_be_refused_at_the_edge() -> None:
    """Why tokens are reserved: five issued a minute after the decision refill a minute later at the CA."""
    ca, tat = CertificateAuthority(EXACT_SET, at_issuance=True), None
    for _ in range(5):
        tat = spend(EXACT_SET, tat, NOW).new_tat
        ca.issue(NOW + timedelta(minutes=1))
    edge = NOW + EXACT_SET.emission
    assert spend(EXACT_SET, tat, edge).allowed
    ca.new_order(edge + timedelta(seconds=5))
    assert ca.refusals == 1


def test_the_published_refill_times() -> None:
    """letsencrypt.org/docs/rate-limits: 36 s, 34 h (rounded up there), 12 min."""
    assert ORDERS.emission == timedelta(seconds=36)
    assert EXACT_SET.emission == timedelta(hours=33, minutes=36)
    assert FAILURES.emission == timedelta(minutes=12)


def test_five_quick_failures_refuse_the_sixth_for_twelve_minutes_not_an_hour() -> None:
    tat = None
    for _ in range(5):
        tat = spend(FAILURES, tat, NOW).new_tat
    verdict = spend(FAILURES, tat, NOW)
    assert (verdict.allowed, verdict.retry_at) == (False, NOW + timedelta(minutes=12))


def test_an_interval_that_does_not_divide_is_rounded_up_so_that_we_are_never_faster_than_the_ca() -> None:
    assert Limit(NAME, count=30_000, period_seconds=1, burst=30_000).emission == timedelta(microseconds=34)


def test_what_the_ca_says_is_believed() -> None:
    said = NOW + timedelta(hours=30)
    bucket = refused_until(EXACT_SET, Bucket(), said)
    assert not reserve(EXACT_SET, bucket, said - US).allowed
    assert reserve(EXACT_SET, bucket, said).allowed
    assert refused_until(EXACT_SET, bucket, NOW) == bucket  # an earlier word does not shorten it


def test_orders_under_way_are_not_counted_twice_where_the_ca_has_counted_them() -> None:
    """Three orders are under way, another client has taken the rest, and the fourth is refused for an hour."""
    said, under_way = NOW + timedelta(hours=1), Bucket(NOW, reserved=3)
    bucket = refused_until(ORDERS, under_way, said, reserved_are_counted=True)
    for _ in range(3):
        bucket = settle(ORDERS, bucket, NOW + timedelta(minutes=1), spent=True)
    assert reserve(ORDERS, bucket, said).allowed
    assert not reserve(ORDERS, bucket, said - US).allowed
    later = refused_until(EXACT_SET, under_way, said)
    assert settle(EXACT_SET, later, NOW, spent=True).tat == said + EXACT_SET.burst_offset


def test_a_reservation_can_be_settled_only_once() -> None:
    with pytest.raises(ValueError, match="1 tokens to settle, 0 reserved"):
        settle(ORDERS, Bucket(), NOW, spent=True)


def test_the_strictest_verdict_is_the_refusal_that_lasts_longest() -> None:
    allowed = spend(ORDERS, None, NOW, key="a")
    nearly_empty = spend(FAILURES, NOW + FAILURES.emission * 4, NOW, key="b")
    short = spend(FAILURES, NOW + FAILURES.burst_offset, NOW, key="c")
    long = spend(EXACT_SET, NOW + EXACT_SET.burst_offset, NOW, key="d")

    def decides(*verdicts: Verdict) -> str | None:
        strict = strictest(verdicts)
        return strict and strict.key

    assert decides() is None
    assert decides(allowed, nearly_empty) == "b"
    assert decides(allowed, short, nearly_empty) == "c"
    assert decides(short, long, allowed) == "d"


@pytest.mark.parametrize("cost", [-1, 6])
def test_a_cost_that_could_never_be_allowed_raises(cost: int) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 5"):
        spend(FAILURES, None, NOW, cost)


@pytest.mark.parametrize("field", ["count", "period_seconds", "burst"])
def test_figures_must_be_above_zero(field: str) -> None:
    figures = {"count": 1, "period_seconds": 1, "burst": 1, field: 0}
    with pytest.raises(ValueError, match=f"{field} must be above 0, not 0"):
        Limit(NAME, **figures)
