"""What must hold for every text: the same answer in any wrapping, or an honestly less sure one; never success."""

import json
import textwrap
from collections.abc import Callable

import pytest

from contracts.codes import Code
from tests.unit.reading_cases import Case, answer, cases

LESS_SURE = {
    Code.NO_MATCHING_VHOST: {Code.INSTALL_FAILED},
    Code.NGINX_CONFIG_UNREADABLE: {Code.NO_MATCHING_VHOST, Code.INSTALL_FAILED, Code.CERTBOT_BROKEN},
    Code.NGINX_RELOAD_FAILED: {Code.INSTALL_FAILED, Code.NGINX_CONFIG_BROKEN},
    Code.NGINX_CONFIG_BROKEN: {Code.NGINX_RELOAD_FAILED},
    Code.PORT_80_IN_USE: {Code.NGINX_RELOAD_FAILED},
    Code.CLOUDFLARE_FLEXIBLE_LOOP: {Code.REDIRECT_LOOP},
}
"""What a part of the text still shows when the part that says why is gone: the step that failed, without the cause."""

AT_CHALLENGE = {
    code.value
    for code in (
        Code.DNS_NOT_RESOLVING,
        Code.PORT_80_BLOCKED,
        Code.PORT_443_BLOCKED,
        Code.GEO_BLOCKED,
        Code.CAA_FORBIDS,
        Code.CLOUDFLARE_FLEXIBLE_LOOP,
        Code.CLOUDFLARE_ORIGIN_DOWN,
        Code.CLOUDFLARE_STRICT_ORIGIN,
        Code.CA_UNAVAILABLE,
        Code.CERTBOT_OUTDATED,
    )
}
SUSPECT_CUTS = {
    "nginx-missing-cert-after-rate-limit": "without the refusal above it, nginx's missing file is all there is",
    "nginx-missing-cert-before-rate-limit": "likewise",
    "rate-attributeerror-hides-it": "without the document above it, the crash is all there is",
    "ca-nonce-log-retried-then-challenge": "cut behind the nonce error, that is the failure",
    "several-lineages-fail-differently": "each half has its own failure",
    "several-names-fail-differently": "each half has its own failure",
    "systemd-run-log-of-two-runs": "each half is a run",
    "healthy-failed-run-then-good-run": "the first half is a run that failed",
    "port-80-in-use-prompt": "without the sentence above it, the question is all there is",
    "prompt-eof-retry-none": "likewise",
    "account-email-prompt-eof": "likewise",
    "account-tos-not-agreed": "likewise",
    "account-choose-one": "likewise",
    "timer-missing-beside-crontab": "the first half shows no schedule that works",
    "timer-table-apt-off-snap-on": "without the row above it, no timer is left that runs",
    "oom-kernel-log": "systemd's lines alone tell of a failed unit",
    "broken-versionconflict": "systemd's lines alone tell of a failed unit",
    "port-80-journal-quiet-service": "systemd's lines alone tell of a failed unit",
    "certbot-missing-systemd": "systemd's lines alone tell of a failed unit",
    "served-expired-though-renewed": "certbot's lines alone are healthy, curl's alone name no host",
    "reload-job-failed-hook": "certbot's lines alone tell of a failed hook",
    "timer-table-healthy": "a table without its last row has no timer of certbot's",
    "timer-table-snap-healthy": "likewise",
    "timer-active": "likewise",
    "cron-mail-path": "without cron's words, certbot is simply not found",
    "cron-syslog-path": "likewise",
    "panel-acme-tiny-name-unknown": "without its last line, the download failed and no more",
    "nginx-t-not-root": "its last line alone tells of a failed test",
}
"""Cases of which a part is, truthfully, another case."""


def _acceptable(case: Case, read: str | None, *, whole: bool = True) -> bool:
    wanted = case.expected["code"]
    if read in {wanted, Code.INTERNAL.value}:
        return True
    if read is None:
        return case.exit_code in {0, None} and not whole
    if wanted is None:
        return False
    return read in LESS_SURE.get(Code(wanted), set()) or (
        read == Code.CHALLENGE_FAILED
        and wanted in AT_CHALLENGE
        and "some challenges have failed" in case.text.lower()
    )


def _code(text: str, case: Case) -> str | None:
    return answer(text, case.exit_code)["code"]


def _cuts(case: Case) -> list[int]:
    lines = case.text.split("\n")
    every = range(1, len(lines))
    return list(every) if case.given else list(every)[:: max(1, len(lines) // 6)]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_a_text_cut_at_any_line_gives_no_other_cause_and_no_success(case: Case):
    if case.id in SUSPECT_CUTS:
        return
    lines = case.text.split("\n")
    for place in _cuts(case):
        for part in ("\n".join(lines[:place]), "\n".join(lines[place:])):
            read = _code(part, case)
            assert _acceptable(case, read, whole=False), (place, read, part[-300:])


WIDTHS = (33, 47, 60, 79, 80, 100, 132)
TERMINALS = (79, 80, 100, 132)
"""Configurations and tables are made of lines: narrower than a terminal they are other texts."""


def _hard(text: str, width: int) -> str:
    rows = (
        row
        for line in text.split("\n")
        for row in ([line[at : at + width] for at in range(0, len(line), width)] or [""])
    )
    return "\n".join(rows)


def _soft(text: str, width: int) -> str:
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False, drop_whitespace=False)
        or ""
        for line in text.split("\n")
    )


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_a_text_wrapped_at_any_width_gives_no_other_cause(case: Case):
    for width in WIDTHS if case.channel in {"console", "debug_log"} else TERMINALS:
        for wrap in (_hard, _soft):
            read = _code(wrap(case.text, width), case)
            assert _acceptable(case, read), (wrap.__name__, width, read)


