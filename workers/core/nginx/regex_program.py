"""Running an expression compiled by `workers.core.nginx.regex`: every alternative at once (Thompson's construction).

No expression costs more than its size times the length of the text, whatever it repeats.
"""

from collections.abc import Callable
from dataclasses import dataclass

WORD_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@dataclass(frozen=True, slots=True)
class CharSet:
    """One character: in `chars`, or outside it when negated."""

    chars: frozenset[str]
    negated: bool = False

    def has(self, char: str) -> bool:
        """Whether this one character is taken."""
        return (char in self.chars) is not self.negated


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on at each of these instructions, counted from this one."""

    by: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Assert:
    """Go on only where this holds between two characters."""

    holds: Callable[[str, int], bool]


Instruction = CharSet | Jump | Assert | None  # None: the expression matched
Program = list[Instruction]


def at_start(_text: str, at: int) -> bool:
    """PCRE's `^`."""
    return at == 0


def at_end(text: str, at: int) -> bool:
    """PCRE's `$`: the end, or before a line feed that ends the text."""
    return at == len(text) or (at == len(text) - 1 and text[at] == "\n")


def at_boundary(text: str, at: int) -> bool:
    r"""PCRE's `\b`."""
    before = at > 0 and text[at - 1] in WORD_CHARS
    after = at < len(text) and text[at] in WORD_CHARS
    return before is not after


ANCHORS: dict[str, Callable[[str, int], bool]] = {
    "A": at_start,
    "z": lambda text, at: at == len(text),
    "Z": at_end,
    "b": at_boundary,
    "B": lambda text, at: not at_boundary(text, at),
}


def run(program: Program, text: str, start: int, *, anchored: bool) -> bool:
    """Whether the program matches, from `start` on or (unless anchored) anywhere behind it."""
    active: list[int] = [0]
    for at in range(start, len(text) + 1):
        matched, waiting = _reach(program, active, text, at)
        if matched:
            return True
        active = [i + 1 for i, chars in waiting if at < len(text) and chars.has(text[at])]
        if not anchored:
            active.append(0)
        if not active:
            return False
    return False


def _reach(program: Program, active: list[int], text: str, at: int) -> tuple[bool, list[tuple[int, CharSet]]]:
    """Follow everything that takes no character: whether it matched, and the characters now waited for."""
    seen: set[int] = set()
    waiting: list[tuple[int, CharSet]] = []
    pending = list(active)
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        match program[index]:
            case None:
                return True, []
            case Jump(by):
                pending.extend(index + step for step in by)
            case Assert(holds):
                pending.extend([index + 1] if holds(text, at) else [])
            case CharSet() as chars:
                waiting.append((index, chars))
    return False, waiting
