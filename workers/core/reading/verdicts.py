"""From a CA's problem to what it means: the detail first, then where it was found, the type last."""

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from contracts.codes import Code, Retry
from workers.core.preflight.cloudflare import is_cloudflare
from workers.core.reading import ca
from workers.core.reading.problems import Problem
from workers.core.reading.tables import first
from workers.core.reading.values import Row, Stage

_STATUS = re.compile(r"(?:invalidresponsefrom[^\"]{0,400}?:|returned|statuscode:?)(\d{3})(?![\d/])")
_PAGE = re.compile(r"invalidresponsefrom[^\"]{0,400}?:?\"|didnotmatchthischallenge")
_TRANSIENT = re.compile(
    r"servfail|timedout|serverfailure|networkingerror|dnssec|truncated|lookingupcaa|misbehaving|lookingup\w{1,6}for[^:;]{1,253}:"
)
_ADDRESS = re.compile(
    r"^(?:duringsecondaryvalidation:)?\[?([\da-f.:]{3,45}?)\]?:(?=[a-z])|\[([\da-f.:]{3,45})\]:"
)
_CLOUDFLARE_PAGE = re.compile(r"(?:cloudflare|error|title>|\|)[^a-z]{0,6}(52[0-7]|530)(?!\d)")
_REFUSES = frozenset({401, 403, 405, 406, 418, 429, 444, 451, 503})
"""Statuses with which firewalls and filters turn visitors away; the first vantage point was let in."""

_T = Stage
BY_TYPE: Mapping[str, tuple[Code, Stage, Retry | None]] = MappingProxyType(
    {
        "accountdoesnotexist": (Code.ACCOUNT_INVALID, _T.ACCOUNT, None),
        "badcsr": (Code.CERTBOT_OUTDATED, _T.FINALIZE, None),
        "badnonce": (Code.CA_UNAVAILABLE, _T.ORDER, None),
        "badpublickey": (Code.ACCOUNT_INVALID, _T.ACCOUNT, None),
        "badsignaturealgorithm": (Code.CERTBOT_OUTDATED, _T.ACCOUNT, None),
        "caa": (Code.CAA_FORBIDS, _T.CHALLENGE, None),
        "connection": (Code.PORT_80_BLOCKED, _T.CHALLENGE, None),
        "dns": (Code.DNS_NOT_RESOLVING, _T.CHALLENGE, Retry.SOON),
        "dnssec": (Code.DNS_NOT_RESOLVING, _T.CHALLENGE, Retry.SOON),
        "externalaccountrequired": (Code.ACCOUNT_EAB_REQUIRED, _T.ACCOUNT, None),
        "incorrectresponse": (Code.CHALLENGE_FAILED, _T.CHALLENGE, None),
        "invalidcontact": (Code.ACCOUNT_CONTACT_INVALID, _T.ACCOUNT, None),
        "invalidemail": (Code.ACCOUNT_CONTACT_INVALID, _T.ACCOUNT, None),
        "alreadyreplaced": (Code.CA_UNAVAILABLE, _T.ORDER, None),
        "conflict": (Code.CA_UNAVAILABLE, _T.ORDER, None),
        "ordernotready": (Code.CA_UNAVAILABLE, _T.FINALIZE, None),
        "ratelimited": (Code.TOO_MANY_REQUESTS, _T.ORDER, None),
        "rejectedidentifier": (Code.REJECTED_BY_CA, _T.ORDER, None),
        "serverinternal": (Code.CA_UNAVAILABLE, _T.ORDER, None),
        "tls": (Code.CHALLENGE_FAILED, _T.CHALLENGE, None),
        "unauthorized": (Code.ACCOUNT_INVALID, _T.ACCOUNT, None),
        "unknownhost": (Code.DNS_NOT_RESOLVING, _T.CHALLENGE, None),
        "unsupportedcontact": (Code.ACCOUNT_CONTACT_INVALID, _T.ACCOUNT, None),
        "unsupportedidentifier": (Code.REJECTED_BY_CA, _T.ORDER, None),
        "useractionrequired": (Code.ACCOUNT_INVALID, _T.ACCOUNT, None),
    }
)
"""RFC 8555 section 6.7, and the types of ACMEv1; `malformed` alone says nothing."""

_CHALLENGE_TYPES = frozenset(
    {"dns", "connection", "tls", "caa", "incorrectresponse", "unknownhost", "dnssec"}
)

