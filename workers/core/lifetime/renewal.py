"""When a certificate may and should be renewed, as a fraction of its lifetime and never as a number of days.

Let's Encrypt's lifetimes fall from 90 to 64 (2027-02-10) and 45 days (2028-02-16), and 6-day certificates exist
(FACTS-certbot 3.4), so the last third is 30, 21, 15 or, as half of 160 hours, a good 3 days.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from workers.core.model import Certificate

SHORT_LIFETIME = timedelta(days=10)
"""Below this a third is too little time for a person to act, so the window is half the lifetime (DESIGN A.3)."""

_CERTBOTS_OWN = timedelta(days=30)

_SERVERS_SHARE = 0.5
"""The first half of the window belongs to the server's own timer; then the renewal is overdue and becomes ours."""

_SPREAD = 0.1
"""Ours are spread over this share of the window, so that sites issued in one hour are not renewed in one minute."""


@dataclass(frozen=True, slots=True)
class Window:
    """When a certificate may be renewed, UTC; `closes_at` is its notAfter."""

    opens_at: datetime
    closes_at: datetime

    def is_open(self, now: datetime) -> bool:
        """Whether it has opened; it stays open after notAfter, when renewing is only the more urgent."""
        return now >= self.opens_at

    def at(self, share: float) -> datetime:
        """The instant at which this share (0 to 1) of the window is gone."""
        return self.opens_at + (self.closes_at - self.opens_at) * share


def renewal_window(not_before: datetime, not_after: datetime) -> Window:
    """The last third of the lifetime, or its last half where the lifetime is below 10 days.

    A CA that backdates (Let's Encrypt by an hour) makes the lifetime a little longer than it was ever usable; the
    window then opens a little earlier, which does no harm.
    """
    lifetime = not_after - not_before
    return Window(not_after - (lifetime / 2 if lifetime < SHORT_LIFETIME else lifetime / 3), not_after)


def window_of(certificate: Certificate) -> Window:
    """`renewal_window` of a certificate."""
    return renewal_window(certificate.not_before, certificate.not_after)


def renew_before(certificate: Certificate) -> timedelta | None:
    """How long before its expiry certbot on the server is told to renew; None: its own 30 days are right.

    Up to 4.0.0 certbot renews whatever has less than 30 days left: a 45-day certificate in its first half, a 10-day one
    at every run, 14 orders a week against a limit of 5 (FACTS-certbot 3.4).
    """
    # notAfter itself is within the validity (RFC 5280 4.1.2.5): 90 days are written as 90 days less a second.
    window = renewal_window(certificate.not_before, certificate.not_after + timedelta(seconds=1))
    length = window.closes_at - window.opens_at
    return None if length >= _CERTBOTS_OWN else length


def is_due(certificate: Certificate, now: datetime) -> bool:
    """Whether a person's RenewSSL is accepted without `force` (DESIGN A.1)."""
    return window_of(certificate).is_open(now)


def overdue_at(certificate: Certificate) -> datetime:
    """When half the window is gone: the server had its chance, and its silence needs a reason."""
    return window_of(certificate).at(_SERVERS_SHARE)


def due_at(certificate: Certificate, draw: float) -> datetime:
    """When certpilot renews by itself what the server has not: just after it is overdue, spread.

    Of 90 days: between 75 and 78 days of age. Of 45: 37.5 and 39. Of 160 hours: 120 and 128 hours.

    Args:
        certificate: the certificate last seen.
        draw: a draw in [0, 1), made once and stored with the result, not drawn again at each look.
    """
    return window_of(certificate).at(_SERVERS_SHARE + _SPREAD * draw)
