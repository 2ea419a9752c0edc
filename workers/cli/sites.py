"""`certpilot status` and `certpilot activity`: what the two reader views say."""

import argparse
from datetime import datetime

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from db import reader_views
from db.reader_views import SiteRow
from workers.cli import output
from workers.cli.arguments import add_json, add_limit
from workers.cli.feed import show_feed
from workers.cli.main import DONE, FAILED
from workers.cli.output import Cell, Column
from workers.cli.trouble import database, in_words

STATUS_STYLES = {"active": "green", "pending": "cyan", "expired": "red", "none": "dim"}

_DEFAULT_SITES = 1000
_DEFAULT_EVENTS = 50
_LIVE_STATES = ("queued", "running", "waiting")
_ENDED_WELL = ("succeeded", "superseded")
_COLUMNS = (
    Column("SITE"),
    Column("DOMAIN"),
    Column("STATUS", fixed=True),
    Column("EXPIRES", fixed=True),
    Column("WORK"),
)


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add what to show."""
    if command == "status":
        parser.add_argument("site", nargs="?", metavar="SITE", help="one site, with all that is known of it")
        add_limit(parser, _DEFAULT_SITES, "the most recently changed first")
        add_json(parser, "an array with the columns of the view site_ssl")
        return
    parser.add_argument("--site", metavar="SITE", help="one site only")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--since", type=_feed_id, metavar="ID", help="every event after this id")
    add_limit(parser, _DEFAULT_EVENTS, "the newest; not with --since")
    add_json(parser, "an array with the columns of the view activity_feed; with --follow one object a line")


def _feed_id(raw: str) -> int:
    if not (raw.isascii() and raw.isdigit() and int(raw) < 2**63):
        raise argparse.ArgumentTypeError("must be an id of the feed, or 0 for all of it")
    return int(raw)


def run(command: str, args: argparse.Namespace) -> int:
    """Show it."""
    if command == "status":
        return in_words(command, lambda: _status(args))
    return in_words(command, lambda: show_feed(args))


def _status(args: argparse.Namespace) -> int:
    with database("status") as conn:
        rows = reader_views.read(conn, args.site, limit=args.limit)
    if args.site is not None and not rows:
        output.complain("status", f"there is no site {args.site}: no command for it was ever taken")
        return FAILED
    if args.json:
        output.write_json_array(rows)
    elif args.site is not None:
        _write_site(rows[0], output.now())
    else:
        seen_at = output.now()
        output.write_table(_COLUMNS, [_table_row(row, seen_at) for row in rows])
    if not rows:
        output.complain("status", "no site yet")
    elif len(rows) == args.limit and args.site is None:
        output.complain("status", f"only the {args.limit} most recently changed; --limit for more")
    return DONE


def _table_row(row: SiteRow, seen_at: datetime) -> list[str | Cell]:
    return [
        row.site_id,
        row.domain or "",
        Cell(row.ssl_status, STATUS_STYLES.get(row.ssl_status, "")),
        output.day_of(row.ssl_expiry),
        _work(row, seen_at),
    ]


def _work(row: SiteRow, seen_at: datetime) -> Cell:
    """What is being done, or how the last try failed; a success says nothing."""
    if row.job_state in (None, *_ENDED_WELL) and row.error_code is None:
        return Cell("")
    parts = [row.job_state or "", row.error_code or ""]
    if row.retry_at is not None:
        parts.append(f"next {output.moment_of(row.retry_at, seen_at)}")
    return Cell(" ".join(filter(None, parts)), "yellow" if row.job_state in _LIVE_STATES else "red")


def _write_site(row: SiteRow, seen_at: datetime) -> None:
    retry = output.moment_of(row.retry_at, seen_at)
    expiry = output.day_of(row.ssl_expiry)
    if expiry:
        expiry += f" ({output.from_now(row.ssl_expiry, seen_at)})"
    output.write_fields(
        f"Site {row.site_id}",
        [
            ("domain", row.domain or ""),
            ("status", Cell(row.ssl_status, STATUS_STYLES.get(row.ssl_status, ""))),
            ("certificate until", expiry),
            ("at risk", Cell(row.at_risk_code or "", "red")),
            ("renewed by us from", output.moment_of(row.renewal_due_at, seen_at)),
            ("looked at next", output.moment_of(row.next_check_at, seen_at)),
            ("job", row.job_id or ""),
            ("state", row.job_state or ""),
            ("attempts", str(row.attempt or "")),
            ("goes on at", retry and f"{retry} ({output.from_now(row.retry_at, seen_at)})"),
            ("reason", Cell(row.error_code or "", "yellow" if row.job_state in _LIVE_STATES else "red")),
            ("found", row.error_message or ""),
            ("to do", fix_of(row.error_code)),
            ("changed", output.moment_of(row.updated_at, seen_at)),
        ],
    )


def fix_of(code: str | None) -> str:
    """What to do about a code; empty for one that a newer version wrote."""
    return CATALOGUE[Code(code)].fix if code is not None and code in Code.__members__ else ""
