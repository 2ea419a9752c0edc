"""What stands in the way of a certificate's renewal, told once per cause; the caller's transaction."""

from collections.abc import Collection

from contracts.codes import Code
from db import sites
from db.pool import Connection
from workers import announce
from workers.announce import About
from workers.core.lifetime.risk import to_tell
from workers.core.model import Problem


def found(
    conn: Connection,
    about: About,
    problem: Problem,
    *,
    lapsed: bool = False,
    ended: Collection[Code] = frozenset(),
    by_a_look: bool = False,
) -> None:
    """Keep the cause with the site, and tell it where it is news (`workers.core.lifetime.risk` has the rule).

    Args:
        conn: the caller's transaction.
        about: the site, and the job that has found it.
        problem: the cause.
        lapsed: the certificate has expired.
        ended: causes that whoever has found this one has seen to be over: one of them gives way to any other.
        by_a_look: the watch has found it, and no job.
    """
    told = _known(sites.lock_risk(conn, about.site_id)[0])
    if to_tell(told, problem, lapsed=lapsed, ended=ended, by_a_look=by_a_look):
        sites.set_risk(conn, about.site_id, problem.code, problem.message)
        announce.certificate_at_risk(conn, about, problem)


def lapsed(conn: Connection, about: About) -> None:
    """The certificate has expired: the cause, where one is known, is told once more."""
    code, message = sites.lock_risk(conn, about.site_id)
    if (known := _known(code)) is not None:
        announce.certificate_at_risk(conn, about, Problem(known, message or ""))


def over(conn: Connection, about: About, ended: Collection[Code] | None = None) -> None:
    """Nothing stands in the way any more; told where something did.

    Args:
        conn: the caller's transaction.
        about: the site, and the job that has renewed it.
        ended: end only these causes; None: any, since there is a new certificate.
    """
    code, message = sites.lock_risk(conn, about.site_id)
    if (code, message) == (None, None) or (ended is not None and _known(code) not in ended):
        return
    sites.set_risk(conn, about.site_id, None, None)
    announce.certificate_at_risk(conn, about, None)


def _known(code: str | None) -> Code | None:
    return Code(code) if code is not None and code in Code.__members__ else None
