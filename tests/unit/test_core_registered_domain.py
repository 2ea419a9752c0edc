"""Registered domains as boulder's ratelimits/utilities.go reckons them."""

import subprocess
import sys

import pytest

from workers.core.limits.registered_domain import registered_domain, registered_domains


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", "example.com"),
        ("a.b.c.example.com", "example.com"),
        ("new.blog.example.co.uk", "example.co.uk"),  # letsencrypt.org/docs/rate-limits
        ("foo.github.io", "foo.github.io"),  # private section
        ("a.foo.github.io", "foo.github.io"),
        ("github.io", "github.io"),  # a suffix stands for itself
        ("co.uk", "co.uk"),
        ("x.city.kobe.jp", "city.kobe.jp"),  # exception rule
        ("a.b.kobe.jp", "a.b.kobe.jp"),  # wildcard rule
        ("shop.site.test", "site.test"),  # an unlisted top-level domain is a suffix
        ("www.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),  # A-labels
    ],
)
def test_registered_domain(name: str, expected: str) -> None:
    assert registered_domain(name) == expected


def test_names_of_one_registered_domain_spend_it_once() -> None:
    names = ("www.example.com", "example.com", "shop.example.org", "a.github.io")
    assert registered_domains(names) == ("a.github.io", "example.com", "example.org")


def test_the_list_is_not_read_at_import() -> None:
    """`certpilot --help` must not pay for it."""
    code = (
        "import workers.core.limits.registered_domain as r; assert r._list.cache_info().currsize == 0;"
        " r.registered_domain('a.example.com'); assert r._list.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
