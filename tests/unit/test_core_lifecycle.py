"""Every cell of the two tables, and the status that the pure functions choose."""

from datetime import UTC, datetime, timedelta

import pytest

from workers.core.deciding import lifecycle
from workers.core.deciding.lifecycle import (
    JOB_TRANSITIONS,
    LIVE,
    STATUS_TRANSITIONS,
    IllegalTransitionError,
    JobEvent,
    StatusEvent,
    advance,
)
from workers.core.model import Certificate, JobState, Server, SslStatus

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
SERVER = Server(host="203.0.113.7")
VALID = Certificate("0a", ("shop.example.com",), "R11", NOW - timedelta(days=10), NOW + timedelta(days=80))
EXPIRED = Certificate(
    "0b", ("shop.example.com",), "R11", NOW - timedelta(days=90), NOW - timedelta(seconds=1)
)
FINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.SUPERSEDED}


def test_every_state_has_a_row() -> None:
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(STATUS_TRANSITIONS) == set(SslStatus)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("event", JobEvent)
def test_a_job_event_without_a_cell_raises_and_one_with_a_cell_gives_it(
    state: JobState, event: JobEvent
) -> None:
    expected = JOB_TRANSITIONS[state].get(event)
    if expected is None:
        with pytest.raises(IllegalTransitionError) as caught:
            advance(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)
    else:
        assert advance(state, event) is expected


@pytest.mark.parametrize("state", sorted(FINAL))
def test_what_has_ended_stays_ended(state: JobState) -> None:
    assert not JOB_TRANSITIONS[state]


def test_a_dead_job_only_comes_back_by_replay_and_only_without_a_newer_job() -> None:
    assert JOB_TRANSITIONS[JobState.DEAD] == {
        JobEvent.REPLAY: JobState.QUEUED,
        JobEvent.SUPERSEDE: JobState.SUPERSEDED,
    }


def test_a_running_job_never_goes_back_to_the_queue() -> None:
    """PROTOCOL 5 e: a run may live; only `waiting`, written with its outcome, leads back."""
    assert JobState.QUEUED not in JOB_TRANSITIONS[JobState.RUNNING].values()


def test_only_a_claim_makes_a_job_running_and_only_a_running_job_succeeds_or_fails() -> None:
    for state, row in JOB_TRANSITIONS.items():
        for event, after in row.items():
            assert (after is JobState.RUNNING) == (event is JobEvent.CLAIM)
            if after in {JobState.SUCCEEDED, JobState.FAILED}:
                assert state is JobState.RUNNING


def test_every_live_job_can_be_superseded_and_cancelled() -> None:
    for state in LIVE:
        assert {JobEvent.SUPERSEDE, JobEvent.CANCEL} <= set(JOB_TRANSITIONS[state])


def test_active_is_only_reached_from_a_certificate() -> None:
    for row in STATUS_TRANSITIONS.values():
        for event, after in row.items():
            if after is SslStatus.ACTIVE:
                assert event in {StatusEvent.VERIFIED, StatusEvent.ENDED_VALID, StatusEvent.RENEWING}
    assert StatusEvent.RENEWING not in STATUS_TRANSITIONS[SslStatus.PENDING]
    assert StatusEvent.ENDED_VALID not in STATUS_TRANSITIONS[SslStatus.NONE]


def test_a_job_that_ends_never_takes_active_away_except_by_not_after() -> None:
    assert StatusEvent.ENDED_NONE not in STATUS_TRANSITIONS[SslStatus.ACTIVE]


def test_mixing_up_the_two_tables_raises() -> None:
    with pytest.raises(IllegalTransitionError):
        advance(JobState.QUEUED, StatusEvent.ADMITTED)  # type: ignore[call-overload]  # the very mistake


@pytest.mark.parametrize(
    ("case", "status", "own", "expected"),
    [
        ("a first request is pending at once", SslStatus.NONE, None, SslStatus.PENDING),
        ("an expired site is pending at once", SslStatus.EXPIRED, EXPIRED, SslStatus.PENDING),
        ("renewing a valid certificate leaves it active", SslStatus.ACTIVE, VALID, SslStatus.ACTIVE),
        ("a site that moved is pending", SslStatus.ACTIVE, None, SslStatus.PENDING),
        ("called active, but notAfter has passed", SslStatus.ACTIVE, EXPIRED, SslStatus.PENDING),
        (
            "moved back while pending: looked at before it is active",
            SslStatus.PENDING,
            VALID,
            SslStatus.PENDING,
        ),
        ("a newer command supersedes", SslStatus.PENDING, None, SslStatus.PENDING),
    ],
)
def test_status_when_admitted(
    case: str, status: SslStatus, own: Certificate | None, expected: SslStatus
) -> None:
    assert lifecycle.status_when_admitted(status, own, NOW) is expected, case


