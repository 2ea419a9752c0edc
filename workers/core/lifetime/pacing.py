"""How fast due renewals are begun: as even as they can be, and never so slow that one would lapse (pure).

Where lifetimes are shortened, certificates of the old and of the new lifetime come due in the same weeks: at 64 to 45 days
twice as many as ever after, and what was renewed together stays together. Due renewals have days to spare, so they go at
hardly more than the fleet's mean rate, the next to expire first, and a wave is flattened within a few lifetimes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from workers.core.lifetime.renewal import due_at
from workers.core.model import Certificate

_HEADROOM = 1.18
"""Above the mean, so that what had to wait (a wave, servers that were off) is caught up."""

_AT_LEAST_PER_HOUR = 300.0
"""Nothing is gained by holding back fewer than one in 12 s: the fleet is small."""

_AT_ONCE = 50
_SHARE_OF_WHAT_IS_LEFT = 0.4
SHARE_KEPT_FREE = 1 / 20
"""Two days of 45, for a server that is off or a fault that a person has to mend."""

_NOT_GIVEN_FOR = timedelta(days=3)
_HOUR = timedelta(hours=1)
_SHORTEST_HOURS = 1 / 3600


def demand_per_hour(lifetime: timedelta, certificates: float = 1) -> float:
    """How many renewals an hour so many certificates of a lifetime need in the long run, if certpilot makes them all."""
    began = datetime(2027, 1, 1, tzinfo=UTC)  # only the difference counts
    due = due_at(Certificate("", (), "", began, began + lifetime), 0.5)
    return certificates / max((due - began) / _HOUR, _SHORTEST_HOURS)


@dataclass(frozen=True, slots=True)
class Cohort:
    """The fleet's certificates of one lifetime.

    Attributes:
        lifetime: of each of them.
        certificates: how many; a sample's estimate need not be whole.
        newest: the latest notBefore among them, UTC.
    """

    lifetime: timedelta
    certificates: float
    newest: datetime


def fleet_demand_per_hour(cohorts: Sequence[Cohort]) -> float:
    """How many renewals an hour the fleet needs once every certificate has been renewed.

    A lifetime that the CA gives no more counts as the one that it gives instead: the next shorter one of which there are
    certificates newer by days. Known so early, the faster pace meets a wave at its beginning.
    """
    return sum(demand_per_hour(_lifetime_ahead(one, cohorts), one.certificates) for one in cohorts)


def _lifetime_ahead(cohort: Cohort, cohorts: Sequence[Cohort]) -> timedelta:
    now_given = [
        one.lifetime
        for one in cohorts
        if one.lifetime < cohort.lifetime and one.newest - cohort.newest > _NOT_GIVEN_FOR
    ]
    return max(now_given, default=cohort.lifetime)


def cannot_wait(lifetime: timedelta, left: timedelta) -> bool:
    """Whether a due renewal begins whatever the pace: only the last twentieth of the lifetime is left."""
    return left <= lifetime * SHARE_KEPT_FREE


def pace_per_hour(demand: float, due: int, mean_left: timedelta) -> float:
    """How many due renewals an hour may begin.

    Args:
        demand: what the fleet needs in the long run, per hour (`fleet_demand_per_hour`).
        due: how many are due and not yet begun.
        mean_left: the mean of what is left to their notAfter; what is past counts as 0.

    Returns:
        Hardly more than the demand; more where those that wait would else come too near to their notAfter, however many
        were issued in one hour.
    """
    hours_left = max(mean_left * _SHARE_OF_WHAT_IS_LEFT / _HOUR, _SHORTEST_HOURS)
    return max(_AT_LEAST_PER_HOUR, _HEADROOM * demand, due / hours_left)


def room(paced_until: datetime, per_hour: float, now: datetime) -> int:
    """How many may begin now.

    Args:
        paced_until: what was begun so far is within the pace from then on (`paced`), UTC.
        per_hour: the pace.
        now: UTC.
    """
    ahead = max(paced_until - now, timedelta(0))
    return max(0, int(_AT_ONCE - ahead / _HOUR * per_hour))


def paced(paced_until: datetime, begun: int, per_hour: float, now: datetime) -> datetime:
    """Move on by what was begun; never further than an hour ahead, should the clock have been set back."""
    return min(max(paced_until, now) + begun * _HOUR / per_hour, now + _HOUR)
