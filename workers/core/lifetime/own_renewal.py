"""When certpilot renews what a server has not, and when it tries again: pure, by fractions of the lifetime."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from workers.core.deciding import lifecycle
from workers.core.deciding.retry import RetryAction, RetryDecision
from workers.core.model import JobKind, JobState, Server, Site, SslStatus

_SHARE_OF_WHAT_IS_LEFT = 1 / 4
"""Until the next try after one that has failed: 3.7 days, 2.8, 2.1 … for the last 15 of 90."""

_SHARE_OF_LIFETIME = 1 / 90
_SHARE_LAPSED = 1 / 10
_GIVES_UP_SHARE = 1 / 3
"""After its expiry by this share of the lifetime a certificate is not renewed any more: a site that has moved away for
good must not be tried for ever."""

_SHORTEST = timedelta(seconds=2)
_MOST_OF_WHAT_IS_LEFT = 1 / 6


@dataclass(frozen=True, slots=True)
class OwnRenewal:
    """A job that no command asks for.

    Attributes:
        names: those of the certificate, the site's domain first; never others.
        server: where the site is.
        serial_known: of the certificate that has to be replaced, by us or by the server meanwhile.
        next_try_at: when another one is made, should this one bring nothing; UTC.
    """

    names: tuple[str, ...]
    server: Server
    serial_known: str
    next_try_at: datetime


def decide_own_renewal(site: Site, now: datetime) -> OwnRenewal | datetime | None:
    """Decide for a site whose renewal is due.

    Args:
        site: as stored, under its lock.
        now: the schedule's clock, UTC.

    Returns:
        The renewal; or when to decide anew (a job is at work, or a command has moved the site); or None: never, until a
        certificate is seen again, or a command asks for one after a removal.
    """
    certificate = lifecycle.own_certificate_of(site)
    if certificate is None or site.server is None or site.domain is None or _leaves(site):
        return None
    lifetime = certificate.not_after - certificate.not_before
    if site.ssl_status not in {SslStatus.ACTIVE, SslStatus.EXPIRED} or _works(site):
        return now + max(_SHORTEST, lifetime * _SHARE_OF_LIFETIME)
    if now > certificate.not_after + lifetime * _GIVES_UP_SHARE:
        return None
    others = tuple(name for name in certificate.names if name != site.domain)
    left = certificate.not_after - now
    pause = left * _SHARE_OF_WHAT_IS_LEFT if left > timedelta(0) else lifetime * _SHARE_LAPSED
    return OwnRenewal(
        names=(site.domain, *others),
        server=site.server,
        serial_known=certificate.serial,
        next_try_at=now + max(_SHORTEST, lifetime * _SHARE_OF_LIFETIME, pause),
    )


def _works(site: Site) -> bool:
    return site.job is not None and site.job.state in lifecycle.LIVE


def _leaves(site: Site) -> bool:
    """Whether a removal is the last that was asked for, whatever became of it."""
    return (
        site.job is not None and site.job.kind is JobKind.REMOVE and site.job.state is not JobState.SUCCEEDED
    )


def before_expiry(decision: RetryDecision, not_after: datetime | None, now: datetime) -> RetryDecision:
    """Shorten the wait of a renewal where the retry steps are too coarse for what is left of a short lifetime.

    Args:
        decision: what the retry policy says; a limit's time must not be given here.
        not_after: of the certificate that is to be replaced, UTC.
        now: UTC.
    """
    if (
        decision.action is not RetryAction.WAIT
        or decision.run_at is None
        or not_after is None
        or now >= not_after
    ):
        return decision
    latest = now + max(_SHORTEST, (not_after - now) * _MOST_OF_WHAT_IS_LEFT)
    return decision if decision.run_at <= latest else replace(decision, run_at=latest)
