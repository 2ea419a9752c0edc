"""From what was decided to findings: plain words, whose it is, the lines that prove it, what was ruled out."""

import re

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Retry
from workers.core.reading.config import ConfigHit, config_hits, config_part
from workers.core.reading.decide import ENDED_FROM_OUTSIDE, KILLED, Decision, Verdict, decide
from workers.core.reading.gather import gather
from workers.core.reading.lines import Document, spans_of
from workers.core.reading.values import Evidence, Finding, Hit, Reading, Stage, Weight, usual_retry

MOST_EVIDENCE = 12
MOST_TEXT = 500
_NOT_FOUND = 127
_LAST_WORDS = re.compile(r"error|exception|failed|unable|could not|cannot|refused|denied|invalid")


def report(
    document: Document, exit_code: int | None, *, one_run: bool = False, ours: bool = False
) -> Reading:
    """Read a document.

    Args:
        document: the cleaned text.
        exit_code: certbot's, where known.
        one_run: none of the text is an older run's.
        ours: a run that certpilot started: without an exit code it was killed.
    """
    decision = decide(document, gather(document), exit_code, one_run=one_run)
    if decision.verdicts:
        ruled_out = _ruled_out(decision)
        return Reading(tuple(_finding(document, verdict, ruled_out) for verdict in decision.verdicts))
    by_config = _from_config(document)
    if by_config is not None and exit_code in {0, None}:
        return by_config
    by_code = _from_exit_code(document, exit_code, ours=ours)
    if by_code:
        return Reading((by_code,))
    if exit_code == 0 or (exit_code is None and decision.fine):
        return Reading((_nothing(_ruled_out(decision)),))
    return Reading((_unknown(document, decision, exit_code),))


def certainty(reading: Reading) -> int:
    """Rank a reading, to choose between two texts of one run: a cause, then nothing failed, then not understood."""
    main = reading.main
    if main.code is Code.INTERNAL and not main.names:
        return 0
    return 1 if main.code is None else 2


def _finding(document: Document, verdict: Verdict, ruled_out: tuple[str, ...]) -> Finding:
    lead = verdict.hits[0]
    entry = CATALOGUE[lead.the_code]
    says = lead.row.says or entry.means
    own = tuple(dict.fromkeys(hit.row.not_that for hit in verdict.hits if hit.row.not_that))
    return Finding(
        code=lead.the_code,
        names=verdict.names,
        retry=lead.the_retry,
        retry_at=verdict.retry_at,
        message=f"{says[:-1]}: {', '.join(verdict.names)}." if verdict.names and says.endswith(".") else says,
        fix=lead.row.fix or entry.fix,
        evidence=_evidence(document, verdict.hits),
        ruled_out=tuple(dict.fromkeys((*own, *ruled_out))),
        step=lead.the_stage,
    )


def _evidence(document: Document, hits: tuple[Hit, ...]) -> tuple[Evidence, ...]:
    numbers = dict.fromkeys(number for hit in hits for number in document.numbers(hit.start, hit.end))
    return _lines(document, tuple(numbers)[:MOST_EVIDENCE])


def _lines(document: Document, numbers: tuple[int, ...]) -> tuple[Evidence, ...]:
    return tuple(Evidence(number, text[:MOST_TEXT]) for number, text in spans_of(document, numbers))


def _ruled_out(decision: Decision) -> tuple[str, ...]:
    leads = [verdict.hits[0] for verdict in decision.verdicts]
    sentences: list[str] = []
    for hit in decision.passed_over:
        if hit.the_code is Code.INTERNAL or any(hit.the_code is lead.the_code for lead in leads):
            continue
        if leads:
            sentences.append(
                f"{hit.the_code}: a consequence, or said beside it; {leads[0].the_code} came first."
            )
        elif hit.the_weight is not Weight.CONSEQUENCE:
            sentences.append(f"{hit.the_code}: overcome, or harmless by itself ({hit.row.source}).")
    return tuple(dict.fromkeys(sentences))[:8]


def _from_config(document: Document) -> Reading | None:
    part = config_part(document)
    if not part.text:
        return None
    hits = config_hits(part)
    merged: dict[tuple[Code, Retry], list[ConfigHit]] = {}
    for hit in hits:
        merged.setdefault((hit.row.code, hit.row.retry or usual_retry(hit.row.code)), []).append(hit)
    if merged:
        return Reading(tuple(_config_finding(document, group, part.numbers) for group in merged.values()))
    return Reading((_nothing(()),)) if part.whole else None


def _config_finding(document: Document, hits: list[ConfigHit], numbers: tuple[int, ...]) -> Finding:
    row = hits[0].row
    entry = CATALOGUE[row.code]
    lines = tuple(numbers[hit.line - 1] for hit in hits if 0 < hit.line <= len(numbers))
    return Finding(
        code=row.code,
        names=tuple(dict.fromkeys(name for hit in hits for name in hit.names)),
        retry=row.retry or usual_retry(row.code),
        retry_at=None,
        message=row.says or entry.means,
        fix=row.fix or entry.fix,
        evidence=_lines(document, lines),
        step=row.stage,
    )


def _from_exit_code(document: Document, exit_code: int | None, *, ours: bool) -> Finding | None:
    """The shell's own codes: 128 + signal for a run that was ended, 127 for a program that is not there."""
    if exit_code in KILLED:
        return _by_code(document, Code.OUT_OF_MEMORY, Stage.START)
    if exit_code in ENDED_FROM_OUTSIDE or (ours and exit_code is None):
        return _by_code(document, Code.INTERRUPTED, Stage.START)
    if exit_code == _NOT_FOUND:
        return _by_code(document, Code.CERTBOT_MISSING, Stage.START)
    return None


def _by_code(document: Document, code: Code, stage: Stage) -> Finding:
    entry = CATALOGUE[code]
    return Finding(code, (), usual_retry(code), None, entry.means, entry.fix, _tail(document), step=stage)


def _nothing(ruled_out: tuple[str, ...]) -> Finding:
    return Finding(None, (), None, None, "Nothing failed.", "Nothing to do.", (), ruled_out)


def _unknown(document: Document, decision: Decision, exit_code: int | None) -> Finding:
    says = "Nothing in this text tells what went wrong."
    if decision.fine and exit_code:
        says = f"The text speaks of success, but the run ended with exit code {exit_code}."
    return Finding(
        Code.INTERNAL,
        (),
        Retry.SERVER_ADMIN,
        None,
        says,
        "Read the lines shown and the whole debug log; report the text, so that it is known the next time.",
        _tail(document),
        _ruled_out(decision),
    )


def _tail(document: Document) -> tuple[Evidence, ...]:
    """Keep the text: its last lines, and before them those that speak of a failure."""
    last = [line.number for line in document.lines[-5:]]
    words = [line.number for line in document.lines if _LAST_WORDS.search(line.text)]
    return _lines(document, tuple(dict.fromkeys(sorted({*words[-5:], *last}))))
