"""Gathering what the preflight judges: the server's facts, DNS, the CA's names, and what every address serves (B.6).

What does not depend on each other is asked at the same time, and all of it together ends within CERTPILOT_PREFLIGHT_SECONDS,
whoever is slow: what has not been said by then is not known, and nothing that is not known blocks an order. DNS has 1.6 s (two
tries). The fetching of the probe files has 1.3 s at the least, so that a lost packet does not look like a firewall; where the
server's facts come too late to place files before that, the names are asked without, and certbot's nginx plugin is used.
"""

import ipaddress
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from workers import logs
from workers.core.model import Server
from workers.core.nginx.challenge import ChallengeRoot, challenge_root
from workers.core.nginx.config import NginxConfig, parse_nginx_config
from workers.core.preflight.caa import ca_identities
from workers.core.preflight.judge import Observations
from workers.core.preflight.observed import NameAnswer
from workers.core.preflight.server_facts import ServerFacts, parse_server_facts
from workers.edges.errors import AgentBusyError, EdgeError, NoAnswerInTimeError, StaleFenceError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.agent_answer import PlacedProbe
from workers.edges.web.acme_directory import fetch_caa_identities
from workers.edges.web.dns import Resolver
from workers.edges.web.http_probe import Prober, ProbeRequest
from workers.runner.flights import Flight
from workers.settings import Settings

log = logs.get(__name__)

DNS_SECONDS = 1.6
LEAST_FETCH_SECONDS = 1.3
MOST_FETCH_SECONDS = 2.5
_PLACING_SECONDS = 0.3
_JUDGING_SECONDS = 0.1
_QUESTIONS = 4  # of one preflight: DNS, the address of the server, its facts, taking the probe away
_ASK_CA_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _ServerSide:
    """What the server said, and when it was asked."""

    facts: ServerFacts
    nginx: NginxConfig
    asked_at: datetime
    answered_at: datetime


class CaNames:
    """By which names CAA records call the CA: known, or read from its directory once a process.

    The preflight never waits for it: until it is known, CAA records that name a CA are no reason to stop.
    """

    def __init__(self, config: Settings, pool: ThreadPoolExecutor) -> None:
        self._config, self._pool = config, pool
        self._known = ca_identities(config.acme_directory_url)
        self._asking: Future[tuple[str, ...] | None] | None = None
        self._asked_at = 0.0

    def ask(self) -> None:
        """See to it that somebody has asked; again a minute after it brought nothing."""
        if self._known is None:
            over = self._asking is not None and self._asking.done()
            if over and time.monotonic() - self._asked_at < _ASK_CA_AGAIN_SECONDS:
                return
            if self._asking is None or over:
                self._asked_at = time.monotonic()
                url, ca_file = self._config.acme_directory_url, self._config.tls_ca_file
                self._asking = self._pool.submit(fetch_caa_identities, url, ca_file=ca_file)

    def known(self) -> tuple[str, ...] | None:
        """The names as far as they are known by now."""
        asking = self._asking
        if self._known is None and asking is not None and asking.done():
            self._known = asking.result()
        return self._known


