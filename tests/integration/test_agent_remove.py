"""The script's removal with a real nginx: what becomes of vhosts, and of a removal that dies at any of its steps."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.integration.test_agent_run import HOSTILE
from tests.support.agent import WORDS, Agent
from tests.support.authority import Authority
from tests.support.nginx import NGINX

CERTBOT = """
echo "$*" >>"$STANDIN_LOG"
printf '%s' "${STANDIN_STDOUT:-}"; printf '%s' "${STANDIN_STDERR:-}" >&2
[ "${STANDIN_FAILS:-}" != "$1" ] || exit 1
[ "$1" != delete ] || rm -rf "$CERTPILOT_LETSENCRYPT"/live/a.test "$CERTPILOT_LETSENCRYPT"/archive/a.test "$CERTPILOT_LETSENCRYPT"/renewal/a.test.conf
"""


class Server(Agent):
    """An agent's home beside the configuration of a real nginx and one lineage."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        self.nginx = folder / "nginx"
        self.sites = self.nginx / "sites"
        self.sites.mkdir(parents=True)
        (self.nginx / "nginx.conf").write_text(
            f"pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\nhttp {{ include {self.sites}/*; }}\n"
        )
        (self.bin / "certbot").unlink()
        self.stub("certbot", CERTBOT)
        command = f'exec {NGINX} -p {folder} -c {self.nginx}/nginx.conf "$@"'
        self.stub("nginx", f'[ "$1" != -s ] || {{ echo "nginx $*" >>{self.log}; exit; }}\n{command}\n')
        self.live = self.letsencrypt / "live/a.test"
        self.authority = authority
        self.issue()

    def issue(self, *, days: int = 5) -> None:
        leaf = self.authority.leaf("a.test", "www.a.test", days=days)
        archive = self.letsencrypt / "archive/a.test"
        for made in (archive, self.live, self.letsencrypt / "renewal"):
            made.mkdir(parents=True, exist_ok=True)
        for kind in ("cert", "fullchain", "privkey"):
            (archive / f"{kind}1.pem").write_bytes(leaf.read_bytes())
            (self.live / f"{kind}.pem").unlink(missing_ok=True)
            (self.live / f"{kind}.pem").symlink_to(f"../../archive/a.test/{kind}1.pem")
        (self.letsencrypt / "renewal/a.test.conf").write_text("version = 2.1.0\naccount = 0123abcd\n")

    def vhost(self, text: str, name: str = "a.test") -> Path:
        """Write the vhost file; LIVE stands for the lineage's folder."""
        path = self.sites / name
        path.write_text(dedent(text).replace("LIVE", str(self.live)))
        return path

    def other_lineage(self) -> Path:
        """The folder of a lineage that stays."""
        other = self.letsencrypt / "live/b.test"
        other.mkdir()
        leaf = self.authority.leaf("b.test").read_bytes()
        for kind in ("fullchain", "privkey"):
            (other / f"{kind}.pem").write_bytes(leaf)
        return other

    def is_valid(self) -> bool:
        done = subprocess.run(
            [self.bin / "nginx", "-t"], capture_output=True, text=True, check=False, timeout=20
        )
        return done.returncode == 0 and "[warn]" not in done.stderr

    def lineage(self) -> list[str]:
        return [str(f) for f in self.letsencrypt.rglob("*") if "a.test" in f.name]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[Server]:
    yield Server(tmp_path, authority)
    assert not (tmp_path / "pwned").exists()


# --- shapes of vhosts -----------------------------------------------------------------------------------------------

BY_CERTBOT = """\
    server {
        server_name a.test www.a.test;
        root /var/www/a;
        add_header X-Shape "{kept}"; # mine

        listen 8443 ssl; # managed by Certbot
        ssl_certificate LIVE/fullchain.pem; # managed by Certbot
        ssl_certificate_key LIVE/privkey.pem; # managed by Certbot
    }
    server {
        if ($host = www.a.test) {
            return 301 https://$host$request_uri;
        } # managed by Certbot


        if ($host = a.test) {
            return 301 https://$host$request_uri;
        } # managed by Certbot


        listen 8080;
        listen [::]:8080;
        server_name a.test www.a.test;
        return 404; # managed by Certbot


    }
    """

