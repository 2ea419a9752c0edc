"""Who may write to a job: claim, guard, renew, release (PROTOCOL 1). Tables lease and job, always in that order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from contracts.codes import Code
from db import pauses
from db.pool import Connection
from db.sites import server_of
from workers.core.model import Fence, JobId, JobKind, Server


class Unclaimable(Enum):
    """Why a job was left; in each case the message is acknowledged and the scheduler offers the job again."""

    GONE = "gone"  # no such job, or it is neither queued nor running
    BUSY = "busy"  # somebody holds one of its leases
    SHARED_NAME = (
        "shared name"  # another job with one of its names runs or has an open attempt (PROTOCOL 4.6)
    )
    PAUSED = "paused"  # an operator paused everything or this server


@dataclass(frozen=True, slots=True)
class Claim:
    """Proof of a claim; every later write presents it.

    Attributes:
        job_id: the job.
        owner: uuid of this one claim.
        fence: the fence of the server's lease.
        keys: the lease keys held, sorted.
    """

    job_id: JobId
    owner: UUID
    fence: Fence
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeldJob:
    """The job's row as read under the guard; only its holder writes to it while the transaction lasts."""

    claim: Claim
    site_id: str
    kind: JobKind
    epoch: int
    domain: str
    names: tuple[str, ...]
    server: Server
    server_key: str
    force: bool
    command_id: str | None
    command_source: str | None
    attempt: int
    attempt_open: bool
    fails: int
    failing_since: datetime | None
    crashes: int
    serial_before: str | None
    superseded_by: JobId | None
    cancel_requested: bool
    error_code: Code | None
    admitted_at: datetime
    revoke: bool

    @property
    def is_own_renewal(self) -> bool:
        """Whether certpilot renews because the server has not: no command asked for it."""
        return self.kind is JobKind.RENEW and self.command_id is None


class ClaimLostError(Exception):
    """The leases went to somebody else, or the job ended: write nothing, drop the job."""


def claim(conn: Connection, job_id: JobId, owner: UUID, lease_seconds: float) -> HeldJob | Unclaimable:
    """Take all leases of the job and the job itself, or nothing.

    Run it in a transaction of its own and roll back unless a `HeldJob` came: a half-taken set of leases must not stay.

    Args:
        conn: inside a transaction.
        job_id: the job.
        owner: a fresh uuid for this one claim.
        lease_seconds: how long the leases last without `renew`.
    """
    row = conn.execute(
        "select server_key, names, server_host from job where id = %s and state in ('queued', 'running')",
        (job_id,),
    ).fetchone()
    if row is None:
        return Unclaimable.GONE
    if pauses.is_paused(conn, row[2]):
        return Unclaimable.PAUSED
    server_key: str = row[0]
    keys = tuple(sorted({server_key, *(f"domain:{name}" for name in row[1])}))
    conn.execute("insert into lease (key) select unnest(%s::text[]) on conflict do nothing", (list(keys),))
    conn.execute("select 1 from lease where key = any(%s) order by key for update", (list(keys),))
    # The fence is greater than the last one and than the milliseconds since 1970, so that a database restored from a
    # backup does not lock itself out of its servers.
    taken = conn.execute(
        "update lease set owner = %s,"
        " fence = greatest(fence + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint),"
        " expires_at = clock_timestamp() + make_interval(secs => %s)"
        " where key = any(%s) and lease_over(expires_at) returning key, fence",
        (owner, lease_seconds, list(keys)),
    ).fetchall()
    if len(taken) != len(keys):
        return Unclaimable.BUSY
    fences: dict[str, int] = dict(taken)
    fence = Fence(fences[server_key])
    won = conn.execute(
        "update job set state = 'running', fence = %s, started_at = coalesce(started_at, certpilot_now()),"
        " run_at = null, retry_at = null, updated_at = certpilot_now()"
        " where id = %s and state in ('queued', 'running') and not exists ("
        "  select 1 from job o where o.id <> job.id and o.names && job.names and (o.state = 'running' or o.attempt_open))",
        (fence, job_id),
    )
    if won.rowcount == 0:
        return Unclaimable.SHARED_NAME
    return hold(conn, Claim(job_id, owner, fence, keys))


