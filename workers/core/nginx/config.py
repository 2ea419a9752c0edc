"""Which server block of an nginx configuration answers for a name.

The rules are those of nginx: `ngx_http_core_listen`, `ngx_http_find_virtual_server` and
https://nginx.org/en/docs/http/request_processing.html. Everything is a best effort on whatever text there is; what
was not understood stands in `NginxConfig.problems`.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from workers.core.nginx.dump import parse_dump
from workers.core.nginx.names import NameTable, name_table
from workers.core.nginx.syntax import Directive

ANY_IPV4 = "*"
ANY_IPV6 = "::"
_HANDLERS = (
    "proxy_pass",
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
    "memcached_pass",
    "content_by_lua",
)


@dataclass(frozen=True, slots=True)
class Listen:
    """One address that a server block listens on over TCP.

    Attributes:
        address: an IP address in its shortest form, ANY_IPV4, ANY_IPV6, or a host name as written.
        port: the port.
        ssl: whether this very directive (or the block's old `ssl on`) asks for TLS.
        default_server: whether the block is made the address's default.
        dual_stack: an IPv6 address that takes IPv4 too (`ipv6only=off`).
    """

    address: str
    port: int
    ssl: bool = False
    default_server: bool = False
    dual_stack: bool = False


@dataclass(frozen=True, slots=True)
class ServerBlock:
    """One `server { }` of HTTP.

    Attributes:
        listens: its addresses; what nginx assumes where it has none.
        server_names: as written, lower-case unless an expression.
        root: the directory of the block itself, else the one inherited from `http`; None where neither has one.
        directives: everything in the block, includes replaced.
        proxies: whether `/` is handed to another program and there is no file to serve.
        where: `FILE:LINE` of its start.
    """

    listens: tuple[Listen, ...]
    server_names: tuple[str, ...]
    root: str | None
    directives: tuple[Directive, ...]
    proxies: bool
    where: str

    @property
    def file(self) -> str:
        """The file in which it starts."""
        return self.where.rpartition(":")[0]

    def shows_certificate_of(self, cert_name: str) -> bool:
        """Whether its certificate is that of one of certbot's lineages."""
        path = f"/live/{cert_name}/"
        return any(d.name == "ssl_certificate" and path in (*d.args, "")[0] for d in self.directives)


@dataclass(frozen=True, slots=True)
class NginxConfig:
    """The HTTP part of a configuration.

    Attributes:
        servers: every server block, in nginx's order.
        http: the directives of `http` itself, which server blocks inherit.
        problems: what could not be read.
        listening: per port, its addresses.
        main: the main file; empty where that is not known.
        not_utf8: files that hold bytes which are no UTF-8: nginx does not mind, certbot passes them over.
    """

    servers: tuple[ServerBlock, ...]
    http: tuple[Directive, ...]
    problems: tuple[str, ...]
    listening: Mapping[int, Mapping[str, "Listening"]]
    main: str = ""
    not_utf8: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listening:
    """One listening address.

    Attributes:
        ssl: TLS belongs to the address, whichever block asked for it.
        dual_stack: an IPv6 address that takes IPv4 too.
        default: the block that answers for names that nobody has.
        names: whose name is whose.
    """

    ssl: bool
    dual_stack: bool
    default: ServerBlock
    names: NameTable[ServerBlock]


def parse_nginx_config(text: str) -> NginxConfig:
    """Read the output of `nginx -T` (or of one file).

    Args:
        text: the dump, at most a few MiB.

    Returns:
        What was understood. Never raises.
    """
    tree = parse_dump(text)
    # One file of sites-enabled, given by itself, has its server blocks at the top.
    http = [
        *tree.directives,
        *(inner for d in tree.directives if d.name == "http" for inner in d.block or ()),
    ]
    outside = tuple(d for d in http if d.name not in {"server", "http"})
    servers = tuple(_server(d, outside) for d in http if d.name == "server" and d.block is not None)
    return NginxConfig(
        servers, outside, tree.problems, _listening(servers), main=tree.main, not_utf8=tree.not_utf8
    )


def _server(directive: Directive, http: tuple[Directive, ...]) -> ServerBlock:
    inner = directive.block or ()
    old_ssl = any(d.name == "ssl" and d.args == ("on",) for d in inner)
    listens = tuple(listen for d in inner if d.name == "listen" for listen in _listens(d.args, ssl=old_ssl))
    if not any(d.name == "listen" for d in inner):
        listens = (Listen(ANY_IPV4, 80, ssl=old_ssl),)
    names = tuple(
        n if n.startswith("~") else n.lower() for d in inner if d.name == "server_name" for n in d.args
    )
    root = next((d.args[0] for d in (*reversed(inner), *reversed(http)) if d.name == "root" and d.args), None)
    return ServerBlock(listens, names, root, inner, _proxies(inner), directive.where)


def _proxies(inner: tuple[Directive, ...]) -> bool:
    slash = next((d.block for d in inner if d.name == "location" and d.args == ("/",)), None)
    return any(d.name.startswith(_HANDLERS) for d in (inner if slash is None else slash) or ())


def _listens(args: tuple[str, ...], *, ssl: bool) -> Iterator[Listen]:
    """The addresses of one `listen`: none for a socket file or for QUIC, several for a range of ports."""
    if not args or args[0].startswith("unix:") or "quic" in args[1:]:
        return
    host, ports = _split_address(args[0])
    first, _, last = ports.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or len(first) > len("65535"):
        return
    # Of a range only the ports that matter here can be asked for.
    for port in {int(first)} if not last else {80, 443} & set(range(int(first), min(int(last), 65535) + 1)):
        yield Listen(
            _address(host),
            port,
            ssl=ssl or "ssl" in args[1:],
            default_server="default_server" in args[1:] or "default" in args[1:],
            dual_stack=":" in host and "ipv6only=off" in args[1:],
        )


def _split_address(text: str) -> tuple[str, str]:
    """`80`, `*:80`, `192.0.2.1`, `[::1]:80`, `name:80` → host (empty: any IPv4) and port as text."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":") or "80"
    host, colon, port = text.rpartition(":")
    if colon:
        return host, port
    return ("", text) if text.replace("-", "").isdecimal() else (text, "80")


def _address(host: str) -> str:
    if host in {"", "*", "0.0.0.0"}:  # noqa: S104 - read from a configuration, nothing is bound
        return ANY_IPV4
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _listening(servers: tuple[ServerBlock, ...]) -> dict[int, dict[str, Listening]]:
    found: dict[int, dict[str, list[tuple[ServerBlock, Listen]]]] = {}
    for server in servers:
        for listen in server.listens:
            found.setdefault(listen.port, {}).setdefault(listen.address, []).append((server, listen))
    return {port: {a: _one_listening(m) for a, m in addresses.items()} for port, addresses in found.items()}


def _one_listening(members: list[tuple[ServerBlock, Listen]]) -> Listening:
    return Listening(
        ssl=any(listen.ssl for _, listen in members),
        dual_stack=any(listen.dual_stack for _, listen in members),
        default=next((server for server, listen in members if listen.default_server), members[0][0]),
        names=name_table((name, server) for server, _ in members for name in server.server_names),
    )


def _asked(config: NginxConfig, port: int, address: str | None, *, ssl: bool) -> list[Listening]:
    """Which listening addresses a connection can reach, in order.

    A connection to an address that has its own `listen` never reaches a block that listens on all of them. Where
    the address is not known, those with an own `listen` come first: panels put each site there. Loopback comes last.
    """
    found = {a: listening for a, listening in config.listening.get(port, {}).items() if listening.ssl is ssl}
    if address is None:
        return [found[a] for a in sorted(found, key=lambda a: (_is_loopback(a), a in {ANY_IPV4, ANY_IPV6}))]
    own = _address(address)
    both = ANY_IPV6 in found and found[ANY_IPV6].dual_stack
    reached = [own, ANY_IPV6] if ":" in own else [own, ANY_IPV4, *([ANY_IPV6] if both else [])]
    return [found[a] for a in reached if a in found][:1]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in {"::1", "localhost"}


def match_server(
    config: NginxConfig, name: str, port: int, *, ssl: bool, address: str | None = None
) -> ServerBlock | None:
    """Find the server block that has this name, by nginx's order: exact, `*.x` longest first, `x.*`, expressions.

    Args:
        config: the configuration.
        name: a host name, lower-case, without a trailing dot.
        port: 80 or 443.
        ssl: whether TLS is spoken on that port.
        address: the server's own address that the connection reaches; None where it is not known.

    Returns:
        The block, or None where the request would fall to a default server because no block has the name.
    """
    for listening in _asked(config, port, address, ssl=ssl):
        found = listening.names.find(name)
        if found:
            return found
    return None


def answering_server(
    config: NginxConfig, name: str, port: int, *, ssl: bool, address: str | None = None
) -> ServerBlock | None:
    """Find the server block that answers: the one with the name, else the address's default; None: nobody listens."""
    found = match_server(config, name, port, ssl=ssl, address=address)
    if found:
        return found
    reached = _asked(config, port, address, ssl=ssl)
    return reached[0].default if reached else None


def has_name(config: NginxConfig, name: str) -> bool | None:
    """Whether any server block has this name, on whatever port; None where only an expression unknown here might."""
    tables = [listening.names for on_port in config.listening.values() for listening in on_port.values()]
    if any(table.find(name) for table in tables):
        return True
    return None if any(table.undecided(name) for table in tables) else False
