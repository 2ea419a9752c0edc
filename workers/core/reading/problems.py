"""ACME problems in all the forms in which they reach us: JSON documents, certbot's blocks, sentences, URNs.

RFC 8555 section 6.7 (problem documents, sub-problems), certbot `auth_handler.py` (blocks `Domain:`/`Identifier:`,
`Type:`, `Detail:`; before 1.0 also `Failed authorization procedure. NAME (http-01): URN :: title :: detail`),
acme `messages.py` (`Error.__str__`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from workers.core.reading.lines import Document
from workers.core.reading.names import host_or_address
from workers.core.reading.spans import Spans

LONGEST_DETAIL = 6000
"""Squeezed characters of one detail; the longest come with an unpause link of some 500 and a quoted page of 200."""

MOST_PROBLEMS = 300
"""Problems of one form that are read: an order has at most 100 names."""

_BLOCK = re.compile(
    r"(?:domain|identifier):(?P<name>[^\s\"{}]{1,255}?)type:(?P<type>[\w:.-]{1,60}?)detail:", re.DOTALL
)
_BLOCK_END = re.compile(
    r"(?:domain|identifier):[^\s\"{}]{1,255}?type:|hint:the|tofixtheseerrors|somechallengeshave|unfortunately,an"
    r"|askforhelp|importantnotes|allrenewal|failedtorenew|-----|\d{4}-\d\d-\d\d\d\d:\d\d:\d\d,\d{3}:[a-z]"
)
_SENTENCE = re.compile(
    r"(?:procedure\.|,|^|\"|['(])(?P<name>[\w*][\w.*-]{0,252})\((?:http|dns|tls-sni|tls-alpn)-01\):"
    r"(?P<type>urn:[\w:]{0,60}?error:\w{1,40}|\w{1,40})::"
)
_SENTENCE_END = re.compile(
    r",[\w*][\w.*-]{0,252}\((?:http|dns|tls-sni|tls-alpn)-01\):|\.skipping\.|importantnotes|allrenewal|pleaseseethelog"
    r"|\d{4}-\d\d-\d\d\d\d:\d\d:\d\d,\d{3}:[a-z]"
)
_URN = re.compile(
    r"(?:problemfor(?P<name>[\w.*:-]{1,255}?):)?urn:(?:ietf:params:)?acme:error:(?P<type>[a-z]{2,40})::"
)
_URN_END = re.compile(
    r"problemfor[\w.*:-]{1,255}?:urn:|urn:(?:ietf:params:)?acme:error:|\.skipping\.|pleaseseethelog|askforhelp"
    r"|allrenewal|importantnotes|\d{4}-\d\d-\d\d\d\d:\d\d:\d\d,\d{3}:[a-z]|traceback\("
)
_LOOSE = re.compile(
    r"(?:fetching|invalidresponsefrom|couldnotget)"
    r"[\"']?https?://(?P<name>[^/:\s]{1,253})(?::\d{1,5})?/\.well-known/acme-challenge/"
)
_LOOSE_DNS = re.compile(
    r"whileprocessingcaafor(?P<name>[\w.*-]{1,253}?):|caarecordfor[\w.-]{1,253}?preventsissuance|dnsproblem:(?=[a-z])"
)
_LOOSE_WORDS = (
    "didnotmatchthischallenge",
    "addressesfoundfor",
    "recordsfoundfor",
    "inredirecttarget",
    "speakinghttp/2overhttp",
)
_LOOSE_OTHERS = re.compile(
    r"thekeyauthorizationfilefromtheserverdidnotmatchthischallenge|serverisspeakinghttp/2overhttp"
    r"|novalid(?:ipaddresses|arecords|aaaarecords)foundfor(?P<name>[\w.*-]{1,253}?)(?=;|dns|$|-)"
    r"|invalid(?:empty)?(?:port|host|hostname)inredirecttarget"
)
_BEFORE_LOOSE = re.compile(r"(?:duringsecondaryvalidation:)?(?:[\da-f.:]{3,45}:)?$")
_TYPE_KEY = re.compile(r'"type":"(?:urn:)?(?:ietf:params:)?(?:acme:)?(?:error:)?(?P<type>[a-z:./-]{2,80}?)"')
_DETAIL_KEY = '"detail":"'
_DETAIL_END = re.compile(r'"(?=,"(?:status|type|title|instance|identifier|subproblems|algorithms)"|[}\]])')
_PRINTED = re.compile(r"u?'detail':u?['\"](.{0,1500}?)['\"](?=,u?'|\}|$)")
_PRINTED_TYPE = re.compile(r"u?'type':u?'urn:[\w:]{0,40}error:(\w{1,40})'")
_STATUS_KEY = re.compile(r'"status":"?(\d{3})')
_IDENTIFIER_KEY = re.compile(r'"identifier":\{(?:"type":"\w{1,10}",)?"value":"([^"]{1,255})"')
_HOSTNAME_KEY = re.compile(r'"hostname":"([^"]{1,255})"')
_OBJECT_REACH = 260


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem that a CA reported.

    Attributes:
        start: where it begins in the squeezed text.
        end: where its detail ends.
        type: the last part of its type, lower-case, `none` or empty where not given.
        detail: its detail, squeezed.
        name: the identifier that it is about, where given.
        status: the document's HTTP status, where given.
        challenge: it was found at a challenge or authorization, not at another request.
        parent: it only points to its sub-problems.
        cut: the text ends inside it.
    """

    start: int
    end: int
    type: str
    detail: str
    name: str | None
    status: int | None = None
    challenge: bool = False
    parent: bool = False
    cut: bool = False


