"""Tables issued_set and server_account: what the CA remembers too, as far as its limits go by it (DESIGN B.7)."""

from datetime import datetime

from db.pool import Connection


def last_issued_at(conn: Connection, directory_url: str, set_hash: str) -> datetime | None:
    """When a certificate for exactly this set was last issued, as far as we know; UTC."""
    row = conn.execute(
        "select issued_at from issued_set where directory_url = %s and set_hash = %s",
        (directory_url, set_hash),
    ).fetchone()
    return None if row is None else row[0]


def note_issued(conn: Connection, directory_url: str, set_hash: str, opened_at: datetime) -> None:
    """Remember that a certificate for this set was issued, by an attempt that was counted at `opened_at` (real time).

    The CA did it later than that, so it takes the set for renewable at least as long as we do.
    """
    conn.execute(
        "insert into issued_set (directory_url, set_hash, issued_at)"
        " values (%s, %s, %s + (certpilot_now() - clock_timestamp()))"
        " on conflict (directory_url, set_hash) do update set issued_at = excluded.issued_at",
        (directory_url, set_hash, opened_at),
    )


def note_seen(conn: Connection, directory_url: str, set_hash: str, issued_at: datetime) -> None:
    """Remember a newer certificate for a set that was issued through us before: the server's own timer renewed it.

    One for a set that we never had is left alone: it may be another CA's.
    """
    conn.execute(
        "update issued_set set issued_at = %s where directory_url = %s and set_hash = %s and issued_at < %s",
        (issued_at, directory_url, set_hash, issued_at),
    )


def account_of(conn: Connection, server_key: str, directory_url: str) -> str | None:
    """The ACME account that the server uses at this CA, where it is known."""
    row = conn.execute(
        "select account from server_account where server_key = %s and directory_url = %s",
        (server_key, directory_url),
    ).fetchone()
    return None if row is None else row[0]


def note_account(conn: Connection, server_key: str, directory_url: str, account: str | None) -> None:
    """Remember the server's ACME account at this CA, or that it has none (any more)."""
    conn.execute(
        "delete from server_account where server_key = %s and directory_url = %s", (server_key, directory_url)
    )
    if account is not None:
        conn.execute(
            "insert into server_account (server_key, directory_url, account) values (%s, %s, %s)",
            (server_key, directory_url, account),
        )


def prune_issued(conn: Connection, limit: int) -> int:
    """Forget sets that no CA takes for a renewal any more, at most `limit` of them; how many."""
    return conn.execute(
        "delete from issued_set where (directory_url, set_hash) in (select directory_url, set_hash from issued_set"
        " where issued_at < certpilot_now() - interval '400 days' limit %s)",
        (limit,),
    ).rowcount