def test_wrapping_costs_hardly_any_answer():
    tried = [
        _code(wrap(case.text, width), case) == case.expected["code"]
        for case in cases()
        for width in (60, 80)
        for wrap in (_hard, _soft)
    ]
    assert sum(tried) / len(tried) > 0.97


FOREIGN_BEFORE = (
    '+ cd /srv/app\nPulling image layers … done\n127.0.0.1 - - [12/Mar/2024:10:00:00 +0000] "GET / HTTP/1.1" 200 612 "-" "curl/8"\n'
    "TASK [web : Render templates] ****\nok: [web01]\n"
)
FOREIGN_AFTER = "\nAll services are up\nPLAY RECAP ****\nweb01 : ok=3 changed=1 unreachable=0 failed=1\n"
OTHER_RUN_LOG = """2024-01-02 03:04:05,100:DEBUG:certbot._internal.main:certbot version: 2.1.0
2024-01-02 03:04:05,101:DEBUG:certbot._internal.main:Arguments: ['-n', '--nginx', '-d', 'other.example.net']
2024-01-02 03:04:05,120:DEBUG:certbot._internal.log:Root logging level set at 30
2024-01-02 03:04:09,501:DEBUG:acme.client:Received response:
HTTP 429
Server: nginx
Content-Type: application/problem+json

{
  "type": "urn:ietf:params:acme:error:rateLimited",
  "detail": "too many new orders (300) from this account in the last 3h0m0s, retry after 2024-01-02 04:00:01 UTC",
  "status": 429
}
2024-01-02 03:04:09,700:DEBUG:certbot._internal.log:Exiting abnormally:
Traceback (most recent call last):
  File "/usr/bin/certbot", line 33, in <module>
    sys.exit(load_entry_point('certbot==2.1.0', 'console_scripts', 'certbot')())
acme.messages.Error: urn:ietf:params:acme:error:rateLimited :: There were too many requests of a given type :: too many new orders (300)
2024-01-02 03:04:09,701:ERROR:certbot._internal.log:An unexpected error occurred:
2024-01-02 03:04:09,701:ERROR:certbot._internal.log:too many new orders (300) from this account in the last 3h0m0s
"""
OTHER_RUN_CONSOLE = """Saving debug log to /var/log/letsencrypt/letsencrypt.log
Requesting a certificate for other.example.net
An unexpected error occurred:
too many new orders (300) from this account in the last 3h0m0s, retry after 2024-01-02 04:00:01 UTC
Ask for help or search for solutions at https://community.letsencrypt.org. See the logfile /var/log/letsencrypt/letsencrypt.log or re-run Certbot with -v for more details.
"""

AROUND: dict[str, Callable[[str], str]] = {
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "ansi": lambda text: "\n".join(f"\x1b[1;31m{line}\x1b[0m" for line in text.split("\n")),
    "foreign lines": lambda text: f"{FOREIGN_BEFORE}{text}{FOREIGN_AFTER}",
    "journal": lambda text: "\n".join(
        f"Apr 14 12:12:27 web01 certbot[22221]: {line}" for line in text.split("\n")
    ),
    "compose": lambda text: "\n".join(f"certbot-1  | {line}" for line in text.split("\n")),
    "json string": lambda text: json.dumps(
        {"changed": True, "cmd": ["certbot", "renew"], "rc": 1, "stderr": text, "stdout": ""}
    ),
    "json lines": lambda text: "\n".join(f"        {json.dumps(line)}," for line in text.split("\n")),
    "html": lambda text: (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&quot;")
        .replace("\n", "<br>\n")
    ),
    "mail quote": lambda text: "\n".join(f"> {line}" for line in text.split("\n")),
}
SAME = {
    "cron-none": "the journal's prefix makes it no crontab's answer",
}


@pytest.mark.parametrize("name", AROUND)
def test_what_stands_around_a_text_changes_nothing(name: str):
    changed = {}
    for case in cases():
        read = _code(AROUND[name](case.text), case)
        if read != case.expected["code"]:
            changed[case.id] = read
    sure = {case_id: read for case_id, read in changed.items() if read != Code.INTERNAL}
    assert sure == {}
    assert len(changed) <= len(cases()) // 40, changed


@pytest.mark.parametrize("other", [OTHER_RUN_LOG, OTHER_RUN_CONSOLE], ids=["log", "console"])
def test_another_run_in_front_changes_nothing(other: str):
    """Where a text has no beginning of its own, the run in front may still be taken for its own: then for that cause."""
    wrong = {}
    for case in cases():
        if case.channel == "nginx_config" or case.expected["code"] is None:
            continue
        read = _code(f"{other}{case.text}", case)
        begins = "saving debug log to" in case.text.lower() or "certbot version:" in case.text
        if begins and read not in {case.expected["code"], Code.INTERNAL}:
            wrong[case.id] = read
        assert read is not None or case.exit_code in {0, None}
    assert wrong == {}
