"""Looking the rows of the tables up in a text."""

from collections.abc import Iterator
from functools import cache

from workers.core.reading.lines import Document
from workers.core.reading.names import matched_hosts, matched_lineage
from workers.core.reading.phrases import Match, Phrase
from workers.core.reading.values import Hit, Row, Table


@cache
def compiled(row: Row) -> tuple[Phrase, ...]:
    """Give the compiled phrases of a row."""
    return tuple(Phrase(text) for text in row.phrases)


def first(row: Row, squeezed: str) -> Match | None:
    """Find the first place of a row in squeezed text."""
    return next((found for phrase in compiled(row) for found in phrase.find(squeezed)), None)


def table_hits(document: Document, table: Table) -> Iterator[Hit]:
    """Find the rows of a table in a text."""
    squeezed, sample = document.squeezed, document.sample
    if table.gates and not any(gate in squeezed for gate in table.gates):
        return
    for row in table.rows:
        for phrase in compiled(row):
            if not phrase.possible(sample):
                continue
            for found in phrase.find(squeezed):
                if (row.line or row.whole) and not document.begins_line(found.start):
                    continue
                if row.whole and not document.begins_line(found.end) and found.end != len(squeezed):
                    continue
                names, lineage = matched_hosts(document, found), matched_lineage(document, found)
                yield Hit(row, found.start, found.end, names=names, lineage=lineage, speaker=table.speaker)
