"""What a server's own state shows of its renewal: timers, units, crontabs.

Sources: systemd `systemctl-list-units.c`, `systemctl-show.c`; Debian's certbot package (`certbot.timer`,
`/etc/cron.d/certbot`), snapd's `snap.certbot.renew.timer`, Fedora's `certbot-renew.timer` (FACTS-certbot 4.1); cron.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

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
_TIME_FIELDS = r"(?:[\d*/,~-]+\s+){5}|@(?:daily|weekly|hourly|reboot|monthly|midnight|annually|yearly)\s+"
_CRON_ROW = re.compile(rf"(?:{_TIME_FIELDS}).*(?:certbot|letsencrypt)")
_ANY_CRON_ROW = re.compile(rf"(?:{_TIME_FIELDS})\S")
_CRONTAB_LINE = re.compile(rf"#|[a-z_]{{2,40}}\s?=|\S{{0,60}}[$#] .*cron|{_TIME_FIELDS}")
_COMMENTED = re.compile(rf"#\s?(?:{_TIME_FIELDS}).*(?:certbot|letsencrypt).*renew")
_COUNTED = re.compile(r"grep-\w{0,3}c\w{0,3}[\"']?(?:certbot|letsencrypt)[\"']?(\d{1,4})(?!\d)")
_PROMPT = re.compile(r"\S{0,60}[$#] ")
_COUNT = re.compile(r"[$#]\s.{0,60}?(?:systemctl|cron|timers).{0,100}?grep\s.{0,40}?(?:certbot|letsencrypt)")
_GONE = re.compile(r"could not be found|not found|not loaded|is masked|; masked|no such file")
_FILE_STATE = re.compile(r"\.(timer|service)\s+(enabled|disabled|masked|static)\b")
_FAILED_ROW = re.compile(r"\.service\s+(?:not-found|loaded|masked)\s+failed\s")
_PROPERTY = re.compile(r"(activestate|unitfilestate|result|loadstate)=([\w-]+)$")
_NAMED_WITHIN = 6
"""Lines between the name of a unit and what is said of it, in `systemctl status` and `systemctl show`."""


class _Says(IntEnum):
    """What a line says of the server's own renewal."""

    RUNS = 3
    READY = 2
    """Switched on, or a cron job that steps back where systemd runs: counts unless something else says no."""
    MISSING = 1
    FAILED = 0


@dataclass(frozen=True, slots=True)
class _Sign:
    says: _Says
    start: int
    end: int


def read_state(document: Document) -> tuple[list[Hit], list[tuple[int, Mark]]]:
    """Read timers, units and crontabs: what is wrong, and where the server's own renewal is in order.

    One schedule that works is enough, whatever another one says.
    """
    signs = _signs(document)
    said = {sign.says for sign in signs}
    rows = {_Says.FAILED: FAILING} if _Says.RUNS in said else {_Says.FAILED: FAILING, _Says.MISSING: MISSING}
    fine = {_Says.RUNS} if _Says.MISSING in said else {_Says.RUNS, _Says.READY}
    hits = [Hit(rows[sign.says], sign.start, sign.end) for sign in signs if sign.says in rows]
    return hits, [(sign.start, Mark.FINE) for sign in signs if sign.says in fine]


def _signs(document: Document) -> list[_Sign]:
    words = (".timer", ".service", "timerslisted", "cron", "systemctl", "renew", "dowcommand")
    if not any(word in document.squeezed for word in words):
        return []
    by_line = [
        _Sign(says, line.start, line.start + len(line.text.replace(" ", "")))
        for index, line in enumerate(document.lines)
        if (says := _of_line(document.lines, index)) is not None
    ]
    return [*by_line, *_timer_table(document), *_counts(document), *_bare_crontab(document.lines)]


