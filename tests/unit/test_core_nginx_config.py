"""Reading nginx configurations: the syntax, the includes, the choice of a server block. What nginx really does with
them is asked of nginx itself in tests/integration/test_core_nginx_agrees.py."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.core.nginx.challenge import challenge_root
from workers.core.nginx.config import (
    Listen,
    NginxConfig,
    ServerBlock,
    answering_server,
    has_name,
    match_server,
    parse_nginx_config,
)
from workers.core.nginx.dump import parse_dump
from workers.core.nginx.regex import search


def config(*servers: str) -> NginxConfig:
    return parse_nginx_config("http {" + "".join(f"server {{ {s} }}" for s in servers) + "}")


def only(text: str) -> ServerBlock:
    (server,) = config(text).servers
    return server


def matched(found: ServerBlock | None) -> str | None:
    return found and found.root


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("a b c;", ("b", "c")),
        ("a 'b c' \"d;e\";", ("b c", "d;e")),
        ('a "quote \\" inside" \\;x;', ('quote " inside', "\\;x")),
        ("a b\\tc 'd\\ne';", ("b\tc", "d\ne")),
        ("a ${host}x b$;", ("${host}x", "b$")),
        ("a b#no-comment; # comment ; }", ("b#no-comment",)),
        ("a\n# } ; {\nb;", ("b",)),
        ("if ($a = '') { }", ("($a", "=", "", ")")),
        ("a b}c;", ("b}c",)),
    ],
)
def test_words_are_cut_as_nginx_cuts_them(text: str, args: tuple[str, ...]) -> None:
    tree = parse_dump(text)
    assert tree.problems == ()
    assert tree.directives[0].args == args


LUA = """
location /x {
    content_by_lua_block {
        local s = "a } b"  -- a comment with }
        local t = [==[ long } ]] string ]==]
        --[[ } over
             lines } ]]
        if s then ngx.say('it\\'s } fine') end
        local u = { 1, { 2 } }
    }
}
server_name after.example;
"""


def test_a_lua_block_is_passed_over_with_its_own_quotes_and_comments() -> None:
    server = only(LUA)
    assert server.server_names == ("after.example",)


DUMP = """nginx: the configuration file /etc/nginx/nginx.conf syntax is ok
nginx: configuration file /etc/nginx/nginx.conf test is successful
# configuration file /etc/nginx/nginx.conf:
events { }
http {
    root /srv/default;
    include mime.types;
    include sites-enabled/*;
    include /etc/nginx/absent/*.conf;
}

# configuration file /etc/nginx/mime.types:
types { text/html html; }

# configuration file /etc/nginx/sites-enabled/b:
server { listen 80; server_name b.example; include snippets/listen.conf; }

# configuration file /etc/nginx/snippets/listen.conf:
listen [::]:80;
# managed by Certbot
# configuration file /etc/nginx/sites-enabled/a:
server {
    listen 443 ssl; # managed by Certbot
    server_name a.example;
    root /srv/a;
    include /etc/letsencrypt/options-ssl-nginx.conf; # managed by Certbot
}
"""


def test_the_files_of_a_dump_are_put_together_as_nginx_includes_them() -> None:
    read = parse_nginx_config(DUMP)
    assert [s.where for s in read.servers] == ["/etc/nginx/sites-enabled/a:1", "/etc/nginx/sites-enabled/b:1"]
    a, b = read.servers
    assert a.root == "/srv/a"
    assert b.root == "/srv/default"
    assert b.listens == (Listen("*", 80), Listen("::", 80))
    assert read.problems == (
        "/etc/nginx/sites-enabled/a:5: the dump does not hold /etc/letsencrypt/options-ssl-nginx.conf",
    )


def test_a_pattern_takes_no_hidden_file_and_crosses_no_folder() -> None:
    read = parse_nginx_config(
        "# configuration file /n/nginx.conf:\nhttp { include s/*; include s/.hidden; }\n"
        "# configuration file /n/s/.hidden:\nserver { server_name hidden; }\n"
        "# configuration file /n/s/deep/er:\nserver { server_name deeper; }\n"
        "# configuration file /n/s/a:\nserver { server_name a; }\n"
    )
    assert [s.server_names for s in read.servers] == [("a",), ("hidden",)]


def test_the_same_file_included_by_many_counts_for_each() -> None:
    files = "".join(f"server {{ server_name s{n}; include snip; }}" for n in range(3))
    read = parse_nginx_config(
        f"# configuration file /n/nginx.conf:\nhttp {{ {files} }}\n# configuration file /n/snip:\nroot /srv;\n"
    )
    assert [s.root for s in read.servers] == ["/srv"] * 3


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("listen 80;", [Listen("*", 80)]),
        ("listen *:80 default_server;", [Listen("*", 80, default_server=True)]),
        ("listen 0.0.0.0:80 default;", [Listen("*", 80, default_server=True)]),
        ("listen 192.0.2.1;", [Listen("192.0.2.1", 80)]),
        ("listen [::]:443 ssl ipv6only=on;", [Listen("::", 443, ssl=True)]),
        ("listen [::]:80 ipv6only=off;", [Listen("::", 80, dual_stack=True)]),
        ("listen [2001:DB8:0:0::1]:443 ssl http2;", [Listen("2001:db8::1", 443, ssl=True)]),
        ("listen [2001:db8::1];", [Listen("2001:db8::1", 80)]),
        ("listen example.org:80;", [Listen("example.org", 80)]),
        ("listen 70-90;", [Listen("*", 80)]),
        ("listen unix:/run/x.sock;", []),
        ("listen 443 quic reuseport;", []),
        ("listen 443; ssl on;", [Listen("*", 443, ssl=True)]),
        ("", [Listen("*", 80)]),
        ("listen 99999999999;", []),
        ("listen nonsense:port;", []),
    ],
)
def test_a_listen_is_read_into_address_port_and_flags(listen: str, expected: list[Listen]) -> None:
    assert list(only(listen).listens) == expected


NAMES = config(
    "listen 80; server_name www.example.org; root /exact;",
    "listen 80; server_name *.example.org; root /leading;",
    "listen 80; server_name *.b.example.org; root /longer;",
    "listen 80; server_name .dot.example; root /dot;",
    "listen 80; server_name www.example.*; root /trailing;",
    "listen 80; server_name ~^(?<x>www\\d+)\\.example\\.net$; root /regex;",
    "listen 80; server_name ~example\\.net$; root /regex2;",
    "listen 80; server_name sub.[0-9]+.example.org; root /literal;",
)


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("www.example.org", "/exact"),
        ("x.example.org", "/leading"),
        ("x.y.example.org", "/leading"),
        ("x.b.example.org", "/longer"),
        ("b.example.org", "/leading"),
        ("dot.example", "/dot"),
        ("a.dot.example", "/dot"),
        ("www.example.com", "/trailing"),
        ("www7.example.net", "/regex"),
        ("shop.example.net", "/regex2"),
        ("example.org", None),
        ("notexample.org", None),
        ("example.com", None),
        ("sub.12.example.org", "/leading"),
    ],
)
def test_the_block_of_a_name_is_exact_then_longest_wildcard_then_first_expression(
    name: str, root: str | None
) -> None:
    assert matched(match_server(NAMES, name, 80, ssl=False)) == root
    assert has_name(NAMES, name) is (root is not None)


def test_of_the_same_name_twice_the_first_counts() -> None:
    assert (
        matched(
            match_server(config("server_name a; root /1;", "server_name a; root /2;"), "a", 80, ssl=False)
        )
        == "/1"
    )


def test_a_name_behind_its_dotted_form_is_ignored_as_nginx_does() -> None:
    twice = config("server_name .a.example; root /dotted;", "server_name a.example; root /plain;")
    assert matched(match_server(twice, "a.example", 80, ssl=False)) == "/dotted"


def test_a_dotted_name_behind_its_plain_form_is_ignored_as_a_whole() -> None:
    twice = config("server_name a.example; root /plain;", "server_name .a.example; root /dotted;")
    assert matched(match_server(twice, "a.example", 80, ssl=False)) == "/plain"
    assert match_server(twice, "www.a.example", 80, ssl=False) is None


def test_port_and_tls_have_to_fit() -> None:
    both = config("listen 80; server_name a; root /plain;", "listen 443 ssl; server_name a; root /tls;")
    assert matched(match_server(both, "a", 80, ssl=False)) == "/plain"
    assert matched(match_server(both, "a", 443, ssl=True)) == "/tls"
    assert match_server(both, "a", 443, ssl=False) is None
    assert match_server(both, "a", 8080, ssl=False) is None


def test_tls_belongs_to_the_address_whichever_block_asked_for_it() -> None:
    shared = config("listen 443 ssl; server_name a;", "listen 443; server_name b; root /b;")
    assert matched(match_server(shared, "b", 443, ssl=True)) == "/b"


def test_an_address_with_its_own_listen_never_reaches_the_blocks_for_all_addresses() -> None:
    panel = config(
        "listen 192.0.2.1:80; server_name a; root /own;", "listen 80; server_name a b; root /all;", "listen [::]:80; server_name c; root /six;"
    )  # fmt: skip
    assert matched(match_server(panel, "a", 80, ssl=False)) == "/own"
    assert matched(match_server(panel, "a", 80, ssl=False, address="192.0.2.1")) == "/own"
    assert matched(match_server(panel, "a", 80, ssl=False, address="192.0.2.2")) == "/all"
    assert match_server(panel, "b", 80, ssl=False, address="192.0.2.1") is None
    assert matched(answering_server(panel, "b", 80, ssl=False, address="192.0.2.1")) == "/own"
    assert matched(match_server(panel, "c", 80, ssl=False, address="2001:db8::1")) == "/six"
    assert match_server(panel, "c", 80, ssl=False, address="192.0.2.2") is None


def test_an_ipv6_address_with_ipv6only_off_takes_ipv4_where_nothing_else_does() -> None:
    dual = config("listen [::]:80 ipv6only=off; server_name a; root /dual;")
    assert matched(match_server(dual, "a", 80, ssl=False, address="192.0.2.1")) == "/dual"


def test_the_first_block_is_the_default_unless_one_says_so() -> None:
    two = config("server_name a; root /1;", "server_name b; root /2;")
    assert matched(answering_server(two, "z", 80, ssl=False)) == "/1"
    said = config("server_name a; root /1;", "listen 80 default_server; server_name b; root /2;")
    assert matched(answering_server(said, "z", 80, ssl=False)) == "/2"
    assert answering_server(said, "z", 443, ssl=True) is None


@pytest.mark.parametrize(
    ("text", "proxies"),
    [
        ("location / { proxy_pass http://127.0.0.1:8080; }", True),
        ("location / { fastcgi_pass unix:/x; }", True),
        ("location / { try_files $uri =404; }", False),
        ("location /api { proxy_pass http://127.0.0.1:8080; }", False),
    ],
)
def test_a_block_proxies_when_its_slash_is_handed_on(text: str, proxies: bool) -> None:
    assert only(text).proxies is proxies


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server { listen 80;", 'line 1: unexpected end of file, expecting ";" or "}"'),
        ("\n\na 'b;", "line 3: ' is not closed"),
        ("}", 'line 1: unexpected "}"'),
        ("http { server { listen 80 } }", 'line 1: a directive is not ended by ";"'),
        ("x_by_lua_block { [[", "line 1: a Lua block is not closed"),
        ("include /x;", "line 1: the dump does not hold /x"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(text: str, problem: str) -> None:
    assert problem in parse_nginx_config(text).problems


def test_a_block_behind_a_broken_one_is_still_found() -> None:
    assert has_name(
        parse_nginx_config("http { server { listen 80 } server { server_name good.example; } }"),
        "good.example",
    )


PIECES = st.sampled_from([
    "server", "location", "listen", "80", "443 ssl", "server_name", "a.example", "*.example", "~(", "root", "/srv", "include", "*",
    "return", "301", "https://$host$request_uri", "rewrite", "^(.*)$", "if", "($host", "=", ")", "alias", "{", "}", ";", " ", "\n",
    '"', "'", "\\", "#", "$", "${", "content_by_lua_block", "[[", "--", "# configuration file /etc/nginx/x:\n", "\0", "é", "try_files",
])  # fmt: skip


@given(
    st.one_of(
        st.text(), st.lists(PIECES, max_size=80).map(" ".join), st.lists(PIECES, max_size=80).map("".join)
    )
)
@settings(max_examples=400, deadline=None)
def test_no_text_makes_the_reader_raise(text: str) -> None:
    read = parse_nginx_config(text)
    challenge_root(read, "a.example")
    has_name(read, "a.example")


MEBI = 1024 * 1024
HOSTILE = {
    "statements": "a;" * MEBI,
    "nesting": "a{" * MEBI,
    "closing": "}" * MEBI,
    "an open quote": '"' + "a" * MEBI,
    "backslashes": "\\" * MEBI,
    "long strings of Lua": "x_by_lua_block {" + "[=[" * (MEBI // 3),
    "markers": "# configuration file /a:\n" * (MEBI // 24),
    "patterns times files": "# configuration file /n:\n" + "".join(f"include /x{n}*;" for n in range(20_000))
    + "".join(f"\n# configuration file /x{n}:\na b;" for n in range(20_000)),
    "includes that double": "# configuration file /0:\n"
    + "".join(f"include /{n};include /{n};\n# configuration file /{n}:\n" for n in range(1, 40)),
    "a file that includes itself": "# configuration file /0:\n" + "include /0;" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_grows_with_the_text_alone(kind: str) -> None:
    """A text of a megabyte takes a second or so on an idle machine; whatever grows faster takes minutes."""
    start = time.monotonic()
    read = parse_nginx_config(HOSTILE[kind])
    assert time.monotonic() - start < 20
    assert len(read.problems) <= 100


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"^(?<sub>\w+\.)*example\.com$", "a.b.example.com", True),
        (r"/\.(?!well-known).*", "/.well-known/acme-challenge/x", False),
        (r"/\.(?!well-known).*", "/.git/config", True),
        (r"^[a-z0-9-]{1,3}$", "abcd", False),
        (r"^(?i:WWW)\.x$", "www.x", True),
        (r"(?<=a)b", "ab", None),
        (r"(a)\1", "aa", None),
        (r"(", "a", None),
        (r"[", "a", None),
        (r"a{1000}", "a", None),
    ],
)
def test_expressions_match_as_in_pcre_or_say_that_they_cannot_tell(
    pattern: str, text: str, expected: bool | None
) -> None:
    assert search(pattern, text) is expected


def test_an_expression_that_backtracks_for_years_is_answered_at_once() -> None:
    start = time.monotonic()
    assert search(r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 200) is False
    assert time.monotonic() - start < 5


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", "^", "$", r"\b"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,2}", "*?"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
        st.tuples(st.sampled_from(["?=", "?!"]), ATOMS).map(lambda two: f"({two[0]}{two[1]})"),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.text("ab", max_size=8))
@settings(max_examples=400, deadline=None)
def test_expressions_agree_with_pythons_own_engine(pattern: str, text: str) -> None:
    assert search(pattern, text) is bool(re.search(pattern, text))
