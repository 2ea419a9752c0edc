"""Why a server does not show a certificate: it is asked itself, by SSH, read only and without a lease.

Its disk; and, where the way to its port 443 is closed to us, also what it shows at its own addresses.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db import pool
from db.pool import Pool, transaction
from db.watch import WatchedSite
from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.lifetime.renewal import window_of
from workers.core.lifetime.risk import SEEN_BY_SSH, SEEN_ON_DISK
from workers.core.lifetime.watch import Looked, Loss, Sight, explain, sight_of
from workers.core.model import Certificate, Problem, Server
from workers.core.preflight.observed import Handshake
from workers.core.preflight.server_facts import ServerFacts, parse_server_facts
from workers.edges.errors import EdgeError
from workers.runner.wire import as_seen_there, is_closed_to_us
from workers.settings import Settings
from workers.watch import findings
from workers.watch.asking import agent_of

_LOOKS_THAT_AGREE = 2
"""Before an active site is called none: files that certbot is replacing at this moment come back."""

_SILENCE_COUNTS_FOR = timedelta(minutes=10)
_SHARE_OF_LIFETIME = 1 / 720


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server that was asked says.

    Attributes:
        facts: of its disk.
        seen_there: for handshakes to which the way was closed, what it shows itself.
    """

    facts: ServerFacts
    seen_there: Mapping[Handshake, Handshake]


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
        closed = [shake for _, shown in looks for shake in shown or () if is_closed_to_us(shake)]
        answer = (self._silent_since(looks[0][0]) if dark else None) or self._ask(server, names, closed)
        with transaction(self._pool) as conn:
            real_now = pool.real_now(conn)
        for site, shown in looks:
            if isinstance(answer, EdgeError):
                self._conclude_silence(site, answer, now, shown)
            elif shown is None:
                findings.over(self._pool, site, SEEN_BY_SSH)
            else:
                seen = [answer.seen_there.get(shake, shake) for shake in shown]
                self._conclude(site, seen, _on_disk(answer.facts, site.names[0]), now, real_now)

    def _silent_since(self, site: WatchedSite) -> EdgeError | None:
        """What asking the site's server has met lately."""
        lifetime = site.certificate.not_after - site.certificate.not_before
        counts_for = min(_SILENCE_COUNTS_FOR, lifetime * _SHARE_OF_LIFETIME)
        with self._lock:
            asked_at, error = self._silent.get(site.server.key, (0.0, None))
        return error if time.monotonic() - asked_at < counts_for.total_seconds() else None

    def _ask(
        self, server: Server, cert_names: Sequence[str], closed: Sequence[Handshake]
    ) -> _Answer | EdgeError:
        try:
            with agent_of(server, self._config) as agent:
                facts = parse_server_facts(agent.inspect(cert_names))
                return _Answer(facts, {shake: as_seen_there(agent, shake) for shake in closed})
        except EdgeError as error:
            self._remember(server, error)
            return error

    def _remember(self, server: Server, error: EdgeError) -> None:
        oldest = time.monotonic() - _SILENCE_COUNTS_FOR.total_seconds()
        with self._lock:
            self._silent = {key: said for key, said in self._silent.items() if said[0] > oldest}
            self._silent[server.key] = (time.monotonic(), error)

    def _conclude_silence(
        self, site: WatchedSite, error: EdgeError, now: datetime, shown: Sequence[Handshake] | None
    ) -> None:
        """Before the window opens nothing is renewed, so a server that is off puts nothing at risk yet.

        Told at the first such look: a handshake and three tries of SSH have then waited for half a minute.
        """
        if shown is None:
            return
        findings.count_wrong(self._pool, site, now, gone=False)
        if window_of(site.certificate).is_open(now):
            problem = Problem(error.code, error.message, evidence=error.evidence)
            findings.at_risk(self._pool, site, problem, SEEN_BY_SSH)

    def _conclude(
        self,
        site: WatchedSite,
        shakes: Sequence[Handshake],
        disk: Certificate | None,
        now: datetime,
        real_now: datetime,
    ) -> None:
        if sight_of(site.certificate, site.names, shakes, real_now) is Sight.AS_KNOWN:
            findings.as_known(self._pool, [site], now)
            findings.over(self._pool, site, SEEN_BY_SSH)
            return
        match explain(Looked(site.certificate, site.names, site.server.host), shakes, disk, real_now):
            case Certificate() as renewed:
                findings.renewed(self._pool, self._config.acme_directory_url, site, renewed)
            case _ if site.looks_wrong == 0:
                findings.count_wrong(self._pool, site, now, gone=False)
            case Problem() as problem:
                findings.count_wrong(self._pool, site, now, gone=False)
                findings.at_risk(self._pool, site, problem, SEEN_ON_DISK)
            case Loss.GONE:
                if findings.count_wrong(self._pool, site, now, gone=True) >= _LOOKS_THAT_AGREE:
                    findings.gone(self._pool, site)


def _on_disk(facts: ServerFacts, cert_name: str) -> Certificate | None:
    pem = facts.certificates.get(cert_name)
    try:
        return certificate_from_pem(pem.encode()) if pem else None
    except CertificateUnreadableError:
        return None
