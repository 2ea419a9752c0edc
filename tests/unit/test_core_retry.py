"""The schedules, exactly; and that every job ends, whatever goes wrong in whatever order."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Policy
from workers.core.deciding.retry import (
    CA_TIME,
    PEOPLE_TIME,
    History,
    RetryAction,
    RetryDecision,
    decide_retry,
    prove_with_staging,
    wait_for_ledger,
    with_open_attempt,
)

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
NEW = History(admitted_at=NOW)
OF = {policy: [code for code, row in CATALOGUE.items() if row.policy is policy] for policy in Policy}
JOB_CODES = sorted(code for code, row in CATALOGUE.items() if row.policy is not Policy.REJECT)


def _after(decision: RetryDecision, admitted_at: datetime = NOW) -> History:
    return History(admitted_at, decision.code, decision.fails, decision.failing_since)


def _schedule(code: Code, jitter: float = 0.0) -> tuple[list[datetime], RetryDecision]:
    """All times at which a job that always meets this code runs, and how it ends."""
    history, now, times = NEW, NOW, []
    while True:
        decision = decide_retry(code, history, now=now, jitter=jitter)
        if decision.run_at is None:
            return times, decision
        now = decision.run_at
        times.append(now)
        history = _after(decision)


@pytest.mark.parametrize("code", [*OF[Policy.RECHECK], *OF[Policy.ADMIN]])
def test_people_are_given_1_5_15_60_minutes_then_hours_and_a_day(code: Code) -> None:
    times, end = _schedule(code, jitter=0.9)
    minutes = [(at - NOW) / timedelta(minutes=1) for at in times]
    assert minutes[:6] == [1, 6, 21, 81, 141, 201]
    assert {b - a for a, b in pairwise(minutes[3:-1])} == {60}
    assert times[-1] == NOW + PEOPLE_TIME  # one last look when the day is over
    dies = CATALOGUE[code].policy is Policy.ADMIN
    assert end.action is (RetryAction.DEAD if dies else RetryAction.FAIL)
    assert end.counts_as_attempt


def test_the_day_ends_the_job_also_when_nobody_looked_in_between() -> None:
    """The clock was moved, or the scheduler stood still."""
    first = decide_retry(Code.DNS_WRONG_SERVER, NEW, now=NOW, jitter=0)
    assert first.ends_at == NOW + timedelta(hours=24)
    late = decide_retry(Code.DNS_WRONG_SERVER, _after(first), now=NOW + timedelta(hours=25), jitter=0)
    assert (late.action, late.run_at) == (RetryAction.FAIL, None)


def test_the_reason_says_cause_time_and_who_mends_it() -> None:
    decision = decide_retry(Code.PORT_80_BLOCKED, NEW, now=NOW, jitter=0)
    assert decision.because == (
        "PORT_80_BLOCKED, time 1: looked at again after 1 min, until 2026-11-25 10:00:00 UTC; the owner mends it"
    )
    assert decide_retry(Code.CERTBOT_MISSING, NEW, now=NOW, jitter=0).because.endswith(
        "the server's admin mends it"
    )


@pytest.mark.parametrize("code", OF[Policy.BACK_OFF])
def test_an_outage_backs_off_1_2_4_8_16_30_minutes_and_at_last_fails(code: Code) -> None:
    times, end = _schedule(code, jitter=0.5)  # the middle of the spread
    steps = [b - a for a, b in pairwise([NOW, *times])]
    assert [step / timedelta(minutes=1) for step in steps[:7]] == [1, 2, 4, 8, 16, 30, 30]
    assert end.action is RetryAction.FAIL
    assert times[-2] < NOW + CA_TIME <= times[-1]


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 45), (0.999999, 75)])
def test_an_outages_waits_are_spread_by_a_quarter(jitter: float, seconds: float) -> None:
    run_at = decide_retry(Code.CA_UNAVAILABLE, NEW, now=NOW, jitter=jitter).run_at
    assert run_at is not None
    assert (run_at - NOW).total_seconds() == pytest.approx(seconds, abs=0.01)


def test_service_busy_is_retried_soon_but_not_before_the_cas_own_time() -> None:
    soon = decide_retry(Code.CA_UNAVAILABLE, NEW, now=NOW, jitter=0, ca_retry_at=NOW + timedelta(seconds=10))
    assert soon.run_at == NOW + timedelta(seconds=45)
    later = decide_retry(
        Code.CA_UNAVAILABLE, NEW, now=NOW, jitter=0.5, ca_retry_at=NOW + timedelta(minutes=10)
    )
    assert later.run_at == NOW + timedelta(minutes=10, seconds=3)


@pytest.mark.parametrize(
    ("wait", "jitter", "run_after"),
    [
        (timedelta(minutes=12), 0.0, timedelta(minutes=12)),
        (timedelta(minutes=12), 0.5, timedelta(minutes=12, seconds=3.6)),
        (timedelta(days=7), 0.5, timedelta(days=7, seconds=30)),  # a week's jitter is a minute, not hours
        (timedelta(seconds=-5), 0.0, timedelta(minutes=1)),  # past already: the clocks differ
        (timedelta(days=40000), 0.0, timedelta(days=31)),  # misread
    ],
)
def test_a_ca_limit_waits_until_the_cas_own_time(
    wait: timedelta, jitter: float, run_after: timedelta
) -> None:
    decision = decide_retry(Code.TOO_MANY_REQUESTS, NEW, now=NOW, jitter=jitter, ca_retry_at=NOW + wait)
    assert (decision.action, decision.run_at) == (RetryAction.WAIT, NOW + run_after)
    assert not decision.counts_as_attempt


@given(seconds=st.integers(60, 31 * 86400), jitter=st.floats(0, 1, exclude_max=True))
def test_the_jitter_on_a_ca_limit_is_never_more_than_three_percent(seconds: int, jitter: float) -> None:
    said = NOW + timedelta(seconds=seconds)
    decision = decide_retry(Code.TOO_MANY_REQUESTS, NEW, now=NOW, jitter=jitter, ca_retry_at=said)
    assert decision.run_at is not None
    assert said <= decision.run_at <= said + (said - NOW) * 0.03


def test_a_limit_without_a_time_is_asked_again_in_an_hour() -> None:
    assert decide_retry(Code.TOO_MANY_REQUESTS, NEW, now=NOW, jitter=0).run_at == NOW + timedelta(hours=1)


def test_our_own_ledger_may_be_waited_for_in_seconds_and_for_ever() -> None:
    ages = History(admitted_at=NOW - timedelta(days=365))
    decision = wait_for_ledger(ages, free_at=NOW + timedelta(seconds=36), now=NOW, jitter=0.5)
    assert (decision.action, decision.code, decision.ends_at) == (
        RetryAction.WAIT,
        Code.TOO_MANY_REQUESTS,
        None,
    )
    assert decision.run_at == NOW + timedelta(seconds=36.18)
    assert (decision.counts_as_attempt, decision.fails) == (False, 0)


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 60), (0.5, 90)])
def test_a_busy_server_is_no_failure_and_asked_again_in_one_to_two_minutes(
    jitter: float, seconds: int
) -> None:
    decision = decide_retry(Code.SERVER_BUSY, History(NOW, Code.NOT_SERVED, 3, NOW), now=NOW, jitter=jitter)
    assert decision.run_at == NOW + timedelta(seconds=seconds)
    assert (decision.counts_as_attempt, decision.fails) == (False, 3)


def test_a_certbot_that_holds_its_lock_for_a_day_needs_a_person() -> None:
    times, end = _schedule(Code.SERVER_BUSY)
    assert times[-1] == NOW + PEOPLE_TIME
    assert end.action is RetryAction.DEAD


@pytest.mark.parametrize("code", [*OF[Policy.DEAD], *OF[Policy.SET_ASIDE]])
def test_what_an_operator_must_mend_is_dead_at_once(code: Code) -> None:
    assert decide_retry(code, NEW, now=NOW, jitter=0).action is RetryAction.DEAD


@pytest.mark.parametrize("code", OF[Policy.FAIL])
def test_what_can_never_work_fails_at_once(code: Code) -> None:
    assert decide_retry(code, NEW, now=NOW, jitter=0).action is RetryAction.FAIL


@pytest.mark.parametrize("code", OF[Policy.REJECT])
def test_a_rejection_has_no_job_to_retry(code: Code) -> None:
    with pytest.raises(ValueError, match="is a rejection"):
        decide_retry(code, NEW, now=NOW, jitter=0)


def _minutes(decision: RetryDecision, now: datetime) -> float:
    assert decision.run_at is not None
    return (decision.run_at - now) / timedelta(minutes=1)


def test_a_new_cause_gets_a_quick_look_but_no_new_day() -> None:
    mended = NOW + timedelta(hours=20)
    history = History(NOW, Code.DNS_WRONG_SERVER, 22, NOW)
    decision = decide_retry(Code.CERTBOT_MISSING, history, now=mended, jitter=0)
    assert (_minutes(decision, mended), decision.fails) == (1, 1)
    assert decision.ends_at == NOW + timedelta(hours=24)


def test_another_code_of_the_same_policy_is_no_new_cause() -> None:
    history = History(NOW, Code.DNS_WRONG_SERVER, 2, NOW)
    assert _minutes(decide_retry(Code.PORT_80_BLOCKED, history, now=NOW, jitter=0), NOW) == 15


def test_failed_validations_that_run_into_their_own_limit_do_not_begin_at_one_minute_again() -> None:
    failed = decide_retry(
        Code.CHALLENGE_FAILED, History(NOW, Code.CHALLENGE_FAILED, 3, NOW), now=NOW, jitter=0
    )
    limited = wait_for_ledger(_after(failed), free_at=NOW + timedelta(minutes=12), now=NOW, jitter=0)
    again = decide_retry(Code.CHALLENGE_FAILED, _after(limited), now=NOW, jitter=0)
    assert _minutes(again, NOW) == 60


@pytest.mark.parametrize("code", [Code.TOO_MANY_REQUESTS, Code.CA_UNAVAILABLE])
def test_peoples_day_stands_still_while_the_ca_makes_us_wait(code: Code) -> None:
    """Ten hours for the owner, a week for a limit, and fourteen hours are left."""
    before = History(NOW, Code.DNS_WRONG_SERVER, 12, NOW)
    at, week = NOW + timedelta(hours=10), timedelta(days=7)
    waiting = decide_retry(code, before, now=at, jitter=0, ca_retry_at=at + week)
    assert waiting.run_at == at + week
    after = decide_retry(Code.DNS_WRONG_SERVER, _after(waiting), now=at + week, jitter=0)
    assert after.ends_at == at + week + timedelta(hours=14)


def test_a_command_that_joins_gives_a_new_day() -> None:
    late = NOW + timedelta(hours=30)
    joined = History(NOW, Code.DNS_WRONG_SERVER)
    decision = decide_retry(Code.DNS_WRONG_SERVER, joined, now=late, jitter=0)
    assert (_minutes(decision, late), decision.ends_at) == (1, late + PEOPLE_TIME)


def test_a_job_with_an_open_attempt_looks_again_instead_of_ending() -> None:
    late = NOW + timedelta(hours=25)
    ended = decide_retry(
        Code.SERVER_UNREACHABLE, History(NOW, Code.SERVER_UNREACHABLE, 26, NOW), now=late, jitter=0
    )
    waits = with_open_attempt(ended, late)
    assert (ended.action, waits.action, waits.run_at) == (
        RetryAction.DEAD,
        RetryAction.WAIT,
        late + timedelta(hours=1),
    )
    still_waiting = decide_retry(Code.SERVER_UNREACHABLE, NEW, now=NOW, jitter=0)
    assert with_open_attempt(still_waiting, NOW) == still_waiting


@settings(deadline=None)
@given(data=st.data())
def test_every_job_ends_whatever_goes_wrong_in_whatever_order(data: st.DataObject) -> None:
    """Adversarial codes, times of the CA and late wake-ups; ledger waits aside, which end as buckets refill."""
    history, now = NEW, NOW
    codes = data.draw(st.lists(st.sampled_from(JOB_CODES), min_size=1, max_size=6))
    late = data.draw(st.sampled_from([timedelta(0), timedelta(seconds=1), timedelta(hours=3)]))
    said = data.draw(st.none() | st.timedeltas(timedelta(days=-1), timedelta(days=400)))
    jitter = data.draw(st.floats(0, 1, exclude_max=True))
    worst = 24 * 60 + CA_TIME // timedelta(seconds=45)
    for turn in range(worst):
        ca_retry_at = None if said is None else now + said
        decision = decide_retry(
            codes[turn % len(codes)], history, now=now, jitter=jitter, ca_retry_at=ca_retry_at
        )
        if decision.run_at is None:
            assert decision.action is not RetryAction.WAIT
            # a month for the CA, a day for people, and one more wait of each
            assert now - NOW <= CA_TIME + PEOPLE_TIME + timedelta(days=31) + late * (turn + 1)
            return
        assert decision.action is RetryAction.WAIT
        assert decision.run_at > now
        history, now = _after(decision), decision.run_at + late
    pytest.fail("it would go on for ever")


@pytest.mark.parametrize(
    ("case", "results", "expected"),
    [
        ("the first run goes to the CA itself", [], False),
        ("after a failed validation", [Code.CHALLENGE_FAILED], True),
        ("whichever way it failed", [Code.CAA_FORBIDS], True),
        ("after a dry run that passed", [Code.CHALLENGE_FAILED, None], False),
        ("after a dry run that failed too", [Code.CHALLENGE_FAILED, Code.GEO_BLOCKED], True),
        (
            "after it passed there and failed here again",
            [Code.CHALLENGE_FAILED, None, Code.CHALLENGE_FAILED],
            True,
        ),
        ("a killed run proves nothing", [Code.CHALLENGE_FAILED, Code.INTERRUPTED], True),
        ("a refused order proves nothing", [Code.CHALLENGE_FAILED, None, Code.TOO_MANY_REQUESTS], False),
        ("trouble before any validation", [Code.CERTBOT_MISSING, Code.INTERRUPTED], False),
    ],
)
def test_after_a_failed_validation_staging_comes_first(
    case: str, results: list[Code | None], expected: bool
) -> None:
    assert prove_with_staging(results, "https://staging.test/dir") == expected, case
    assert not prove_with_staging(results, None), (
        "where there is no staging, a dry run would spend the CA's own limits"
    )
