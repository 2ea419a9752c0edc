"""Where public DNS leads: before a renewal is due, does the CA still find the site?"""

from collections.abc import Sequence
from pathlib import Path

from db.pool import Pool
from db.watch import WatchedSite
from workers.core.lifetime.risk import SEEN_IN_DNS
from workers.core.lifetime.watch import PublicView, judge_public
from workers.core.model import Problem
from workers.core.preflight.cloudflare import is_cloudflare
from workers.edges.web.dns import Resolver
from workers.edges.web.tls import Target, handshake_all
from workers.runner.wire import HTTPS_PORT, address_of
from workers.watch import findings

_DNS_SECONDS = 3.0
_HANDSHAKE_SECONDS = 4.0


def look(db_pool: Pool, resolver: Resolver, ca_file: Path | None, sites: Sequence[WatchedSite]) -> None:
    """Look the sites' names up, ask the addresses that are not known to be theirs, and tell what is wrong or over."""
    answers = resolver.look_up([name for site in sites for name in site.names], deadline_seconds=_DNS_SECONDS)
    own = {
        site.site_id: {address_of(site.server.host) or "", *site.server.public_addresses} for site in sites
    }
    targets = [
        Target(address, HTTPS_PORT, name)
        for site in sites
        for name in site.names
        for address in answers[name].addresses
        if address not in own[site.site_id] and not is_cloudflare(address)
    ]
    shakes = handshake_all(targets, ca_file=ca_file, timeout_seconds=_HANDSHAKE_SECONDS)
    for site in sites:
        of_site = [shake for shake in shakes if shake.server_name in site.names]
        verdict = judge_public(site.names, site.certificate, own[site.site_id], answers, of_site)
        if isinstance(verdict, Problem):
            findings.at_risk(db_pool, site, verdict)
        elif verdict is PublicView.LEADS_HERE:
            findings.over(db_pool, site, SEEN_IN_DNS)
