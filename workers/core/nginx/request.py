"""How one request moves through nginx's rewrite rules and locations, as far as a configuration alone can tell.

Covers what decides whether a challenge file is served: `return`, `rewrite`, `if`, `set`, the choice of a location
(`ngx_http_core_find_location`). A condition that depends on the visitor counts as false: the probe file decides
afterwards.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from workers.core.nginx.regex import search
from workers.core.nginx.syntax import Directive

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_REDIRECTS = frozenset({"301", "302", "303", "307", "308"})
_URL_START = ("http://", "https://", "$scheme")
_TEST = re.compile(r"!?-[fdex]")
_EMPTY_VARIABLES = ("args", "query_string", "is_args", "arg_", "cookie_", "http_x_forwarded_")
"""The CA sends no query, no cookie and comes through no proxy of its own."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET of the CA.

    Attributes:
        scheme: `http` or `https`.
        host: the Host header, lower-case.
        uri: the path.
        server_name: the first name of the block that answers.
        variables: what `set` has given so far; None for a value that cannot be told.
    """

    scheme: str
    host: str
    uri: str
    server_name: str = ""
    variables: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Redirect:
    """The answer is a redirect; `url` is None where its target cannot be told."""

    url: str | None
    directive: Directive


@dataclass(frozen=True, slots=True)
class Returned:
    """The answer is a fixed status."""

    status: str
    directive: Directive


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The path was changed inside nginx; `uri` is None where it cannot be told."""

    uri: str | None
    directive: Directive


Outcome = Redirect | Returned | Rewritten | None


def value(text: str, request: Request, captured: str | None = None) -> str | None:
    """Replace the variables in a text; None where one cannot be told from the configuration."""
    known: list[str | None] = []

    def look_up(match: re.Match[str]) -> str:
        found = _variable(match[1] or match[2], request, captured)
        known.append(found)
        return found or ""

    result = _VARIABLE.sub(look_up, text)
    return None if None in known else result


def _variable(name: str, request: Request, captured: str | None) -> str | None:
    known: dict[str, str | None] = {
        "host": request.host,
        "http_host": request.host,
        "server_name": request.server_name,
        "scheme": request.scheme,
        "https": "on" if request.scheme == "https" else "",
        "server_port": "443" if request.scheme == "https" else "80",
        "request_uri": request.uri,
        "uri": request.uri,
        "document_uri": request.uri,
        "request_method": "GET",
        "1": captured,
    }
    if name in request.variables:
        return request.variables[name]
    if name in known:
        return known[name]
    return "" if name.startswith(_EMPTY_VARIABLES) else None


def rewrite_phase(directives: Sequence[Directive], request: Request) -> tuple[Outcome, Request]:
    """Run the directives of the rewrite module in one block, in their order.

    Args:
        directives: those of a server block or of a location; others among them are passed over.
        request: the request.

    Returns:
        What ended the phase (None: nothing did, the request goes on as it was), and the request with its variables.
    """
    outcome: Outcome = None
    stop = False
    for directive in directives:
        if directive.name == "if" and directive.block is not None:
            if _holds(directive.args, request):
                outcome, request = rewrite_phase(directive.block, request)
                stop = any(d.name == "break" for d in directive.block)
        elif directive.name == "set" and len(directive.args) == 2:  # noqa: PLR2004 - name and value
            name = directive.args[0].removeprefix("$")
            request = replace(
                request, variables={**request.variables, name: value(directive.args[1], request)}
            )
        elif directive.name == "return":
            outcome = _return(directive, request)
        elif directive.name == "rewrite":
            outcome = _rewrite(directive, request)
        elif directive.name == "break":
            stop = True
        if isinstance(outcome, Rewritten) and outcome.uri == request.uri:
            stop, outcome = stop or directive.args[-1] in {"break", "last"}, None
        if outcome is not None or stop:
            break
    return outcome, request


def _return(directive: Directive, request: Request) -> Outcome:
    args = directive.args
    if not args:
        return None
    if len(args) == 1 and args[0].startswith(_URL_START):
        return Redirect(value(args[0], request), directive)
    if args[0] in _REDIRECTS and len(args) > 1:
        return Redirect(_absolute(value(args[1], request), request), directive)
    return Returned(args[0], directive)


