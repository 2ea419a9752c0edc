"""A certificate that visitors are not shown: a reload that did not happen, or another server block that answers."""

from typing import Any

import pytest

from contracts.codes import Code
from workers.core.deciding.unserved import why_unserved
from workers.core.nginx.config import parse_nginx_config

OURS = "ssl_certificate /etc/letsencrypt/live/shop.example/fullchain.pem;"
INSTALLED = (
    f"http {{\nserver {{ listen 80; listen 443 ssl; server_name shop.example www.shop.example; {OURS} }}\n"
)
ELSEWHERE = "server { listen 192.0.2.7:443 ssl; server_name other.example; ssl_certificate /etc/o.pem; }\n"


def why(config: str, *names: str, **known: Any) -> tuple[Code, str] | None:
    known = {"address": "192.0.2.7", "nginx_running": True, "loaded": ()} | known
    return why_unserved(names or ("shop.example",), "shop.example", nginx=parse_nginx_config(config), **known)


def test_configuration_that_nginx_has_not_taken_over_is_a_failed_reload() -> None:
    assert why(INSTALLED + "}") == (
        Code.NGINX_RELOAD_FAILED,
        "The certificate is installed and nginx has it in its configuration for shop.example (line 2), but has not taken it over: its reload failed without a word. Its error log says why.",
    )


def test_block_of_the_very_address_wins_over_one_for_all_addresses() -> None:
    assert why(INSTALLED + ELSEWHERE + "}") == (
        Code.NOT_SERVED,
        "The certificate is on the server, but the server block at line 3 answers for shop.example on port 443, with another certificate.",
    )


def test_nginx_that_stopped_says_so() -> None:
    found = why(INSTALLED + "}", nginx_running=False)
    assert found == (
        Code.NGINX_RELOAD_FAILED,
        "The certificate is installed, but nginx is not running. Start it.",
    )


@pytest.mark.parametrize("running", [True, None])
def test_certificate_that_the_server_itself_shows_is_kept_from_visitors_by_something_in_front(
    running: bool | None,
) -> None:
    assert why(INSTALLED + "}", loaded=("shop.example",), nginx_running=running) is None


def test_block_of_the_address_explains_although_another_address_shows_the_certificate() -> None:
    found = why(INSTALLED + ELSEWHERE + "}", loaded=("shop.example",))
    assert found
    assert found[0] is Code.NOT_SERVED


def test_first_name_that_is_not_loaded_explains() -> None:
    found = why(INSTALLED + "}", "www.shop.example", "shop.example", loaded=("www.shop.example",))
    assert found
    assert "for shop.example" in found[1]


def test_configuration_without_https_explains_nothing() -> None:
    assert why("http { server { listen 80; server_name shop.example; } }") is None
    assert why("") is None
