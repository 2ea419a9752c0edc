"""From the decision to order to a certbot that runs: preflight, the CA's limits, COUNT, START."""

from dataclasses import dataclass, replace

from db import claims, outcomes, pool
from db.claims import HeldJob
from db.limits import Refused
from db.pool import OperationalError, Pool, transaction
from workers import announce, risks
from workers.core.deciding.goal import needs_force
from workers.core.deciding.retry import prove_with_staging
from workers.core.lifetime.watch import not_reloaded
from workers.core.limits.costs import Spend
from workers.core.model import Certificate, Look, Problem, RunSpec, Step
from workers.edges.short_retry import with_short_retry
from workers.edges.web.http_probe import Prober
from workers.runner import outcome
from workers.runner.ending import Endings
from workers.runner.flights import Flight
from workers.runner.ledger import Ledger, spends_to_json
from workers.runner.plan import Plan, Planner
from workers.runner.spec_json import spec_to_json
from workers.settings import Settings


class _LimitedError(Exception):
    """The ledger refused; the transaction is rolled back, so nothing was counted."""

    def __init__(self, refused: Refused, spends: tuple[Spend, ...]) -> None:
        super().__init__(refused.limit_name)
        self.spends = spends


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What is about to be counted."""

    spec: RunSpec
    plan: Plan
    serial_seen: str | None

    @property
    def orders(self) -> bool:
        """Whether the CA's limits are touched: not by an installation, not at the staging CA."""
        return not (self.spec.only_install or self.spec.dry_run)


class Counting:
    """Counts attempts and starts them."""

    def __init__(self, db_pool: Pool, config: Settings, endings: Endings, ledger: Ledger) -> None:
        self._pool = db_pool
        self._staging_url = config.staging_url
        self._endings = endings
        self._ledger = ledger
        self._planner = Planner(config)

    @property
    def prober(self) -> Prober:
        """Who asks the sites."""
        return self._planner.observer.prober

    def count_and_start(
        self, flight: Flight, certificate: Certificate | None, *, only_install: bool
    ) -> Look | None:
        """Look before the CA is asked, count the attempt, start it.

        Returns:
            The server's answer to START; None when the turn has ended instead.
        """
        prove = self._begin_preflight(flight)
        if flight.job.superseded_by is not None or flight.job.cancel_requested:
            self._endings.unwanted(flight)
            return None
        plan = self._planner.plan(flight, only_install=only_install, prove=prove)
        if isinstance(plan, Problem):
            self._endings.problem(flight, plan)
            return None
        attempt = _Attempt(
            self._forced(flight, plan.spec, certificate), plan, certificate.serial if certificate else None
        )
        because = plan.overdue_because
        if only_install and certificate is not None:
            because = not_reloaded(flight.job.server.host, certificate, flight.job.names)
        with_short_retry(lambda: self._learn(flight, plan, certificate, because), OperationalError)
        try:
            flight.job = with_short_retry(lambda: self._count(flight, attempt), OperationalError)
        except _LimitedError as limited:
            self._endings.limited(flight, limited.spends)
            return None
        assert flight.agent is not None
        return flight.agent.start(flight.job_id, flight.job.attempt, attempt.spec)

    def _begin_preflight(self, flight: Flight) -> bool:
        with transaction(self._pool) as conn:
            flight.job = claims.hold(conn, flight.job.claim)
            announce.progress(
                conn, outcome.about(flight.job), Step.PREFLIGHT, "Checking DNS, port 80, nginx and certbot.",
                attempt=flight.job.attempt,
            )  # fmt: skip
            if flight.job.attempt == 0:
                return False
            return prove_with_staging(outcomes.closed_codes(conn, flight.job), self._staging_url)

    def _forced(self, flight: Flight, spec: RunSpec, certificate: Certificate | None) -> RunSpec:
        job = flight.job
        force = needs_force(
            certificate, force=job.force, serial_before=job.serial_before, counted=job.attempt > 0
        )
        return replace(spec, force=force and not spec.dry_run)

    def _learn(
        self, flight: Flight, plan: Plan, certificate: Certificate | None, overdue_because: Problem
    ) -> None:
        with transaction(self._pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            self._ledger.learn(conn, job, plan.payer, certificate)
            if job.is_own_renewal:
                risks.found(conn, outcome.about(job), overdue_because)

    def _count(self, flight: Flight, attempt: _Attempt) -> HeldJob:
        """COUNT with the reservation and the event. Repeated after a lost reply it finds the attempt open: RELOAD."""
        with transaction(self._pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            if job.attempt_open and job.attempt == flight.job.attempt + 1:
                return job
            payer = attempt.plan.payer
            spends = self._ledger.spends(conn, job, payer, pool.now(conn)) if attempt.orders else ()
            refused = self._ledger.reserve(conn, job, spends)
            if refused is not None:
                raise _LimitedError(refused, spends)
            outcomes.count_attempt(
                conn, job, serial_seen=attempt.serial_seen, orders=attempt.orders,
                spec={**spec_to_json(attempt.spec), "payer": payer.account or job.server_key},
                spends=spends_to_json(spends),
            )  # fmt: skip
            job = claims.hold(conn, flight.job.claim)
            step, message = _first_step(attempt.spec)
            if attempt.plan.note and job.attempt == 1:
                message += f" {attempt.plan.note}"
            announce.progress(conn, outcome.about(job), step, message, attempt=job.attempt)
        return job


def _first_step(spec: RunSpec) -> tuple[Step, str]:
    if spec.only_install:
        return Step.INSTALLING, "The certificate is there; installing it into nginx."
    if spec.dry_run:
        return (
            Step.REQUESTING,
            "Trying the validation with the CA's staging first, which costs none of its limits.",
        )
    return Step.REQUESTING, f"Requesting a certificate for {', '.join(spec.names)}."
