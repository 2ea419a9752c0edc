"""From raw text to lines without wrapping, colours, escapes and other programs' prefixes, and to squeezed text.

What stands around certbot's own words differs by who ran it: the journal puts a time and `certbot[123]:` before every
line, compose a service name, ansible keeps a whole output inside one JSON string, a panel turns it into HTML, a
terminal breaks it in the middle of a word. All of it is taken off here, and here only.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from workers.core.reading.phrases import grams

_ANSI = re.compile(
    r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]{0,500}(?:\x07|\x1b\\)?|[()][0-9A-B]|[@-Z\\-_])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\ufeff")
_NEWLINE_ESCAPE = re.compile(r"\\+r\\+n|\\+[nr]")
_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})|\\+([t\"'/])|\\(?=\\)")
_HTML = (("<br>", "\n"), ("<br/>", "\n"), ("<br />", "\n"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'),
         ("&#34;", '"'), ("&#39;", "'"), ("&#x27;", "'"), ("&nbsp;", " "), ("&amp;", "&"))  # fmt: skip
_PREFIX = re.compile(
    r"""\s*(?:
        (?:[A-Z][a-z]{2}\ +\d{1,2}\ \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^\ ]{0,20})  # journal, syslog
          \ [\w.-]{1,80}\ (?P<unit>[\w./@()-]{1,60}?)(?:\[\d{1,9}\])?:\ ?
      | \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]{0,12}(?:Z|[+-]\d\d:?\d\d)\ (?:std(?:out|err)\ [FP]\ )?  # container logs
      | [\w.-]{1,60}\ {0,20}\|\ (?!\ *\|)                                                       # compose
      | \[(?=[^\]]{0,30}\d\d[:/]\d\d)[^\]]{4,40}\]\ ?                                           # panels: [date] [time]
      | (?:>\ ?){1,4}                                                                           # quoted mail
      | (?:stderr|stdout|msg|out|err)\ ?:\ (?=\S)                                               # ansible, deploy tools
      | \#\#\[(?:error|warning|group)\]                                                         # CI
    )""",
    re.VERBOSE,
)
_JSON_STRING = re.compile(r'\s*"(?!\w{1,40}"\s*:)(.*?)"\s*,?\s*$')
_LOG_RECORD = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3}:(DEBUG|INFO|WARNING|ERROR|CRITICAL):([\w.]{1,80}):"
)
MOST_LINE = 50_000
"""Characters of one line that are kept at each end: minified pages and key dumps say nothing in their middle."""


@dataclass(frozen=True, slots=True)
class Line:
    """One logical line.

    Attributes:
        number: the number of the raw line it comes from, from 1.
        text: its words, cleaned.
        start: where its squeezed form begins in `Document.squeezed`.
        indented: the raw line began with white space, after any prefix.
        unit: the program that the journal names as the speaker, or an empty string.
    """

    number: int
    text: str
    start: int
    indented: bool
    unit: str


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The head of one record of certbot's debug log.

    Attributes:
        start: where it begins in the squeezed text.
        time: its time as printed, local to the server, `YYYY-MM-DD HH:MM:SS`.
        level: DEBUG to CRITICAL.
        logger: the logger's name, lower-case.
    """

    start: int
    time: str
    level: str
    logger: str


@dataclass(frozen=True, slots=True)
class Document:
    """A text, ready to be matched.

    Attributes:
        raw: number and raw text of every raw line that was kept.
        lines: the logical lines.
        squeezed: all lines, lower-case, without white space.
        records: the debug log's record heads, in order.
        sample: `phrases.grams` of `squeezed`.
    """

    raw: dict[int, str]
    lines: tuple[Line, ...]
    squeezed: str
    records: tuple[LogRecord, ...]
    sample: frozenset[str] = field(repr=False)
    _starts: list[int] = field(repr=False)
    _record_starts: list[int] = field(repr=False)
    _width: int = field(repr=False, default=0)

    def index_at(self, offset: int) -> int:
        """Give the index in `lines` of the line that holds this offset of the squeezed text."""
        return max(0, bisect_right(self._starts, offset) - 1)

    def begins_line(self, offset: int) -> bool:
        """Tell whether a line begins at this offset."""
        return bool(self.lines) and self.lines[self.index_at(offset)].start == offset

    def record_at(self, offset: int) -> LogRecord | None:
        """Give the log record whose text holds this offset, if the text before it has any."""
        place = bisect_right(self._record_starts, offset) - 1
        return self.records[place] if place >= 0 else None

    def record_end(self, record: LogRecord) -> int:
        """Give the offset at which the next record begins."""
        place = bisect_right(self._record_starts, record.start)
        return self._record_starts[place] if place < len(self._record_starts) else len(self.squeezed)

    def word_break_after(self, offset: int) -> int:
        """Give the first offset behind `offset` before which white space or a line's end was taken out.

        The end of a line that a terminal broke at its full width is no break.
        """
        index = self.index_at(offset)
        while True:
            line = self.lines[index]
            end = line.start
            for word in line.text.split():
                end += len(word)
                if end > offset:
                    break
            at_line_end = index + 1 < len(self.lines) and end == self.lines[index + 1].start
            if not (at_line_end and self._is_hard_broken(index)) or end <= offset:
                return end if end > offset else len(self.squeezed)
            index, offset = index + 1, end

    def word_break_before(self, offset: int) -> int:
        """Give the last offset not behind `offset` before which white space or a line's end was taken out."""
        line = self.lines[self.index_at(offset)]
        begin = line.start
        for word in line.text.split():
            if begin + len(word) > offset:
                break
            begin += len(word)
        return begin

    def _is_hard_broken(self, index: int) -> bool:
        if not self._width:
            return False
        here, following = self.lines[index], self.lines[index + 1]
        return (
            following.number == here.number + 1
            and len(self.raw.get(here.number, "")) == self._width
            and not following.indented
        )

    def line_end(self, offset: int) -> int:
        """Give the offset behind the line that holds this one, and behind those that a terminal broke it into."""
        index = self.index_at(offset)
        while index + 1 < len(self.lines) and self._is_hard_broken(index):
            index += 1
        return self.lines[index + 1].start if index + 1 < len(self.lines) else len(self.squeezed)

    def numbers(self, start: int, end: int) -> tuple[int, ...]:
        """Give the numbers of the raw lines that a span of the squeezed text stands on."""
        first, last = self.index_at(start), self.index_at(max(start, end - 1))
        return tuple(dict.fromkeys(line.number for line in self.lines[first : last + 1]))


