"""From a CA's problems to hits: their verdicts, the names at fault, the time to come back."""

import re
from dataclasses import dataclass
from datetime import datetime

from contracts.codes import Code
from workers.core.reading import ca
from workers.core.reading.lines import Document
from workers.core.reading.names import (
    host,
    hosts,
    log_time,
    matched_hosts,
    retry_after,
    stated_time,
    unique,
)
from workers.core.reading.problems import Problem, find_problems
from workers.core.reading.spans import Spans
from workers.core.reading.tables import compiled
from workers.core.reading.values import SCOPES, Hit, Row, Scope, Stage, Weight
from workers.core.reading.verdicts import judge

_URL_HOST = re.compile(r"(?:fetching|invalidresponsefrom)[\"']?https?://([^/:\"\s]{1,253})")
_LOOKED_UP = re.compile(
    r"(?:lookingup(?:a|aaaa|caa)for|recordsfoundfor|addressesfoundfor|caafor|caarecordfor)([\w.-]{1,253}?)(?:-check|-the|;|,|:|prevents|were|$)"
)
_ORDERED = re.compile(r"(?:renewing an existing certificate|requesting a certificate|simulating renewal of .{0,30}?certificate"
                      r"|simulating a certificate request) for (.+)")  # fmt: skip


@dataclass(frozen=True, slots=True)
class CaHits:
    """What the CA's texts say.

    Attributes:
        hits: one per problem.
        spans: where the problems stand: quoted pages in them are no evidence for other speakers.
    """

    hits: tuple[Hit, ...]
    spans: Spans


def ca_hits(document: Document) -> CaHits:
    """Judge every problem of a text."""
    problems = find_problems(document)
    hits = [
        _hit(document, problem)
        for place, problem in enumerate(problems)
        if not (problem.parent and place + 1 < len(problems) and _is_child(problems[place + 1], problem))
    ]
    return CaHits(tuple(hits), Spans((problem.start, problem.end) for problem in problems))


def _is_child(later: Problem, parent: Problem) -> bool:
    return later.start - parent.end < 400  # noqa: PLR2004  # keys between parent and first child


def _hit(document: Document, problem: Problem) -> Hit:
    row, code = judge(problem)
    if code is Code.PORT_80_BLOCKED and _over_tls(document.squeezed, problem):
        code = Code.PORT_443_BLOCKED
    weight = None
    asked_again = "retryingrequestaftererror" in document.squeezed
    if problem.type == "badnonce" and (asked_again or document.record_at(problem.start) is not None):
        weight = Weight.BACKGROUND  # certbot asks again by itself; the log's end tells whether that helped
    stage = Stage.FINALIZE if "finalizingorder" in problem.detail else None
    return Hit(
        row,
        problem.start,
        problem.end,
        names=_names(document, problem, row, code),
        retry_at=_time(document, problem, code),
        stage=stage,
        code=code,
        weight=weight,
        speaker=ca.SAYINGS.speaker,
    )


def _over_tls(squeezed: str, problem: Problem) -> bool:
    """Tell whether the name was checked at port 443: the CA's bare `Timeout` does not say so, certbot does."""
    said = squeezed[problem.start : problem.end]
    return any(
        f"({kind})" in said
        or (
            problem.name
            and (f"{problem.name}({kind})" in squeezed or f"{kind}challengefor{problem.name}" in squeezed)
        )
        for kind in ("tls-sni-01", "tls-alpn-01")
    )


def _names(document: Document, problem: Problem, row: Row, code: Code) -> tuple[str, ...]:
    if SCOPES[code] is not Scope.HOST:
        return ()
    named = _named_in_detail(document, problem, row)
    if code in {Code.TOO_MANY_REQUESTS, Code.ACCOUNT_PAUSED, Code.REJECTED_BY_CA, Code.WILDCARD_NEEDS_DNS}:
        if not named and "thisexactset" in problem.detail:
            return ordered_names(document, problem.start)
        return named or unique([problem.name])
    return unique([problem.name]) or named or _host_in_detail(problem.detail)


def _named_in_detail(document: Document, problem: Problem, row: Row) -> tuple[str, ...]:
    begin = problem.end - len(problem.detail)
    for phrase in compiled(row):
        for found in phrase.find(document.squeezed, begin, problem.end):
            names = matched_hosts(document, found)
            if names:
                return names
    return ()


def _host_in_detail(detail: str) -> tuple[str, ...]:
    found = _URL_HOST.search(detail)
    if found:
        return unique([host(found[1])])
    return unique(host(name) for name in _LOOKED_UP.findall(detail))


def ordered_names(document: Document, before: int) -> tuple[str, ...]:
    """Give the names of the order that was under way at an offset, as certbot announces it.

    `Requesting a certificate for a and b`; a long list ends in `and N more domains`.
    """
    for index in range(document.index_at(before), -1, -1):
        found = _ORDERED.search(document.lines[index].text)
        if found:
            text = found[1]
            following = document.lines[index + 1].text if index + 1 < len(document.lines) else ""
            if " and " not in text and following.startswith("and "):
                text = f"{text} {following}"
            return hosts(text.replace(" and ", ","))
    return ()


def _time(document: Document, problem: Problem, code: Code) -> datetime | None:
    """Give the CA's own time: in its text, else in the head of the response that brought the problem."""
    if code not in {Code.TOO_MANY_REQUESTS, Code.CA_UNAVAILABLE}:
        return None
    record = document.record_at(problem.start)
    headers = document.squeezed[record.start : problem.start] if record else ""
    return stated_time(problem.detail) or (retry_after(headers, log_time(record.time)) if record else None)
