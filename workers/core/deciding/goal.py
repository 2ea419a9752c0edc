"""When a job is done: what the certificate on disk must be, and when certbot must be told to make another one."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from workers.core.model import Certificate

_CLOCK_TOLERANCE = timedelta(minutes=5)


def goal_reached(
    certificate: Certificate | None,
    names: Sequence[str],
    *,
    force: bool,
    serial_before: str | None,
    counted: bool,
    now: datetime,
) -> bool:
    """Whether the certificate on disk is what the job is for.

    Args:
        certificate: of `live/NAME`, from the last LOOK.
        names: the job's names; it may have more.
        force: another serial than `serial_before` is needed.
        serial_before: as stored with the job, never from memory: a runner that takes over must know it (PROTOCOL 5 v).
        counted: an attempt was counted, so `serial_before` was stored from the server (None: there was none).
        now: real time, UTC.
    """
    if certificate is None or not set(names) <= set(certificate.names):
        return False
    # A CA that does not backdate can be a little ahead of us; that must not cost a second order.
    if not certificate.not_before - _CLOCK_TOLERANCE <= now < certificate.not_after:
        return False
    if not force:
        return True
    return (counted or serial_before is not None) and certificate.serial != serial_before


def needs_force(
    certificate: Certificate | None,
    *,
    force: bool,
    serial_before: str | None,
    counted: bool,
    alive: bool = False,
) -> bool:
    """Whether certbot must be told `--force-renewal` (DESIGN B.4).

    Exactly while the serial on disk is the one seen before, and no run of this job lives: unforced certbot exits 0 and
    does nothing when it finds nothing due, and a forced one orders again what an earlier run has brought.

    Args:
        certificate: on disk, from the last LOOK.
        force: of the job.
        serial_before: as stored.
        counted: an attempt was counted; before that an unknown `serial_before` is the serial on disk.
        alive: a run of this job lives.
    """
    if not force or alive or certificate is None:
        return False
    return certificate.serial == serial_before or (serial_before is None and not counted)
