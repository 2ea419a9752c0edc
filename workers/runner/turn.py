"""One job's turn: ask the server, decide with the pure core, carry the decision out, until it ends or certbot runs."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Literal

from contracts.codes import Code
from db import claims, outcomes, pool
from db.outcomes import ClosedAttempt, CountedAttempt
from db.pool import OperationalError, Pool, transaction
from workers import announce, logs
from workers.core import attempt as protocol
from workers.core.attempt import Action, Turn
from workers.core.ca_costs import OrderFate
from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.goal import goal_reached, needs_force
from workers.core.model import Certificate, Look, Problem, RunSpec, RunState, Step
from workers.core.reading import read_run
from workers.edges.errors import EdgeError
from workers.edges.server_agent import ServerAgent
from workers.edges.short_retry import with_short_retry
from workers.edges.ssh import SshConnection
from workers.runner import ending, outcome
from workers.runner.flights import Flight
from workers.runner.plan import Planner
from workers.runner.poller import Poller, poll_interval_seconds
from workers.runner.spec_json import spec_from_json, spec_to_json
from workers.runner.wire import Served, check_served
from workers.settings import Settings

log = logs.get(__name__)

TurnWork = Callable[[Flight], bool]
"""A part of a turn; whether the job stays in this process's hands."""

_FIRST_LOOK_SECONDS = 0.4
"""After a START: no certbot run is over sooner."""


