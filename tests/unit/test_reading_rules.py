"""Rules of the reader that no single case shows: runs of ours, streams, times, several findings, the command."""

import tracemalloc
from datetime import UTC, datetime

import pytest

from contracts.codes import Code, Mender, Retry
from tests.unit.reading_cases import all_cases, answer, cases
from workers.cli.diagnose import mender
from workers.core.model import RunOutput
from workers.core.reading import Stage, read_run, read_stream, read_text

SUCCESS = """Saving debug log to /var/log/letsencrypt/letsencrypt.log
Requesting a certificate for shop.example.org

Successfully received certificate.
Certificate is saved at: /etc/letsencrypt/live/shop.example.org/fullchain.pem
"""
BUSY = "Another instance of Certbot is already running.\n"
LOG_429 = """2025-03-04 05:06:07,100:DEBUG:certbot._internal.main:certbot version: 2.1.0
2025-03-04 05:06:09,501:DEBUG:acme.client:Received response:
HTTP 429
Server: nginx
Retry-After: {after}
Content-Type: application/problem+json

{{
  "type": "urn:ietf:params:acme:error:rateLimited",
  "detail": "slow down",
  "status": 429
}}
2025-03-04 05:06:09,701:ERROR:certbot._internal.log:An unexpected error occurred:
2025-03-04 05:06:09,701:ERROR:certbot._internal.log:AttributeError: can't set attribute
"""


def _text(case_id: str) -> str:
    return next(case.text for case in all_cases() if case.id == case_id)


class TestRunsOfOurs:
    def test_the_debug_log_says_more_than_the_console(self):
        console = "Saving debug log to /var/log/x\nAn unexpected error occurred:\nAttributeError: can't set attribute\n"
        main = read_run(RunOutput(1, "", console, LOG_429.format(after=600))).main
        assert main.code is Code.TOO_MANY_REQUESTS

    def test_the_console_speaks_where_the_log_is_silent(self):
        main = read_run(RunOutput(1, "", BUSY, "")).main
        assert main.code is Code.SERVER_BUSY

    def test_standard_output_and_error_are_one_run(self):
        text = _text("port-80-timeout-identifier-label-v5")
        head, tail = text.split("\n", 1)
        main = read_run(RunOutput(1, tail, head, "")).main
        assert (main.code, main.names) == (Code.PORT_80_BLOCKED, ("my.example.org",))

    @pytest.mark.parametrize("exit_code", [1, None, 2, 137, 143])
    def test_no_success_against_the_exit_code(self, exit_code: int | None):
        assert read_run(RunOutput(exit_code, SUCCESS, "", "")).main.code is not None

    def test_exit_code_zero_and_clean_text_is_success(self):
        main = read_run(RunOutput(0, SUCCESS, "", "")).main
        assert (main.code, main.retry, main.retry_at, main.step) == (None, None, None, None)

    def test_a_run_without_exit_code_was_interrupted(self):
        main = read_run(RunOutput(None, "Requesting a certificate for shop.example.org\n", "", "")).main
        assert (main.code, main.retry) == (Code.INTERRUPTED, Retry.SOON)

    def test_a_run_without_exit_code_that_told_its_fault_is_read_by_that(self):
        assert read_run(RunOutput(None, "", BUSY, "")).main.code is Code.SERVER_BUSY

    def test_nothing_at_all_with_exit_code_one_is_not_understood(self):
        assert read_run(RunOutput(1, "", "", "")).main.code is Code.INTERNAL

    def test_every_failing_log_as_a_run_gives_the_same_answer(self):
        for case in cases():
            if case.channel != "debug_log" or case.exit_code != 1 or case.id == "systemd-run-log-of-two-runs":
                continue
            main = read_run(RunOutput(1, "", "", case.text)).main
            assert main.code == case.expected["code"], case.id


class TestTimes:
    @pytest.mark.parametrize(
        ("after", "expected"),
        [
            ("600", datetime(2025, 3, 4, 5, 16, 9, tzinfo=UTC)),
            ("Tue, 04 Mar 2025 06:00:00 GMT", datetime(2025, 3, 4, 6, 0, 0, tzinfo=UTC)),
            ("soon", None),
        ],
    )
    def test_retry_after_of_the_answer(self, after: str, expected: datetime | None):
        main = read_text(LOG_429.format(after=after), exit_code=1).main
        assert (main.code, main.retry, main.retry_at) == (Code.TOO_MANY_REQUESTS, Retry.WAIT_UNTIL, expected)

    def test_the_answers_own_date_counts_since_the_log_may_be_in_local_time(self):
        log = LOG_429.format(after="60\nDate: Tue, 04 Mar 2025 04:06:09 GMT")
        assert read_text(log, exit_code=1).main.retry_at == datetime(2025, 3, 4, 4, 7, 9, tzinfo=UTC)

    @pytest.mark.parametrize(
        "words",
        [
            "retry after 2026-11-24 03:11:09 UTC",
            "Retry after 2026-11-24T03:11:09Z",
            "retry after 2026-11-24T04:11:09+01:00",
        ],
    )
    def test_the_time_in_the_text(self, words: str):
        text = f"An unexpected error occurred:\ntoo many new orders (300) from this account in the last 3h0m0s, {words}: see x\n"
        assert read_text(text, exit_code=1).main.retry_at == datetime(2026, 11, 24, 3, 11, 9, tzinfo=UTC)

    def test_an_impossible_time_is_none(self):
        text = "too many new orders (300) from this account in the last 3h0m0s, retry after 2026-13-45 99:99:99 UTC\n"
        assert read_text(text, exit_code=1).main.retry_at is None


