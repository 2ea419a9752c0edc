"""An nginx configuration by itself: what in it breaks issuing, renewing or the site, though nginx may accept it.

Sources: nginx's documentation of `listen`, `server_name`, `if`, `return`; certbot_nginx `configurator.py`, `parser.py`;
certbot #5960 (ipv6only copied), #6146 (redirect in the https block), #9221 (pattern without `~`), FACTS-certbot 4.6.
What stands in nginx's configuration is the server's admin's to mend, whoever owns the site.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from contracts.codes import Code, Retry
from workers.core.nginx_syntax import Directive, Reader
from workers.core.reading.lines import Document
from workers.core.reading.names import host, unique
from workers.core.reading.values import Row, Stage

_S = Stage
_MANAGED = re.compile(r"#\s*" + r"\s*".join("managedbycertbot"))
"""certbot's comment, which a terminal may have broken: its second half is no directive."""

MOST_DIRECTIVES = 60_000
_OPENS = re.compile(r"""(?:^|["'])((?:server|http) ?\{)|^server ?$""")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|\$\{\w+\}")
_TO_HTTPS = re.compile(r"https://(?:\$(?:host|server_name|http_host)|[\w.-]+)")
_PLAIN_HTTP = re.compile(r"""\$(?:scheme|https|ssl_protocol|http_x_forwarded_proto|server_port)""")
_PATTERN = re.compile(r"[\[\]\\+()^|?]|(?<!^)\*(?!\.)")

