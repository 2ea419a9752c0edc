"""The front end for long texts: bounded memory, and only what can matter is cleaned and matched.

What is kept, in characters: the head and the tail of the newest run and the end of what stood before it, and between
head and tail the places that hold a word that no failure is without, the first and the last of them where there are
too many. Words that only a failure says have a share of their own, so that any amount of idle talk behind a failure
(`no error at all`, a hundred thousand times) does not push it out. A log of 200 MB leaves some 150 KB.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

HEAD_CHARS = 24_000
TAIL_CHARS = 52_000
BEFORE_CHARS = 16_000
STRONG_CHARS = 16_000
WEAK_CHARS = 8_000
LIMIT_CHARS = 100_000
"""Texts up to this length are read whole."""

CHUNK_CHARS = 512_000
LONGEST_LINE = 100_000
_BEFORE, _AFTER = 600, 1_800
"""Characters kept around a word in the middle: a block of certbot's is some 700 long."""
_PLACES = 60
"""As many places of one word in one chunk show what it is about."""

_STRONG = (
    "reported these problems",
    "Domain: ",
    "Detail: ",
    "urn:",
    "emerg",
    "Traceback",
    "Errno",
    "nother instance",
    "unexpected error",
    "enied",
    "Killed",
    "sudo:",
    "ssh: ",
)
_WEAK = ("rror", "ailed", "ertbot")
_RUN = ("Saving debug log to", "certbot version: ")


@dataclass(frozen=True, slots=True)
class _Piece:
    at: int
    number: int
    text: str

    def behind(self, place: int) -> "_Piece":
        """Give what of this piece stands at `place` of the whole text and behind it."""
        cut = max(0, place - self.at)
        return _Piece(self.at + cut, self.number + self.text.count("\n", 0, cut), self.text[cut:])


@dataclass(slots=True)
class _Places:
    """The first and the last places of a kind of word."""

    most: int
    first: list[_Piece] = field(default_factory=list)
    last: deque[_Piece] = field(default_factory=deque)
    sizes: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, piece: _Piece) -> None:
        if self.sizes[0] < self.most // 2:
            self.first.append(piece)
            self.sizes[0] += len(piece.text)
            return
        self.last.append(piece)
        self.sizes[1] += len(piece.text)
        while self.sizes[1] > self.most // 2 and len(self.last) > 1:
            self.sizes[1] -= len(self.last.popleft().text)

    def forget(self) -> None:
        self.first.clear()
        self.last.clear()
        self.sizes[:] = [0, 0]