class TestFindings:
    def test_one_finding_a_name_where_they_fail_differently(self):
        findings = read_text(_text("several-names-fail-differently"), exit_code=1).findings
        assert [(one.code, one.names) for one in findings] == [
            (Code.DNS_NOT_RESOLVING, ("b.example.org",)),
            (Code.PORT_80_BLOCKED, ("a.example.org",)),
        ]

    def test_the_certificate_that_needs_the_admin_comes_before_the_one_that_needs_its_owner(self):
        findings = read_text(_text("several-lineages-fail-differently"), exit_code=1).findings
        assert [(one.code, one.names) for one in findings] == [
            (Code.CERTBOT_PLUGIN_MISSING, ("c.example.org",)),
            (Code.DNS_NOT_RESOLVING, ("b.example.org",)),
        ]

    def test_what_was_ruled_out_is_said(self):
        limit = read_text(_text("nginx-missing-cert-after-rate-limit"), exit_code=1).main
        assert any("NGINX_CONFIG_BROKEN" in sentence for sentence in limit.ruled_out)
        http2 = read_text(_text("http2-on-port-80-ipv6"), exit_code=1).main
        assert any("no closed port" in sentence for sentence in http2.ruled_out)

    @pytest.mark.parametrize(
        ("case_id", "step"),
        [
            ("ssh-connect-timeout", Stage.REACH),
            ("sudo-terminal-required", Stage.START),
            ("nginx-binary-missing-terse", Stage.PLUGIN),
            ("account-bare-refusal", Stage.ACCOUNT),
            ("rate-exact-set-now", Stage.ORDER),
            ("rate-at-finalize", Stage.FINALIZE),
            ("dns-nxdomain-panel-host", Stage.CHALLENGE),
            ("archive-directory-exists-after-issue", Stage.SAVE),
            ("vhost-none-but-certificate-issued-2021", Stage.INSTALL),
            ("reload-hash-bucket", Stage.RELOAD),
            ("hook-deploy-failed-exit-0", Stage.HOOK),
            ("timer-not-found", Stage.SCHEDULE),
            ("served-expired-curl", Stage.SERVE),
        ],
    )
    def test_the_step_that_failed(self, case_id: str, step: Stage):
        case = next(one for one in all_cases() if one.id == case_id)
        assert read_text(case.text, exit_code=case.exit_code).main.step is step

    def test_whose_it_is_belongs_to_the_finding(self):
        owner = read_text(_text("challenge-401-access-list"), exit_code=1).main
        admin = read_text(_text("http2-on-port-80-ipv6"), exit_code=1).main
        again = read_text(_text("servfail-caa-at-tld"), exit_code=1).main
        assert (mender(owner), mender(admin), mender(again)) == (
            Mender.OWNER,
            Mender.SERVER_ADMIN,
            Mender.TIME,
        )


class TestStreams:
    def test_a_stream_gives_the_same_answer_as_the_text(self):
        for case in cases():
            streamed = read_stream(iter(case.text.splitlines(keepends=True)), exit_code=case.exit_code).main
            assert (streamed.code, sorted(streamed.names)) == (
                case.expected["code"],
                sorted(case.expected["names"]),
            ), case.id

    def test_a_long_log_is_read_in_bounded_memory_and_its_line_numbers_hold(self):
        case = next(one for one in all_cases() if one.id == "redirect-to-dead-https-v4-shown")
        noise = "2024-01-01 10:11:12,000:DEBUG:acme.client:Storing nonce: lorem ipsum dolor sit amet, no error at all\n"
        before, after = 120_000, 40_000

        def lines():
            for _ in range(before):
                yield noise
            yield from case.text.splitlines(keepends=True)
            for _ in range(after):
                yield noise

        tracemalloc.start()
        main = read_stream(lines(), exit_code=1).main
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (main.code, main.names) == (Code.PORT_443_BLOCKED, ("bot.example.org",))
        assert (
            case.text.split("\n")[main.evidence[0].line_number - 1 - before].strip() == main.evidence[0].text
        )
        assert peak < 12_000_000

    def test_a_failure_in_the_middle_of_a_megabyte_is_found(self):
        noise = "10.0.0.1 - - [12/Mar/2024:10:00:00 +0000] GET /index.html HTTP/1.1 200 612\n"
        for case_id in (
            "port-80-connect",
            "rate-exact-set-now",
            "nginx-broken-unknown-directive",
            "lock-console",
        ):
            text = noise * 6_000 + _text(case_id) + noise * 6_000
            assert len(text) > 900_000
            wanted = next(one for one in all_cases() if one.id == case_id).expected["code"]
            assert answer(text, 1)["code"] == wanted, case_id


def test_a_bare_timeout_is_at_the_port_that_certbot_says_was_checked():
    """The CA's `Timeout` names no port; `tls-sni-01` beside the name does (boulder before 2018)."""
    sentence = "shop.example.org ({kind}): urn:acme:error:connection :: The server could not connect to the client ::"
    for kind, code in (("http-01", "PORT_80_BLOCKED"), ("tls-sni-01", "PORT_443_BLOCKED")):
        text = f"Failed authorization procedure. {sentence.format(kind=kind)} Timeout\n"
        assert answer(text, 1)["code"] == code


def test_a_program_fault_raised_among_a_lineages_files_is_the_lineages():
    text = (
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/python3/dist-packages/certbot/{module}", line 700, in latest_common_version\n'
        "    return max(versions)\n"
        "TypeError: '<' not supported between instances of 'NoneType' and 'int'\n"
    )
    assert answer(text.format(module="storage.py"), 1)["code"] == "LINEAGE_BROKEN"
    assert answer(text.format(module="util.py"), 1)["code"] == "CERTBOT_BROKEN"