@pytest.mark.parametrize(
    ("case", "status", "own", "expected"),
    [
        ("never had one", SslStatus.PENDING, None, SslStatus.NONE),
        ("had one that expired", SslStatus.PENDING, EXPIRED, SslStatus.EXPIRED),
        ("a failed renewal leaves it active", SslStatus.ACTIVE, VALID, SslStatus.ACTIVE),
        ("a failed renewal that notAfter overtook unnoticed", SslStatus.ACTIVE, EXPIRED, SslStatus.EXPIRED),
        ("a failed renewal of an expired site", SslStatus.EXPIRED, EXPIRED, SslStatus.EXPIRED),
        ("the move was taken back, the old certificate holds", SslStatus.PENDING, VALID, SslStatus.ACTIVE),
        ("a replayed job ends again", SslStatus.NONE, None, SslStatus.NONE),
        ("expired, moved and renamed in the row meanwhile", SslStatus.EXPIRED, None, SslStatus.EXPIRED),
    ],
)
def test_status_when_a_job_ends_without_a_certificate(
    case: str, status: SslStatus, own: Certificate | None, expected: SslStatus
) -> None:
    assert lifecycle.status_when_ended(status, own, NOW) is expected, case


@pytest.mark.parametrize("status", SslStatus)
def test_a_verified_certificate_makes_any_site_active(status: SslStatus) -> None:
    assert lifecycle.status_when_verified(status) is SslStatus.ACTIVE


def test_expiry_comes_at_not_after_and_not_before() -> None:
    not_after = NOW
    before = lifecycle.status_after_expiry(SslStatus.ACTIVE, not_after, NOW - timedelta(microseconds=1))
    assert before is SslStatus.ACTIVE
    assert lifecycle.status_after_expiry(SslStatus.ACTIVE, not_after, NOW) is SslStatus.EXPIRED
    assert lifecycle.status_after_expiry(SslStatus.PENDING, not_after, NOW) is SslStatus.PENDING


def test_valid_means_before_not_after() -> None:
    assert lifecycle.is_valid(VALID, VALID.not_after - timedelta(microseconds=1))
    assert not lifecycle.is_valid(VALID, VALID.not_after)
    assert not lifecycle.is_valid(None, NOW)


@pytest.mark.parametrize(
    ("case", "seen_on", "domain", "server", "counts"),
    [
        ("same domain, same server", SERVER.key, "shop.example.com", SERVER, True),
        (
            "another user on the same server",
            SERVER.key,
            "shop.example.com",
            Server("203.0.113.7", username="x"),
            True,
        ),
        ("another domain", SERVER.key, "other.example.com", SERVER, False),
        ("another host", SERVER.key, "shop.example.com", Server("203.0.113.8"), False),
        (
            "another port, so perhaps another machine",
            SERVER.key,
            "shop.example.com",
            Server("203.0.113.7", 2222),
            False,
        ),
        ("seen nowhere", None, "shop.example.com", SERVER, False),
        ("no server stored", SERVER.key, "shop.example.com", None, False),
    ],
)
def test_a_certificate_counts_only_for_its_domain_on_its_server(
    case: str, seen_on: str | None, domain: str, server: Server | None, counts: bool
) -> None:
    assert (lifecycle.own_certificate(VALID, seen_on, domain, server) is VALID) == counts, case


def test_the_rendered_page_has_every_cell_once_in_table_and_diagram() -> None:
    page = lifecycle.render_markdown()
    for state, row in [*JOB_TRANSITIONS.items(), *STATUS_TRANSITIONS.items()]:
        for event, after in row.items():
            assert page.count(f"| `{state}` | {event} | `{after}` |") == 1
            assert page.count(f"\n    {state} --> {after}: {event}\n") == 1
    assert page.count("```mermaid") == 2
    assert page.endswith("```\n")