def hold(conn: Connection, held: Claim) -> HeldJob:
    """The guard of every write: all leases, locked, are still this claim's, and the job still runs under its fence.

    Also the RELOAD after a lost commit reply: the row lock waits for an undecided commit.

    Raises:
        ClaimLostError: they are not; nothing may be written.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            "with l as materialized (select owner from lease where key = any(%s) order by key for update),"
            " g as (select 1 from l having count(*) filter (where owner = %s) = %s)"
            " select j.site_id, j.kind, j.epoch, j.domain, j.names, j.server_host, j.server_port, j.server_username,"
            " j.server_host_key, j.server_public_addresses, j.server_key, j.force, j.command_id, j.command_source,"
            " j.attempt, j.attempt_open, j.fails, j.failing_since, j.crashes, j.serial_before, j.superseded_by,"
            " j.cancel_requested, j.error_code, j.admitted_at, j.revoke"
            " from g, job j where j.id = %s and j.state = 'running' and j.fence = %s for update of j",
            (list(held.keys), held.owner, len(held.keys), held.job_id, held.fence),
        ).fetchone()
    if row is None:
        raise ClaimLostError(held.job_id)
    return _held(held, row)


def _held(held: Claim, row: dict[str, Any]) -> HeldJob:
    superseded_by = row["superseded_by"]
    return HeldJob(
        claim=held,
        site_id=row["site_id"],
        kind=JobKind(row["kind"]),
        epoch=row["epoch"],
        domain=row["domain"],
        names=tuple(row["names"]),
        server=server_of(row),
        server_key=row["server_key"],
        force=row["force"],
        command_id=row["command_id"],
        command_source=row["command_source"],
        attempt=row["attempt"],
        attempt_open=row["attempt_open"],
        fails=row["fails"],
        failing_since=row["failing_since"],
        crashes=row["crashes"],
        serial_before=row["serial_before"],
        superseded_by=JobId(str(superseded_by)) if superseded_by else None,
        cancel_requested=row["cancel_requested"],
        error_code=Code(row["error_code"]) if row["error_code"] else None,
        admitted_at=row["admitted_at"],
        revoke=row["revoke"],
    )


def renew(conn: Connection, held: Claim, lease_seconds: float) -> bool:
    """Prolong all leases of the claim; False when one is no longer its own: stop working on the job."""
    renewed = conn.execute(
        "update lease set expires_at = clock_timestamp() + make_interval(secs => %s) where key = any(%s) and owner = %s",
        (lease_seconds, list(held.keys), held.owner),
    )
    return renewed.rowcount == len(held.keys)


def release(conn: Connection, held: Claim) -> None:
    """Give the leases back; the fences stay."""
    conn.execute(
        "update lease set expires_at = '-infinity' where key = any(%s) and owner = %s",
        (list(held.keys), held.owner),
    )


def renew_all(conn: Connection, held: Sequence[Claim], lease_seconds: float) -> set[UUID]:
    """Prolong the leases of many claims in one statement.

    A claim that was given back a moment ago stays given back: its holder's list is older than the release, and a lease
    that came to life again would keep the job's next claim out.

    Returns:
        Owners whose claim nobody has taken; the work of every other one must stop.
    """
    keys = [key for one in held for key in one.keys]
    owners = [one.owner for one in held for _ in one.keys]
    owned = conn.execute(
        "with l as materialized (select l.key, l.owner, l.expires_at from lease l"
        "   join unnest(%s::text[], %s::uuid[]) as u(key, owner) on l.key = u.key and l.owner = u.owner"
        "   order by l.key for update of l),"
        " renewed as (update lease set expires_at = clock_timestamp() + make_interval(secs => %s) from l"
        "   where lease.key = l.key and l.expires_at <> '-infinity')"
        " select owner from l",
        (keys, owners, lease_seconds),
    ).fetchall()
    counts = Counter(row[0] for row in owned)
    return {one.owner for one in held if counts[one.owner] == len(one.keys)}
