"""Recognising Cloudflare in front of a site, by its published addresses and by its response headers.

The ranges are data with a date (workers/core/data/cloudflare.json). They change rarely; an old list makes a name look
unproxied, which the headers then put right.
"""

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ORIGIN_DOWN = frozenset({520, 521, 522, 523, 524, 530})
"""Cloudflare could not get an answer from the server behind it (530 holds a 1xxx error, mostly an unknown origin).
https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/"""

BAD_ORIGIN_CERTIFICATE = frozenset({525, 526})
"""Cloudflare speaks HTTPS to the server: the handshake failed (525), or the certificate is not valid (526)."""


@dataclass(frozen=True, slots=True)
class CloudflareRanges:
    """The published ranges.

    Attributes:
        as_of: the day they were published like this.
        networks: IPv4 and IPv6.
    """

    as_of: date
    networks: tuple[Network, ...]


@cache
def cloudflare_ranges() -> CloudflareRanges:
    """Read the ranges that come with the program, once."""
    data = json.loads(resources.files("workers.core").joinpath("data/cloudflare.json").read_text("utf-8"))
    return CloudflareRanges(
        date.fromisoformat(data["as_of"]), tuple(map(ipaddress.ip_network, data["ranges"]))
    )


def is_cloudflare(address: str) -> bool:
    """Whether an address belongs to Cloudflare's proxies; False for what is no address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in cloudflare_ranges().networks)


def served_by_cloudflare(headers: Mapping[str, str]) -> bool:
    """Whether a response came through Cloudflare.

    Args:
        headers: lower-case names.
    """
    return headers.get("server", "").strip().lower() == "cloudflare" or "cf-ray" in headers
