"""The database for one command, and its troubles as sentences."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.pool import Connection, DatabaseError, connect
from workers import settings
from workers.cli import output
from workers.cli.main import FAILED

_UNDEFINED = frozenset({"42P01", "42703", "42883"})  # table, column, function (PostgreSQL, appendix A)
_NO_PRIVILEGE = "42501"


@contextmanager
def database(command: str) -> Iterator[Connection]:
    """Connect as the settings say, each statement its own transaction.

    Raises:
        SettingsError: a setting is wrong.
        DatabaseError: the database does not answer.
    """
    with connect(settings.load().database_url, f"certpilot-{command}", autocommit=True) as conn:
        yield conn


def in_words(command: str, work: Callable[[], int]) -> int:
    """Do the command's work; where the database is in the way, say so and fail."""
    # psycopg warns of what Ctrl-C interrupts.
    logging.disable(logging.ERROR)
    try:
        return work()
    except DatabaseError as error:
        output.complain(command, explain(error))
        return FAILED


def explain(error: DatabaseError) -> str:
    """Say what is wrong with the database, in one sentence that has no URL in it."""
    said = (error.diag.message_primary or str(error)).strip()
    if error.sqlstate in _UNDEFINED:
        return f"the database is not at this version ({said}): run `certpilot migrate`"
    if error.sqlstate == _NO_PRIVILEGE:
        return f"the user of CERTPILOT_DATABASE_URL lacks a right ({said})"
    if error.sqlstate is None:
        return f"the database of CERTPILOT_DATABASE_URL does not answer: {said}"
    return f"the database refused: {said}"


def quiet_logs(config: settings.Settings) -> None:
    """Let no library write beside the command's own words: what fails is raised, and told in a sentence."""
    from workers import logs  # noqa: PLC0415  # 70 ms that commands without a broker need not pay

    logs.configure(config.log_format, level=logging.CRITICAL)
    logging.disable(logging.ERROR)
