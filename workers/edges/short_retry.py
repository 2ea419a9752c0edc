"""Repeating for a few seconds what a blip broke. Whatever has to wait longer is a row with a run_at."""

from collections.abc import Callable
from typing import TypeVar

import tenacity

T = TypeVar("T")

_LONGEST_SECONDS = 5.0


def with_short_retry(work: Callable[[], T], on: type[Exception]) -> T:
    """Do the work, again after 0.1, 0.2, 0.4 … s while it raises `on`, for about 5 s in all; then let it raise.

    The work must bear to be done twice: a lost reply does not say whether it was done.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(on),
        wait=tenacity.wait_exponential(multiplier=0.1, max=1.0),
        stop=tenacity.stop_after_delay(_LONGEST_SECONDS),
        reraise=True,
    )
    return retrying(work)
