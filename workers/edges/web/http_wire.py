"""One HTTP/1.1 request over a fresh connection, within a deadline that no peer can stretch.

The standard library's client gives every single read the whole timeout, so a peer that sends a byte a second holds it for
hours, and one thread each; here hundreds of requests share a thread.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from workers.core.preflight.observed import PROBE_ERRORS, ProbeError
from workers.edges.web.connecting import connect_error
from workers.edges.web.tls import lax_context

MAX_HEAD_BYTES = 32 * 1024
MAX_BODY_BYTES = 1024
"""A challenge's answer has fewer than 128 bytes (boulder, va/http.go, maxResponseSize)."""

FAIR_CONNECT_SECONDS = 1.2
"""With less left than this, one lost packet (sent again after 1 s) would look like a firewall."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r|\n|$)")
_LENGTH = re.compile(r"[0-9]{1,9}$")
_SETTINGS_FRAME = 4
_USER_AGENT = "Mozilla/5.0 (compatible; certpilot preflight)"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        status: 200 to 599.
        headers: lower-case names; of repeated ones the first.
        body: its beginning, at most MAX_BODY_BYTES.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class RequestFailedError(Exception):
    """There was no answer."""

    def __init__(self, error: ProbeError) -> None:
        super().__init__(error.value)
        self.error = error


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        address: the IP address to connect to.
        port: the port to connect to.
        tls_name: the name for SNI; None: no TLS.
        host: the Host header.
        target: path and query.
    """

    address: str
    port: int
    tls_name: str | None
    host: str
    target: str


@cache
def _context() -> ssl.SSLContext:
    return lax_context()


async def get(call: Call, deadline: float) -> Answer:
    """Send a GET and read the answer.

    Args:
        call: what to ask whom.
        deadline: on the event loop's clock.

    Raises:
        RequestFailedError: with the reason. Nothing else is raised for what the peer does.
    """
    sock = await _connect(call, deadline)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout_at(deadline):
            tls = {"ssl": _context(), "server_hostname": call.tls_name} if call.tls_name else {}
            reader, writer = await asyncio.open_connection(sock=sock, limit=MAX_HEAD_BYTES, **tls)  # type: ignore[arg-type]
            writer.write(_request(call))
            return await _read_answer(reader)
    except TimeoutError:
        raise RequestFailedError(ProbeError.READ_TIMEOUT) from None
    except ssl.SSLError:
        raise RequestFailedError(ProbeError.TLS) from None
    except OSError:
        raise RequestFailedError(ProbeError.RESET) from None
    except ValueError:  # a name that TLS cannot ask for
        raise RequestFailedError(ProbeError.BAD_TARGET) from None
    finally:
        if writer is None:
            sock.close()
        else:
            writer.transport.abort()  # an orderly end of TLS would wait for the peer
            await asyncio.sleep(0)


async def _connect(call: Call, deadline: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    started_with = deadline - loop.time()
    sock: socket.socket | None = None
    try:
        sock = socket.socket(socket.AF_INET6 if ":" in call.address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        async with asyncio.timeout_at(deadline):
            await loop.sock_connect(sock, (call.address, call.port))
    except OSError as error:
        if sock is not None:
            sock.close()
        reason = PROBE_ERRORS[connect_error(error)]
        if reason is ProbeError.CONNECT_TIMEOUT and started_with < FAIR_CONNECT_SECONDS:
            reason = ProbeError.READ_TIMEOUT
        raise RequestFailedError(reason) from None
    except BaseException:  # cancelled
        if sock is not None:
            sock.close()
        raise
    return sock


def _request(call: Call) -> bytes:
    lines = (
        f"GET {call.target} HTTP/1.1",
        f"Host: {call.host}",
        f"User-Agent: {_USER_AGENT}",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii", "replace")


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    while True:
        head, rest = await _read_head(reader)
        found = _STATUS_LINE.match(head)
        if found is None:
            raise RequestFailedError(_not_http(head))
        status, headers = int(found[1]), _headers(head)
        if status >= 200:  # noqa: PLR2004 - 1xx only announces the answer
            return Answer(status, headers, await _read_body(reader, rest, headers))
        if rest:
            raise RequestFailedError(ProbeError.BAD_RESPONSE)


async def _read_head(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read to the empty line; stop early at what cannot become HTTP/1."""
    read = bytearray()
    while len(read) < MAX_HEAD_BYTES:
        chunk = await reader.read(4096)
        looked_at = max(len(read) - 3, 0)
        read += chunk
        end = read.find(b"\r\n\r\n", looked_at)
        if end >= 0:
            return bytes(read[:end]), bytes(read[end + 4 :])
        if not chunk or not read.startswith(b"HTTP/1."[: len(read)]):
            break
    return bytes(read) if not read.startswith(b"HTTP/1.") else b"", b""


def _not_http(head: bytes) -> ProbeError:
    if not head:
        return ProbeError.RESET
    frame = head[:9]
    settings = len(frame) > 3 and frame[3] == _SETTINGS_FRAME and not any(frame[5:9])  # noqa: PLR2004 - RFC 9113 section 4.1
    return ProbeError.HTTP2 if settings else ProbeError.BAD_RESPONSE


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


async def _read_body(reader: asyncio.StreamReader, rest: bytes, headers: Mapping[str, str]) -> bytes:
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = _LENGTH.match(headers.get("content-length", ""))
    limit = (
        2 * MAX_BODY_BYTES if chunked else min(int(length[0]) if length else MAX_BODY_BYTES, MAX_BODY_BYTES)
    )
    body = bytearray(rest)
    while len(body) < limit and not (chunked and body.endswith(b"0\r\n\r\n")):
        chunk = await reader.read(limit - len(body))
        if not chunk:
            break
        body += chunk
    return (_joined(bytes(body)) if chunked else bytes(body))[:limit]


def _joined(body: bytes) -> bytes:
    """The chunks without their sizes, as far as they came (RFC 9112 section 7.1)."""
    joined = b""
    while body:
        size_line, _, body = body.partition(b"\r\n")
        size_text = size_line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size_text) or not (size := int(size_text, 16)):
            break
        joined += body[:size]
        body = body[size + 2 :]
    return joined
