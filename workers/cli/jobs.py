"""`certpilot jobs`: list, show, cancel."""

import argparse
import re
from dataclasses import asdict
from datetime import datetime

from db import job_views, jobs, operators
from db.job_views import AttemptRow, JobRow
from db.operators import JobOrigin
from db.pool import Connection
from workers.cli import output
from workers.cli.arguments import add_by, add_json, add_limit, by_or_self
from workers.cli.main import DONE, FAILED, USAGE
from workers.cli.output import Cell, Column
from workers.cli.trouble import database, in_words
from workers.core.model import JobId, JobKind, JobState

_DEFAULT_JOBS = 100
_SHORT_ID_CHARACTERS = 8
_STYLES = {
    "queued": "cyan", "running": "cyan", "waiting": "yellow", "succeeded": "green", "failed": "red", "dead": "bold red",
    "cancelled": "dim", "superseded": "dim",
}  # fmt: skip
_COLUMNS = (
    Column("JOB", fixed=True),
    Column("SITE"),
    Column("DOMAIN"),
    Column("STATE", fixed=True),
    Column("TRY", fixed=True),
    Column("REASON"),
)
_ATTEMPT_COLUMNS = (
    Column("TRY", fixed=True),
    Column("BEGAN", fixed=True),
    Column("TOOK", fixed=True),
    Column("RESULT"),
    Column("REASON"),
    Column("EXIT", fixed=True),
)


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the three actions."""
    del command
    actions = parser.add_subparsers(dest="action", metavar="list|show|cancel", required=True)
    listing = actions.add_parser("list", help="jobs, the newest first")
    listing.add_argument(
        "--state",
        action="append",
        default=[],
        choices=[str(state) for state in JobState],
        help="may be repeated",
    )
    listing.add_argument("--site", metavar="SITE", help="of one site")
    add_limit(listing, _DEFAULT_JOBS, "the newest")
    add_json(listing, "an array")
    showing = actions.add_parser("show", help="one job: why it is where it is, and its attempts")
    showing.add_argument("id", type=_id_digits, metavar="ID", help="its id or the beginning of it")
    add_json(showing, "one object, with its attempts")
    cancelling = actions.add_parser("cancel", help="end a job; one that runs ends when its certbot run has")
    cancelling.add_argument("id", type=_id_digits, metavar="ID", help="its id or the beginning of it")
    add_by(cancelling)


def _id_digits(raw: str) -> str:
    """Read a job's id, or its first characters as tables show them; hyphens do not count."""
    digits = raw.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{4,32}", digits):
        raise argparse.ArgumentTypeError("must be a job's id, or at least its first 4 characters")
    return digits


def run(command: str, args: argparse.Namespace) -> int:
    """Do it."""
    actions = {"list": _list, "show": _show, "cancel": _cancel}
    return in_words(command, lambda: actions[args.action](args))


def _list(args: argparse.Namespace) -> int:
    states = [JobState(state) for state in args.state]
    with database("jobs") as conn:
        rows = job_views.read(conn, site_id=args.site, states=states, limit=args.limit)
    if args.json:
        output.write_json_array(rows)
    else:
        seen_at = output.now()
        output.write_table(_COLUMNS, [_table_row(row, seen_at) for row in rows])
    if not rows:
        output.complain("jobs", "no such job")
    elif len(rows) == args.limit:
        output.complain("jobs", f"only the newest {args.limit}; --limit for more")
    return DONE


def _table_row(row: JobRow, seen_at: datetime) -> list[str | Cell]:
    # In a pipe the whole id: nobody has to fit it into 80 columns there.
    job_id = row.job_id[:_SHORT_ID_CHARACTERS] if output.is_terminal() else row.job_id
    goes_on = f" next {output.moment_of(row.retry_at, seen_at)}" if row.retry_at is not None else ""
    return [
        job_id,
        row.site_id,
        row.domain,
        Cell(row.state, _STYLES.get(row.state, "")),
        str(row.attempt),
        (row.error_code or "") + goes_on,
    ]


def _find(conn: Connection, digits: str) -> JobId | int:
    """The one job whose id begins so, or the exit code after saying why there is none."""
    found = operators.job_ids_beginning(conn, digits)
    if len(found) == 1:
        return found[0]
    if not found:
        output.complain("jobs", f"there is no job {digits}")
        return FAILED
    output.complain("jobs", f"several jobs begin with {digits}: {', '.join(found)}")
    return USAGE


def _show(args: argparse.Namespace) -> int:
    with database("jobs") as conn, conn.transaction():
        job_id = _find(conn, args.id)
        if isinstance(job_id, int):
            return job_id
        [row] = job_views.read(conn, job_id=job_id)
        origin = operators.job_origin(conn, job_id)
        assert origin is not None  # jobs are never deleted
        attempts = job_views.attempts(conn, job_id)
    if args.json:
        output.write_json_line({**asdict(row), **asdict(origin), "attempts": attempts})
    else:
        seen_at = output.now()
        output.write_fields(f"Job {row.job_id}", _fields(row, origin, seen_at))
        _write_attempts(attempts, seen_at)
    return DONE


