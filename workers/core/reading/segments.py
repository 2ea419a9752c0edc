"""Who speaks where: runs, tracebacks, hooks' own output, records that say nothing about this run, signs of success."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from workers.core.reading.lines import Document, Line
from workers.core.reading.phrases import Phrase
from workers.core.reading.spans import Spans


class Mark(StrEnum):
    """Signs that something went well."""

    ISSUED = "issued"  # the CA issued and certbot saved; installing may still fail
    DONE = "done"  # the whole run, or one whole renewal, passed
    IDLE = "idle"  # there was nothing to do
    FINE = "fine"  # a check (nginx -t, a timer, a crontab) found all well


# Sources: certbot `_internal/main.py` `_report_new_cert`, `_report_next_steps`, `renewal.py` `_renew_describe_results`,
# `display/ops.py` `success_installation`, `success_renewal`, of v0.21 to v5.6; nginx `src/core/nginx.c`.
_MARKS: tuple[tuple[Mark, tuple[str, ...]], ...] = (
    (Mark.ISSUED, (
        "successfully received certificate.",
        "congratulations! your certificate and chain have been saved at",
    )),
    (Mark.DONE, (
        "congratulations! you have successfully enabled",
        "congratulations, all renewals succeeded",
        "congratulations, all simulated renewals succeeded",
        "your existing certificate has been successfully renewed, and the new certificate has been installed",
        "the dry run was successful",
        "successfully deployed certificate for",
        "new certificate deployed with reload of",
    )),
    (Mark.IDLE, (
        "not yet due for renewal",
        "not due for renewal yet",
        "no renewals were attempted",
        "no simulated renewals were attempted",
        "keeping the existing certificate",
        ":no renewal failures",
        ":no simulated renewal failures",
    )),
    (Mark.FINE, ("test is successful",)),
)  # fmt: skip
_START = (Phrase("saving debug log to {}"), Phrase(":certbot version: {n}"))
_END = (
    Phrase("ask for help or search for solutions at"),
    Phrase("please see the logfiles in"),
    Phrase("please see the logfile"),
)
_TRACEBACK = "traceback (most recent call last)"
_EXCEPTION = re.compile(r"(?:(?:[a-z_][\w]{0,40}\.){0,6})([a-z_]\w{2,60})(?::|$)")
_EXCEPTION_NAME = re.compile(
    r"\w*(?:error|exception|interrupt|conflict|found|exit|warning|timeout|failed|challenges)\w*"
)
_RAISED = re.compile(r"raise (?:[\w]{1,60}\.){0,4}(\w{3,60})\(")
_FRAME = re.compile(r'file "([^"]{1,300})", line \d+')
_HOOK = re.compile(
    r"hook '[^']{1,40}' ran with (?:error )?output:"
    r"|(?:error )?output from [\w.-]{1,40}(?: command .{0,200})?:$"
)
_CERTBOT_LINE = re.compile(
    r"hook '|running |clean|- - - -|-----|the following|congrat|attempting|waiting for|deploying|success|all |failed to"
    r"|processing|(?:error )?output from|\d+ renew failure|important notes|saving debug|renewing|could not|unable to"
    r"|an unexpected|certbot has|this cert|these files|certificate is|key is|\d{4}-\d\d-\d\d |new certificate"
)
_QUIET_LOGGERS = (".disco", ".selection", "plugins.util", ".ocsp", ".eff", ".updater", ".reverter")
RECORD_GAP = 8000
"""Squeezed characters within which a second start marker belongs to the same run: a log's head names both."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One Python traceback.

    Attributes:
        start: its first offset.
        message: the offset of its last line, `Type: message`; equals `end` where the text is cut before it.
        end: the offset behind its last line.
        kind: the exception's type without its module, lower-case; empty where cut.
        frames: the files it went through, lower-case, the raising one last.
        recovering: it was printed while certbot cleaned up after another failure.
    """

    start: int
    message: int
    end: int
    kind: str
    frames: tuple[str, ...]
    recovering: bool


@dataclass(frozen=True, slots=True)
class Segments:
    """The parts of a text.

    Attributes:
        runs: begin and end of every run in it, in order; at least one.
        traces: the tracebacks.
        muted: spans in which nothing is evidence: frames of tracebacks, command lines.
        quiet: spans that are background at most: plugin discovery, recovery, OCSP.
        hooks: spans that a hook printed.
        marks: offset and kind of every sign of success, in order.
    """

    runs: tuple[tuple[int, int], ...]
    traces: tuple[Trace, ...]
    muted: Spans
    quiet: Spans
    hooks: Spans
    marks: tuple[tuple[int, Mark], ...]

    def trace_at(self, offset: int) -> Trace | None:
        """Give the traceback that holds this offset."""
        for trace in self.traces:
            if trace.start <= offset < trace.end:
                return trace
        return None


def segment(document: Document) -> Segments:
    """Find the parts of a document."""
    traces = tuple(_traces(document))
    frames = [(trace.start, trace.message) for trace in traces]
    return Segments(
        runs=_runs(document),
        traces=traces,
        muted=Spans([*frames, *_command_lines(document)]),
        quiet=Spans(_quiet(document, traces)),
        hooks=Spans(_hooks(document)),
        marks=_marks(document.squeezed),
    )


def _marks(squeezed: str) -> tuple[tuple[int, Mark], ...]:
    found = [
        (match.start, mark)
        for mark, phrases in _MARKS
        for phrase in phrases
        for match in Phrase(phrase).find(squeezed)
    ]
    return tuple(sorted(found))


def _runs(document: Document) -> tuple[tuple[int, int], ...]:
    """Split where a run begins.

    What stands before the first beginning belongs to that run (its standard output, printed apart from standard
    error), unless another run ended there or it is a log and the run is a console's.
    """
    starts = sorted({match.start for phrase in _START for match in phrase.find(document.squeezed)})
    begins: list[int] = []
    for start in starts:
        if begins and start - begins[-1] < RECORD_GAP and _same_run(document, begins[-1], start):
            continue
        begins.append(start)
    if not begins:
        return ((0, len(document.squeezed)),)
    ended = any(next(phrase.find(document.squeezed, 0, begins[0]), None) for phrase in _END)
    other_form = (
        bool(document.records) and document.records[0].start < begins[0] and not _in_log(document, begins[0])
    )
    if begins[0] > 0 and (ended or other_form):
        begins.insert(0, 0)
    begins[0] = 0
    return tuple(zip(begins, [*begins[1:], len(document.squeezed)], strict=True))


def _in_log(document: Document, offset: int) -> bool:
    line = document.lines[document.index_at(offset)]
    return any(record.start == line.start for record in document.records)


def _same_run(document: Document, before: int, start: int) -> bool:
    """Two beginnings of one run: a log record `certbot version` and, records later, `Saving debug log to`."""
    second_is_saving = document.squeezed.startswith("saving", start)
    first_is_version = document.squeezed.startswith(":certbotversion", before)
    return second_is_saving and first_is_version and _in_log(document, start)


def _traces(document: Document) -> Iterator[Trace]:
    lines = document.lines
    index = 0
    recovering_until = -1
    while index < len(lines):
        text = lines[index].text
        if "encountered exception during recovery" in text:
            recovering_until = index + 4
        if _TRACEBACK in text:
            trace, index = _trace(lines, index, recovering=index <= recovering_until)
            yield trace
        else:
            index += 1


def _trace(lines: tuple[Line, ...], head: int, *, recovering: bool) -> tuple[Trace, int]:
    frames: list[str] = []
    raised, flat = head, False
    index = head + 1
    while index < len(lines):
        line = lines[index]
        frame = _FRAME.match(line.text)
        if frame:
            flat = flat or not line.indented
            frames.append(frame[1])
        elif line.text.startswith("raise "):
            raised = index
        elif _is_last(line, after_frame=bool(frames), flat=flat):
            break
        elif _TRACEBACK in line.text or line.text.startswith(("during handling of", "the above exception")):
            index -= 1
            break
        index += 1
    whole = index < len(lines) and index > head
    cut_off = _RAISED.match(lines[raised].text) if index >= len(lines) else None
    if cut_off:  # the text ends before the exception, but its type stands in the line that raised it
        return Trace(
            lines[head].start,
            lines[raised].start,
            _end_of(lines, raised),
            cut_off[1],
            tuple(frames),
            recovering,
        ), index + 1
    kind = _EXCEPTION.match(lines[index].text) if whole else None
    message = lines[index].start if whole else _end_of(lines, min(index, len(lines) - 1))
    end = _end_of(lines, index) if whole else message
    trace = Trace(lines[head].start, message, end, kind[1] if kind else "", tuple(frames), recovering)
    return trace, index + 1


def _is_last(line: Line, *, after_frame: bool, flat: bool) -> bool:
    """The line `Type: message` that ends a traceback; where indentation was lost, the type has to look like one."""
    found = _EXCEPTION.match(line.text)
    if flat:
        return found is not None and bool(_EXCEPTION_NAME.fullmatch(found[1]))
    if not found:
        return after_frame and not line.indented and not line.text.startswith(("^", "~", "return ", "raise "))
    return not line.indented or bool(_EXCEPTION_NAME.fullmatch(found[1]))


def _end_of(lines: tuple[Line, ...], index: int) -> int:
    line = lines[index]
    return line.start + len(line.text.replace(" ", ""))


def _command_lines(document: Document) -> Iterator[tuple[int, int]]:
    """What certbot was called with is in the log's head; words in it say nothing about what happened."""
    for begin in ("arguments:[", "discoveredplugins:pluginsregistry(", "sudo:unabletoresolvehost"):
        at = document.squeezed.find(begin)
        while at >= 0:
            line = document.lines[document.index_at(at)]
            yield at, line.start + len(line.text.replace(" ", ""))
            at = document.squeezed.find(begin, at + 1)


def _quiet(document: Document, traces: tuple[Trace, ...]) -> Iterator[tuple[int, int]]:
    for record in document.records:
        if record.level in {"DEBUG", "INFO"} and record.logger.endswith(_QUIET_LOGGERS):
            yield record.start, document.record_end(record)
    for trace in traces:
        if trace.recovering:
            before = document.lines[max(0, document.index_at(trace.start) - 2)]
            yield before.start, trace.end


def _hooks(document: Document) -> Iterator[tuple[int, int]]:
    lines = document.lines
    for index, line in enumerate(lines):
        if "utput" not in line.text or not _HOOK.search(line.text):
            continue
        last = index
        indented = index + 1 < len(lines) and lines[index + 1].indented
        for following in range(index + 1, min(index + 400, len(lines))):
            if _CERTBOT_LINE.match(lines[following].text) and not lines[following].indented:
                break
            if indented and not lines[following].indented:
                break
            last = following
        if last > index:
            yield lines[index + 1].start, _end_of(lines, last)
