"""Cloudflare's addresses and headers."""

import pytest

from workers.core.preflight.cloudflare import cloudflare_ranges, is_cloudflare, served_by_cloudflare


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("104.16.0.1", True),
        ("104.15.255.255", False),
        ("172.71.255.255", True),
        ("172.72.0.0", False),
        ("131.0.75.255", True),
        ("2606:4700:3037::6815:eb8", True),
        ("2606:4701::1", False),
        ("2a06:98c7:ffff::1", True),
        ("192.0.2.7", False),
        ("", False),
        ("shop.example", False),
        ("fe80::1%eth0", False),
    ],
)
def test_an_address_is_cloudflares_by_the_published_ranges(address: str, expected: bool) -> None:
    assert is_cloudflare(address) is expected


def test_the_ranges_have_a_date_and_both_families() -> None:
    ranges = cloudflare_ranges()
    assert ranges.as_of.year >= 2026
    assert {network.version for network in ranges.networks} == {4, 6}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [({"server": "cloudflare"}, True), ({"server": "Cloudflare "}, True), ({"cf-ray": "8a1-FRA"}, True), ({"server": "nginx"}, False), ({}, False)],
)  # fmt: skip
def test_a_response_through_cloudflare_is_known_by_its_headers(
    headers: dict[str, str], expected: bool
) -> None:
    assert served_by_cloudflare(headers) is expected
