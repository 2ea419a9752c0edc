"""Options that several commands share, and their types. A wrong value is a usage error (exit code 2)."""

import argparse
import getpass
import os
import socket
from typing import Any

from contracts.text import is_plain

_MAX_TEXT_CHARACTERS = 500
_LONGEST_PORT = 5


def plain_text(raw: str) -> str:
    """Take a line of text that can be stored, published and printed.

    Raises:
        ArgumentTypeError: it is blank or too long, or has control characters or bytes that are not UTF-8.
    """
    if not raw.strip() or len(raw) > _MAX_TEXT_CHARACTERS or not is_plain(raw):
        raise argparse.ArgumentTypeError(
            f"must be one line of 1 to {_MAX_TEXT_CHARACTERS} characters without control characters"
        )
    return raw


def utf8(raw: str) -> str:
    """Take any text that is UTF-8; whether it is good is for the reader of the command to say.

    Raises:
        ArgumentTypeError: it has bytes that are not.
    """
    try:
        raw.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be UTF-8") from None
    return raw


def positive(raw: str) -> int:
    """Take a whole number from 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (raw.isascii() and raw.isdigit() and len(raw) < 10 and int(raw) >= 1):  # noqa: PLR2004  # a billion rows
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(raw)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=f"print JSON: {what}")


def add_limit(parser: argparse.ArgumentParser, default: int, which: str) -> None:
    """Add `--limit`."""
    parser.add_argument(
        "--limit", type=positive, default=default, metavar="N", help=f"at most N, {which} (default {default})"
    )


def add_by(parser: argparse.ArgumentParser) -> None:
    """Add who acts and why; both stand in the activity feed."""
    parser.add_argument("--by", type=plain_text, metavar="WHO", help="who does it (default: user@host)")
    parser.add_argument("--reason", type=plain_text, metavar="TEXT", help="why; kept in the activity feed")


def by_or_self(by: str | None) -> str:
    """Name who acts: what was given, else `user@host`."""
    return by or f"{_user()}@{socket.gethostname()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name; Python 3.13 raises OSError
        return str(os.getuid())


def split_server(raw: str) -> tuple[str, str, Any]:
    """Split `user@host:port`; user and port may be missing (root, 22), an IPv6 address with a port needs brackets.

    Returns:
        User, host and port. Nothing is checked: a port that is no number stays text, so that reading the command
        refuses it in the service's own words.
    """
    username, at, address = raw.rpartition("@")
    host, port = _split_address(address)
    return (username if at else "root"), host, 22 if port is None else _port(port)


def _split_address(address: str) -> tuple[str, str | None]:
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        if not rest:
            return host, None
        return (host, rest[1:]) if rest.startswith(":") else (address, None)
    if address.count(":") > 1:
        return address, None
    host, colon, port = address.partition(":")
    return host, port if colon else None


def _port(raw: str) -> Any:
    return int(raw) if raw.isascii() and raw.isdigit() and len(raw) <= _LONGEST_PORT else raw
