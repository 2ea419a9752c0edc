"""Table lease, for roles: one relay leads, others stand by (DESIGN B.1). Jobs take theirs through `db.claims`."""

from uuid import UUID

from db.pool import Connection

_LONGEST = "interval '10 minutes'"
"""Far longer than any lease of ours."""


def over(expires_at: str) -> str:
    """The SQL condition that a lease has ended. `expires_at` is its column.

    One that has longer to go than any was ever granted was written before the clock was set back; its holder may be
    dead, and nothing would go on for as long as the clock went back. Safety does not hang on it: a lease may end at any
    instant (PROTOCOL, guarantees).
    """
    return f"({expires_at} <= clock_timestamp() or {expires_at} > clock_timestamp() + {_LONGEST})"


def lead(conn: Connection, role: str, owner: UUID, lease_seconds: float) -> bool:
    """Take or keep the lead of a role.

    Returns:
        Whether `owner` leads for the next `lease_seconds` (the database's time).
    """
    row = conn.execute(
        "insert into lease (key, owner, fence, expires_at)"
        " values ('role:' || %s, %s, 1, clock_timestamp() + make_interval(secs => %s))"
        " on conflict (key) do update set"
        "  fence = lease.fence + (lease.owner is distinct from excluded.owner)::int,"
        "  owner = excluded.owner, expires_at = excluded.expires_at"
        f" where lease.owner = excluded.owner or {over('lease.expires_at')} returning true",
        (role, owner, lease_seconds),
    ).fetchone()
    return row is not None


def step_down(conn: Connection, role: str, owner: UUID) -> None:
    """Give the lead back, so that a standby takes it at once."""
    conn.execute(
        "update lease set expires_at = '-infinity' where key = 'role:' || %s and owner = %s", (role, owner)
    )
