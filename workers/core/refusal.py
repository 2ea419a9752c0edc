"""Which limit a CA's refusal is about, by its words, so that the ledger's bucket can be corrected (DESIGN B.7)."""

from collections.abc import Iterable

from workers.core.limits import LimitName

# letsencrypt.org/docs/rate-limits and boulder ratelimits/limiter.go, since 2016; the first match counts.
_WORDS: tuple[tuple[str, LimitName], ...] = (
    ("exact set of", LimitName.CERTIFICATES_PER_EXACT_SET),
    ("failed authorizations", LimitName.FAILURES_PER_NAME),
    ("new registrations", LimitName.REGISTRATIONS_PER_ADDRESS),
    ("registrations for this ip", LimitName.REGISTRATIONS_PER_ADDRESS),
    ("new orders", LimitName.ORDERS_PER_ACCOUNT),
    ("already issued for", LimitName.CERTIFICATES_PER_REGISTERED_DOMAIN),
)


def refused_limit(evidence: Iterable[str]) -> LimitName | None:
    """Name the limit that the CA's text is about; None where it names none that we keep.

    Args:
        evidence: the lines that decided, in the CA's words.
    """
    text = " ".join(evidence).lower()
    return next((limit for words, limit in _WORDS if words in text), None)
