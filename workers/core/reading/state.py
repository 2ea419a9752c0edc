"""What a server's own state shows of its renewal: timers, units, crontabs.

Sources: systemd `systemctl-list-units.c`, `systemctl-show.c`; Debian's certbot package (`certbot.timer`,
`/etc/cron.d/certbot`), snapd's `snap.certbot.renew.timer`, Fedora's `certbot-renew.timer` (FACTS-certbot 4.1); cron.
"""

import re
from collections.abc import Iterator

from contracts.codes import Code
from workers.core.reading.lines import Document, Line
from workers.core.reading.segments import Mark
from workers.core.reading.values import Hit, Row, Stage, Table, Weight

_S = Stage

MISSING = Row(
    (), Code.AUTO_RENEW_MISSING, _S.SCHEDULE, "no timer and no cron job of certbot, or not switched on; FACTS-certbot 4.1",
    not_that="no working renewal, whatever certbot said of a scheduled task: it does not look",
)  # fmt: skip
FAILING = Row(
    (), Code.AUTO_RENEW_FAILING, _S.SCHEDULE, "the last run of certbot's unit failed", weight=Weight.CONSEQUENCE,
)  # fmt: skip

UNITS = Table(
    "systemd and cron",
    ("certbot", "letsencrypt"),
    (
        Row(
            ("certbot: not found", "certbot-auto: not found", "certbot: command not found", "certbot-auto: command not found",
             "letsencrypt: not found", "letsencrypt: command not found"),
            Code.AUTO_RENEW_FAILING, _S.SCHEDULE, "cron runs commands with a PATH of its own, shorter than a login's", needs=("renew",),
            says="cron does not find certbot: its PATH is shorter than a login's.",
            fix="Name certbot by its whole path in the crontab, or set PATH there.",
        ),
        Row(
            ("certbot.service: failed with result", "certbot.service: main process exited", "failed to start certbot", "certbot-renew.service: failed",
             "snap.certbot.renew.service: failed", "failed to start service for snap application certbot", "unit certbot.service entered failed",
             "certbot.service: unit entered failed", "certbot.timer: failed"),
            Code.AUTO_RENEW_FAILING, _S.SCHEDULE, "systemd's words for a run of certbot's unit that failed", weight=Weight.CONSEQUENCE,
        ),
    ),
)  # fmt: skip

_UNIT = re.compile(r"(?:certbot|letsencrypt)[\w.-]{0,60}?\.(timer|service)")
_TABLE = re.compile(r"nextleftlastpassedunit|\d+timers?listed")
_TIMER_ROW = re.compile(
    r"(?:snap\.)?(?:certbot|letsencrypt)[\w.-]{0,40}?\.timer(?=snap\.|certbot|letsencrypt|\d|$)"
)
_UNPLANNED = re.compile(r"(?:n/a|-){3,}$")
_CRON_ROW = re.compile(
    r"(?:[\d*/,~-]+\s+){5}.*(?:certbot|letsencrypt)|@(?:daily|weekly|hourly|reboot|monthly)\b.*(?:certbot|letsencrypt)"
)
_COUNTED = re.compile(r"grep-\w{0,3}c\w{0,3}[\"']?(?:certbot|letsencrypt)[\"']?(\d{1,4})(?!\d)")
_PROMPT = re.compile(r"\S{0,60}[$#] ")
_COUNT = re.compile(r"[$#]\s.{0,60}?(?:systemctl|cron|timers).{0,100}?grep\s.{0,40}?(?:certbot|letsencrypt)")


def state_hits(document: Document) -> Iterator[Hit]:
    """Read timers, units and crontabs."""
    lines = document.lines
    if any(word in document.squeezed for word in (".timer", "timerslisted", "crontab", "cron", "systemctl")):
        yield from _timer_table(document)
        yield from _units(lines)
        yield from _counts(document)
        yield from _cron(lines)


def state_marks(document: Document) -> Iterator[tuple[int, Mark]]:
    """Find signs that the server's own renewal is in order."""
    for row, planned in _timer_rows(document.squeezed):
        if planned:
            yield row.start(), Mark.FINE
    for index, line in enumerate(document.lines):
        text = line.text
        waiting = "active: active (waiting)" in text
        rested = "active: inactive (dead) since" in text and _unit_above(document.lines, index) == "service"
        if waiting or rested or ("renew" in text and _CRON_ROW.match(text)):
            yield line.start, Mark.FINE


def _timer_rows(squeezed: str) -> Iterator[tuple[re.Match[str], bool]]:
    """Rows of `systemctl list-timers`: `n/a` or `-` before the unit means that it is not running."""
    if ".timer" in squeezed:
        for row in _TIMER_ROW.finditer(squeezed):
            yield row, not _UNPLANNED.search(squeezed, max(0, row.start() - 24), row.start())


def _hit(row: Row, line: Line) -> Hit:
    return Hit(row, line.start, line.start + len(line.text.replace(" ", "")))


def _timer_table(document: Document) -> Iterator[Hit]:
    """`systemctl list-timers`: no row of certbot's, or one without a next time. Rows are long, terminals break them."""
    rows = list(_timer_rows(document.squeezed))
    for row, planned in rows:
        if not planned:
            yield Hit(MISSING, row.start(), row.end())
    table = _TABLE.search(document.squeezed)
    if table and not rows:
        yield Hit(MISSING, table.start(), table.end())


def _units(lines: tuple[Line, ...]) -> Iterator[Hit]:
    """`systemctl status`, `is-enabled`, `is-active` of certbot's timer and service."""
    for index, line in enumerate(lines):
        text = line.text
        unit = _UNIT.search(text)
        if (
            unit
            and unit[1] == "timer"
            and re.search(r"could not be found|not found|not loaded|is masked|; masked|no such file", text)
        ):
            yield _hit(MISSING, line)
        elif text.startswith("active:"):
            above = _unit_above(lines, index)
            if (above == "timer" and "inactive" in text) or (above == "timer" and "failed" in text):
                yield _hit(MISSING, line)
            elif above == "service" and "failed" in text:
                yield _hit(FAILING, line)
        elif (
            text in {"disabled", "inactive", "masked", "not-found"}
            and index
            and "certbot" in lines[index - 1].text
        ):
            yield _hit(MISSING, line)


def _unit_above(lines: tuple[Line, ...], index: int) -> str:
    for line in reversed(lines[max(0, index - 6) : index]):
        unit = _UNIT.search(line.text)
        if unit and ("loaded" not in line.text or "status" in line.text):
            return unit[1]
    return ""


def _counts(document: Document) -> Iterator[Hit]:
    """A shell's `systemctl list-timers | grep certbot` that finds none, as long as no other place has one."""
    counted = [(found.start(), found.end(), found[1]) for found in _COUNTED.finditer(document.squeezed)]
    lines = document.lines
    shown = [
        (
            line.start,
            lines[index + 1].start,
            "0" if _PROMPT.match(lines[index + 1].text) else lines[index + 1].text,
        )
        for index, line in enumerate(lines[:-1])
        if _COUNT.search(line.text)
    ]
    found = counted or shown
    if found and all(number == "0" for _, _, number in found):
        yield Hit(MISSING, found[0][0], found[0][1])


def _cron(lines: tuple[Line, ...]) -> Iterator[Hit]:
    for line in lines:
        if re.match(r"no crontab for ", line.text) or re.match(
            r"#\s?(?:[\d*/,-]+\s+){5}.*(?:certbot|letsencrypt).*renew", line.text
        ):
            yield _hit(MISSING, line)
