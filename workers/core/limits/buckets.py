"""Token buckets by the generic cell rate algorithm, with the arithmetic of Let's Encrypt's boulder (ratelimits/gcra.go).

A bucket is one instant, its TAT (theoretical arrival time): when the bucket would be full again. A spend moves it on by
one emission interval (period / count) per token, and is allowed while that leaves it at most a whole bucket (burst
times the interval) ahead of now. Times here are whole microseconds, as PostgreSQL keeps them; boulder counts
nanoseconds. Where an interval does not divide, ours is the longer one, so we are never faster than the CA.

The CA takes some tokens when it makes the order and some when it issues (`ca_profiles`), seconds after we decided to
go. A bucket that moved its TAT at the decision would refill those seconds early and be refused at the edge. So a
decision only *reserves*: a reserved token is counted as if it were spent now, and moves the TAT when its fate is known,
which is later than at the CA. `tests/unit/test_core_limits.py` runs both sides with random delays: no refusal, ever.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

_MICROSECOND = timedelta(microseconds=1)


class LimitName(StrEnum):
    """The published limits that a bucket can stand for (letsencrypt.org/docs/rate-limits)."""

    REGISTRATIONS_PER_ADDRESS = "registrations_per_address"
    REGISTRATIONS_PER_IPV6_RANGE = "registrations_per_ipv6_range"
    ORDERS_PER_ACCOUNT = "orders_per_account"
    CERTIFICATES_PER_REGISTERED_DOMAIN = "certificates_per_registered_domain"
    CERTIFICATES_PER_EXACT_SET = "certificates_per_exact_set"
    FAILURES_PER_NAME = "failures_per_name"
    CONSECUTIVE_FAILURES_PER_NAME = "consecutive_failures_per_name"


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit's figures.

    Attributes:
        name: which limit.
        count: tokens that come back per period.
        period_seconds: the period.
        burst: tokens of a full bucket; for most limits the same as `count`.

    Raises:
        ValueError: a figure is not above 0.
    """

    name: LimitName
    count: int
    period_seconds: int
    burst: int

    def __post_init__(self) -> None:
        """Refuse figures with which nothing could ever be allowed."""
        for field, value in (
            ("count", self.count),
            ("period_seconds", self.period_seconds),
            ("burst", self.burst),
        ):
            if value < 1:
                raise ValueError(f"{field} must be above 0, not {value}")

    @property
    def emission(self) -> timedelta:
        """The time in which one token comes back, rounded up to a microsecond."""
        return timedelta(microseconds=-(-self.period_seconds * 1_000_000 // self.count))

    @property
    def burst_offset(self) -> timedelta:
        """The time in which an empty bucket fills."""
        return self.emission * self.burst


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is stored of one bucket.

    Attributes:
        tat: when it is full again, UTC; None (or past) means full.
        reserved: tokens promised to orders whose fate is not known yet.
    """

    tat: datetime | None = None
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one bucket says to one spend.

    Attributes:
        limit: the limit.
        key: the bucket's key.
        allowed: whether the tokens are there.
        new_tat: the TAT to store; unchanged where refused.
        retry_at: from when the same spend is (again) allowed, if nothing else is spent; UTC.
        remaining: tokens left, after the spend where it was allowed.
    """

    limit: Limit
    key: str
    allowed: bool
    new_tat: datetime | None
    retry_at: datetime
    remaining: int

    def behind(self, ahead: int) -> datetime:
        """When it is this job's turn, with `ahead` others waiting for the same bucket that came before it."""
        return self.retry_at + self.limit.emission * ahead


def spend(limit: Limit, tat: datetime | None, now: datetime, cost: int = 1, *, key: str = "") -> Verdict:
    """Ask a bucket for `cost` tokens.

    Args:
        limit: its figures.
        tat: its stored TAT, or None for a bucket that was never used.
        now: UTC.
        cost: tokens, from 0 to the bucket's burst.
        key: carried into the verdict.

    Returns:
        The verdict; storing `new_tat` is what spends. A check is a spend whose result is not stored.

    Raises:
        ValueError: a cost that could never be allowed.
    """
    _check_cost(limit, cost)
    base = now if tat is None else max(now, tat)
    new_tat = base + limit.emission * cost
    slack = now - (new_tat - limit.burst_offset)
    if slack < timedelta(0):
        residual = (now - (base - limit.burst_offset)) // limit.emission
        return Verdict(
            limit, key, allowed=False, new_tat=tat, retry_at=now - slack, remaining=max(residual, 0)
        )
    again = max(limit.emission * cost - slack, timedelta(0))
    return Verdict(
        limit, key, allowed=True, new_tat=new_tat, retry_at=now + again, remaining=slack // limit.emission
    )


def refund(limit: Limit, tat: datetime | None, now: datetime, cost: int = 1) -> datetime | None:
    """Give tokens back that were spent for nothing; never more than a full bucket holds.

    Returns:
        The new TAT.
    """
    _check_cost(limit, cost)
    if tat is None or tat < now:
        return tat
    return max(tat - limit.emission * cost, now)


def reserve(limit: Limit, bucket: Bucket, now: datetime, cost: int = 1, *, key: str = "") -> Verdict:
    """Ask for tokens beside those that others have reserved; the caller stores `reserved + cost` where it is allowed.

    Args:
        limit: its figures.
        bucket: as stored.
        now: UTC.
        cost: tokens, from 0 to the bucket's burst.
        key: carried into the verdict.
    """
    _check_cost(limit, cost)
    base = now if bucket.tat is None else max(now, bucket.tat)
    verdict = spend(limit, base + limit.emission * bucket.reserved, now, cost, key=key)
    return replace(verdict, new_tat=bucket.tat)


def settle(limit: Limit, bucket: Bucket, now: datetime, cost: int = 1, *, spent: bool) -> Bucket:
    """End a reservation once its fate is known.

    Args:
        limit: its figures.
        bucket: as stored, with the reservation in it.
        now: not before the CA took or refused the tokens; UTC.
        cost: tokens that were reserved.
        spent: whether the CA took them. In doubt (a run that was killed) it did.

    Raises:
        ValueError: more than is reserved.
    """
    if cost > bucket.reserved:
        raise ValueError(f"{cost} tokens to settle, {bucket.reserved} reserved")
    tat = bucket.tat
    if spent:
        tat = (now if tat is None else max(now, tat)) + limit.emission * cost
    return Bucket(tat, bucket.reserved - cost)


def refused_until(
    limit: Limit, bucket: Bucket, retry_at: datetime, cost: int = 1, *, reserved_are_counted: bool = False
) -> Bucket:
    """Believe the CA where it refused although our bucket allowed: others spend its buckets too (DESIGN B.7).

    Args:
        limit: its figures.
        bucket: as stored, without the reservation of the order that was refused.
        retry_at: when the CA says that it will allow `cost`, UTC.
        cost: tokens that were refused.
        reserved_are_counted: the CA takes the tokens when it makes the order, so its time has those of our other orders
            under way in it already (or refuses them too); they must not be counted twice. What it takes when it issues
            comes on top.

    Returns:
        A bucket that allows `cost` not before `retry_at`.
    """
    tat = retry_at + limit.burst_offset - limit.emission * cost
    if reserved_are_counted:
        tat -= limit.emission * bucket.reserved
    return replace(bucket, tat=tat if bucket.tat is None else max(bucket.tat, tat))


def strictest(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The verdict that decides: refused before allowed, then the longest wait, then the fewest tokens left.

    Let's Encrypt too names the limit that frees last. None without a verdict: nothing limits.
    """
    return max(verdicts, key=lambda v: (not v.allowed, v.retry_at, -v.remaining), default=None)


def _check_cost(limit: Limit, cost: int) -> None:
    if not 0 <= cost <= limit.burst:
        raise ValueError(f"{limit.name}: a cost of {cost} is not between 0 and {limit.burst}")
