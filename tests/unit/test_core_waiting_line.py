"""Turns are promised once and kept: the earliest that delays nobody ahead, in every bucket that the job needs."""

import heapq
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.core.limits.buckets import Bucket, Limit, LimitName, spend
from workers.core.limits.waiting_line import Line, first_turn

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
US = timedelta(microseconds=1)
NAME = LimitName.ORDERS_PER_ACCOUNT
ORDERS = Limit(NAME, count=300, period_seconds=3 * 3600, burst=300)
DOMAIN = Limit(LimitName.CERTIFICATES_PER_REGISTERED_DOMAIN, count=50, period_seconds=7 * 86400, burst=50)

limits = st.builds(
    Limit,
    name=st.just(NAME),
    count=st.integers(1, 6),
    period_seconds=st.integers(1, 100),
    burst=st.integers(1, 6),
)
instants = st.integers(0, 200_000_000).map(lambda us: NOW + timedelta(microseconds=us))


def spent(limit: Limit, tokens: int) -> Bucket:
    """A bucket that so many tokens were just taken from."""
    return Bucket(NOW + limit.emission * tokens)


def served(limit: Limit, bucket: Bucket, turns: Sequence[datetime]) -> list[datetime]:
    """When each gets its token, where all come at their turns and wait for each other."""
    tat, times = max(bucket.tat or NOW, NOW) + limit.emission * bucket.reserved, []
    for turn in sorted(turns):
        at = max(turn, times[-1] if times else NOW)
        verdict = spend(limit, tat, at)
        if not verdict.allowed:
            at = verdict.retry_at
            verdict = spend(limit, tat, at)
        assert verdict.allowed
        tat = verdict.new_tat
        times.append(at)
    return times


@settings(deadline=None)  # a busy machine is no failure
@given(
    limit=limits,
    tokens=st.integers(0, 6),
    reserved=st.integers(0, 3),
    promised=st.lists(instants, max_size=12),
    not_before=instants,
)
def test_a_turn_is_the_first_instant_that_serves_the_job_and_delays_nobody_ahead(
    limit: Limit, tokens: int, reserved: int, promised: list[datetime], not_before: datetime
) -> None:
    bucket = Bucket(NOW + limit.emission * min(tokens, limit.burst), reserved)
    ahead = tuple(sorted(promised))
    line = Line(limit, bucket, ahead)
    turn = first_turn([line], not_before=not_before, now=NOW)
    without = served(limit, bucket, ahead)

    def fits(at: datetime) -> bool:
        """Nobody is served later, and the job at that very instant."""
        times = served(limit, bucket, [*without, at])
        rest = list(times)
        if at not in rest:
            return False
        rest.remove(at)
        return rest == without

    assert turn.at >= not_before
    assert fits(turn.at)
    earlier = {*without, not_before, turn.at - US, *(at - US for at in without), *(at + US for at in without)}
    assert not any(fits(at) for at in earlier if not_before <= at < turn.at)


@settings(deadline=None)  # a busy machine is no failure
@given(limit=limits, jobs=st.integers(1, 60))
def test_a_burst_at_one_instant_is_promised_every_token_as_it_comes(limit: Limit, jobs: int) -> None:
    ahead: list[datetime] = []
    for number in range(jobs):
        turn = first_turn([Line(limit, Bucket(), tuple(ahead))], not_before=NOW, now=NOW).at
        assert turn == NOW + limit.emission * max(0, number + 1 - limit.burst)
        ahead.append(turn)


def test_a_job_that_waits_long_for_its_domain_holds_nobody_up_in_the_account() -> None:
    """Thousands of names of one registered domain: other sites of the same account go as if those were not there."""
    account, domain = spent(ORDERS, 300), spent(DOMAIN, 50)
    flood: list[datetime] = []
    for _ in range(500):
        lines = [Line(ORDERS, account, tuple(flood)), Line(DOMAIN, domain, tuple(flood))]
        flood.append(first_turn(lines, not_before=NOW, now=NOW).at)
    assert flood[-1] - NOW == DOMAIN.emission * 500
    others: list[datetime] = []
    for _ in range(100):
        line = Line(ORDERS, account, tuple(sorted(flood + others)))
        others.append(first_turn([line], not_before=NOW, now=NOW).at)
    assert others[-1] - NOW == ORDERS.emission * 100