_STATUS_CLOUDFLARE = range(520, 531)
_STATUS_STRICT = frozenset({525, 526})


def judge(problem: Problem) -> tuple[Row, Code]:
    """Say what a problem means: the row that fits, and the code, which the context may have changed."""
    detail = problem.detail
    at_challenge = problem.challenge or problem.type in _CHALLENGE_TYPES or "acme-challenge" in detail
    looks_up = "dnsproblem:" in detail or "preventsissuance" in detail
    if (at_challenge or looks_up) and "lookingupmxfor" not in detail:
        found = _judge_challenge(problem)
        if found:
            return found
    if (
        "acme-challenge" not in detail
    ):  # what a site sent is quoted behind that path: its words are not the CA's
        for row in ca.SAYINGS.rows:
            if first(row, detail):
                return row, row.code
    told = problem.type in BY_TYPE and detail and not _is_cut(problem)
    if told and not (problem.type == "unauthorized" and at_challenge):
        row = _row_of_type(problem.type)
        at_https = problem.type == "connection" and "fetchinghttps:" in detail
        return row, Code.PORT_443_BLOCKED if at_https else row.code
    row = ca.UNTOLD if at_challenge else ca.UNTOLD_REQUEST
    return row, row.code


def _is_cut(problem: Problem) -> bool:
    """Tell whether the reason is missing: it stands in sub-problems, or the text ends inside a validation error."""
    if problem.parent or "sub-problems" in problem.detail:
        return True
    return problem.cut and problem.type in {"connection", "unauthorized", "caa", "tls"}


def _judge_challenge(problem: Problem) -> tuple[Row, Code] | None:
    page = _PAGE.search(problem.detail)
    head = problem.detail[: page.end()] if page else problem.detail
    secondary = "duringsecondaryvalidation" in head
    for row in (*ca.SERVERS, ca.OUTDATED):
        if first(row, head):
            return row, row.code
    looked_up = "dnsproblem:" in head or (problem.type == "dns" and first(ca.DNS_SOON, head))
    if looked_up or first(ca.DNS_OWNER, head):
        soon = secondary or _TRANSIENT.search(head) or not first(ca.DNS_OWNER, head)
        row = ca.DNS_SOON if soon else ca.DNS_OWNER
        return row, row.code
    for row in (ca.CAA, ca.HTTP2, ca.PLAIN_ON_443):
        if first(row, head):
            return row, row.code
    if first(ca.REDIRECTS, head):
        row = ca.CLOUDFLARE_LOOP if _is_cloudflare(head) else ca.REDIRECTS
        return row, row.code
    return _judge_answer(problem, head, secondary=secondary)


def _judge_answer(problem: Problem, head: str, *, secondary: bool) -> tuple[Row, Code] | None:
    number = _status(problem, head)
    if number in _STATUS_CLOUDFLARE:
        row = ca.CLOUDFLARE_STRICT if number in _STATUS_STRICT else ca.CLOUDFLARE_DOWN
        return row, row.code
    if secondary and number in _REFUSES:
        return ca.GEO, ca.GEO.code
    if first(ca.ANSWERS, head):
        cut_before_status = (
            problem.cut and not number and head == problem.detail and "invalidresponse" in head
        )
        return None if cut_before_status else (ca.ANSWERS, ca.ANSWERS.code)
    if first(ca.TLS_SNI_PORT, head):
        return ca.TLS_SNI_PORT, ca.TLS_SNI_PORT.code
    if first(ca.CONNECTION, head):
        if secondary:
            return ca.GEO, ca.GEO.code
        to_https = "fetchinghttps:" in head or 'get"https:' in head or ":443:" in head
        return ca.CONNECTION, Code.PORT_443_BLOCKED if to_https else ca.CONNECTION.code
    return None


def _status(problem: Problem, head: str) -> int:
    """Give the HTTP status that the site answered: the CA's number, or Cloudflare's on its own error page."""
    found = _STATUS.search(head) or _CLOUDFLARE_PAGE.search(problem.detail, len(head))
    return int(found[1]) if found else 0


@cache
def _row_of_type(problem_type: str) -> Row:
    code, stage, retry = BY_TYPE[problem_type]
    return Row((), code, stage, "RFC 8555 section 6.7: the type alone", retry=retry)


def _is_cloudflare(detail: str) -> bool:
    found = _ADDRESS.search(detail)
    return found is not None and is_cloudflare(found[1] or found[2])
