"""Where public DNS leads: before a renewal is due, do visitors and the CA still find the site?"""

from collections.abc import Sequence
from functools import partial

from db.pool import Pool
from db.watch import WatchedSite
from workers.core.lifetime.public_view import judge_public
from workers.core.lifetime.risk import SEEN_IN_DNS
from workers.core.model import Server
from workers.core.preflight.cloudflare import is_cloudflare
from workers.core.preflight.model import own_addresses
from workers.core.preflight.server_facts import parse_server_facts
from workers.edges.errors import EdgeError
from workers.edges.web.dns import Resolver
from workers.edges.web.tls import Target, handshake_all
from workers.runner.wire import HTTPS_PORT, address_of
from workers.settings import Settings
from workers.watch import findings
from workers.watch.asking import agent_of

_DNS_SECONDS = 3.0
_HANDSHAKE_SECONDS = 4.0


def look(db_pool: Pool, resolver: Resolver, config: Settings, sites: Sequence[WatchedSite]) -> None:
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
    shakes = handshake_all(targets, ca_file=config.tls_ca_file, timeout_seconds=_HANDSHAKE_SECONDS)
    for site in sites:
        of_site = [shake for shake in shakes if shake.server_name in site.names]
        judge = partial(judge_public, site.names, site.certificate, answers=answers, shakes=of_site)
        view = judge(own_addresses=own[site.site_id])
        if view.problem is None and site.at_risk_code in SEEN_IN_DNS - view.over:
            # It was told and may be over: an address that was in doubt may be another of the server's.
            view = judge(own_addresses={*own[site.site_id], *_addresses_there(site.server, config)})
        if view.problem is not None:
            findings.at_risk(db_pool, site, view.problem, view.over)
        elif site.at_risk_code in view.over:
            findings.over(db_pool, site, view.over)


def _addresses_there(server: Server, config: Settings) -> Sequence[str]:
    """The addresses that the server itself knows of, as a job's preflight has them; none where it lets nobody in."""
    try:
        with agent_of(server, config) as agent:
            return own_addresses(parse_server_facts(agent.inspect(())).addresses)
    except EdgeError:
        return ()
