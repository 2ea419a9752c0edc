"""What a look at public DNS says: whether visitors and the CA still find a site's server, and when that is looked at."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from contracts.codes import Code
from workers.core.lifetime.renewal import window_of
from workers.core.lifetime.risk import SEEN_IN_DNS
from workers.core.model import Certificate, Problem
from workers.core.preflight.cloudflare import is_cloudflare
from workers.core.preflight.observed import DnsStatus, Handshake, HandshakeError, NameAnswer

_SHARE_OF_EARLY_LOOKS = 1 / 7
"""Before the window: of daily looks at 90 days one a week, weeks before anything has to be renewed."""


def is_public(certificate: Certificate, told: Code | str | None, now: datetime, draw: float) -> bool:
    """Whether a look is one at public DNS as well.

    In the window each is; before it some are, and all while DNS is what puts the site at risk, so that its end is seen.

    Args:
        certificate: the one last known.
        told: the cause that was told last and is not over; None: there is none.
        now: UTC.
        draw: in [0, 1); no memory is kept of which look was the last.
    """
    return window_of(certificate).is_open(now) or told in SEEN_IN_DNS or draw < _SHARE_OF_EARLY_LOOKS


class _Leads(StrEnum):
    """Where a name leads."""

    HERE = "here"  # every address is the server's or Cloudflare's
    NOWHERE = "nowhere"  # DNS says that there is none
    ELSEWHERE = "elsewhere"  # every address was asked in vain for the certificate
    UNCLEAR = "unclear"  # to addresses, of which not all are known to be the server's
    UNKNOWN = "unknown"  # no resolver answered


@dataclass(frozen=True, slots=True)
class PublicView:
    """What is wrong, and what is not; of what cannot be told neither.

    Attributes:
        problem: what stands in the way, in the preflight's order; None: nothing that is sure.
        over: causes that no name shows.
    """

    problem: Problem | None
    over: frozenset[Code]


def judge_public(
    names: Sequence[str],
    known: Certificate,
    own_addresses: Collection[str],
    answers: Mapping[str, NameAnswer],
    shakes: Sequence[Handshake],
) -> PublicView:
    """Whether the names' public DNS still leads to the site; what cannot be told is no problem, and ends none.

    Args:
        names: the site's names.
        known: its certificate.
        own_addresses: the server's, as far as they are known.
        answers: of DNS, by name.
        shakes: with public addresses that are neither the server's nor Cloudflare's.
    """
    leads = {
        name: _leads(
            answers.get(name), own_addresses, [one for one in shakes if one.server_name == name], known
        )
        for name in names
    }
    problem = None
    if nowhere := [name for name in names if leads[name] is _Leads.NOWHERE]:
        message = f"{nowhere[0]} has neither an A nor an AAAA record."
        problem = Problem(Code.DNS_NOT_RESOLVING, message, tuple(nowhere))
    elif elsewhere := [name for name in names if leads[name] is _Leads.ELSEWHERE]:
        where = ", ".join(answers[elsewhere[0]].addresses)
        message = f"{elsewhere[0]} points to {where}, which is not the site's server."
        problem = Problem(Code.DNS_WRONG_SERVER, message, tuple(elsewhere))
    return PublicView(problem, _over(set(leads.values())))


def _leads(
    answer: NameAnswer | None, own: Collection[str], shakes: Sequence[Handshake], known: Certificate
) -> _Leads:
    addresses = answer.addresses if answer else ()
    if not addresses:
        return _Leads.NOWHERE if answer and _says_no(answer) else _Leads.UNKNOWN
    foreign = [one for one in addresses if one not in own and not is_cloudflare(one)]
    if not foreign:
        return _Leads.HERE
    # An address that shows the certificate may be another of the server's, or a machine that it was copied to.
    strange = {shake.address for shake in shakes if not _may_be_ours(shake, known)}
    return _Leads.ELSEWHERE if strange.issuperset(addresses) else _Leads.UNCLEAR


def _may_be_ours(shake: Handshake, known: Certificate) -> bool:
    if shake.certificate is not None:
        return shake.certificate.serial == known.serial
    return shake.error is HandshakeError.NO_ROUTE  # we have no way there, e.g. no IPv6; the CA has


def _over(leads: Collection[_Leads]) -> frozenset[Code]:
    over = set[Code]()
    if not {_Leads.NOWHERE, _Leads.UNKNOWN} & set(leads):
        over.add(Code.DNS_NOT_RESOLVING)
    if not {_Leads.ELSEWHERE, _Leads.UNCLEAR, _Leads.UNKNOWN} & set(leads):
        over.add(Code.DNS_WRONG_SERVER)
    return frozenset(over)


def _says_no(answer: NameAnswer) -> bool:
    none = {DnsStatus.NXDOMAIN, DnsStatus.NODATA}
    return answer.a.status in none and answer.aaaa.status in none
