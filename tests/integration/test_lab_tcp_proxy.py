"""The faulty TCP proxy: each fault takes effect, and ends with `heal`."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from deploy.lab.tcp_proxy import TcpProxy
from tests.support.waiting import until


class Echo:
    """Sends back what it gets, and counts what its side saw."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received = b""
        self.resets = 0
        self.threads: list[threading.Thread] = []
        self.main = threading.Thread(target=self.accept)
        self.main.start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
                self.threads[-1].start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.received += data
                    connection.sendall(data)
            except OSError:
                self.resets += 1

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in [self.main, *self.threads]:
            thread.join(10)


def first_byte(proxy: TcpProxy) -> bytes:
    """Connect and read: a reset may come during either."""
    with socket.create_connection((proxy.host, proxy.port), timeout=5) as connection:
        return connection.recv(1)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.listener.getsockname()) as started:
        yield started


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with socket.create_connection((proxy.host, proxy.port), timeout=5) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        yield connection


def test_large_streams_pass_unchanged_and_ends_are_passed_on(proxy: TcpProxy) -> None:
    payload = bytes(range(256)) * 20000
    got = b""
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as connection:
        sender = threading.Thread(
            target=lambda: (connection.sendall(payload), connection.shutdown(socket.SHUT_WR))
        )
        sender.start()
        while data := connection.recv(1 << 20):
            got += data
        sender.join()
    assert got == payload
    assert proxy.bytes_to_target == proxy.bytes_to_client == len(payload)
    until(lambda: proxy.connections == 0)


def test_latency_delays_each_direction(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.set_latency(0.15)
    began = time.monotonic()
    client.sendall(b"slow")
    assert client.recv(100) == b"slow"
    assert 0.3 <= time.monotonic() - began < 2
    proxy.heal()
    began = time.monotonic()
    client.sendall(b"fast")
    client.recv(100)
    assert time.monotonic() - began < 0.15


def test_black_hole_is_silent_and_delivers_after_the_outage(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.black_hole()
    client.sendall(b"late")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert b"late" not in echo.received
    proxy.heal()
    client.settimeout(5)
    assert client.recv(100) == b"late"


def test_lost_answer_is_lost_after_the_request_arrived(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.black_hole(to_target=False)
    client.sendall(b"request")
    until(lambda: b"request" in echo.received)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def test_reset_reaches_both_sides(proxy: TcpProxy, client: socket.socket, echo: Echo) -> None:
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    until(lambda: echo.resets == 1)
    assert proxy.reset() == 0


def test_abandoned_connection_is_gone_for_the_server_and_open_for_the_client(
    proxy: TcpProxy, client: socket.socket, echo: Echo
) -> None:
    assert proxy.abandon() == 1
    until(lambda: echo.resets == 1)
    client.settimeout(0.2)
    client.sendall(b"anyone?")
    with pytest.raises(TimeoutError):
        client.recv(100)


def test_refusing_resets_new_connections_only(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        first_byte(proxy)
    client.sendall(b"still")
    assert client.recv(100) == b"still"


def test_answer_is_cut_after_a_number_of_bytes(proxy: TcpProxy, client: socket.socket, echo: Echo) -> None:
    proxy.cut_after(3)
    client.sendall(b"abcdef")
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(100):
            got += data
    assert got in (b"abc", b"")  # a reset may overtake what the receiver has not read
    assert b"abcdef" in echo.received
    until(lambda: proxy.connections == 0)


def test_unreachable_target_resets_the_client(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with TcpProxy(address) as proxy, pytest.raises(ConnectionResetError):
        first_byte(proxy)
