"""The preflight of a job, gathered from the edges and judged by the core, and the certbot run that follows from it."""

import ipaddress
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from contracts.codes import Code
from workers import logs
from workers.core.caa import ca_identities
from workers.core.model import Authenticator, Problem, RunSpec, Server
from workers.core.nginx_challenge import ChallengeRoot, challenge_root
from workers.core.nginx_config import parse_nginx_config
from workers.core.observed import NameAnswer
from workers.core.preflight import Observations, Preflight, judge
from workers.core.server_facts import ServerFacts, parse_server_facts
from workers.edges.dns import Resolver
from workers.edges.errors import EdgeError
from workers.edges.http_probe import Prober, ProbeRequest
from workers.edges.server_agent import PlacedProbe, ServerAgent
from workers.runner.flights import Flight
from workers.runner.ledger import Payer
from workers.settings import Settings

log = logs.get(__name__)

_LOOK_UPS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _ServerSide:
    """What the server said, and when it was asked."""

    facts: ServerFacts
    asked_at: datetime
    answered_at: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """What certbot is to do, and who asks the CA.

    Attributes:
        spec: the run, not forced.
        payer: whose limits an order touches.
    """

    spec: RunSpec
    payer: Payer


class Planner:
    """Looks before the CA is asked for anything; spends nothing (DESIGN B.6). Shared by the threads of a runner."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        servers = config.dns_servers
        self._resolver = Resolver(None if servers is None else [(one.host, one.port) for one in servers])
        self._prober = Prober(self._resolver)
        self._look_ups = ThreadPoolExecutor(_LOOK_UPS_AT_ONCE, thread_name_prefix="look-up")

    def plan(self, flight: Flight, *, only_install: bool, prove: bool) -> Plan | Problem:
        """Gather, judge, and say what certbot is to do; or what the job waits for.

        Args:
            flight: the job, connected.
            only_install: the certificate is there; nothing is ordered.
            prove: validate at the CA's staging first (`core.retry.prove_with_staging`).
        """
        observations = self._observe(flight)
        preflight = judge(observations)
        if preflight.blocking is not None and not (only_install and _concerns_only_the_order(preflight)):
            return preflight.blocking
        facts = observations.facts
        account = _account(facts, self._config.acme_directory_url)
        spec = self._spec(flight, preflight, account, only_install=only_install)
        if prove and not only_install and self._config.staging_url is not None:
            staging = _account(facts, self._config.staging_url)
            spec = replace(
                spec,
                dry_run=True,
                directory_url=self._config.staging_url,
                account=staging.choice if staging else None,
            )
        addresses = (*flight.job.server.public_addresses, *observations.ssh_addresses, flight.job.server.host)
        return Plan(spec, Payer(account.uri if account else None, addresses[0]))

    def _observe(self, flight: Flight) -> Observations:
        agent, job = flight.agent, flight.job
        assert agent is not None
        dns: Future[Mapping[str, NameAnswer]] = self._look_ups.submit(self._resolver.look_up, job.names)
        server_side = _inspect(agent, job.domain)
        nginx = parse_nginx_config(server_side.facts.nginx_config)
        roots = {name: challenge_root(nginx, name) for name in job.names}
        answers = dns.result()
        token = f"certpilot-probe-{secrets.token_urlsafe(24)}"
        with _placed(agent, flight, token, roots) as (usable, bodies):
            probes = self._prober.fetch_all(_requests(job.names, answers, token, bodies))
        return Observations(
            names=job.names,
            facts=server_side.facts,
            nginx=nginx,
            dns=answers,
            probes=probes,
            roots=usable,
            ssh_addresses=_addresses_of(job.server),
            public_addresses=job.server.public_addresses,
            ca_identities=ca_identities(self._config.acme_directory_url),
            asked_at=server_side.asked_at,
            answered_at=server_side.answered_at,
        )

    def _spec(
        self, flight: Flight, preflight: Preflight, account: "_Account | None", *, only_install: bool
    ) -> RunSpec:
        return RunSpec(
            directory_url=self._config.acme_directory_url,
            email=self._config.acme_email,
            cert_name=flight.job.domain,
            names=flight.job.names,
            webroots=() if only_install else preflight.webroots,
            authenticator=Authenticator.NGINX if only_install else preflight.authenticator,
            redirect=preflight.redirect_now,
            account=account.choice if account else None,
            only_install=only_install,
        )


@dataclass(frozen=True, slots=True)
class _Account:
    """The ACME account that certbot on the server will use; `choice` where it has to be told."""

    uri: str
    choice: str | None


def _account(facts: ServerFacts, directory_url: str) -> _Account | None:
    """Find the server's account at a CA. Where certbot knows several, `-n` would stop and ask which."""
    parts = urlsplit(directory_url)
    folder = f"{parts.netloc}{parts.path}".rstrip("/")
    ours = [one for one in facts.accounts if one.directory.rstrip("/") == folder]
    if not ours:
        return None
    return _Account(ours[0].uri or ours[0].account_id, ours[0].account_id if len(ours) > 1 else None)


def _inspect(agent: ServerAgent, cert_name: str) -> _ServerSide:
    asked_at = datetime.now(UTC)
    text = agent.inspect([cert_name])
    return _ServerSide(parse_server_facts(text), asked_at, datetime.now(UTC))


@contextmanager
def _placed(
    agent: ServerAgent, flight: Flight, token: str, roots: Mapping[str, ChallengeRoot]
) -> Iterator[tuple[Mapping[str, ChallengeRoot], Mapping[str, str]]]:
    """Put a probe file into each root while the block lasts.

    Yields:
        The roots into which a file could be put, and the file's text by name.
    """
    paths = sorted({root.path for root in roots.values() if root.path is not None})
    placed: Sequence[PlacedProbe] = agent.probe(flight.job_id, token, paths) if paths else ()
    body_of = {probe.webroot: probe.body for probe in placed if probe.placed}
    for probe in placed:
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


def _requests(
    names: Sequence[str], answers: Mapping[str, NameAnswer], token: str, bodies: Mapping[str, str]
) -> list[ProbeRequest]:
    return [
        ProbeRequest(name, address, token, bodies.get(name))
        for name in names
        for address in answers[name].addresses
    ]


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


def _concerns_only_the_order(preflight: Preflight) -> bool:
    """Whether what blocks is about the challenge: an installation needs none.

    A missing server block is about both: certbot would install into a copy of the default one, and visitors would be
    shown another site's pages under the name.
    """
    blocking = preflight.blocking
    return blocking is not None and bool(blocking.names) and blocking.code is not Code.NO_MATCHING_VHOST
