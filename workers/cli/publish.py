"""`certpilot issue`, `renew` and `remove`: they publish a command as any producer does, and can wait for its end."""

import argparse
from collections.abc import Callable, Mapping
from uuid import uuid4

from contracts.catalogue import CATALOGUE
from contracts.commands import (
    Command,
    IssueSSL,
    RemoveSSL,
    RenewSSL,
    ServerRef,
    build_command,
    read_command,
)
from contracts.envelope import CONTENT_TYPE, SetAside
from contracts.topology import (
    COMMANDS_EXCHANGE,
    ISSUE_ROUTING_KEY,
    REMOVE_ROUTING_KEY,
    RENEW_ROUTING_KEY,
)
from workers import settings
from workers.cli import output
from workers.cli.arguments import add_json, by_or_self, positive, split_server, utf8
from workers.cli.main import DONE, FAILED, USAGE
from workers.cli.trouble import quiet_logs
from workers.cli.waiting import publish_and_wait, publish_confirmed
from workers.edges.amqp.broker import BrokerError
from workers.edges.amqp.publisher import OutgoingMessage

SOURCE = "/certpilot/cli"
"""`/certpilot` alone is the sender of events."""

DEFAULT_TIMEOUT_SECONDS = 600
_ROUTING_KEYS = {"issue": ISSUE_ROUTING_KEY, "renew": RENEW_ROUTING_KEY, "remove": REMOVE_ROUTING_KEY}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the fields of the command."""
    parser.add_argument("--site", type=utf8, required=True, metavar="SITE", help="the site's id")
    if command == "remove":
        parser.add_argument("--revoke", action="store_true", help="also revoke the certificate at its CA")
    else:
        _add_names_and_server(command, parser)
    parser.add_argument(
        "--requested-by", type=utf8, metavar="WHO", help="for the record (default: user@host)"
    )
    parser.add_argument(
        "--wait", action="store_true",
        help="show each step; ends 0 active (or removed), 1 failed or rejected, 2 still waiting at the time-out",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=positive, metavar="SECONDS",
        help=f"with --wait: wait no longer than this (default {DEFAULT_TIMEOUT_SECONDS})",
    )  # fmt: skip
    add_json(parser, "the command as published, and with --wait each event about it, one CloudEvent a line")


def _add_names_and_server(command: str, parser: argparse.ArgumentParser) -> None:
    issue = command == "issue"
    stored = "" if issue else " (default: the stored one)"
    parser.add_argument(
        "--domain", type=utf8, required=issue, metavar="NAME", help=f"the primary name{stored}"
    )
    parser.add_argument(
        "--server", type=utf8, required=issue, metavar="USER@HOST:PORT",
        help=f"where the site is served; user and port may be left out (root, 22){stored}",
    )  # fmt: skip
    parser.add_argument(
        "--host-key", type=utf8, metavar="'TYPE BASE64'",
        help="the server's public host key (default: known_hosts decides)",
    )  # fmt: skip
    parser.add_argument(
        "--alias", type=utf8, action="append", default=[], metavar="NAME",
        help="a further name of the certificate; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--public-address", type=utf8, action="append", default=[], metavar="IP",
        help="where the public reaches the server, if SSH uses another address; may be repeated",
    )  # fmt: skip
    if not issue:
        parser.add_argument("--force", action="store_true", help="also before the renewal window opens")


def run(command: str, args: argparse.Namespace) -> int:
    """Publish it; what the service would reject as wrong is not even sent."""
    problem = _misuse(command, args)
    if problem:
        output.complain(command, problem)
        return USAGE
    command_id = str(uuid4())
    request = _REQUESTS[command](args)
    body = build_command(request, command_id=command_id, source=SOURCE, sent_at=output.now())
    problem = _why_refused(body)
    if problem:
        output.complain(command, problem)
        return USAGE
    message = OutgoingMessage(
        COMMANDS_EXCHANGE, _ROUTING_KEYS[command], body, message_id=command_id, content_type=CONTENT_TYPE
    )
    config = settings.load()
    quiet_logs(config)
    try:
        if args.wait:
            timeout_seconds = args.timeout or DEFAULT_TIMEOUT_SECONDS
            return publish_and_wait(
                config.rabbitmq_url, message, source=SOURCE, site_id=args.site,
                timeout_seconds=timeout_seconds, as_json=args.json,
            )  # fmt: skip
        publish_confirmed(config.rabbitmq_url, message)
    except BrokerError as error:
        output.complain(command, str(error))
        return FAILED
    _tell_sent(command, args, body, command_id)
    return DONE


def _tell_sent(command: str, args: argparse.Namespace, body: bytes, command_id: str) -> None:
    if args.json:
        output.write_json_line(output.parsed(body))
        return
    output.write_line(output.visible(f"sent {command} of site {args.site} as command {command_id}"))
    output.write_line(output.visible(f"see it happen: certpilot activity --follow --site {args.site}"))


def _misuse(command: str, args: argparse.Namespace) -> str:
    if args.timeout is not None and not args.wait:
        return "--timeout is of use with --wait only"
    if command != "remove" and args.server is None and (args.host_key is not None or args.public_address):
        return "--host-key and --public-address belong to a --server"
    return ""


def _issue(args: argparse.Namespace) -> IssueSSL:
    return IssueSSL(
        site_id=args.site,
        domain=args.domain,
        aliases=tuple(args.alias),
        server=_server(args),
        requested_by=args.requested_by or by_or_self(None),
    )


def _renew(args: argparse.Namespace) -> RenewSSL:
    return RenewSSL(
        site_id=args.site,
        domain=args.domain,
        aliases=tuple(args.alias) or None,
        server=None if args.server is None else _server(args),
        requested_by=args.requested_by or by_or_self(None),
        force=args.force,
    )


def _remove(args: argparse.Namespace) -> RemoveSSL:
    return RemoveSSL(args.site, args.revoke, args.requested_by or by_or_self(None))


_REQUESTS: Mapping[str, Callable[[argparse.Namespace], Command]] = {
    "issue": _issue,
    "renew": _renew,
    "remove": _remove,
}


def _server(args: argparse.Namespace) -> ServerRef:
    username, host, port = split_server(args.server)
    return ServerRef(host, port, username, args.host_key, tuple(args.public_address))


def _why_refused(body: bytes) -> str:
    """Say what the service would, with the fix; empty where it would take the command."""
    try:
        rejection = read_command(body, CONTENT_TYPE).rejection
    except SetAside as error:
        return error.reason
    if rejection is None:
        return ""
    return f"{rejection.message} {CATALOGUE[rejection.code].fix}"
