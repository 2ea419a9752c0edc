"""Which certificate a text is about: a renewal run goes through many, each with its own failure."""

import re
from bisect import bisect_right
from collections.abc import Sequence

from contracts.codes import Code
from workers.core.reading.ca_hits import ordered_names
from workers.core.reading.lines import Document
from workers.core.reading.names import LINEAGE_REACH, host, hosts, lineage_host, lineages_near, unique
from workers.core.reading.values import SCOPES, Hit, Scope, Stage

_SCOPE = re.compile(
    r"processing/[^\s]{1,200}?/renewal/([\w.*@+-]{1,253}?)\.conf"
    r"|attemptingtorenewcert(?:\([^)]{1,253}\))?from/[^\s]{1,200}?/renewal/([\w.*@+-]{1,253}?)\.conf"
    r"|failedtorenewcertificate([\w.*@+-]{1,253}?)witherror:"
)
_RENEWED = re.compile(
    r"failedtorenewcertificate([\w.*@+-]{1,253}?)witherror|attemptingtorenewcert\(([\w.*@+-]{1,253}?)\)from"
)

_CHALLENGED = re.compile(
    r"(?:http|dns|tls-sni|tls-alpn)-01challengefor([\w.-]{1,253}?)"
    r"(?=(?:http|dns|tls-sni|tls-alpn)-01|waitingfor|cleaningup|usingthe|usingdefault|running|problembinding|\d{4}-\d\d-\d\d|$)"
)


def scope_starts(document: Document, begin: int, end: int) -> list[int]:
    """Give the offsets at which a run turns to another certificate; the first is the run's own beginning."""
    starts, name = [begin], None
    for found in _SCOPE.finditer(document.squeezed, begin, end):
        named = found[1] or found[2] or found[3]
        if name is not None and named != name:
            starts.append(found.start())
        name = named
    return starts


def scope_of(starts: Sequence[int], offset: int) -> int:
    """Give the index of the scope that holds an offset."""
    return max(0, bisect_right(starts, offset) - 1)


def hit_names(document: Document, hit: Hit, starts: Sequence[int]) -> tuple[str, ...]:
    """Give the names at fault of a hit, by whose fault its code is."""
    scope = SCOPES[hit.the_code]
    if scope is Scope.MACHINE:
        return ()
    if hit.the_code is Code.WILDCARD_NEEDS_DNS and not hit.names:
        return tuple(name for name in ordered_names(document, hit.start) if name.startswith("*."))
    if scope is Scope.HOST:
        return hit.names
    if hit.the_code is Code.INTERNAL:
        asked = hit.the_stage is Stage.START  # about one certificate; other unknown things are about none
        return hit.names or (
            added_names(document, starts[0]) or _lineage(document, hit, starts) if asked else ()
        )
    return _lineage(document, hit, starts)


def _lineage(document: Document, hit: Hit, starts: Sequence[int]) -> tuple[str, ...]:
    squeezed = document.squeezed
    if hit.names:
        return hit.names
    if hit.lineage and lineage_host(hit.lineage):
        return unique([lineage_host(hit.lineage)])
    inside = lineages_near(squeezed, hit.start, hit.end)
    if inside:
        return unique(lineage_host(name) for name in inside)
    start = starts[scope_of(starts, hit.start)]
    for found in _RENEWED.finditer(squeezed, start, hit.start):
        return unique([lineage_host(found[1] or found[2])])
    before = lineages_near(squeezed, max(start, hit.start - LINEAGE_REACH), hit.start)
    if before:
        return unique([lineage_host(before[-1])])
    after = lineages_near(squeezed, hit.end, hit.end + LINEAGE_REACH)
    return unique([lineage_host(after[0])]) if after else _only_challenged(squeezed, start, hit.start)


def _only_challenged(squeezed: str, begin: int, end: int) -> tuple[str, ...]:
    """Give the name of an order of one; of several, the guilty one cannot be told."""
    names = unique(host(found[1]) for found in _CHALLENGED.finditer(squeezed, begin, end))
    return names if len(names) == 1 else ()


def added_names(document: Document, begin: int) -> tuple[str, ...]:
    """Give the names that were to be added to a certificate: certbot lists what it has and what was asked for."""
    has = _listed(document, begin, "it contains these names:")
    asked = _listed(document, begin, "you requested these names for the new certificate:")
    return tuple(name for name in asked if name not in has)


def _listed(document: Document, begin: int, label: str) -> tuple[str, ...]:
    for index in range(document.index_at(begin), len(document.lines)):
        line = document.lines[index]
        if label in line.text:
            text = line.text.split(label, 1)[1]
            for following in document.lines[index + 1 : index + 12]:
                if text.endswith(".") or (text and not text.endswith(",")):
                    break
                text = f"{text} {following.text}"
            return hosts(text)
    return ()
