"""From which directory nginx would serve the challenge file of a name (FACTS-certbot 4.5).

The answer is a good guess, made to be proven: the caller puts a probe file there and fetches it. Where there is no
such directory, certbot's nginx authenticator has to answer instead.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from workers.core.nginx.config import NginxConfig, ServerBlock, answering_server, match_server
from workers.core.nginx.request import (
    Redirect,
    Request,
    Returned,
    Rewritten,
    find_location,
    location_kind,
    rewrite_phase,
    value,
)
from workers.core.nginx.syntax import Directive

CHALLENGE_FOLDER = "/.well-known/acme-challenge/"
_URI = CHALLENGE_FOLDER + "certpilot-probe"
MAX_REDIRECTS = 10
"""As many as Let's Encrypt follows (https://letsencrypt.org/docs/challenge-types/)."""

_HANDLERS = ("proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass", "js_content",
             "content_by_lua", "perl", "stub_status", "empty_gif", "echo")  # fmt: skip
_HOST = re.compile(r"[a-z0-9._-]{1,253}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class RootReason(StrEnum):
    """Why there is, or is not, a directory to put a challenge file into."""

    FOUND = "found"
    NO_SERVER = "no server block listens on port 80"
    NO_HTTPS_SERVER = "it is redirected to https, and no server block listens on port 443"
    PROXIED = "it is handed to another program"
    RETURNED = "it is answered with a fixed status"
    DENIED = "access is denied or needs a login"
    REDIRECTED_AWAY = "it is redirected to somewhere that this server does not serve"
    REDIRECT_LOOP = "it is redirected in a circle"
    REWRITTEN = "its path is rewritten"
    ALIAS = "it is served from an alias whose path does not end like the challenge's"
    NO_ROOT = "no root is set"
    VARIABLE_ROOT = "the root depends on a variable or is a relative path"


@dataclass(frozen=True, slots=True)
class ChallengeRoot:
    """The directory that holds `.well-known/acme-challenge/` for a name.

    Attributes:
        path: the directory, absolute; None where there is none.
        reason: why.
        where: the place in the configuration that decided.
        over_https: whether it is reached through a redirect to port 443.
    """

    path: str | None
    reason: RootReason
    where: str = ""
    over_https: bool = False


def challenge_root(config: NginxConfig, name: str, *, address: str | None = None) -> ChallengeRoot:
    """Follow a request for a challenge of this name on port 80 to the directory it is served from.

    Args:
        config: the configuration.
        name: a host name, lower-case.
        address: the server's own address that the request reaches; None where it is not known.

    Returns:
        The directory or the reason why there is none. Redirects are followed as Let's Encrypt follows them, as long
        as they lead to names of this same server: after certbot's redirect it is the 443 block that answers.
    """
    request = Request("http", name, _URI)
    seen: set[tuple[str, str, str]] = set()
    where = ""
    while (request.scheme, request.host, request.uri) not in seen and len(seen) <= MAX_REDIRECTS:
        seen.add((request.scheme, request.host, request.uri))
        https = request.scheme == "https"
        server = answering_server(
            config, request.host, _DEFAULT_PORTS[request.scheme], ssl=https, address=address
        )
        if server is None:
            return ChallengeRoot(None, RootReason.NO_HTTPS_SERVER if https else RootReason.NO_SERVER, where)
        answer = _answer(config, server, request)
        if isinstance(answer, ChallengeRoot):
            return ChallengeRoot(answer.path, answer.reason, answer.where, over_https=https)
        where = answer.directive.where
        followed = _follow(config, answer.url, name, address)
        if followed is None:
            return ChallengeRoot(None, RootReason.REDIRECTED_AWAY, where)
        request = followed
    return ChallengeRoot(None, RootReason.REDIRECT_LOOP, where)


def _follow(config: NginxConfig, url: str | None, name: str, address: str | None) -> Request | None:
    """The request after a redirect, or None where it leaves this server."""
    try:
        parts = urlsplit(url or "")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    host = parts.hostname or ""
    if port is None or port != _DEFAULT_PORTS.get(parts.scheme) or not _HOST.fullmatch(host):
        return None
    # Another name has to be one of this server's: a default server says nothing about names that live elsewhere.
    if host != name and not match_server(config, host, port, ssl=parts.scheme == "https", address=address):
        return None
    return Request(parts.scheme, host, parts.path or "/")


def _answer(config: NginxConfig, server: ServerBlock, request: Request) -> Redirect | ChallengeRoot:
    request = Request(request.scheme, request.host, request.uri, next(iter(server.server_names), ""))
    outcome, request = rewrite_phase(server.directives, request)
    if outcome is not None:
        return _ended(outcome)
    locations = find_location(server.directives, request.uri)
    if locations:
        outcome, request = rewrite_phase(locations[-1].block or (), request)
        if outcome is not None:
            return _ended(outcome)
    levels = [config.http, server.directives, *(d.block or () for d in locations)]
    return _not_a_file(levels[-1]) or _refusal(levels) or _directory(levels, locations, request, server)


def _ended(outcome: Redirect | Returned | Rewritten) -> Redirect | ChallengeRoot:
    if isinstance(outcome, Redirect):
        return outcome
    reason = RootReason.RETURNED if isinstance(outcome, Returned) else RootReason.REWRITTEN
    return ChallengeRoot(None, reason, outcome.directive.where)


def _not_a_file(last: Sequence[Directive]) -> ChallengeRoot | None:
    """Why the innermost level looks for no file, or None."""
    for directive in last:
        if directive.name.startswith(_HANDLERS):
            return ChallengeRoot(None, RootReason.PROXIED, directive.where)
        if directive.name == "try_files" and not any(
            "$uri" in a or "$request_" in a for a in directive.args[:-1]
        ):
            return ChallengeRoot(None, RootReason.PROXIED, directive.where)
        if directive.name == "internal":
            return ChallengeRoot(None, RootReason.DENIED, directive.where)
    return None


def _refusal(levels: Sequence[Sequence[Directive]]) -> ChallengeRoot | None:
    """Why the CA is not let in, or None. Rules about single addresses are passed over: the CA comes from anywhere."""
    everybody = [d for d in _inherited(levels, ("allow", "deny")) if d.args == ("all",)]
    refused = [d for d in everybody[:1] if d.name == "deny"]
    for login in ("auth_basic", "auth_request"):
        refused += [d for d in _inherited(levels, (login,)) if d.args[:1] != ("off",)]
    return ChallengeRoot(None, RootReason.DENIED, refused[0].where) if refused else None


def _inherited(levels: Sequence[Sequence[Directive]], names: tuple[str, ...]) -> list[Directive]:
    """The directives of these names on the innermost level that has any: nginx inherits all or nothing."""
    for level in reversed(levels):
        found = [d for d in level if d.name in names]
        if found:
            return found
    return []


def _directory(
    levels: Sequence[Sequence[Directive]],
    locations: Sequence[Directive],
    request: Request,
    server: ServerBlock,
) -> ChallengeRoot:
    prefixes = ["", "", *(_prefix(d) for d in locations)]
    for level, prefix in zip(reversed(levels), reversed(prefixes), strict=True):
        for directive in reversed(level):
            if directive.name not in {"root", "alias"} or not directive.args:
                continue
            path = value(directive.args[0], request)
            if path is None or not path.startswith("/"):
                return ChallengeRoot(None, RootReason.VARIABLE_ROOT, directive.where)
            return _holding(path, prefix, request.uri, directive)
    return ChallengeRoot(None, RootReason.NO_ROOT, server.where)


def _prefix(location: Directive) -> str:
    kind, text = location_kind(location)
    return text if kind in {"", "^~"} else ""


def _holding(path: str, prefix: str, uri: str, directive: Directive) -> ChallengeRoot:
    """The directory from which the file is read; certbot can write there only if the path ends like the challenge's."""
    if directive.name == "root":
        file, unusable = path.rstrip("/") + uri, RootReason.REWRITTEN
    else:  # an alias takes the place of its location's prefix
        file, unusable = path + uri[len(prefix) :] if prefix else "", RootReason.ALIAS
    if not file.endswith(_URI):
        return ChallengeRoot(None, unusable, directive.where)
    return ChallengeRoot(file.removesuffix(_URI) or "/", RootReason.FOUND, directive.where)
