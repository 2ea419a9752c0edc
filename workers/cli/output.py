"""What commands print: rows as a table for people, and the same rows as JSON for programs.

Texts come from messages, servers and the CA. Nothing in them may act on the terminal or leave its line (escape
sequences, line breaks, rich's markup), and no encoding of the terminal may stop the output. A table on a terminal fits
its width; in a pipe it is cut and folded nowhere, so that `grep` and `awk` see one row a line.
"""

import dataclasses
import io
import json
import os
import select
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from contracts.times import format_time

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_GAP = "  "
# Not strftime, whose month names depend on the machine's locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Cell(NamedTuple):
    """A text with rich's style for it, which shows on terminals only."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its heading.
        fixed: never folded; for short words whose length we know.
    """

    title: str
    fixed: bool = False


def stdout() -> TextIO:
    r"""Give standard output, made so that a character which the terminal cannot show comes as `\uNNNN` and stops nothing."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
        stream.reconfigure(errors="backslashreplace")
    return stream


def is_terminal() -> bool:
    """Whether a person looks at the output right now."""
    return stdout().isatty()


def reader_is_gone() -> bool:
    """Whether the other end of our pipe was closed: writing would tell, but there may be nothing to write for hours."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    except (OSError, ValueError):  # no file behind it
        return False


def visible(text: str) -> str:
    """Make a text one harmless line: line breaks become spaces, what else cannot be printed its escape."""
    if text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character.isprintable():
        return character
    # Format characters are not printable for Python either: a bidirectional override would make a name read as another.
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")


def shows_unicode() -> bool:
    """Whether more than ASCII can be expected to show as meant; Python writes UTF-8 even where the locale is C."""
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "")
    return locale not in ("C", "POSIX") and stdout().encoding.lower().startswith("utf")


def write_line(text: str = "", *, flush: bool = False) -> None:
    """Print one line of our own; what comes from elsewhere must have gone through `visible`."""
    print(text, file=stdout(), flush=flush)


def complain(command: str, text: str) -> None:
    """Say on standard error what went wrong."""
    print(f"{command}: {visible(text)}", file=sys.stderr)


def json_of(value: Any) -> str:
    """Write a value or a row as JSON on one line, in ASCII. Times are RFC 3339 UTC with `Z`."""
    return json.dumps(_plain(value), default=_json_default)


def parsed(body: bytes) -> Any:
    """Read a message's body that was checked before, to be printed as one line."""
    return json.loads(body)


def write_json_line(value: Any) -> None:
    """Print a value as one line of JSON, and let the reader have it at once."""
    write_line(json_of(value), flush=True)


def write_json_array(rows: Iterable[Any]) -> None:
    """Print rows as a JSON array, one row a line, without holding them all."""
    before = "["
    for row in rows:
        write_line(before)
        print(" " + json_of(row), end="", file=stdout())
        before = ","
    write_line("[]" if before == "[" else "\n]")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _json_default(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if dataclasses.is_dataclass(value):
        return _plain(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]]) -> None:
    """Print rows as a table with headings; nothing at all without a row."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    if not cells:
        return
    if not is_terminal():
        _write_aligned([[Cell(column.title) for column in columns], *cells])
        return
    from rich.table import Table  # noqa: PLC0415  # 60 ms that --json and pipes need not pay

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.title, no_wrap=column.fixed, overflow="fold")
    for row in cells:
        table.add_row(*map(styled, row))
    print_rich(table)


def _write_aligned(rows: Sequence[Sequence[Cell]]) -> None:
    widths = [max(len(cell.text) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.text.ljust(width) for cell, width in zip(row, widths, strict=True))
        write_line(_GAP.join(padded).rstrip())


def write_fields(title: str, fields: Iterable[tuple[str, str | Cell]]) -> None:
    """Print what is known of one thing: its title, then name and value a line; fields without a value are left out."""
    shown = [(name, _cell(value)) for name, value in fields]
    shown = [(name, value) for name, value in shown if value.text]
    if not is_terminal():
        write_line(visible(title))
        _write_aligned([[Cell("  " + name), value] for name, value in shown])
        return
    from rich.table import Table  # noqa: PLC0415  # as above

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in shown:
        grid.add_row("  " + name, styled(value))
    print_rich(styled(Cell(title, "bold")))
    print_rich(grid)


def print_rich(*renderables: Any) -> None:
    """Print through rich, but by our own write: rich ends the program with 1 where the reader has gone."""
    console = rich_console()
    with console.capture() as captured:
        console.print(*renderables)
    print(captured.get(), end="", file=stdout(), flush=True)


def rich_console() -> "Console":
    """Make a console that takes no text for markup, emoji or something to highlight."""
    from rich.console import Console  # noqa: PLC0415  # as above

    return Console(file=stdout(), markup=False, emoji=False, highlight=False)


def styled(cell: Cell) -> "Text":
    """Make rich's text of a cell, as it is: no markup is read in it."""
    from rich.text import Text  # noqa: PLC0415  # as above

    return Text(cell.text, style=cell.style)


def _cell(value: str | Cell) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(value)
    return Cell(visible(cell.text), cell.style)


def now() -> datetime:
    """This machine's time, UTC; for showing times, never for deciding."""
    return datetime.now(UTC)


def day_of(instant: datetime | None) -> str:
    """Show a day: `5 Mar 2027`."""
    if instant is None:
        return ""
    instant = instant.astimezone(UTC)
    return f"{instant.day} {_MONTHS[instant.month - 1]} {instant.year}"


def day_from(digits: str) -> datetime:
    """Read a day from its eight digits: `20261023`.

    Raises:
        ValueError: they are none.
    """
    return datetime.strptime(digits, "%Y%m%d").replace(tzinfo=UTC)


def moment_of(instant: datetime | None, seen_at: datetime) -> str:
    """Show an instant as short as it can be: `12:31 UTC` on the same day, else `5 Mar 12:31 UTC`, else with the year."""
    if instant is None:
        return ""
    instant, seen_at = instant.astimezone(UTC), seen_at.astimezone(UTC)
    clock = f"{instant:%H:%M} UTC"
    if instant.date() == seen_at.date():
        return clock
    if instant.year == seen_at.year:
        return f"{instant.day} {_MONTHS[instant.month - 1]} {clock}"
    return f"{day_of(instant)} {clock}"


def lasting(seconds: float) -> str:
    """Show a length of time by its largest unit: `45 s`, `4 min`, `5 h`, `6 days`."""
    seconds = abs(seconds)
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _DAY:.0f} days"


def from_now(instant: datetime | None, seen_at: datetime) -> str:
    """Show how far an instant is: `in 4 min`, `3 days ago`."""
    if instant is None:
        return ""
    seconds = (instant - seen_at).total_seconds()
    return f"in {lasting(seconds)}" if seconds >= 0 else f"{lasting(seconds)} ago"
