"""Tables limit_bucket and limit_wait: the ledger of the CA's limits (DESIGN B.7).

The arithmetic is that of `workers.core.limits.buckets` and `workers.core.limits.waiting_line`; tests hold them against each other.

Within one transaction the buckets of a job are locked by one call each of `reserve`, `settle`, `spend` or `lines`, in
the order of their keys; a second call locks what the first one has locked, or what nobody but the holder of the job's
leases touches (failures of its names, its own server's buckets). So no two transactions wait for each other.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db.pool import Connection
from workers.core.limits.buckets import Bucket
from workers.core.limits.waiting_line import PLACE_KEPT
from workers.core.model import JobId


@dataclass(frozen=True, slots=True)
class LedgerSpend:
    """Tokens of one bucket.

    Attributes:
        limit_name: the limit.
        key: the bucket.
        cost: tokens.
        only_asks: they must be there, but are not taken.
        emission: the time in which one token comes back.
        burst: the time in which an empty bucket fills.
    """

    limit_name: str
    key: str
    cost: int
    only_asks: bool
    emission: timedelta
    burst: timedelta


@dataclass(frozen=True, slots=True)
class Refused:
    """The bucket that frees last, and when, if nobody else comes; UTC by `certpilot_now()`."""

    limit_name: str
    key: str
    free_at: datetime


@dataclass(frozen=True, slots=True)
class LineRow:
    """One bucket as stored, locked, and the turns promised to those ahead of a job, in their order."""

    bucket: Bucket
    ahead: tuple[datetime, ...]


def reserve(conn: Connection, job_id: JobId, spends: Sequence[LedgerSpend]) -> Refused | None:
    """Reserve every bucket or none, in one statement; a job that gets them has left its lines.

    Returns:
        None when all of them allow it; else the one that frees last.
    """
    if not spends:
        return None
    row = conn.execute(
        "select allowed, refused_limit, refused_key, free_at from reserve_limits(%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            job_id, *_names_and_keys(spends), [s.cost for s in spends], [s.only_asks for s in spends],
            [s.emission for s in spends], [s.burst for s in spends], PLACE_KEPT,
        ),
    ).fetchone()  # fmt: skip
    assert row is not None
    return None if row[0] else Refused(row[1], row[2], row[3])


def settle(conn: Connection, spends: Sequence[tuple[LedgerSpend, bool]]) -> None:
    """End reservations: each with whether the CA took its tokens."""
    if not spends:
        return
    conn.execute(
        "select settle_limits(%s, %s, %s, %s, %s)",
        (
            *_names_and_keys([s for s, _ in spends]), [s.cost for s, _ in spends],
            [spent for _, spent in spends], [s.emission for s, _ in spends],
        ),
    )  # fmt: skip


def spend(conn: Connection, spends: Sequence[LedgerSpend]) -> None:
    """Take tokens that were not reserved: failed validations."""
    if spends:
        conn.execute(
            "select spend_limits(%s, %s, %s, %s)",
            (*_names_and_keys(spends), [s.cost for s in spends], [s.emission for s in spends]),
        )


def fill(conn: Connection, spends: Sequence[LedgerSpend]) -> None:
    """Fill buckets up: a success ends the row of consecutive failures."""
    if spends:
        conn.execute(
            "update limit_bucket b set tat = certpilot_now() from unnest(%s::text[], %s::text[]) as u(n, k)"
            " where b.limit_name = u.n and b.key = u.k and b.tat > certpilot_now()",
            _names_and_keys(spends),
        )


def believe_refusal(
    conn: Connection, refused: LedgerSpend, retry_at: datetime, *, reserved_are_counted: bool = False
) -> None:
    """The CA refused although our bucket allowed (others spend it too): it allows this spend not before `retry_at`.

    Args:
        conn: the transaction that has ended the refused order's own reservation.
        refused: what was refused.
        retry_at: the CA's time, UTC.
        reserved_are_counted: that time has our other orders under way in it (`core.limits.buckets.refused_until`).
    """
    tat = retry_at + refused.burst - refused.emission * refused.cost
    conn.execute(
        "insert into limit_bucket (limit_name, key, tat) values (%(name)s, %(key)s, %(tat)s)"
        " on conflict (limit_name, key) do update"
        " set tat = greatest(limit_bucket.tat, excluded.tat - %(counted)s * limit_bucket.reserved)",
        {
            "name": refused.limit_name, "key": refused.key, "tat": tat,
            "counted": refused.emission if reserved_are_counted else timedelta(0),
        },
    )  # fmt: skip


def lines(
    conn: Connection, job_id: JobId, spends: Sequence[LedgerSpend], *, place: datetime | None = None
) -> tuple[LineRow, ...]:
    """Lock the buckets and read who is ahead of a job in each.

    Args:
        conn: the transaction that will `line_up` the job.
        job_id: the job.
        spends: what it needs.
        place: its place where it has none yet; None: behind all that wait.

    Returns:
        A row per spend, in their order. Nobody is ahead in a bucket that the job only asks.
    """
    conn.execute("select lock_limits(%s, %s)", _names_and_keys([one for one in spends if not one.only_asks]))
    names, keys = _names_and_keys(spends)
    stored = {
        (row[0], row[1]): Bucket(row[2], row[3])
        for row in conn.execute(
            "select b.limit_name, b.key, b.tat, b.reserved from limit_bucket b"
            " join unnest(%s::text[], %s::text[]) as u(n, k) on b.limit_name = u.n and b.key = u.k",
            (names, keys),
        )
    }
    ahead: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for limit_name, key, turn_at in conn.execute(
        "select l.limit_name, l.key, l.turn_at from limit_wait l"
        " join unnest(%(names)s::text[], %(keys)s::text[]) as u(n, k) on l.limit_name = u.n and l.key = u.k"
        " where l.job_id <> %(job)s and l.turn_at > certpilot_now() - %(kept)s and l.place <"
        " coalesce((select min(place) from limit_wait where job_id = %(job)s), %(place)s::timestamptz, 'infinity')"
        " order by l.turn_at",
        {"names": names, "keys": keys, "job": job_id, "kept": PLACE_KEPT, "place": place},
    ):
        ahead[limit_name, key].append(turn_at)
    return tuple(
        LineRow(
            stored.get((one.limit_name, one.key), Bucket()),
            () if one.only_asks else tuple(ahead[one.limit_name, one.key]),
        )
        for one in spends
    )


def line_up(
    conn: Connection,
    job_id: JobId,
    spends: Sequence[LedgerSpend],
    turn_at: datetime,
    *,
    place: datetime | None = None,
) -> None:
    """Promise the job its turn in every bucket that it will take from, and nowhere else.

    Args:
        conn: the transaction in which `lines` locked the buckets.
        job_id: the job.
        spends: what it needs.
        turn_at: its turn, UTC.
        place: its place where it has none yet; None: its turn.
    """
    left = conn.execute(
        "with gone as (delete from limit_wait where job_id = %s returning place) select min(place) from gone",
        (job_id,),
    ).fetchone()
    kept = left[0] if left is not None else None
    conn.execute(
        "insert into limit_wait (job_id, limit_name, key, place, turn_at)"
        " select %s, u.n, u.k, %s, %s from unnest(%s::text[], %s::text[]) as u(n, k)",
        (
            job_id, kept or place or turn_at, turn_at,
            *_names_and_keys([one for one in spends if not one.only_asks]),
        ),
    )  # fmt: skip


def turn_of_server(
    conn: Connection, job_id: JobId, server_key: str, limit_names: Sequence[str]
) -> datetime | None:
    """The earliest turn that another job of this server was promised in a line of these limits; UTC."""
    row = conn.execute(
        "select min(l.turn_at) from limit_wait l join job j on j.id = l.job_id"
        " where j.server_key = %s and j.state in ('queued', 'running', 'waiting') and l.job_id <> %s"
        " and l.limit_name = any(%s) and l.turn_at > certpilot_now() - %s",
        (server_key, job_id, list(limit_names), PLACE_KEPT),
    ).fetchone()
    return None if row is None else row[0]


def move(conn: Connection, limit_names: Sequence[str], from_key: str, to_key: str) -> None:
    """Let one payer's buckets and waits be another's from now on; keys that go on behind `from_key` go on likewise."""
    conn.execute("select move_limits(%s, %s, %s)", (list(limit_names), from_key, to_key))


def prune(conn: Connection, limit: int) -> int:
    """Delete buckets that are full again, which says the same as no row; at most `limit` of them.

    Returns:
        How many were deleted.
    """
    return conn.execute(
        "delete from limit_bucket where (limit_name, key) in (select limit_name, key from limit_bucket"
        " where reserved = 0 and tat <= certpilot_now() limit %s for update skip locked)",
        (limit,),
    ).rowcount


def _names_and_keys(spends: Sequence[LedgerSpend]) -> tuple[list[str], list[str]]:
    return [one.limit_name for one in spends], [one.key for one in spends]
