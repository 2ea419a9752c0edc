"""The syntax of nginx: the text of one file becomes directives (`ngx_conf_read_token` is the rule).

Any text gives a result: what cannot be read is named among the problems and passed over, since one odd vhost must not
hide a thousand good ones. `workers.core.nginx.dump` puts the files of a dump together.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

MAX_DIRECTIVES = 300_000
"""More are not read: 4 MiB of `a;` would otherwise fill memory. A dump of 5,000 real vhosts has half as many."""

MAX_DEPTH = 16
"""Blocks nested deeper are passed over. Real ones reach six; nginx itself has no limit, but Python's stack has."""

MAX_PROBLEMS = 100

_SKIP = re.compile(r"(?:[ \t\r\n]++|\#[^\n]*+)++")
_WORD = re.compile(
    r"""
      "(?P<double>(?:[^"\\]++|\\[\s\S])*+)"
    | '(?P<single>(?:[^'\\]++|\\[\s\S])*+)'
    | (?P<bare>
        (?:[^\ \t\r\n;{}"'\\$]|\\[\s\S]|\$\{?)        # at the start of a word a brace or a quote is syntax …
        (?:[^\ \t\r\n;{\\$]++|\\[\s\S]|\$\{?)*+       # … further on only an opening brace is
      )
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\([\"'\\trn])")
_ESCAPED: Mapping[str, str] = MappingProxyType({"t": "\t", "r": "\r", "n": "\n"})
_LUA_TOKEN = re.compile(
    r"""(?P<comment>--)|\[(?P<level>=*+)\[|"(?:[^"\\\n]++|\\[\s\S])*+"?|'(?:[^'\\\n]++|\\[\s\S])*+'?|(?P<brace>[{}])""",
    re.VERBOSE,
)
_LUA_LONG = re.compile(r"\[(=*+)\[")


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive.

    Attributes:
        name: its first word.
        args: the other words, quotes and escapes resolved.
        block: the directives between its braces; None for a simple one ended by a semicolon.
        file: the file it stands in, as the dump names it; empty for text without file markers.
        line: its line in that file, from 1.
    """

    name: str
    args: tuple[str, ...]
    block: tuple["Directive", ...] | None
    file: str
    line: int

    @property
    def where(self) -> str:
        """`FILE:LINE`, for people."""
        return place(self.file, self.line)


def place(file: str, line: int) -> str:
    """Name a place in a configuration, for people."""
    return f"{file}:{line}" if file else f"line {line}"


def complain(problems: list[str], sentence: str) -> None:
    """Add a sentence, as long as there are not too many: a broken file can have one for each of its bytes."""
    if len(problems) < MAX_PROBLEMS:
        problems.append(sentence)


@dataclass(slots=True)
class _Open:
    """A block whose closing brace has not come yet."""

    words: list[str]
    line: int
    inner: list[Directive] = field(default_factory=list)


@dataclass(slots=True)
class Reader:
    """Reads one file, with an explicit stack: nesting of any depth costs no recursion.

    Attributes:
        text: the file.
        file: its path.
        left: how many directives may still be kept; what is left is for the next file.
        problems: where sentences about unreadable places are added.
    """

    text: str
    file: str
    left: int
    problems: list[str]
    _pos: int = 0
    _line: int = 1
    _counted_to: int = 0
    _words: list[str] = field(default_factory=list)
    _words_line: int = 1
    _stack: list[_Open] = field(default_factory=lambda: [_Open([], 0)])
    _too_deep: int = 0

    def read(self) -> tuple[Directive, ...]:
        """Read the whole file; never raises."""
        while self._skip() < len(self.text):
            if not self._words:
                self._words_line = self._line_here()
            match = _WORD.match(self.text, self._pos)
            if match:
                self._words.append(_plain(match))
                self._pos = match.end()
            else:
                self._sign(self.text[self._pos])
        if self._words or len(self._stack) > 1:
            self._complain('unexpected end of file, expecting ";" or "}"')
            self._end_directive()
            self._too_deep = 0
            while len(self._stack) > 1:
                self._close()
        return tuple(self._stack[0].inner)

    def _skip(self) -> int:
        skipped = _SKIP.match(self.text, self._pos)
        if skipped:
            self._pos = skipped.end()
        return self._pos

    def _sign(self, sign: str) -> None:
        self._pos += 1
        if sign == ";":
            self._end_directive()
        elif sign == "{":
            self._open()
        elif sign == "}":
            if self._words:
                self._complain('a directive is not ended by ";"')
                self._end_directive()
            if len(self._stack) > 1:
                self._close()
            else:
                self._complain('unexpected "}"')
        else:  # a quote that is never closed, or a backslash at the end of the text
            self._complain(f"{sign} is not closed")
            self._pos = len(self.text)

    def _open(self) -> None:
        if self._words and self._words[0].endswith("_by_lua_block"):
            self._skip_lua()
            self._add(self._words, (), self._words_line)
        elif len(self._stack) > MAX_DEPTH:
            self._too_deep += 1
        else:
            self._stack.append(_Open(self._words, self._words_line))
        self._words = []

    def _close(self) -> None:
        if self._too_deep:
            self._too_deep -= 1
        else:
            closed = self._stack.pop()
            self._add(closed.words, tuple(closed.inner), closed.line)

    def _end_directive(self) -> None:
        self._add(self._words, None, self._words_line)
        self._words = []

    def _add(self, words: list[str], block: tuple[Directive, ...] | None, line: int) -> None:
        if not words or self._too_deep:
            return
        if self.left > 0:
            self._stack[-1].inner.append(Directive(words[0], tuple(words[1:]), block, self.file, line))
        elif self.left == 0:
            self._complain(f"more than {MAX_DIRECTIVES} directives: the rest is not read")
        self.left -= 1

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self._pos)
        self._counted_to = self._pos
        return self._line

    def _complain(self, what: str) -> None:
        complain(self.problems, f"{place(self.file, self._line_here())}: {what}")

    def _skip_lua(self) -> None:
        """Move behind the brace that closes the Lua block whose opening brace has just been read."""
        depth = 1
        while depth:
            found = _LUA_TOKEN.search(self.text, self._pos)
            if found is None:
                self._pos = len(self.text)
                self._complain("a Lua block is not closed")
                return
            self._pos = found.end()
            if found["brace"]:
                depth += 1 if found["brace"] == "{" else -1
            elif found["level"] is not None:
                self._skip_to(f"]{found['level']}]")
            elif found["comment"]:
                long = _LUA_LONG.match(self.text, self._pos)
                self._skip_to(f"]{long[1]}]" if long else "\n")

    def _skip_to(self, end: str) -> None:
        at = self.text.find(end, self._pos)
        self._pos = len(self.text) if at < 0 else at + len(end)


def _plain(match: re.Match[str]) -> str:
    """The word without its quotes and escapes."""
    raw = match[match.lastgroup or 0]
    return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), raw) if "\\" in raw else raw
