"""The watch: looks at what every active site really serves, and tells what it finds (part of the role scheduler).

A look is a handshake with SNI for each name, to the site's server and never through a proxy; while the renewal window is
open, also where public DNS leads. Only what is not as known costs more than that: a second look soon after, then one at
the server's disk by SSH, read only and without a lease.
"""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from contracts.codes import Code
from db import ca_memory, pool, sites, watch
from db.pool import Connection, DatabaseError, Pool, transaction
from db.watch import WatchedSite
from workers import announce, logs, risks
from workers.announce import About
from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.deciding import lifecycle
from workers.core.deciding.lifecycle import StatusEvent
from workers.core.lifetime.renewal import window_of
from workers.core.lifetime.watch import (
    Looked,
    Loss,
    Sight,
    explain,
    judge_public,
    next_look_at,
    schedule,
    sight_of,
)
from workers.core.limits.costs import exact_set_hash
from workers.core.model import Certificate, Fence, JobState, Problem, Server, SslStatus
from workers.core.preflight.cloudflare import is_cloudflare
from workers.core.preflight.observed import Handshake
from workers.core.preflight.server_facts import parse_server_facts
from workers.edges.errors import EdgeError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection
from workers.edges.web.dns import Resolver
from workers.edges.web.tls import Target, handshake_all
from workers.runner.wire import HTTPS_PORT, address_of
from workers.settings import Settings

log = logs.get(__name__)

BATCH = 50
_POLL_SECONDS = 1.0
_HOLD_SECONDS = 60.0
_HANDSHAKE_SECONDS = 4.0
_DNS_SECONDS = 3.0
_SSH_AT_ONCE = 4
_TROUBLE_PAUSE_SECONDS = 5.0
_LOOKS_THAT_AGREE = 2
"""Before an active site is called none: files that certbot is replacing at this moment come back."""

_OURS = frozenset({Code.NOT_SERVED, Code.NGINX_RELOAD_FAILED})
"""Causes that a look finds and a look ends; every other is over with a new certificate."""