def _of_line(lines: tuple[Line, ...], index: int) -> _Says | None:
    """One line of `systemctl status`, `show`, `is-enabled`, `is-active`, `list-units`, of a crontab."""
    text = lines[index].text
    if "certbot" in text or "letsencrypt" in text:
        unit = _UNIT.search(text)
        return _of_unit(text, unit[1]) if unit and not _ANY_CRON_ROW.match(text) else _of_cron(text)
    if text.startswith("no crontab for "):
        return _Says.MISSING
    if text.startswith("active:"):
        return _active(text.removeprefix("active:").strip(), _unit_above(lines, index))
    found = _PROPERTY.match(text)
    if found:
        return _of_property(found[1], found[2], _unit_near(lines, index))
    if index and text in {"disabled", "inactive", "masked", "not-found", "enabled", "active"}:
        asked = "certbot" in lines[index - 1].text or lines[index - 1].text == text
        word = {"enabled": _Says.READY, "active": _Says.RUNS}.get(text, _Says.MISSING)
        service = ".service" in lines[index - 1].text
        return word if asked and not service else None
    return None


def _of_unit(text: str, kind: str) -> _Says | None:
    if kind == "service":
        return _Says.FAILED if _FAILED_ROW.search(text) else None
    if _GONE.search(text):
        return _Says.MISSING
    state = _FILE_STATE.search(text)
    if state and state[1] == "timer":
        return _Says.READY if state[2] == "enabled" else _Says.MISSING
    return None


def _of_cron(text: str) -> _Says | None:
    if _COMMENTED.match(text):
        return _Says.MISSING
    if "renew" in text and _CRON_ROW.match(text):
        return _Says.READY if "-d /run/systemd/system" in text else _Says.RUNS
    return None


def _active(text: str, unit: str) -> _Says | None:
    if unit == "timer":
        return _Says.RUNS if text.startswith("active") else _Says.MISSING
    if unit == "service" and text.startswith("failed"):
        return _Says.FAILED
    if unit == "service" and text.startswith("inactive (dead) since"):
        return _Says.READY
    return _Says.RUNS if text.startswith("active (waiting)") else None


def _of_property(name: str, value: str, unit: str) -> _Says | None:
    if unit == "timer":
        if value in {"inactive", "failed", "disabled", "masked", "not-found"}:
            return _Says.MISSING
        return {"active": _Says.RUNS, "enabled": _Says.READY}.get(value)
    failed = unit == "service" and (
        value == "failed" or (name == "result" and value not in {"success", "done"})
    )
    return _Says.FAILED if failed else None


def _unit_above(lines: tuple[Line, ...], index: int) -> str:
    for line in reversed(lines[max(0, index - _NAMED_WITHIN) : index]):
        unit = _UNIT.search(line.text)
        if unit and ("loaded" not in line.text or "status" in line.text):
            return unit[1]
    return ""


def _unit_near(lines: tuple[Line, ...], index: int) -> str:
    """`systemctl show` prints the unit's name, `Id=`, somewhere among its properties; else its command tells it."""
    for line in lines[max(0, index - _NAMED_WITHIN) : index + _NAMED_WITHIN]:
        unit = _UNIT.search(line.text)
        if unit and line.text.startswith(("id=", "names=")):
            return unit[1]
    return _unit_above(lines, index)


def _timer_table(document: Document) -> Iterator[_Sign]:
    """`systemctl list-timers`: no row of certbot's, or one without a next time. Rows are long, terminals break them."""
    if ".timer" not in document.squeezed and "timerslisted" not in document.squeezed:
        return
    rows = [
        row
        for row in _TIMER_ROW.finditer(document.squeezed)
        if document.squeezed[max(0, row.start() - 6) : row.start()].endswith(("ago", "n/a", "-"))
    ]
    for row in rows:
        unplanned = _UNPLANNED.search(document.squeezed, max(0, row.start() - 24), row.start())
        yield _Sign(_Says.MISSING if unplanned else _Says.RUNS, row.start(), row.end())
    table = _TABLE.search(document.squeezed)
    if table and not rows:
        yield _Sign(_Says.MISSING, table.start(), table.end())


def _counts(document: Document) -> Iterator[_Sign]:
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
        yield _Sign(_Says.MISSING, found[0][0], found[0][1])


def _bare_crontab(lines: tuple[Line, ...]) -> Iterator[_Sign]:
    """A crontab and nothing else, in which no line renews."""
    jobs = [line for line in lines if _ANY_CRON_ROW.match(line.text)]
    named = any(word in line.text for line in lines for word in ("certbot", "letsencrypt", "acme"))
    if jobs and not named and all(_CRONTAB_LINE.match(line.text) for line in lines):
        yield _Sign(_Says.MISSING, jobs[0].start, jobs[0].start + 1)
