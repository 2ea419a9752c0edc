"""What visitors are shown: a TLS handshake with SNI for every name, straight to the server and never through a proxy."""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workers.core.certificate import CertificateUnreadableError, certificate_from_pem
from workers.core.model import Certificate, Server
from workers.core.preflight.observed import Handshake, HandshakeError
from workers.edges.errors import EdgeError
from workers.edges.server.agent import ServerAgent
from workers.edges.web.tls import Target, handshake, handshake_all

HTTPS_PORT = 443
_AFTER_RELOAD_SECONDS = 6.0
"""nginx takes its new configuration over shortly after the reload; until then old workers answer."""
_PAUSE_SECONDS = 0.15
# Here the worker cannot judge: it has no way there, or somebody on the way lets only others through.
_CLOSED_TO_US = frozenset({HandshakeError.TIMEOUT, HandshakeError.HOST_UNREACHABLE, HandshakeError.NO_ROUTE})


@dataclass(frozen=True, slots=True)
class Served:
    """What the handshakes showed.

    Attributes:
        everywhere: every name is served with the certificate that is on disk.
        wrong: names that are not.
        found: a sentence about the first of them.
    """

    everywhere: bool
    wrong: tuple[str, ...] = ()
    found: str = ""


def check_served(
    agent: ServerAgent,
    server: Server,
    names: Sequence[str],
    certificate: Certificate,
    *,
    ca_file: Path | None,
    just_run: bool,
) -> Served:
    """Look until every name is served with this certificate, or for 6 s after a run (once otherwise).

    From this machine to host:443; for names that cannot be judged from here, from the server itself.
    """
    deadline = time.monotonic() + (_AFTER_RELOAD_SECONDS if just_run else 0.0)
    while True:
        served = _look_once(agent, server, names, certificate, ca_file)
        if served.everywhere or time.monotonic() >= deadline:
            return served
        time.sleep(_PAUSE_SECONDS)


def _look_once(
    agent: ServerAgent, server: Server, names: Sequence[str], certificate: Certificate, ca_file: Path | None
) -> Served:
    address = address_of(server.host)
    if address is None:
        shakes: Sequence[Handshake] = [
            Handshake(server.host, HTTPS_PORT, name, error=HandshakeError.NO_ROUTE) for name in names
        ]
    else:
        shakes = handshake_all([Target(address, HTTPS_PORT, name) for name in names], ca_file=ca_file)
    wrong: list[str] = []
    found = ""
    for shake in shakes:
        seen = shake
        with contextlib.suppress(EdgeError):
            seen = as_seen_there(agent, shake)
        if seen.certificate is None or seen.certificate.serial != certificate.serial:
            wrong.append(shake.server_name)
            found = found or _sentence(seen, server)
    return Served(not wrong, tuple(wrong), found)


def is_closed_to_us(shake: Handshake) -> bool:
    """Whether only the server itself can say what it shows."""
    return shake.error in _CLOSED_TO_US


def as_seen_there(agent: ServerAgent, shake: Handshake) -> Handshake:
    """What the server's own addresses show, where the way is closed to us; as it was unless all that answer show the same.

    Raises:
        EdgeError: it could not be asked.
    """
    shown = _shown_there(agent, shake.server_name) if is_closed_to_us(shake) else None
    return shake if shown is None else replace(shake, certificate=shown, error=None)


def loaded_names(agent: ServerAgent, names: Sequence[str], certificate: Certificate) -> set[str]:
    """Those for which the server shows the certificate at any address of its own, loopback included.

    Raises:
        EdgeError: it could not be asked.
    """
    return {name for name in names if _shows(agent.served(name), certificate)}


def _shows(chains: Mapping[str, bytes], certificate: Certificate) -> bool:
    for pem in chains.values():
        try:
            if pem and certificate_from_pem(pem).serial == certificate.serial:
                return True
        except CertificateUnreadableError:
            continue
    return False


def shown_serial(server: Server, name: str) -> str | None:
    """The serial of the certificate that a server's port 443 shows for a name; None where none is seen from here."""
    address = address_of(server.host)
    certificate = handshake(address, HTTPS_PORT, name).certificate if address else None
    return certificate.serial if certificate else None


def address_of(host: str) -> str | None:
    """The address at which a server is asked for what visitors are shown; None where its name does not resolve."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def _shown_there(agent: ServerAgent, name: str) -> Certificate | None:
    chains = [pem for pem in agent.served(name).values() if pem]
    try:
        shown = {certificate_from_pem(pem).serial: certificate_from_pem(pem) for pem in chains}
    except CertificateUnreadableError:
        return None
    return next(iter(shown.values())) if len(shown) == 1 else None


def _sentence(shake: Handshake, server: Server) -> str:
    where, shown = f"{server.host} port {HTTPS_PORT}", shake.certificate
    if shown is None:
        why = f" ({shake.error})" if shake.error else ""
        return f"The certificate is on the server, but {where} shows none for {shake.server_name}{why}."
    return (
        f"The certificate is on the server, but {where} shows {shake.server_name} another one,"
        f" by {shown.issuer}, valid until {shown.not_after:%Y-%m-%d}."
    )
