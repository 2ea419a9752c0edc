"""The ledger of the CA's limits around one attempt: reserved with COUNT, settled when the attempt is closed (B.7)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from contracts.codes import Code
from db import ca_memory, limits, outcomes, pool
from db.claims import HeldJob
from db.limits import LedgerSpend, Refused
from db.outcomes import ClosedAttempt, CountedAttempt
from db.pool import Connection
from workers.core.limits.buckets import Limit, LimitName
from workers.core.limits.costs import (
    Order,
    OrderFate,
    PaidBy,
    Spend,
    exact_set_hash,
    reset_by_success,
    spends_of_failure,
    spends_of_order,
    spends_of_registration,
)
from workers.core.limits.profiles import CaProfile, builtin_profiles, parse_ca_limits
from workers.core.limits.refusal import has_registered, refused_spends
from workers.core.limits.registered_domain import registered_domains
from workers.core.limits.waiting_line import Line, first_turn
from workers.core.model import Certificate, Problem

_OF_ACCOUNT = (
    LimitName.ORDERS_PER_ACCOUNT,
    LimitName.FAILURES_PER_NAME,
    LimitName.CONSECUTIVE_FAILURES_PER_NAME,
)
_WITHOUT_A_TIME = timedelta(hours=1)
"""How long a refusal is believed that names no time; the job itself asks again then (`core.deciding.retry`)."""
_REGISTERING = timedelta(minutes=1)
"""How long after its turn a job has mostly registered its server's account."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Who asks the CA.

    Attributes:
        account: the account's URI, where the server has one at this CA; None: certbot will register one.
        address: the address that the CA sees a registration come from.
    """

    account: str | None
    address: str


@dataclass(frozen=True, slots=True)
class Wait:
    """What a job that the limits hold back is told.

    Attributes:
        turn_at: when it can go, UTC.
        limit: the limit that makes it wait longest.
        bucket: one word for its bucket, as a waiting job keeps it.
    """

    turn_at: datetime
    limit: LimitName
    bucket: str


class Ledger:
    """What orders at one CA cost; without known limits everything is allowed and nothing is kept."""

    def __init__(self, directory_url: str, limits_file: Path | None) -> None:
        """Read the CA's figures.

        Raises:
            CaLimitsError: the file is wrong; the message names the field.
            OSError: it cannot be read.
        """
        profiles = builtin_profiles()
        if limits_file is not None:
            profiles = profiles.overridden_by(parse_ca_limits(limits_file.read_text("utf-8")))
        self.profile: CaProfile = profiles.of(directory_url)

    @property
    def _ca(self) -> str:
        return self.profile.directory_url

    def learn(self, conn: Connection, job: HeldJob, payer: Payer, certificate: Certificate | None) -> None:
        """Take in what a look at the server says, in a transaction of its own before COUNT.

        A server's account buckets are keyed by the server until its account is known; then what it spent and reserved
        is the account's. A newer certificate for a set that we had issued comes from the server's own timer.
        """
        known = ca_memory.account_of(conn, job.server_key, self._ca)
        if known != payer.account:
            ca_memory.note_account(conn, job.server_key, self._ca, payer.account)
            if payer.account is not None:
                limits.move(conn, _OF_ACCOUNT, f"{self._ca}|{job.server_key}", f"{self._ca}|{payer.account}")
        if certificate is not None:
            ca_memory.note_seen(conn, self._ca, exact_set_hash(certificate.names), certificate.not_before)

    def spends(self, conn: Connection, job: HeldJob, payer: Payer, now: datetime) -> tuple[Spend, ...]:
        """What an order for the job's names needs, a registration included where the server has no account yet."""
        if not self.profile.limits:
            return ()
        order = Order(
            account=payer.account,
            server_key=job.server_key,
            names=job.names,
            registered_domains=registered_domains(job.names),
            last_issued_at=ca_memory.last_issued_at(conn, self._ca, exact_set_hash(job.names)),
        )
        registration = () if payer.account else spends_of_registration(self.profile, payer.address)
        return *registration, *spends_of_order(self.profile, order, now)

    def reserve(self, conn: Connection, job: HeldJob, spends: Sequence[Spend]) -> Refused | None:
        """Reserve all of it or nothing."""
        return limits.reserve(conn, job.claim.job_id, _ledger_spends(spends))

    def wait_for_turn(self, conn: Connection, job: HeldJob, spends: Sequence[Spend]) -> Wait:
        """Promise the job its turn, behind those that wait for the same buckets already (`core.limits.waiting_line`).

        Args:
            conn: the transaction that makes the job wait.
            job: the job, which `reserve` has refused.
            spends: what it needs.
        """
        now = pool.now(conn)
        registers = [one for one in spends if one.paid_by is PaidBy.REGISTRATION]
        names = [one.limit.name.value for one in registers]
        first_at = limits.turn_of_server(conn, job.claim.job_id, job.server_key, names) if registers else None
        if first_at is None:
            return self._line_up(conn, job, spends, not_before=now, place=None, now=now)
        # Another job of the server registers the account that this one will use: a registration each would keep
        # hundreds of sites of one new server waiting for days.
        others = [one for one in spends if one.paid_by is not PaidBy.REGISTRATION]
        after = max(first_at, now) + _REGISTERING
        return self._line_up(conn, job, others, not_before=after, place=None, now=now)

    def wait_after_refusal(
        self, conn: Connection, job: HeldJob, closed: ClosedAttempt, problem: Problem
    ) -> Wait | None:
        """Promise a turn to a job whose order the CA has refused, once the attempt is settled.

        It had its tokens, so it goes before those that were promised a later turn.

        Returns:
            None where the CA named no time or no limit that we keep.
        """
        if problem.code is not Code.TOO_MANY_REQUESTS or problem.retry_at is None:
            return None
        spends = self._stored_spends(conn, job, outcomes.read_attempt(conn, job))
        if not refused_spends(spends, problem.evidence, problem.names):
            return None
        if has_registered(closed.fate, closed.code, problem.evidence):
            spends = [one for one in spends if one.paid_by is not PaidBy.REGISTRATION]
        now = pool.now(conn)
        return self._line_up(conn, job, spends, not_before=max(problem.retry_at, now), place=now, now=now)

    def _line_up(
        self,
        conn: Connection,
        job: HeldJob,
        spends: Sequence[Spend],
        *,
        not_before: datetime,
        place: datetime | None,
        now: datetime,
    ) -> Wait:
        wanted = _ledger_spends(spends)
        rows = limits.lines(conn, job.claim.job_id, wanted, place=place)
        lines = [
            Line(one.limit, row.bucket, row.ahead, one.cost) for one, row in zip(spends, rows, strict=True)
        ]
        turn = first_turn(lines, not_before=not_before, now=now)
        limits.line_up(conn, job.claim.job_id, wanted, turn.at, place=place)
        strictest = spends[turn.strictest]
        return Wait(turn.at, strictest.limit.name, f"{strictest.limit.name}|{strictest.key}")

    def settle(self, conn: Connection, job: HeldJob, closed: ClosedAttempt, problem: Problem | None) -> None:
        """End the reservations of the attempt that is being closed, and take what its failure costs."""
        counted = outcomes.read_attempt(conn, job)
        spends = self._stored_spends(conn, job, counted)
        if not spends:
            return
        registered = has_registered(closed.fate, closed.code, problem.evidence if problem else ())
        limits.settle(
            conn,
            [
                (wanted, registered if one.paid_by is PaidBy.REGISTRATION else one.is_spent(closed.fate))
                for one, wanted in zip(spends, _ledger_spends(spends), strict=True)
                if not one.only_asks
            ],
        )
        if not all(one.key.startswith(f"{self._ca}|") for one in spends):
            return  # the setting names another CA now: nothing more is ever asked of this one
        if closed.fate is OrderFate.ISSUED:
            ca_memory.note_issued(conn, self._ca, exact_set_hash(job.names), counted.opened_at)
            payer = self._payer(conn, job, counted)
            limits.fill(conn, _ledger_spends(reset_by_success(self.profile, payer, job.names)))
        else:
            self._charge(conn, job, counted, closed)
            self._believe(conn, spends, problem)

    def _charge(self, conn: Connection, job: HeldJob, counted: CountedAttempt, closed: ClosedAttempt) -> None:
        """Each name whose validation failed has cost a failure; where nobody saw how far the run came, each has."""
        unknown = closed.code is Code.INTERRUPTED and closed.fate is OrderFate.UNKNOWN
        failed = job.names if unknown else closed.failed_names
        payer = self._payer(conn, job, counted)
        limits.spend(conn, _ledger_spends(spends_of_failure(self.profile, payer, failed)))

    def _believe(self, conn: Connection, spends: Sequence[Spend], problem: Problem | None) -> None:
        """The CA refused although our buckets allowed it: others spend them too."""
        if problem is not None and problem.code is Code.TOO_MANY_REQUESTS:
            retry_at = problem.retry_at or pool.now(conn) + _WITHOUT_A_TIME
            about = refused_spends(spends, problem.evidence, problem.names)
            for one, wanted in zip(about, _ledger_spends(about), strict=True):
                at_once = one.paid_by in {PaidBy.ORDER, PaidBy.REGISTRATION}
                limits.believe_refusal(conn, wanted, retry_at, reserved_are_counted=at_once)

    def _payer(self, conn: Connection, job: HeldJob, counted: CountedAttempt) -> str:
        """Whose account buckets the attempt touches: the server's account, once that is known."""
        payer = str(counted.spec.get("payer") or job.server_key)
        if payer == job.server_key:
            payer = ca_memory.account_of(conn, job.server_key, self._ca) or payer
        return payer

    def _stored_spends(self, conn: Connection, job: HeldJob, counted: CountedAttempt) -> list[Spend]:
        """What was reserved with COUNT. Where `learn` has moved the server's buckets meanwhile, it lies there now."""
        spends = [_spend_from_json(stored) for stored in counted.spends]
        of_server = f"{self._ca}|{job.server_key}"
        of_payer = f"{self._ca}|{self._payer(conn, job, counted)}"
        return [
            replace(one, key=of_payer + one.key.removeprefix(of_server))
            if one.limit.name in _OF_ACCOUNT and f"{one.key}|".startswith(f"{of_server}|")
            else one
            for one in spends
        ]


def spends_to_json(spends: Sequence[Spend]) -> list[dict[str, object]]:
    """Write spends for `job_attempt.spends`, figures included: a setting may change while an attempt is open."""
    return [
        {
            "limit": one.limit.name.value, "count": one.limit.count, "period_seconds": one.limit.period_seconds,
            "burst": one.limit.burst, "key": one.key, "paid_by": one.paid_by.value, "cost": one.cost,
        }
        for one in spends
    ]  # fmt: skip


def _spend_from_json(stored: dict[str, Any]) -> Spend:
    limit = Limit(LimitName(stored["limit"]), stored["count"], stored["period_seconds"], stored["burst"])
    return Spend(limit, stored["key"], PaidBy(stored["paid_by"]), stored["cost"])


def _ledger_spends(spends: Sequence[Spend]) -> list[LedgerSpend]:
    return [
        LedgerSpend(
            one.limit.name.value, one.key, one.cost, one.only_asks, one.limit.emission, one.limit.burst_offset
        )
        for one in spends
    ]
