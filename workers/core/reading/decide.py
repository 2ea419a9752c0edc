"""From everything that a text says to what failed: the newest run, its first failed step, one finding a kind."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from contracts.codes import Code, Retry
from workers.core.reading.gather import Gathered
from workers.core.reading.lines import Document
from workers.core.reading.phrases import Phrase
from workers.core.reading.scopes import hit_names, scope_of, scope_starts
from workers.core.reading.segments import Mark
from workers.core.reading.values import STAGE_ORDER, Hit, Stage, Weight

_ENDS = (
    Phrase("ask for help or search for solutions at"),
    Phrase("please see the logfiles in"),
    Phrase("please see the logfile"),
)
_SAME_SENTENCE = 120
"""An exception's text that goes on behind a break is still the last words of the run that raised it."""

_CERTBOT_SPEAKERS = frozenset({"CA", "certbot", "network to the CA", "Python"})
_FAILED = re.compile(
    r"[1-9]\d{0,5}renewfailure|\(failure\)|all(?:simulated)?renew\w{0,12}?(?:attempts)?failed"
)
_PARSE_FAILED = re.compile(r"[1-9]\d{0,5}parsefailure")
KILLED = frozenset({137, -9})
"""SIGKILL: certpilot stops runs with TERM only, so that it is nearly always the kernel, out of memory."""
ENDED_FROM_OUTSIDE = KILLED | {124, 129, 130, 143, -1, -2, -15}
"""Exit codes of a run that a signal or timeout(1) ended: it says nothing itself, and an older run's words are not its."""

_BLOCKING = {
    Retry.NEVER: 0,
    Retry.SERVER_ADMIN: 1,
    Retry.OWNER_FIX: 2,
    Retry.WAIT_UNTIL: 3,
    Retry.SOON: 4,
}
"""The longer it holds the certificate up, the more blocking: a person of ours, the owner, the CA's time, a moment."""

_WITHIN_CHALLENGE = (
    Code.DNS_NOT_RESOLVING,
    Code.DNS_WRONG_SERVER,
    Code.PORT_80_BLOCKED,
    Code.PORT_443_BLOCKED,
    Code.GEO_BLOCKED,
)
"""The CA resolves the name, connects, asks, and looks at CAA: what fails earlier is to be mended first."""

_LATE = frozenset({Stage.INSTALL, Stage.RELOAD, Stage.HOOK, Stage.SCHEDULE, Stage.SERVE})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One kind of failure with everything that says so.

    Attributes:
        hits: what says so, the deciding one first.
        names: the names at fault.
        retry_at: the latest time that the CA states.
    """

    hits: tuple[Hit, ...]
    names: tuple[str, ...]
    retry_at: datetime | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What failed in a text.

    Attributes:
        verdicts: the kinds of failure, the most blocking first; empty where none was found.
        passed_over: hits of the same run that are consequences, were overcome or are harmless.
        fine: the run has signs of success.
        run: begin and end of the run that was judged.
    """

    verdicts: tuple[Verdict, ...]
    passed_over: tuple[Hit, ...]
    fine: bool
    run: tuple[int, int]


def decide(document: Document, gathered: Gathered, exit_code: int | None, *, one_run: bool) -> Decision:
    """Judge the newest run that says anything.

    Args:
        document: the text.
        gathered: what it says.
        exit_code: certbot's, where known.
        one_run: the whole text is one run, so none of it is older.
    """
    runs = ((0, len(document.squeezed)),) if one_run else gathered.segments.runs
    last: Decision | None = None
    for begin, end in reversed(runs):
        decision = _judge(document, gathered, begin, end, exit_code, one_run=one_run)
        if decision.verdicts or decision.fine or exit_code in ENDED_FROM_OUTSIDE:
            return decision
        last = last or decision
    return last or Decision((), (), fine=False, run=(0, len(document.squeezed)))


def _judge(
    document: Document, gathered: Gathered, begin: int, end: int, exit_code: int | None, *, one_run: bool
) -> Decision:
    hits = [hit for hit in gathered.hits if begin <= hit.start < end]
    hits = [hit for hit in hits if _holds(document.squeezed, begin, end, hit)]
    if not one_run:
        begin = _restart(document, hits, begin, end)
        hits = [hit for hit in hits if hit.start >= begin]
    marks = [(at, mark) for at, mark in gathered.marks if begin <= at < end]
    hits = _promoted(document.squeezed[begin:end], hits)
    standing = _standing(hits, marks, exit_code, failed=bool(_FAILED.search(document.squeezed, begin, end)))
    starts = scope_starts(document, begin, end)
    chosen = [_explained(hit, hits) for hit in _chosen(standing, marks, starts)]
    verdicts = _verdicts(document, chosen, starts)
    used = {id(hit) for verdict in verdicts for hit in verdict.hits}
    passed_over = tuple(hit for hit in hits if id(hit) not in used)
    return Decision(verdicts, passed_over, fine=bool(marks), run=(begin, end))


def _holds(squeezed: str, begin: int, end: int, hit: Hit) -> bool:
    row = hit.row
    return all(squeezed.find(need, begin, end) >= 0 for need in row.needs) and not any(
        squeezed.find(bar, begin, end) >= 0 for bar in row.unless
    )


