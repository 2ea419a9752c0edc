"""The forecast: what falls on which day, how a shorter lifetime shows, and what limits renewals touch."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import date, timedelta

import pytest

from workers.cli.forecast_plot import svg_of
from workers.core.lifetime.forecast import Busiest, Day, Forecast, Group, forecast
from workers.core.lifetime.future_lifetimes import LETS_ENCRYPT, ca_of, lifetime_of
from workers.core.limits.profiles import builtin_profiles

TODAY = date(2027, 6, 1)
PROFILES = {profile.name: profile for profile in builtin_profiles().by_url.values()}
DAY = timedelta(days=1)


def play(
    groups: Sequence[Group], *, days: int = 90, lifetime: int | None = None, on: date = TODAY
) -> Forecast:
    return forecast(groups, (), PROFILES, today=on, days=days, lifetime_days=lifetime)


def group(
    expires_in: int,
    count: int = 100,
    *,
    due_in: int | None = None,
    lifetime: int | None = 64,
    ca: str = LETS_ENCRYPT,
) -> Group:
    due_on = None if due_in is None else TODAY + due_in * DAY
    return Group(ca, lifetime, TODAY + expires_in * DAY, due_on, count)


def busy(days: Sequence[Day], name: str) -> dict[int, int]:
    return {(day.day - TODAY).days: getattr(day, name) for day in days if getattr(day, name)}


def test_a_certificate_expires_once_and_is_renewed_at_the_windows_opening_or_when_it_is_planned() -> None:
    found = play([group(30, due_in=20)], days=40)
    assert busy(found.days, "expiries") == {30: 100}
    assert busy(found.days, "by_servers") == {8: 100}  # two thirds of 64 days are 42, of which 34 are gone
    assert busy(found.days, "by_certpilot") == {20: 100}


def test_what_is_overdue_falls_on_today_and_what_comes_later_is_left_out() -> None:
    found = play([group(1, 3, due_in=-5), group(-4, 2, due_in=-20), group(300, 7, due_in=290)], days=5)
    assert busy(found.days, "by_certpilot") == {0: 5}
    assert busy(found.days, "by_servers") == {0: 5}
    assert busy(found.days, "expiries") == {1: 3}


def test_where_no_day_is_planned_it_is_the_one_that_the_watch_would_draw() -> None:
    found = play([group(60, 1600)], days=60)
    days = busy(found.days, "by_certpilot")
    assert sum(days.values()) == 1600
    assert set(days) <= set(range(49, 52))  # 53.3 to 55.5 days of age, of which 4 are gone
    assert play([group(60, 1600, lifetime=None)], days=60).days


def test_shorter_certificates_come_back_sooner() -> None:
    as_announced = play([group(30, due_in=0)], days=90)
    shorter = play([group(30, due_in=0)], days=90, lifetime=45)
    assert sum(day.by_certpilot for day in as_announced.days) == pytest.approx(200, abs=3)
    assert sum(day.by_certpilot for day in shorter.days) == pytest.approx(300, abs=3)
    assert min(number for number in busy(shorter.days, "by_certpilot") if number) == 37


def test_the_announced_lifetimes_begin_on_their_day_and_a_shorter_profile_stays_shorter() -> None:
    assert lifetime_of(LETS_ENCRYPT, 90, date(2027, 2, 9)) == 90
    assert lifetime_of(LETS_ENCRYPT, 90, date(2027, 2, 10)) == 64
    assert lifetime_of(LETS_ENCRYPT, 64, date(2028, 2, 15)) == 64
    assert lifetime_of(LETS_ENCRYPT, 64, date(2028, 2, 16)) == 45
    assert lifetime_of(LETS_ENCRYPT, 7, date(2028, 2, 16)) == 7
    assert lifetime_of("Another CA", 365, date(2027, 3, 14)) == 365
    assert lifetime_of("Another CA", 365, date(2027, 3, 15)) == 100


def test_lets_encrypts_issuers_are_known_by_name() -> None:
    assert ca_of("R12", LETS_ENCRYPT) == ca_of("YE1", "Pebble") == LETS_ENCRYPT
    assert ca_of("(STAGING) Wannabe Watercress R11", LETS_ENCRYPT) == "Let's Encrypt staging"
    assert ca_of("Sectigo R36", LETS_ENCRYPT) == "Sectigo R36"
    assert ca_of("Pebble Intermediate CA 3f", "ca.example") == "ca.example"
    assert ca_of(None, LETS_ENCRYPT) == LETS_ENCRYPT


def test_each_ca_has_its_days_and_only_a_known_one_its_limits() -> None:
    tops = [Busiest(LETS_ENCRYPT, TODAY + DAY, "192.0.2.1", 9000)]
    groups = [group(30, due_in=1), group(20, 5, ca="Another CA")]
    found = forecast(groups, tops, PROFILES, today=TODAY, days=3)
    assert [(day.ca, day.busiest_count) for day in found.days] == [
        ("Another CA", 0), (LETS_ENCRYPT, 0), ("Another CA", 0), (LETS_ENCRYPT, 9000), ("Another CA", 0), (LETS_ENCRYPT, 0),
    ]  # fmt: skip
    limits = {one.limit: one for one in found.limits}
    assert {one.ca for one in found.limits} == {LETS_ENCRYPT}
    assert (limits["certificates_per_exact_set"].expected, limits["certificates_per_exact_set"].allowed) == (
        1,
        5,
    )
    orders = limits["orders_per_account"]
    assert (orders.exempt, orders.expected) == (True, 1800)  # one at a time, 6 s each, in 3 hours


def test_a_lifetime_of_a_day_would_break_the_limit_of_an_exact_set() -> None:
    found = play([group(1, due_in=0)], days=20, lifetime=1)
    assert next(one for one in found.limits if not one.exempt).expected == 7
    # no endless play within one day
    assert max(day.by_servers for day in found.days) <= 200


def test_the_picture_is_well_formed_and_takes_no_markup_from_a_certificate() -> None:
    picture = svg_of(play([group(30, due_in=3, ca='<script>&"CA')]).days)
    root = ET.fromstring(picture)
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 3
    assert "<script>" not in picture
    ET.fromstring(svg_of(()))
