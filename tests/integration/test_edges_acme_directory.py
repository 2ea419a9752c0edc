"""The CA's own names for CAA records, read from its directory: trusted roots only, and never longer than said."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.authority import Authority
from workers.edges.web.acme_directory import fetch_caa_identities


class _Ca(HTTPServer):
    """A CA's directory over HTTPS, which answers `body`, byte for byte slowly where `pause_seconds` is set."""

    body = b""
    status = 200
    pause_seconds = 0.0

    def handle_error(self, *_: object) -> None:
        """A client that does not trust us hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: _Ca

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        for start in range(len(self.server.body)) if self.server.pause_seconds else ():
            time.sleep(self.server.pause_seconds)
            self.wfile.write(self.server.body[start : start + 1])
        if not self.server.pause_seconds:
            self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def ca(authority: Authority) -> Iterator[_Ca]:
    server = _Ca(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.leaf("localhost"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def directory_of(ca: _Ca) -> str:
    return f"https://localhost:{ca.server_address[1]}/dir"


def test_names_stand_in_the_directorys_meta(ca: _Ca, authority: Authority) -> None:
    ca.body = json.dumps({"newOrder": "x", "meta": {"caaIdentities": ["CA.test", "ca2.test"]}}).encode()
    assert fetch_caa_identities(directory_of(ca), ca_file=authority.file) == ("ca.test", "ca2.test")


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[]", b'{"meta": 1}', b'{"meta": {}}', b'{"meta": {"caaIdentities": "ca.test"}}',
     b'{"meta": {"caaIdentities": []}}', b'{"meta": {"caaIdentities": [1, null]}}', b"x" * 100_000],
)  # fmt: skip
def test_directory_that_does_not_say_leaves_the_names_unknown(
    ca: _Ca, authority: Authority, body: bytes
) -> None:
    ca.body = body
    assert fetch_caa_identities(directory_of(ca), ca_file=authority.file) is None


def test_answer_that_is_no_directory_counts_for_nothing(ca: _Ca, authority: Authority) -> None:
    ca.body, ca.status = b'{"meta": {"caaIdentities": ["ca.test"]}}', 503
    assert fetch_caa_identities(directory_of(ca), ca_file=authority.file) is None


def test_ca_behind_an_unknown_root_is_not_believed(ca: _Ca) -> None:
    ca.body = b'{"meta": {"caaIdentities": ["ca.test"]}}'
    assert fetch_caa_identities(directory_of(ca), ca_file=None) is None


def test_ca_that_is_away_leaves_the_names_unknown() -> None:
    assert fetch_caa_identities("https://localhost:1/dir", ca_file=None) is None


def test_ca_that_dribbles_is_left_at_the_deadline(ca: _Ca, authority: Authority) -> None:
    ca.body, ca.pause_seconds = b'{"meta": {"caaIdentities": ["ca.test"]}}', 0.05
    began = time.monotonic()
    assert fetch_caa_identities(directory_of(ca), ca_file=authority.file, timeout_seconds=0.5) is None
    assert time.monotonic() - began < 1.5
