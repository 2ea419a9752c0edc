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
_ESCAPE = re.compile(r"\\++(?:(r\\++n|[nr])|u([0-9a-fA-F]{4})|([t\"'/]))?")
_HTML = (("<br>", "\n"), ("<br/>", "\n"), ("<br />", "\n"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'),
         ("&#34;", '"'), ("&#39;", "'"), ("&#x27;", "'"), ("&nbsp;", " "), ("&amp;", "&"))  # fmt: skip
_PREFIX = re.compile(
    r"""\s*(?:
        (?:[A-Z][a-z]{2}\ +\d{1,2}\ \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^\ ]{0,20})  # journal, syslog
          \ [\w.-]{1,80}\ [\w./@()-]{1,60}?(?:\[\d{1,9}\])?:\ ?
      | \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]{0,12}(?:Z|[+-]\d\d:?\d\d)\ (?:std(?:out|err)\ [FP]\ )?  # container logs
      | [\w.-]{1,60}\ {0,20}\|\ (?!\ *\|)                                                       # compose
      | \[(?=[^\]]{0,30}\d\d[:/]\d\d)[^\]]{4,40}\]\ ?                                           # panels: [date] [time]
      | (?:>\ ?){1,4}                                                                           # quoted mail
      | (?:stderr|stdout|msg|out|err)\ ?:\ (?=\S)                                               # ansible, deploy tools
      | \#\#\[(?:error|warning|group)\]                                                         # CI
    )""",
    re.VERBOSE,
)
_JSON_STRING = re.compile(r'\s*+"(?!\w{1,40}"\s*+:)(.*)"\s*+,?+\s*+$')
_LOG_RECORD = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3}:(DEBUG|INFO|WARNING|ERROR|CRITICAL):([\w.]{1,80}):"
)
_CONSOLE = ("Saving debug log to", "Requesting a certificate for", "Obtaining a new certificate",
            "An unexpected error occurred:", "Attempting to renew cert")  # fmt: skip
"""Lines of a console, pasted behind a log: they are no part of the log's last record."""
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
    """

    number: int
    text: str
    start: int
    indented: bool


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
    _speaker_starts: list[int] = field(repr=False)
    _speakers: list[LogRecord | None] = field(repr=False)
    _width: int = field(repr=False, default=0)

    def index_at(self, offset: int) -> int:
        """Give the index in `lines` of the line that holds this offset of the squeezed text."""
        return max(0, bisect_right(self._starts, offset) - 1)

    def begins_line(self, offset: int) -> bool:
        """Tell whether a line begins at this offset."""
        return bool(self.lines) and self.lines[self.index_at(offset)].start == offset

    def record_at(self, offset: int) -> LogRecord | None:
        """Give the log record whose text holds this offset, if the text before it has any."""
        place = bisect_right(self._speaker_starts, offset) - 1
        return self._speakers[place] if place >= 0 else None

    def record_end(self, record: LogRecord) -> int:
        """Give the offset at which the next record or a console begins."""
        place = bisect_right(self._speaker_starts, record.start)
        return self._speaker_starts[place] if place < len(self._speaker_starts) else len(self.squeezed)

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
    numbered = list(raw_lines)
    elements = _array_elements([line for _, line in numbered])
    raw: dict[int, str] = {}
    lines: list[Line] = []
    squeezed: list[str] = []
    records: list[LogRecord] = []
    speakers: list[LogRecord | None] = []
    speaker_starts: list[int] = []
    length = 0
    for place, (number, line) in enumerate(numbered):
        if not line:
            continue
        kept, parts = _logical(line, element=place in elements)
        raw[number] = kept
        for text, indented in parts:
            words = text.lower().split()
            if not words:
                continue
            record = _LOG_RECORD.match(text)
            if record:
                records.append(LogRecord(length, record[1], record[2], record[3].lower()))
            if record or (records and text.startswith(_CONSOLE)):
                speaker_starts.append(length)
                speakers.append(records[-1] if record else None)
            lines.append(Line(number, " ".join(words), length, indented))
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
        speaker_starts,
        speakers,
        _wrap_width(raw),
    )


def _array_elements(lines: list[str]) -> set[int]:
    """Find lines that are elements of a JSON array, as ansible prints `stderr_lines`: three or more in a row."""
    found: set[int] = set()
    row: list[int] = []
    for place, line in enumerate(lines):
        if line.lstrip()[:1] == '"' and _JSON_STRING.match(line):
            row.append(place)
            continue
        if len(row) > 2:  # noqa: PLR2004  # see above
            found.update(row)
        row = []
    return found.union(row) if len(row) > 2 else found  # noqa: PLR2004  # see above


def _logical(line: str, *, element: bool) -> tuple[str, list[tuple[str, bool]]]:
    """Clean one raw line: the text to show as evidence, and its logical lines (words, indented)."""
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
        line = _ESCAPE.sub(_unescape, line)
    if "\n" in line or "\r" in line:
        if element:
            inside = _JSON_STRING.match(line.replace("\n", "\r"))
            line = inside[1] if inside else line
        parts = line.replace("\r", "\n").split("\n")
        return kept, [_bare(part) for part in parts]
    return kept, [_bare(line, element=element)]


def _unescape(match: re.Match[str]) -> str:
    """Undo JSON's escapes, however often they were escaped again; a backslash before anything else stays."""
    newline, code, sign = match.groups()
    if newline:
        return "\n"
    if code:
        return chr(int(code, 16))
    return " " if sign == "t" else sign or "\\"


def _bare(line: str, *, element: bool = False) -> tuple[str, bool]:
    """Take prefixes and the quotes of a JSON array's element off a line."""
    for _ in range(3):
        found = _PREFIX.match(line)
        if not found or found.end() == 0:
            break
        line = line[found.end() :]
    if element:
        inside = _JSON_STRING.match(line)
        line = inside[1] if inside else line
    return line, line[:1].isspace()


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
