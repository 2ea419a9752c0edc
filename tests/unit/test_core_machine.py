"""Random commands, outcomes and times through admission, lifecycle, retry and the decision table, glued as the roles do.

What the roles read and write stands in plain attributes here; every decision is the core's own.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Policy
from workers.core.deciding import attempt as acts
from workers.core.deciding import lifecycle
from workers.core.deciding.admission import Admitted, Joined, Rejected, Request, admit
from workers.core.deciding.goal import goal_reached, needs_force
from workers.core.deciding.lifecycle import LIVE, JobEvent, advance
from workers.core.deciding.retry import History, RetryAction, decide_retry, wait_for_ledger, with_open_attempt
from workers.core.model import (
    Certificate,
    JobId,
    JobKind,
    JobState,
    LiveJob,
    Look,
    RunState,
    Server,
    Site,
    SslStatus,
)

START = datetime(2026, 11, 24, 10, tzinfo=UTC)
LIFETIME = timedelta(days=6)
SERVERS = [Server("203.0.113.7"), Server("203.0.113.8")]
NAMES = ["a.example.com", "b.example.com", "c.example.org"]
FAULTS = sorted(
    code for code, row in CATALOGUE.items() if row.policy not in {Policy.REJECT, Policy.SET_ASIDE}
)
UNSEEN = [Code.SERVER_UNREACHABLE, Code.SSH_AUTH_FAILED, Code.SERVER_BUSY]
FINAL = set(JobState) - LIVE - {JobState.DEAD}


@dataclass(frozen=True)
class Plan:
    """What the world does to one turn of a job."""

    unseen: Code | None = None  # the server cannot be looked at
    before: Code | None = None  # preflight finds this
    ledger: timedelta | None = None  # our buckets make it wait
    run: str = "issues"  # issues, fails, killed, never begins, goes on (the runner dies meanwhile)
    code: Code = Code.CHALLENGE_FAILED
    served: bool = True
    busy: bool = False
    said: timedelta | None = None
    jitter: float = 0.0


@dataclass
class Job:
    """A row of table job, and what lies on the server for it."""

    job_id: JobId
    made: Admitted
    admitted_at: datetime
    state: JobState = JobState.QUEUED
    attempt: int = 0
    attempt_open: bool = False
    opened_at: datetime | None = None
    only_install: bool = False
    serial_before: str | None = None
    previous: Code | None = None
    fails: int = 0
    failing_since: datetime | None = None
    run_at: datetime | None = None
    superseded: bool = False
    cancelled: bool = False
    orders: int = 0
    runs: dict[int, Look] = field(default_factory=dict)

    @property
    def turn(self) -> acts.Turn:
        return acts.Turn(self.attempt, self.attempt_open, self.superseded, self.cancelled)

    @property
    def history(self) -> History:
        return History(self.admitted_at, self.previous, self.fails, self.failing_since)


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.site = Site("s", None, (), None, SslStatus.NONE, None, None, ever_issued=False, job=None)
        self.jobs: list[Job] = []
        self.disk: dict[tuple[str, str], Certificate] = {}
        self.serials = 0
        self.ended: dict[JobId, JobState] = {}
        self.last_plan = Plan(run="fails")

    # --- what happens

    @rule(
        kind=st.sampled_from(JobKind), domain=st.sampled_from([NAMES[0], *NAMES]), server=st.sampled_from([SERVERS[0], *SERVERS]),
        aliases=st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple), force=st.booleans(), bare=st.booleans(),
    )  # fmt: skip
    def command(
        self, *, kind: JobKind, domain: str, server: Server, aliases: tuple[str, ...], force: bool, bare: bool
    ) -> None:
        renew = kind is JobKind.RENEW
        request = Request(kind, "s", domain, aliases, server, force and renew)
        if renew and bare:
            request = Request(kind, "s", force=force)
        newest = self.jobs[-1] if self.jobs else None
        decision = admit(request, replace(self.site, job=self._live_job(newest)), self.now)
        if isinstance(decision, Rejected):
            return
        if isinstance(decision, Joined):
            assert newest is not None
            newest.state = advance(newest.state, JobEvent.CHECK_NOW)
            newest.fails, newest.failing_since, newest.run_at = 0, None, None
            return
        if decision.supersedes is not None:
            assert newest is not None
            assert newest.job_id == decision.supersedes
            newest.superseded = True
            if not newest.attempt_open:
                newest.state = advance(newest.state, JobEvent.SUPERSEDE)
        job = Job(JobId(f"j{len(self.jobs)}"), decision, self.now, serial_before=decision.serial_known)
        self.jobs.append(job)
        self.site = replace(
            self.site,
            domain=decision.domain,
            aliases=decision.names[1:],
            server=decision.server,
            ssl_status=decision.status,
        )

    @rule(
        by=st.sampled_from(
            [timedelta(seconds=30), timedelta(minutes=20), timedelta(hours=5), timedelta(days=2)]
        )
    )
    def time_passes(self, by: timedelta) -> None:
        self.now += by
        if self.site.ssl_status is SslStatus.ACTIVE:
            assert self.site.certificate is not None
            status = lifecycle.status_after_expiry(
                SslStatus.ACTIVE, self.site.certificate.not_after, self.now
            )
            self.site = replace(self.site, ssl_status=status)
        for job in self.jobs:
            if job.state is JobState.WAITING and job.run_at is not None and job.run_at <= self.now:
                job.state, job.run_at = advance(job.state, JobEvent.DUE), None

    @precondition(lambda self: self._claimable())
    @rule(
        data=st.data(),
        plan=st.builds(
            Plan, unseen=st.none() | st.sampled_from(UNSEEN), before=st.none() | st.sampled_from(FAULTS),
            ledger=st.none() | st.timedeltas(timedelta(seconds=36), timedelta(days=7)),
            run=st.sampled_from(["issues", "fails", "killed", "never begins", "goes on"]), code=st.sampled_from(FAULTS),
            served=st.booleans(), busy=st.booleans(), said=st.none() | st.timedeltas(timedelta(-1), timedelta(days=9)),
            jitter=st.floats(0, 1, exclude_max=True),
        ),
    )  # fmt: skip
    def turn(self, data: st.DataObject, plan: Plan) -> None:
        if data.draw(st.booleans()):  # half of the turns meet a world in order up to the run
            plan = replace(plan, unseen=None, before=None, ledger=None, busy=False)
        self.last_plan = plan
        self._turn(data.draw(st.sampled_from(self._claimable())), plan)

    @precondition(lambda self: self._claimable())
    @rule(served=st.booleans() | st.just(True))
    def turn_in_a_world_in_order(self, *, served: bool) -> None:
        self._turn(self._claimable()[-1], Plan(served=served))

    @precondition(lambda self: self._claimable())
    @rule()
    def runner_dies_while_certbot_runs(self) -> None:
        self._turn(self._claimable()[-1], Plan(run="goes on"))

    @precondition(lambda self: self._claimable())
    @rule(code=st.sampled_from(UNSEEN))
    def server_does_not_answer(self, *, code: Code) -> None:
        self._turn(self._claimable()[-1], Plan(unseen=code))

    @precondition(lambda self: any(job.state in LIVE for job in self.jobs))
    @rule(really=st.sampled_from([True, False, False, False, False, False]))
    def cancel(self, *, really: bool) -> None:
        if not really:  # seldom, or no job would get far
            return
        job = next(job for job in reversed(self.jobs) if job.state in LIVE)
        job.cancelled = True
        if job.state is not JobState.RUNNING and not job.attempt_open:
            self._happens(job, JobEvent.CANCEL)

    @precondition(lambda self: self.jobs and self.jobs[-1].state is JobState.DEAD)
    @rule()
    def replay(self) -> None:
        job = self.jobs[-1]
        job.state = advance(job.state, JobEvent.REPLAY)
        job.fails, job.failing_since, job.admitted_at = 0, None, self.now
        status = lifecycle.status_when_admitted(
            self.site.ssl_status, lifecycle.own_certificate_of(self.site), self.now
        )
        self.site = replace(self.site, ssl_status=status)

    @rule(server=st.sampled_from(SERVERS))
    def the_servers_own_timer_renews(self, server: Server) -> None:
        for (key, name), old in list(self.disk.items()):
            if key == server.key:
                self._issue(key, name, old.names)

    # --- what must hold

    @invariant()
    def one_job_at_most_works_for_the_site(self) -> None:
        assert sum(job.state in LIVE and not job.superseded for job in self.jobs) <= 1

    @invariant()
    def the_status_is_true(self) -> None:
        newest_lives = bool(self.jobs) and self.jobs[-1].state in LIVE
        if self.site.ssl_status is SslStatus.ACTIVE:
            assert lifecycle.is_valid(lifecycle.own_certificate_of(self.site), self.now)
        elif self.site.ssl_status is SslStatus.PENDING:
            assert newest_lives, "pending, but nobody works on it"
        elif self.site.ssl_status is SslStatus.NONE:
            assert not newest_lives, "accepted, but not pending"
            assert lifecycle.own_certificate_of(self.site) is None
        else:
            own = lifecycle.own_certificate_of(self.site)
            assert own is not None
            assert not lifecycle.is_valid(own, self.now)

    @invariant()
    def what_has_ended_stays_ended_and_has_no_open_attempt(self) -> None:
        for job in self.jobs:
            if job.state in FINAL:
                assert self.ended.setdefault(job.job_id, job.state) is job.state
            if job.state not in LIVE:
                assert not job.attempt_open

    @invariant()
    def orders_never_exceed_counted_attempts(self) -> None:
        assert all(job.orders <= job.attempt for job in self.jobs)

    def teardown(self) -> None:
        """Every job ends, also when the last trouble never does.

        Only two must end by themselves: a run that ignores TERM, and a server that answers "busy" while an attempt is
        open (PROTOCOL 7: raise an alarm).
        """
        last = self.last_plan
        stubborn = replace(
            last, said=None, run="fails" if last.run == "goes on" else last.run,
            unseen=None if last.unseen is Code.SERVER_BUSY else last.unseen,
        )  # fmt: skip
        for _ in range(4000):
            live = [job for job in self.jobs if job.state in LIVE]
            if not live:
                return
            due = [job.run_at for job in live if job.run_at is not None]
            if not self._claimable():
                self.time_passes(max(min(due) - self.now, timedelta(0)))
            self._turn(self._claimable()[0], stubborn)
            # buckets refill sooner or later
            stubborn = replace(stubborn, ledger=None)
            self.the_status_is_true()
        pytest.fail(f"never ends: {live}")

    # --- how the roles glue it

    def _live_job(self, job: Job | None) -> LiveJob | None:
        if job is None:
            return None
        made, waits = job.made, job.state is JobState.WAITING
        return LiveJob(
            job.job_id, job.state, made.domain, made.names, made.server.key,
            job.previous if waits else None, job.run_at if waits else None,
        )  # fmt: skip

    def _claimable(self) -> list[Job]:
        """PROTOCOL 4.6: not while another job with one of its names runs or has an open attempt."""
        ready = [job for job in self.jobs if job.state in {JobState.QUEUED, JobState.RUNNING}]
        return [
            job for job in ready
            if not any(
                other is not job and (other.state is JobState.RUNNING or other.attempt_open)
                and set(other.made.names) & set(job.made.names)
                for other in self.jobs
            )
        ]  # fmt: skip

    def _turn(self, job: Job, plan: Plan) -> None:
        job.state = advance(job.state, JobEvent.CLAIM)
        if plan.unseen is not None:
            unseen = acts.decide_without_look(plan.unseen, job.turn, opened_at=job.opened_at, now=self.now)
            self._carry_out(job, unseen, plan)
            return
        served: bool | None = None
        for _ in range(9):
            certificate = self.disk.get((job.made.server.key, job.made.domain))
            look = replace(job.runs.get(job.attempt, Look(RunState.ABSENT)), certbot_busy=plan.busy)
            reached = self._reached(job, certificate)
            action = acts.decide(job.turn, look, goal_reached=reached, served=served)
            if isinstance(action, acts.Verify):
                served = plan.served
            elif not self._carry_out(job, action, plan):
                return
        pytest.fail(f"nothing comes of it: {job}")

    def _reached(self, job: Job, certificate: Certificate | None) -> bool:
        return goal_reached(
            certificate, job.made.names, force=job.made.force, serial_before=job.serial_before,
            counted=job.attempt > 0, now=self.now,
        )  # fmt: skip

    def _carry_out(self, job: Job, action: object, plan: Plan) -> bool:
        """Do what was decided; False when the turn is over."""
        match action:
            case acts.Poll():
                if plan.run == "goes on":
                    return False
                self._run_ends(job, plan)
            case acts.Start(attempt):
                assert attempt == job.attempt
                assert job.attempt_open
                job.runs[attempt] = Look(RunState.ALIVE)
            case acts.Void(attempt):
                job.runs[attempt] = Look(RunState.VOID)
            case acts.Count(only_install):
                return self._count(job, plan, only_install=only_install)
            case _:
                self._finish(job, action, plan)
        return isinstance(action, acts.Poll | acts.Start | acts.Void)

    def _finish(self, job: Job, action: object, plan: Plan) -> None:
        match action:
            case acts.SucceedWithoutOrder():
                self._happens(job, JobEvent.SUCCEED)
            case acts.CloseSucceeded():
                job.attempt_open = False
                self._happens(job, JobEvent.SUCCEED)
            case acts.CloseUnserved():
                job.attempt_open = False
                self._trouble(job, Code.NOT_SERVED, plan)
            case acts.CloseFailed() | acts.CloseVoid():
                closed = (
                    acts.close_after_reading(plan.code) if action == acts.CloseFailed(None, None) else action
                )
                job.attempt_open = False
                assert closed.code is not None
                self._trouble(job, closed.code, plan)
            case acts.Supersede():
                self._happens(job, JobEvent.SUPERSEDE)
            case acts.Cancel():
                self._happens(job, JobEvent.CANCEL)
            case acts.WaitBusy(code) | acts.WaitUnseen(code):
                self._trouble(job, code, plan)

    def _count(self, job: Job, plan: Plan, *, only_install: bool) -> bool:
        if plan.before is not None:
            self._trouble(job, plan.before, plan)
            return False
        if plan.ledger is not None and not only_install:
            waits = wait_for_ledger(
                job.history, free_at=self.now + plan.ledger, now=self.now, jitter=plan.jitter
            )
            job.fails, job.failing_since, job.run_at, job.previous = (
                waits.fails,
                waits.failing_since,
                waits.run_at,
                waits.code,
            )
            self._happens(job, JobEvent.WAIT)
            return False
        seen = self.disk.get((job.made.server.key, job.made.domain))
        if job.attempt == 0:
            job.serial_before = seen.serial if seen else None
        job.attempt, job.attempt_open, job.opened_at, job.only_install = (
            job.attempt + 1,
            True,
            self.now,
            only_install,
        )
        return True

    def _run_ends(self, job: Job, plan: Plan) -> None:
        certificate = self.disk.get((job.made.server.key, job.made.domain))
        force = needs_force(
            certificate, force=job.made.force, serial_before=job.serial_before, counted=job.attempt > 0
        )
        if plan.run == "never begins":
            job.runs[job.attempt] = Look(RunState.DEAD, begun=False)
            return
        # unforced certbot orders nothing while the certificate has the names and is valid
        orders = not job.only_install and (force or not self._reached(job, certificate))
        job.orders += orders
        if orders and plan.run == "issues":
            self._issue(job.made.server.key, job.made.domain, job.made.names)
        job.runs[job.attempt] = (
            Look(RunState.DEAD) if plan.run == "killed" else Look(RunState.ENDED, exit_code=1)
        )

    def _issue(self, server_key: str, domain: str, names: tuple[str, ...]) -> None:
        self.serials += 1
        made = Certificate(f"{self.serials:x}", tuple(sorted(names)), "R11", self.now, self.now + LIFETIME)
        self.disk[server_key, domain] = made

    def _trouble(self, job: Job, code: Code, plan: Plan) -> None:
        said = None if plan.said is None else self.now + plan.said
        decision = decide_retry(code, job.history, now=self.now, jitter=plan.jitter, ca_retry_at=said)
        if job.attempt_open:
            decision = with_open_attempt(decision, self.now)
        event = acts.end_of_turn(decision.action, job.turn, still_open=job.attempt_open)
        if event is JobEvent.WAIT:
            assert decision.action is RetryAction.WAIT
            assert decision.run_at is not None
            assert decision.run_at > self.now
            job.run_at = decision.run_at
        job.previous, job.fails, job.failing_since = code, decision.fails, decision.failing_since
        self._happens(job, event)

    def _happens(self, job: Job, event: JobEvent) -> None:
        job.state = advance(job.state, event)
        if event is JobEvent.SUCCEED:
            self._succeeded(job)
        elif job.state not in LIVE and job is self.jobs[-1]:
            own = lifecycle.own_certificate_of(self.site)
            status = lifecycle.status_when_ended(self.site.ssl_status, own, self.now)
            self.site = replace(self.site, ssl_status=status)

    def _succeeded(self, job: Job) -> None:
        key = job.made.server.key
        certificate = self.disk[key, job.made.domain]
        assert set(job.made.names) <= set(certificate.names)
        assert lifecycle.is_valid(certificate, self.now)
        assert not job.made.force or certificate.serial != job.made.serial_known, (
            "a renewal that renewed nothing"
        )
        if lifecycle.own_certificate(certificate, key, self.site.domain, self.site.server) is not None:
            # An older job may bring what the newer one is for; its word is as good (X.509 and handshake).
            self.site = replace(
                self.site, ssl_status=lifecycle.status_when_verified(self.site.ssl_status), certificate=certificate,
                certificate_server_key=key, ever_issued=True,
            )  # fmt: skip


World.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase
