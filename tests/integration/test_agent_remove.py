"""The script's removal with a real nginx: what becomes of vhosts, and of a removal that dies at any of its steps."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.integration.test_agent_run import HOSTILE
from tests.support.agent import WORDS
from tests.support.authority import Authority
from tests.support.removal_server import Server


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
