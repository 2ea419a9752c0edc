"""Whose turn it is where many wait for the same bucket (DESIGN B.7): first come, first served, each told its time once.

A job that our ledger refuses is promised a *turn*: the first instant at which every bucket that it needs has a token for
it, besides those that are promised to the jobs ahead of it. The promise is kept in all of its buckets, so nobody comes
in vain, and a job that waits long for one bucket holds nobody up in another: whoever fits into a gap before it goes
there. Ahead of a newcomer are all that wait. A job that is refused at its turn all the same, since the CA has corrected
a bucket, keeps its *place* (the turn that it was first promised): only those with an earlier place are ahead of it.
Those behind find their turns taken and are moved on in the same way, each at its own turn, not all at once.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from workers.core.limits.buckets import Bucket, Limit

PLACE_KEPT = timedelta(minutes=15)
"""How long after its turn a token is kept for a job. One that has not come by then (its server is paused, every runner
is down) takes what there is when it comes: a token must not lie idle for it."""

_NEVER = timedelta.max


@dataclass(frozen=True, slots=True)
class Line:
    """One bucket that a job needs, and the turns of those ahead of it.

    Attributes:
        limit: the bucket's figures.
        bucket: as stored.
        ahead: turns promised to others, one token each, in their order; UTC.
        cost: tokens that the job needs.
    """

    limit: Limit
    bucket: Bucket
    ahead: tuple[datetime, ...] = ()
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """When a job can go.

    Attributes:
        at: from then on every line lets it go, UTC.
        strictest: index of the line that makes it wait longest.
    """

    at: datetime
    strictest: int


def first_turn(lines: Sequence[Line], *, not_before: datetime, now: datetime) -> Turn:
    """Find the first instant at which all lines have a token that is promised to nobody ahead.

    Args:
        lines: at least one.
        not_before: the answer is not earlier; UTC.
        now: UTC.
    """
    plans = [_Plan(line, now) for line in lines]
    alone = [plan.first_gap(not_before) for plan in plans]
    at = max(alone)
    # A later start in one line can miss its gap there; every round moves on to a later gap, of which there are finitely
    # many, and behind the last one everything fits.
    while (later := max(plan.first_gap(at) for plan in plans)) > at:
        at = later
    return Turn(at, alone.index(max(alone)))


class _Plan:
    """The promised turns of one line, played through by the arithmetic of `core.limits.buckets`."""

    def __init__(self, line: Line, now: datetime) -> None:
        self._step = line.limit.emission
        self._cost = self._step * line.cost
        self._burst = line.limit.burst_offset
        tat = now if line.bucket.tat is None else max(now, line.bucket.tat)
        tat += self._step * line.bucket.reserved
        # Per gap: the TAT before it, and the time at which the one behind it is served.
        self._tats, self._served = [tat], []
        for promised in line.ahead:
            at = max(promised, now, tat + self._step - self._burst)
            tat = max(tat, at) + self._step
            self._served.append(at)
            self._tats.append(tat)
        self._spare = self._spare_before_each()

    def _spare_before_each(self) -> list[timedelta]:
        """By how much the TAT may grow in each gap before anybody behind it is served later than without us."""
        spare = [_NEVER]
        for tat, at in zip(reversed(self._tats[:-1]), reversed(self._served), strict=True):
            own = at - (tat + self._step - self._burst)
            idle = max(at - tat, timedelta(0))  # a full bucket swallows that much
            behind = spare[-1]
            spare.append(own if behind is _NEVER else min(own, idle + behind))
        return spare[::-1]

    def first_gap(self, not_before: datetime) -> datetime:
        """Give the first instant from `not_before` on at which the tokens are there and nobody ahead is delayed."""
        start = bisect_right(self._served, not_before)
        for gap in range(start, len(self._tats)):
            tat = self._tats[gap]
            at = max(not_before, tat + self._cost - self._burst)
            if gap < len(self._served) and at > self._served[gap]:
                continue
            if max(tat, at) + self._cost - tat <= self._spare[gap]:
                return at
        raise AssertionError("behind the last of them there is always room")
