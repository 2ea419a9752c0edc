"""One job's turn: ask the server, decide with the pure core, carry the decision out, until it ends or certbot runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from contracts.codes import Code
from db import claims, outcomes, pool
from db.outcomes import ClosedAttempt, CountedAttempt
from db.pool import Pool, transaction
from workers import announce, logs
from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.deciding import attempt as protocol
from workers.core.deciding.attempt import Action, Turn
from workers.core.deciding.goal import goal_reached
from workers.core.model import Certificate, Look, Problem, RunState, Step
from workers.edges.errors import EdgeError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection
from workers.runner import outcome
from workers.runner.closing import Closing
from workers.runner.counting import Counting
from workers.runner.ending import Endings
from workers.runner.flights import Flight
from workers.runner.ledger import Ledger
from workers.runner.poller import Poller, poll_interval_seconds
from workers.runner.redirecting import Redirecting
from workers.runner.removing import Removing
from workers.runner.spec_json import spec_from_json
from workers.runner.upkeep import keep_renewing
from workers.runner.wire import Served, check_served
from workers.settings import Settings, eab_hmac_key

log = logs.get(__name__)

TurnWork = Callable[[Flight], bool]
"""A part of a turn; whether the job stays in this process's hands."""

_FIRST_LOOK_SECONDS = 0.4
"""After a START: no certbot run is over sooner."""


@dataclass(frozen=True, slots=True)
class TurnTools:
    """What a turn works with, beside the database."""

    endings: Endings
    ledger: Ledger
    poller: Poller


class Turns:
    """The steps of a turn. What they raise is the runner's to handle."""

    def __init__(
        self, db_pool: Pool, config: Settings, tools: TurnTools, guarded: Callable[[Flight, TurnWork], None]
    ) -> None:
        self._pool = db_pool
        self._config = config
        self._eab_hmac_key = eab_hmac_key(config)
        self._endings = tools.endings
        self._poller = tools.poller
        self._guarded = guarded
        self._counting = Counting(db_pool, config, tools.endings, tools.ledger)
        self._redirecting = Redirecting(db_pool, self._counting.prober, tools.ledger)
        self._closing = Closing(db_pool, tools.endings)
        self._removing = Removing(db_pool, tools.endings)

    def begin(self, flight: Flight) -> bool:
        """Connect, then look and decide."""
        job = flight.job
        connection = SshConnection.connect(
            job.server,
            key_files=self._config.ssh_private_key_file,
            known_hosts_file=self._config.ssh_known_hosts_file,
        )
        flight.agent = ServerAgent(connection, job.server, job.claim.fence, eab_hmac_key=self._eab_hmac_key)
        return self._removing.turn(flight) if job.kind.removes else self._look_and_decide(flight)

    def poll(self, flight: Flight) -> bool:
        """Look at a run that lived at the last look."""
        if flight.agent is None or not flight.agent.alive:
            flight.close()
            return self.begin(flight)
        return self._removing.turn(flight) if flight.job.kind.removes else self._look_and_decide(flight)

    def go_on(self, flight: Flight) -> bool:
        """RELOAD after trouble with the database, then look: the row says what was committed, the server what runs."""
        flight.job = self._reload(flight)
        return self.poll(flight)

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
                self._endings.unseen(flight, problem)
            case protocol.CloseFailed():
                closed = ClosedAttempt("silent", Code.INTERRUPTED, evidence=error.message)
                silent = Problem(
                    Code.INTERRUPTED, f"{flight.job.server.host} was silent for a day while certbot ran."
                )
                self._endings.problem(flight, silent, closed)
            case protocol.Supersede() | protocol.Cancel():
                self._endings.unwanted(flight)
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
                # False right after a START: its pid is not noted yet. Then the next look asks again.
                flight.stop_sent = agent.stop(flight.job_id, action.attempt)
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
            case protocol.CloseSucceeded():
                assert certificate is not None
                return self._succeed(
                    flight, certificate, ClosedAttempt("issued", exit_code=look.exit_code, fate=action.fate)
                )
            case protocol.SucceedWithoutOrder():
                assert certificate is not None
                return self._succeed(flight, certificate, None)
            case protocol.Verify():
                raise AssertionError("verified already")
            case _:
                goes_on = self._closing.end(flight, action, look, served)
                return goes_on and self._look_and_decide(flight)

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
        look = self._counting.count_and_start(flight, certificate, only_install=only_install)
        return look is not None and self._started(flight, look)

    def _verify(self, flight: Flight, certificate: Certificate) -> Served:
        if flight.job.attempt_open:
            self._announce(flight, Step.VERIFYING, "Checking what visitors are shown.")
        return check_served(
            _agent(flight), flight.job.server, flight.job.names, certificate,
            ca_file=self._config.tls_ca_file, just_run=flight.job.attempt_open,
        )  # fmt: skip

    def _succeed(self, flight: Flight, certificate: Certificate, closed: ClosedAttempt | None) -> bool:
        after = self._redirecting.after_served(flight, certificate, closed)
        if after.look is not None:
            return self._started(flight, after.look)
        because = (
            "issued and served" if closed else "a certificate for these names was there already and is served"
        )
        self._endings.well(
            flight, certificate, because, closed, keep_renewing(flight, certificate, after.remark)
        )
        return False

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
