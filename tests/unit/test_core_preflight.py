"""The preflight as a whole: the checks of the server with their exact sentences, and which failure counts."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.codes import Code
from tests.support.preflight import (
    CLOUDFLARE,
    ELSEWHERE,
    FACTS,
    NOW,
    OWN,
    OWN6,
    SHOP,
    dns,
    failing,
    good,
    probe,
    unsure,
)
from workers.core.model import Authenticator
from workers.core.nginx.config import parse_nginx_config
from workers.core.preflight.judge import CHECKS, Verdict, judge
from workers.core.preflight.observed import (
    DnsStatus,
    NameAnswer,
    Probe,
    ProbeError,
)
from workers.core.preflight.server_facts import Lineage, Part, ServerFacts


def test_where_all_is_well_every_check_passes_and_webroot_is_used() -> None:
    found = judge(good())
    assert [r.check for r in found.results if r.verdict is not Verdict.PASS] == []
    assert len(found.results) == len(CHECKS)
    assert found.blocking is None
    assert (found.authenticator, found.webroots) == (Authenticator.WEBROOT, ("/srv/shop",))
    assert (found.proxied, found.redirect_now) == ((), True)


SERVER_FAILURES: dict[str, tuple[dict[str, Any], Code, str]] = {
    "not root": (
        {"user_id": 1000},
        Code.PERMISSION_DENIED,
        "The script runs as user 1000, not as root. Install the sudo rule of deploy/customer-server, or connect as root.",
    ),
    "no certbot": (
        {"certbot_path": "", "certbot_version": ""},
        Code.CERTBOT_MISSING,
        "certbot is not on the server. Install it: apt-get install certbot python3-certbot-nginx.",
    ),
    "a certbot that crashes": (
        {"certbot_version": "Traceback (most recent call last):"},
        Code.CERTBOT_BROKEN,
        "/usr/bin/certbot crashes when it starts (Traceback (most recent call last):). Reinstall certbot from one source only.",
    ),
    "an old certbot": (
        {"certbot_version": "certbot 0.31.0"},
        Code.CERTBOT_OUTDATED,
        "certbot 0.31.0 at /usr/bin/certbot is too old. Upgrade it to the version of a supported distribution (1.7 or later).",
    ),
    "no plugin": (
        {"certbot_plugins": ()},
        Code.CERTBOT_PLUGIN_MISSING,
        "certbot's nginx plugin is not installed beside certbot. Install python3-certbot-nginx from the same source as certbot.",
    ),
    "no nginx": (
        {"nginx_path": "", "nginx_running": False, "nginx_test_exit": None, "port80_listeners": ()},
        Code.NGINX_MISSING,
        "nginx is not on the server. Install it, or put it on root's PATH.",
    ),
    "a broken configuration": (
        {
            "nginx_test_exit": 1,
            "nginx_test": 'nginx: [warn] x\nnginx: [emerg] unknown directive "x" in /etc/nginx/nginx.conf:3\nnginx: configuration file /etc/nginx/nginx.conf test failed',
        },
        Code.NGINX_CONFIG_BROKEN,
        'nginx refuses its configuration: nginx: [emerg] unknown directive "x" in /etc/nginx/nginx.conf:3. Correct that line and run nginx -t.',
    ),
    "nginx on a full disk": (
        {
            "nginx_test_exit": 1,
            "nginx_test": 'nginx: [emerg] open() "/run/nginx.pid" failed (28: No space left on device)',
        },
        Code.DISK_FULL,
        'nginx cannot test its configuration: nginx: [emerg] open() "/run/nginx.pid" failed (28: No space left on device). Free space there.',
    ),
    "nginx on a read-only disk": (
        {
            "nginx_test_exit": 1,
            "nginx_test": 'nginx: [emerg] open() "/run/nginx.pid" failed (30: Read-only file system)',
        },
        Code.FILESYSTEM_UNUSABLE,
        'nginx cannot test its configuration: nginx: [emerg] open() "/run/nginx.pid" failed (30: Read-only file system). Mount it for writing; look at dmesg.',
    ),
    "a full disk": (
        {"disk_free_kb": {"etc": 50 * 1024, "var": 900_000}},
        Code.DISK_FULL,
        "The server's disk is full: /etc/letsencrypt has 50 MiB free. Free at least 100 MiB there.",
    ),
    "no inode left": (
        {"inode_free": {"etc": 0}},
        Code.DISK_FULL,
        "The server's disk is full: /etc/letsencrypt has 0 inodes free. Free at least 100 MiB there.",
    ),
    "few inodes": (
        {"inode_free": {"var": 3}},
        Code.DISK_FULL,
        "The server's disk is full: /var/lib has 3 inodes free. Free at least 100 MiB there.",
    ),
    "a half-deleted lineage": (
        {"lineages": {"shop.example": Lineage(Part.NO, Part.NO, Part.YES)}},
        Code.LINEAGE_BROKEN,
        (
            "certbot's files for shop.example do not fit together: /etc/letsencrypt/renewal/shop.example.conf is missing, "
            "/etc/letsencrypt/live/shop.example is missing, /etc/letsencrypt/archive/shop.example is there. Restore them, or "
            "take the rest away (certbot delete)."
        ),
    ),
    "a lineage copied without its links": (
        {"lineages": {"shop.example": Lineage(Part.YES, Part.BROKEN, Part.YES)}},
        Code.LINEAGE_BROKEN,
        (
            "certbot's files for shop.example do not fit together: /etc/letsencrypt/renewal/shop.example.conf is there, "
            "/etc/letsencrypt/live/shop.example is not as certbot makes it, /etc/letsencrypt/archive/shop.example is there. "
            "Restore them, or take the rest away (certbot delete)."
        ),
    ),
    "a slow clock": (
        {"epoch_ms": FACTS.epoch_ms and FACTS.epoch_ms - 120_000},
        Code.CLOCK_SKEW,
        "The server's clock is 120 s behind. Turn on time synchronisation (timedatectl set-ntp true).",
    ),
    "a fast clock": (
        {"epoch_ms": FACTS.epoch_ms and FACTS.epoch_ms + 90_000},
        Code.CLOCK_SKEW,
        "The server's clock is 90 s ahead. Turn on time synchronisation (timedatectl set-ntp true).",
    ),
    "a site's file that certbot cannot read": (
        {
            "nginx_config": "# configuration file /etc/nginx/nginx.conf:\nhttp { include sites/*; }\n"
            "# configuration file /etc/nginx/sites/shop:\n# caf\ufffd\nserver { listen 80; server_name shop.example; }\n",
        },
        Code.NGINX_CONFIG_UNREADABLE,
        "certbot cannot read /etc/nginx/sites/shop: it holds characters that are no UTF-8, perhaps in a comment. Save it as UTF-8.",
    ),
    "a main file that certbot cannot read": (
        {
            "nginx_config": "# configuration file /etc/nginx/nginx.conf:\n# caf\ufffd\nhttp { include sites/*; }\n"
            "# configuration file /etc/nginx/sites/shop:\nserver { listen 80; server_name shop.example; }\n",
        },
        Code.NGINX_CONFIG_UNREADABLE,
        "certbot cannot read /etc/nginx/nginx.conf: it holds characters that are no UTF-8, perhaps in a comment. Save it as UTF-8.",
    ),
    "another program on port 80 and nginx stopped": (
        {"port80_listeners": ("apache2",), "nginx_running": False},
        Code.PORT_80_IN_USE,
        "Port 80 of the server is held by apache2, not by nginx. Stop it or move it to another port, then start nginx.",
    ),
}


@pytest.mark.parametrize("case", SERVER_FAILURES)
def test_what_the_servers_admin_has_to_mend_is_told(case: str) -> None:
    changes, code, message = SERVER_FAILURES[case]
    result = failing(good(**changes))
    assert (result.code, result.message, result.names) == (code, message, ())
    blocking = judge(good(**changes)).blocking
    assert blocking
    assert (blocking.code, blocking.message) == (code, message)


def test_a_name_without_a_server_block_is_named() -> None:
    o = good(
        names=("shop.example", "new.shop.example"), dns={"shop.example": dns(), "new.shop.example": dns()}
    )
    result = failing(o)
    assert result.code is Code.NO_MATCHING_VHOST
    assert result.names == ("new.shop.example",)
    assert result.message == (
        "No server block of nginx has the name new.shop.example. "
        "Add it to the server_name of the site's block and reload nginx."
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"nginx_config": "http { server { server_name other.example; } include absent; }"},
        {"nginx_config": "http { server { server_name ~(?<=x)shop; } }"},
        {"nginx_config": ""},
        {"nginx_config": "http { server { server_name other.example; } }" + " " * 4 * 1024 * 1024},
    ],
)
def test_a_server_block_in_what_could_not_be_read_is_unsure(changes: dict[str, Any]) -> None:
    assert unsure(good(**changes)) == ["It could not be told which server block has shop.example."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch_ms": FACTS.epoch_ms and FACTS.epoch_ms - 30_000}, "The server's clock is 30 s behind. Turn on time synchronisation (timedatectl set-ntp true)."),
        ({"epoch_ms": None}, "The server did not tell its time."),
        ({"user_id": None}, "The server did not say as whom its script runs."),
        ({"certbot_version": ""}, "/usr/bin/certbot did not say its version."),
        ({"certbot_plugins": ("unknown",)}, "It could not be told whether certbot has its nginx plugin."),
        ({"certbot_busy": True}, "Another certbot is at work on the server; it is waited for."),
        ({"memory_available_kb": 20_000}, "Only 19 MiB of memory are available; certbot needs about 50."),
        ({"lineages": {}}, "The server did not say what certbot has for the name."),
        ({"port80_listeners": None}, "The server did not say which program listens on port 80."),
    ],
)  # fmt: skip
def test_what_cannot_be_told_never_blocks(changes: dict[str, Any], message: str) -> None:
    assert unsure(good(**changes)) == [message]


def test_a_server_that_says_nothing_blocks_nothing() -> None:
    o = good(facts=ServerFacts(), nginx=parse_nginx_config(""))
    assert judge(o).blocking is None


def test_the_time_that_the_question_took_is_no_skew() -> None:
    slow = good(asked_at=NOW - timedelta(seconds=90), answered_at=NOW + timedelta(seconds=1))
    assert judge(slow).blocking is None


def test_a_program_in_front_of_nginx_is_fine_as_long_as_the_file_comes_through() -> None:
    assert judge(good(port80_listeners=("haproxy",))).blocking is None
    result = [
        r
        for r in judge(good(port80_listeners=("haproxy",), probes=(probe(status=404),))).results
        if r.verdict is Verdict.FAIL
    ]
    assert [r.code for r in result] == [Code.PORT_80_IN_USE, Code.CHALLENGE_FAILED]


PROBES = st.builds(
    probe,
    name=st.sampled_from(["shop.example", "www.shop.example"]),
    address=st.sampled_from([OWN, OWN6, ELSEWHERE, CLOUDFLARE]),
    error=st.one_of(st.none(), st.sampled_from(ProbeError)),
    status=st.sampled_from([200, 301, 404, 522, 526]),
    matches=st.one_of(st.none(), st.booleans()),
    to=st.one_of(st.none(), st.sampled_from(["https://shop.example/", "http://other.example/"])),
)
ANSWERS = st.builds(
    dns,
    a=st.one_of(
        st.sampled_from(DnsStatus), st.lists(st.sampled_from([OWN, ELSEWHERE, CLOUDFLARE]), max_size=2)
    ),
    aaaa=st.one_of(st.sampled_from(DnsStatus), st.lists(st.just(OWN6), max_size=1)),
)


@given(
    st.lists(PROBES, max_size=5),
    st.dictionaries(st.sampled_from(["shop.example", "www.shop.example"]), ANSWERS),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, (), ("nginx",), ("apache2",)]),
)
@settings(max_examples=300, deadline=None)
def test_every_combination_is_judged_and_only_failures_block(
    probes: list[Probe], answers: dict[str, NameAnswer], running: bool | None, listeners: Any
) -> None:
    o = good(
        names=("shop.example", "www.shop.example"), probes=tuple(probes), dns=answers, nginx_running=running,
        port80_listeners=listeners, roots={"shop.example": SHOP, "www.shop.example": SHOP},
    )  # fmt: skip
    found = judge(o)
    failures = [r for r in found.results if r.verdict is Verdict.FAIL]
    assert bool(failures) is (found.blocking is not None)
    assert all(r.code is not None and r.message.endswith(".") for r in failures)
    assert all(r.code is None for r in found.results if r.verdict is not Verdict.FAIL)
    assert set(found.webroots) <= {"/srv/shop"}
    if found.webroots:
        assert {p.name for p in probes if p.matches} == {"shop.example", "www.shop.example"}


def test_another_sites_file_that_certbot_cannot_read_is_no_matter() -> None:
    config = (
        "# configuration file /etc/nginx/nginx.conf:\nhttp { include sites/*; }\n"
        "# configuration file /etc/nginx/sites/other:\n# caf\ufffd\nserver { listen 80; server_name other.example; }\n"
        "# configuration file /etc/nginx/sites/shop:\nserver { listen 80; server_name shop.example; }\n"
    )
    assert judge(good(nginx_config=config)).blocking is None


def test_whole_lineage_is_renewed() -> None:
    whole = Lineage(Part.YES, Part.YES, Part.YES)
    assert judge(good(lineages={"shop.example": whole})).blocking is None
