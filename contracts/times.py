"""Instants as text: RFC 3339, UTC."""

import re
from datetime import UTC, datetime
from typing import Final

TIME_PATTERN: Final = (
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
"""RFC 3339 5.6, `date-time`; whether there is such a day and hour is another question."""

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-9]{2})"
    r"(?:[.][0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_LEAP_SECOND = "60"


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time.

    Args:
        text: the time; any number of fractional digits (Go sends nine, six are kept), a leap second is allowed.

    Returns:
        The instant in UTC.

    Raises:
        ValueError: it is not RFC 3339, or no such day or hour exists.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not RFC 3339")
    if match[3] == _LEAP_SECOND:
        text = text[: match.start(3)] + "59" + text[match.end(3) :]
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError as error:  # the first and last hours of the calendar have no UTC
        raise ValueError("out of range") from error


def format_time(instant: datetime) -> str:
    """Write an instant as RFC 3339 UTC with `Z`, always with microseconds, so that texts sort like times.

    Raises:
        ValueError: the instant has no time zone.
    """
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
