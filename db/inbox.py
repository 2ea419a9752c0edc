"""Table inbox: which commands were taken, by source and id (DESIGN A.1)."""

from enum import Enum

from db.pool import Connection


class Taken(Enum):
    """What the inbox says of a command."""

    NEW = "new"
    SAME = "same"  # the same body again: acknowledge silently
    CONFLICT = "conflict"  # another body under the same id, seen for the first time
    CONFLICT_SEEN = "conflict seen"  # that other body again


def take(conn: Connection, source: str, command_id: str, body_hash: str) -> Taken:
    """Record the command, or say that it is there already.

    Two deliveries at once: the second waits at the primary key until the first one's transaction ends.
    """
    inserted = conn.execute(
        "insert into inbox (source, command_id, body_hash) values (%s, %s, %s) on conflict do nothing",
        (source, command_id, body_hash),
    )
    if inserted.rowcount == 1:
        return Taken.NEW
    row = conn.execute(
        "select body_hash from inbox where source = %s and command_id = %s", (source, command_id)
    ).fetchone()
    if row is not None and row[0] == body_hash:
        return Taken.SAME
    conflict = conn.execute(
        "insert into inbox_conflict (source, command_id, body_hash) values (%s, %s, %s) on conflict do nothing",
        (source, command_id, body_hash),
    )
    return Taken.CONFLICT if conflict.rowcount == 1 else Taken.CONFLICT_SEEN
