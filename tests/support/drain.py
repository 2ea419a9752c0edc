"""A burst of jobs that drains against the CA's limits on a virtual clock: our own database work, no servers, no certbot.

Real are PostgreSQL, admission's rows, the scheduler, claims, the ledger, COUNT, every way in which a turn ends, and the
retry policy; the CA is the lab's own arithmetic of Let's Encrypt's limits. What is played are the seconds that a certbot
run takes, in which other jobs go on, and whether a validation fails. The clock jumps to whatever comes next.
"""

import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from contracts.codes import Code
from db import claims, clock, jobs, outbox, outcomes
from db import pool as pools
from db.claims import HeldJob
from db.outbox import Lane
from db.outcomes import ClosedAttempt
from db.pool import Connection, Pool, transaction
from deploy.lab.ca_limits import CaLimits, Figure, LimitName, Refusal, as_setting
from tests.support.held_jobs import add_job
from workers.core.limits.costs import OrderFate, Spend
from workers.core.limits.registered_domain import registered_domain
from workers.core.model import Certificate, JobId, JobKind, Problem, Server
from workers.dispatch import offer
from workers.runner.ending import Endings
from workers.runner.flights import Flight
from workers.runner.ledger import Ledger, Payer, spends_to_json
from workers.runner.outcome import NOTHING
from workers.scheduler import Scheduler

DIRECTORY = "https://ca.test/dir"
_LEASE_SECONDS = 110.0
_BATCH = 500


@dataclass(eq=False)
class SimServer:
    """A customer's server, as far as the CA sees it.

    Attributes:
        host: how it is reached.
        public: the address from which it registers.
        account: the account that it has, or will get when it registers.
        registered: whether it has it.
    """

    host: str
    public: str
    account: str
    registered: bool = False

    @property
    def server(self) -> Server:
        return Server(self.host, public_addresses=(self.public,))


@dataclass(eq=False)
class SimSite:
    """A site that wants certificates.

    Attributes:
        names: of the certificate.
        on: its server.
        failures: validations that fail before one succeeds; after each the owner asks to check again at once.
        certificates: how many it wants, one after the other, all but the first by forced renewals.
    """

    names: tuple[str, ...]
    on: SimServer
    failures: int = 0
    certificates: int = 1


@dataclass(frozen=True, slots=True)
class Drained:
    """What came out.

    Attributes:
        seconds: from the burst to the last certificate, virtual.
        refusals: what the CA refused.
        looks: how often each job was told to wait for our ledger.
        orders: taken by the CA and no renewals of an unchanged set, by account.
        certificates: issued, by exact set.
        first_certificates: issued and no renewals, by registered domain.
        registrations: by address.
        failures: of validations, by account and name.
    """

    seconds: float
    refusals: list[Refusal]
    looks: list[int]
    orders: Counter[str]
    certificates: Counter[tuple[str, ...]]
    first_certificates: Counter[str]
    registrations: Counter[str]
    failures: Counter[tuple[str, str]]


