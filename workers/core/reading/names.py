"""Host names, certificate names and times as the texts show them."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from workers.core.reading.lines import Document
from workers.core.reading.phrases import Match

_LABEL = r"(?!-)[\w-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.){{1,12}}(?:xn--[a-z0-9-]{{2,59}}|[^\W\d_]{{2,63}})")
_ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}|\[?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}\]?")
_COPY = re.compile(r"-\d{4}$")
_FILE_ENDINGS = frozenset(
    [
        "conf",
        "pem",
        "log",
        "py",
        "pyc",
        "so",
        "ini",
        "sh",
        "html",
        "htm",
        "json",
        "txt",
        "key",
        "crt",
        "csr",
        "pid",
        "sock",
        "service",
        "timer",
        "socket",
        "php",
        "bak",
        "lock",
        "list",
        "yml",
        "yaml",
        "default",
        "js",
        "css",
        "xml",
    ]
)
_NOT_HOSTS = frozenset(
    {"letsencrypt.org", "community.letsencrypt.org", "letsencrypt.status.io", "certbot.eff.org"}
)
_LINEAGE_NEAR = (
    re.compile(r"/renewal/([\w.*@+-]{1,253}?)\.conf"),
    re.compile(r"/(?:live|archive)/([\w.*@+-]{1,253}?)/"),
)
_TIME = re.compile(r"retryafter:?(\d{4}-\d\d-\d\d)t?(\d\d:\d\d:\d\d)(?:\.\d+)?(utc|z|[+-]\d\d:?\d\d)?")
_HTTP_DATE = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun),(\d\d)([a-z]{3})(\d{4})(\d\d):(\d\d):(\d\d)gmt")
_RETRY_AFTER = re.compile(r"retry-after[\"']?:[\"']?(?:(\d{1,9})|([a-z]{3},\d\d[a-z]{3}\d{6}:\d\d:\d\dgmt))")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_LONGEST_WAIT_S = 90 * 24 * 3600
LINEAGE_REACH = 400
"""Squeezed characters around a text in which the path of the certificate it is about is looked for."""


def host(text: str) -> str | None:
    """Give the host name in a text that should be one: lower-case, without quotes and a dot at the end; else None."""
    text = text.strip("\"'`<>()[]{},;:.").lower()
    if not text or text in _NOT_HOSTS:
        return None
    if _HOST.fullmatch(text) and text.rsplit(".", 1)[1] not in _FILE_ENDINGS:
        return text
    return None


def host_or_address(text: str) -> str | None:
    """Like `host`, and IP addresses too: certbot can ask for certificates for them."""
    plain = text.strip("\"'`<>()[]{},;.").lower()
    return plain if _ADDRESS.fullmatch(plain) else host(text)


def hosts(text: str) -> tuple[str, ...]:
    """Give the host names of a list: commas, semicolons or quotes between them."""
    return unique(host(part.strip()) for part in re.split(r"[,;\"'\[\]]+", text))


def unique(names: Iterable[str | None]) -> tuple[str, ...]:
    """Keep the first of each name."""
    return tuple(dict.fromkeys(name for name in names if name))


def lineage_host(name: str | None) -> str | None:
    """Give the host name that a certificate name stands for: `example.org-0001` is certbot's second `example.org`."""
    return host(_COPY.sub("", name)) if name else None


def matched_hosts(document: Document, match: Match) -> tuple[str, ...]:
    """Give the host names of a phrase's `{host}` and `{hosts}`.

    White space is lost in squeezed text: a name at the end of a phrase ends where white space was, and one at its
    beginning begins there.
    """
    if "hosts" in match.groups:
        return hosts(_whole(document, match, "hosts"))
    if "host" in match.groups:
        name = host_or_address(_whole(document, match, "host"))
        return (name,) if name else ()
    return ()


def matched_lineage(document: Document, match: Match) -> str | None:
    """Give the certificate name of a phrase's `{lineage}`."""
    return _whole(document, match, "lineage").strip("\"'.,:") or None if "lineage" in match.groups else None


def _whole(document: Document, match: Match, group: str) -> str:
    begin = match.starts[group]
    end = begin + len(match.groups[group])
    if match.open_group == group:
        end = document.word_break_after(begin)
    if begin < match.start:
        begin = max(begin, document.word_break_before(end - 1))
    return document.squeezed[begin:end]


def lineages_near(squeezed: str, start: int, end: int) -> tuple[str, ...]:
    """Give the certificate names in the paths of a span."""
    part = squeezed[max(0, start) : end]
    return unique(found for pattern in _LINEAGE_NEAR for found in pattern.findall(part))


def stated_time(squeezed: str) -> datetime | None:
    """Give the time after which the CA's text allows a retry: `retry after 2026-11-24 03:11:09 UTC` and its kin."""
    found = _TIME.search(squeezed)
    if not found:
        return None
    zone = (found[3] or "z").replace("utc", "+00:00").replace("z", "+00:00")
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def http_date(squeezed: str) -> datetime | None:
    """Give the first HTTP date in squeezed text."""
    found = _HTTP_DATE.search(squeezed)
    if not found or found[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(found[place]) for place in (1, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(found[2]) + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def retry_after(headers: str, logged: datetime | None) -> datetime | None:
    """Reckon the time that an HTTP response's Retry-After names.

    Args:
        headers: the response's head, squeezed.
        logged: when the response was logged, for a head without a Date of its own.
    """
    found = _RETRY_AFTER.search(headers)
    if not found:
        return None
    if found[2]:
        return http_date(found[2])
    seconds = min(int(found[1]), _LONGEST_WAIT_S)
    sent = http_date(headers[: found.start()]) or http_date(headers[found.end() :]) or logged
    return sent + timedelta(seconds=seconds) if sent else None


def log_time(text: str) -> datetime | None:
    """Read a debug log's time; taken as UTC, which servers are set to, since the log does not name a zone."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def ordered_names_needed(squeezed: str) -> bool:
    """Tell whether a CA's text means the order's own names: `this exact set of identifiers` lists none."""
    return "thisexactset" in squeezed[:200]
