"""Connections to PostgreSQL: the pool, transactions, and the database's clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeAlias

import psycopg
from psycopg_pool import ConnectionPool

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Pool: TypeAlias = ConnectionPool[Connection]

DatabaseError = psycopg.Error
"""Any trouble with the database; roles catch it to try again."""

DataError = psycopg.DataError
"""PostgreSQL cannot hold a value."""

OperationalError = psycopg.OperationalError
"""The connection is gone or cannot be made: the transaction's fate may be unknown (PROTOCOL 4.7)."""

_SESSION_OPTIONS = (
    "-c timezone=UTC"
    # A client that stalls inside a transaction would hold row locks that every other runner waits for.
    " -c idle_in_transaction_session_timeout=60s"
)


def connection_arguments(application: str) -> dict[str, Any]:
    """Arguments that every connection of ours is made with, beside the URL.

    Args:
        application: what `pg_stat_activity` shows, for example `certpilot-intake`.

    Returns:
        Keyword arguments for `psycopg.connect`. TCP keepalives end a half-open connection after about a minute; without
        them a silent network drop blocks a role for hours.
    """
    return {
        "application_name": application,
        "options": _SESSION_OPTIONS,
        "connect_timeout": 10,
        "keepalives_idle": 20,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 50_000,  # milliseconds
    }


def open_pool(url: str, application: str, *, max_size: int = 8) -> Pool:
    """Open a pool; connections are made in the background, so that a database that starts later is waited for.

    Args:
        url: libpq URL; TLS as its `sslmode` asks.
        application: name shown in `pg_stat_activity`.
        max_size: most connections held.

    Returns:
        The pool, to be closed by the caller. Taking a connection waits at most 30 s, then raises `OperationalError`.
    """
    return ConnectionPool(
        url,
        kwargs=connection_arguments(application),
        min_size=1,
        max_size=max_size,
        timeout=30.0,
        # A restart of the database leaves dead connections behind: find out before a transaction does.
        check=ConnectionPool.check_connection,
        open=True,
    )


def connect(url: str, application: str, *, autocommit: bool = False) -> Connection:
    """Open one connection outside any pool (LISTEN needs its own).

    Raises:
        OperationalError: the database does not answer within 10 s or refuses.
    """
    return psycopg.connect(url, autocommit=autocommit, **connection_arguments(application))


@contextmanager
def transaction(pool: Pool) -> Iterator[Connection]:
    """Run the block in one transaction: commit at its end, roll back on any exception."""
    with pool.connection() as conn, conn.transaction():
        yield conn


def now(conn: Connection) -> datetime:
    """The instant that schedules and limits go by (`certpilot_now()`), UTC."""
    return _one_instant(conn, "select certpilot_now()")


def real_now(conn: Connection) -> datetime:
    """Real time of the database, for certificates and leases, UTC."""
    return _one_instant(conn, "select clock_timestamp()")


def _one_instant(conn: Connection, query: Any) -> datetime:
    row = conn.execute(query).fetchone()
    assert row is not None
    instant: datetime = row[0]
    return instant
