"""Why an overdue certificate was not renewed by its server: from the schedule and from certbot's log of its last try."""

import pytest

from contracts.codes import Code
from workers.core.lifetime.overdue import why_overdue
from workers.core.model import Problem
from workers.core.nginx.config import parse_nginx_config
from workers.core.preflight.model import Observations
from workers.core.preflight.server_facts import ServerFacts

HAS_NOT = "The server should have renewed the certificate by now, and has not."
FAILED = f"{HAS_NOT} Its last try failed"
CRON = "/etc/cron.d/certbot:0 3 * * * root certbot renew -q"
LAST_RUN_FAILED = "Id=certbot.service\nResult=exit-code\nExecMainStatus=1\n"
AT = "2026-11-25 10:02:52,205"
BEGIN = f"{AT}:DEBUG:certbot._internal.display.obj:Notifying user: Processing /etc/letsencrypt/renewal/a.example.conf"
TRACEBACK = f"{AT}:DEBUG:certbot._internal.renewal:Traceback was:\nTraceback (most recent call last):"
ERROR = f"{AT}:ERROR:certbot._internal.renewal:"
CHALLENGE = f"""{BEGIN}
{{placed}}
{AT}:DEBUG:certbot._internal.display.obj:Notifying user:
Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
  Domain: a.example
  Type:   {{type}}
  Detail: {{detail}}

{ERROR}Failed to renew certificate a.example with error: Some challenges have failed.
{TRACEBACK}
certbot.errors.AuthorizationError: Some challenges have failed.
"""
NOT_FOUND = "192.0.2.7: Invalid response from http://a.example/.well-known/acme-challenge/xyz: 404"


def placed(*folders: str) -> str:
    says = f"{AT}:DEBUG:certbot._internal.plugins.webroot:Attempting to save validation to"
    return "\n".join(f"{says} {folder}/.well-known/acme-challenge/xyz" for folder in folders)


def challenge(kind: str, detail: str, *folders: str) -> str:
    return CHALLENGE.format(placed=placed(*folders), type=kind, detail=detail)


def because(log: str, *, timers: str = CRON) -> Problem:
    facts = ServerFacts(timers=timers, systemd=False, failed_renewal=log)
    return why_overdue(Observations(names=(), facts=facts, nginx=parse_nginx_config(""), dns={}))


@pytest.mark.parametrize(
    ("log", "says"),
    [
        pytest.param(
            challenge("unauthorized", NOT_FOUND, "/srv/old"),
            ": The site answered the CA's check with something else: a.example. certbot put the file for the check into"
            f' /srv/old. Its log says: "{NOT_FOUND}".',
            id="a path that is no longer served",
        ),
        pytest.param(
            challenge("unauthorized", NOT_FOUND, "/srv/a", "/srv/b", "/srv/a", "/srv/c", "/srv/d"),
            ": The site answered the CA's check with something else: a.example. certbot put the file for the check into"
            f' /srv/a, /srv/b, /srv/c and others. Its log says: "{NOT_FOUND}".',
            id="several paths",
        ),
        pytest.param(
            f"{BEGIN}\n{ERROR}Failed to renew certificate a.example with error: The requested dns-cloudflare plugin does not"
            f" appear to be installed\n{TRACEBACK}\ncertbot.errors.PluginSelectionError: The requested dns-cloudflare plugin"
            " does not appear to be installed\n",
            ': its renewal file names a plugin that certbot there does not have. Its log says: "The requested'
            ' dns-cloudflare plugin does not appear to be installed".',
            id="an authenticator that is gone",
        ),
        pytest.param(
            f"{BEGIN}\n{ERROR}Renewal configuration file /etc/letsencrypt/renewal/a.example.conf is broken.\n{ERROR}The error"
            f" was: expected /nowhere/x to be a symlink\nSkipping.\n{TRACEBACK}\ncertbot.errors.CertStorageError: expected"
            " /nowhere/x to be a symlink\n",
            ": certbot's own files for this certificate are damaged: a.example. Its log says: \"expected /nowhere/x to be a"
            ' symlink".',
            id="a renewal file that is damaged",
        ),
        pytest.param(
            challenge(
                "connection", "192.0.2.7: Fetching http://a.example/.well-known/acme-challenge/xyz: Timeout during connect (likely firewall problem)",
                "/srv/a",
            ),
            ': Port 80 of the site cannot be reached from the internet: a.example. Its log says: "192.0.2.7: Fetching'
            ' http://a.example/.well-known/acme-challenge/xyz: Timeout during connect (likely firewall problem)".',
            id="a closed port: the folder is not why",
        ),
        pytest.param(
            f"{BEGIN}\n{ERROR}Failed to renew certificate a.example with error: [Errno 28] No space left on device\n"
            f"{TRACEBACK}\nOSError: [Errno 28] No space left on device\n",
            ": The server's disk is full. Its log says: \"OSError: [Errno 28] No space left on device\".",
            id="a full disk",
        ),
        pytest.param(
            f"{BEGIN}\n{ERROR}Failed to renew certificate a.example with error: Invalid key_type specified: bogus.\n"
            f"{TRACEBACK}\ncertbot.errors.Error: Invalid key_type specified: bogus.\n",
            '. Its log says: "Invalid key_type specified: bogus".',
            id="what the reader does not know",
        ),
    ],
)  # fmt: skip
def test_last_try_tells_why(log: str, says: str) -> None:
    problem = because(log)
    assert (problem.code, problem.message) == (Code.AUTO_RENEW_FAILING, f"{FAILED}{says}")
    assert problem.evidence


@pytest.mark.parametrize("log", ["", "\n"])
def test_without_a_failed_try_the_schedule_is_told(log: str) -> None:
    assert because(log) == Problem(
        Code.AUTO_RENEW_FAILING, f"{HAS_NOT} A cron job renews (/etc/cron.d/certbot)."
    )


def test_last_try_says_more_than_the_exit_code_of_the_unit() -> None:
    full = f"{BEGIN}\n{ERROR}Failed to renew certificate a.example with error: [Errno 28] No space left on device\n"
    assert because("", timers=LAST_RUN_FAILED).message.startswith("The last run of certbot.service failed")
    assert because(full, timers=LAST_RUN_FAILED).message.startswith(f"{FAILED}: The server's disk is full.")


def test_where_nothing_renews_an_old_failure_is_not_why() -> None:
    problem = because(challenge("unauthorized", NOT_FOUND, "/srv/old"), timers="")
    assert problem.code is Code.AUTO_RENEW_MISSING
    assert problem.message.startswith("Nothing on the server renews its certificates")


def test_words_of_a_log_are_bounded() -> None:
    log = f"{BEGIN}\n{ERROR}Failed to renew certificate a.example with error: {'x' * 5000}\n"
    assert len(because(log).message) < 500
