"""`certpilot server check HOST`: can this server issue and renew? Every prerequisite, one line each; and `server adopt`.

It looks as a job does before it orders: over SSH with our key, through our script. Nothing on the server is changed but
that the script is stored there, for root.
"""

import argparse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from contracts.names import InvalidName, normalise_host
from db import operators
from db.pool import DatabaseError, connect
from workers import settings
from workers.cli import output
from workers.cli.arguments import add_json, split_server, utf8
from workers.cli.checks import Check, Checks, failed, note, ok, show
from workers.cli.main import DONE, FAILED, USAGE
from workers.cli.trouble import quiet_logs
from workers.core.lifetime.auto_renew import check_auto_renew
from workers.core.model import Fence, Server
from workers.core.nginx.config import parse_nginx_config
from workers.core.preflight.judge import Observations, Verdict
from workers.core.preflight.model import Check as CoreCheck
from workers.core.preflight.model import CheckResult
from workers.core.preflight.observed import ConnectError
from workers.core.preflight.server import (
    check_certbot,
    check_certbot_lock,
    check_certbot_plugin,
    check_clock,
    check_disk,
    check_memory,
    check_nginx,
    check_nginx_config,
    check_permission,
)
from workers.core.preflight.server_facts import ServerFacts, parse_server_facts
from workers.edges.errors import EdgeError
from workers.edges.server.agent import ServerAgent
from workers.edges.server.ssh import SshConnection
from workers.edges.web.connecting import tcp_open
from workers.settings import Settings