def find_problems(document: Document) -> tuple[Problem, ...]:
    """Find every problem, in the order of the text; overlapping finds of one place give one problem."""
    squeezed = document.squeezed
    found: list[Problem] = []
    if _DETAIL_KEY in squeezed:
        found += _documents(squeezed)
    if "detail:" in squeezed and "type:" in squeezed:
        found += _blocks(squeezed)
    if "-01):" in squeezed:
        found += _sentences(squeezed)
    if "error:" in squeezed and "::" in squeezed:
        found += _urns(squeezed, found)
    if "'detail':" in squeezed:
        found += _printed_dicts(squeezed)
    if "acme-challenge" in squeezed:
        found += _loose(squeezed, found, _LOOSE)
    if any(word in squeezed for word in _LOOSE_WORDS):
        found += _loose(squeezed, found, _LOOSE_OTHERS)
    if "dnsproblem:" in squeezed or "preventsissuance" in squeezed:
        found += _loose(squeezed, found, _LOOSE_DNS)
    return tuple(sorted(found, key=lambda problem: problem.start))


def _documents(squeezed: str) -> Iterator[Problem]:
    """Read JSON problem documents, also cut or broken ones: no parser, but keys near each other."""
    places = _places(squeezed, _DETAIL_KEY)
    for index, place in enumerate(places):
        begin = place + len(_DETAIL_KEY)
        limit = min(len(squeezed), begin + LONGEST_DETAIL)
        following = places[index + 1] if index + 1 < len(places) else limit
        ending = _DETAIL_END.search(squeezed, begin, min(limit, following))
        end = ending.start() if ending else min(limit, following)
        before = squeezed[max(places[index - 1] if index else 0, place - _OBJECT_REACH) : place]
        after = squeezed[end : min(following, end + _OBJECT_REACH)]
        head = squeezed[max(0, place - 4000) : place]
        problem_type = _last_type(before) or _first_type(after)
        if not problem_type:
            continue
        children = squeezed.find('"subproblems":[{', end, end + 120)
        status = _STATUS_KEY.search(after) or _STATUS_KEY.search(before)
        yield Problem(
            start=place,
            end=end,
            type=problem_type,
            detail=squeezed[begin:end],
            name=_identifier(head, after),
            status=int(status[1]) if status else None,
            challenge=_in_challenge(head),
            parent=0 <= children < (following if index + 1 < len(places) else len(squeezed)),
            cut=ending is None,
        )


def _in_challenge(head: str) -> bool:
    """A challenge's error stands in `challenges`, after the last response's head."""
    return '"challenges":[' in head[max(head.rfind("receivedresponse"), 0) :]


def _last_type(text: str) -> str | None:
    types = [found for found in _TYPE_KEY.finditer(text) if not found["type"].endswith(("-01", "dns"))
             or "error:dns" in found[0]]  # fmt: skip
    return types[-1]["type"].rsplit(":", 1)[-1] if types and _same_object(text[types[-1].end() :]) else None


def _first_type(text: str) -> str | None:
    found = _TYPE_KEY.search(text)
    if not found or not _same_object(text[: found.start()]) or found["type"].endswith("-01"):
        return None
    return found["type"].rsplit(":", 1)[-1]


