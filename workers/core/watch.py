"""When a site is looked at next, and what a look says of its certificate.

Intervals are fractions of the lifetime: a day for 90 days, two hours for 160, two seconds for three minutes. A look costs
two handshakes, so a million sites of 90 days are 12 looks a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from workers.core.certificate import covers
from workers.core.model import Certificate
from workers.core.renewal import due_at, window_of

_SHARE = 1 / 90
_SHARE_IN_WINDOW = 1 / 180
_SHARE_IN_DOUBT = 1 / 720
"""Two hours for 90 days: a reload under way is over by then, and people have hardly noticed."""

_SHARE_LAPSED = 1 / 30
_SHORTEST = timedelta(seconds=2)
_SPREAD = 0.5
"""Each interval is drawn from 0.75 to 1.25 of itself, so that what was issued in one minute is not looked at in one."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a site is seen to next, UTC.

    Attributes:
        next_check_at: the watch looks at what visitors are shown.
        renewal_due_at: certpilot renews, unless the server has done it by then.
    """

    next_check_at: datetime
    renewal_due_at: datetime


def schedule(certificate: Certificate, now: datetime, draw: float) -> Schedule:
    """Plan for a certificate that was just seen to be served.

    Args:
        certificate: that certificate.
        now: UTC.
        draw: in [0, 1).
    """
    return Schedule(next_look_at(certificate, now, draw), due_at(certificate, draw))


def next_look_at(certificate: Certificate, now: datetime, draw: float, *, doubt: bool = False) -> datetime:
    """When to look again.

    Args:
        certificate: the one last known.
        now: UTC.
        draw: in [0, 1).
        doubt: the last look did not show it; a second one has to follow soon.
    """
    lifetime = certificate.not_after - certificate.not_before
    if doubt:
        share = _SHARE_IN_DOUBT
    elif now >= certificate.not_after:
        share = _SHARE_LAPSED
    else:
        share = _SHARE_IN_WINDOW if window_of(certificate).is_open(now) else _SHARE
    interval = max(_SHORTEST, lifetime * share)
    return now + interval * (1 - _SPREAD / 2 + _SPREAD * draw)


class Sight(StrEnum):
    """What a look says."""

    AS_KNOWN = "as known"
    RENEWED = "renewed"  # a newer certificate for all names: the server's own timer
    WRONG = "wrong"  # something else than the site's certificate, or an older one
    NOTHING = "nothing"  # no answer, or no TLS


def sight_of(
    known: Certificate, names: Sequence[str], shown: Sequence[Certificate | None], now: datetime
) -> Sight:
    """Judge what the server showed.

    Args:
        known: the certificate last known.
        names: the site's names.
        shown: what was shown for each name, by a handshake whose chain is trusted or whose certificate is the known
            one; None where there was no answer.
        now: real time, UTC.
    """
    if any(one is None for one in shown):
        return Sight.NOTHING if all(one is None for one in shown) else Sight.WRONG
    found = [one for one in shown if one is not None]
    if all(one.serial == known.serial for one in found):
        return Sight.AS_KNOWN
    first = found[0]
    same = all(one.serial == first.serial for one in found)
    newer = first.not_after > known.not_after and now < first.not_after
    return Sight.RENEWED if same and newer and covers(first, names) else Sight.WRONG
