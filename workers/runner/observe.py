"""Gathering what the preflight judges: the server's facts, DNS, the CA's names, and what every address serves (B.6).

What does not depend on each other is asked at the same time, and all of it together ends within 3 s, whoever does not
answer: DNS has 1.6 s (two tries), the fetching of the probe files what is left of 2.9 s and never less than 1.3 s, so
that a lost packet does not look like a firewall. Only a server that is slow with its own facts can take longer.
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
from workers.core.caa import ca_identities
from workers.core.model import Server
from workers.core.nginx_challenge import ChallengeRoot, challenge_root
from workers.core.nginx_config import parse_nginx_config
from workers.core.observed import NameAnswer
from workers.core.preflight import Observations
from workers.core.server_facts import ServerFacts, parse_server_facts
from workers.edges.acme_directory import fetch_caa_identities
from workers.edges.dns import Resolver
from workers.edges.errors import EdgeError
from workers.edges.http_probe import Prober, ProbeRequest
from workers.edges.server_agent import PlacedProbe, ServerAgent
from workers.runner.flights import Flight
from workers.settings import Settings

log = logs.get(__name__)

DNS_SECONDS = 1.6
ALL_SECONDS = 2.9
LEAST_FETCH_SECONDS = 1.3
_QUESTIONS = 2  # of one preflight, beside what it asks the server
_ASK_CA_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _ServerSide:
    """What the server said, and when it was asked."""

    facts: ServerFacts
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
        self.prober = Prober(self._resolver)
        # Twice what the threads of actors and poller can ask at the same moment, for look-ups that hang.
        at_once = 2 * _QUESTIONS * 2 * config.runner_threads
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="look-up")
        self._ca_names = CaNames(config, self._pool)

    def observe(self, flight: Flight) -> Observations:
        """Gather; nothing is spent, and nothing stays on the server."""
        agent, job = flight.agent, flight.job
        assert agent is not None
        began = time.monotonic()
        self._ca_names.ask()
        dns = self._pool.submit(self._resolver.look_up, job.names, deadline_seconds=DNS_SECONDS)
        ssh_addresses = self._pool.submit(_addresses_of, job.server)
        server_side = _inspect(agent, job.domain)
        nginx = parse_nginx_config(server_side.facts.nginx_config)
        roots = {name: challenge_root(nginx, name) for name in job.names}
        answers = dns.result()
        token = new_token()
        with placed(agent, flight, token, roots) as (usable, bodies):
            left = max(LEAST_FETCH_SECONDS, ALL_SECONDS - (time.monotonic() - began))
            probes = self.prober.fetch_all(
                _requests(job.names, answers, token, bodies), deadline_seconds=left
            )
        return Observations(
            names=job.names,
            facts=server_side.facts,
            nginx=nginx,
            dns=answers,
            probes=probes,
            roots=usable,
            ssh_addresses=_soon(ssh_addresses, DNS_SECONDS - (time.monotonic() - began)),
            public_addresses=job.server.public_addresses,
            ca_identities=self._ca_names.known(),
            asked_at=server_side.asked_at,
            answered_at=server_side.answered_at,
        )


def new_token() -> str:
    """A name for a probe file that nobody else has."""
    return f"certpilot-probe-{secrets.token_urlsafe(24)}"


@contextmanager
def placed(
    agent: ServerAgent, flight: Flight, token: str, roots: Mapping[str, ChallengeRoot]
) -> Iterator[tuple[Mapping[str, ChallengeRoot], Mapping[str, str]]]:
    """Put a probe file into each root while the block lasts.

    Yields:
        The roots into which a file could be put, and the file's text by name.
    """
    # A path with control characters is refused by the script, as every such argument is.
    paths = sorted(
        {root.path for root in roots.values() if root.path is not None and root.path.isprintable()}
    )
    files: Sequence[PlacedProbe] = agent.probe(flight.job_id, token, paths) if paths else ()
    body_of = {probe.webroot: probe.body for probe in files if probe.placed}
    for probe in files:
        if not probe.placed:
            log.info("probe.not_placed", job=flight.job_id, webroot=probe.webroot, reason=probe.reason)
    usable = {name: root for name, root in roots.items() if root.path is None or root.path in body_of}
    try:
        yield usable, {name: body_of[root.path] for name, root in usable.items() if root.path is not None}
    finally:
        if paths:
            _remove(agent, flight, token)


def _remove(agent: ServerAgent, flight: Flight, token: str) -> None:
    try:
        agent.unprobe(flight.job_id, token)
    except EdgeError as error:
        # The next probe of any job takes it away.
        log.warning("probe.not_removed", job=flight.job_id, reason=error.message)


def _inspect(agent: ServerAgent, cert_name: str) -> _ServerSide:
    asked_at = datetime.now(UTC)
    text = agent.inspect([cert_name])
    return _ServerSide(parse_server_facts(text), asked_at, datetime.now(UTC))


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
