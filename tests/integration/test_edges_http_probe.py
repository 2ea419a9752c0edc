"""Fetching challenge files from real servers on loopback."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.dns_server import DnsServer
from workers.core.preflight.observed import ConnectError, Probe, ProbeError, TcpResult
from workers.edges.web.dns import Resolver
from workers.edges.web.http_probe import Prober, ProbeRequest, tcp_open

TOKEN = "probe-token-of-this-test"
TEXT = f"{TOKEN}.1"
PATH = f"/.well-known/acme-challenge/{TOKEN}"


def page(status: int, body: str = "", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def moved(to: str, status: int = 301) -> bytes:
    return page(status, Location=to)


@dataclass
class Site:
    """A server for http and https whose answers are chosen by host and path, or by a function of the connection."""

    tls_file: Path
    answers: dict[str, bytes | Callable[[socket.socket], None]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ports: dict[int, int] = field(default_factory=dict)
    on_connect: Callable[[socket.socket], None] | None = None

    def start(self, address: str = "127.0.0.1") -> None:
        self.servers, self.threads = [], []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls_file)
        for port, secure in ((80, None), (443, context)):
            server = socket.create_server((address, self.ports.get(port, 0)), backlog=128)
            self.ports[port] = server.getsockname()[1]
            self.servers.append(server)
            self.threads.append(threading.Thread(target=self.serve, args=(server, secure)))
            self.threads[-1].start()

    def serve(self, server: socket.socket, secure: ssl.SSLContext | None) -> None:
        workers = []
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                break
            workers.append(threading.Thread(target=self.handle, args=(connection, secure)))
            workers[-1].start()
        for worker in workers:
            worker.join(10)

    def handle(self, plain: socket.socket, secure: ssl.SSLContext | None) -> None:
        with suppress(OSError), plain:
            plain.settimeout(5)
            if self.on_connect:
                self.on_connect(plain)
                return
            connection = secure.wrap_socket(plain, server_side=True) if secure else plain
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (got := connection.recv(4096)):
                    request += got
                    if not request.startswith(b"GET "):
                        connection.sendall(page(400, "this is HTTP"))
                        return
                if not request:
                    return
                head = request.decode().split("\r\n")
                host = next(line[6:] for line in head if line.lower().startswith("host:"))
                url = f"http{'s' if secure else ''}://{host}{head[0].split()[1]}"
                self.requests.append(url)
                answer = self.answers.get(url, page(404, "nothing here"))
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)

    def stop(self) -> None:
        for server in self.servers:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        for thread in self.threads:
            thread.join(15)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def tls_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority(tmp_path_factory.mktemp("ca")).leaf("self.signed.example")


@pytest.fixture
def site(tls_file: Path) -> Iterator[Site]:
    site = Site(tls_file)
    site.start()
    yield site
    site.stop()


@pytest.fixture
def names() -> Iterator[DnsServer]:
    server = DnsServer({
        ("other.example", "A"): ["127.0.0.1"], ("six.example", "AAAA"): ["2001:db8::1"], ("inner.example", "A"): ["169.254.169.254"],
    })  # fmt: skip
    yield server
    server.stop()


def prober(site: Site, names: DnsServer | None = None) -> Prober:
    servers = [("127.0.0.1", names.port)] if names else []
    return Prober(Resolver(servers), ports=site.ports, loopback_allowed=True)


def fetch(
    site: Site, names: DnsServer | None = None, *, expected: str | None = TEXT, seconds: float = 2.5
) -> Probe:
    request = ProbeRequest("shop.example", "127.0.0.1", TOKEN, expected)
    return prober(site, names).fetch(request, deadline_seconds=seconds)


def urls(probe: Probe) -> list[str]:
    return [hop.url for hop in probe.hops]


HTTP = f"http://shop.example{PATH}"
HTTPS = f"https://shop.example{PATH}"


def test_the_file_is_fetched_from_the_given_address_with_the_names_host_header(site: Site) -> None:
    site.answers[HTTP] = page(200, TEXT, Server="nginx")
    probe = fetch(site)
    assert (probe.matches, probe.error, probe.status) == (True, None, 200)
    assert dict(probe.headers) == {"server": "nginx"}
    assert site.requests == [HTTP]


def test_white_space_behind_the_text_does_not_matter(site: Site) -> None:
    site.answers[HTTP] = page(200, TEXT + "\r\n")
    assert fetch(site).matches is True


@pytest.mark.parametrize(
    "answer",
    [
        page(200, "a page"),
        page(200, TEXT + "x"),
        page(404, TEXT),
        page(200, ""),
        page(403, "<html>"),
        page(526, "cloudflare"),
    ],
)
def test_any_other_answer_does_not_match(site: Site, answer: bytes) -> None:
    site.answers[HTTP] = answer
    probe = fetch(site)
    assert (probe.matches, probe.error) == (False, None)
    assert probe.status == int(answer.split()[1])


def test_without_an_expected_text_only_the_way_counts(site: Site) -> None:
    probe = fetch(site, expected=None)
    assert (probe.matches, probe.error, probe.status) == (None, None, 404)
    assert probe.body_start == "nothing here"


def test_a_chunked_answer_and_one_without_length_are_read(site: Site) -> None:
    half = len(TEXT) // 2
    chunks = f"{half:x};x=y\r\n{TEXT[:half]}\r\n{len(TEXT) - half:X}\r\n{TEXT[half:]}\r\n0\r\n\r\n"
    site.answers[HTTP] = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}".encode()
    assert fetch(site).matches is True
    site.answers[HTTP] = f"HTTP/1.0 200 OK\r\n\r\n{TEXT}".encode()
    assert fetch(site).matches is True


def test_an_announcement_before_the_answer_is_passed_over(site: Site) -> None:
    def announce(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        time.sleep(0.05)  # so that it comes as a packet of its own
        connection.sendall(page(200, TEXT))

    site.answers[HTTP] = announce
    assert fetch(site).matches is True


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_https_is_followed_without_verifying_the_certificate(site: Site, status: int) -> None:
    site.answers[HTTP] = moved(HTTPS, status)
    site.answers[HTTPS] = page(200, TEXT)
    probe = fetch(site)
    assert probe.matches is True
    assert [(hop.url, hop.address, hop.status) for hop in probe.hops] == [
        (HTTP, "127.0.0.1", status),
        (HTTPS, "127.0.0.1", 200),
    ]


def test_a_relative_redirect_stays_on_the_host(site: Site) -> None:
    site.answers[HTTP] = moved("/elsewhere?x=1#part", 302)
    site.answers["http://shop.example/elsewhere?x=1"] = page(200, TEXT)
    assert fetch(site).matches is True


def test_a_redirect_to_another_name_goes_to_that_names_address(site: Site, names: DnsServer) -> None:
    site.answers[HTTP] = moved(f"https://OTHER.example{PATH}")
    site.answers[f"https://other.example{PATH}"] = page(200, TEXT)
    assert fetch(site, names).matches is True
    assert ("other.example", "A") in names.asked


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (moved("https://shop.example:8443/x"), ProbeError.BAD_PORT),
        (moved("ftp://shop.example/x"), ProbeError.BAD_SCHEME),
        (moved("https://192.0.2.7/x"), ProbeError.IP_TARGET),
        (moved("https://[2001:db8::1]/x"), ProbeError.IP_TARGET),
        (moved("https://shop.example.well-known/acme-challenge/x"), ProbeError.BAD_TARGET),
        (moved("https:///x"), ProbeError.BAD_TARGET),
        (moved("https://[broken/x"), ProbeError.BAD_TARGET),
        (moved("https://shop.example:port/"), ProbeError.BAD_TARGET),
        (moved(HTTPS, 303), ProbeError.BAD_TARGET),
        (moved(HTTP), ProbeError.LOOP),
        (moved("http://absent.example/"), ProbeError.TARGET_DNS),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03", ProbeError.HTTP2),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ProbeError.BAD_RESPONSE),
        (b"HTTP/3.0 200 OK\r\n\r\n", ProbeError.BAD_RESPONSE),
        (b"HTTP/1.1 banana\r\n\r\n", ProbeError.BAD_RESPONSE),
        (b"", ProbeError.RESET),
        (b"HTTP/1.1 200 OK\r\n", ProbeError.RESET),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, ProbeError.RESET),
    ],
)
def test_what_the_ca_would_not_follow_or_understand_is_named(
    site: Site, names: DnsServer, answer: bytes, error: ProbeError
) -> None:
    site.answers[HTTP] = answer
    probe = fetch(site, names)
    assert (probe.matches, probe.error) == (False, error)


def test_a_circle_over_two_addresses_is_a_loop_and_names_where_it_closes(site: Site) -> None:
    site.answers[HTTP] = moved(HTTPS)
    site.answers[HTTPS] = moved(HTTP)
    probe = fetch(site)
    assert probe.error is ProbeError.LOOP
    assert urls(probe) == [HTTP, HTTPS, HTTP]


def test_ten_redirects_are_followed_and_the_eleventh_is_not(site: Site) -> None:
    step = [HTTP, *(f"http://shop.example/{n}" for n in range(1, 12))]
    for here, there in pairwise(step):
        site.answers[here] = moved(there)
    site.answers[step[10]] = page(200, TEXT)
    assert fetch(site).matches is True
    site.answers[step[10]] = moved(step[11])
    assert fetch(site).error is ProbeError.TOO_MANY_REDIRECTS


def test_a_redirect_to_a_closed_port_443_tells_where_it_failed(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        site.ports[443] = closed.getsockname()[1]
    site.answers[HTTP] = moved(HTTPS)
    probe = fetch(site)
    assert probe.error is ProbeError.REFUSED
    assert (probe.url, probe.hops[0].status) == (HTTPS, 301)


def test_a_port_443_that_speaks_plain_http_is_a_tls_failure(site: Site) -> None:
    site.answers[HTTP] = moved(HTTPS)
    site.ports[443] = site.ports[80]
    assert fetch(site).error is ProbeError.TLS


def test_a_closed_port_80_is_refused(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        site.ports[80] = closed.getsockname()[1]
    assert fetch(site).error is ProbeError.REFUSED


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port whose queue of connections is full, so that the kernel drops further ones, as a firewall does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for link in waiting:
            link.close()


def test_a_port_that_drops_packets_is_a_connect_timeout(site: Site, full_backlog: int) -> None:
    site.ports[80] = full_backlog
    assert fetch(site, seconds=1.4).error is ProbeError.CONNECT_TIMEOUT
    assert tcp_open("127.0.0.1", full_backlog, timeout_seconds=0.3) == TcpResult(
        "127.0.0.1", full_backlog, ConnectError.TIMEOUT
    )


def test_too_little_time_for_a_second_packet_proves_no_firewall(site: Site, full_backlog: int) -> None:
    site.ports[80] = full_backlog
    assert fetch(site, seconds=0.4).error is ProbeError.READ_TIMEOUT


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(200):
        connection.sendall(b"x")
        time.sleep(0.02)  # the slow peer is the subject of the test


def hold(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(1)
        connection.recv(1)


@pytest.mark.parametrize("behaviour", [drip, hold])
def test_no_peer_can_stretch_the_deadline(site: Site, behaviour: Callable[[socket.socket], None]) -> None:
    site.answers[HTTP] = behaviour
    start = time.monotonic()
    assert fetch(site, seconds=0.5).error is ProbeError.READ_TIMEOUT
    assert time.monotonic() - start < 2


def test_a_peer_silent_in_the_tls_handshake_ends_with_the_deadline(site: Site) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    site.ports[443] = other.getsockname()[1]
    site.answers[HTTP] = moved(HTTPS)
    with other:
        assert fetch(site, seconds=0.6).error is ProbeError.READ_TIMEOUT


def test_a_large_answer_is_not_read_to_its_end(site: Site) -> None:
    site.answers[HTTP] = page(200, "x" * 5_000_000)
    probe = fetch(site)
    assert (probe.matches, len(probe.body_start)) == (False, 200)


def test_addresses_of_the_worker_itself_are_never_asked(site: Site, names: DnsServer) -> None:
    """Neither by a customer's DNS nor by a redirect: metadata services of clouds live there."""
    careful = Prober(Resolver([("127.0.0.1", names.port)]), ports=site.ports)
    for address in ("127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "::ffff:127.0.0.1"):
        assert careful.fetch(ProbeRequest("shop.example", address, TOKEN, TEXT)).error is ProbeError.NO_ROUTE
    assert site.requests == []
    site.answers[HTTP] = moved("http://inner.example/latest/meta-data/")
    assert fetch(site, names).error is ProbeError.NO_ROUTE


def test_an_address_family_that_the_worker_has_not_is_no_route(site: Site) -> None:
    probe = prober(site).fetch(ProbeRequest("shop.example", "fe80::1%nowhere", TOKEN, TEXT))
    assert probe.error is ProbeError.NO_ROUTE


def test_a_resolver_that_is_silent_about_a_target_proves_nothing(site: Site, names: DnsServer) -> None:
    names.silent = True
    site.answers[HTTP] = moved("http://other.example/")
    assert fetch(site, names, seconds=0.5).error is ProbeError.READ_TIMEOUT


def test_hundreds_of_fetches_run_at_once_and_keep_their_order(site: Site) -> None:
    def slow(connection: socket.socket) -> None:
        time.sleep(0.2)  # what one after the other would make 40 s of
        connection.sendall(page(200, TEXT))

    site.answers.update({f"http://n{n}.example{PATH}": slow for n in range(200)})
    requests = [ProbeRequest(f"n{n}.example", "127.0.0.1", TOKEN, TEXT) for n in range(200)]
    start = time.monotonic()
    probes = prober(site).fetch_all(requests, deadline_seconds=20)
    assert time.monotonic() - start < 10
    assert [p.name for p in probes] == [r.name for r in requests]
    assert all(p.matches for p in probes)


def test_threads_can_share_a_prober(site: Site) -> None:
    site.answers[HTTP] = page(200, TEXT)
    shared, results = prober(site), []
    request = ProbeRequest("shop.example", "127.0.0.1", TOKEN, TEXT)
    threads = [
        threading.Thread(target=lambda: results.append(shared.fetch(request).matches)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [True] * 8


def test_a_visitor_who_is_sent_in_a_circle_is_found_through_the_public_name(
    site: Site, names: DnsServer
) -> None:
    site.answers["http://other.example/"] = moved("https://other.example/")
    site.answers["https://other.example/"] = page(
        301, Location="https://other.example/", Server="cloudflare", cf_ray="8a-FRA"
    )
    (probe,) = prober(site, names).follow_public(["other.example", "absent.example"])
    assert (probe.name, probe.address, probe.error) == ("other.example", "127.0.0.1", ProbeError.LOOP)
    assert probe.headers["server"] == "cloudflare"
    assert probe.headers["cf-ray"] == "8a-FRA"


def test_first_answer_is_given_as_it_is_and_no_redirect_followed(site: Site, names: DnsServer) -> None:
    site.answers["https://other.example/folder.d"] = moved("http://other.example/folder.d/")
    asked = prober(site, names).first_answers(
        ["https://other.example/folder.d", "http://other.example/none", "https://absent.example/x"]
    )
    folder, none = asked
    assert (folder.name, folder.address, folder.status, folder.error) == (
        "other.example",
        "127.0.0.1",
        301,
        None,
    )
    assert folder.headers["location"] == "http://other.example/folder.d/"
    assert (none.url, none.status) == ("http://other.example/none", 404)
    site.stop()
    (away,) = prober(site, names).first_answers(["https://other.example/folder.d"])
    assert (away.error, away.status) == (ProbeError.REFUSED, None)


def test_an_open_and_a_closed_port_are_told_apart(site: Site) -> None:
    assert tcp_open("127.0.0.1", site.ports[80]) == TcpResult("127.0.0.1", site.ports[80], None)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert tcp_open("127.0.0.1", port).error is ConnectError.REFUSED
    assert tcp_open("fe80::1", 80).error is ConnectError.NO_ROUTE
