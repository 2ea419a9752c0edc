"""Why a server does not show a certificate: its disk is asked, by SSH, read only and without a lease."""

import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from db import pool
from db.pool import Pool, transaction
from db.watch import WatchedSite
from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.lifetime.renewal import window_of
from workers.core.lifetime.risk import SEEN_BY_SSH
from workers.core.lifetime.watch import Looked, Loss, explain
from workers.core.model import Certificate, Fence, Problem, Server
from workers.core.preflight.observed import Handshake
from workers.core.preflight.server_facts import ServerFacts, parse_server_facts
from workers.edges.errors import EdgeError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection
from workers.settings import Settings
from workers.watch import findings

_LOOKS_THAT_AGREE = 2
"""Before an active site is called none: files that certbot is replacing at this moment come back."""

_SILENCE_COUNTS_FOR = timedelta(minutes=10)
_SHARE_OF_LIFETIME = 1 / 720


class DiskLook:
    """Looks at disks. A server that shows nothing and lets nobody in is asked once for all of its sites."""

    def __init__(self, db_pool: Pool, config: Settings) -> None:
        self._pool = db_pool
        self._config = config
        self._lock = threading.Lock()
        self._silent: dict[str, tuple[float, EdgeError]] = {}

    def look(self, looks: Sequence[tuple[WatchedSite, Sequence[Handshake] | None]], now: datetime) -> None:
        """Ask one server about its sites.

        Args:
            looks: the sites, and what each showed; None: what it should, only whether the server lets us in is asked.
            now: when they were seen, by the schedule's clock, UTC.
        """
        server, names = looks[0][0].server, [site.names[0] for site, _ in looks]
        dark = all(shown and not any(shake.certificate for shake in shown) for _, shown in looks)
        facts = (self._silent_since(looks[0][0]) if dark else None) or self._ask(server, names)
        for site, shown in looks:
            if shown is not None:
                self._conclude(site, shown, facts, now)
            elif isinstance(facts, ServerFacts):
                findings.over(self._pool, site, SEEN_BY_SSH)

    def _silent_since(self, site: WatchedSite) -> EdgeError | None:
        """What asking the site's server has met lately."""
        lifetime = site.certificate.not_after - site.certificate.not_before
        counts_for = min(_SILENCE_COUNTS_FOR, lifetime * _SHARE_OF_LIFETIME)
        with self._lock:
            asked_at, error = self._silent.get(site.server.key, (0.0, None))
        return error if time.monotonic() - asked_at < counts_for.total_seconds() else None

    def _ask(self, server: Server, cert_names: Sequence[str]) -> ServerFacts | EdgeError:
        try:
            connection = SshConnection.connect(
                server,
                key_files=self._config.ssh_private_key_file,
                known_hosts_file=self._config.ssh_known_hosts_file,
            )
            try:
                return parse_server_facts(ServerAgent(connection, server, Fence(0)).inspect(cert_names))
            finally:
                connection.close()
        except EdgeError as error:
            self._remember(server, error)
            return error

    def _remember(self, server: Server, error: EdgeError) -> None:
        oldest = time.monotonic() - _SILENCE_COUNTS_FOR.total_seconds()
        with self._lock:
            self._silent = {key: said for key, said in self._silent.items() if said[0] > oldest}
            self._silent[server.key] = (time.monotonic(), error)

    def _conclude(
        self, site: WatchedSite, shakes: Sequence[Handshake], facts: ServerFacts | EdgeError, now: datetime
    ) -> None:
        if isinstance(facts, EdgeError):
            findings.count_wrong(self._pool, site, now, gone=False)
            # Before the window opens nothing is renewed, so a server that is off puts nothing at risk yet.
            if window_of(site.certificate).is_open(now):
                findings.at_risk(
                    self._pool, site, Problem(facts.code, facts.message, evidence=facts.evidence)
                )
            return
        with transaction(self._pool) as conn:
            real_now = pool.real_now(conn)
        looked = Looked(site.certificate, site.names, site.server.host)
        match explain(looked, shakes, _on_disk(facts, site.names[0]), real_now):
            case Certificate() as renewed:
                findings.renewed(self._pool, self._config.acme_directory_url, site, renewed)
            case Problem() as problem:
                findings.count_wrong(self._pool, site, now, gone=False)
                findings.at_risk(self._pool, site, problem, SEEN_BY_SSH)
            case Loss.GONE:
                if findings.count_wrong(self._pool, site, now, gone=True) >= _LOOKS_THAT_AGREE:
                    findings.gone(self._pool, site)


def _on_disk(facts: ServerFacts, cert_name: str) -> Certificate | None:
    pem = facts.certificates.get(cert_name)
    try:
        return certificate_from_pem(pem.encode()) if pem else None
    except CertificateUnreadableError:
        return None
