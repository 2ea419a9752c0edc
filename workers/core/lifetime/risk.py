"""Which cause of a certificate's lapse is told (issue "Certificates never lapse"): once per cause, the most blocking first."""

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Mender
from workers.core.model import Problem

_NO_RISK = frozenset({Code.SERVER_BUSY, Code.TOO_MANY_REQUESTS, Code.CA_UNAVAILABLE})
"""Time mends these long before a certificate lapses; at its expiry they are told like any other."""

_LAST = frozenset({Code.AUTO_RENEW_MISSING, Code.AUTO_RENEW_FAILING})
"""They say why we had to renew; what blocks our own order comes before them."""


SEEN_BY_A_LOOK = frozenset({Code.NOT_SERVED})
"""Over when a look sees the certificate; other causes end with what found them, or with a new certificate, as
NGINX_RELOAD_FAILED does: the old one is shown all the time."""

SEEN_IN_DNS = frozenset({Code.DNS_NOT_RESOLVING, Code.DNS_WRONG_SERVER})
"""Over when every public address leads to the site."""

SEEN_BY_SSH = frozenset({Code.SERVER_UNREACHABLE, Code.SSH_AUTH_FAILED, Code.HOST_KEY_MISMATCH})
"""Over when the server's script has answered."""


def _rank(code: Code) -> int:
    """What blocks the order comes first: DNS and port, then the server, then the server's own renewals."""
    if code in _LAST:
        return 3
    return {Mender.OWNER: 0, Mender.SERVER_ADMIN: 1}.get(CATALOGUE[code].mender, 2)


def to_tell(told: Code | None, problem: Problem, *, lapsed: bool) -> bool:
    """Whether a cause is news.

    Args:
        told: the cause that was told last and is not over; None: there is none.
        problem: the cause found now.
        lapsed: the certificate has expired; then every cause is one, also what time would have mended.
    """
    if problem.code in _NO_RISK and not lapsed:
        return False
    if told is None:
        return True
    # What blocks less does not take the place of what blocks more: of two causes that stand together one is told, once,
    # and not both in turn at every look. The end of the one that was told is told by `over`.
    return problem.code is not told and _rank(problem.code) <= _rank(told)
