"""How long certificates will live, as announced: data with its source, and who issued a certificate."""

import re
from dataclasses import dataclass
from datetime import date

LETS_ENCRYPT = "Let's Encrypt"
LETS_ENCRYPT_STAGING = "Let's Encrypt staging"


@dataclass(frozen=True, slots=True)
class LifetimeChange:
    """From a day on, no certificate of this CA (None: of any public CA) lives longer.

    Attributes:
        ca: the CA's name, as in its limits.
        since: the first day, UTC.
        days: the longest lifetime from then on.
        source: who says so.
    """

    ca: str | None
    since: date
    days: int
    source: str


_PROFILES = "https://letsencrypt.org/2025/12/02/from-90-to-45 (default profile, classic)"
_BASELINE = "CA/Browser Forum, Baseline Requirements 6.3.2 (ballot SC-081)"

ANNOUNCED = (
    LifetimeChange(LETS_ENCRYPT, date(2015, 9, 14), 90, "https://letsencrypt.org/docs/faq/"),
    LifetimeChange(LETS_ENCRYPT, date(2027, 2, 10), 64, _PROFILES),
    LifetimeChange(LETS_ENCRYPT, date(2028, 2, 16), 45, _PROFILES),
    LifetimeChange(None, date(2027, 3, 15), 100, _BASELINE),
    LifetimeChange(None, date(2029, 3, 15), 47, _BASELINE),
)

_ISSUERS = (
    # https://letsencrypt.org/certificates/: R10, E7, and of the roots YE and YR: YE1, YR2.
    (re.compile(r"Y?[ER]\d+"), LETS_ENCRYPT),
    (re.compile(r"\(STAGING\) .*"), LETS_ENCRYPT_STAGING),
)


def lifetime_of(ca: str, old_days: int | None, on: date) -> int:
    """Days that a certificate lives which replaces another on a day.

    Args:
        ca: who issues it.
        old_days: the lifetime of the one that it replaces; a profile that is shorter than the default stays so. None:
            not known.
        on: when it is issued, UTC.
    """
    caps = [change.days for change in ANNOUNCED if change.ca in {None, ca} and change.since <= on]
    default = min(caps, default=90)
    return default if old_days is None else min(old_days, default) if caps else old_days


def ca_of(issuer: str | None, configured: str) -> str:
    """Name the CA of an issuing certificate.

    Args:
        issuer: its common name.
        configured: the CA that certpilot orders at; one whose intermediates are not known is taken for it, unless that
            is Let's Encrypt, whose names are.
    """
    if issuer is None:
        return configured
    for pattern, ca in _ISSUERS:
        if pattern.fullmatch(issuer):
            return ca
    return issuer if configured in {LETS_ENCRYPT, LETS_ENCRYPT_STAGING} else configured
