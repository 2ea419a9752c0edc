"""Table clock: the offset that tests move (DESIGN B.10). Production never calls this."""

from datetime import timedelta

from db.pool import Connection


def move_ahead(conn: Connection, by: timedelta) -> None:
    """Move `certpilot_now()` ahead of real time by `by`, on top of what it is ahead already."""
    conn.execute("update clock set ahead_by = ahead_by + %s", (by,))