def read_lines(text: str) -> list[tuple[int, str]]:
    """Number the raw lines of a text: only line feeds end one, with or without a carriage return before it."""
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1)]


def clean(raw_lines: Iterable[tuple[int, str]]) -> Document:
    """Make the document of numbered raw lines."""
    raw: dict[int, str] = {}
    lines: list[Line] = []
    squeezed: list[str] = []
    records: list[LogRecord] = []
    length = 0
    for number, line in raw_lines:
        kept, parts = _logical(line)
        raw[number] = kept
        for text, indented, unit in parts:
            words = text.lower().split()
            if not words:
                continue
            record = _LOG_RECORD.match(text)
            if record:
                records.append(LogRecord(length, record[1], record[2], record[3].lower()))
            lines.append(Line(number, " ".join(words), length, indented, unit))
            piece = "".join(words)
            squeezed.append(piece)
            length += len(piece)
    whole = "".join(squeezed)
    return Document(
        raw,
        tuple(lines),
        whole,
        tuple(records),
        grams(whole),
        [line.start for line in lines],
        [record.start for record in records],
        _wrap_width(raw),
    )


def _logical(line: str) -> tuple[str, list[tuple[str, bool, str]]]:
    """Clean one raw line: the text to show as evidence, and its logical lines (words, indented, unit)."""
    if len(line) > 2 * MOST_LINE:
        line = f"{line[:MOST_LINE]} … {line[-MOST_LINE:]}"
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    line = line.rstrip("\r")
    if not line.isprintable():
        line = _CONTROL.sub("", line)
    kept = line.replace("\r", " ").rstrip()
    if "&" in line or "<br" in line:
        for entity, plain in _HTML:
            line = line.replace(entity, plain)
    if "\\" in line:
        line = _NEWLINE_ESCAPE.sub("\n", line)
        line = _ESCAPE.sub(_unescape, line)
    if "\n" in line or "\r" in line:
        parts = line.replace("\r", "\n").split("\n")
        return kept, [_bare(part) for part in parts]
    return kept, [_bare(line)]


def _unescape(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    return "" if match[2] is None else " " if match[2] == "t" else match[2]


def _bare(line: str) -> tuple[str, bool, str]:
    """Take prefixes and the quotes of a JSON array's element off a line."""
    unit = ""
    for _ in range(3):
        found = _PREFIX.match(line)
        if not found or found.end() == 0:
            break
        unit = found["unit"] or unit
        line = line[found.end() :]
    if '"' in line:
        element = _JSON_STRING.match(line)
        if element:
            line = element[1]
    return line, line[:1].isspace(), unit.lower()


def _wrap_width(raw: dict[int, str]) -> int:
    """Find the column at which a terminal broke the text: the greatest length, if two lines reach it exactly.

    Lines shorter than 40 or longer than 400 characters are no terminal's.
    """
    lengths = sorted((len(line) for line in raw.values()), reverse=True)
    for longest, following in pairwise(lengths):
        if longest <= 400:  # noqa: PLR2004  # see above
            return longest if longest == following and longest >= 40 else 0  # noqa: PLR2004
    return 0


def spans_of(document: Document, numbers: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Yield number and raw text of lines, for evidence."""
    for number in numbers:
        if document.raw.get(number, "").strip():
            yield number, document.raw[number].strip()
