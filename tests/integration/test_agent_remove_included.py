"""The script's removal where the certificate stands in a file that vhosts include."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.removal_server import Server

CERTIFICATE = "ssl_certificate LIVE/fullchain.pem;\nssl_certificate_key LIVE/privkey.pem;\n"
OTHER = CERTIFICATE.replace("LIVE", "OTHER")
VHOST = "server {{\n    {listen};\n    server_name a.test;\n    include {include};\n}}\n"
REDIRECT = (
    "server {\n    listen 8080;\n    server_name a.test;\n    return 301 https://$host$request_uri;\n}\n"
)
TLS = "listen 8443 ssl"
INCLUDED = {
    "beside HTTP": (
        VHOST.format(listen="listen 8080;\n    listen 8443 ssl", include="snippets/a.conf"),
        f"# a.test\n{CERTIFICATE}ssl_protocols TLSv1.3;\n",
        VHOST.format(listen="listen 8080", include="snippets/a.conf"),
        "# a.test\nssl_protocols TLSv1.3;\n",
    ),
    "TLS alone": (
        VHOST.format(listen=f"{TLS};\n    listen [::]:8443 ssl", include="snippets/a.conf"),
        CERTIFICATE,
        VHOST.format(listen="listen 80;\n    listen [::]:80", include="snippets/a.conf"),
        "",
    ),
    "by a pattern, with a block that redirects": (
        REDIRECT + VHOST.format(listen=TLS, include='"snippets/?.co*"'),
        CERTIFICATE,
        'server {\n    listen 8080;\n    server_name a.test;\n    include "snippets/?.co*";\n}\n',
        "",
    ),
    "on one line": (
        "server { listen 8080; listen 8443 ssl; server_name a.test; include snippets/a.conf; }\n",
        CERTIFICATE,
        "server {\n    listen 8080;\n    server_name a.test;\n    include snippets/a.conf;\n}\n",
        "",
    ),
    "the port too": (
        VHOST.format(listen="listen 8080", include="snippets/a.conf"),
        f"listen 8443 ssl;\n{CERTIFICATE}",
        VHOST.format(listen="listen 8080", include="snippets/a.conf"),
        "",
    ),
    "another certificate in the block": (
        REDIRECT + VHOST.format(listen=f"{TLS};\n{OTHER.rstrip()[:-1]}", include="snippets/a.conf"),
        CERTIFICATE,
        REDIRECT + VHOST.format(listen=f"{TLS};\n{OTHER.rstrip()[:-1]}", include="snippets/a.conf"),
        "",
    ),
    "another certificate in the file": (
        REDIRECT + VHOST.format(listen="listen 8081", include="snippets/a.conf"),
        f"listen 8443 ssl;\n{OTHER}{CERTIFICATE}",
        REDIRECT + VHOST.format(listen="listen 8081", include="snippets/a.conf"),
        f"listen 8443 ssl;\n{OTHER}",
    ),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[Server]:
    yield Server(tmp_path, authority)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("shape", INCLUDED)
def test_certificate_in_an_included_file_goes_with_the_tls_of_whoever_includes_it(
    server: Server, shape: str
) -> None:
    other = str(server.other_lineage())
    vhost, snippet, vhost_after, snippet_after = (
        text.replace("LIVE", str(server.live)).replace("OTHER", other) for text in INCLUDED[shape]
    )
    path = server.vhost(vhost)
    neighbour = server.vhost(
        VHOST.format(listen=TLS, include="snippets/bb.conf").replace("a.test", "b.test"), "b.test"
    )
    kept = neighbour.read_text()
    (server.nginx / "snippets").mkdir()
    included, others = server.nginx / "snippets/a.conf", server.nginx / "snippets/bb.conf"
    included.write_text(snippet)
    others.write_text(OTHER.replace("OTHER", other))

    answer = server.run("remove", 1, "j", 0, "a.test")

    assert (answer["failed"], answer["edited"], answer["removed"]) == (None, "2", "yes"), answer.text
    assert (path.read_text(), included.read_text()) == (vhost_after, snippet_after)
    assert (neighbour.read_text(), others.read_text()) == (kept, OTHER.replace("OTHER", other))
    assert server.is_valid()
    assert server.lineage() == []
    originals = {f.read_text() for f in (server.home / "removed/j.1").glob("?")}
    assert originals == {vhost, snippet}


def test_block_keeps_the_tls_that_another_included_file_gives_it(server: Server) -> None:
    other = server.other_lineage()
    (server.nginx / "snippets").mkdir()
    mine, others = server.nginx / "snippets/a.conf", server.nginx / "snippets/b.conf"
    mine.write_text(CERTIFICATE.replace("LIVE", str(server.live)))
    others.write_text(OTHER.replace("OTHER", str(other)))
    path = server.vhost(VHOST.format(listen=TLS, include="snippets/a.conf;\n    include snippets/b.conf"))
    before = path.read_text()
    answer = server.run("remove", 1, "j", 0, "a.test")
    assert (answer["failed"], answer["removed"]) == (None, "yes")
    assert (path.read_text(), mine.read_text()) == (before, "")
    assert server.is_valid()
