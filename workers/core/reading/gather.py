"""Everything that anybody in a text says, as hits: all tables and all readings by structure, noise taken out."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from workers.core.reading import ca, console, console_end, nginx, python, served, shell, state
from workers.core.reading.ca_hits import ca_hits, ordered_names
from workers.core.reading.errnos import errno_hits
from workers.core.reading.lines import Document
from workers.core.reading.names import ordered_names_needed, stated_time
from workers.core.reading.nginx import nginx_hits
from workers.core.reading.segments import Mark, Segments, Trace, segment
from workers.core.reading.served import served_hits
from workers.core.reading.state import read_state
from workers.core.reading.tables import table_hits
from workers.core.reading.values import Hit, Row, Stage, Table, Weight

TABLES: tuple[Table, ...] = (
    ca.SAYINGS,
    ca.TITLES,
    console.CERTBOT,
    console_end.CERTBOT_END,
    shell.SSH,
    shell.SUDO,
    shell.SHELL,
    shell.KERNEL,
    shell.STORAGE,
    python.NETWORK,
    python.CRASHES,
    nginx.AROUND,
    state.UNITS,
    served.SERVED,
)
"""Every table of phrases."""

_EXCEPTION_LINE = re.compile(
    r"(?:[a-z_]\w{0,40}\.){0,6}([a-z_]\w{2,60}(?:error|conflict|notfound|exception))(?::|$)"
)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a text says.

    Attributes:
        segments: its parts.
        hits: what was said, in the order of the text.
        marks: signs of success, in the order of the text.
    """

    segments: Segments
    hits: tuple[Hit, ...]
    marks: tuple[tuple[int, Mark], ...]


def gather(document: Document) -> Gathered:
    """Collect the hits of a document."""
    segments = segment(document)
    problems = ca_hits(document)
    schedule, in_order = read_state(document)
    spoken = chain.from_iterable(table_hits(document, table) for table in TABLES)
    structured: Iterable[Hit] = chain(
        errno_hits(document, segments),
        nginx_hits(document, segments),
        schedule,
        served_hits(document),
    )
    hits = list(problems.hits)
    hits += [
        kept
        for hit in chain(spoken, structured)
        if hit.start not in problems.spans and (kept := _heard(document, segments, hit)) is not None
    ]
    hits += _by_name(document, segments, hits)
    hits += _crashes(document, segments, hits)
    marks = sorted([*segments.marks, *in_order])
    return Gathered(segments, tuple(sorted(hits, key=lambda hit: hit.start)), tuple(marks))


def _heard(document: Document, segments: Segments, hit: Hit) -> Hit | None:
    """Weigh a hit by where it stands; None where it is no evidence at all."""
    if hit.start in segments.muted:
        return None
    if hit.speaker == ca.SAYINGS.speaker:
        record = document.record_at(hit.start)
        if record and record.level in {"DEBUG", "INFO"} and segments.trace_at(hit.start) is None:
            return None  # requests and answers in the log: what is wrong stands in problem documents, read as such
        return _with_context(document, hit)
    if hit.start in segments.hooks and hit.the_stage is not Stage.HOOK:
        return replace(hit, weight=Weight.BACKGROUND, stage=Stage.HOOK)
    if hit.start in segments.quiet:
        return replace(hit, weight=Weight.BACKGROUND)
    return hit


def _with_context(document: Document, hit: Hit) -> Hit:
    after = document.squeezed[hit.start : hit.end + 700]
    names = hit.names
    if not names and ordered_names_needed(after):
        names = ordered_names(document, hit.start)
    stage = (
        Stage.FINALIZE if "finalizingorder" in document.squeezed[max(0, hit.start - 60) : hit.start] else None
    )
    return replace(hit, names=names, retry_at=stated_time(after), stage=stage)


def _by_name(document: Document, segments: Segments, hits: list[Hit]) -> Iterator[Hit]:
    """What a speaker that says its own name says in words that nobody knows."""
    known = [hit.start for hit in hits if hit.the_weight > Weight.BACKGROUND]
    for hit in shell.head_hits(document):
        if hit.start not in segments.muted and hit.start not in segments.quiet:
            yield from _unless_known(known, hit)


def _crashes(document: Document, segments: Segments, hits: list[Hit]) -> Iterator[Hit]:
    """Exceptions that only a program's own fault raises, where no row says better what they are."""
    known = [hit.start for hit in hits if hit.the_weight >= Weight.CRASH]
    for trace in segments.traces:
        row = _crash_row(trace)
        if row and not trace.recovering and trace.start not in segments.quiet:
            yield from _unless_known(known, Hit(row, trace.message, trace.end, speaker="Python"))
    for index, line in enumerate(document.lines):
        if "an unexpected error occurred" not in line.text:
            continue
        for following in document.lines[index : index + 2]:
            text = following.text.rsplit("occurred:", 1)[-1].strip().rsplit(":error:", 1)[-1]
            text = re.sub(r"^[\w.]{1,80}:(?=\w)", "", text) if text.startswith("certbot") else text
            found = _EXCEPTION_LINE.match(text)
            if found and found[1] in python.PROGRAM_FAULTS:
                yield Hit(python.CRASHED, following.start, following.start + 1, speaker="Python")


def _unless_known(known: list[int], hit: Hit) -> Iterator[Hit]:
    if not any(hit.start <= start < hit.end for start in known):
        yield hit


def _crash_row(trace: Trace) -> Row | None:
    """Say what an exception means by where it was raised; None for one that users or sites can bring about."""
    raised_in = trace.frames[-3:]
    if (
        any("certbot_nginx" in frame and "parser" in frame for frame in raised_in)
        and trace.kind != "misconfigurationerror"
    ):
        return python.PARSER_CRASHED
    if any(frame.endswith(("configobj.py", "configobj/__init__.py")) for frame in raised_in):
        return python.LINEAGE_CRASHED
    if raised_in and raised_in[-1].endswith("certbot/storage.py") and trace.kind in python.PROGRAM_FAULTS:
        return (
            python.LINEAGE_CRASHED
        )  # it counts on four files with one number each; the file system has others
    return python.CRASHED if trace.kind in python.PROGRAM_FAULTS else None
