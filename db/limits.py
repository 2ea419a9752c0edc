"""Tables limit_bucket, issued_set, server_account: the ledger of the CA's limits (DESIGN B.7).

The arithmetic is that of `workers.core.limits`; a test holds the two against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db.pool import Connection


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
    """The bucket that frees last, and when; UTC by `certpilot_now()`."""

    limit_name: str
    key: str
    free_at: datetime


def reserve(conn: Connection, spends: Sequence[LedgerSpend]) -> Refused | None:
    """Reserve every bucket or none, in one statement.

    Returns:
        None when all of them allow it; else the one that frees last.
    """
    if not spends:
        return None
    row = conn.execute(
        "select allowed, refused_limit, refused_key, free_at from reserve_limits(%s, %s, %s, %s, %s, %s)",
        (
            [s.limit_name for s in spends], [s.key for s in spends], [s.cost for s in spends],
            [s.only_asks for s in spends], [s.emission for s in spends], [s.burst for s in spends],
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
            [s.limit_name for s, _ in spends], [s.key for s, _ in spends], [s.cost for s, _ in spends],
            [spent for _, spent in spends], [s.emission for s, _ in spends],
        ),
    )  # fmt: skip


def spend(conn: Connection, spends: Sequence[LedgerSpend]) -> None:
    """Take tokens that were not reserved: failed validations, a new account."""
    for one in spends:
        conn.execute(
            "insert into limit_bucket (limit_name, key, tat) values (%(name)s, %(key)s, certpilot_now() + %(step)s)"
            " on conflict (limit_name, key) do update"
            " set tat = greatest(coalesce(limit_bucket.tat, certpilot_now()), certpilot_now()) + %(step)s",
            {"name": one.limit_name, "key": one.key, "step": one.emission * one.cost},
        )


def fill(conn: Connection, spends: Sequence[LedgerSpend]) -> None:
    """Fill buckets up: a success ends the row of consecutive failures."""
    for one in spends:
        conn.execute(
            "update limit_bucket set tat = null where limit_name = %s and key = %s", (one.limit_name, one.key)
        )


def believe_refusal(conn: Connection, refused: LedgerSpend, retry_at: datetime) -> None:
    """The CA refused although our bucket allowed (others spend it too): it allows this spend not before `retry_at`."""
    tat = retry_at + refused.burst - refused.emission * refused.cost
    conn.execute(
        "insert into limit_bucket (limit_name, key, tat) values (%s, %s, %s) on conflict (limit_name, key) do update"
        " set tat = greatest(coalesce(limit_bucket.tat, excluded.tat), excluded.tat)",
        (refused.limit_name, refused.key, tat),
    )


def last_issued_at(conn: Connection, directory_url: str, set_hash: str) -> datetime | None:
    """When a certificate for exactly this set was last issued through us; UTC."""
    row = conn.execute(
        "select issued_at from issued_set where directory_url = %s and set_hash = %s",
        (directory_url, set_hash),
    ).fetchone()
    return None if row is None else row[0]


def note_issued(conn: Connection, directory_url: str, set_hash: str) -> None:
    """Remember that a certificate for this set was issued now."""
    conn.execute(
        "insert into issued_set (directory_url, set_hash, issued_at) values (%s, %s, certpilot_now())"
        " on conflict (directory_url, set_hash) do update set issued_at = excluded.issued_at",
        (directory_url, set_hash),
    )


def account_of(conn: Connection, server_key: str, directory_url: str) -> str | None:
    """The ACME account that the server uses at this CA, where it is known."""
    row = conn.execute(
        "select account from server_account where server_key = %s and directory_url = %s",
        (server_key, directory_url),
    ).fetchone()
    return None if row is None else row[0]


def note_account(conn: Connection, server_key: str, directory_url: str, account: str) -> None:
    """Remember the server's ACME account at this CA."""
    conn.execute(
        "insert into server_account (server_key, directory_url, account) values (%s, %s, %s)"
        " on conflict (server_key, directory_url) do update set account = excluded.account"
        " where server_account.account <> excluded.account",
        (server_key, directory_url, account),
    )


def waiting_ahead(conn: Connection, limit: str) -> int:
    """How many jobs wait for this bucket already."""
    row = conn.execute(
        "select count(*) from job where state = 'waiting' and waits_for_limit = %s", (limit,)
    ).fetchone()
    return 0 if row is None else int(row[0])
