"""The result of one check, for `doctor` and `server check`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from workers.cli import output
from workers.cli.live import AlignedLines
from workers.cli.output import Cell

_STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}
_STATE_WIDTH = 6


@dataclass(frozen=True, slots=True)
class Check:
    """One line.

    Attributes:
        name: what was looked at.
        state: `ok`; `note`: worth knowing, nothing is broken; `failed`.
        found: what was found.
        fix: what to do; empty where nothing has to be done.
        code: of the catalogue, where a job would wait or fail with it.
    """

    name: str
    state: Literal["ok", "note", "failed"]
    found: str
    fix: str = ""
    code: str | None = None


Checks: TypeAlias = Iterator[Check]


def ok(name: str, found: str) -> Check:
    """Make the line of what is as it should be."""
    return Check(name, "ok", found)


def note(name: str, found: str, fix: str = "") -> Check:
    """Make the line of what is worth knowing."""
    return Check(name, "note", found, fix)


def failed(name: str, found: str, fix: str, code: str | None = None) -> Check:
    """Make the line of what does not work, with what to do."""
    return Check(name, "failed", found, fix, code)


def show(checks: Iterable[Check], *, as_json: bool, name_width: int) -> bool:
    """Print each check when it is there, or all of them as a JSON array at the end.

    Args:
        checks: the checks, made one by one.
        as_json: an array instead of lines.
        name_width: characters of the longest name.

    Returns:
        Whether none failed.
    """
    shown = []
    lines = AlignedLines((_STATE_WIDTH, name_width))
    for check in checks:
        shown.append(check)
        if not as_json:
            _write(lines, check)
    if as_json:
        output.write_json_array(shown)
    return all(check.state != "failed" for check in shown)


def _write(lines: AlignedLines, check: Check) -> None:
    """On a terminal what to do stands on a line of its own; in a pipe each check is one line."""
    state, name = Cell(check.state, _STYLES[check.state]), Cell(check.name)
    if not check.fix or output.is_terminal():
        lines.write(state, name, Cell(check.found))
    else:
        lines.write(state, name, Cell(f"{check.found} To do: {check.fix}"))
    if check.fix and output.is_terminal():
        lines.write(Cell(""), Cell("  to do", "yellow"), Cell(check.fix))
