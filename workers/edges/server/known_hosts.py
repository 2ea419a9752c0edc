"""Which host keys are accepted of a server: the one that the command names, else what the known_hosts file says.

The file is OpenSSH's (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"): comma-separated names with `*`, `?` and `!`, hashed
names, `[host]:port` for another port than 22, several keys of one host, `@revoked`. Certificate authorities
(`@cert-authority`) are not used.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.core.model import Server

SSH_PORT = 22
_HASH_PREFIX = "|1|"  # HMAC-SHA1, the only scheme that OpenSSH has
_FIELDS = 3  # hosts, type, base64; a comment may follow


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public host key: its type (RFC 4253 6.6) and its wire form."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: `TYPE SHA256:…`."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")
        return f"{self.type} SHA256:{digest}"


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What is known of one server.

    Attributes:
        accepted: keys that the server may show.
        revoked: keys that it must never show, whatever else says so.
        source: where that is written, for messages.
    """

    accepted: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...]
    source: str


def known_keys(server: Server, known_hosts_file: Path | None) -> KnownKeys:
    """Find the keys of a server.

    A key in the command stands alone: what the file says of the host is not looked at.

    Args:
        server: the server as the command names it.
        known_hosts_file: the operator's file; missing or unreadable is as if it were empty.
    """
    if server.host_key is not None:
        try:
            return KnownKeys((_parse_key(server.host_key.split()),), (), "the request's hostKey")
        except ValueError:
            return KnownKeys((), (), "the request's hostKey, which is no key")
    if known_hosts_file is None:
        return KnownKeys((), (), "the request (which has no hostKey; no known_hosts file is set)")
    try:
        lines = known_hosts_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return KnownKeys((), (), f"the known_hosts file {known_hosts_file} ({error.strerror})")
    found = tuple(_entries(lines, host_name(server)))
    return KnownKeys(
        tuple(key for marker, key in found if not marker),
        tuple(key for marker, key in found if marker == "@revoked"),
        f"the known_hosts file {known_hosts_file}",
    )


def host_name(server: Server) -> str:
    """Give the name under which OpenSSH files the server: `host`, or `[host]:port` for another port than 22."""
    return server.host.lower() if server.port == SSH_PORT else f"[{server.host.lower()}]:{server.port}"


def _entries(lines: Iterable[str], name: str) -> Iterator[tuple[str, HostKey]]:
    for line in lines:
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < _FIELDS or fields[0].startswith("#") or not _matches(fields[0], name):
            continue
        try:
            yield marker, _parse_key(fields[1:])
        except ValueError:
            continue  # OpenSSH skips a broken line too; the key is then simply not known


def _matches(patterns: str, name: str) -> bool:
    """Whether a comma-separated list names the host; one matching `!pattern` rules it out."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith(_HASH_PREFIX):
            found = found or _hash_matches(pattern, name)
        elif _glob(pattern.removeprefix("!").lower()).fullmatch(name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hash_matches(hashed: str, name: str) -> bool:
    salt, _, digest = hashed.removeprefix(_HASH_PREFIX).partition("|")
    try:
        expected = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
        return hmac.compare_digest(expected, base64.b64decode(digest))
    except binascii.Error:
        return False


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` only: the brackets of `[host]:port` are no character class."""
    return re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern))


def _parse_key(fields: list[str]) -> HostKey:
    """Raises ValueError where there is no key (binascii.Error is one)."""
    key_type, encoded, *_ = [*fields, "", ""]
    if not encoded:
        raise ValueError("no key")
    return HostKey(key_type, base64.b64decode(encoded, validate=True))