class Watch:
    """Looks, until `stop` is set."""

    def __init__(self, db_pool: Pool, config: Settings) -> None:
        self._pool = db_pool
        self._config = config
        self._resolver = Resolver(
            None if config.dns_servers is None else [(one.host, one.port) for one in config.dns_servers]
        )

    def run(self, stop: threading.Event) -> None:
        """Look at what is due; trouble with the database is waited out."""
        while not stop.wait(_POLL_SECONDS):
            try:
                while self.round() == BATCH and not stop.is_set():
                    pass
            except DatabaseError as error:
                log.warning("watch.trouble", error=str(error).strip())
                stop.wait(_TROUBLE_PAUSE_SECONDS)
            except Exception:
                # What one look meets must not end all others; it is due again after its hold.
                log.exception("watch.internal_error")
                stop.wait(_TROUBLE_PAUSE_SECONDS)

    def round(self) -> int:
        """Look at the sites that are due, at most `BATCH`; how many."""
        with transaction(self._pool) as conn:
            due = watch.claim_looks(conn, BATCH, _HOLD_SECONDS)
            now, real_now = pool.now(conn), pool.real_now(conn)
        if not due:
            return 0
        shown = self._shown(due)
        as_known: list[tuple[str, datetime | None]] = []
        doubtful: list[WatchedSite] = []
        for site in due:
            match sight_of(site.certificate, site.names, shown[site.site_id], real_now):
                case Sight.AS_KNOWN:
                    as_known.append((site.site_id, _next(site, now)))
                    self._well(site)
                case Sight.RENEWED:
                    found = shown[site.site_id][0].certificate
                    assert found is not None
                    self._renewed(site, found)
                case Sight.WRONG:
                    doubtful.append(site)
        if as_known:
            with transaction(self._pool) as conn:
                watch.plan_looks(conn, as_known)
        self._look_closer(doubtful, shown, now)
        self._look_from_outside([site for site in due if window_of(site.certificate).is_open(now)])
        return len(due)

    def _shown(self, due: Sequence[WatchedSite]) -> dict[str, list[Handshake]]:
        targets = [Target(_address(site.server), HTTPS_PORT, name) for site in due for name in site.names]
        shakes = iter(self._handshakes(targets))
        return {site.site_id: [next(shakes) for _ in site.names] for site in due}

    def _handshakes(self, targets: Sequence[Target]) -> tuple[Handshake, ...]:
        return handshake_all(targets, ca_file=self._config.tls_ca_file, timeout_seconds=_HANDSHAKE_SECONDS)

    # --- what is as it should be ------------------------------------------------------------------------------------

    def _well(self, site: WatchedSite) -> None:
        if site.at_risk_code in _OURS:
            with transaction(self._pool) as conn:
                risks.over(conn, About(site.site_id))

    def _renewed(self, site: WatchedSite, found: Certificate) -> None:
        """The server's own timer has renewed: the certificate that visitors are shown is the site's from now on."""
        with transaction(self._pool) as conn:
            before = sites.lock(conn, site.site_id)
            known = lifecycle.own_certificate_of(before)
            at_work = before.job is not None and before.job.state is JobState.RUNNING
            if known is None or known.serial != site.certificate.serial or at_work:
                return  # a job is about to see the same, or a command has moved the site
            if before.ssl_status not in {SslStatus.ACTIVE, SslStatus.EXPIRED}:
                return
            plan = schedule(found, pool.now(conn), random.random())
            sites.set_certificate(conn, site.site_id, found, site.server.key, plan)
            ca_memory.note_seen(
                conn, self._config.acme_directory_url, exact_set_hash(found.names), found.not_before
            )
            about = About(site.site_id)
            announce.certificate_renewed(
                conn, about, by="server", previous_expiry=known.not_after, ssl_expiry=found.not_after
            )
            risks.over(conn, about)
            if before.ssl_status is SslStatus.EXPIRED:
                announce.status_changed(conn, about, previous=before.ssl_status)
        log.info("watch.renewed_by_server", site=site.site_id, not_after=found.not_after.isoformat())

    # --- what is not ------------------------------------------------------------------------------------------------

    def _look_closer(
        self, doubtful: Sequence[WatchedSite], shown: dict[str, list[Handshake]], now: datetime
    ) -> None:
        """A first wrong look is looked at again; at the second the server's disk is asked."""
        again = [site for site in doubtful if site.looks_wrong > 0]
        for site in doubtful:
            if site not in again:
                self._count(site, now, gone=False)
        if not again:
            return
        with ThreadPoolExecutor(min(_SSH_AT_ONCE, len(again)), thread_name_prefix="watch-ssh") as workers:
            for site, found in zip(again, workers.map(self._ask_server, again), strict=True):
                self._conclude(site, shown[site.site_id], found, now)

    def _ask_server(self, site: WatchedSite) -> Certificate | EdgeError | None:
        """The lineage's certificate on the server's disk; None: there is none."""
        try:
            connection = SshConnection.connect(
                site.server,
                key_files=self._config.ssh_private_key_file,
                known_hosts_file=self._config.ssh_known_hosts_file,
            )
            try:
                agent = ServerAgent(connection, site.server, Fence(0))
                facts = parse_server_facts(agent.inspect([site.names[0]]))
            finally:
                connection.close()
        except EdgeError as error:
            return error
        pem = facts.certificates.get(site.names[0])
        try:
            return certificate_from_pem(pem.encode()) if pem else None
        except CertificateUnreadableError:
            return None

    def _conclude(
        self,
        site: WatchedSite,
        shakes: Sequence[Handshake],
        found: Certificate | EdgeError | None,
        now: datetime,
    ) -> None:
        if isinstance(found, EdgeError):
            self._count(site, now, gone=False)
            # Before the window opens nothing is renewed, so a server that is off puts nothing at risk yet.
            if window_of(site.certificate).is_open(now):
                self._tell(site, Problem(found.code, found.message, evidence=found.evidence))
            return
        with transaction(self._pool) as conn:
            real_now = pool.real_now(conn)
        verdict = explain(Looked(site.certificate, site.names, site.server.host), shakes, found, real_now)
        match verdict:
            case Certificate():
                self._renewed(site, verdict)
            case Problem():
                self._count(site, now, gone=False)
                self._tell(site, verdict)
            case Loss.GONE:
                if self._count(site, now, gone=True) >= _LOOKS_THAT_AGREE:
                    self._gone(site)

    def _count(self, site: WatchedSite, now: datetime, *, gone: bool) -> int:
        """Plan the next look soon; how many in a row have found the certificate gone from the server."""
        at = next_look_at(site.certificate, now, random.random(), doubt=True)
        with transaction(self._pool) as conn:
            return watch.count_wrong_look(conn, site.site_id, at, gone=gone)[1]

    def _tell(self, site: WatchedSite, problem: Problem) -> None:
        with transaction(self._pool) as conn:
            risks.found(conn, About(site.site_id), problem, lapsed=site.status is SslStatus.EXPIRED)

    def _gone(self, site: WatchedSite) -> None:
        """Two looks in a row found the lineage gone: the site has no certificate any more."""
        problem = Problem(
            Code.LINEAGE_BROKEN, f"The certificate's files were deleted from {site.server.host}.", site.names
        )
        with transaction(self._pool) as conn:
            before = sites.lock(conn, site.site_id)
            live = before.job is not None and before.job.state in lifecycle.LIVE
            if live or before.ssl_status is not SslStatus.ACTIVE:
                return
            lifecycle.advance(before.ssl_status, StatusEvent.GONE)
            _forget(conn, site.site_id, problem)
            announce.status_changed(conn, About(site.site_id), previous=before.ssl_status, problem=problem)
        log.warning("watch.gone", site=site.site_id, server=site.server.key)

    # --- where public DNS leads -------------------------------------------------------------------------------------

    def _look_from_outside(self, watched: Sequence[WatchedSite]) -> None:
        """Before a renewal is due: does the CA still find the site?"""
        if not watched:
            return
        answers = self._resolver.look_up(
            [name for site in watched for name in site.names], deadline_seconds=_DNS_SECONDS
        )
        targets: list[Target] = []
        for site in watched:
            own = _own_addresses(site.server)
            targets += [
                Target(address, HTTPS_PORT, name)
                for name in site.names
                for address in answers[name].addresses
                if address not in own and not is_cloudflare(address)
            ]
        shakes = self._handshakes(targets)
        for site in watched:
            problem = judge_public(site.names, site.certificate, _own_addresses(site.server), answers, shakes)
            if problem is not None:
                self._tell(site, problem)


def _forget(conn: Connection, site_id: str, problem: Problem) -> None:
    sites.set_removed(conn, site_id)
    sites.set_error(conn, site_id, problem.code, problem.message)


def _next(site: WatchedSite, now: datetime) -> datetime | None:
    """The next look; none for a certificate that lapsed a whole lifetime ago."""
    known = site.certificate
    if now > known.not_after + (known.not_after - known.not_before):
        return None
    return next_look_at(known, now, random.random())


def _address(server: Server) -> str:
    """Where the server itself is asked; a host that does not resolve is asked by its name, which then fails."""
    return address_of(server.host) or server.host


def _own_addresses(server: Server) -> set[str]:
    return {_address(server), *server.public_addresses}
