"""Which cause of a certificate's lapse is told (issue "Certificates never lapse"): once per cause, the most blocking first.

The rule. One cause is told at a time, and stands until somebody sees its end. Another takes its place only

- where the told one blocks less (`_rank`, strictly): of two that block the same, the one that was told first stays;
- or where whoever has found the other sees that the told one is over: a look at DNS, that no name shows it any more; a
  look by SSH, of what such looks find; a job, of all that it does not find any more (`over_for_a_job`).

So causes that stand together are never told in turn: going up in rank ends, and who sees both ends neither. A job sees
what a look sees, and better: no look takes the place of what only a job can have found.
"""

from collections.abc import Collection

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

SEEN_ON_DISK = SEEN_BY_SSH | {Code.NOT_SERVED, Code.NGINX_RELOAD_FAILED}
"""Of these a look at the server's disk finds the one that holds now; the others are over."""

_SEEN_BY_LOOKS = SEEN_BY_A_LOOK | SEEN_IN_DNS | SEEN_ON_DISK


def _rank(code: Code) -> int:
    """What blocks the order comes first: DNS and port, then the server, then the server's own renewals."""
    if code in _LAST:
        return 3
    return {Mender.OWNER: 0, Mender.SERVER_ADMIN: 1}.get(CATALOGUE[code].mender, 2)


def to_tell(
    told: Code | None,
    problem: Problem,
    *,
    lapsed: bool,
    ended: Collection[Code] = frozenset(),
    by_a_look: bool = False,
) -> bool:
    """Whether a cause is news.

    Args:
        told: the cause that was told last and whose end was not told; None: there is none.
        problem: the cause found now.
        lapsed: the certificate has expired; then every cause is one, also what time would have mended.
        ended: causes that whoever has found this one sees to be over.
        by_a_look: the watch has found it, and no job.
    """
    if problem.code is told or (problem.code in _NO_RISK and not lapsed):
        return False
    if told is None or told in ended:
        return True
    if by_a_look and told not in _SEEN_BY_LOOKS | _LAST:
        return False
    return _rank(problem.code) < _rank(told)


def over_for_a_job(problem: Problem) -> Collection[Code]:
    """What is over, where a job is held up by this."""
    if problem.code in SEEN_BY_SSH:
        return SEEN_BY_SSH
    # What time mends kept the job from seeing anything else.
    sees_all = problem.beside is not None and problem.code not in _NO_RISK
    return frozenset(Code) - (problem.beside or frozenset()) if sees_all else frozenset()