def _restart(document: Document, hits: list[Hit], begin: int, end: int) -> int:
    """Find where a later run began without saying so: certbot speaks again after its last words.

    IMPORTANT NOTES still belong to the run that ended, and so does whatever another program says then.
    """
    ends = [match.start for phrase in _ENDS for match in phrase.find(document.squeezed, begin, end)]
    final = [
        record.start if record.level == "ERROR" and record.logger.endswith((".log", "certbot.main")) else None
        for record in document.records
        if begin <= record.start < end
    ]
    ends += [
        here
        for here, following in zip(final, [*final[1:], None], strict=False)
        if here is not None and following is None
    ]
    talk = [
        hit.start - (_SAME_SENTENCE if hit.the_weight is Weight.CRASH else 0)
        for hit in hits
        if hit.the_weight >= Weight.CRASH and hit.speaker in _CERTBOT_SPEAKERS
    ]
    for place in sorted(ends, reverse=True):
        behind = document.line_end(place)
        later = [start for start in talk if start >= behind]
        if later and document.squeezed.find("importantnotes:", behind, later[0]) < 0:
            return behind
    return begin


def _promoted(run: str, hits: list[Hit]) -> list[Hit]:
    """A renewal file that was skipped is the failure itself where the run counts it as one."""
    if not _PARSE_FAILED.search(run):
        return hits
    return [
        replace(hit, weight=Weight.CAUSE)
        if hit.the_code is Code.LINEAGE_BROKEN and hit.the_weight is Weight.BACKGROUND
        else hit
        for hit in hits
    ]


def _standing(
    hits: list[Hit], marks: list[tuple[int, Mark]], exit_code: int | None, *, failed: bool
) -> list[Hit]:
    """Leave out what was overcome: the run went on behind it and passed."""
    if exit_code not in {0, None} or failed:
        return hits
    done = max((at for at, mark in marks if mark is Mark.DONE), default=-1)
    issued = max((at for at, mark in marks if mark is Mark.ISSUED), default=-1)
    idle = max((at for at, mark in marks if mark is Mark.IDLE), default=-1)
    return [
        hit
        for hit in hits
        if not (
            (hit.start < done and hit.the_stage is not Stage.HOOK)
            or (hit.start < issued and hit.the_stage not in _LATE)
            or (
                hit.start < idle
                and hit.the_weight < (Weight.CAUSE if exit_code == 0 else Weight.CRASH)
                and hit.the_stage not in _LATE
            )
            or (exit_code == 0 and hit.the_weight <= Weight.CONSEQUENCE and hit.the_stage not in _LATE)
            or (exit_code == 0 and hit.the_weight is Weight.BACKGROUND)
        )
    ]


def _chosen(hits: list[Hit], marks: list[tuple[int, Mark]], starts: Sequence[int]) -> list[Hit]:
    """Choose the hits that decide: in each scope the first failed step, and what else the CA said at that step."""
    for weight in (Weight.CAUSE, Weight.CRASH, Weight.CONSEQUENCE, Weight.BACKGROUND):
        heavy = [hit for hit in hits if hit.the_weight is weight]
        if weight is Weight.BACKGROUND and marks:
            return []
        if heavy:
            break
    else:
        return []
    scopes: dict[int, list[Hit]] = {}
    for hit in heavy:
        scopes.setdefault(scope_of(starts, hit.start), []).append(hit)
    chosen: list[Hit] = []
    for inside in scopes.values():
        leader = min(inside, key=_chain_place)
        chosen += [hit for hit in sorted(inside, key=_chain_place) if hit is leader or _beside(leader, hit)]
    return chosen


def _chain_place(hit: Hit) -> tuple[int, int]:
    return STAGE_ORDER[hit.the_stage], hit.start


def _beside(leader: Hit, hit: Hit) -> bool:
    """The CA may refuse several names at one step; anything else behind the first failure is its consequence."""
    same_step = leader.the_stage is hit.the_stage and leader.speaker == hit.speaker == "CA"
    return same_step or (leader.the_code is hit.the_code and leader.the_retry is hit.the_retry)


_HOOK_REASONS = frozenset(
    {Code.NGINX_RELOAD_FAILED, Code.NGINX_CONFIG_BROKEN, Code.NGINX_MISSING, Code.PORT_80_IN_USE}
)
"""What a deploy hook's own output can tell: hooks reload nginx."""


def _explained(hit: Hit, hits: Iterable[Hit]) -> Hit:
    """Give the background that explains a hit: said before it, or by the hook whose failure it is."""
    for other in hits:
        in_hook = hit.the_stage is other.the_stage is Stage.HOOK and hit.the_code is Code.INSTALL_FAILED
        if in_hook and other.the_code in _HOOK_REASONS and hit.start < other.start:
            return other
        if (
            other.the_weight is Weight.BACKGROUND
            and hit.the_code in other.row.explains
            and other.start < hit.start
        ):
            return other
    return hit


def _verdicts(document: Document, chosen: list[Hit], starts: Sequence[int]) -> tuple[Verdict, ...]:
    groups: dict[tuple[Code, Retry], list[Hit]] = {}
    for hit in chosen:
        groups.setdefault((hit.the_code, hit.the_retry), []).append(hit)
    verdicts = [
        Verdict(
            tuple(group),
            tuple(dict.fromkeys(name for hit in group for name in hit_names(document, hit, starts))),
            max((hit.retry_at for hit in group if hit.retry_at), default=None),
        )
        for group in groups.values()
    ]
    return tuple(sorted(verdicts, key=_blocking))


def _blocking(verdict: Verdict) -> tuple[int, int, int, int]:
    hit = verdict.hits[0]
    code = hit.the_code
    within = _WITHIN_CHALLENGE.index(code) if code in _WITHIN_CHALLENGE else len(_WITHIN_CHALLENGE)
    return _BLOCKING[hit.the_retry], STAGE_ORDER[hit.the_stage], within, hit.start
