"""The activity feed on a terminal or in a pipe: its newest events, all since an id, or live."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from db import activity
from db.activity import WAKE_CHANNEL, FeedRow
from db.listen import Listener
from db.pool import Connection, OperationalError, connect
from workers import settings
from workers.cli import output
from workers.cli.live import AlignedLines
from workers.cli.main import DONE
from workers.cli.output import Cell

if TYPE_CHECKING:
    from datetime import date

_PAGE = 500
# A wake-up can be lost (pgbouncer passes none on), so the table is looked at this often all the same.
_POLL_SECONDS = 2.0
_TROUBLE_PAUSE_SECONDS = 1.0
_FOLLOW_BEGINS_WITH = 10
_SITE_WIDTH = 20

_STEP_STYLES = {"waiting": "yellow", "failed": "red", "done": "green"}
_STATUS_STYLES = {"active": "bold green", "pending": "cyan", "expired": "bold red", "none": "bold red"}


def show_feed(args: argparse.Namespace) -> int:
    """Print the feed as the arguments of `certpilot activity` say; the exit code.

    Raises:
        DatabaseError: the database does not answer (while following: at the start).
    """
    url = settings.load().database_url
    if args.follow:
        with suppress(KeyboardInterrupt):  # how following is meant to end
            _follow(url, args)
        return DONE
    with connect(url, "certpilot-activity", autocommit=True) as conn:
        if args.since is None:
            rows = iter(activity.read_latest(conn, site_id=args.site, limit=args.limit))
        else:
            rows = _since(conn, args.since, args.site)
        if args.json:
            output.write_json_array(rows)
        else:
            write = _row_writer(args.site)
            for row in rows:
                write(row)
    return DONE


def _since(conn: Connection, last_id: int, site_id: str | None) -> Iterator[FeedRow]:
    """Every row with a larger id, page by page."""
    while rows := activity.read_since(conn, last_id, site_id=site_id, limit=_PAGE):
        yield from rows
        last_id = rows[-1].id


def _follow(url: str, args: argparse.Namespace) -> None:
    """Print what is there and what comes, each row once: no row ever appears below an id that was visible (A.4).

    A lost connection is made again from the last id on, so nothing is missed or doubled by it either.
    """
    write = output.write_json_line if args.json else _row_writer(args.site)
    last_id: int | None = args.since
    with connect(url, "certpilot-activity", autocommit=True) as conn:
        if last_id is None:
            last_id = 0
            for row in activity.read_latest(conn, site_id=args.site, limit=_FOLLOW_BEGINS_WITH):
                write(row)
                last_id = row.id
    complained = False
    while not output.reader_is_gone():
        try:
            with (
                Listener(url, "certpilot-activity-listen", WAKE_CHANNEL) as listener,
                connect(url, "certpilot-activity", autocommit=True) as conn,
            ):
                complained = False
                while not output.reader_is_gone():
                    for row in _since(conn, last_id, args.site):
                        write(row)
                        last_id = row.id
                    listener.wait(_POLL_SECONDS)
        except OperationalError as error:
            if not complained:
                output.complain("activity", f"lost the database ({error}); trying again")
                complained = True
            time.sleep(_TROUBLE_PAUSE_SECONDS)


def _row_writer(site_id: str | None) -> Callable[[FeedRow], None]:
    return _TerminalFeed(with_site=site_id is None).write if output.is_terminal() else _write_plain


def _write_plain(row: FeedRow) -> None:
    """One row a line, for `grep`: time, id, site, sentence."""
    when = row.occurred_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    site = output.visible(row.site_id or "-")
    output.write_line(f"{when}  {row.id:>6}  {site:<{_SITE_WIDTH}}  {output.visible(row.title)}", flush=True)


class _TerminalFeed:
    """Aligned lines. The day stands above its first event, and the one site that was asked for nowhere."""

    def __init__(self, *, with_site: bool) -> None:
        self._with_site = with_site
        self._lines = AlignedLines((6, 8, _SITE_WIDTH) if with_site else (6, 8))
        self._day: date | None = None

    def write(self, row: FeedRow) -> None:
        if row.occurred_at.date() != self._day:
            self._day = row.occurred_at.date()
            self._lines.heading(f"{output.day_of(row.occurred_at)} (times UTC)")
        site = [Cell(_shortened(row.site_id or "-"))] if self._with_site else []
        self._lines.write(
            Cell(f"{row.id:>6}", "dim"),
            Cell(f"{row.occurred_at:%H:%M:%S}", "dim"),
            *site,
            Cell(row.title, _style_of(row)),
        )


def _shortened(site_id: str) -> str:
    """Leave room for the sentence, which names the domain: of a UUID both ends are shown. Pipes and JSON get it whole."""
    if len(site_id) <= _SITE_WIDTH:
        return site_id
    end = (_SITE_WIDTH - 2) // 2
    return f"{site_id[:end]}..{site_id[-end:]}"


def _style_of(row: FeedRow) -> str:
    """Colour by what it means for the site, so that the eye finds what went well and what needs somebody."""
    if row.event_type.endswith("ssl.status.changed.v1"):
        if row.error_code is not None:
            return "bold red"
        return _STATUS_STYLES.get(row.ssl_status or "", "")
    if row.event_type.endswith("ssl.request.rejected.v1"):
        return "red"
    if row.event_type.endswith("ssl.operator.action.v1"):
        return "magenta"
    step = row.detail.get("step")
    return _STEP_STYLES.get(step, "dim") if isinstance(step, str) else ""
