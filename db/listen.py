"""LISTEN on a connection of its own: woken by a commit, or by the time-out."""

from types import TracebackType
from typing import Self

from psycopg import sql

from db.pool import connect


class Listener:
    """Waits for NOTIFY on one channel.

    A notification can be missed (while the connection is down, or between two waits), so whoever waits here looks at
    the table after each wake-up and each time-out alike.
    """

    def __init__(self, url: str, application: str, channel: str) -> None:
        """Connect and listen.

        Raises:
            OperationalError: the database does not answer.
        """
        self._conn = connect(url, application, autocommit=True)
        self._conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def wait(self, seconds: float) -> bool:
        """Wait for a commit that notified, at most so long; whether there was one.

        Raises:
            OperationalError: the connection is gone.
        """
        return any(True for _ in self._conn.notifies(timeout=seconds, stop_after=1))

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