class Observer:
    """Asks everybody. Shared by the threads of a runner."""

    def __init__(self, config: Settings) -> None:
        servers = config.dns_servers
        self._resolver = Resolver(None if servers is None else [(one.host, one.port) for one in servers])
        self._seconds = config.preflight_seconds
        self.prober = Prober(self._resolver)
        # Twice what the threads of actors and poller can ask at the same moment, for look-ups that hang.
        at_once = 2 * _QUESTIONS * 2 * config.runner_threads
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="look-up")
        self._ca_names = CaNames(config, self._pool)

    def observe(self, flight: Flight) -> Observations:
        """Gather; nothing is spent, and nothing stays on the server."""
        agent, job = flight.agent, flight.job
        assert agent is not None
        deadline = _Deadline(self._seconds - _JUDGING_SECONDS)
        self._ca_names.ask()
        dns = self._pool.submit(self._resolver.look_up, job.names, deadline_seconds=DNS_SECONDS)
        ssh_addresses = self._pool.submit(_addresses_of, job.server)
        # Why the server has not renewed matters only where we do: its certbot's logs are not read for every preflight.
        overdue = job.domain if job.is_own_renewal else None
        asked = self._pool.submit(_inspect, agent, job.domain, overdue, deadline)
        wait_for([asked], deadline.left(but=LEAST_FETCH_SECONDS + _PLACING_SECONDS))
        early = _roots_of(asked.result(), job.names) if asked.done() else {}
        answers = dns.result()
        token = new_token()
        with self._placed(flight, token, early, deadline) as (usable, bodies):
            requests = _requests(job.names, answers, token, bodies)
            seconds = min(max(LEAST_FETCH_SECONDS, deadline.left()), MOST_FETCH_SECONDS)
            probes = self.prober.fetch_all(requests, deadline_seconds=seconds)
        server_side = asked.result()
        return Observations(
            names=job.names,
            facts=server_side.facts,
            nginx=server_side.nginx,
            dns=answers,
            probes=probes,
            roots=usable,
            ssh_addresses=_soon(ssh_addresses, deadline.left()),
            public_addresses=job.server.public_addresses,
            ca_identities=self._ca_names.known(),
            asked_at=server_side.asked_at,
            answered_at=server_side.answered_at,
        )

    @contextmanager
    def _placed(
        self, flight: Flight, token: str, roots: Mapping[str, ChallengeRoot], deadline: "_Deadline"
    ) -> Iterator[tuple[Mapping[str, ChallengeRoot], Mapping[str, str]]]:
        """Put a probe file into each root while the block lasts, where the server does so in time.

        Yields:
            The roots into which a file could be put, and the file's text by name.
        """
        agent = flight.agent
        assert agent is not None
        # A path with control characters is refused by the script, as every such argument is.
        paths = sorted(
            {root.path for root in roots.values() if root.path is not None and root.path.isprintable()}
        )
        files = _place(agent, flight, token, paths, deadline.left(but=LEAST_FETCH_SECONDS)) if paths else ()
        body_of = {probe.webroot: probe.body for probe in files if probe.placed}
        usable = {name: root for name, root in roots.items() if root.path is None or root.path in body_of}
        try:
            yield usable, {name: body_of[root.path] for name, root in usable.items() if root.path is not None}
        finally:
            if paths:
                wait_for(
                    [self._pool.submit(_remove, agent, flight, token)], deadline.left() + _JUDGING_SECONDS
                )


class _Deadline:
    """By when all of it has to be known."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self, *, but: float = 0.0) -> float:
        """Seconds until then, less those that are kept for something else; never below zero."""
        return max(0.0, self._at - but - time.monotonic())


def new_token() -> str:
    """A name for a probe file that nobody else has."""
    return f"certpilot-probe-{secrets.token_urlsafe(24)}"


def _roots_of(server_side: _ServerSide, names: Sequence[str]) -> Mapping[str, ChallengeRoot]:
    return {name: challenge_root(server_side.nginx, name) for name in names}


def _place(
    agent: ServerAgent, flight: Flight, token: str, paths: Sequence[str], seconds: float
) -> Sequence[PlacedProbe]:
    """Ask the server to place the files; none where it does not say so in time, or another command holds its script."""
    try:
        files = agent.probe(flight.job_id, token, paths, timeout_seconds=max(seconds, _PLACING_SECONDS))
    except (NoAnswerInTimeError, AgentBusyError) as error:
        log.info("probe.not_placed", job=flight.job_id, reason=error.message)
        return ()
    for probe in files:
        if not probe.placed:
            log.info("probe.not_placed", job=flight.job_id, webroot=probe.webroot, reason=probe.reason)
    return files


def _remove(agent: ServerAgent, flight: Flight, token: str) -> None:
    try:
        agent.unprobe(flight.job_id, token)
    except (EdgeError, StaleFenceError) as error:
        # The next probe of any job takes it away.
        log.warning("probe.not_removed", job=flight.job_id, reason=str(error))


def _inspect(
    agent: ServerAgent, cert_name: str, failed_renewal_of: str | None, deadline: _Deadline
) -> _ServerSide:
    asked_at = datetime.now(UTC)
    said = agent.inspect([cert_name], failed_renewal_of=failed_renewal_of, timeout_seconds=deadline.left())
    facts = parse_server_facts(said)
    return _ServerSide(facts, parse_nginx_config(facts.nginx_config), asked_at, datetime.now(UTC))


def _requests(
    names: Sequence[str], answers: Mapping[str, NameAnswer], token: str, bodies: Mapping[str, str]
) -> list[ProbeRequest]:
    return [
        ProbeRequest(name, address, token, bodies.get(name))
        for name in names
        for address in answers[name].addresses
    ]


def _soon(asked: Future[tuple[str, ...]], seconds: float) -> tuple[str, ...]:
    """What came in time; the system's resolver waits far longer than a preflight may."""
    wait_for([asked], max(seconds, 0.0))
    return asked.result() if asked.done() else ()


def _addresses_of(server: Server) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(server.host)),)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
