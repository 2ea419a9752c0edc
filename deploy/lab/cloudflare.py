"""A stand-in for Cloudflare's proxy: what its published behaviour makes of requests to sites behind it.

Nothing here is Cloudflare's; its address is the lab's own, so certpilot knows it by the response headers alone. Modes
and error pages as https://developers.cloudflare.com/ssl/origin-configuration/ssl-modes/ and …/support/troubleshooting/
describe them; the times until it gives an origin up are shortened from many seconds to half of one.
"""

import contextlib
import http.client
import secrets
import socket
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self

from deploy.lab.door import Door
from deploy.lab.keys import make_tls_identity
from deploy.lab.network import Network

CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 10.0
HTTP, HTTPS = 80, 443
_DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Mode(StrEnum):
    """How Cloudflare reaches the origin (SSL/TLS encryption mode)."""

    OFF = "off"  # HTTP only, on both sides
    FLEXIBLE = "flexible"  # always HTTP to the origin
    FULL = "full"  # as the visitor came; the origin's certificate is not verified
    STRICT = "strict"  # as the visitor came; the origin's certificate must be valid


@dataclass(frozen=True, slots=True)
class Zone:
    """One proxied name.

    Attributes:
        origin: the address behind it.
        mode: how that is reached.
        always_https: the setting "Always Use HTTPS": visitors over HTTP are redirected at the edge.
    """

    origin: str
    mode: Mode = Mode.FULL
    always_https: bool = False


@dataclass(frozen=True, slots=True)
class _Failure(Exception):  # noqa: N818 - a page of Cloudflare's, not an error of ours
    status: int


class Cloudflare:
    """The proxy at one address, for any number of names.

    Attributes:
        address: what names behind it resolve to.
    """

    def __init__(self, network: Network, directory: Path, *, trusted_roots: Path) -> None:
        """Prepare; it listens after `start`.

        Args:
            network: where it stands.
            directory: a folder for its certificate, made where it is missing.
            trusted_roots: PEM file of the authorities whose certificates Full (strict) accepts, read at each use.
        """
        self._network, self._trusted_roots = network, trusted_roots
        self.address = network.add_authority_address()
        directory.mkdir(parents=True, exist_ok=True)
        _, chain, key = make_tls_identity(directory, self.address)
        self.edge_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.edge_context.load_cert_chain(chain, key)
        self._zones: dict[str, Zone] = {}
        self._doors: list[_Door] = []

    def start(self) -> None:
        """Listen on ports 80 and 443."""
        for port in (HTTP, HTTPS):
            listener = self._network.cell.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.address, port))
            listener.listen(64)
            door = _Door(self, listener)
            self._doors.append(door)
            threading.Thread(target=door.serve_forever, args=(0.05,), name="cloudflare").start()

    def stop(self) -> None:
        """Stop listening and cut every connection."""
        while self._doors:
            self._doors.pop().close()

    def proxy(self, *names: str, zone: Zone) -> None:
        """Stand in front of these names from now on, or change how."""
        self._zones.update(dict.fromkeys(names, zone))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what the doors call, one request at a time ---------------------------------------------------------------------

    def answer(self, request: "_Request") -> "_Answer":
        """Say what a visitor gets."""
        zone = self._zones.get(request.host)
        if zone is None:
            return _page(530)  # 1001: the name is not known here
        if zone.mode is Mode.OFF if request.https else zone.always_https:
            other = "http" if request.https else "https"
            return _Answer(301, (("Location", f"{other}://{request.host}{request.target}"),), b"")
        try:
            return self._from_origin(zone, request)
        except _Failure as failure:
            return _page(failure.status)

    def _from_origin(self, zone: Zone, request: "_Request") -> "_Answer":
        https = request.https and zone.mode in (Mode.FULL, Mode.STRICT)
        connection = http.client.HTTPConnection(zone.origin, timeout=ANSWER_SECONDS)
        connection.sock = self._connect(zone, request.host, https=https)
        headers = {
            "Host": request.host,
            "CF-Connecting-IP": request.client,
            "X-Forwarded-For": request.client,
            "X-Forwarded-Proto": "https" if request.https else "http",
        }
        try:
            connection.request(request.method, request.target, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except TimeoutError:
            raise _Failure(524) from None
        except (OSError, http.client.HTTPException):
            raise _Failure(520) from None
        finally:
            connection.close()
        kept = tuple((k, v) for k, v in response.getheaders() if k.lower() not in _DROPPED)
        return _Answer(response.status, kept, body)

    def _connect(self, zone: Zone, host: str, *, https: bool) -> socket.socket:
        plain = self._network.cell.socket()
        plain.settimeout(CONNECT_SECONDS)
        try:
            plain.bind((self.address, 0))  # the origin's firewall sees who comes
            plain.connect((zone.origin, HTTPS if https else HTTP))
            plain.settimeout(ANSWER_SECONDS)
            return (
                self._origin_context(zone.mode).wrap_socket(plain, server_hostname=host) if https else plain
            )
        except OSError as error:
            plain.close()
            raise _Failure(_status_of(error)) from None

    def _origin_context(self, mode: Mode) -> ssl.SSLContext:
        if mode is Mode.STRICT:
            return ssl.create_default_context(cafile=str(self._trusted_roots))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def _status_of(error: OSError) -> int:
    if isinstance(error, ssl.SSLCertVerificationError):
        return 526
    if isinstance(error, ssl.SSLError):
        return 525
    if isinstance(error, ConnectionRefusedError):
        return 521
    return 522 if isinstance(error, TimeoutError) else 523


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    https: bool
    host: str
    target: str
    client: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Iterable[tuple[str, str]]
    body: bytes


def _page(status: int) -> _Answer:
    return _Answer(status, (("Content-Type", "text/plain"),), f"error code: {status}".encode())


class _Door(Door):
    """One listening socket of the proxy."""

    def __init__(self, proxy: Cloudflare, listener: socket.socket) -> None:
        super().__init__(listener, _Visit)
        self.proxy = proxy


class _Visit(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment
    server: _Door

    def setup(self) -> None:
        self.https = self.server.server_address[1] == HTTPS
        self.request.settimeout(ANSWER_SECONDS)
        if self.https:
            self.request = self.server.proxy.edge_context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()

    def do_GET(self) -> None:
        self._visit()

    def do_HEAD(self) -> None:
        self._visit()

    def log_message(self, *_: object) -> None:
        """Keep the terminal clean."""

    def _visit(self) -> None:
        host = self.headers.get("Host", "").partition(":")[0].lower()
        request = _Request(self.command, self.https, host, self.path, self.client_address[0])
        answer = self.server.proxy.answer(request)
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Server", "cloudflare")
        self.send_header("CF-RAY", f"{secrets.token_hex(8)}-LAB")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()