SHAPES = {
    "certbot's redirect": (
        BY_CERTBOT,
        """\
    server {
        listen 8080;
        listen [::]:8080;
        server_name a.test www.a.test;
        root /var/www/a;
        add_header X-Shape "{kept}"; # mine

    }
    """,
    ),
    "no redirect": (
        """\
    server {
        listen 8080;
        server_name a.test;
        location / { root /var/www/a; }
        listen 8443 ssl; # managed by Certbot
        ssl_certificate LIVE/fullchain.pem; # managed by Certbot
        ssl_certificate_key LIVE/privkey.pem; # managed by Certbot
    }
    """,
        """\
    server {
        listen 8080;
        server_name a.test;
        location / { root /var/www/a; }
    }
    """,
    ),
    "all by hand": (
        """\
    server {
        listen 8080;
        listen 8081;
        server_name a.test
            www.a.test;
        location /.well-known/ { root /var/www/a; }
        location / {
            return 301 https://$host$request_uri;
        }
    }
    server
    {
        listen 8443 ssl http2 default_server;
        server_name www.a.test;
        ssl_certificate LIVE/fullchain.pem;
        ssl_certificate_key LIVE/privkey.pem;
        return 301 https://a.test$request_uri;
    }
    server {
        listen 8443 ssl http2;
        server_name a.test;
        ssl_certificate "LIVE/fullchain.pem"; # certbot's
        ssl_certificate_key LIVE/privkey.pem;
        if ($scheme = http) {
            return 301 https://$host$request_uri;
        }
        location /old { return 301 https://elsewhere.test/; }
        root /var/www/a;
    }
    """,
        """\
    server
    {
        listen 8080;
        listen 8081;
        server_name www.a.test;
        return 301 http://a.test$request_uri;
    }
    server {
        listen 8080;
        listen 8081;
        server_name a.test;
        location /old { return 301 https://elsewhere.test/; }
        root /var/www/a;
    }
    """,
    ),
    "rewritten by hand": (
        """\
    server {
        listen 8080;
        server_name www.a.test;
        rewrite ^/(.*)$ https://a.test/$1 permanent;
    }
    server {
        listen 8080;
        listen 8443 ssl; # managed by Certbot
        ssl_certificate LIVE/fullchain.pem;
        ssl_certificate_key LIVE/privkey.pem;
        server_name a.test;
        if ($scheme != "https") { return 301 https://a.test$request_uri; }
        location /x { return 301 https://$host/y; }
    }
    """,
        """\
    server {
        listen 8080;
        server_name www.a.test;
        rewrite ^/(.*)$ http://a.test/$1 permanent;
    }
    server {
        listen 8080;
        server_name a.test;
        location /x { return 301 https://$host/y; }
    }
    """,
    ),
    "others in the file": (
        """\
    server {
        listen 8080;
        server_name b.test;
        return 301 https://b.test$request_uri;
    }
    server {
        listen 8443 ssl;
        server_name b.test;
        ssl_certificate OTHER/fullchain.pem; # managed by Certbot
        ssl_certificate_key OTHER/privkey.pem; # managed by Certbot
    }
    server {
        listen 8080;
        server_name a.test;
        # ssl_certificate LIVE/old.pem;
        location / { return 301 https://elsewhere.test; }
        listen 8443 ssl; # managed by Certbot
        ssl_certificate LIVE/fullchain.pem; # managed by Certbot
        ssl_certificate_key LIVE/privkey.pem; # managed by Certbot
    }
    """,
        """\
    server {
        listen 8080;
        server_name b.test;
        return 301 https://b.test$request_uri;
    }
    server {
        listen 8443 ssl;
        server_name b.test;
        ssl_certificate OTHER/fullchain.pem; # managed by Certbot
        ssl_certificate_key OTHER/privkey.pem; # managed by Certbot
    }
    server {
        listen 8080;
        server_name a.test;
        # ssl_certificate LIVE/old.pem;
        location / { return 301 https://elsewhere.test; }
    }
    """,
    ),
    "begun on one line": (
        """\
    server { listen 8080; listen [::]:8080; listen 8443 ssl; server_name a.test; root /var/www/a;
     ssl_certificate LIVE/fullchain.pem;
    ssl_certificate_key LIVE/privkey.pem;
    }
    server { listen 8090; server_name c.test; return 200 "c"; }
    """,
        """\
    server {
        listen 8080;
        listen [::]:8080;
        server_name a.test;
        root /var/www/a;
    }
    server { listen 8090; server_name c.test; return 200 "c"; }
    """,
    ),
    "all on one line": (
        """\
    server { listen 8443 ssl; server_name a.test; root /var/www/${host}; ssl_certificate LIVE/fullchain.pem; ssl_certificate_key LIVE/privkey.pem; location / { return 200 "a; ${host} \\"}"; } } # mine
    """,
        """\
    server {
        listen 80;
        server_name a.test;
        root /var/www/${host};
        location / {
            return 200 "a; ${host} \\"}";
        }
    } # mine
    """,
    ),
    "a block that redirects has another certificate": (
        """\
    server {
        listen 8444 ssl;
        server_name www.a.test;
        ssl_certificate OTHER/fullchain.pem;
        ssl_certificate_key OTHER/privkey.pem;
        return 301 https://a.test$request_uri;
    }
    server {
        listen 8443 ssl;
        server_name a.test www.a.test;
        ssl_certificate LIVE/fullchain.pem;
        ssl_certificate_key LIVE/privkey.pem;
    }
    """,
        """\
    server {
        listen 8444 ssl;
        server_name www.a.test;
        ssl_certificate OTHER/fullchain.pem;
        ssl_certificate_key OTHER/privkey.pem;
        return 301 http://a.test$request_uri;
    }
    server {
        listen 80;
        server_name a.test www.a.test;
    }
    """,
    ),
    "another certificate as well": (
        """\
    server {
        listen 8080;
        server_name a.test;
        return 301 https://$host$request_uri;
    }
    server {
        listen 8443 ssl;
        server_name a.test;
        ssl_certificate LIVE/fullchain.pem;
        ssl_certificate_key LIVE/privkey.pem;
        ssl_certificate OTHER/fullchain.pem;
        ssl_certificate_key OTHER/privkey.pem;
    }
    """,
        """\
    server {
        listen 8080;
        server_name a.test;
        return 301 https://$host$request_uri;
    }
    server {
        listen 8443 ssl;
        server_name a.test;
        ssl_certificate OTHER/fullchain.pem;
        ssl_certificate_key OTHER/privkey.pem;
    }
    """,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_vhost_is_left_as_an_http_site_that_nginx_accepts(server: Server, shape: str) -> None:
    before, after = (dedent(text) for text in SHAPES[shape])
    other = server.other_lineage()
    path = server.vhost(before.replace("OTHER", str(other)))
    original = path.read_text()

    answer = server.run("remove", 1, "j", 0, "a.test")

    assert (answer.result, answer["failed"], answer["edited"], answer["removed"]) == ("OK", None, "1", "yes")
    assert path.read_text() == after.replace("LIVE", str(server.live)).replace("OTHER", str(other))
    assert server.is_valid()
    assert server.log_lines() == [
        "nginx -s reload",
        f"delete -n --cert-name a.test --logs-dir {server.logs}/a.test",
    ]
    assert server.lineage() == []
    assert [f.name for f in server.sites.iterdir()] == ["a.test"]
    assert (server.home / "removed/j.1/1").read_text() == original


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


def test_second_removal_finds_nothing_and_touches_nothing(server: Server) -> None:
    server.vhost(BY_CERTBOT)
    server.run("remove", 1, "j", 0, "a.test")
    done = server.log_lines()
    again = server.run("remove", 2, "k", 0, "a.test", "revoke=yes")
    assert (again["removed"], again["edited"], again["lineage"], again["revoked"]) == (
        "yes",
        None,
        "none",
        "no",
    )
    assert server.log_lines() == done


# --- what stands in the way -----------------------------------------------------------------------------------------


def test_configuration_that_nginx_refuses_is_left_alone(server: Server) -> None:
    path = server.vhost(BY_CERTBOT)
    server.vhost("nonsense on;\n", "broken")
    before = path.read_text()
    answer = server.run("remove", 1, "j", 0, "a.test", "revoke=yes")
    assert (answer.result, answer["failed"], answer["removed"]) == ("OK", "nginx", None)
    assert b"nonsense" in answer.decoded("err")
    assert path.read_text() == before
    assert server.log_lines() == []
    assert (server.live / "cert.pem").exists()


def test_use_that_cannot_be_taken_out_puts_every_file_back(server: Server) -> None:
    path = server.vhost(BY_CERTBOT)
    shared = server.vhost(
        "ssl_certificate LIVE/fullchain.pem;\nssl_certificate_key LIVE/privkey.pem;\n", "z.conf"
    )
    before = path.read_text()
    answer = server.run("remove", 1, "j", 0, "a.test")
    assert (answer["failed"], answer["edited"]) == ("edit", None)
    assert answer.decoded("err").decode() == f"{shared} still uses the certificate\n"
    assert path.read_text() == before
    assert sorted(f.name for f in server.sites.iterdir()) == ["a.test", "z.conf"]
    assert server.log_lines() == []


def test_run_that_lives_keeps_its_certificate(server: Server) -> None:
    server.vhost(BY_CERTBOT)
    server.stub("certbot", "exec sleep 30\n")
    server.run("start", 1, "j", 1, *WORDS)
    try:
        assert server.run("remove", 2, "k", 0, "a.test").result == "BUSY"
        assert server.run("remove", 1, "k", 0, "a.test").result == "STALE"
    finally:
        server.run("stop", 2, "j", 1)
    assert (server.live / "cert.pem").exists()


# --- revoking -------------------------------------------------------------------------------------------------------


def test_certificate_is_revoked_by_its_own_account_before_it_is_deleted(server: Server) -> None:
    answer = server.run("remove", 1, "j", 0, "a.test", "revoke=yes")
    assert (answer["revoked"], answer["lineage"]) == ("yes", "removed")
    assert [line.split(" --logs-dir")[0] for line in server.log_lines()] == [
        "revoke -n --cert-name a.test --no-delete-after-revoke --account 0123abcd",
        "nginx -s reload",
        "delete -n --cert-name a.test",
    ]


def test_certificate_that_cannot_be_revoked_stays_with_its_lineage_and_is_served(server: Server) -> None:
    path = server.vhost(BY_CERTBOT)
    before = path.read_text()
    said = "An unexpected error occurred:\nServiceBusy"
    answer = server.run("remove", 1, "j", 0, "a.test", "revoke=yes", fails="revoke", stderr=said)
    assert (answer["failed"], answer["removed"]) == ("revoke", None)
    assert answer.decoded("err").decode() == said
    assert (server.live / "cert.pem").exists()
    assert path.read_text() == before
    assert "nginx -s reload" not in server.log_lines()


def test_edit_that_fails_after_revoking_tells_only_its_own_words(server: Server) -> None:
    shared = server.vhost("ssl_certificate LIVE/fullchain.pem;\nssl_certificate_key LIVE/privkey.pem;\n")
    answer = server.run("remove", 1, "j", 0, "a.test", "revoke=yes", stdout="Congratulations!")
    assert (answer["revoked"], answer["failed"]) == ("yes", "edit")
    assert answer.decoded("err").decode() == f"{shared} still uses the certificate\n"
    assert "Congratulations" not in answer.text
    assert answer.decoded("out") == b""


@pytest.mark.parametrize(
    ("days", "stdout", "told"),
    [(5, "urn:ietf:params:acme:error:alreadyRevoked :: Certificate already revoked", "already"), (-1, "", "expired")],
)  # fmt: skip
def test_what_is_revoked_or_has_expired_is_only_deleted(
    server: Server, days: int, stdout: str, told: str
) -> None:
    server.issue(days=days)
    answer = server.run("remove", 1, "j", 0, "a.test", "revoke=yes", fails="revoke", stdout=stdout)
    assert (answer["failed"], answer["revoked"], answer["removed"]) == (None, told, "yes")
    assert server.lineage() == []


def test_lineage_that_certbot_cannot_delete_is_told_with_its_words(server: Server) -> None:
    answer = server.run("remove", 1, "j", 0, "a.test", fails="delete", stderr="parsefail")
    assert (answer["failed"], answer.decoded("err")) == ("delete", b"parsefail")


def test_pieces_that_certbot_does_not_know_as_a_lineage_go_too(server: Server) -> None:
    (server.letsencrypt / "renewal/a.test.conf").unlink()
    answer = server.run("remove", 1, "j", 0, "a.test")
    assert (answer["lineage"], server.lineage()) == ("removed", [])


# --- killed half-way ------------------------------------------------------------------------------------------------

STEPS = ("nginx", "mv", "cp", "sync", "certbot", "rm")


def mortal(server: Server) -> Path:
    """Make every program that changes something count itself and, at its turn, kill the script and all it started.

    Returns:
        The file that they count in.
    """
    count = server.home.parent / "count"
    for name in STEPS:
        path, real = server.bin / name, shutil.which("true" if name == "sync" else name, path="/usr/bin:/bin")
        if path.exists():
            real = str(path.rename(server.bin / f"real-{name}"))
        # timeout(1) has a process group of its own, so the session's leader is asked for.
        server.stub(
            name,
            f'[ -n "${{STANDIN_DIES:-}}" ] || exec {real} "$@"\n'
            f"echo {name} >>{count}; n=0; while read -r _; do n=$((n + 1)); done <{count}\n"
            f"read -r _ _ _ _ _ leader _ </proc/$$/stat\n"
            f'[ "$n" != "$STANDIN_DIES" ] || {{ kill -9 "-$leader"; kill -9 0; }}\nexec {real} "$@"\n',
        )
    return count


def test_removal_killed_at_any_step_and_repeated_ends_the_same(server: Server) -> None:
    after = dedent(SHAPES["certbot's redirect"][1])
    path = server.vhost(BY_CERTBOT)
    second = server.vhost(BY_CERTBOT.replace("a.test", "b.test").replace("8080", "8090"), "b.test")
    originals = {f: f.read_text() for f in (path, second)}
    count = mortal(server)
    died = 0
    fence = 0
    while True:
        for f, text in originals.items():
            f.write_text(text)
        server.issue()
        for gone in (server.log, count):
            gone.unlink(missing_ok=True)
        command = server.command("remove", fence + 1, f"j{died}", 0, "a.test", "revoke=yes")
        first = subprocess.Popen(
            command, env=server.environment(dies=died + 1), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if first.wait(timeout=30) != -signal.SIGKILL:
            break
        died += 1
        answer = server.run("remove", fence + 2, f"j{died - 1}", 0, "a.test", "revoke=yes")
        fence += 2
        step = count.read_text().splitlines()[died - 1], died
        assert (answer["failed"], answer["removed"]) == (None, "yes"), (step, answer.text)
        assert path.read_text() == after, step
        assert "ssl" not in second.read_text(), step
        assert server.lineage() == [], step
        assert {f.name for f in server.sites.iterdir()} == {"a.test", "b.test"}, step
        told = server.log_lines()
        assert "nginx -s reload" in told, step
        kept = [f.read_text() for f in (server.home / "removed").glob(f"j{died - 1}.*/?")]
        assert set(originals.values()) <= set(kept), step
    assert died >= 15, count.read_text()


def test_edit_that_nobody_tested_goes_back_before_anything_else(server: Server) -> None:
    """Else the next one would take the broken configuration for the owner's, and wait for him."""
    needs = BY_CERTBOT.replace("server_name a", "set $mine 1; # managed by Certbot\n    server_name a", 1)
    path = server.vhost(needs.replace('"{kept}"', "$mine"))
    before = path.read_text()
    count = mortal(server)
    server.run("remove", 1, "j", 0, "a.test", dies=999)
    steps = count.read_text().splitlines()
    count.unlink()
    second_test = [n for n, step in enumerate(steps, 1) if step == "nginx"][1]
    command = server.command("remove", 2, "j", 0, "a.test")
    environment = server.environment(dies=second_test)
    died = subprocess.run(
        command, env=environment, start_new_session=True, capture_output=True, timeout=30, check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert path.read_text() != before

    answer = server.run("remove", 3, "j", 0, "a.test")
    assert (answer["failed"], path.read_text()) == ("edit", before)
    assert b'unknown "mine" variable' in answer.decoded("err")
    assert [f.name for f in server.sites.iterdir()] == ["a.test"]


# --- hostile words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_words_remove_nothing(server: Server, value: str) -> None:
    path = server.vhost(BY_CERTBOT)
    before = path.read_text()
    for command in (
        ["remove", 1, "j", 0, value],
        ["remove", 1, "j", value, "a.test"],
        ["remove", 1, value, 0, "a.test"],
        ["remove", 1, "j", 0, "a.test", value],
        ["remove", 1, "j", 0, "a.test", f"revoke={value}"],
        ["remove", 1, "j", 0],
    ):
        answer = server.run(*command)
        assert (answer.result, answer.exit_code, answer.stderr) == ("USAGE", 2, ""), command
        assert len(answer.lines) == 3
    assert path.read_text() == before
    assert server.log_lines() == []
    assert (server.live / "cert.pem").exists()
