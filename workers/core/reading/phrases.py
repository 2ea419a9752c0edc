"""The small language of the tables: literal words with a few placeholders, matched against squeezed text.

Squeezed text is lower-case and has no white space at all (`workers.core.reading.lines`), so that a text wrapped at any
column, inside a word or between words, reads the same. A phrase is written as it is printed and squeezed likewise.

Placeholders: `{host}` one host name, `{hosts}` several, `{lineage}` a certificate name, `{path}`, `{n}` a number, `{some}` one above 0,
`{time}` a date with time, `{}` anything short. Every one is bounded, and a phrase is only tried around a place where
its longest literal part stands: reading stays linear in the length of the text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

REACH = 700
"""Characters of squeezed text around the literal part in which a phrase is tried."""

LONGEST_LEAD = 253
"""Characters before a phrase that begins with a placeholder: a host name is no longer."""

MOST_HITS = 300
"""Hits of one phrase that are looked at: certificates have at most 100 names, panels renew hundreds of lineages."""

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "host": r"(?P<host>[\w*][\w.*:-]{0,252}?)",
        "hosts": r"""(?P<hosts>[\w*"'\[][\w.*,:"'\[\]-]{0,4000}?)""",
        "lineage": r"(?P<lineage>[\w*][\w.*@+-]{0,252}?)",
        "path": r"""(?P<path>[^'"]{1,300}?)""",
        "n": r"\d{1,12}",
        "some": r"[1-9]\d{0,11}",
        "time": r"(?P<time>\d{4}-\d\d-\d\dt?\d\d:\d\d:\d\d)",
        "": r".{0,160}?",
    }
)
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


GRAM, STRIDE = 7, 6
"""A text is sampled as pieces of 7 characters at every sixth place: any longer literal shows in one of them."""


def grams(squeezed: str) -> frozenset[str]:
    """Sample a squeezed text, so that hundreds of phrases can be ruled out without searching for each."""
    return frozenset(squeezed[at : at + GRAM] for at in range(0, len(squeezed) - GRAM + 1, STRIDE))


def squeeze(text: str) -> str:
    """Lower-case without white space."""
    return "".join(text.lower().split())


@dataclass(frozen=True)
class Match:
    """One place of a phrase in squeezed text; `groups` are the placeholders' texts, `open_group` the one at its end."""

    start: int
    end: int
    groups: Mapping[str, str]
    starts: Mapping[str, int]
    open_group: str | None


class Phrase:
    """A compiled phrase."""

    def __init__(self, text: str) -> None:
        self.text = text
        parts = _PLACEHOLDER.split(text)
        self._literals = [squeeze(part) for part in parts[::2]]
        self._kinds = parts[1::2]
        self.needle = max(self._literals, key=len)
        ends_open = self._kinds and not self._literals[-1]
        self._open = self._kinds[-1] if ends_open else None
        longest = len(self.needle) >= GRAM + STRIDE - 1
        self._keys = [self.needle[at : at + GRAM] for at in range(STRIDE)] if longest else []

    def possible(self, sample: frozenset[str]) -> bool:
        """Tell whether a text with this sample can hold the phrase."""
        return not self._keys or any(key in sample for key in self._keys)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        pieces = [re.escape(self._literals[0])]
        for kind, literal in zip(self._kinds, self._literals[1:], strict=True):
            pieces += [_KINDS[kind], re.escape(literal)]
        return re.compile("".join(pieces[2:] if self._leads else pieces))

    @cached_property
    def _leads(self) -> str | None:
        """The placeholder at the beginning: its text is what stands before the rest, up to white space."""
        return self._kinds[0] if self._kinds and not self._literals[0] else None

    @cached_property
    def _before(self) -> int:
        """How far before the needle a match can begin."""
        return 0 if self._leads or self._literals[0] == self.needle else REACH

    def find(self, squeezed: str, start: int = 0, end: int | None = None) -> Iterator[Match]:
        """Yield the places of the phrase, in order, not overlapping."""
        end = len(squeezed) if end is None else end
        at = start
        for _ in range(MOST_HITS):
            place = squeezed.find(self.needle, at, end)
            if place < 0:
                return
            found = self._at(squeezed, place, at, end)
            if found:
                yield found
            at = max(found.end if found else 0, place + len(self.needle))

    def _at(self, squeezed: str, place: int, floor: int, end: int) -> Match | None:
        if not self._kinds:
            return Match(place, place + len(self.needle), {}, {}, None)
        first = max(floor, place - self._before)
        last = min(end, place + len(self.needle) + REACH * 6)
        found = self._regex.search(squeezed, first, last)
        if found is None or found.start() > place:
            return None
        groups = {key: text for key, text in found.groupdict().items() if text}
        starts = {key: found.start(key) for key in groups}
        if self._leads and found.start():
            begin = max(0, found.start() - LONGEST_LEAD)
            groups[self._leads], starts[self._leads] = squeezed[begin : found.start()], begin
        return Match(found.start(), found.end(), groups, starts, self._open)
