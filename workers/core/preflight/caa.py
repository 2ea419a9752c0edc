"""Whether the CAA records of a name let a CA issue for it (RFC 8659, with the parameters of RFC 8657)."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from workers.core.preflight.model import Verdict
from workers.core.preflight.observed import CaaAnswer, CaaRecord, DnsStatus

_CRITICAL = 128 | 1
"""Bit 128 by the RFC; so many people wrote 1 for it that Let's Encrypt takes both (boulder, va/caa.go)."""

_KNOWN_TAGS = frozenset({"issue", "issuewild", "iodef"})
_PARAMETER = re.compile(r"[ \t]*([A-Za-z0-9-]+)[ \t]*=[ \t]*([!-:<-~]*)[ \t]*")
_IDENTITIES = {"letsencrypt.org": ("letsencrypt.org",)}


def ca_identities(directory_url: str) -> tuple[str, ...] | None:
    """The domain names by which CAA records call a CA.

    Args:
        directory_url: the CA's ACME directory.

    Returns:
        The names; None for a CA that is not known here (its directory's `meta.caaIdentities` may tell, RFC 8555
        section 7.1.1).
    """
    host = urlsplit(directory_url).hostname or ""
    return next((names for suffix, names in _IDENTITIES.items() if f".{host}".endswith(f".{suffix}")), None)


def judge_caa(
    answer: CaaAnswer,
    identities: Collection[str] | None,
    *,
    account_uris: Collection[str] = (),
    method: str = "http-01",
) -> Verdict:
    """Judge the records that count for a name which is no wildcard.

    Args:
        answer: what DNS said. A failed look-up is UNSURE: some resolvers do not know the type.
        identities: the CA's names; None: not known.
        account_uris: the accounts that may be used; empty: not known yet.
        method: the validation method.

    Returns:
        PASS, FAIL, or UNSURE where an unknown CA or account decides. `issuewild` plays no part.
    """
    if answer.status is DnsStatus.NODATA:
        return Verdict.PASS
    if answer.status is not DnsStatus.ANSWER:
        return Verdict.UNSURE
    if any(r.flags & _CRITICAL and r.tag.lower() not in _KNOWN_TAGS for r in answer.records):
        return Verdict.FAIL
    verdicts = [
        _judge_record(r, identities, account_uris, method) for r in answer.records if r.tag.lower() == "issue"
    ]
    if not verdicts or Verdict.PASS in verdicts:
        return Verdict.PASS
    return Verdict.UNSURE if Verdict.UNSURE in verdicts else Verdict.FAIL


def _judge_record(
    record: CaaRecord, identities: Collection[str] | None, account_uris: Collection[str], method: str
) -> Verdict:
    issuer, _, rest = record.value.partition(";")
    issuer = issuer.strip(" \t").lower()
    parameters = _parameters(rest)
    if not issuer or parameters is None or (identities is not None and issuer not in identities):
        return Verdict.FAIL
    methods = parameters.get("validationmethods")
    if methods is not None and method not in methods.split(","):
        return Verdict.FAIL
    account = parameters.get("accounturi")
    if account is not None and account not in account_uris:
        return Verdict.FAIL if account_uris and identities is not None else Verdict.UNSURE
    return Verdict.PASS if identities is not None else Verdict.UNSURE


def _parameters(text: str) -> dict[str, str] | None:
    """The parameters behind the issuer; None where they are malformed, which lets nobody issue (RFC 8659 section 4.2)."""
    if not text.strip(" \t"):
        return {}
    found: dict[str, str] = {}
    for part in text.split(";"):
        match = _PARAMETER.fullmatch(part)
        if match is None:
            return None
        found[match[1].lower()] = match[2]
    return found
