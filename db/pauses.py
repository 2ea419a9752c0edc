"""Table pause: what an operator stopped, everything ('*') or one server by its host."""

from db.pool import Connection

EVERYTHING = "*"


def is_paused(conn: Connection, host: str) -> bool:
    """Whether work on this server is paused, by itself or with everything."""
    row = conn.execute("select exists (select from pause where scope in ('*', %s))", (host,)).fetchone()
    return bool(row and row[0])


def pause(conn: Connection, scope: str, by: str, reason: str | None) -> bool:
    """Pause a scope; False when it was paused already."""
    return (
        conn.execute(
            "insert into pause (scope, paused_by, reason) values (%s, %s, %s) on conflict do nothing",
            (scope, by, reason),
        ).rowcount
        == 1
    )


def resume(conn: Connection, scope: str) -> bool:
    """Lift a pause; False when there was none."""
    return conn.execute("delete from pause where scope = %s", (scope,)).rowcount == 1


def all_scopes(conn: Connection) -> list[str]:
    """What is paused."""
    return [row[0] for row in conn.execute("select scope from pause order by scope").fetchall()]
