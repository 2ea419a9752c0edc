"""When a site is looked at, what a look says, and when certpilot renews by itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from contracts.codes import Code
from workers.core.deciding.retry import RetryAction, RetryDecision
from workers.core.lifetime.own_renewal import OwnRenewal, before_expiry, decide_own_renewal
from workers.core.lifetime.renewal import due_at, renew_before, window_of
from workers.core.lifetime.watch import (
    Looked,
    Loss,
    Sight,
    explain,
    next_look_at,
    schedule,
    sight_of,
)
from workers.core.model import (
    Certificate,
    JobId,
    JobKind,
    JobState,
    LiveJob,
    Problem,
    Server,
    Site,
    SslStatus,
)
from workers.core.preflight.observed import Handshake, HandshakeError

NOW = datetime(2026, 11, 25, tzinfo=UTC)
NAMES = ("a.example", "b.example")
SERVER = Server("203.0.113.7")
LIFETIMES = [timedelta(days=90), timedelta(days=45), timedelta(hours=160), timedelta(minutes=3)]


def certificate(
    serial: str = "0a", *, lifetime: timedelta = timedelta(days=90), begins: datetime = NOW
) -> Certificate:
    return Certificate(serial, NAMES, "CA", begins, begins + lifetime)


KNOWN = certificate()
NEWER = certificate("0b", begins=NOW + timedelta(days=70))
LATE = NOW + timedelta(days=71)


def shakes(*shown: Certificate | None, verified: bool = True) -> list[Handshake]:
    return [
        Handshake(SERVER.host, 443, name, verified=verified and one is not None, certificate=one,
                  error=None if one else HandshakeError.REFUSED)
        for name, one in zip(NAMES, shown, strict=True)
    ]  # fmt: skip


# --- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", LIFETIMES)
@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_every_lifetime_is_looked_at_tens_of_times_and_more_often_when_it_matters(
    lifetime: timedelta, draw: float
) -> None:
    known = certificate(lifetime=lifetime)
    fresh = next_look_at(known, NOW, draw) - NOW
    late = window_of(known).opens_at
    assert lifetime / 130 <= fresh <= max(lifetime / 70, timedelta(seconds=3))
    assert next_look_at(known, late, draw) - late <= fresh
    assert next_look_at(known, NOW, draw, doubt=True) - NOW <= fresh
    assert next_look_at(known, known.not_after, draw) > known.not_after


def test_looks_and_renewals_of_what_was_issued_together_are_spread() -> None:
    first, last = schedule(KNOWN, NOW, 0.0), schedule(KNOWN, NOW, 0.999)
    assert last.next_check_at - first.next_check_at > timedelta(hours=11)
    assert last.renewal_due_at - first.renewal_due_at > timedelta(days=2)
    assert first.renewal_due_at == due_at(KNOWN, 0.0)


@pytest.mark.parametrize(
    ("lifetime", "before"),
    [
        (timedelta(days=90) - timedelta(seconds=1), None),  # as Let's Encrypt writes 90 days
        (timedelta(days=64) - timedelta(seconds=1), timedelta(days=64) / 3),
        (timedelta(days=45) - timedelta(seconds=1), timedelta(days=15)),
        (timedelta(hours=160) - timedelta(seconds=1), timedelta(hours=80)),
    ],
)
def test_certbot_is_told_when_to_renew_where_its_own_thirty_days_are_wrong(
    lifetime: timedelta, before: timedelta | None
) -> None:
    told = renew_before(certificate(lifetime=lifetime))
    if told is None or before is None:
        assert told is before
    else:
        assert abs(told - before) < timedelta(seconds=2)


# --- what a look says -----------------------------------------------------------------------------------------------


def test_known_certificate_on_every_name_is_as_known() -> None:
    assert sight_of(KNOWN, NAMES, shakes(KNOWN, KNOWN), NOW) is Sight.AS_KNOWN
    assert sight_of(KNOWN, NAMES, shakes(KNOWN, KNOWN, verified=False), NOW) is Sight.AS_KNOWN


def test_newer_trusted_certificate_on_every_name_is_a_renewal() -> None:
    assert sight_of(KNOWN, NAMES, shakes(NEWER, NEWER), LATE) is Sight.RENEWED


@pytest.mark.parametrize(
    "shown",
    [
        shakes(None, None),
        shakes(KNOWN, None),
        shakes(KNOWN, NEWER),
        shakes(NEWER, NEWER, verified=False),
        shakes(replace(NEWER, names=("a.example",)), replace(NEWER, names=("a.example",))),
        shakes(
            certificate("09", begins=NOW - timedelta(days=5)),
            certificate("09", begins=NOW - timedelta(days=5)),
        ),
    ],
    ids=["nothing", "one silent", "half reloaded", "untrusted", "a name is missing", "older"],
)
def test_anything_else_is_wrong_and_never_a_renewal(shown: list[Handshake]) -> None:
    assert sight_of(KNOWN, NAMES, shown, LATE) is Sight.WRONG


SITE = Looked(KNOWN, NAMES, SERVER.host)


def code_of(verdict: object) -> Code:
    assert isinstance(verdict, Problem)
    return verdict.code


def test_no_files_on_the_disk_is_a_loss_and_no_other_cause() -> None:
    assert explain(SITE, shakes(None, None), None, NOW) is Loss.GONE


def test_newer_certificate_on_the_disk_alone_is_a_missing_reload() -> None:
    assert code_of(explain(SITE, shakes(KNOWN, KNOWN), NEWER, LATE)) is Code.NGINX_RELOAD_FAILED


def test_newer_certificate_on_disk_and_wire_is_a_renewal_though_its_root_is_not_ours() -> None:
    assert explain(SITE, shakes(NEWER, NEWER, verified=False), NEWER, LATE) == NEWER


@pytest.mark.parametrize(
    "shown", [shakes(None, None), shakes(NEWER, NEWER), shakes(certificate("ff"), KNOWN)]
)
def test_anything_else_on_the_wire_is_not_served(shown: list[Handshake]) -> None:
    assert code_of(explain(SITE, shown, KNOWN, NOW)) is Code.NOT_SERVED


def test_older_certificate_put_back_is_not_taken_for_a_renewal() -> None:
    older = certificate("09", begins=NOW - timedelta(days=5))
    assert code_of(explain(SITE, shakes(older, older), older, NOW)) is Code.NOT_SERVED


# --- our own renewals -----------------------------------------------------------------------------------------------

ACTIVE = Site("s", "b.example", (), SERVER, SslStatus.ACTIVE, KNOWN, SERVER.key, ever_issued=True, job=None)


def test_certificate_is_renewed_for_its_own_names_whatever_was_asked_for_since() -> None:
    moved = replace(ACTIVE, aliases=("c.example",))
    decision = decide_own_renewal(moved, NOW + timedelta(days=76))
    assert isinstance(decision, OwnRenewal)
    assert decision.names == ("b.example", "a.example")
    assert decision.serial_known == KNOWN.serial


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.WAITING])
def test_site_with_work_under_way_is_put_off(state: JobState) -> None:
    working = replace(ACTIVE, job=LiveJob(JobId("1"), state, "b.example", NAMES, SERVER.key))
    assert isinstance(decide_own_renewal(working, NOW + timedelta(days=76)), datetime)


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.SUCCEEDED])
def test_site_whose_removal_was_asked_for_is_not_renewed_whatever_became_of_it(state: JobState) -> None:
    removal = LiveJob(JobId("1"), state, "b.example", NAMES, SERVER.key, kind=JobKind.REMOVE)
    assert decide_own_renewal(replace(ACTIVE, job=removal), NOW + timedelta(days=76)) is None


def test_site_that_has_a_certificate_again_after_its_removal_is_renewed() -> None:
    removal = LiveJob(JobId("1"), JobState.SUCCEEDED, "b.example", NAMES, SERVER.key, kind=JobKind.REMOVE)
    decision = decide_own_renewal(replace(ACTIVE, job=removal), NOW + timedelta(days=76))
    assert isinstance(decision, OwnRenewal)


def test_site_that_a_command_has_moved_is_not_forgotten() -> None:
    assert isinstance(decide_own_renewal(replace(ACTIVE, ssl_status=SslStatus.PENDING), NOW), datetime)


def test_site_without_a_certificate_of_its_own_is_not_renewed() -> None:
    assert decide_own_renewal(replace(ACTIVE, certificate=None), NOW) is None
    assert decide_own_renewal(replace(ACTIVE, certificate_server_key="server:192.0.2.1:22"), NOW) is None


@pytest.mark.parametrize("lifetime", LIFETIMES)
def test_tries_become_more_frequent_towards_expiry_and_stop_after_it(lifetime: timedelta) -> None:
    site = replace(ACTIVE, certificate=certificate(lifetime=lifetime))
    at, tries = NOW + lifetime * 5 / 6, 0
    while True:
        decision = decide_own_renewal(site, at)
        if decision is None:
            break
        assert isinstance(decision, OwnRenewal)
        assert decision.next_try_at > at
        at, tries = decision.next_try_at, tries + 1
    assert NOW + lifetime * 4 / 3 < at < NOW + lifetime * 3 / 2
    assert 8 <= tries <= 40


def test_wait_is_shortened_to_a_share_of_what_is_left_of_a_short_lifetime() -> None:
    code = Code.DNS_WRONG_SERVER
    wait = RetryDecision(RetryAction.WAIT, code, NOW + timedelta(minutes=5), None, True, "b", 1, NOW)
    soon = before_expiry(wait, NOW + timedelta(minutes=1), NOW)
    assert soon.run_at == NOW + timedelta(seconds=10)
    assert before_expiry(wait, NOW + timedelta(days=15), NOW) is wait
    assert before_expiry(wait, NOW - timedelta(minutes=1), NOW) is wait
    ended = RetryDecision(RetryAction.FAIL, code, None, None, True, "b", 1, NOW)
    assert before_expiry(ended, NOW + timedelta(minutes=1), NOW) is ended
