"""`certpilot issue` and `renew`: what is read from the command line, and what is refused before anything is sent."""

from typing import Any

import pytest

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from workers.cli.arguments import split_server
from workers.cli.main import main

ISSUE = ("issue", "--site", "site_1", "--domain", "shop.example.com", "--server", "203.0.113.7")
RENEW = ("renew", "--site", "site_1")


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ("203.0.113.7", ("root", "203.0.113.7", 22)),
        ("deploy@203.0.113.7:2222", ("deploy", "203.0.113.7", 2222)),
        ("host.example.com:22", ("root", "host.example.com", 22)),
        ("deploy@2001:db8::1", ("deploy", "2001:db8::1", 22)),
        ("[2001:db8::1]", ("root", "2001:db8::1", 22)),
        ("deploy@[2001:db8::1]:2222", ("deploy", "2001:db8::1", 2222)),
        ("host:", ("root", "host", "")),
        ("host:ssh", ("root", "host", "ssh")),
        ("host:99999999", ("root", "host", "99999999")),
        ("[2001:db8::1]22", ("root", "[2001:db8::1]22", 22)),
        ("@host", ("", "host", 22)),
        ("a@b@host", ("a@b", "host", 22)),
    ],
)
def test_server_is_split_and_judged_by_the_reader_of_the_command(raw: str, parts: tuple[Any, ...]) -> None:
    assert split_server(raw) == parts


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((*ISSUE, "--site", "no spaces"), Code.INVALID_REQUEST, "data.siteId must be "),
        ((*ISSUE, "--domain", " "), Code.NO_DOMAIN, "Site site_1 has no domain."),
        (
            (*ISSUE, "--domain", "192.0.2.1"),
            Code.INVALID_DOMAIN,
            'The domain "192.0.2.1" is or looks like an IP',
        ),
        (
            (*ISSUE, "--alias", "*.example.com"),
            Code.WILDCARD_NEEDS_DNS,
            'The alias "*.example.com" is a wildcard',
        ),
        ((*ISSUE, "--alias", ""), Code.INVALID_DOMAIN, 'The alias "" is blank'),
        (
            (*ISSUE, "--server", "host:ssh"),
            Code.INVALID_REQUEST,
            "data.server.port must be a whole number from 1",
        ),
        ((*ISSUE, "--server", "Root@host"), Code.INVALID_REQUEST, "data.server.username must be "),
        ((*ISSUE, "--server", "a b"), Code.INVALID_REQUEST, "data.server.host must be "),
        ((*ISSUE, "--host-key", "ssh-dss AAAA"), Code.INVALID_REQUEST, "data.server.hostKey must be "),
        (
            (*ISSUE, "--public-address", "here"),
            Code.INVALID_REQUEST,
            "data.server.publicAddresses[0] must be ",
        ),
        ((*ISSUE, "--requested-by", "x" * 257), Code.INVALID_REQUEST, "data.requestedBy must be "),
        (
            (*RENEW, "--domain", "a_b.example.com"),
            Code.INVALID_DOMAIN,
            'The domain "a_b.example.com" has an under',
        ),
    ],
)
def test_what_the_service_would_reject_is_refused_in_its_words(
    args: tuple[str, ...], code: Code, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No broker is set up here: nothing was sent."""
    assert main(args) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{args[0]}: {message}")
    assert printed.err.rstrip("\n").endswith(CATALOGUE[code].fix)


@pytest.mark.parametrize(
    "args",
    [
        ("issue", "--site", "site_1", "--domain", "shop.example.com"),
        ("issue", "--site", "site_1", "--server", "203.0.113.7"),
        ("renew",),
        (*RENEW, "--timeout", "0", "--wait"),
        (*RENEW, "--timeout", "soon", "--wait"),
        (*RENEW, "--alias", b"\xff".decode(errors="surrogateescape")),
        (*ISSUE, "--force"),
    ],
)
def test_wrong_options_are_usage_errors(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "args", [(*RENEW, "--timeout", "5"), (*RENEW, "--host-key", "x"), (*RENEW, "--public-address", "x")]
)
def test_options_that_mean_nothing_alone_are_usage_errors(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert capsys.readouterr().err.startswith("renew: --")
