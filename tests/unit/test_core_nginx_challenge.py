"""Where the challenge file of a name would be served from, and why nowhere. Beside these cases nginx itself is asked in
tests/integration/test_core_nginx_agrees.py."""

import pytest

from workers.core.nginx.challenge import ChallengeRoot, RootReason, challenge_root
from workers.core.nginx.config import parse_nginx_config

HTTPS = "server { listen 443 ssl; server_name a.example; root /srv/a; }"
ACME = "/.well-known/acme-challenge/"


def found(text: str, name: str = "a.example") -> ChallengeRoot:
    return challenge_root(parse_nginx_config(f"http {{ {text} }}"), name)


def vhost(inner: str) -> str:
    return f"server {{ listen 80; server_name a.example; {inner} }}"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (vhost("root /srv/a/;"), "/srv/a", RootReason.FOUND),
        (f"root /srv; {vhost('')}", "/srv", RootReason.FOUND),
        (vhost(f"root /srv/a; location ^~ {ACME} {{ root /srv/acme; }}"), "/srv/acme", RootReason.FOUND),
        (vhost(f"location ^~ {ACME} {{ alias /srv/acme/; }}"), None, RootReason.ALIAS),
        (vhost(f"location ^~ {ACME} {{ alias /srv/acme{ACME}; }}"), "/srv/acme", RootReason.FOUND),
        (vhost("root /; "), "/", RootReason.FOUND),
        (vhost("root /srv/$host/public;"), "/srv/a.example/public", RootReason.FOUND),
        (vhost("root /srv/${http_host};"), "/srv/a.example", RootReason.FOUND),
        (vhost("root /srv/$domain;"), None, RootReason.VARIABLE_ROOT),
        (vhost("set $base /srv/b; root $base/public;"), "/srv/b/public", RootReason.FOUND),
        (vhost("root html;"), None, RootReason.VARIABLE_ROOT),
        (vhost(""), None, RootReason.NO_ROOT),
        (vhost("root /srv; location / { proxy_pass http://127.0.0.1:3000; }"), None, RootReason.PROXIED),
        (vhost("root /srv; location / { try_files /maintenance.html @app; }"), None, RootReason.PROXIED),
        (vhost("root /srv; location / { content_by_lua_block { ngx.say(1) } }"), None, RootReason.PROXIED),
        (vhost("root /srv; location / { try_files $uri @app; } location @app { proxy_pass http://x; }"), "/srv", RootReason.FOUND),
        (vhost("root /srv; return 444;"), None, RootReason.RETURNED),
        (vhost("root /srv; location / { return 200 ok; }"), None, RootReason.RETURNED),
        (vhost("root /srv; location ~ /\\. { deny all; }"), None, RootReason.DENIED),
        (vhost("root /srv; deny all; location / { allow all; }"), "/srv", RootReason.FOUND),
        (vhost("root /srv; allow 192.0.2.0/24; deny all;"), None, RootReason.DENIED),
        (vhost("root /srv; auth_basic off;"), "/srv", RootReason.FOUND),
        (vhost("root /srv; auth_basic closed;"), None, RootReason.DENIED),
        (vhost(f"root /srv; auth_basic closed; location {ACME} {{ auth_basic off; }}"), "/srv", RootReason.FOUND),
        (vhost("root /srv; location / { internal; }"), None, RootReason.DENIED),
        (vhost("root /srv; rewrite ^ /index.php last;"), None, RootReason.REWRITTEN),
        (vhost("return 301 https://elsewhere.example$request_uri;"), None, RootReason.REDIRECTED_AWAY),
        (vhost("return 301 https://a.example:8443$request_uri;"), None, RootReason.REDIRECTED_AWAY),
        (vhost("return 301 https://$host$request_uri;"), None, RootReason.NO_HTTPS_SERVER),
        (("server { server_name *.b.example; if ($host = a.example) { return 301 https://$server_name$request_uri; } }"
         "server { listen 443 ssl; server_name *.b.example; root /srv; }"), None, RootReason.REDIRECTED_AWAY),
        (vhost("return 301 https://$host$request_uri;") + HTTPS, "/srv/a", RootReason.FOUND),
        (vhost("return 301 https://$host/blog$request_uri;") + HTTPS, "/srv/a/blog", RootReason.FOUND),
        (vhost("return 301 https://$host;") + HTTPS, None, RootReason.REWRITTEN),
        (vhost("return 301 http://$host$request_uri;"), None, RootReason.REDIRECT_LOOP),
        (vhost("if ($http_user_agent ~ bot) { return 403; } root /srv;"), "/srv", RootReason.FOUND),
        (vhost("if (-f /srv/maintenance.on) { return 503; } root /srv;"), "/srv", RootReason.FOUND),
        ("server { listen 8080; server_name a.example; root /srv; }", None, RootReason.NO_SERVER),
        ("server { listen 80 default_server; root /srv/default; } server { listen 443 ssl; server_name a.example; }",
         "/srv/default", RootReason.FOUND),
    ],
)  # fmt: skip
def test_the_directory_of_a_challenge_or_why_there_is_none(
    text: str, path: str | None, reason: RootReason
) -> None:
    root = found(text)
    assert (root.path, root.reason) == (path, reason)


def test_certbots_redirect_is_followed_into_the_443_block() -> None:
    """FACTS-certbot 4.5: after certbot's redirect the port-80 block has no root any more."""
    root = found(
        "server { root /srv/a; server_name a.example; listen 443 ssl; # managed by Certbot\n }"
        "server { if ($host = a.example) { return 301 https://$host$request_uri; } # managed by Certbot\n"
        " listen 80; server_name a.example; return 404; # managed by Certbot\n }"
    )
    assert root == ChallengeRoot("/srv/a", RootReason.FOUND, "line 1", over_https=True)


def test_a_redirect_inside_the_block_that_serves_https_is_a_loop() -> None:
    """Seen in certbot #6146: every visitor is sent to where they are."""
    root = found(
        "server { if ($host = a.example) { return 301 https://$host$request_uri; } # managed by Certbot\n"
        " listen 80; listen 443 ssl; server_name a.example; root /srv; }"
    )
    assert (root.path, root.reason) == (None, RootReason.REDIRECT_LOOP)


def test_certbots_edit_left_behind_by_a_kill_does_not_hide_the_root() -> None:
    """FACTS-certbot 4.3: SIGKILL leaves the rewrite in place until the next run."""
    left = vhost(
        f"rewrite ^(/.well-known/acme-challenge/.*) $1 break; # managed by Certbot\n root /srv; location = {ACME}TOKEN {{ return 200 x; }}"
    )
    assert found(left).path == "/srv"


def test_the_place_that_decided_is_named() -> None:
    text = (
        "# configuration file /etc/nginx/nginx.conf:\nhttp {\n include s;\n}\n# configuration file /etc/nginx/s:\n"
        + vhost("\n return 404;")
    )
    assert challenge_root(parse_nginx_config(text), "a.example").where == "/etc/nginx/s:2"