class Turns:
    """The steps of a turn. What they raise is the runner's to handle."""

    def __init__(
        self, db_pool: Pool, config: Settings, poller: Poller, guarded: Callable[[Flight, TurnWork], None]
    ) -> None:
        self._pool = db_pool
        self._config = config
        self._poller = poller
        self._guarded = guarded
        self._planner = Planner(config)

    def begin(self, flight: Flight) -> bool:
        """Connect, then look and decide."""
        job = flight.job
        connection = SshConnection.connect(
            job.server,
            key_files=self._config.ssh_private_key_file,
            known_hosts_file=self._config.ssh_known_hosts_file,
        )
        flight.agent = ServerAgent(connection, job.server, job.claim.fence)
        return self._look_and_decide(flight)

    def poll(self, flight: Flight) -> bool:
        """Look at a run that lived at the last look."""
        if flight.agent is None or not flight.agent.alive:
            flight.close()
            return self.begin(flight)
        return self._look_and_decide(flight)

    def unseen(self, flight: Flight, error: EdgeError) -> bool:
        """The server could not be looked at, or did not do what it was asked: wait, with an open attempt left open."""
        flight.job = self._reload(flight)
        counted = self._counted(flight)
        opened_at = counted.opened_at if counted and flight.job.attempt_open else None
        with transaction(self._pool) as conn:
            now = pool.real_now(conn)
        action = protocol.decide_without_look(error.code, _turn_of(flight), opened_at=opened_at, now=now)
        problem = Problem(error.code, error.message, evidence=error.evidence)
        match action:
            case protocol.WaitUnseen():
                ending.end_unseen(self._pool, flight, problem)
            case protocol.CloseFailed():
                closed = ClosedAttempt("silent", Code.INTERRUPTED, evidence=error.message)
                silent = Problem(
                    Code.INTERRUPTED, f"{flight.job.server.host} was silent for a day while certbot ran."
                )
                ending.end_with_problem(self._pool, flight, silent, closed)
            case protocol.Supersede() | protocol.Cancel():
                ending.end_superseded_or_cancelled(self._pool, flight)
        return False

    def _look_and_decide(self, flight: Flight) -> bool:
        agent = _agent(flight)
        look = agent.look(flight.job_id, flight.job.attempt, flight.job.domain)
        return self._decide(flight, look)

    def _decide(self, flight: Flight, look: Look) -> bool:
        certificate = _certificate(look)
        reached = self._goal_reached(flight, certificate)
        served: Served | None = None
        action = self._action(flight, look, reached=reached, served=None)
        if isinstance(action, protocol.Verify):
            assert certificate is not None
            served = self._verify(flight, certificate)
            action = self._action(flight, look, reached=reached, served=served.everywhere)
        return self._carry_out(flight, action, look, certificate, served)

    def _action(self, flight: Flight, look: Look, *, reached: bool, served: bool | None) -> Action:
        overdue = (
            flight.run_started_at > 0
            and not flight.stop_sent
            and time.monotonic() - flight.run_started_at > self._config.run_deadline_seconds
        )
        return protocol.decide(_turn_of(flight), look, goal_reached=reached, served=served, overdue=overdue)

    def _carry_out(
        self,
        flight: Flight,
        action: Action,
        look: Look,
        certificate: Certificate | None,
        served: Served | None,
    ) -> bool:
        agent = _agent(flight)
        match action:
            case protocol.Poll():
                return self._poll_later(flight, look)
            case protocol.Stop():
                agent.stop(flight.job_id, action.attempt)
                flight.stop_sent = True
                log.warning("run.stopped_at_deadline", job=flight.job_id, server=flight.job.server_key)
                return self._poll_later(flight, look)
            case protocol.Start():
                counted = self._counted(flight)
                assert counted is not None
                return self._started(
                    flight, agent.start(flight.job_id, action.attempt, spec_from_json(counted.spec))
                )
            case protocol.Void():
                return self._decide(flight, agent.void(flight.job_id, action.attempt))
            case protocol.Count():
                return self._count_and_start(flight, certificate, only_install=action.only_install)
            case protocol.CloseSucceeded() | protocol.SucceedWithoutOrder():
                assert certificate is not None
                return self._succeed(flight, certificate, look)
            case _:
                self._end(flight, action, look, served)
                return False

    def _poll_later(self, flight: Flight, look: Look) -> bool:
        if not flight.run_started_at:
            flight.run_started_at = time.monotonic()
        if look.stage is Step.INSTALLING and not flight.announced_installing:
            flight.announced_installing = True
            self._announce(flight, Step.INSTALLING, "The certificate was issued; installing it into nginx.")
        running_seconds = time.monotonic() - flight.run_started_at
        self._poller.schedule(flight, poll_interval_seconds(running_seconds), self._poll_guarded)
        return True

    def _poll_guarded(self, flight: Flight) -> None:
        self._guarded(flight, self.poll)

    def _started(self, flight: Flight, look: Look) -> bool:
        if look.run is not RunState.ALIVE:
            return self._decide(flight, look)
        flight.run_started_at = time.monotonic()
        self._poller.schedule(flight, _FIRST_LOOK_SECONDS, self._poll_guarded)
        return True

    def _count_and_start(
        self, flight: Flight, certificate: Certificate | None, *, only_install: bool
    ) -> bool:
        self._announce(flight, Step.PREFLIGHT, "Checking DNS, port 80, nginx and certbot.")
        plan = self._planner.plan(flight, only_install=only_install)
        if isinstance(plan, Problem):
            ending.end_with_problem(self._pool, flight, plan)
            return False
        job = flight.job
        spec = replace(
            plan,
            force=needs_force(
                certificate, force=job.force, serial_before=job.serial_before, counted=job.attempt > 0
            ),
        )
        flight.job = with_short_retry(
            lambda: self._count(flight, spec, certificate, only_install=only_install), OperationalError
        )
        return self._started(flight, _agent(flight).start(flight.job_id, flight.job.attempt, spec))

    def _count(
        self, flight: Flight, spec: RunSpec, certificate: Certificate | None, *, only_install: bool
    ) -> claims.HeldJob:
        """COUNT, with the event that names the step. Repeated after a lost reply it finds the attempt open: RELOAD."""
        with transaction(self._pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            if job.attempt_open and job.attempt == flight.job.attempt + 1:
                return job
            outcomes.count_attempt(
                conn, job, serial_seen=certificate.serial if certificate else None,
                orders=not only_install, spec=spec_to_json(spec),
            )  # fmt: skip
            job = claims.hold(conn, flight.job.claim)
            step, message = _first_step(only_install=only_install, spec=spec)
            announce.progress(conn, outcome.about(job), step, message, attempt=job.attempt)
        return job

    def _verify(self, flight: Flight, certificate: Certificate) -> Served:
        if flight.job.attempt_open:
            self._announce(flight, Step.VERIFYING, "Checking what visitors are shown.")
        return check_served(
            _agent(flight), flight.job.server, flight.job.names, certificate,
            ca_file=self._config.tls_ca_file, just_run=flight.job.attempt_open,
        )  # fmt: skip

    def _succeed(self, flight: Flight, certificate: Certificate, look: Look) -> bool:
        closed = ClosedAttempt("issued", exit_code=look.exit_code) if flight.job.attempt_open else None
        because = (
            "issued and served" if closed else "a certificate for these names was there already and is served"
        )
        ending.end_well(self._pool, flight, certificate, because, closed)
        return False

    def _end(self, flight: Flight, action: Action, look: Look, served: Served | None) -> None:
        """End the turn without success."""
        match action:
            case protocol.CloseUnserved():
                self._end_read(flight, look, unserved=served)
            case protocol.CloseFailed() if action.code is None:
                self._end_read(flight, look, unserved=None)
            case protocol.CloseFailed():
                assert action.code is not None
                closed = ClosedAttempt(
                    "dead", action.code, order_spent=action.fate is not OrderFate.NOT_MADE,
                    evidence="the server rebooted" if look.rebooted else "certbot was killed",
                )  # fmt: skip
                why = (
                    "The server rebooted while certbot ran."
                    if look.rebooted
                    else "certbot was killed while it ran."
                )
                ending.end_with_problem(self._pool, flight, Problem(action.code, why), closed)
            case protocol.CloseVoid():
                closed = ClosedAttempt("void", action.code, order_spent=False)
                ending.end_with_problem(self._pool, flight, Problem(action.code, _BUSY), closed)
            case protocol.WaitBusy():
                ending.end_with_problem(self._pool, flight, Problem(action.code, _BUSY))
            case protocol.Supersede() | protocol.Cancel():
                ending.end_superseded_or_cancelled(self._pool, flight)
            case _:
                raise AssertionError(action)

    def _end_read(self, flight: Flight, look: Look, *, unserved: Served | None) -> None:
        """The run ended without what it was for: read why, close the attempt."""
        output = _agent(flight).collect(flight.job_id, flight.job.attempt)
        finding = read_run(output).main
        code, message = finding.code, finding.message
        if unserved is not None and code not in _INSTALL_CODES:
            code, message = Code.NOT_SERVED, unserved.found
        if code is None:
            code, message = (
                Code.INTERNAL,
                "certbot reports success, but there is no certificate for these names.",
            )
        evidence = tuple(line.text for line in finding.evidence)
        if unserved is not None:
            closed = ClosedAttempt("issued, not served", code, look.exit_code, "\n".join(evidence))
        else:
            closing = protocol.close_after_reading(code)
            spent = closing.fate is not OrderFate.NOT_MADE
            closed = ClosedAttempt("failed", code, look.exit_code, "\n".join(evidence), order_spent=spent)
        problem = Problem(code, message, finding.names, finding.retry_at, evidence)
        ending.end_with_problem(self._pool, flight, problem, closed)

    def _goal_reached(self, flight: Flight, certificate: Certificate | None) -> bool:
        with transaction(self._pool) as conn:
            now: datetime = pool.real_now(conn)
        job = flight.job
        return goal_reached(
            certificate,
            job.names,
            force=job.force,
            serial_before=job.serial_before,
            counted=job.attempt > 0,
            now=now,
        )

    def _announce(self, flight: Flight, step: Step, message: str) -> None:
        """Tell of a step, and read the row anew under the guard on the way: a newer command may have come."""
        with transaction(self._pool) as conn:
            flight.job = claims.hold(conn, flight.job.claim)
            announce.progress(conn, outcome.about(flight.job), step, message, attempt=flight.job.attempt)

    def _reload(self, flight: Flight) -> claims.HeldJob:
        with transaction(self._pool) as conn:
            return claims.hold(conn, flight.job.claim)

    def _counted(self, flight: Flight) -> CountedAttempt | None:
        if flight.job.attempt == 0:
            return None
        with transaction(self._pool) as conn:
            return outcomes.read_attempt(conn, flight.job)


_BUSY = "Another certbot is at work on this server."
_INSTALL_CODES = frozenset(
    {
        Code.NO_MATCHING_VHOST,
        Code.INSTALL_FAILED,
        Code.NGINX_CONFIG_BROKEN,
        Code.NGINX_RELOAD_FAILED,
        Code.NGINX_CONFIG_UNREADABLE,
    }
)
"""What the output may say of a certificate that is there and not served; everything else is NOT_SERVED."""

_Direction = Literal["requesting", "installing"]


def _first_step(*, only_install: bool, spec: RunSpec) -> tuple[Step, str]:
    if only_install:
        return Step.INSTALLING, "The certificate is there; installing it into nginx."
    return Step.REQUESTING, f"Requesting a certificate for {', '.join(spec.names)}."


def _turn_of(flight: Flight) -> Turn:
    job = flight.job
    return Turn(
        job.attempt,
        job.attempt_open,
        superseded=job.superseded_by is not None,
        cancelled=job.cancel_requested,
    )


def _agent(flight: Flight) -> ServerAgent:
    assert flight.agent is not None
    return flight.agent


def _certificate(look: Look) -> Certificate | None:
    """The certificate on disk; one that cannot be read is none, and the lineage's trouble will be certbot's to tell."""
    try:
        return certificate_from_pem(look.certificate_pem) if look.certificate_pem else None
    except CertificateUnreadableError:
        return None
