"""Table delivery_crash: how often a process died with this message in hand, counted before it is looked into."""

from db.pool import Connection


def count_start(conn: Connection, queue: str, body_hash: str) -> int:
    """Count one more start; how many there were since the last one that ended well."""
    row = conn.execute(
        "insert into delivery_crash (queue, body_hash, starts) values (%s, %s, 1)"
        " on conflict (queue, body_hash) do update set starts = delivery_crash.starts + 1, last_at = clock_timestamp()"
        " returning starts",
        (queue, body_hash),
    ).fetchone()
    assert row is not None
    starts: int = row[0]
    return starts


def forgive(conn: Connection, queue: str, body_hash: str) -> None:
    """It was handled: the starts before it were no crashes of its making."""
    conn.execute("delete from delivery_crash where queue = %s and body_hash = %s", (queue, body_hash))
