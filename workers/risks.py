"""What stands in the way of a certificate's renewal, told once per cause; the caller's transaction."""

from contracts.codes import Code
from db import sites
from db.pool import Connection
from workers import announce
from workers.announce import About
from workers.core.lifetime.risk import to_tell
from workers.core.model import Problem


def found(conn: Connection, about: About, problem: Problem, *, lapsed: bool = False) -> None:
    """Keep the cause with the site, and tell it where it is news."""
    told, _ = sites.lock_risk(conn, about.site_id)
    known = Code(told) if told is not None and told in Code.__members__ else None
    if to_tell(known, problem, lapsed=lapsed):
        sites.set_risk(conn, about.site_id, problem.code, problem.message)
        announce.certificate_at_risk(conn, about, problem)


def lapsed(conn: Connection, about: About) -> None:
    """The certificate has expired: the cause, where one is known, is told once more."""
    code, message = sites.lock_risk(conn, about.site_id)
    if code is not None and code in Code.__members__:
        announce.certificate_at_risk(conn, about, Problem(Code(code), message or ""))


def over(conn: Connection, about: About) -> None:
    """Nothing stands in the way any more; told where something did."""
    if sites.lock_risk(conn, about.site_id) != (None, None):
        sites.set_risk(conn, about.site_id, None, None)
        announce.certificate_at_risk(conn, about, None)
