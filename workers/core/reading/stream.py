"""The front end for long texts: bounded memory, and only what can matter is cleaned and matched.

What is kept, in bytes: the head and the tail of the newest run, and between them the lines that hold one of a few
words that no failure is without, with their neighbours. When a run begins, what was kept of older runs is cut to its
tail. A 200 MB log leaves at most some 250 KB.
"""

from collections import deque
from collections.abc import Iterable, Iterator

HEAD_CHARS = 24_000
TAIL_CHARS = 56_000
MIDDLE_CHARS = 20_000
LIMIT_CHARS = HEAD_CHARS + TAIL_CHARS + MIDDLE_CHARS
"""Texts up to this length are read whole."""

CHUNK_CHARS = 512_000
LONGEST_LINE = 100_000
_BEFORE, _AFTER = 600, 1_800
"""Characters kept around a word in the middle: a block of certbot's is some 700 long."""

_WORDS = (
    "rror",
    "ailed",
    "ertbot",
    "urn:",
    "emerg",
    "enied",
    "Killed",
    "reported these problems",
    "sudo:",
    "ssh: ",
)
_RUN = ("Saving debug log to", "certbot version: ")


def window(text: str) -> list[tuple[int, str]]:
    """Cut a text that is in memory to what is kept of it, as numbered raw lines."""
    if len(text) <= LIMIT_CHARS:
        return list(enumerate(text.split("\n"), start=1))
    return list(_numbered(text, _kept(text), 1))


def window_of(lines: Iterable[str]) -> list[tuple[int, str]]:
    """Cut a stream of lines to what is kept of it, in bounded memory.

    Args:
        lines: the text line by line, with or without line feeds.
    """
    kept: deque[tuple[int, str]] = deque()
    size = 0
    for first, chunk in _chunks(lines):
        begin = max(chunk.rfind(word) for word in _RUN)
        if begin >= 0:
            size = _drop(kept, size, TAIL_CHARS // 4)
        for number, line in _numbered(chunk, _kept(chunk), first):
            kept.append((number, line))
            size += len(line) + 1
        size = _drop(kept, size, LIMIT_CHARS * 3 // 2, spare=HEAD_CHARS)
    return list(kept)


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


def _drop(kept: deque[tuple[int, str]], size: int, most: int, spare: int = 0) -> int:
    """Drop the oldest lines behind the first `spare` characters until no more than `most` are kept."""
    if size <= most:
        return size
    head: list[tuple[int, str]] = []
    spared = 0
    while kept and spared < spare:
        head.append(kept.popleft())
        spared += len(head[-1][1]) + 1
    while kept and size > most:
        size -= len(kept.popleft()[1]) + 1
    kept.extendleft(reversed(head))
    return size


def _kept(text: str) -> list[tuple[int, int]]:
    """Give the spans of a text that are kept, in order and apart from each other."""
    if len(text) <= LIMIT_CHARS:
        return [(0, len(text))]
    newest = max(text.rfind(word) for word in _RUN)
    floor = max(0, newest)
    if len(text) - floor <= LIMIT_CHARS:
        floor = max(0, len(text) - LIMIT_CHARS)
        return (
            [(floor, len(text))]
            if newest >= 0
            else [(0, HEAD_CHARS), *_middle(text, HEAD_CHARS), (len(text) - TAIL_CHARS, len(text))]
        )
    head_end = min(len(text), floor + HEAD_CHARS)
    return [(floor, head_end), *_middle(text, head_end), (len(text) - TAIL_CHARS, len(text))]


def _middle(text: str, begin: int) -> list[tuple[int, int]]:
    """Find the places between head and tail that matter, the first and the last of them where there are too many."""
    end = len(text) - TAIL_CHARS
    places: list[int] = []
    for word in _WORDS:
        at = text.find(word, begin, end)
        seen = 0
        while at >= 0 and seen < 60:  # noqa: PLR2004  # 60 places of one word show what it is about
            places.append(at)
            seen += 1
            at = text.find(word, at + _AFTER, end)
    spans: list[tuple[int, int]] = []
    for place in sorted(places):
        low, high = max(begin, place - _BEFORE), min(end, place + _AFTER)
        if spans and low <= spans[-1][1]:
            spans[-1] = (spans[-1][0], high)
        else:
            spans.append((low, high))
    return _within_budget(spans)


def _within_budget(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    front: list[tuple[int, int]] = []
    back: list[tuple[int, int]] = []
    left = MIDDLE_CHARS
    while spans and left > 0:
        span = spans.pop(0) if len(front) <= len(back) else spans.pop()
        low, high = span[0], min(span[1], span[0] + left)
        (front if len(front) <= len(back) else back).append((low, high))
        left -= high - low
    return sorted([*front, *back])


def _numbered(text: str, spans: list[tuple[int, int]], first: int) -> Iterator[tuple[int, str]]:
    """Number the lines of the spans; a line that a span begins or ends in is kept whole up to `LONGEST_LINE`."""
    number, counted, done = first, 0, 0
    for low, high in spans:
        begin = max(done, text.rfind("\n", max(0, low - LONGEST_LINE), low) + 1 or low)
        feed = text.find("\n", high, high + LONGEST_LINE)
        end = len(text) if high >= len(text) else (feed if feed >= 0 else high)
        if begin >= end:
            continue
        number += text.count("\n", counted, begin)
        counted = begin
        for line in text[begin:end].split("\n"):
            yield number, line
            number += 1
        number -= 1
        counted, done = end, end + 1
