"""Versioned migrations: numbered SQL files, forward only, applied once, in order, under a lock."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from db.pool import Connection

# Any number that no other program takes on the same database.
_LOCK_KEY = 0x63657274  # "cert"


class MigrationError(Exception):
    """The database cannot be brought to this version; the message says why."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of db/migrations."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> tuple[Migration, ...]:
    """The migrations that this version of the program ships, in order."""
    found = (entry for entry in files("db.migrations").iterdir() if entry.name.endswith(".sql"))
    return tuple(sorted((Migration(entry.name, entry.read_text()) for entry in found), key=lambda m: m.name))


def migrate(conn: Connection) -> tuple[str, ...]:
    """Apply what is missing, all in one transaction. Safe to run twice, and from two machines at once.

    Args:
        conn: a connection outside any transaction.

    Returns:
        Names of the migrations that were applied now.

    Raises:
        MigrationError: an applied migration was edited afterwards, or the database is newer than the program.
    """
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        conn.execute(
            "create table if not exists schema_migration ("
            " name text primary key, checksum text not null, applied_at timestamptz not null default now())"
        )
        applied = _applied(conn)
        missing = _missing(known_migrations(), applied)
        for migration in missing:
            conn.execute(migration.sql.encode())
            conn.execute(
                "insert into schema_migration (name, checksum) values (%s, %s)",
                (migration.name, migration.checksum),
            )
    return tuple(migration.name for migration in missing)


def pending(conn: Connection) -> tuple[str, ...]:
    """Names of the migrations that the database lacks.

    Raises:
        MigrationError: as `migrate`.
    """
    row = conn.execute("select to_regclass('schema_migration') is not null").fetchone()
    applied = _applied(conn) if row and row[0] else {}
    return tuple(migration.name for migration in _missing(known_migrations(), applied))


def _applied(conn: Connection) -> dict[str, str]:
    return dict(conn.execute("select name, checksum from schema_migration").fetchall())


def _missing(known: tuple[Migration, ...], applied: dict[str, str]) -> tuple[Migration, ...]:
    unknown = sorted(applied.keys() - {migration.name for migration in known})
    if unknown:
        raise MigrationError(
            f"the database has migrations this version does not know: {', '.join(unknown)}; upgrade certpilot"
        )
    for migration in known:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"{migration.name} was edited after it had been applied; add a new migration instead"
            )
    return tuple(migration for migration in known if migration.name not in applied)
