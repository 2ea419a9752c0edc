"""What a run's failure cost at the CA: which bucket a refusal is about, which names failed, whether it registered (B.7)."""

import re
from collections.abc import Iterable, Sequence

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from workers.core.limits.buckets import LimitName
from workers.core.limits.costs import OrderFate, Spend
from workers.core.limits.registered_domain import registered_domain
from workers.core.reading import Finding

# letsencrypt.org/docs/rate-limits and boulder ratelimits/limiter.go, since 2016; the first match counts.
_WORDS: tuple[tuple[str, LimitName], ...] = (
    ("exact set of", LimitName.CERTIFICATES_PER_EXACT_SET),
    ("failed authorizations", LimitName.FAILURES_PER_NAME),
    ("subnet of ipv6 addresses", LimitName.REGISTRATIONS_PER_IPV6_RANGE),
    ("new registrations", LimitName.REGISTRATIONS_PER_ADDRESS),
    ("registrations for this ip", LimitName.REGISTRATIONS_PER_ADDRESS),
    ("new orders", LimitName.ORDERS_PER_ACCOUNT),
    ("already issued for", LimitName.CERTIFICATES_PER_REGISTERED_DOMAIN),
)
_REGISTRATIONS = frozenset({LimitName.REGISTRATIONS_PER_ADDRESS, LimitName.REGISTRATIONS_PER_IPV6_RANGE})
_REFUSES_AN_ORDER = frozenset({Code.TOO_MANY_REQUESTS, Code.REJECTED_BY_CA, Code.ACCOUNT_PAUSED})

# boulder ratelimits/limiter.go and sfe/: "… Please visit: https://portal.letsencrypt.org/sfe/v1/unpause?jwt=…"
_UNPAUSE = re.compile(r"https://[^\s\"'\\<>]{1,300}/unpause\?jwt=[A-Za-z0-9._=-]{1,1700}")


def refused_limit(evidence: Iterable[str]) -> LimitName | None:
    """Name the limit that the CA's text is about; None where it names none that we keep.

    Args:
        evidence: the lines that decided, in the CA's words.
    """
    text = " ".join(" ".join(evidence).lower().split())
    return next((limit for words, limit in _WORDS if words in text), None)


def unpause_link(texts: Iterable[str]) -> str | None:
    """Find the page on which a person lifts a pause of the CA.

    Args:
        texts: what certbot printed and logged, whole: the link has hundreds of characters.
    """
    return next((found[0] for text in texts if (found := _UNPAUSE.search(text))), None)


def refused_spends(
    spends: Sequence[Spend], evidence: Iterable[str], names: Sequence[str]
) -> tuple[Spend, ...]:
    """The buckets of an order that a refusal is about; several where the text does not say which of them.

    Args:
        spends: what the order needed.
        evidence: the lines that decided, in the CA's words.
        names: the names that the text shows, which for the limit per registered domain are registered domains.
    """
    limit = refused_limit(evidence)
    about = tuple(one for one in spends if one.limit.name is limit)
    shown = {*names, *map(registered_domain, names)}
    return tuple(one for one in about if one.subject in shown) or about


def failed_names(findings: Iterable[Finding], names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of an order whose validation failed at the CA: each of them costs a failure.

    Args:
        findings: everything that the run's output says.
        names: those of the order; all of them where the output does not say which failed.
    """
    failed = [finding for finding in findings if finding.code and CATALOGUE[finding.code].spends_ca_limit]
    if not failed:
        return ()
    shown = {name for finding in failed for name in finding.names}
    return tuple(name for name in names if name in shown) or names


def has_registered(fate: OrderFate, code: Code | None, evidence: Iterable[str]) -> bool:
    """Whether a run that had to register an account did, as far as the limits go: in doubt it did.

    Args:
        fate: of its order.
        code: how it failed; None: it did not.
        evidence: the lines that decided. A CA that refuses an order has taken the registration before.
    """
    if fate is not OrderFate.NOT_MADE:
        return True
    return code in _REFUSES_AN_ORDER and refused_limit(evidence) not in _REGISTRATIONS
