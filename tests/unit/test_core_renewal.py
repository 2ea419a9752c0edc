"""The renewal window, for every lifetime."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.core.lifetime.renewal import due_at, is_due, overdue_at, renewal_window, window_of
from workers.core.model import Certificate

START = datetime(2026, 11, 24, 10, tzinfo=UTC)


def _certificate(lifetime: timedelta) -> Certificate:
    return Certificate("01", ("a.example.com",), "R11", START, START + lifetime)


@pytest.mark.parametrize(
    ("lifetime", "opens_after"),
    [
        (timedelta(days=90), timedelta(days=60)),
        (timedelta(days=64, hours=-1), timedelta(days=64, hours=-1) * 2 / 3),
        (timedelta(days=45), timedelta(days=30)),
        (timedelta(days=10), timedelta(days=10) * 2 / 3),  # not below 10 days: a third
        (timedelta(days=10, microseconds=-1), timedelta(days=10, microseconds=-1) / 2),
        (timedelta(hours=160), timedelta(hours=80)),
        (timedelta(minutes=3), timedelta(seconds=90)),
    ],
)
def test_the_window_is_the_last_third_or_below_ten_days_the_last_half(
    lifetime: timedelta, opens_after: timedelta
) -> None:
    window = renewal_window(START, START + lifetime)
    assert abs(window.opens_at - (START + opens_after)) <= timedelta(microseconds=1)
    assert window.closes_at == START + lifetime


def test_it_is_due_from_the_opening_on_and_also_after_not_after() -> None:
    certificate = _certificate(timedelta(days=90))
    opens_at = window_of(certificate).opens_at
    assert not is_due(certificate, opens_at - timedelta(microseconds=1))
    assert is_due(certificate, opens_at)
    assert is_due(certificate, certificate.not_after + timedelta(days=1))


@settings(deadline=None)  # a busy machine is no failure
@given(
    lifetime=st.timedeltas(min_value=timedelta(minutes=1), max_value=timedelta(days=400)),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_ours_comes_after_the_servers_chance_and_leaves_time_for_retries(
    lifetime: timedelta, draw: float
) -> None:
    certificate = _certificate(lifetime)
    window = window_of(certificate)
    ours = due_at(certificate, draw)
    assert START < window.opens_at < overdue_at(certificate) <= ours
    assert window.closes_at - ours >= (window.closes_at - window.opens_at) * 0.39


def test_draws_spread_the_renewals() -> None:
    certificate = _certificate(timedelta(days=90))
    assert due_at(certificate, 0) == START + timedelta(days=75)
    assert due_at(certificate, 0.999999) > START + timedelta(days=77, hours=23)
