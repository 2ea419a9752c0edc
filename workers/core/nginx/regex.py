r"""Regular expressions of nginx (PCRE) on short texts, in time that no expression can blow up.

A customer's `server_name ~…` and `location ~…` decide which block answers, so they have to be tried here. Python's own
engine backtracks: one `(\w+\.)*x` written on a customer's server would stop a worker thread for good. This one
walks all alternatives at once (Thompson's construction), so it takes at most length of text times size of expression.
Expressions beyond it (back references, look-behind, recursion) give None: cannot tell.
"""

import re
from functools import lru_cache

from workers.core.nginx.regex_program import (
    ANCHORS,
    WORD_CHARS,
    Assert,
    CharSet,
    Instruction,
    Jump,
    Program,
    at_end,
    at_start,
    run,
)

MAX_PATTERN = 1_000
MAX_PROGRAM = 500
MAX_REPEAT = 200
_MAX_NESTING = 30

_CLASSES = {"d": frozenset("0123456789"), "w": WORD_CHARS, "s": frozenset(" \t\r\n\f\v")}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_COUNT = re.compile(r"\{(\d{1,4})(,(\d{0,4}))?\}")
_GROUP = re.compile(r"\?(?:P?<[A-Za-z_]\w*>|'[A-Za-z_]\w*'|:)")
_FLAGS = re.compile(r"\?(i?)(:|\))")


class _UnsupportedError(Exception):
    """The expression uses something that this engine does not know."""


