"""Whether a name behind Cloudflare may be redirected to HTTPS by its server, and what visitors get (DESIGN B.5).

Cloudflare reaches the server over HTTP, whatever the visitor used (Flexible), or as the visitor came (Full, strict). In
the first case a redirect on the server goes in a circle. So before one is put in, the server is asked through
Cloudflare, over HTTPS, for a folder without the slash at its end: nginx answers with a redirect to the same with a slash,
whose scheme is the one that nginx was spoken to in. Nothing is changed for that, and no visitor meets a circle.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from contracts.codes import Code
from workers.core.model import Problem
from workers.core.preflight.judge import judge_redirect
from workers.core.preflight.observed import Probe


class Origin(StrEnum):
    """How the proxy reaches the server when a visitor uses HTTPS."""

    HTTPS = "https"
    HTTP = "http"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RedirectPlan:
    """What follows.

    Attributes:
        add: names whose redirect may be put in, in the order of the certificate.
        left_out: names that stay without one although nothing is known to be wrong.
        problem: what has to be mended, told although the certificate is served.
    """

    add: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    problem: Problem | None = None


def origin_of(probe: Probe) -> Origin:
    """Read the answer to the question for a folder."""
    target = urlsplit(probe.headers.get("location", ""))
    asked = urlsplit(probe.url)
    if (
        probe.error is not None
        or probe.status not in {301, 302, 307, 308}
        or target.hostname != asked.hostname
    ):
        return Origin.UNKNOWN
    if target.scheme == "http":
        # Also where Cloudflare itself sends visitors from HTTPS to HTTP (mode Off): a redirect back would be a circle.
        return Origin.HTTP
    return Origin.HTTPS if target.path == f"{asked.path}/" else Origin.UNKNOWN


def plan_redirect(
    names: Sequence[str], proxied: Collection[str], *, visits: Sequence[Probe], folders: Sequence[Probe]
) -> RedirectPlan:
    """Decide the second step of an issue, in which the redirect is put in where it does no harm.

    Args:
        names: of the certificate.
        proxied: those behind Cloudflare.
        visits: a visit of `http://NAME/` through public DNS, redirects followed.
        folders: the answer to the question for a folder over HTTPS, for proxied names that could be asked.
    """
    circle = judge_redirect(visits)
    if circle is not None:
        return RedirectPlan(problem=circle)
    origins = {probe.name: origin_of(probe) for probe in folders}
    flexible = tuple(n for n in names if n in proxied and origins.get(n) is Origin.HTTP)
    on_https = {visit.name for visit in visits if visit.error is None and visit.url.startswith("https:")}
    without = tuple(n for n in names if n not in on_https and n not in flexible)
    add = tuple(n for n in without if n not in proxied or origins.get(n) is Origin.HTTPS)
    return RedirectPlan(
        add=add,
        left_out=tuple(n for n in without if n not in add),
        problem=_flexible(flexible) if flexible else None,
    )


def _flexible(names: tuple[str, ...]) -> Problem:
    message = (
        f"Cloudflare speaks HTTP to the server for {', '.join(names)} (Flexible), although the server has a certificate now."
        " A redirect to HTTPS on the server would go in a circle, so none was put in. In Cloudflare set SSL/TLS to Full"
        " (strict)."
    )
    return Problem(Code.CLOUDFLARE_FLEXIBLE_LOOP, message, names)
