"""What a site shows over TLS: its certificate, trusted or not, and whether a visitor's browser would take it."""

import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from workers.core.certificate import CertificateUnreadableError, certificate_from_der
from workers.core.preflight.observed import Handshake, HandshakeError
from workers.edges.web.connecting import connect_error

MAX_AT_ONCE = 64
_IN_A_ROW = 8
"""Names for which an address is asked one after the other: 8 at 0.3 s each take no longer than one address that is off."""

_NOT_THERE = frozenset(
    {HandshakeError.TIMEOUT, HandshakeError.REFUSED, HandshakeError.HOST_UNREACHABLE, HandshakeError.NO_ROUTE}
)
"""What the address is the reason of, and not the name."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address to ask, and the name to ask it for."""

    address: str
    port: int
    server_name: str


def handshake(
    address: str, port: int, server_name: str, *, ca_file: Path | None = None, timeout_seconds: float = 5.0
) -> Handshake:
    """Make a TLS handshake and look at the certificate.

    Args:
        address: an IP address.
        port: mostly 443.
        server_name: the name asked for (SNI), which the certificate also has to be valid for.
        ca_file: roots to trust beside the system's, PEM.
        timeout_seconds: how long the whole may take.

    Returns:
        What was shown. Where the certificate is not trusted, a second handshake without verification fetches it.
        Never raises for anything that the peer does; an unreadable `ca_file` raises OSError or ssl.SSLError.
    """
    result = Handshake(address, port, server_name)
    deadline = time.monotonic() + timeout_seconds
    try:
        der = _leaf(address, port, server_name, _context(ca_file, _changed(ca_file), verify=True), deadline)
        result = replace(result, verified=True)
    except ssl.SSLCertVerificationError as error:
        result = replace(result, verify_error=error.verify_message or str(error.reason))
        try:
            der = _leaf(address, port, server_name, _context(None, 0, verify=False), deadline)
        except (OSError, ValueError) as second:
            return replace(result, error=_error(second))
    except (OSError, ValueError) as error:
        return replace(result, error=_error(error))
    try:
        return replace(result, certificate=certificate_from_der(der))
    except CertificateUnreadableError:
        return replace(result, verified=False, error=HandshakeError.UNREADABLE)


def handshake_all(
    targets: Sequence[Target], *, ca_file: Path | None = None, timeout_seconds: float = 5.0
) -> tuple[Handshake, ...]:
    """Make many handshakes, several at once; an address that does not answer is waited for once and not once a name.

    Args:
        targets: whom to ask for what.
        ca_file: as for `handshake`.
        timeout_seconds: for each of them.

    Returns:
        The results, in the order of the targets; for a further name of an address that is not there, the same as for the
        name before.
    """
    if not targets:
        return ()

    def ask(row: Sequence[int]) -> list[tuple[int, Handshake]]:
        shown: Handshake | None = None
        results = []
        for number in row:
            one = targets[number]
            if shown is not None and shown.error in _NOT_THERE:
                shown = replace(shown, server_name=one.server_name)
            else:
                shown = handshake(
                    one.address, one.port, one.server_name, ca_file=ca_file, timeout_seconds=timeout_seconds
                )
            results.append((number, shown))
        return results

    rows = _rows(targets)
    with ThreadPoolExecutor(min(MAX_AT_ONCE, len(rows)), thread_name_prefix="tls") as pool:
        found = dict(one for results in pool.map(ask, rows) for one in results)
    return tuple(found[number] for number in range(len(targets)))


def _rows(targets: Sequence[Target]) -> list[list[int]]:
    """The targets' numbers, those of one address together, at most `_IN_A_ROW` in each."""
    of_address: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for number, target in enumerate(targets):
        of_address[target.address, target.port].append(number)
    return [
        numbers[first : first + _IN_A_ROW]
        for numbers in of_address.values()
        for first in range(0, len(numbers), _IN_A_ROW)
    ]


def _leaf(address: str, port: int, server_name: str, context: ssl.SSLContext, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    with socket.create_connection((address, port), left) as plain:
        plain.settimeout(
            max(deadline - time.monotonic(), 0.001)
        )  # one deadline for all reads of the handshake
        with context.wrap_socket(plain, server_hostname=server_name) as secured:
            return secured.getpeercert(binary_form=True) or b""


def _changed(ca_file: Path | None) -> int:
    return ca_file.stat().st_mtime_ns if ca_file else 0


@lru_cache(maxsize=16)
def _context(ca_file: Path | None, _changed_ns: int, *, verify: bool) -> ssl.SSLContext:
    """A context, kept because reading the system's roots takes 20 ms; made anew when the file has changed."""
    if not verify:
        return lax_context()
    context = ssl.create_default_context()
    # Python 3.13 refuses roots without keyUsage; browsers and openssl do not, and private CAs have such.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    return context


def lax_context() -> ssl.SSLContext:
    """A context that takes any certificate, as the CA does on redirects (https://letsencrypt.org/docs/challenge-types/)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # small keys and old signatures are the owner's, not ours
    return context


def _error(error: Exception) -> HandshakeError:
    if isinstance(error, ssl.SSLError) and not isinstance(error, TimeoutError):
        reason = error.reason or ""
        if reason in {
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "PACKET_LENGTH_TOO_LONG",
            "UNEXPECTED_MESSAGE",
            "BAD_RECORD_TYPE",
        }:
            return HandshakeError.NOT_TLS
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return HandshakeError.RESET
        return HandshakeError.REFUSED_BY_SERVER
    if isinstance(error, OSError):
        return HandshakeError(connect_error(error).value)
    return HandshakeError.REFUSED_BY_SERVER  # a name that cannot be asked for