def _rewrite(directive: Directive, request: Request) -> Outcome:
    if len(directive.args) < 2 or not search(directive.args[0], request.uri):  # noqa: PLR2004 - expression and text
        return None
    pattern, text, *flags = directive.args
    new = value(text.removesuffix("?"), request, _first_capture(pattern, request.uri))
    if text.startswith(_URL_START) or flags[:1] in (["permanent"], ["redirect"]):
        return Redirect(_absolute(new, request), directive)
    return Rewritten(new, directive)


def _absolute(url: str | None, request: Request) -> str | None:
    return f"{request.scheme}://{request.host}{url}" if url and url.startswith("/") else url


def _first_capture(pattern: str, uri: str) -> str | None:
    """The text of `$1` for the expressions that people write: one group around all, or around all behind the slash."""
    inner = pattern.removeprefix("^").removesuffix("$")
    if not (inner.endswith((".*)", ".+)")) and inner.count("(") == 1):
        return None
    if inner.startswith("("):
        return uri
    return uri[1:] if inner.startswith("/(") else None


def _holds(args: Sequence[str], request: Request) -> bool:
    """Whether an `if` is true; what cannot be told is taken as false."""
    if len(args) == 0:
        return False
    words = list(args)
    words[0] = words[0].removeprefix("(")
    words[-1] = words[-1].removesuffix(")")
    words = words[args[0] == "(" : len(words) - (args[-1] == ")")]
    if len(words) == 2 and _TEST.fullmatch(words[0]):  # noqa: PLR2004 - test and path
        return _file_test(words[0], words[1])
    left = value(words[0], request) if words and words[0].startswith("$") else None
    if left is None:
        return False
    if len(words) == 1:
        return left not in {"", "0"}
    return len(words) == 3 and _compare(left, words[1], words[2], request)  # noqa: PLR2004 - left, operator, right


def _compare(left: str, operator: str, right: str, request: Request) -> bool:
    if operator in {"=", "!="}:
        wanted = value(right, request)
        return wanted is not None and (left == wanted) is (operator == "=")
    if operator.lstrip("!") in {"~", "~*"}:
        found = search(right, left, ignore_case=operator.endswith("*"))
        return found is not None and found is not operator.startswith("!")
    return False


def _file_test(test: str, path: str) -> bool:
    """Whether a test of the requested file is true, once the challenge's file is there; of other files: false."""
    if "$request_filename" not in path and not path.endswith(("$uri", "$request_uri")):
        return False
    exists = test[-1] in "fe"
    return not exists if test.startswith("!") else exists


def find_location(directives: Sequence[Directive], uri: str) -> tuple[Directive, ...]:
    """Choose the location that answers a path, by nginx's rules.

    Args:
        directives: those of a server block.
        uri: the path.

    Returns:
        The chosen location with those around it, outermost first; empty where none fits.
    """
    return _find(directives, uri)[0]


def _find(directives: Sequence[Directive], uri: str) -> tuple[tuple[Directive, ...], bool]:
    """As nginx does it: the longest prefix, then inside it, then the expressions beside it; True: settled, stop there."""
    locations = [
        (*location_kind(d), d) for d in directives if d.name == "location" and d.block is not None and d.args
    ]
    for kind, text, location in locations:
        if kind == "=" and text == uri:
            return (location,), True
    prefixes = [entry for entry in locations if entry[0] in {"", "^~"} and uri.startswith(entry[1])]
    chosen: tuple[Directive, ...] = ()
    stronger = False
    if prefixes:
        kind, _, location = max(prefixes, key=lambda entry: len(entry[1]))
        inner, settled = _find(location.block or (), uri)
        chosen, stronger = (location, *inner), kind == "^~"
        if settled:
            return chosen, True
    for kind, text, location in locations if not stronger else ():
        if kind in {"~", "~*"} and search(text, uri, ignore_case=kind == "~*"):
            return (location, *_find(location.block or (), uri)[0]), True
    return chosen, False


def location_kind(directive: Directive) -> tuple[str, str]:
    """The modifier of a location (empty for a plain prefix) and its text; `location ~/x` means `location ~ /x`."""
    if len(directive.args) > 1:
        return directive.args[0], directive.args[1]
    text = directive.args[0]
    kind = next((k for k in ("~*", "^~", "=", "~", "@") if text.startswith(k)), "")
    return kind, text.removeprefix(kind)