def test_a_job_over_several_limits_waits_for_the_strictest_and_names_it() -> None:
    lines = [Line(ORDERS, spent(ORDERS, 300)), Line(DOMAIN, spent(DOMAIN, 50)), Line(ORDERS, Bucket())]
    turn = first_turn(lines, not_before=NOW, now=NOW)
    assert (turn.at, turn.strictest) == (NOW + DOMAIN.emission, 1)


def test_a_gap_is_only_taken_where_the_tokens_of_those_behind_it_remain() -> None:
    two = Limit(NAME, count=2, period_seconds=20, burst=2)
    in_seconds = [NOW + timedelta(seconds=seconds) for seconds in (30, 30, 60, 60)]
    line = Line(two, Bucket(), tuple(in_seconds))

    def turn_from(seconds: int) -> float:
        at = first_turn([line], not_before=NOW + timedelta(seconds=seconds), now=NOW).at
        return (at - NOW).total_seconds()

    assert turn_from(0) == 0
    assert turn_from(20) == 20  # it comes back until 30
    assert turn_from(21) == 40  # it would not; and at 30 both go
    assert turn_from(51) == 70


class Ledger:
    """What `db.limits` does, for one bucket in memory: places, turns, and a token taken at each turn."""

    def __init__(self, limit: Limit) -> None:
        self.limit, self.tat, self.waiting = limit, NOW, dict[int, tuple[datetime, datetime]]()

    def ask(self, job: int, now: datetime) -> datetime | None:
        """Go (None), or when to come again."""
        place = self.waiting.get(job, (None,))[0]
        ahead = sorted(
            turn
            for who, (where, turn) in self.waiting.items()
            if who != job and (place is None or where < place)
        )
        due = sum(turn <= now for turn in ahead)
        verdict = spend(self.limit, self.tat + self.limit.emission * due, now)
        if verdict.allowed:
            self.tat = max(self.tat, now) + self.limit.emission
            self.waiting.pop(job, None)
            return None
        line = Line(self.limit, Bucket(self.tat), tuple(ahead))
        turn = first_turn([line], not_before=now, now=now).at
        self.waiting[job] = (place or turn, turn)
        return turn


def drain(
    limit: Limit, jobs: int, corrections: Sequence[tuple[datetime, int]]
) -> tuple[list[int], list[int]]:
    """Let a burst drain while others eat tokens of the same bucket; refusals per job, and the order of going."""
    ledger, number = Ledger(limit), itertools.count()
    events = [(NOW, next(number), job) for job in range(jobs)]
    events += [(at, next(number), -tokens) for at, tokens in corrections]
    heapq.heapify(events)
    refusals, went = [0] * jobs, []
    while events:
        now, _, job = heapq.heappop(events)
        if job < 0:
            ledger.tat = max(ledger.tat, now) + limit.emission * -job
            continue
        again = ledger.ask(job, now)
        if again is None:
            went.append(job)
        else:
            refusals[job] += 1
            heapq.heappush(events, (again, next(number), job))
    return refusals, went


def test_each_of_a_thousand_waiting_jobs_comes_once_more_and_in_its_order() -> None:
    refusals, went = drain(ORDERS, 1000, [])
    assert went == list(range(1000))
    assert refusals == [0] * 300 + [1] * 700


def test_tokens_that_others_eat_cost_each_job_a_look_or_two_and_nobody_its_place() -> None:
    """Each correction by the CA moves all turns; were places lost, the first would go last and ask hundreds of times."""
    at = [NOW + timedelta(minutes=30 * number) for number in range(1, 9)]
    refusals, went = drain(ORDERS, 1000, [(when, 20) for when in at])
    assert went == list(range(1000))
    assert max(refusals) <= 1 + len(at)
    assert sum(refusals) / 700 < 3


def test_at_half_of_the_refill_to_others_the_looks_grow_with_the_logarithm() -> None:
    at = [NOW + ORDERS.emission * 2 * number for number in range(1, 1000)]
    refusals, went = drain(ORDERS, 1000, [(when, 1) for when in at])
    assert went == list(range(1000))
    assert max(refusals) <= 12
