"""What the certificates that there are will ask of each CA: expiries and renewals per day, as counts (pure).

Two ways are shown, between which the truth lies: every server renews by itself as soon as the window opens, or none does
and certpilot renews all (`core.lifetime.renewal`). A renewed certificate comes back with its next lifetime, so that a shorter
one shows as the waves that it makes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache

from workers.core.lifetime.future_lifetimes import lifetime_of
from workers.core.lifetime.renewal import due_at, renewal_window
from workers.core.limits.buckets import LimitName
from workers.core.limits.profiles import CaProfile
from workers.core.model import Certificate

_DAY = timedelta(days=1)
_DRAWS = tuple((number + 0.5) / 16 for number in range(16))
"""Our renewals are drawn evenly (`renewal.due_at`); so many draws stand for all of them."""

RUN_SECONDS = 6
"""What one certbot run takes on a server (FACTS-certbot 4.4), one at a time: 14,400 a day."""


@dataclass(frozen=True, slots=True)
class Group:
    """Certificates that are alike, counted by the database.

    Attributes:
        ca: who issued them.
        lifetime_days: rounded; None where notBefore is not known.
        expires_on: day of notAfter, UTC.
        due_on: day on which certpilot renews them, where that is planned.
        count: how many.
    """

    ca: str
    lifetime_days: int | None
    expires_on: date
    due_on: date | None
    count: int


@dataclass(frozen=True, slots=True)
class Busiest:
    """The server with the most renewals by certpilot of one CA on a day, of those planned now."""

    ca: str
    day: date
    server: str
    count: int


@dataclass(frozen=True, slots=True)
class Day:
    """One line of the forecast.

    Attributes:
        day: UTC.
        ca: who issued the certificates and issues the new ones.
        expiries: certificates of today's that end on that day.
        by_servers: renewals if every server renews by itself.
        by_certpilot: renewals if certpilot renews all.
        busiest_server: the one with the most of the planned renewals; empty where none is planned.
        busiest_count: how many.
    """

    day: date
    ca: str
    expiries: int
    by_servers: int
    by_certpilot: int
    busiest_server: str
    busiest_count: int


@dataclass(frozen=True, slots=True)
class Against:
    """One published limit and how near the forecast comes to it.

    Attributes:
        ca: the CA.
        limit: the limit's name.
        allowed: tokens per period.
        period_seconds: the period.
        expected: the most that the forecast needs of one bucket in one period; None: not told by counts per day.
        exempt: renewals do not touch it, so `expected` is what it would be if they did.
    """

    ca: str
    limit: str
    allowed: int
    period_seconds: int
    expected: int | None
    exempt: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """The whole of it; `days` are in order, each CA on each day."""

    days: tuple[Day, ...]
    limits: tuple[Against, ...]


def forecast(
    groups: Sequence[Group],
    busiest: Iterable[Busiest],
    profiles: Mapping[str, CaProfile],
    *,
    today: date,
    days: int,
    lifetime_days: int | None = None,
) -> Forecast:
    """Play the days from today on.

    Args:
        groups: all certificates that are to be renewed.
        busiest: at most one for each CA and day.
        profiles: by CA; one that is missing has no known limits.
        today: UTC; what is overdue falls on it.
        days: how many.
        lifetime_days: of every new certificate; None: what each CA has announced.
    """
    most = {(one.ca, one.day): one for one in busiest}
    rows: list[Day] = []
    against: list[Against] = []
    for ca in sorted({group.ca for group in groups}):
        own = [group for group in groups if group.ca == ca]
        expiries: dict[int, int] = defaultdict(int)
        for group in own:
            expiries[(group.expires_on - today).days] += group.count
        by_servers = _play(own, today, days, _opens, lifetime_days)
        by_certpilot = _play(own, today, days, _due, lifetime_days)
        for number in range(days):
            day = today + number * _DAY
            top = most.get((ca, day))
            rows.append(
                Day(
                    day, ca, expiries[number], round(by_servers[number]), round(by_certpilot[number]),
                    top.server if top else "", top.count if top else 0,
                )
            )  # fmt: skip
        if ca in profiles:
            lives = _lives(own, today, days, lifetime_days)
            most_of_one = max((one.count for (name, _), one in most.items() if name == ca), default=None)
            against += _against(ca, profiles[ca], most_of_one, lives)
    rows.sort(key=lambda row: (row.day, row.ca))
    return Forecast(tuple(rows), tuple(against))


def _play(
    groups: Iterable[Group],
    today: date,
    days: int,
    delays: Callable[[int], Mapping[int, float]],
    lifetime_days: int | None,
) -> list[float]:
    """Renewals per day; each comes back after its next lifetime's delay."""
    waiting: list[dict[tuple[str, int], float]] = [defaultdict(float) for _ in range(days)]
    for group in groups:
        known = group.lifetime_days or lifetime_of(group.ca, None, today)
        if delays is _due and group.due_on is not None:
            first: Mapping[date, float] = {group.due_on: 1.0}
        else:
            began = group.expires_on - known * _DAY
            first = {began + after * _DAY: share for after, share in delays(known).items()}
        for day, share in first.items():
            number = max(0, (day - today).days)
            if number < days:
                waiting[number][group.ca, known] += group.count * share
    total = []
    for number in range(days):
        total.append(sum(waiting[number].values()))
        for (ca, old), count in waiting[number].items():
            new = lifetime_days or lifetime_of(ca, old, today + number * _DAY)
            for after, share in delays(new).items():
                if number + max(after, 1) < days:
                    waiting[number + max(after, 1)][ca, new] += count * share
    return total