_MAX_PORT = 65_535
_NAME_WIDTH = 19
_CHECKS: tuple[CoreCheck, ...] = (
    check_permission,
    check_certbot,
    check_certbot_plugin,
    check_certbot_lock,
    check_nginx,
    check_nginx_config,
    check_disk,
    check_memory,
    check_clock,
    check_auto_renew,
)
_STATES = {Verdict.PASS: "ok", Verdict.UNSURE: "note", Verdict.FAIL: "failed"}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the one action, and which server."""
    del command
    actions = parser.add_subparsers(dest="action", metavar="check|adopt", required=True)
    checking = actions.add_parser("check", help="what it needs to issue and renew, one line each")
    _add_server(checking)
    add_json(checking, "an array with name, state (ok, note, failed), found, fix and code")
    adopting = actions.add_parser(
        "adopt", help="list what certbot has there; take over what the sites table names"
    )
    _add_server(adopting)
    add_json(adopting, "an array with lineage, names, expiry, authenticator, site_id, adopted and why")


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "server", type=utf8, metavar="HOST",
        help="host or user@host:port; of a host alone the rest is taken from its newest command",
    )  # fmt: skip
    parser.add_argument(
        "--host-key", type=utf8, metavar="'TYPE BASE64'", help="the only host key accepted (default: the stored one, "
        "else known_hosts decides)",
    )  # fmt: skip


def run(command: str, args: argparse.Namespace) -> int:
    """Check or adopt; 1 where any check failed, or the server could not be asked."""
    config = settings.load()
    quiet_logs(config)
    try:
        server = _server(args, config)
    except ValueError as error:
        output.complain(command, str(error))
        return USAGE
    if args.action == "adopt":
        return _adopt(command, server, config, as_json=args.json)
    checks = _all_checks(server, config)
    return DONE if show(checks, as_json=args.json, name_width=_NAME_WIDTH) else FAILED


def _adopt(command: str, server: Server, config: Settings, *, as_json: bool) -> int:
    from workers.cli.adopt import adopt  # noqa: PLC0415  # imports pika, which a check need not wait for
    from workers.edges.amqp.broker import BrokerError  # noqa: PLC0415

    try:
        adopt(server, config, as_json=as_json)
    except (EdgeError, DatabaseError, BrokerError) as error:
        output.complain(command, str(error))
        return FAILED
    return DONE


def _server(args: argparse.Namespace, config: Settings) -> Server:
    username, raw_host, port = split_server(args.server)
    try:
        host = normalise_host(raw_host)
    except InvalidName as error:
        raise ValueError(f"the host {error}") from None
    if not username or not isinstance(port, int) or not 1 <= port <= _MAX_PORT:
        raise ValueError(f"expected HOST or USER@HOST:PORT, not {args.server}")
    server = Server(host, port, username)
    if raw_host == args.server.strip("[]"):
        server = _stored(server, config)
    return server if args.host_key is None else replace(server, host_key=args.host_key)


def _stored(server: Server, config: Settings) -> Server:
    """Take user, port and host key from the newest command for the host; without a database, as they are."""
    with suppress(DatabaseError), connect(config.database_url, "certpilot-server", autocommit=True) as conn:
        return operators.server_at(conn, server.host) or server
    return server


def _all_checks(server: Server, config: Settings) -> Checks:
    who = f"{server.username}@{server.host}:{server.port}"
    try:
        connection = SshConnection.connect(
            server, key_files=config.ssh_private_key_file, known_hosts_file=config.ssh_known_hosts_file
        )
    except EdgeError as error:
        yield _failed("ssh", error)
        return
    key = (
        "the host key of its command" if server.host_key else f"its host key in {config.ssh_known_hosts_file}"
    )
    yield ok("ssh", f"{who} lets our key in and shows {key}.")
    with connection:
        agent = ServerAgent(connection, server, Fence(0))
        asked_at = output.now()
        try:
            facts = parse_server_facts(agent.inspect())
        except EdgeError as error:
            yield _failed("script", error)
            return
        answered_at = output.now()
    yield _script(facts)
    seen = Observations(
        names=(), facts=facts, nginx=parse_nginx_config(facts.nginx_config), dns={}, asked_at=asked_at,
        answered_at=answered_at,
    )  # fmt: skip
    for check in _CHECKS:
        yield _told(check(seen))
    yield from _ports(server, facts)


def _failed(name: str, error: EdgeError) -> Check:
    return failed(name, error.message, CATALOGUE[error.code].fix, error.code)


def _script(facts: ServerFacts) -> Check:
    if not facts.complete:
        return note("script", "Its answer was cut: some of what follows is not known.")
    return ok("script", f"certpilot's script runs on {facts.os or 'a system that does not say its name'}.")


def _told(result: CheckResult) -> Check:
    """The core's words say what to do as well, so nothing is added to them."""
    state: Any = _STATES[result.verdict]
    return Check(result.check, state, result.message, code=result.code)


def _ports(server: Server, facts: ServerFacts) -> Iterator[Check]:
    """The CA asks on port 80; 443 is nobody's before the first certificate."""
    port_80 = tcp_open(server.host, 80).error
    listeners = facts.port80_listeners
    if port_80 is None:
        who = "" if not listeners else f", on the server {' and '.join(listeners)}"
        yield ok("port 80", f"It can be reached from here{who}.")
    elif listeners == ():
        found = f"Nothing listens on port 80 of {server.host}."
        yield failed("port 80", found, "start nginx with a server block for port 80", Code.PORT_80_BLOCKED)
    elif port_80 is ConnectError.NO_ROUTE or server.public_addresses:
        yield note(
            "port 80", f"From here there is no way to it ({port_80}); whether the CA has one is not known."
        )
    else:
        found = f"Port 80 of {server.host} cannot be reached from here ({port_80}), likely a firewall."
        yield failed("port 80", found, CATALOGUE[Code.PORT_80_BLOCKED].fix, Code.PORT_80_BLOCKED)
    port_443 = tcp_open(server.host, 443).error
    if port_443 is None:
        yield ok("port 443", "It can be reached from here.")
    elif facts.port443_listeners == ():
        yield ok("port 443", "Nothing listens on it yet; the first certificate brings that.")
    else:
        fix = "open it for everyone before visitors are sent there"
        yield note("port 443", f"It cannot be reached from here ({port_443}).", fix)
