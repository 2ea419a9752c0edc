"""The preflight: everything that can be known before an order, and costs none of the CA's limits (DESIGN B.6).

What was gathered goes through an ordered tuple of small checks. Of several failures the first in that order is the
one that the job waits on: what the server's admin has to mend comes first, because without it no name can get
anywhere (and its code backs off differently); then DNS, since everything behind a wrong address is another server's;
then Cloudflare and the ports; then what is served. All failures are told.
"""

from collections.abc import Sequence

from contracts.codes import Code
from workers.core.model import Authenticator, Problem
from workers.core.preflight.cloudflare import is_cloudflare, served_by_cloudflare
from workers.core.preflight.model import Check, CheckResult, Observations, Preflight, Verdict
from workers.core.preflight.names import (
    check_caa,
    check_challenge,
    check_cloudflare,
    check_dns,
    check_points_here,
    check_port_80,
    check_port_443,
    check_redirects,
)
from workers.core.preflight.observed import Probe, ProbeError
from workers.core.preflight.reach import judge_addresses
from workers.core.preflight.server import (
    check_certbot,
    check_certbot_lock,
    check_certbot_plugin,
    check_clock,
    check_config_readable,
    check_disk,
    check_lineage,
    check_memory,
    check_nginx,
    check_nginx_config,
    check_permission,
    check_port_80_owner,
    check_vhost,
)

__all__ = ["CHECKS", "CheckResult", "Observations", "Preflight", "Verdict", "judge", "judge_redirect"]

CHECKS: tuple[Check, ...] = (
    check_permission,
    check_certbot,
    check_certbot_plugin,
    check_nginx,
    check_nginx_config,
    check_disk,
    check_clock,
    check_lineage,
    check_vhost,
    check_config_readable,
    check_port_80_owner,
    check_memory,
    check_certbot_lock,
    check_dns,
    check_points_here,
    check_caa,
    check_cloudflare,
    check_port_80,
    check_port_443,
    check_redirects,
    check_challenge,
)
"""In the order in which a failure counts."""


def judge(o: Observations) -> Preflight:
    """Judge everything that was gathered.

    Args:
        o: the observations.

    Returns:
        Every check's result and what follows. Only a sure failure blocks.
    """
    results = tuple(check(o) for check in CHECKS)
    webroots = _webroots(o)
    proxied = _proxied(o)
    return Preflight(
        results=results,
        blocking=_blocking(results),
        authenticator=Authenticator.WEBROOT if webroots else Authenticator.NGINX,
        webroots=webroots,
        proxied=proxied,
        redirect_now=not proxied,
    )


def _blocking(results: Sequence[CheckResult]) -> Problem | None:
    bad = [result for result in results if result.verdict is Verdict.FAIL]
    if not bad:
        return None
    first, *others = bad
    assert first.code is not None
    return Problem(
        first.code,
        first.message,
        first.names,
        evidence=tuple(result.message for result in others),
        beside=frozenset(result.code for result in others if result.code is not None),
    )


def _webroots(o: Observations) -> tuple[str, ...]:
    """The directory of every name; empty unless each name's file came from its own, at each address that answered."""
    reaches = judge_addresses(o)
    paths: list[str] = []
    for name in o.names:
        root = o.roots.get(name)
        fetched = any(probe.matches for probe in o.probes if probe.name == name)
        failed = any(reach.verdict is Verdict.FAIL for reach in reaches if reach.name == name)
        if root is None or root.path is None or not fetched or failed:
            return ()
        paths.append(root.path)
    return tuple(paths)


def _proxied(o: Observations) -> tuple[str, ...]:
    return tuple(n for n in o.names if n in o.dns and any(o.is_proxied(n, a) for a in o.dns[n].addresses))


def judge_redirect(probes: Sequence[Probe]) -> Problem | None:
    """Judge what visitors get once a redirect to HTTPS is in.

    Args:
        probes: a request through each public name, its redirects followed; the text is of no interest.

    Returns:
        CLOUDFLARE_FLEXIBLE_LOOP or REDIRECT_LOOP with the names, or None where no request went in a circle.
    """
    loops = [p for p in probes if p.error in {ProbeError.LOOP, ProbeError.TOO_MANY_REDIRECTS}]
    behind = [p for p in loops if is_cloudflare(p.address) or served_by_cloudflare(p.headers)]
    bad = behind or loops
    if not bad:
        return None
    names = tuple(dict.fromkeys(p.name for p in bad))
    if behind:
        message = (
            f"Visitors of {', '.join(names)} go in a circle: Cloudflare speaks HTTP to the server (Flexible), which redirects "
            "to HTTPS. In Cloudflare set SSL/TLS to Full (strict): the server has a certificate now."
        )
        return Problem(Code.CLOUDFLARE_FLEXIBLE_LOOP, message, names)
    message = f"Visitors of {', '.join(names)} go in a circle ({bad[0].url}). Remove the redirect that leads back to itself."
    return Problem(Code.REDIRECT_LOOP, message, names)
