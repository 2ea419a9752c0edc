"""What workers.core says of an nginx configuration against what Debian's nginx really does with it."""

import random
import subprocess
from pathlib import Path

import pytest

from tests.support.nginx import NAMES, NGINX, ROOTS, Nginx
from workers.core.nginx.challenge import RootReason, challenge_root
from workers.core.nginx.config import answering_server, parse_nginx_config

KNOWS_LESS = {RootReason.ALIAS, RootReason.VARIABLE_ROOT, RootReason.NO_ROOT, RootReason.REDIRECTED_AWAY}
"""Where nginx may serve the file after all: a name that only a default server answers could live anywhere."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=lab", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return folder


def agree(nginx: Nginx, servers: str) -> dict[str, str | None]:
    """Ask both about every name; the core may know less (an alias), but never claims what is not so."""
    config = parse_nginx_config(nginx.dump(servers))
    assert config.problems == ()
    served = {}
    with nginx.running():
        for name in NAMES:
            said = challenge_root(config, name, address="127.0.0.1")
            served[name] = nginx.fetch(name)
            assert said.reason in KNOWS_LESS or said.path == served[name], (name, said, served[name], servers)
    return served


@pytest.fixture
def nginx(tmp_path: Path, certificate: Path) -> Nginx:
    assert NGINX, "nginx is missing"
    return Nginx(tmp_path, certificate)


CERTBOT = """
server {
    server_name a.test www.a.test; # managed by Certbot
    root ROOT1;
    listen 443 ssl; # managed by Certbot
}
server {
    if ($host = www.a.test) {
        return 301 https://$host$request_uri;
    } # managed by Certbot


    if ($host = a.test) {
        return 301 https://$host$request_uri;
    } # managed by Certbot


    listen 80;
    server_name a.test www.a.test;
    return 404; # managed by Certbot


}
"""


def test_certbots_own_redirect_leads_to_the_root_of_the_443_block(nginx: Nginx) -> None:
    served = agree(nginx, CERTBOT)
    assert served["a.test"] == served["www.a.test"] == f"{nginx.folder}/r1"


@pytest.mark.parametrize(
    ("servers", "root"),
    [
        ("server { listen 80; server_name a.test; root ROOT1; }", 1),
        ("server { listen 80; server_name x; root ROOT2; } server { listen 80 default_server; root ROOT1; }", 1),
        (("server { listen 80; server_name a.test; return 301 https://www.a.test$request_uri; }"
         "server { listen 80; listen 443 ssl; server_name www.a.test; root ROOT3; }"), 3),
        (("server { listen 80; server_name a.test; root ROOT1; location / { return 301 https://$host$request_uri; }"
         " location ^~ /.well-known/acme-challenge/ { root ROOT2; } }"), 2),
        ("server { listen 80; server_name a.test; root ROOT1; location ~ /\\.(?!well-known).* { deny all; } }", 1),
        ("server { listen 80; server_name a.test; root ROOT1; location ~ /\\. { deny all; } }", None),
        ("server { listen 80; server_name a.test; root ROOT1; location / { try_files $uri /index.php?$args; } }", 1),
        ("server { listen 80; server_name a.test; root ROOT1; location / { try_files /x.html =404; } }", None),
        ("server { listen 80; server_name a.test; root ROOT1; location / { auth_basic x; auth_basic_user_file /x; } }", None),
        (("server { listen 80; server_name a.test; rewrite ^(.*) https://$host$1 permanent; }"
         "server { listen 443 ssl; server_name a.test; root ROOT4; }"), 4),
        (("server { listen 80; listen 443 ssl; server_name a.test; root ROOT1;"
         ' if ($scheme != "https") { return 301 https://$host$request_uri; } }'), 1),
        (("server { listen 80; listen 443 ssl; server_name a.test; root ROOT1;"
         " if ($host = a.test) { return 301 https://$host$request_uri; } }"), None),
        ("server { listen 80; server_name a.test; location / { proxy_pass http://127.0.0.1:1; } }", None),
        (("server { listen 80; server_name a.test; location / { proxy_pass http://127.0.0.1:1; }"
         " location /.well-known/ { alias ROOT5/.well-known/; } }"), 5),
        ("server { listen 127.0.0.1:80; server_name x; root ROOT2; } server { listen 80; server_name a.test; root ROOT1; }", 2),
        ("server { listen 80; server_name a.test; root ROOT1; if (!-e $request_filename) { rewrite ^ /index.php last; } }", 1),
        (("server { listen 80; server_name a.test; return 301 https://a.test/; }"
         "server { listen 443 ssl; server_name a.test; root ROOT1; }"), None),
    ],
)  # fmt: skip
def test_common_configurations_are_told_as_nginx_serves_them(
    nginx: Nginx, servers: str, root: int | None
) -> None:
    assert agree(nginx, servers)["a.test"] == (None if root is None else f"{nginx.folder}/r{root}")


def test_includes_are_found_by_path_and_pattern(nginx: Nginx) -> None:
    (nginx.folder / "sites").mkdir()
    (nginx.folder / "sites" / "b.conf").write_text(
        f"server {{ listen {nginx.http}; server_name a.test; root {nginx.folder}/r2; }}"
    )
    (nginx.folder / "sites" / "a.conf").write_text(
        f"server {{ listen {nginx.http}; server_name a.test; include ../conf*/x; include sub/../x.inc; }}"
    )
    (nginx.folder / "sites" / ".hidden.conf").write_text("nonsense")
    (nginx.folder / "confs").mkdir()
    (nginx.folder / "confs" / "x").write_text("")
    (nginx.folder / "sub").mkdir()
    (nginx.folder / "x.inc").write_text(f"root {nginx.folder}/r3;")
    text = f"include {nginx.folder}/sites/*.conf;"
    dump = nginx.dump(text)
    assert "hidden" not in dump
    assert agree(nginx, text)["a.test"] == f"{nginx.folder}/r3"


LOCATIONS = (
    "location / { try_files $uri $uri/ =404; }",
    "location / { return 301 https://$host$request_uri; }",
    "location /.well-known/ { root ROOT5; }",
    "location ^~ /.well-known/acme-challenge/ { default_type text/plain; root ROOT4; }",
    "location = /.well-known/acme-challenge/certpilot-probe { root ROOT3; }",
    "location ~ ^/\\.well-known/acme { root ROOT2; }",
    "location ~* /ACME-CHALLENGE/ { root ROOT1; }",
    "location ~ /\\. { deny all; }",
    "location ~ /\\.(?!well-known) { deny all; }",
    "location /.well-known/acme-challenge { location ~ probe$ { root ROOT1; } root ROOT2; }",
    "location ~ \\.php$ { fastcgi_pass 127.0.0.1:1; }",
    "location /.well { deny 127.0.0.2; allow all; deny all; }",
    "location /x { internal; }",
)
REWRITES = (
    "",
    "return 404;",
    "return 301 https://$host$request_uri;",
    "return 302 http://www.c.test$uri;",
    "if ($host = a.test) { return 301 https://$server_name$request_uri; }",
    "if ($http_host ~* ^www\\.(.*)) { return 301 $scheme://a.test$request_uri; }",
    'if ($https = "") { rewrite ^/(.*)$ https://$host/$1 redirect; }',
    "set $go 0; if ($host ~ c) { set $go 1; } if ($go) { return 403; }",
    "rewrite ^/.well-known/(.*)$ /elsewhere/$1 last;",
    "rewrite ^(/.well-known/acme-challenge/.*) $1 break;",
    "if ($request_uri !~ well-known) { return 301 https://$host$request_uri; }",
    "if ($request_method = POST) { return 405; }",
    "if ($args) { return 400; }",
)
SERVER_NAMES = ("a.test", "b.a.test www.a.test", "*.a.test", ".c.test", "www.*", "~^(www\\.)?c\\.test$", "_", '""',
                "~^(?<sub>[a-z]+)\\.a\\.test$", "other.test c.test")  # fmt: skip


def random_server(dice: random.Random, index: int) -> str:
    listens = dice.choice(
        ["listen 80;", "listen 80; listen 443 ssl;", "listen 443 ssl;", "listen 80;", "listen 127.0.0.1:80;"]
    )
    locations = dice.sample(LOCATIONS, dice.choice([0, 0, 1, 1, 2, 3]))
    if LOCATIONS[0] in locations and LOCATIONS[1] in locations:
        locations.remove(LOCATIONS[0])  # nginx refuses the same location twice
    rewrites = [dice.choice(REWRITES)] if dice.random() < 0.5 else []
    names = "server_name " + " ".join(dice.sample(SERVER_NAMES, dice.choice([1, 1, 2]))) + ";"
    parts = [listens, names, f"root ROOT{index % ROOTS};", *rewrites, *locations]
    dice.shuffle(parts)
    return "server { " + "\n".join(parts) + " }\n"


@pytest.mark.parametrize("seed", range(25))
def test_made_up_configurations_are_told_as_nginx_serves_them(nginx: Nginx, seed: int) -> None:
    dice = random.Random(seed)
    servers = "".join(random_server(dice, n) for n in range(dice.randint(1, 5)))
    if "listen 80" not in servers:
        servers += "server { listen 80 default_server; server_name z; root ROOT0; }"
    agree(nginx, servers)


def test_the_default_server_answers_for_names_that_nobody_has(nginx: Nginx) -> None:
    text = nginx.dump(
        "server { listen 80; server_name first; root ROOT1; } server { listen 80 default_server; server_name second; }"
    )
    answering = answering_server(parse_nginx_config(text), "nobody.test", 80, ssl=False)
    assert answering is not None
    assert answering.server_names == ("second",)