LOOP = Row(
    (), Code.REDIRECT_LOOP, _S.SERVE, "a redirect to https in a block that serves https itself; certbot #6146", retry=Retry.SERVER_ADMIN,
    says="The redirect to HTTPS stands in a server block that serves HTTPS too, so visitors are sent to where they are.",
    fix="Keep the redirect in a block that only listens on port 80, and the site in another that listens on 443.",
)  # fmt: skip
IPV6ONLY = Row(
    (), Code.NGINX_RELOAD_FAILED, _S.RELOAD, "certbot_nginx copies the listen line into its challenge block; nginx: duplicate listen options; certbot #5960",
    says="certbot's challenge block repeats the options of this listen line, and nginx then refuses to reload.",
    fix="Take `ipv6only=…` off the listen lines of port 80 (on is the default), then reload nginx.",
)  # fmt: skip
HTTP2 = Row(
    (), Code.CHALLENGE_FAILED, _S.CHALLENGE, "boulder: Server is speaking HTTP/2 over HTTP", retry=Retry.SERVER_ADMIN,
    says="nginx speaks HTTP/2 on port 80, which the CA's check cannot read.",
    fix="Take `http2` off every `listen` line of port 80, in all server blocks, and reload nginx.",
)  # fmt: skip
NO_NAME = Row(
    (), Code.NO_MATCHING_VHOST, _S.INSTALL, "certbot_nginx looks for a server_name; a pattern without ~ is a literal name; certbot #9221",
    says="No server block has the site's name: patterns need a ~ in front, and `_` or nothing is no name.",
)  # fmt: skip
HIDDEN = Row(
    (), Code.CHALLENGE_FAILED, _S.CHALLENGE, "a location that denies paths which begin with a dot", retry=Retry.SERVER_ADMIN,
    says="The server block denies every path with a dot in front, the CA's check among them.",
    fix="Add `location ^~ /.well-known/acme-challenge/ { allow all; }` above it.",
)  # fmt: skip
LOCKED = Row(
    (), Code.CHALLENGE_FAILED, _S.CHALLENGE, "auth_basic, deny all or return 403 for the whole block", retry=Retry.SERVER_ADMIN,
    says="The server block turns away everybody it does not know, the CA's check too.",
    fix="Exempt /.well-known/acme-challenge/ from the password or the deny rule.",
)  # fmt: skip
GEO = Row(
    (), Code.GEO_BLOCKED, _S.CHALLENGE, "ngx_http_geoip_module, geo: the CA checks from several countries", retry=Retry.SERVER_ADMIN,
)  # fmt: skip
NO_CERTIFICATE = Row(
    (), Code.NGINX_CONFIG_BROKEN, _S.RELOAD, 'nginx: no "ssl_certificate" is defined for the "listen … ssl" directive',
    says="A server block listens with ssl but names no certificate.",
)  # fmt: skip
BROKEN = Row(
    (),
    Code.NGINX_CONFIG_BROKEN,
    _S.RELOAD,
    "nginx ngx_conf_file.c ngx_conf_read_token: the file does not parse",
)
LUA = Row(
    (), Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "certbot_nginx nginxparser.py does not know Lua blocks",
)  # fmt: skip
SNAKEOIL = Row(
    (), Code.NOT_SERVED, _S.SERVE, "the distribution's self-signed stand-in certificate",
    says="The site's server block names a self-signed stand-in certificate.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConfigHit:
    """What one place of a configuration says: its row, the raw line and the names at fault."""

    row: Row
    line: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Server:
    directive: Directive
    inner: tuple[Directive, ...]

    def all(self, name: str) -> list[Directive]:
        return [directive for directive in self.inner if directive.name == name]

    @property
    def names(self) -> tuple[str, ...]:
        return unique(
            host(arg) for directive in self.all("server_name") for arg in directive.args if "*" not in arg
        )

    def listens(self, port: str) -> list[Directive]:
        return [listen for listen in self.all("listen") if listen.args and _port(listen.args[0]) == port]


def config_part(document: Document) -> tuple[tuple[int, ...], str, bool]:
    """Find the nginx configuration in a text: the raw line number of each of its lines, the lines, whether it is whole.

    A configuration begins at a line that opens a `server` or `http` block, and goes on while blocks are open.
    """
    numbers: list[int] = []
    texts: list[str] = []
    depth = 0
    for line in document.lines:
        text = line.text
        if depth <= 0:
            opens = _OPENS.search(text)
            if not opens:
                continue
            text = text[max(0, opens.start(1)) :]
        bare = _QUOTED.sub("", text.split("#", 1)[0])
        depth += bare.count("{") - bare.count("}")
        numbers.append(line.number)
        texts.append(text)
    return tuple(numbers), _MANAGED.sub(_only_feeds, "\n".join(texts)), depth <= 0


def _only_feeds(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def config_hits(text: str, *, whole: bool) -> list[ConfigHit]:
    """Read a configuration: what is wrong in it.

    Args:
        text: the lines, lower-case.
        whole: whether its last block is closed; what is missing from a text that is cut says nothing.
    """
    problems: list[str] = []
    directives = Reader(text=text, file="", left=MOST_DIRECTIVES, problems=problems).read()
    hits = [hit for server in _servers(directives, 0) for hit in _judge(server, whole=whole)]
    unended = next((problem for problem in problems if "not ended" in problem), None)
    if unended:
        line = re.search(r"line (\d+)", unended)
        hits.insert(0, ConfigHit(BROKEN, int(line[1]) if line else 1))
    return hits


def _servers(directives: tuple[Directive, ...], depth: int) -> Iterator[_Server]:
    for directive in directives:
        if directive.block is None or depth > 4:  # noqa: PLR2004  # http inside a dump's main file is depth 1
            continue
        if directive.name == "server" and not directive.args:
            yield _Server(directive, directive.block)
        elif directive.name in {"http", "main"}:
            yield from _servers(directive.block, depth + 1)


def _port(address: str) -> str:
    if address.startswith("unix:"):
        return ""
    tail = address.rsplit("]", 1)[-1] if "]" in address else address
    port = tail.rsplit(":", 1)[-1]
    return port if port.isdigit() else "80"


def _judge(server: _Server, *, whole: bool) -> Iterator[ConfigHit]:
    yield from _loops(server)
    for listen in server.listens("80"):
        if any(arg.startswith("ipv6only=") for arg in listen.args):
            yield ConfigHit(IPV6ONLY, listen.line)
        if "http2" in listen.args and "ssl" not in listen.args:
            yield ConfigHit(HTTP2, listen.line, server.names)
    yield from _barriers(server)
    yield from _certificates(server, whole=whole)
    yield from _named(server, whole=whole)


def _loops(server: _Server) -> Iterator[ConfigHit]:
    secure = (
        [listen for listen in server.all("listen") if "ssl" in listen.args or _port(listen.args[0]) == "443"]
        if server.all("listen")
        else []
    )
    if not secure:
        return
    for directive in server.inner:
        if directive.name in {"return", "rewrite"} and _to_https(directive, server):
            yield ConfigHit(LOOP, directive.line, server.names)
        if directive.name == "if" and directive.block and not _PLAIN_HTTP.search(" ".join(directive.args)):
            inner = [
                inside
                for inside in directive.block
                if inside.name in {"return", "rewrite"} and _to_https(inside, server)
            ]
            if inner:
                asked = unique(host(arg) for arg in directive.args)
                yield ConfigHit(LOOP, inner[0].line, asked or server.names)


def _to_https(directive: Directive, server: _Server) -> bool:
    target = next((arg for arg in directive.args if arg.startswith("https://")), "")
    if not _TO_HTTPS.match(target):
        return False
    named = re.match(r"https://([\w.-]+)", target)
    return named is None or not server.names or named[1].lower() in server.names


def _barriers(server: _Server) -> Iterator[ConfigHit]:
    exempt = any(
        "acme-challenge" in " ".join(inside.args) or ".well-known" in " ".join(inside.args)
        for inside in server.all("location")
    )
    if exempt or (not server.listens("80") and server.all("listen")):
        return
    for location in server.all("location"):
        dotted = any(re.match(r"\^?/?\.?\(?\^?/?\\\.|/\.", arg) for arg in location.args)
        denies = any(inside.name == "deny" and inside.args[:1] == ("all",) for inside in location.block or ())
        if dotted and denies:
            yield ConfigHit(HIDDEN, location.line, server.names)
    for directive in server.inner:
        closed = directive.name == "auth_basic" and directive.args[:1] != ("off",)
        if closed or (directive.name == "deny" and directive.args[:1] == ("all",)):
            yield ConfigHit(LOCKED, directive.line, server.names)
        if (
            directive.name == "if"
            and re.search(r"geoip|country|\$allowed|\$geo", " ".join(directive.args))
            and directive.block
        ):
            yield ConfigHit(GEO, directive.line, server.names)


def _certificates(server: _Server, *, whole: bool) -> Iterator[ConfigHit]:
    secure = [listen for listen in server.all("listen") if "ssl" in listen.args]
    certificates = server.all("ssl_certificate")
    included = any(inside.name == "include" for inside in server.inner)
    if whole and secure and not certificates and not included:
        yield ConfigHit(NO_CERTIFICATE, secure[0].line, server.names)
    for certificate in certificates:
        if any("snakeoil" in arg or "self-signed" in arg or "selfsigned" in arg for arg in certificate.args):
            yield ConfigHit(SNAKEOIL, certificate.line, server.names)


def _named(server: _Server, *, whole: bool) -> Iterator[ConfigHit]:
    lines = server.all("server_name")
    for directive in _inside(server.inner):
        if directive.name.endswith("_by_lua_block"):
            yield ConfigHit(LUA, directive.line)
    patterns = [
        line for line in lines if any(not arg.startswith("~") and _PATTERN.search(arg) for arg in line.args)
    ]
    if patterns:
        yield ConfigHit(NO_NAME, patterns[0].line)
        return
    nameless = not lines or all(arg in {"_", "", "localhost"} for line in lines for arg in line.args)
    if whole and nameless and server.listens("80") and not server.all("return"):
        yield ConfigHit(NO_NAME, (lines[0] if lines else server.directive).line)


def _inside(directives: tuple[Directive, ...]) -> Iterator[Directive]:
    for directive in directives:
        yield directive
        if directive.block:
            yield from _inside(directive.block)
