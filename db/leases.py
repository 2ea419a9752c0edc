"""Table lease, for roles: one relay leads, others stand by (DESIGN B.1). Jobs take theirs through `db.claims`."""

from uuid import UUID

from db.pool import Connection


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
        " where lease.owner = excluded.owner or lease_over(lease.expires_at) returning true",
        (role, owner, lease_seconds),
    ).fetchone()
    return row is not None


def step_down(conn: Connection, role: str, owner: UUID) -> None:
    """Give the lead back, so that a standby takes it at once."""
    conn.execute(
        "update lease set expires_at = '-infinity' where key = 'role:' || %s and owner = %s", (role, owner)
    )
