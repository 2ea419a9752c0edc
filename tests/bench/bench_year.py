"""Two virtual years of a million sites: is the pace even, does a limit refuse, does a certificate lapse?

2027-01-01 to 2029-01-01, since Let's Encrypt's two steps (64 days on 2027-02-10, 45 on 2028-02-16) lie 371 days apart: no
single year has both. certpilot renews everything, the hardest case: what servers renew by themselves it cannot pace.
"""

import resource
import time
from collections.abc import Sequence
from datetime import date

from tests.bench.rows import Row
from tests.bench.year import Fleet, Played, Year

_START, _SECOND_STEP_YEAR, _END = date(2027, 1, 1), date(2028, 1, 1), date(2029, 1, 1)
_MOST_RATIO = 1.5
_MOST_SECONDS, _MOST_MEGABYTES = 180, 1000
_HOURS = 24
"""The others are judged by the day: an hour of 55 renewals is 1.5 times another by chance."""


def run() -> list[Row]:
    """Play; the first is what the aim is about."""
    began = time.process_time()
    played = Year(Fleet(), _START, _END).play()
    seconds = time.process_time() - began
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reachable = played.lapsed_though_reachable + played.lapsed_after_the_servers_chance
    peak, mean = max(played.per_hour), _mean(played.per_hour)
    name = "2027-2028, 1,000,000 sites, certpilot renews all"
    return [
        Row(
            f"{name}: renewals per hour, peak ÷ mean", f"{peak:,} ÷ {mean:,.0f} = {peak / mean:.2f}",
            f"≤ {_MOST_RATIO}", peak / mean <= _MOST_RATIO,
        ),
        Row(f"{name}: orders that a limit of the CA refuses", f"{played.refused} of {sum(played.per_hour):,}", "0", played.refused == 0),
        Row(
            f"{name}: lapsed though the server was reachable within the window", f"{reachable} ({played.lapsed} lapsed in all)",
            "0", reachable == 0,
        ),
        Row(
            f"{name}: longest wait for the pace; least left to an expiry", f"{played.longest_wait_days:.1f} days; {played.least_left_days:.1f} days",
            "", None,
        ),
        Row(
            f"{name}: time and memory", f"{seconds:.0f} s of one core, {megabytes:.0f} MB",
            f"≤ {_MOST_SECONDS} s, ≤ {_MOST_MEGABYTES} MB", seconds <= _MOST_SECONDS and megabytes <= _MOST_MEGABYTES,
        ),
        *_others(),
    ]  # fmt: skip


def _others() -> list[Row]:
    """What the pace and the jitter do, and what they cannot."""
    at_once = Year(Fleet(100_000, 1000, off_for_long=2, paced=False), _START, _END).play()
    return [
        _by_the_day(
            "the same, a tenth of it, without the pace (jitter alone), two servers off for 100 days", at_once
        ),
        _by_the_day(
            "2028, half of the servers renew by themselves",
            Year(Fleet(by_themselves=0.5), _SECOND_STEP_YEAR, _END).play(),
        ),
        _burst(),
    ]


def _burst() -> Row:
    """All issued in one week: how wide the renewals are spread in each quarter."""
    started = Fleet(issued_within_days=7)
    played = Year(started, _SECOND_STEP_YEAR, _END).play()
    quarter = len(played.per_hour) // 4
    ratios = [
        max(_days(part)) / _mean(_days(part))
        for part in (played.per_hour[n * quarter : (n + 1) * quarter] for n in range(4))
    ]
    return Row(
        "2028, all sites issued in the week before: busiest day ÷ mean day of each quarter; lapsed though reachable",
        ", ".join(f"{ratio:.1f}" for ratio in ratios) + f"; {played.lapsed_though_reachable}",
        "", None,
    )  # fmt: skip


def _by_the_day(name: str, played: Played) -> Row:
    days = _days(played.per_hour)
    return Row(
        f"{name}: renewals per day, peak ÷ mean; lapsed (of these though reachable)",
        f"{max(days):,} ÷ {_mean(days):,.0f} = {max(days) / _mean(days):.2f}; {played.lapsed} ({played.lapsed_though_reachable})",
        "", None,
    )  # fmt: skip


def _days(hours: Sequence[int]) -> list[int]:
    return [sum(hours[n : n + _HOURS]) for n in range(0, len(hours) - _HOURS + 1, _HOURS)]


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
