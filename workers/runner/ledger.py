"""The ledger of the CA's limits around one attempt: reserved with COUNT, settled when the attempt is closed (B.7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from contracts.codes import Code
from db import limits, outcomes
from db.claims import HeldJob
from db.limits import LedgerSpend, Refused
from db.outcomes import ClosedAttempt
from db.pool import Connection
from workers.core.ca_costs import (
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
from workers.core.ca_profiles import CaProfile, builtin_profiles, parse_ca_limits
from workers.core.limits import Limit, LimitName
from workers.core.model import Problem
from workers.core.refusal import refused_limit
from workers.core.registered_domain import registered_domain


@dataclass(frozen=True, slots=True)
class Payer:
    """Who asks the CA.

    Attributes:
        account: the account's URI, where the server has one at this CA; None: certbot will register one.
        address: the address that the CA sees a registration come from.
    """

    account: str | None
    address: str


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
        self._directory_url = directory_url
        self.profile: CaProfile = profiles.of(directory_url)

    def spends(self, conn: Connection, job: HeldJob, payer: Payer, now: datetime) -> tuple[Spend, ...]:
        """What an order for the job's names needs, a registration included where the server has no account yet."""
        if not self.profile.limits:
            return ()
        order = Order(
            account=payer.account,
            server_key=job.server_key,
            names=job.names,
            registered_domains=tuple(sorted({registered_domain(name) for name in job.names})),
            last_issued_at=limits.last_issued_at(conn, self.profile.directory_url, exact_set_hash(job.names)),
        )
        registration = () if payer.account else spends_of_registration(self.profile, payer.address)
        return *registration, *spends_of_order(self.profile, order, now)

    def reserve(self, conn: Connection, spends: Sequence[Spend]) -> Refused | None:
        """Reserve all of it or nothing."""
        return limits.reserve(conn, [_ledger_spend(one) for one in spends])

    def turn_at(self, conn: Connection, refused: Refused, spends: Sequence[Spend]) -> datetime:
        """When it is this job's turn: behind those that wait for the same bucket already, one emission each."""
        emission = next(
            (
                one.limit.emission
                for one in spends
                if one.limit.name == refused.limit_name and one.key == refused.key
            ),
            timedelta(0),
        )
        return refused.free_at + emission * limits.waiting_ahead(conn, bucket_name(refused))

    def settle(self, conn: Connection, job: HeldJob, closed: ClosedAttempt, problem: Problem | None) -> None:
        """End the reservations of the attempt that is being closed, and take what its failure costs."""
        counted = outcomes.read_attempt(conn, job)
        spends = [_spend_from_json(stored) for stored in counted.spends]
        if not spends:
            return
        limits.settle(
            conn,
            [(_ledger_spend(one), one.is_spent(closed.fate)) for one in spends if not one.only_asks],
        )
        payer = str(counted.spec.get("payer") or job.server_key)
        if closed.fate is OrderFate.ISSUED:
            limits.note_issued(conn, self.profile.directory_url, exact_set_hash(job.names))
            limits.fill(conn, _ledger_spends(reset_by_success(self.profile, payer, job.names)))
        elif problem is not None:
            self._charge(conn, job, payer, spends, problem)

    def _charge(
        self, conn: Connection, job: HeldJob, payer: str, spends: Sequence[Spend], problem: Problem
    ) -> None:
        if problem.code is Code.TOO_MANY_REQUESTS and problem.retry_at is not None:
            limit = refused_limit(problem.evidence)
            for one in spends:
                if one.limit.name == limit and (
                    not problem.names or limit not in _PER_NAME or _concerns(one, problem)
                ):
                    limits.believe_refusal(conn, _ledger_spend(one), problem.retry_at)
        elif problem.code in _FAILED_VALIDATIONS:
            names = tuple(name for name in problem.names if name in job.names) or job.names
            limits.spend(conn, _ledger_spends(spends_of_failure(self.profile, payer, names)))


_PER_NAME = frozenset({LimitName.FAILURES_PER_NAME, LimitName.CERTIFICATES_PER_REGISTERED_DOMAIN})
_FAILED_VALIDATIONS = frozenset(
    {
        Code.DNS_NOT_RESOLVING, Code.DNS_WRONG_SERVER, Code.PORT_80_BLOCKED, Code.PORT_443_BLOCKED, Code.GEO_BLOCKED,
        Code.CHALLENGE_FAILED, Code.REDIRECT_LOOP, Code.CAA_FORBIDS, Code.CLOUDFLARE_STRICT_ORIGIN,
        Code.CLOUDFLARE_ORIGIN_DOWN, Code.CLOUDFLARE_FLEXIBLE_LOOP,
    }
)  # fmt: skip


def bucket_name(refused: Refused) -> str:
    """One word for a bucket, as a waiting job keeps it."""
    return f"{refused.limit_name}|{refused.key}"


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
    return [_ledger_spend(one) for one in spends]


def _ledger_spend(one: Spend) -> LedgerSpend:
    return LedgerSpend(
        one.limit.name.value, one.key, one.cost, one.only_asks, one.limit.emission, one.limit.burst_offset
    )


def _concerns(one: Spend, problem: Problem) -> bool:
    return any(
        one.key.endswith(f"|{name}") or name.endswith(one.key.rpartition("|")[2]) for name in problem.names
    )
