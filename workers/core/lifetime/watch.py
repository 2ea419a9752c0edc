"""When a site is looked at next, and what a look says of its certificate.

Intervals are fractions of the lifetime: a day for 90 days, two hours for 160, two seconds for three minutes. A look
costs a handshake for each name; a million sites of 90 days are 15 looks a second, of 45 days 31 (`looks_per_day`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from contracts.codes import Code
from workers.core.certificate import covers
from workers.core.lifetime.renewal import due_at, window_of
from workers.core.model import Certificate, Problem
from workers.core.preflight.observed import Handshake

_SHARE = 1 / 90
_SHARE_IN_WINDOW = 1 / 180
_SHARE_IN_DOUBT = 1 / 720
"""Two hours for 90 days: a reload under way is over by then, and people have hardly noticed."""

_SHARE_LAPSED = 1 / 30
_SHORTEST = timedelta(seconds=2)
_ANY_DAY = datetime(2027, 1, 1, tzinfo=UTC)
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


def looks_per_day(lifetime: timedelta) -> float:
    """How often a day a certificate of a lifetime that is well is looked at, on average over its life."""
    certificate = Certificate("", (), "", _ANY_DAY, _ANY_DAY + lifetime)
    in_window = (certificate.not_after - window_of(certificate).opens_at) / lifetime
    a_life = (1 - in_window) / _SHARE + in_window / _SHARE_IN_WINDOW
    return a_life / (lifetime / timedelta(days=1))


class Sight(StrEnum):
    """What a look says."""

    AS_KNOWN = "as known"
    RENEWED = "renewed"  # a newer certificate for all names: the server's own timer
    WRONG = "wrong"  # something else than the site's certificate, or an older one, or nothing


def sight_of(known: Certificate, names: Sequence[str], shakes: Sequence[Handshake], now: datetime) -> Sight:
    """Judge what the server showed.

    Args:
        known: the certificate last known.
        names: the site's names.
        shakes: one handshake for each name, to the server itself.
        now: real time, UTC.
    """
    serials = {shake.certificate.serial if shake.certificate else None for shake in shakes}
    if serials == {known.serial}:
        return Sight.AS_KNOWN
    first = shakes[0].certificate
    if len(serials) == 1 and first is not None and all(shake.verified for shake in shakes):
        newer = first.not_after > known.not_after and now < first.not_after
        if newer and covers(first, names):
            return Sight.RENEWED
    return Sight.WRONG


class Loss(StrEnum):
    """What is to be done about a site whose certificate is not shown."""

    GONE = "gone"  # its files are not on the server


@dataclass(frozen=True, slots=True)
class Looked:
    """A site as far as its look goes.

    Attributes:
        known: the certificate last known.
        names: the site's names, the lineage's first.
        host: the server, for people.
    """

    known: Certificate
    names: tuple[str, ...]
    host: str


def explain(
    site: Looked, shakes: Sequence[Handshake], disk: Certificate | None, now: datetime
) -> Certificate | Problem | Loss:
    """Say why a server does not show the certificate, once its disk was looked at as well.

    Args:
        site: the site.
        shakes: what it showed, one for each name.
        disk: the lineage's certificate on its disk; None: there is none.
        now: real time, UTC.

    Returns:
        The certificate, where it is a renewal whose roots only the server knows; else the problem, or its loss.
    """
    if disk is None:
        return Loss.GONE
    wrong = [
        shake for shake in shakes if shake.certificate is None or shake.certificate.serial != disk.serial
    ]
    renewed = (
        disk.serial != site.known.serial and disk.not_after > site.known.not_after and now < disk.not_after
    )
    if not wrong:
        if renewed and covers(disk, site.names):
            return disk
        return Problem(
            Code.NOT_SERVED,
            f"{site.host} shows a certificate until {disk.not_after:%Y-%m-%d}, which is not the one last issued.",
            site.names,
        )
    first, affected = wrong[0], tuple(shake.server_name for shake in wrong)
    if renewed and first.certificate is not None and first.certificate.serial == site.known.serial:
        return not_reloaded(site.host, disk, affected)
    if first.certificate is None:
        return Problem(
            Code.NOT_SERVED,
            f"Port 443 of {site.host} shows nothing for {first.server_name} ({first.error}).",
            affected,
        )
    shown = first.certificate
    message = (
        f"Visitors of {first.server_name} are shown another certificate, by {shown.issuer}, until"
        f" {shown.not_after:%Y-%m-%d}."
    )
    return Problem(Code.NOT_SERVED, message, affected)


def not_reloaded(host: str, disk: Certificate, names: Sequence[str]) -> Problem:
    """What is wrong where a server has renewed by itself and visitors see nothing of it.

    Args:
        host: the server, for people.
        disk: the newer certificate on its disk.
        names: for which it is not shown.
    """
    message = (
        f"{host} has a newer certificate (until {disk.not_after:%Y-%m-%d}), but nginx still shows the old one: it was not"
        " reloaded."
    )
    return Problem(Code.NGINX_RELOAD_FAILED, message, tuple(names))
