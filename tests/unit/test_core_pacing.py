"""The pace of our own renewals: even, never too slow, and a wave is flattened."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.core.lifetime.pacing import (
    Cohort,
    cannot_wait,
    demand_per_hour,
    fleet_demand_per_hour,
    pace_per_hour,
    paced,
    room,
)

NOW = datetime(2027, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(("days", "per_hour"), [(90, 544.7), (64, 766.0), (45, 1089.3)])
def test_a_million_sites_need_what_their_lifetime_makes_due(days: int, per_hour: float) -> None:
    assert demand_per_hour(days * DAY, 1_000_000) == pytest.approx(per_hour, rel=0.001)


def test_a_fleet_in_its_stride_goes_hardly_faster_than_its_demand() -> None:
    assert pace_per_hour(1089, 500, 7 * DAY) == pytest.approx(1285, rel=0.001)


def test_a_lifetime_that_is_given_no_more_counts_as_the_shorter_one_that_is_given_now() -> None:
    old = Cohort(64 * DAY, 900_000, NOW - 4 * DAY)
    new = Cohort(45 * DAY, 99_000, NOW)
    short = Cohort(timedelta(hours=160), 1_000, NOW)
    all_new = demand_per_hour(45 * DAY, 999_000) + demand_per_hour(timedelta(hours=160), 1_000)
    assert fleet_demand_per_hour([old, new, short]) == pytest.approx(all_new)


def test_lifetimes_that_are_given_side_by_side_count_each_as_it_is() -> None:
    both = [Cohort(64 * DAY, 10, NOW - 2 * DAY), Cohort(45 * DAY, 10, NOW)]
    assert fleet_demand_per_hour(both) == demand_per_hour(64 * DAY, 10) + demand_per_hour(45 * DAY, 10)
    longer = [
        Cohort(45 * DAY, 10, NOW - 40 * DAY),
        Cohort(90 * DAY, 10, NOW),
    ]  # another CA's, with longer ones
    assert fleet_demand_per_hour(longer) == demand_per_hour(45 * DAY, 10) + demand_per_hour(90 * DAY, 10)
    assert fleet_demand_per_hour([]) == 0


def test_a_small_fleet_is_never_held_back() -> None:
    assert pace_per_hour(0, 6, timedelta(seconds=60)) >= 300
    assert room(datetime(1970, 1, 1, tzinfo=UTC), 300, NOW) == 50


@given(
    demand=st.floats(0, 5000),
    due=st.integers(0, 10**6),
    left=st.timedeltas(min_value=timedelta(0), max_value=100 * DAY),
)
def test_whatever_is_due_is_begun_before_half_of_what_is_left_is_gone(
    demand: float, due: int, left: timedelta
) -> None:
    pace = pace_per_hour(demand, due, left)
    assert due / pace * HOUR <= max(left / 2, timedelta(seconds=2))


def test_only_the_last_twentieth_of_a_lifetime_cannot_wait() -> None:
    assert not cannot_wait(45 * DAY, timedelta(days=2.3))
    assert cannot_wait(45 * DAY, timedelta(days=2.2))
    assert cannot_wait(45 * DAY, -DAY)


@given(per_hour=st.floats(300, 100_000), asked=st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_no_more_begin_in_an_hour_than_the_pace_and_one_handful(per_hour: float, asked: list[int]) -> None:
    until, now, begun = datetime(1970, 1, 1, tzinfo=UTC), NOW, 0
    for wanted in asked:
        number = min(wanted, room(until, per_hour, now))
        until, begun = paced(until, number, per_hour, now), begun + number
        now += HOUR / len(asked)
    assert begun <= per_hour + 51


def test_a_clock_that_was_set_back_holds_nothing_up_for_longer_than_an_hour() -> None:
    tomorrow = NOW + DAY
    assert room(tomorrow, 1000, NOW) == 0
    until = paced(tomorrow, 0, 1000, NOW)
    assert room(until, 1000, NOW + HOUR) == 50