class _Compiler:
    """Recursive descent over the expression."""

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        self.pattern, self.pos, self.ignore_case = pattern, 0, ignore_case
        self.depth = 0
        self.looking_ahead = False

    def compile(self) -> Program:
        program = self.alternatives()
        if self.pos < len(self.pattern):
            raise _UnsupportedError
        return [*program, None]

    def peek(self) -> str:
        return self.pattern[self.pos] if self.pos < len(self.pattern) else ""

    def take(self) -> str:
        if self.pos >= len(self.pattern):
            raise _UnsupportedError
        self.pos += 1
        return self.pattern[self.pos - 1]

    def alternatives(self) -> Program:
        self.depth += 1
        if self.depth > _MAX_NESTING:
            raise _UnsupportedError
        branches = [self.sequence()]
        while self.peek() == "|":
            self.take()
            branches.append(self.sequence())
        self.depth -= 1
        program = branches.pop()
        while branches:
            left = branches.pop()
            program = [Jump((1, 2 + len(left))), *left, Jump((1 + len(program),)), *program]
        return program

    def sequence(self) -> Program:
        program: Program = []
        while self.peek() not in {"", "|", ")"}:
            program += self.repeated(self.atom())
            if len(program) > MAX_PROGRAM:
                raise _UnsupportedError
        return program

    def repeated(self, atom: Program) -> Program:
        while True:
            low, high = self.count()
            if low is None:
                return atom
            # Lazy or greedy is one for a yes or no; a possessive one may refuse what this engine would take.
            if self.peek() in {"?", "+"} and self.take() == "+":
                raise _UnsupportedError
            atom = _repeat(atom, low, high)

    def count(self) -> tuple[int | None, int | None]:
        """The quantifier here, as least and most (None: without bound); a least of None means there is none."""
        sign = self.peek()
        if sign and sign in "*+?":
            self.take()
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        counted = _COUNT.match(self.pattern, self.pos)
        if not counted:
            return None, None
        self.pos = counted.end()
        low = int(counted[1])
        high = low if counted[2] is None else int(counted[3]) if counted[3] else None
        if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
            raise _UnsupportedError
        return low, high

    def atom(self) -> Program:
        char = self.take()
        match char:
            case "(":
                return self.group()
            case "*" | "+" | "?":
                raise _UnsupportedError
            case "[":
                one: Instruction = self.bracket()
            case ".":
                one = CharSet(frozenset("\n"), negated=True)
            case "^":
                one = Assert(at_start)
            case "$":
                one = Assert(at_end)
            case "\\":
                one = self.escape()
            case _:
                one = self.literal(char)
        return [one]

    def literal(self, char: str) -> CharSet:
        return CharSet(frozenset({char.lower(), char.upper()}) if self.ignore_case else frozenset({char}))

    def escape(self) -> Instruction:
        char = self.take()
        if char.lower() in _CLASSES:
            return CharSet(_CLASSES[char.lower()], negated=char.isupper())
        if char in _CONTROL:
            return self.literal(_CONTROL[char])
        if char in ANCHORS:
            return Assert(ANCHORS[char])
        if char.isalnum():
            raise _UnsupportedError
        return self.literal(char)

    def bracket(self) -> CharSet:
        negated = self.peek() == "^"
        if negated:
            self.take()
        chars: set[str] = set()
        first = True
        while first or self.peek() != "]":
            first = False
            chars |= self.member()
        self.take()
        if self.ignore_case:
            chars |= {other for char in chars for other in (char.lower(), char.upper())}
        return CharSet(frozenset(chars), negated)

    def member(self) -> frozenset[str]:
        start = self.take()
        if start == "[" and self.peek() == ":":
            raise _UnsupportedError
        if start == "\\":
            start = self.take()
            if start in _CLASSES:
                return _CLASSES[start]
            if start.isalnum() and start not in _CONTROL:
                raise _UnsupportedError
            start = _CONTROL.get(start, start)
        if self.peek() == "-" and self.pattern[self.pos + 1 : self.pos + 2] not in {"]", ""}:
            self.take()
            end_char = self.take()
            if end_char == "\\":
                end_char = self.take()
            if ord(end_char) < ord(start) or ord(end_char) > 0x2FF:  # noqa: PLR2004 - host names and URIs are ASCII
                raise _UnsupportedError
            return frozenset(map(chr, range(ord(start), ord(end_char) + 1)))
        return frozenset({start})

    def group(self) -> Program:
        ignore_case = self.ignore_case
        if self.peek() == "*":
            raise _UnsupportedError
        if self.pattern.startswith(("?=", "?!"), self.pos):
            program: Program = [self.look_ahead()]
        else:
            flags = _FLAGS.match(self.pattern, self.pos)
            named = flags or _GROUP.match(self.pattern, self.pos)
            if self.peek() == "?" and not named:
                raise _UnsupportedError
            if named:
                self.pos = named.end()
            if flags:
                self.ignore_case = self.ignore_case or bool(flags[1])
                if flags[2] == ")":
                    return []  # (?i): from here to the end of the group around it
            program = self.alternatives()
        if self.take() != ")":
            raise _UnsupportedError
        self.ignore_case = ignore_case
        return program

    def look_ahead(self) -> Assert:
        if self.looking_ahead:  # one inside another would cost a power of the text's length
            raise _UnsupportedError
        wanted = self.pattern[self.pos + 1] == "="
        self.pos += 2
        self.looking_ahead = True
        ahead = [*self.alternatives(), None]
        self.looking_ahead = False
        return Assert(lambda text, at: run(ahead, text, at, anchored=True) is wanted)


def _repeat(atom: Program, low: int, high: int | None) -> Program:
    if len(atom) * max(low, high or 0) > MAX_PROGRAM:
        raise _UnsupportedError
    program = atom * low
    size = len(atom)
    if high is None:
        return [*program, Jump((1, size + 2)), *atom, Jump((-size - 1,))]
    for left in range(high - low, 0, -1):
        program += [Jump((1, left * (size + 1))), *atom]
    return program


@lru_cache(maxsize=2048)
def _compiled(pattern: str, ignore_case: bool) -> Program | None:
    if len(pattern) > MAX_PATTERN:
        return None
    try:
        return _Compiler(pattern, ignore_case=ignore_case).compile()
    except _UnsupportedError:
        return None


def search(pattern: str, text: str, *, ignore_case: bool = False) -> bool | None:
    """Whether the expression matches anywhere in the text.

    Args:
        pattern: a PCRE expression as it stands in nginx's configuration, without its `~`.
        text: a host name or a URI.
        ignore_case: as nginx's `~*`.

    Returns:
        Yes, no, or None where this engine does not know the expression.
    """
    program = _compiled(pattern, ignore_case)
    return None if program is None else run(program, text, 0, anchored=False)
