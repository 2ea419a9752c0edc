"""The result of one check, for `doctor` and `server check`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Check:
    """One line.

    Attributes:
        name: what was looked at.
        state: `ok`; `note`: worth knowing, nothing is broken; `failed`.
        found: what was found.
        fix: what to do; empty where nothing has to be done.
    """

    name: str
    state: Literal["ok", "note", "failed"]
    found: str
    fix: str = ""


Checks: TypeAlias = Iterator[Check]


def ok(name: str, found: str) -> Check:
    """Make the line of what is as it should be."""
    return Check(name, "ok", found)


def note(name: str, found: str, fix: str = "") -> Check:
    """Make the line of what is worth knowing."""
    return Check(name, "note", found, fix)


def failed(name: str, found: str, fix: str) -> Check:
    """Make the line of what does not work, with what to do."""
    return Check(name, "failed", found, fix)
