"""CAA records against RFC 8659 and 8657, as Let's Encrypt reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.core.preflight.caa import ca_identities, judge_caa
from workers.core.preflight.model import Verdict
from workers.core.preflight.observed import CaaAnswer, CaaRecord, DnsStatus

LE = ("letsencrypt.org",)
ACCOUNT = "https://acme-v02.api.letsencrypt.org/acme/acct/1"


def answer(*records: tuple[int, str, str]) -> CaaAnswer:
    return CaaAnswer(DnsStatus.ANSWER, "example.com", tuple(CaaRecord(*r) for r in records))


@pytest.mark.parametrize(
    ("records", "verdict"),
    [
        ([(0, "issue", "letsencrypt.org")], Verdict.PASS),
        ([(0, "ISSUE", "LetsEncrypt.org ")], Verdict.PASS),
        ([(128, "issue", "letsencrypt.org;")], Verdict.PASS),
        ([(0, "issue", "other.example"), (0, "issue", "letsencrypt.org")], Verdict.PASS),
        ([(0, "issue", "other.example")], Verdict.FAIL),
        ([(0, "issue", ";")], Verdict.FAIL),
        ([(0, "issue", "")], Verdict.FAIL),
        ([(0, "issue", "sub.letsencrypt.org")], Verdict.FAIL),
        ([(0, "issuewild", ";")], Verdict.PASS),
        ([(0, "issuewild", ";"), (0, "issue", "letsencrypt.org")], Verdict.PASS),
        ([(0, "iodef", "mailto:a@b.example")], Verdict.PASS),
        ([(128, "iodef", "mailto:a@b.example")], Verdict.PASS),
        ([(0, "tbs", "x"), (0, "issue", "letsencrypt.org")], Verdict.PASS),
        ([(128, "tbs", "x"), (0, "issue", "letsencrypt.org")], Verdict.FAIL),
        ([(1, "tbs", "x"), (0, "issue", "letsencrypt.org")], Verdict.FAIL),
        ([(0, "issue", "letsencrypt.org; validationmethods=http-01")], Verdict.PASS),
        ([(0, "issue", "letsencrypt.org; validationmethods=dns-01,http-01")], Verdict.PASS),
        ([(0, "issue", "letsencrypt.org; validationmethods=dns-01")], Verdict.FAIL),
        ([(0, "issue", f"letsencrypt.org; accounturi={ACCOUNT}")], Verdict.PASS),
        ([(0, "issue", f"letsencrypt.org; accounturi={ACCOUNT}2")], Verdict.FAIL),
        ([(0, "issue", "letsencrypt.org; unknown=1")], Verdict.PASS),
        ([(0, "issue", "letsencrypt.org; malformed")], Verdict.FAIL),
        ([(0, "issue", "letsencrypt.org; a=b c")], Verdict.FAIL),
    ],
)
def test_the_records_let_the_ca_issue_or_not(records: list[tuple[int, str, str]], verdict: Verdict) -> None:
    assert judge_caa(answer(*records), LE, account_uris=[ACCOUNT]) is verdict


def test_an_account_that_is_not_known_yet_is_unsure_unless_another_record_allows() -> None:
    bound = (0, "issue", f"letsencrypt.org; accounturi={ACCOUNT}")
    assert judge_caa(answer(bound), LE) is Verdict.UNSURE
    assert judge_caa(answer(bound, (0, "issue", "letsencrypt.org")), LE) is Verdict.PASS


def test_an_unknown_ca_is_unsure_unless_nobody_may_issue() -> None:
    assert judge_caa(answer((0, "issue", "letsencrypt.org")), None) is Verdict.UNSURE
    assert judge_caa(answer((0, "issue", ";")), None) is Verdict.FAIL
    assert judge_caa(CaaAnswer(DnsStatus.NODATA), None) is Verdict.PASS


@pytest.mark.parametrize("status", [DnsStatus.SERVFAIL, DnsStatus.NO_REPLY, DnsStatus.NXDOMAIN])
def test_a_failed_look_up_is_unsure(status: DnsStatus) -> None:
    assert judge_caa(CaaAnswer(status, "example.com"), LE) is Verdict.UNSURE


@pytest.mark.parametrize(
    ("url", "identities"),
    [
        ("https://acme-v02.api.letsencrypt.org/directory", LE),
        ("https://acme-staging-v02.api.letsencrypt.org/directory", LE),
        ("https://notletsencrypt.org/directory", None),
        ("https://pebble:14000/dir", None),
        ("", None),
    ],
)
def test_a_ca_is_known_by_its_directory(url: str, identities: tuple[str, ...] | None) -> None:
    assert ca_identities(url) == identities


@given(st.lists(st.tuples(st.integers(0, 255), st.text(max_size=10), st.text(max_size=40)), max_size=4))
def test_no_record_makes_the_judge_raise(records: list[tuple[int, str, str]]) -> None:
    assert judge_caa(answer(*records), LE) in Verdict
