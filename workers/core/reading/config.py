"""An nginx configuration by itself: what in it breaks issuing, renewing or the site, though nginx may accept it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from workers.core.nginx.syntax import Directive, Reader
from workers.core.reading.config_rows import (
    BROKEN,
    GEO,
    HIDDEN,
    HTTP2,
    IPV6ONLY,
    LOCKED,
    LOOP,
    LUA,
    NO_CERTIFICATE,
    NO_NAME,
    SNAKEOIL,
    TWO_DEFAULTS,
)
from workers.core.reading.lines import Document, Line
from workers.core.reading.names import host, unique
from workers.core.reading.values import Row

_MANAGED = re.compile(r"#\s*" + r"\s*".join("managedbycertbot"))
"""certbot's comment, which a terminal may have broken: its second half is no directive."""

MOST_DIRECTIVES = 60_000
_OPENS = re.compile(r"""(?:^|["'])((?:server|http) ?\{)|^server ?$""")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|\$\{\w+\}")
_TO_HTTPS = re.compile(r"https://(?:\$(?:host|server_name|http_host)|[\w.-]+)")
_PLAIN_HTTP = re.compile(r"""\$(?:scheme|https|ssl_protocol|http_x_forwarded_proto|server_port)""")
_SIMPLE = frozenset(
    {
        "listen",
        "server_name",
        "root",
        "index",
        "include",
        "return",
        "proxy_pass",
        "ssl_certificate",
        "ssl_certificate_key",
    }
)
_PATTERN = re.compile(r"[\[\]\\+()^|?]|(?<!^)\*(?!\.)")


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


@dataclass(frozen=True, slots=True)
class Part:
    """The nginx configuration in a text.

    Attributes:
        numbers: the raw line number of each of its lines.
        text: the lines, lower-case.
        whole: its last block is closed; what is missing from a text that is cut says nothing.
        unclosed: the line at which the indentation shows that a brace was left out, counted from 1; 0 where none was.
    """

    numbers: tuple[int, ...]
    text: str
    whole: bool
    unclosed: int


def config_part(document: Document) -> Part:
    """Find the configuration: it begins at a line that opens a `server` or `http` block, and goes on while one is open."""
    numbers: list[int] = []
    texts: list[str] = []
    depth, unclosed = 0, 0
    openers: list[Line] = []
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
        if bare.strip() == "}" and openers:
            unclosed = len(texts) if openers.pop().indented and not line.indented else 0
        openers += [line] * max(0, bare.count("{") - bare.count("}"))
    text = _MANAGED.sub(_only_feeds, "\n".join(texts))
    return Part(tuple(numbers), text, depth <= 0, unclosed if depth > 0 else 0)


def _only_feeds(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def config_hits(part: Part) -> list[ConfigHit]:
    """Read a configuration: what is wrong in it."""
    problems: list[str] = []
    directives = Reader(text=part.text, file="", left=MOST_DIRECTIVES, problems=problems).read()
    servers = list(_servers(directives, 0))
    unended = next((problem for problem in problems if "not ended" in problem), None)
    broken = [ConfigHit(BROKEN, part.unclosed)] if part.unclosed else []
    if unended:
        line = re.search(r"line (\d+)", unended)
        broken.append(ConfigHit(BROKEN, int(line[1]) if line else 1))
    broken += [ConfigHit(BROKEN, directive.line) for server in servers for directive in _run_together(server)]
    broken += _two_defaults(servers)
    return broken or [hit for server in servers for hit in _judge(server, whole=part.whole)]


def _run_together(server: _Server) -> Iterator[Directive]:
    """A directive that swallowed the next one: its semicolon is missing."""
    for directive in server.inner:
        if directive.block is None and directive.name in _SIMPLE and _SIMPLE.intersection(directive.args[1:]):
            yield directive


def _two_defaults(servers: list[_Server]) -> Iterator[ConfigHit]:
    seen: set[str] = set()
    for server in servers:
        for listen in server.all("listen"):
            if {"default_server", "default"}.isdisjoint(listen.args):
                continue
            address = listen.args[0].removeprefix("*:").removeprefix("0.0.0.0:")
            if address in seen:
                yield ConfigHit(TWO_DEFAULTS, listen.line)
            seen.add(address)


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
    everywhere = [
        inside
        for location in server.all("location")
        if location.args in {("/",), ("^~", "/")}
        for inside in location.block or ()
    ]
    for directive in (*server.inner, *everywhere):
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
