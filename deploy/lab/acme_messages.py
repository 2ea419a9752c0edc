"""What passes between ACME clients and the lab's CA: requests as the proxy sees them, answers that it gives itself."""

import base64
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from deploy.lab.ca_limits import Refusal

# Pebble's paths (wfe/wfe.go), by what they are in RFC 8555.
ENDPOINTS = {
    "/dir": "directory",
    "/nonce-plz": "new-nonce",
    "/sign-me-up": "new-account",
    "/my-account/": "account",
    "/order-plz": "new-order",
    "/my-order/": "order",
    "/finalize-order/": "finalize",
    "/authZ/": "authorization",
    "/chalZ/": "challenge",
    "/certZ/": "certificate",
    "/revoke-cert": "revoke",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the proxy answers by itself.

    Attributes:
        status: HTTP status.
        body: bytes of the body.
        headers: besides length and nonce.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def problem(cls, status: int, kind: str, detail: str, retry_after_seconds: int | None = None) -> Self:
        """Give an ACME problem document (RFC 8555 section 6.7); `kind` without its URN."""
        document = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status}
        headers = {"Content-Type": "application/problem+json"}
        if retry_after_seconds is not None:
            headers["Retry-After"] = str(retry_after_seconds)
            if kind == "rateLimited":
                headers["Link"] = '<https://letsencrypt.org/docs/rate-limits>;rel="help"'
        return cls(status, json.dumps(document, indent=2).encode(), headers)

    @classmethod
    def service_busy(cls, retry_after_seconds: int = 30) -> Self:
        """Give what Let's Encrypt's load balancer says when there is too much to do: a 503 of type rateLimited."""
        return cls.problem(503, "rateLimited", "Service busy; retry later.", retry_after_seconds)

    @classmethod
    def server_internal(cls) -> Self:
        """Give boulder's answer when one of its own parts fails."""
        return cls.problem(500, "serverInternal", "Internal error", 60)

    @classmethod
    def refusal(cls, refusal: Refusal) -> Self:
        """Give boulder's answer to an order over a limit."""
        return cls.problem(429, "rateLimited", refusal.detail, refusal.retry_after_seconds)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that reached the CA.

    Attributes:
        at: seconds since 1970 by the CA's clock, which a test may have moved.
        endpoint: a value of ENDPOINTS, else the path.
        client: address of the sender.
        account: its account URL; empty where the request names none.
        names: the identifiers of the order or authorization concerned, sorted.
        status: of the answer.
        refused: True where the proxy answered by itself.
        detail: of the problem document, where the answer was one.
    """

    at: float
    endpoint: str
    client: str
    account: str = ""
    names: tuple[str, ...] = ()
    status: int = 0
    refused: bool = False
    detail: str = ""


def endpoint_of(path: str) -> str:
    """Give what a path of Pebble is for: a value of ENDPOINTS, or the path itself."""
    for prefix, endpoint in ENDPOINTS.items():
        if path == prefix or (prefix.endswith("/") and path.startswith(prefix)):
            return endpoint
    return path


def path_of(url: str) -> str:
    """Give the path of a URL, or a path as it is."""
    return "/" + url.partition("://")[2].partition("/")[2] if "://" in url else url


def read_jws(body: bytes) -> tuple[str, dict[str, Any]]:
    """Give the account URL and the payload of a signed request (RFC 8555 section 6.2), unverified."""
    outer = read_object(body)
    protected, payload = (
        read_object(_base64url(str(outer.get(key, "")))) for key in ("protected", "payload")
    )
    return str(protected.get("kid", "")), payload


def _base64url(text: str) -> bytes:
    with contextlib.suppress(ValueError):
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return b""


def read_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is none."""
    with contextlib.suppress(ValueError):
        document = json.loads(body)
        if isinstance(document, dict):
            return document
    return {}
