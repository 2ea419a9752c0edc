"""TLS handshakes with real servers on loopback."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.authority import Authority
from workers.core.certificate import covers
from workers.core.preflight.observed import HandshakeError
from workers.edges.web.tls import Target, handshake, handshake_all


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Start a server whose every connection is handled by the given function; gives its port."""
    servers: list[tuple[socket.socket, threading.Thread]] = []

    def start(handle: Callable[[socket.socket], None]) -> int:
        server = socket.create_server(("127.0.0.1", 0), backlog=64)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with suppress(OSError), connection:
                    connection.settimeout(5)
                    handle(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        servers.append((server, thread))
        return server.getsockname()[1]

    yield start
    for server, thread in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)
        assert not thread.is_alive()


def tls_server(default: Path, **by_name: Path) -> Callable[[socket.socket], None]:
    """Show a certificate by SNI; a name given as None is refused with an alert."""
    contexts = {}
    for name, path in [("", default), *by_name.items()]:
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts[name].load_cert_chain(path)

    def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        if name == "refused.example":
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = contexts.get((name or "").replace(".", "_"), contexts[""])
        return None

    contexts[""].sni_callback = choose

    def handle(connection: socket.socket) -> None:
        with contexts[""].wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    return handle


Listen = Callable[[Callable[[socket.socket], None]], int]


def test_a_trusted_certificate_for_the_name_is_verified(listen: Listen, authority: Authority) -> None:
    port = listen(tls_server(authority.leaf("a.example", "*.b.example", serial=0xAB12)))
    for name in ("a.example", "x.b.example"):
        shown = handshake("127.0.0.1", port, name, ca_file=authority.file)
        assert (shown.verified, shown.verify_error, shown.error) == (True, None, None)
        assert shown.certificate
        assert shown.certificate.serial == "ab12"
        assert shown.certificate.issuer == "lab root"
        assert covers(shown.certificate, [name])


def test_an_untrusted_certificate_is_shown_with_the_reason(listen: Listen, authority: Authority) -> None:
    port = listen(tls_server(authority.leaf("a.example")))
    shown = handshake("127.0.0.1", port, "a.example")
    assert (shown.verified, shown.error) == (False, None)
    assert shown.verify_error == "unable to get local issuer certificate"
    assert shown.certificate
    assert shown.certificate.names == ("a.example",)


@pytest.mark.parametrize(
    ("names", "days", "reason"),
    [
        (("other.example",), 5, "Hostname mismatch, certificate is not valid for 'a.example'."),
        (("a.example",), -1, "certificate has expired"),
    ],
)
def test_a_wrong_name_or_an_expired_certificate_is_not_verified(
    listen: Listen, authority: Authority, names: tuple[str, ...], days: int, reason: str
) -> None:
    port = listen(tls_server(authority.leaf(*names, serial=days + 100, days=days)))
    shown = handshake("127.0.0.1", port, "a.example", ca_file=authority.file)
    assert (shown.verified, shown.verify_error) == (False, reason)
    assert shown.certificate
    assert shown.certificate.names == names


def test_the_certificate_is_the_one_of_the_name_asked_for(listen: Listen, authority: Authority) -> None:
    port = listen(tls_server(authority.leaf("d.example"), a_example=authority.leaf("a.example", serial=8)))
    by_name = {
        name: handshake("127.0.0.1", port, name, ca_file=authority.file)
        for name in ("a.example", "d.example", "z.example")
    }
    assert by_name["a.example"].verified
    assert by_name["d.example"].verified
    assert not by_name["z.example"].verified


def test_a_name_that_the_server_refuses_is_told(listen: Listen, authority: Authority) -> None:
    port = listen(tls_server(authority.leaf("a.example")))
    shown = handshake("127.0.0.1", port, "refused.example")
    assert (shown.certificate, shown.error) == (None, HandshakeError.REFUSED_BY_SERVER)


def test_plain_http_on_the_port_is_not_tls(listen: Listen) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert handshake("127.0.0.1", listen(handle), "a.example").error is HandshakeError.NOT_TLS


def test_a_peer_that_closes_is_a_reset(listen: Listen) -> None:
    assert handshake("127.0.0.1", listen(lambda c: None), "a.example").error is HandshakeError.RESET


def test_a_closed_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert handshake("127.0.0.1", port, "a.example").error is HandshakeError.REFUSED


def test_an_address_family_that_is_not_there_is_no_route() -> None:
    assert handshake("fe80::1", 443, "a.example").error is HandshakeError.NO_ROUTE


def test_a_silent_peer_ends_with_the_deadline(listen: Listen) -> None:
    done = threading.Event()
    port = listen(lambda c: done.wait(10) and None)
    start = time.monotonic()
    assert handshake("127.0.0.1", port, "a.example", timeout_seconds=0.3).error is HandshakeError.TIMEOUT
    assert time.monotonic() - start < 3
    done.set()


def test_a_peer_that_sends_a_byte_now_and_then_ends_with_the_deadline_too(listen: Listen) -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")  # the head of a long record
        while not stop.wait(0.05):
            connection.sendall(b"\0")

    port = listen(drip)
    start = time.monotonic()
    assert handshake("127.0.0.1", port, "a.example", timeout_seconds=0.5).error is not None
    assert time.monotonic() - start < 3
    stop.set()


def test_many_handshakes_are_made_at_once_and_keep_their_order(listen: Listen, authority: Authority) -> None:
    port = listen(tls_server(authority.leaf("d.example"), a_example=authority.leaf("a.example", serial=8)))
    targets = [Target("127.0.0.1", port, name) for name in ("a.example", "d.example", "z.example")]
    shown = handshake_all(targets, ca_file=authority.file)
    assert [s.server_name for s in shown] == ["a.example", "d.example", "z.example"]
    assert [s.verified for s in shown] == [True, True, False]
    assert handshake_all([]) == ()


def test_an_address_that_does_not_answer_is_waited_for_once_and_not_once_a_name(listen: Listen) -> None:
    silent = threading.Event()
    met: list[socket.socket] = []

    def keep(connection: socket.socket) -> None:
        met.append(connection)
        silent.wait(10)

    port = listen(keep)
    names = [f"{number}.example" for number in range(8)]
    shown = handshake_all([Target("127.0.0.1", port, name) for name in names], timeout_seconds=0.3)
    silent.set()
    assert [one.server_name for one in shown] == names
    assert {one.error for one in shown} == {HandshakeError.TIMEOUT}
    assert len(met) == 1


def test_a_changed_file_of_roots_counts_at_once(listen: Listen, authority: Authority, tmp_path: Path) -> None:
    port = listen(tls_server(authority.leaf("a.example")))
    roots = tmp_path / "roots.pem"
    roots.write_bytes(Authority(tmp_path).file.read_bytes())
    assert not handshake("127.0.0.1", port, "a.example", ca_file=roots).verified
    roots.write_bytes(authority.file.read_bytes() + b"\n")
    assert handshake("127.0.0.1", port, "a.example", ca_file=roots).verified