def _fields(row: JobRow, origin: JobOrigin, seen_at: datetime) -> list[tuple[str, str | Cell]]:
    from workers.cli.sites import fix_of  # noqa: PLC0415  # list and cancel need no catalogue

    goes_on = output.moment_of(row.run_at, seen_at) if row.state == JobState.WAITING else ""
    command = " ".join(filter(None, (origin.command_source, origin.command_id)))
    style = _STYLES.get(row.state, "")
    return [
        ("site", row.site_id),
        ("names", ", ".join(row.names)),
        ("server", row.server_key.removeprefix("server:")),
        ("asked for", row.kind + (", forced" if origin.force else "")),
        ("asked by", origin.requested_by or ""),
        ("command", command),
        ("state", Cell(row.state, style)),
        ("because", row.because or ""),
        ("goes on at", goes_on and f"{goes_on} ({output.from_now(row.run_at, seen_at)})"),
        ("reason", Cell(row.error_code or "", style)),
        ("found", row.error_message or ""),
        ("to do", fix_of(row.error_code)),
        ("failures in a row", str(row.fails or "")),
        ("failing since", output.moment_of(origin.failing_since, seen_at)),
        (
            "cancelling",
            "an operator asked for it; it ends with its run" if _is_cancelling(row, origin) else "",
        ),
        ("superseded by", origin.superseded_by or ""),
        ("created", output.moment_of(row.created_at, seen_at)),
        ("began", output.moment_of(row.started_at, seen_at)),
        ("ended", output.moment_of(row.finished_at, seen_at)),
    ]


def _is_cancelling(row: JobRow, origin: JobOrigin) -> bool:
    return origin.cancel_requested and row.finished_at is None


def _write_attempts(attempts: list[AttemptRow], seen_at: datetime) -> None:
    if not attempts:
        return
    output.write_line()
    output.write_table(_ATTEMPT_COLUMNS, [_attempt_row(attempt, seen_at) for attempt in attempts])
    newest = attempts[-1]
    if newest.evidence:
        output.write_line(f"\nWhat decided try {newest.attempt}:")
        for line in newest.evidence.splitlines():
            output.write_line("  " + output.visible(line))


def _attempt_row(attempt: AttemptRow, seen_at: datetime) -> list[str | Cell]:
    took = (
        ""
        if attempt.closed_at is None
        else output.lasting((attempt.closed_at - attempt.opened_at).total_seconds())
    )
    return [
        str(attempt.attempt),
        output.moment_of(attempt.opened_at, seen_at),
        took or "open",
        attempt.result or "",
        attempt.error_code or "",
        "" if attempt.exit_code is None else str(attempt.exit_code),
    ]


def _cancel(args: argparse.Namespace) -> int:
    with database("jobs") as conn:
        job_id = _find(conn, args.id)
        if isinstance(job_id, int):
            return job_id
        with conn.transaction():
            ended = _cancel_and_tell(conn, job_id, by_or_self(args.by), args.reason)
        [row] = job_views.read(conn, job_id=job_id)
    if ended is None:
        output.complain("jobs", f"job {job_id} has ended already: it is {row.state}")
        return FAILED
    if ended:
        output.write_line(f"cancelled job {job_id}")
    else:
        output.write_line(f"job {job_id} runs: it ends as cancelled when its certbot run is over")
    return DONE


def _cancel_and_tell(conn: Connection, job_id: JobId, by: str, reason: str | None) -> bool | None:
    """Cancel or flag the job, with its events in the same transaction; None where it has ended already.

    The job's row is locked first and the site's after it, as everywhere: `sites.lock` also takes the site's newest job
    before the site, which the first event would otherwise lock alone.
    """
    from db import sites  # noqa: PLC0415  # these import pydantic and pika, which list and show need not wait for
    from workers import announce  # noqa: PLC0415
    from workers.announce import About  # noqa: PLC0415
    from workers.dispatch import offer  # noqa: PLC0415
    from workers.runner.outcome import announce_cancelled  # noqa: PLC0415

    done = jobs.cancel_or_flag(conn, job_id)
    if done is None:
        return None
    site_id, ended = done
    [row] = job_views.read(conn, job_id=job_id)
    origin = operators.job_origin(conn, job_id)
    assert origin is not None
    whose = About(site_id, origin.command_id, origin.command_source, job_id)
    sites.lock(conn, site_id)
    announce.operator_action(conn, "cancel", by=by, reason=reason, about=whose)
    if ended:
        if row.kind != JobKind.CLEANUP:  # whose end says nothing of the site
            announce_cancelled(conn, whose, attempt=row.attempt)
        # It may have been the one that was offered when its server became free.
        offer(conn, jobs.next_after(conn, row.server_key, row.names))
    return ended