class Drain:
    """One burst."""

    def __init__(
        self, pool: Pool, conn: Connection, figures: Mapping[LimitName, Figure], folder: Path, seed: int
    ) -> None:
        self._pool, self._conn = pool, conn
        self._dice = random.Random(seed)
        self._ca = CaLimits(figures, registered_domain, draw=self._dice.random)
        file = folder / "limits.json"
        file.write_text(as_setting(DIRECTORY, figures))
        self._ledger = Ledger(DIRECTORY, file)
        self._endings = Endings(pool, self._ledger)
        self._scheduler = Scheduler(pool)
        self._later: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._sites: dict[str, SimSite] = {}
        self._looks: Counter[str] = Counter()
        self._open = 0
        self._refusals: list[Refusal] = []
        self._orders: Counter[str] = Counter()
        self._certificates: Counter[tuple[str, ...]] = Counter()
        self._first: Counter[str] = Counter()
        self._registrations: Counter[str] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()

    def others_order(self, account: str, *, after_seconds: float, orders: int) -> None:
        """Let somebody else make orders with an account, of which our ledger does not know."""

        def make() -> None:
            for _ in range(orders):
                if self._ca.new_order(account, [f"{uuid4().hex}.others.test"], self._ca_now()) is None:
                    self._orders[account] += 1

        self._after(after_seconds, after_seconds, make)

    def run(self, sites: Iterable[SimSite]) -> Drained:
        """Submit all of them at one moment and let them drain."""
        for site in sites:
            self._sites[site.names[0]] = site
            self._submit(site, force=False)
        began_at = pools.now(self._conn)
        while self._open:
            offered = self._offered()
            for job_id in offered:
                self._begin(job_id)
            due = self._due()
            for work in due:
                work()
            if not offered and not due:
                self._jump()
        seconds = (pools.now(self._conn) - began_at).total_seconds()
        return Drained(
            seconds, self._refusals, list(self._looks.values()), self._orders, self._certificates, self._first,
            self._registrations, self._failures,
        )  # fmt: skip

    def _submit(self, site: SimSite, *, force: bool) -> None:
        kind = JobKind.RENEW if force else JobKind.ISSUE
        job_id = add_job(self._conn, *site.names, server=site.on.server, kind=kind, force=force)
        with transaction(self._pool) as conn:
            offer(conn, [jobs.Offer(job_id, kind, 1)])
        self._looks[job_id] = 0
        self._open += 1

    def _offered(self) -> list[JobId]:
        """What the relay would publish to the runners, each job once."""
        with transaction(self._pool) as conn:
            rows = outbox.unpublished(conn, Lane.JOB, _BATCH)
            outbox.mark_published(conn, [row.seq for row in rows])
        return list(dict.fromkeys(JobId(json.loads(row.body)["kwargs"]["job_id"]) for row in rows))

    def _jump(self) -> None:
        """Move the clock to whatever comes next: a step of a run, or a waiting job's time, and then a scheduler's tick."""
        row = self._conn.execute(
            "select certpilot_now(), (select min(run_at) from job where state = 'waiting')"
        ).fetchone()
        assert row is not None
        now, run_at = row
        step_at = self._later[0][0] if self._later else None
        at = min((one for one in (run_at, step_at) if one is not None), default=now)
        if at > now:
            clock.move_ahead(self._conn, at - now)
        if at == run_at or step_at is None:
            self._scheduler.tick()

    def _due(self) -> list[Callable[[], None]]:
        now, due = pools.now(self._conn), []
        while self._later and self._later[0][0] <= now:
            due.append(heapq.heappop(self._later)[2])
        return due

    def _after(self, low_seconds: float, high_seconds: float, work: Callable[[], None]) -> None:
        at = pools.now(self._conn) + timedelta(seconds=self._dice.uniform(low_seconds, high_seconds))
        heapq.heappush(self._later, (at, next(self._numbers), work))

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _begin(self, job_id: JobId) -> None:
        flight = self._claim(job_id)
        if flight is None:
            return
        self._after(0.5, 3, lambda: self._count(flight))

    def _claim(self, job_id: JobId) -> Flight | None:
        with self._pool.connection() as conn:
            held = claims.claim(conn, job_id, uuid4(), _LEASE_SECONDS)
            if not isinstance(held, HeldJob):
                conn.rollback()
                return None
        return Flight(held)

    def _count(self, flight: Flight) -> None:
        """COUNT, as `workers.runner.counting` does it."""
        on = self._site(flight).on
        payer = Payer(on.account if on.registered else None, on.public)
        with transaction(self._pool) as conn:
            self._ledger.learn(conn, claims.hold(conn, flight.job.claim), payer, None)
        with transaction(self._pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            spends: tuple[Spend, ...] = self._ledger.spends(conn, job, payer, pools.now(conn))
            allowed = self._ledger.reserve(conn, job, spends) is None
            if allowed:
                outcomes.count_attempt(
                    conn, job, serial_seen=None, orders=True, spec={"payer": payer.account or job.server_key},
                    spends=spends_to_json(spends),
                )  # fmt: skip
                flight.job = claims.hold(conn, flight.job.claim)
        if allowed:
            self._after(1, 5, lambda: self._order(flight))
        else:
            self._looks[flight.job_id] += 1
            self._endings.limited(flight, spends)

    # --- the CA -----------------------------------------------------------------------------------------------------

    def _order(self, flight: Flight) -> None:
        site, now = self._site(flight), self._ca_now()
        refusal = None
        if not site.on.registered:
            refusal = self._ca.new_account(site.on.public, now)
            site.on.registered = refusal is None
            self._registrations[site.on.public] += refusal is None
        renewal = self._ca.is_renewal(frozenset(site.names), now)
        refusal = refusal or self._ca.new_order(site.on.account, site.names, now)
        if refusal is not None:
            self._refuse(flight, refusal)
            return
        self._orders[site.on.account] += not renewal
        self._after(1, 20, lambda: self._validate(flight, renewal=renewal))

    def _refuse(self, flight: Flight, refusal: Refusal) -> None:
        self._refusals.append(refusal)
        retry_at = pools.now(self._conn) + timedelta(seconds=refusal.retry_after_seconds or 0)
        closed = ClosedAttempt("failed", Code.TOO_MANY_REQUESTS, 1, refusal.detail, OrderFate.NOT_MADE)
        problem = Problem(Code.TOO_MANY_REQUESTS, refusal.detail, (), retry_at, (refusal.detail,))
        self._endings.problem(flight, problem, closed)

    def _validate(self, flight: Flight, *, renewal: bool) -> None:
        site, now = self._site(flight), self._ca_now()
        if site.failures:
            site.failures -= 1
            self._ca.failed(site.on.account, site.names[0], now)
            self._failures[site.on.account, site.names[0]] += 1
            self._after(0.5, 3, lambda: self._fail(flight))
            return
        for name in site.names:
            self._ca.validated(site.on.account, name)
        self._ca.issued(site.names, now)
        self._certificates[site.names] += 1
        if not renewal:
            self._first.update({registered_domain(name) for name in site.names})
        self._after(1, 10, lambda: self._succeed(flight))

    def _fail(self, flight: Flight) -> None:
        names = flight.job.names[:1]
        closed = ClosedAttempt("failed", Code.CHALLENGE_FAILED, 1, "404", OrderFate.MADE, names)
        self._endings.problem(flight, Problem(Code.CHALLENGE_FAILED, "It answers 404.", names), closed)
        with transaction(self._pool) as conn:  # the owner presses Issue again at once
            due = jobs.check_now(conn, flight.job_id, None, 60)
            offer(conn, [due] if due else [])

    def _succeed(self, flight: Flight) -> None:
        site = self._site(flight)
        now = pools.real_now(self._conn)
        certificate = Certificate(uuid4().hex, flight.job.names, "CA", now, now + timedelta(days=90))
        closed = ClosedAttempt("issued", fate=OrderFate.ISSUED)
        self._endings.well(flight, certificate, "issued and served", closed, NOTHING)
        self._open -= 1
        site.certificates -= 1
        if site.certificates:
            self._submit(site, force=True)

    def _ca_now(self) -> float:
        return pools.now(self._conn).timestamp()

    def _site(self, flight: Flight) -> SimSite:
        return self._sites[flight.job.domain]


def imposed_seconds(drained: Drained, figures: Mapping[LimitName, Figure]) -> dict[str, float]:
    """The least time that each limit's fullest bucket imposes, by its published figures and what the CA took from it.

    A full bucket gives `burst` at once, then one each period / count: nothing of our code is in it.
    """

    def least(limit: LimitName, taken: Iterable[int]) -> float:
        figure = figures[limit]
        beyond = max(0, max(taken, default=0) - figure.burst)
        return beyond * figure.period_seconds / (figure.count or figure.burst)

    return {
        "orders per account": least(LimitName.ORDERS_PER_ACCOUNT, drained.orders.values()),
        "certificates per registered domain": least(
            LimitName.CERTIFICATES_PER_DOMAIN, drained.first_certificates.values()
        ),
        "certificates per exact set": least(LimitName.CERTIFICATES_PER_SET, drained.certificates.values()),
        "registrations per address": least(
            LimitName.REGISTRATIONS_PER_ADDRESS, drained.registrations.values()
        ),
        # the order after the last failure needs one more failure to be left
        "failures per name": least(LimitName.FAILURES, (count + 1 for count in drained.failures.values())),
    }