def _same_object(between: str) -> bool:
    return "{" not in between and "}" not in between


def _identifier(head: str, after: str) -> str | None:
    inside = _IDENTIFIER_KEY.search(after)
    if inside and "}" not in after[: inside.start()]:
        return host_or_address(inside[1])
    response = head[max(head.rfind("receivedresponse"), 0) :]
    outside = _IDENTIFIER_KEY.findall(response)
    if outside and '"challenges":[' in response:
        return host_or_address(outside[-1])
    record = _HOSTNAME_KEY.search(after)
    return host_or_address(record[1]) if record else None


def _printed_dicts(squeezed: str) -> Iterator[Problem]:
    """Read problem documents that a Python client printed as a dictionary: `u'detail': u'…'`."""
    for found in islice(_PRINTED.finditer(squeezed), MOST_PROBLEMS):
        around = squeezed[max(0, found.start() - _OBJECT_REACH) : found.end() + _OBJECT_REACH]
        kind = _PRINTED_TYPE.search(around)
        if kind:
            yield Problem(
                found.start(),
                found.end(),
                kind[1],
                found[1],
                None,
                challenge="'token'" in around or "challenge" in around,
            )


def _blocks(squeezed: str) -> Iterator[Problem]:
    for found in islice(_BLOCK.finditer(squeezed), MOST_PROBLEMS):
        limit = min(len(squeezed), found.end() + LONGEST_DETAIL)
        ending = _BLOCK_END.search(squeezed, found.end(), limit)
        end = ending.start() if ending else limit
        name = host_or_address(found["name"])
        yield Problem(
            found.start(),
            end,
            _short(found["type"]),
            squeezed[found.end() : end],
            name,
            challenge=True,
            cut=ending is None,
        )


def _sentences(squeezed: str) -> Iterator[Problem]:
    for found in islice(_SENTENCE.finditer(squeezed), MOST_PROBLEMS):
        limit = min(len(squeezed), found.end() + LONGEST_DETAIL)
        ending = _SENTENCE_END.search(squeezed, found.end(), limit)
        end = ending.start() if ending else limit
        name = found["name"].rsplit("procedure.", 1)[-1]  # whatever stands before it may have no space left
        yield Problem(
            found.end("name") - len(name),
            end,
            _short(found["type"]),
            squeezed[found.end() : end],
            host_or_address(name),
            challenge=True,
            cut=ending is None,
        )


def _urns(squeezed: str, others: list[Problem]) -> Iterator[Problem]:
    taken = Spans((problem.start, problem.end) for problem in others)
    earlier: Problem | None = None
    for found in islice(_URN.finditer(squeezed), MOST_PROBLEMS):
        if found.start() in taken:
            continue
        limit = min(len(squeezed), found.end() + LONGEST_DETAIL // 4)
        ending = _URN_END.search(squeezed, found.end(), limit)
        end = ending.start() if ending else limit
        name = host_or_address(found["name"]) if found["name"] else None
        problem = Problem(
            found.start(), end, found["type"], squeezed[found.end() : end], name, cut=ending is None
        )
        if earlier is not None:
            yield replace(earlier, parent=found["name"] is not None and found.start() <= earlier.end)
        earlier = problem
    if earlier is not None:
        yield earlier


def _loose(squeezed: str, others: list[Problem], pattern: re.Pattern[str]) -> Iterator[Problem]:
    """Read validation errors that a panel or another client prints without their block."""
    taken = Spans((problem.start, problem.end) for problem in others)
    for found in islice(pattern.finditer(squeezed), MOST_PROBLEMS):
        if found.start() in taken:
            continue
        limit = min(len(squeezed), found.end() + LONGEST_DETAIL // 10)
        ending = _URN_END.search(squeezed, found.end(), limit)
        end = ending.start() if ending else limit
        name = host_or_address(found["name"] or "")
        before = _BEFORE_LOOSE.search(squeezed, max(0, found.start() - 80), found.start())
        begin = before.start() if before else found.start()
        yield Problem(begin, end, "", squeezed[begin:end], name, challenge=True, cut=ending is None)


def _short(problem_type: str) -> str:
    return problem_type.rsplit(":", 1)[-1].rsplit("/", 1)[-1]


def _places(text: str, needle: str) -> list[int]:
    found: list[int] = []
    at = text.find(needle)
    while at >= 0 and len(found) < MOST_PROBLEMS:
        found.append(at)
        at = text.find(needle, at + len(needle))
    return found
