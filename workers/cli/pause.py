"""`certpilot pause` and `certpilot resume`: no job is started meanwhile, everywhere or on one server."""

import argparse

from contracts.names import InvalidName, normalise_host
from db import jobs, operators, pauses
from db.operators import PauseRow
from db.pauses import EVERYTHING
from db.pool import Connection
from workers import announce
from workers.cli import output
from workers.cli.arguments import add_by, by_or_self
from workers.cli.main import DONE
from workers.cli.trouble import database, in_words
from workers.dispatch import REOFFER_SECONDS, offer

_BATCH = 200


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add what to pause or resume, by whom and why."""
    parser.add_argument(
        "--server",
        type=_host,
        metavar="HOST",
        help=f"{command} work on this server only (default: everything)",
    )
    add_by(parser)


def _host(raw: str) -> str:
    try:
        return normalise_host(raw)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(command: str, args: argparse.Namespace) -> int:
    """Do it, and tell the feed; once more is not an error."""
    scope = args.server or EVERYTHING
    by = by_or_self(args.by)
    work = _pause if command == "pause" else _resume
    return in_words(command, lambda: work(scope, by, args.reason))


def _pause(scope: str, by: str, reason: str | None) -> int:
    with database("pause") as conn:
        with conn.transaction():
            paused_now = pauses.pause(conn, scope, by, reason)
            if paused_now:
                announce.operator_action(conn, "pause", by=by, reason=_reason(scope, reason))
        known = scope == EVERYTHING or operators.is_server_known(conn, scope)
        standing = next((row for row in operators.pauses(conn) if row.scope == scope), None)
    if paused_now:
        output.write_line(f"paused {_named(scope)}; what runs goes on to its end")
    elif standing is not None:
        output.write_line(f"{_named(scope)} is paused already {_by(standing)}")
    if not known:
        output.complain(
            "pause", f"no site is on {_named(scope)} yet; is the address the one in the commands?"
        )
    return DONE


def _resume(scope: str, by: str, reason: str | None) -> int:
    with database("resume") as conn:
        offered = 0
        with conn.transaction():
            was_paused = pauses.resume(conn, scope)
            if was_paused:
                announce.operator_action(conn, "resume", by=by, reason=_reason(scope, reason))
                offered = _offer_again(conn, scope)
        still = operators.pauses(conn)
    if was_paused:
        output.write_line(f"resumed {_named(scope)}; jobs offered to runners: {offered}")
    else:
        output.write_line(f"there is no pause of {_named(scope)}")
    for row in still:
        output.write_line(output.visible(f"still paused: {_named(row.scope)} {_by(row)}"))
    return DONE


def _offer_again(conn: Connection, scope: str) -> int:
    """Offer what waited for a runner, the oldest of each free server; its end offers the next.

    Runners acknowledged the messages of paused jobs without taking them, so nothing of them is left on the queue.
    """
    operators.make_queued_due(conn, scope)
    offered = 0
    while offers := jobs.reoffer_queued(conn, _BATCH, REOFFER_SECONDS):
        offer(conn, offers)
        offered += len(offers)
    return offered


def _reason(scope: str, reason: str | None) -> str | None:
    """The event has no field for a server, so its reason begins with it."""
    if scope == EVERYTHING:
        return reason
    return f"server {scope}" + (f": {reason}" if reason else "")


def _named(scope: str) -> str:
    return "everything" if scope == EVERYTHING else f"server {scope}"


def _by(row: PauseRow) -> str:
    since = output.moment_of(row.paused_at, output.now())
    return output.visible(f"since {since} by {row.paused_by}" + (f": {row.reason}" if row.reason else ""))
