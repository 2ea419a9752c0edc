"""The preflight of a job, gathered from the edges and judged by the core, and the certbot run that follows from it."""

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from contracts.codes import Code
from workers import logs
from workers.core.lifetime.overdue import why_overdue
from workers.core.model import Authenticator, Problem, RunSpec
from workers.core.preflight.judge import Preflight, Verdict, judge
from workers.core.preflight.server import knows_profiles
from workers.core.preflight.server_facts import ServerFacts
from workers.runner.flights import Flight
from workers.runner.ledger import Payer
from workers.runner.observe import Observer
from workers.settings import Settings

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What certbot is to do, and who asks the CA.

    Attributes:
        spec: the run, not forced.
        payer: whose limits an order touches.
        overdue_because: why the server has not renewed by itself, as far as its timers and its certbot's log show it.
        note: what certbot on this server cannot do of what is set, for people; mostly empty.
    """

    spec: RunSpec
    payer: Payer
    overdue_because: Problem
    note: str = ""


class Planner:
    """Looks before the CA is asked for anything; spends nothing (DESIGN B.6). Shared by the threads of a runner."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self.observer = Observer(config)

    def plan(self, flight: Flight, *, only_install: bool, prove: bool) -> Plan | Problem:
        """Gather, judge, and say what certbot is to do; or what the job waits for.

        Args:
            flight: the job, connected.
            only_install: the certificate is there; nothing is ordered.
            prove: validate at the CA's staging first (`core.deciding.retry.prove_with_staging`).
        """
        observations = self.observer.observe(flight)
        preflight = judge(observations)
        doubts = [f"{one.check}: {one.message}" for one in preflight.results if one.verdict is Verdict.UNSURE]
        if doubts:
            log.info("preflight.unsure", job=flight.job_id, doubts=doubts)
        if preflight.blocking is not None and not (only_install and _concerns_only_the_order(preflight)):
            return preflight.blocking
        facts = observations.facts
        account = _account(facts, self._config.acme_directory_url)
        spec = self._spec(flight, preflight, facts, only_install=only_install)
        if prove and not only_install and self._config.staging_url is not None:
            staging = _account(facts, self._config.staging_url)
            spec = replace(
                spec,
                dry_run=True,
                directory_url=self._config.staging_url,
                account=staging.choice if staging else None,
                eab_kid=None if staging else self._config.acme_eab_kid,
            )
        addresses = (*flight.job.server.public_addresses, *observations.ssh_addresses, flight.job.server.host)
        note = ""
        if self._config.acme_profile and not spec.profile and not only_install:
            note = f"certbot {facts.certbot_version or ''} on this server knows no profiles, so the CA's default is taken."
        return Plan(
            spec, Payer(account.uri if account else None, addresses[0]), why_overdue(observations), note
        )

    def _spec(
        self, flight: Flight, preflight: Preflight, facts: ServerFacts, *, only_install: bool
    ) -> RunSpec:
        account = _account(facts, self._config.acme_directory_url)
        return RunSpec(
            directory_url=self._config.acme_directory_url,
            email=self._config.acme_email,
            cert_name=flight.job.domain,
            names=flight.job.names,
            webroots=preflight.webroots,
            authenticator=Authenticator.NGINX if only_install else preflight.authenticator,
            redirect=preflight.redirect_now,
            account=account.choice if account else None,
            only_install=only_install,
            proxied=preflight.proxied,
            key_type=self._config.key_type,
            profile=self._config.acme_profile if knows_profiles(facts.certbot_version) else None,
            eab_kid=self._config.acme_eab_kid if account is None else None,
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


def _concerns_only_the_order(preflight: Preflight) -> bool:
    """Whether what blocks is about the challenge: an installation needs none.

    A missing server block is about both: certbot would install into a copy of the default one, and visitors would be
    shown another site's pages under the name.
    """
    blocking = preflight.blocking
    return blocking is not None and bool(blocking.names) and blocking.code is not Code.NO_MATCHING_VHOST
