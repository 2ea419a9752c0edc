"""What a CA says of itself in its ACME directory (RFC 8555 section 7.1.1): by which names CAA records call it."""

import http.client
import json
import ssl
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FETCH_SECONDS = 2.0
_MOST_BYTES = 64 * 1024
_MOST_NAMES = 20


def fetch_caa_identities(
    directory_url: str, *, ca_file: Path | None, timeout_seconds: float = FETCH_SECONDS
) -> tuple[str, ...] | None:
    """Read `meta.caaIdentities` of a directory.

    Args:
        directory_url: `https://…` or `http://…`.
        ca_file: roots to trust beside the system's, PEM.
        timeout_seconds: how long the whole may take.

    Returns:
        The names, lower-case; None where the CA cannot be asked from here or does not say.
    """
    deadline = time.monotonic() + timeout_seconds
    try:
        document = json.loads(_get(directory_url, ca_file, deadline))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    names = _identities(document)
    return tuple(name.strip().lower() for name in names[:_MOST_NAMES]) or None


def _identities(document: Any) -> list[str]:
    meta = document.get("meta") if isinstance(document, dict) else None
    found = meta.get("caaIdentities") if isinstance(meta, dict) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _get(url: str, ca_file: Path | None, deadline: float) -> bytes:
    parts = urlsplit(url)
    host, left = parts.hostname or "", deadline - time.monotonic()
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=left, context=_context(ca_file))
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=left)
    )
    with closing(connection):
        connection.request("GET", f"{parts.path or '/'}", headers={"User-Agent": "certpilot"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            return b""
        body = b""
        # A peer that sends a byte a second would hold a single read, however short its timeout.
        while len(body) < _MOST_BYTES and time.monotonic() < deadline:
            chunk = response.read1(_MOST_BYTES - len(body))
            if not chunk:
                return body
            body += chunk
    return b""


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # private CAs have roots without keyUsage
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context
