"""`certpilot migrate`."""

import argparse
import sys

from db import migrate as migrations
from db.pool import DatabaseError, connect
from workers import settings
from workers.cli.main import DONE, FAILED


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add nothing: there is nothing to choose."""
    del command, parser


def run(command: str, args: argparse.Namespace) -> int:
    """Apply what is missing and name it."""
    del command, args
    url = settings.load().database_url
    try:
        with connect(url, "certpilot-migrate", autocommit=True) as conn:
            applied = migrations.migrate(conn)
    except (DatabaseError, migrations.MigrationError) as error:
        print(f"migrate: {error}".rstrip(), file=sys.stderr)
        return FAILED
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("nothing to do: the database is up to date")
    return DONE