@cache
def _opens(lifetime_days: int) -> Mapping[int, float]:
    """After how many days a server that renews by itself does; its timer runs twice a day."""
    not_before, not_after = _life(lifetime_days)
    return {(renewal_window(not_before, not_after).opens_at - not_before).days: 1.0}


@cache
def _due(lifetime_days: int) -> Mapping[int, float]:
    """After how many days certpilot renews, and which share of the certificates."""
    not_before, not_after = _life(lifetime_days)
    certificate = Certificate("", (), "", not_before, not_after)
    shares: dict[int, float] = defaultdict(float)
    for draw in _DRAWS:
        shares[(due_at(certificate, draw) - not_before).days] += 1 / len(_DRAWS)
    return shares


def _life(lifetime_days: int) -> tuple[datetime, datetime]:
    began = datetime.combine(date(2027, 1, 1), time(12))  # only differences are used
    return began, began + lifetime_days * _DAY


def _lives(groups: Iterable[Group], today: date, days: int, lifetime_days: int | None) -> set[int]:
    """Every lifetime that a renewal of the forecast can have."""
    if lifetime_days is not None:
        return {lifetime_days}
    known = {(group.ca, group.lifetime_days) for group in groups}
    return {lifetime_of(ca, old, today + number * _DAY) for ca, old in known for number in range(days)}


def _against(ca: str, profile: CaProfile, busiest: int | None, lives: Iterable[int]) -> list[Against]:
    """Compare with what a renewal can touch; registrations and failures are not foreseen from dates."""
    rows = []
    for name, limit in profile.limits.items():
        expected = None
        if name is LimitName.CERTIFICATES_PER_EXACT_SET:
            shortest = min((min(_opens(life)) for life in lives), default=1)
            expected = -(-limit.period_seconds // (max(shortest, 1) * 86_400))
        elif name is LimitName.ORDERS_PER_ACCOUNT:
            # An account orders on one server, one run at a time.
            most_in_a_period = limit.period_seconds // RUN_SECONDS
            expected = None if busiest is None else min(busiest, most_in_a_period)
        elif name is not LimitName.CERTIFICATES_PER_REGISTERED_DOMAIN:
            continue
        exempt = name is not LimitName.CERTIFICATES_PER_EXACT_SET
        rows.append(Against(ca, name.value, limit.count, limit.period_seconds, expected, exempt))
    return rows
