"""The HTTPS side of the ACME proxy: connections in threads, each with one of its own to Pebble."""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol

from deploy.lab.acme_messages import Reply, Seen, endpoint_of, path_of, read_jws
from deploy.lab.door import Door

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
IDLE_SECONDS = 60


class Front(Protocol):
    """What a connection asks of the proxy, one request at a time."""

    server_context: ssl.SSLContext
    latency_seconds: float
    latency_of: dict[str, float]

    def now(self) -> float:
        """Give the CA's time in seconds since 1970."""

    def connect(self) -> http.client.HTTPSConnection:
        """Open a connection to Pebble."""

    def admit(self, seen: Seen, document: dict[str, Any], path: str) -> tuple[Seen, Reply | None]:
        """Say whose request this is, and what to answer at once, if anything."""

    def note(self, seen: Seen, status: int, body: bytes, *, refused: bool) -> bytes:
        """Remember an answer and count what it means for the limits; give the body to send on."""


class PlacedHTTPSConnection(http.client.HTTPSConnection):
    """An HTTPS connection whose socket is made by somebody else, in another network."""

    def __init__(
        self, make_socket: Callable[[], socket.socket], host: str, port: int, context: ssl.SSLContext
    ) -> None:
        """Prepare; it connects with the first request."""
        super().__init__(host, port, context=context, timeout=IDLE_SECONDS)
        self._make_socket, self._tls = make_socket, context

    def connect(self) -> None:
        """Connect and shake hands."""
        plain = self._make_socket()
        try:
            plain.settimeout(IDLE_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.connect((self.host, self.port))
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except OSError:
            plain.close()
            raise


class FrontServer(Door):
    """The proxy's door: serves one listening socket until it is closed, connections included."""

    def __init__(self, proxy: Front, listener: socket.socket) -> None:
        """Take over a listening socket."""
        super().__init__(listener, _Handler)
        self.proxy = proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = (
        -1
    )  # head and body in one segment: two would wait for each other (Nagle and delayed acknowledgement)
    server: FrontServer

    def setup(self) -> None:
        self.plain = self.request
        self.request.settimeout(IDLE_SECONDS)
        self.request = self.server.proxy.server_context.wrap_socket(self.request, server_side=True)
        super().setup()
        self._upstream = self.server.proxy.connect()

    def finish(self) -> None:
        self._upstream.close()
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, *_: object) -> None:
        """Keep the terminal clean; the proxy remembers it all."""

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        account, document = read_jws(body)
        path = path_of(self.path)
        seen = Seen(
            at=proxy.now(),
            endpoint=endpoint_of(path),
            client=self.client_address[0],
            account=account,
            names=tuple(
                sorted(str(item.get("value", "")).lower() for item in document.get("identifiers", []))
            ),
        )
        if pause := proxy.latency_of.get(seen.client, proxy.latency_seconds):
            time.sleep(pause)
        seen, reply = proxy.admit(seen, document, path)
        if reply is not None:
            headers = {**reply.headers, "Replay-Nonce": self._nonce()}
            proxy.note(seen, reply.status, reply.body, refused=True)
            self._send(reply.status, headers.items(), reply.body)
            return
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        self._upstream.request(self.command, self.path, body or None, kept)
        response = self._upstream.getresponse()
        answer = response.read()
        answer = proxy.note(seen, response.status, answer, refused=False)
        self._send(response.status, response.getheaders(), answer)

    def _nonce(self) -> str:
        """Get a nonce for an answer of our own: boulder sends one with each error too."""
        self._upstream.request("HEAD", "/nonce-plz", headers={"User-Agent": "lab"})
        response = self._upstream.getresponse()
        response.read()
        return response.getheader("Replay-Nonce", "")

    def _send(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
