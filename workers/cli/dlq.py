"""`certpilot dlq`: list, show, replay and discard dead letters."""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from contracts.times import format_time, parse_time
from contracts.topology import QUEUES, dead_letter_queue
from db.pool import Connection
from workers import dead_letters, settings
from workers.cli import output
from workers.cli.arguments import add_by, add_json, by_or_self, plain_text, positive
from workers.cli.main import DONE, FAILED, INTERRUPTED, USAGE
from workers.cli.output import Column
from workers.cli.pacing import paced, progress
from workers.cli.trouble import database, in_words
from workers.core.deciding.letter_filter import LetterFilter, LetterGroup
from workers.dead_letters import Effect, Found, Operator
from workers.edges.amqp.broker import BrokerError
from workers.edges.amqp.dead_letter_queue import DeadLetterBrowser
from workers.edges.amqp.publisher import Publisher

_SHOWN_BODY_CHARACTERS = 4000
_COLUMNS = (
    Column("QUEUE", fixed=True), Column("CODE"), Column("COUNT", fixed=True), Column("FIRST", fixed=True),
    Column("LAST", fixed=True),
)  # fmt: skip


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the four actions."""
    del command
    actions = parser.add_subparsers(dest="action", metavar="list|show|replay|discard", required=True)
    listing = actions.add_parser("list", help="how many of which kind, since when")
    _add_filters(listing)
    add_json(listing, "an array of groups with queue, code, count, firstAt, lastAt")
    showing = actions.add_parser("show", help="letters whole: headers, body, the job behind")
    _add_filters(showing)
    add_json(showing, "an array of letters")
    for action, words in (
        ("replay", "give letters a second chance"),
        ("discard", "remove letters, with a copy in the database"),
    ):
        acting = actions.add_parser(action, help=words)
        _add_filters(acting)
        acting.add_argument("--all", action="store_true", help="every letter that the filters leave")
        acting.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
        acting.add_argument("--limit", type=positive, metavar="N", help="at most N letters")
        acting.add_argument("--rate", type=positive, metavar="N", help="at most N letters a second")
        add_by(acting)
        if action == "discard":
            acting.add_argument("--yes", action="store_true", help="do not ask")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", type=plain_text, metavar="ID", help="letter ids, or how they begin")
    parser.add_argument("--queue", action="append", default=[], choices=QUEUES, help="may be repeated")
    parser.add_argument(
        "--code", action="append", default=[], type=str.upper, metavar="CODE", help="may be repeated"
    )
    parser.add_argument("--domain", metavar="DOMAIN", help="of one domain")
    parser.add_argument("--site", metavar="SITE", help="of one site")
    parser.add_argument(
        "--since", type=_instant, metavar="TIME", help="set aside first at or after, RFC 3339"
    )


def _instant(raw: str) -> datetime:
    try:
        return parse_time(raw)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time as in RFC 3339, like 2026-11-24T10:00:00Z") from None


def run(command: str, args: argparse.Namespace) -> int:
    """Do it; a broker or database in the way is said in a sentence."""
    args.incomplete = False
    actions = {"list": _list, "show": _show, "replay": _replay, "discard": _discard}
    if args.action in {"replay", "discard"} and not (args.all or args.ids or _has_filter(args)):
        output.complain(command, f"say which letters to {args.action}: ids, filters, or --all")
        return USAGE

    def work() -> int:
        try:
            return actions[args.action](args)
        except BrokerError as error:
            output.complain(command, str(error))
            return FAILED

    return in_words(command, work)


def _has_filter(args: argparse.Namespace) -> bool:
    return bool(args.queue or args.code or args.domain or args.site or args.since)


def _filter(args: argparse.Namespace) -> LetterFilter:
    return LetterFilter(
        queues=frozenset(args.queue), codes=frozenset(args.code), letter_ids=tuple(args.ids), site_id=args.site,
        domain=args.domain, since=args.since,
    )  # fmt: skip


@contextmanager
def _browsing(
    conn: Connection, args: argparse.Namespace, queue: str, most: int | None
) -> Iterator[tuple[DeadLetterBrowser, Iterator[Found]]]:
    """The letters of a queue; where another reader keeps some from us, that is said, and makes the command fail."""
    with DeadLetterBrowser(settings.load().rabbitmq_url, queue) as browser:
        yield browser, dead_letters.find(conn, browser, _filter(args), most)
        if browser.missing or browser.other_readers:
            args.incomplete = True
            output.complain(
                "dlq",
                f"{dead_letter_queue(queue)} has another reader, which may hold letters that are not seen here"
                f" ({browser.missing} of {browser.total} did not come): run this again when it has ended",
            )


def _queues(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(args.queue) or QUEUES


def _list(args: argparse.Namespace) -> int:
    groups: dict[tuple[str, str], LetterGroup] = defaultdict(LetterGroup)
    with database("dlq") as conn:
        for queue in _queues(args):
            with _browsing(conn, args, queue, None) as (_, letters):
                for found in letters:
                    groups[queue, found.letter.code].add(found.letter.letter_id, found.letter.first_at)
    rows = sorted(groups.items())
    if args.json:
        output.write_json_array(
            {
                "queue": queue, "code": code, "count": group.count,
                "firstAt": group.first_at and format_time(group.first_at),
                "lastAt": group.last_at and format_time(group.last_at),
            }
            for (queue, code), group in rows
        )  # fmt: skip
        return FAILED if args.incomplete else DONE
    seen_at = output.now()
    output.write_table(
        _COLUMNS,
        [
            [
                queue,
                code,
                str(group.count),
                output.moment_of(group.first_at, seen_at),
                output.moment_of(group.last_at, seen_at),
            ]
            for (queue, code), group in rows
        ],
    )
    if not rows:
        output.complain("dlq", "no dead letters")
    return FAILED if args.incomplete else DONE


def _show(args: argparse.Namespace) -> int:
    shown = 0

    def letters() -> Iterator[dict[str, Any]]:
        nonlocal shown
        for queue in _queues(args):
            with _browsing(conn, args, queue, None) as (_, found):
                for letter in found:
                    shown += 1
                    yield _as_dict(letter)

    with database("dlq") as conn:
        if args.json:
            output.write_json_array(letters())
        else:
            for letter in letters():
                fields = [(n, str(v)) for n, v in letter.items() if v not in (None, "") and n != "letterId"]
                output.write_fields(f"letter {letter['letterId']}", fields)
    if not shown:
        output.complain("dlq", "there is no such letter")
    return DONE if shown and not args.incomplete else FAILED


def _as_dict(found: Found) -> dict[str, Any]:
    letter, facts, job = found.letter, found.facts, found.job
    body = letter.delivery.body[:_SHOWN_BODY_CHARACTERS].decode("utf-8", "backslashreplace")
    return {
        "letterId": letter.letter_id, "queue": letter.queue, "code": letter.code, "reason": letter.reason,
        "firstAt": letter.first_at and format_time(letter.first_at), "count": letter.count,
        "routingKey": letter.routing_key, "siteId": facts.site_id, "domain": facts.domain,
        "jobState": job.state if job else None, "supersededBy": job.superseded_by if job else None,
        "contentType": letter.delivery.content_type, "body": body,
    }  # fmt: skip


def _replay(args: argparse.Namespace) -> int:
    counts: dict[Effect, int] = defaultdict(int)
    publisher = Publisher(settings.load().rabbitmq_url, name="certpilot dlq replay")

    def act(conn: Connection, browser: DeadLetterBrowser, batch: Sequence[Found]) -> None:
        for found, effect in zip(
            batch, dead_letters.replay(conn, publisher, batch, _operator(args)), strict=True
        ):
            counts[effect] += 1
            if effect is not Effect.NOT_CONFIRMED:
                browser.remove(found.letter)

    try:
        code = _act(args, act)
    finally:
        publisher.close()
        for effect in Effect:
            if counts[effect]:
                output.write_line(f"{effect}: {counts[effect]}")
    if code == DONE and not args.dry_run and not any(counts.values()):
        output.write_line("no letter matches")
    return FAILED if counts[Effect.NOT_CONFIRMED] else code


def _discard(args: argparse.Namespace) -> int:
    if not (args.yes or args.dry_run or _confirmed(args)):
        output.complain("dlq", "nothing was discarded")
        return FAILED
    total = 0

    def act(conn: Connection, browser: DeadLetterBrowser, batch: Sequence[Found]) -> None:
        nonlocal total
        dead_letters.discard(conn, batch, _operator(args))
        for found in batch:
            browser.remove(found.letter)
        total += len(batch)

    try:
        return _act(args, act)
    finally:
        if not args.dry_run:
            output.write_line(f"discarded: {total}")


def _act(
    args: argparse.Namespace, act: Callable[[Connection, DeadLetterBrowser, Sequence[Found]], None]
) -> int:
    """Act on what is meant, batch after batch; interrupted, it leaves the rest where it lies."""
    total = 0
    with database("dlq") as conn:
        for queue in _queues(args):
            left = None if args.limit is None else args.limit - total
            with (
                _browsing(conn, args, queue, left) as (browser, letters),
                progress(args.action, browser.total, shown=not args.dry_run) as step,
            ):
                try:
                    for batch in paced(letters, args.rate, dead_letters.BATCH):
                        if args.dry_run:
                            _say_what_would_be_done(args.action, batch)
                        else:
                            act(conn, browser, batch)
                        step(len(batch))
                        total += len(batch)
                except KeyboardInterrupt:
                    output.complain("dlq", "interrupted; the rest lies where it was")
                    return INTERRUPTED
    if args.dry_run:
        output.write_line(f"would {args.action}: {total}")
    return FAILED if args.incomplete else DONE


def _say_what_would_be_done(action: str, batch: Sequence[Found]) -> None:
    for found in batch:
        letter = found.letter
        output.write_line(output.visible(f"would {action} {letter.queue} {letter.letter_id} {letter.code}"))


def _operator(args: argparse.Namespace) -> Operator:
    return Operator(by_or_self(args.by), args.reason)


def _confirmed(args: argparse.Namespace) -> bool:
    if not sys.stdin.isatty():
        output.complain("dlq", "say --yes to discard without being asked")
        return False
    wanted = {
        key: value
        for key, value in vars(args).items()
        if key in {"ids", "queue", "code", "domain", "site"} and value
    }
    print(
        f"Discard the letters that match {json.dumps(wanted)}? Copies are kept in the database. [y/N] ",
        end="",
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
