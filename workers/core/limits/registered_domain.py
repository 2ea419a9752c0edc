"""The registered domain of a name, as Let's Encrypt reckons its limit per registered domain.

boulder takes the Public Suffix List with its private section (`publicsuffix.Domain` of weppos/publicsuffix-go, whose
default options ignore nothing; ratelimits/utilities.go): `shop.github.io` is its own registered domain, so customers of
one hosting platform do not share a bucket. A name that is itself a suffix stands for itself, and an unlisted top-level
domain counts as a suffix.
"""

from functools import cache

from publicsuffixlist import PublicSuffixList


@cache
def _list() -> PublicSuffixList:
    # The list that came with the package, never a download. Read at the first question (about 40 ms), not at import.
    return PublicSuffixList(accept_unknown=True, only_icann=False)


def registered_domain(name: str) -> str:
    """The name's public suffix plus one label, or the name itself where it is a public suffix.

    Args:
        name: a normalised name (A-labels, lower-case, no trailing dot).
    """
    domain: str | None = _list().privatesuffix(name)
    return domain or name


def registered_domains(names: tuple[str, ...]) -> tuple[str, ...]:
    """Every registered domain among the names, each once, sorted."""
    return tuple(sorted({registered_domain(name) for name in names}))