@dataclass(slots=True)
class _Window:
    before: list[_Piece] = field(default_factory=list)
    head: list[_Piece] = field(default_factory=list)
    tail: list[_Piece] = field(default_factory=list)
    strong: _Places = field(default_factory=lambda: _Places(STRONG_CHARS))
    weak: _Places = field(default_factory=lambda: _Places(WEAK_CHARS))

    def add(self, chunk: str, at: int, number: int) -> None:
        """Take a chunk of whole lines that begins at character `at` of the text and with line `number`."""
        cutter = _Cutter(chunk, at, number)
        begin = max(chunk.rfind(word) for word in _RUN)
        if begin >= 0:
            before = max(BEFORE_CHARS, LIMIT_CHARS - (len(chunk) - begin))
            older = self.tail if begin < before else []
            self.before = _ending([*older, cutter.cut(max(0, begin - before), begin)], before)
            self.head, self.tail = [], []
            self.strong.forget()
            self.weak.forget()
        begin = max(begin, 0)
        missing = HEAD_CHARS - sum(len(piece.text) for piece in self.head)
        if missing > 0:
            self.head.append(cutter.cut(begin, min(len(chunk), begin + missing)))
        for places, words in ((self.strong, _STRONG), (self.weak, _WEAK)):
            for low, high in _around(chunk, words, begin):
                places.add(cutter.cut(low, high))
        latest = cutter.cut(max(begin, len(chunk) - TAIL_CHARS), len(chunk))
        self.tail = _ending([*self.tail, latest], TAIL_CHARS)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Give what is kept, in order and every character once."""
        kept = [*self.before, *self.head, *self.tail]
        for places in (self.strong, self.weak):
            kept += [*places.first, *places.last]
        done = 0
        for piece in sorted(kept, key=lambda one: (one.at, -len(one.text))):
            end = piece.at + len(piece.text)
            if end > done:
                left = piece.behind(done)
                text = left.text.removeprefix("\n") if left.at == done else left.text
                yield from enumerate(text.split("\n"), start=left.number + (len(left.text) - len(text)))
                done = end


class _Cutter:
    """Cuts pieces out of a chunk, at ends of lines unless a line is longer than any that says something."""

    def __init__(self, chunk: str, at: int, number: int) -> None:
        self._chunk, self._at = chunk, at
        self._counted, self._number = 0, number

    def cut(self, low: int, high: int) -> _Piece:
        begin = self._chunk.rfind("\n", max(0, low - LONGEST_LINE), low) + 1
        if not begin and low > LONGEST_LINE:
            begin = low
        feed = self._chunk.find("\n", high, high + LONGEST_LINE)
        end = feed if feed >= 0 else (len(self._chunk) if len(self._chunk) - high <= LONGEST_LINE else high)
        if begin < self._counted:
            number = self._number - self._chunk.count("\n", begin, self._counted)
        else:
            number = self._number + self._chunk.count("\n", self._counted, begin)
        self._counted, self._number = begin, number
        return _Piece(self._at + begin, number, self._chunk[begin : max(begin, end)])


def window(text: str) -> list[tuple[int, str]]:
    """Cut a text that is in memory to what is kept of it, as numbered raw lines."""
    if len(text) <= LIMIT_CHARS:
        return list(enumerate(text.split("\n"), start=1))
    kept = _Window()
    kept.add(text, 0, 1)
    return list(kept.lines())


def window_of(lines: Iterable[str]) -> list[tuple[int, str]]:
    """Cut a stream of lines to what is kept of it, in bounded memory.

    Args:
        lines: the text line by line, with or without line feeds.
    """
    kept = _Window()
    at = 0
    for number, chunk in _chunks(lines):
        if number == 1 and len(chunk) <= LIMIT_CHARS:
            return list(enumerate(chunk.split("\n"), start=1))  # the only chunk: a longer text fills it
        kept.add(chunk, at, number)
        at += len(chunk) + 1
    return list(kept.lines())


def _chunks(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    held: list[str] = []
    size, first, number = 0, 1, 0
    for number, line in enumerate(lines, start=1):  # the last number is needed behind the loop
        text = line.rstrip("\n")
        if len(text) > LONGEST_LINE:
            text = text[: LONGEST_LINE // 2] + text[-LONGEST_LINE // 2 :]
        held.append(text)
        size += len(text) + 1
        if size >= CHUNK_CHARS:
            yield first, "\n".join(held)
            held, size, first = [], 0, number + 1
    if held:
        yield first, "\n".join(held)


def _ending(pieces: list[_Piece], most: int) -> list[_Piece]:
    """Keep the last `most` characters of the pieces."""
    kept: list[_Piece] = []
    for piece in reversed(pieces):
        kept.append(piece.behind(piece.at + max(0, len(piece.text) - most)))
        most -= len(piece.text)
        if most <= 0:
            break
    return kept[::-1]


def _around(chunk: str, words: tuple[str, ...], begin: int) -> list[tuple[int, int]]:
    """Find the surroundings of the words in a chunk, in order and apart from each other."""
    places: list[int] = []
    for word in words:
        at = chunk.find(word, begin)
        seen = 0
        while at >= 0 and seen < _PLACES:
            places.append(at)
            seen += 1
            at = chunk.find(word, at + _AFTER)
    spans: list[tuple[int, int]] = []
    for place in sorted(places):
        low, high = max(begin, place - _BEFORE), min(len(chunk), place + _AFTER)
        if spans and low <= spans[-1][1]:
            spans[-1] = (spans[-1][0], high)
        else:
            spans.append((low, high))
    return spans
