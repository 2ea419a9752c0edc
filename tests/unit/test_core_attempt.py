"""PROTOCOL 2, one test a row, and the counterexamples of PROTOCOL 5 that are decisions."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from contracts.codes import Code
from workers.core.deciding.attempt import (
    SILENCE,
    Action,
    Cancel,
    CloseFailed,
    CloseSucceeded,
    CloseUnserved,
    CloseVoid,
    Count,
    Poll,
    Start,
    Stop,
    SucceedWithoutOrder,
    Supersede,
    Turn,
    Verify,
    Void,
    WaitBusy,
    WaitUnseen,
    close_after_reading,
    decide,
    decide_without_look,
    end_of_turn,
)
from workers.core.deciding.goal import goal_reached, needs_force
from workers.core.deciding.lifecycle import JobEvent
from workers.core.deciding.retry import RetryAction
from workers.core.limits.costs import OrderFate
from workers.core.model import Certificate, Look, RunState

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
OPEN, CLOSED = Turn(3, attempt_open=True), Turn(3, attempt_open=False)
ABSENT, ALIVE, ENDED, VOID = (
    Look(state) for state in (RunState.ABSENT, RunState.ALIVE, RunState.ENDED, RunState.VOID)
)
DEAD, UNBEGUN = Look(RunState.DEAD, rebooted=True), Look(RunState.DEAD, begun=False)
# the goal: reached on disk, and what the handshake says
NOT_YET, ON_DISK, SERVED, UNSERVED = (False, None), (True, None), (True, True), (True, False)


def _superseded(turn: Turn) -> Turn:
    return Turn(turn.attempt, turn.attempt_open, superseded=True)


def _cancelled(turn: Turn) -> Turn:
    return Turn(turn.attempt, turn.attempt_open, cancelled=True)


@pytest.mark.parametrize(
    ("row", "turn", "look", "goal", "expected"),
    [
        ("open, ALIVE: poll", OPEN, ALIVE, NOT_YET, Poll()),
        ("open, ALIVE, superseded: poll to the end", _superseded(OPEN), ALIVE, NOT_YET, Poll()),
        ("open, ABSENT: START with the same number", OPEN, ABSENT, NOT_YET, Start(3)),
        ("open, ABSENT, goal reached: VOID first", OPEN, ABSENT, ON_DISK, Void(3)),
        ("open, ABSENT, superseded: VOID first", _superseded(OPEN), ABSENT, NOT_YET, Void(3)),
        ("open, ABSENT, cancelled: VOID first", _cancelled(OPEN), ABSENT, NOT_YET, Void(3)),
        ("open, over, reached: the handshake decides", OPEN, ENDED, ON_DISK, Verify()),
        ("open, over, reached and served: succeeded", OPEN, ENDED, SERVED, CloseSucceeded()),
        ("open, killed, reached and served: succeeded", OPEN, DEAD, SERVED, CloseSucceeded()),
        ("open, void, reached and served: not by us", OPEN, VOID, SERVED, CloseSucceeded(OrderFate.NOT_MADE)),
        ("open, never begun, reached, not served", OPEN, UNBEGUN, UNSERVED, CloseUnserved(OrderFate.NOT_MADE)),
        ("open, superseded, but its run issued: succeeded", _superseded(OPEN), ENDED, SERVED, CloseSucceeded()),
        ("open, over, reached, not served", OPEN, ENDED, UNSERVED, CloseUnserved()),
        ("open, VOID: no failure, given back", OPEN, VOID, NOT_YET, CloseVoid()),
        ("open, DEAD: INTERRUPTED, order spent", OPEN, DEAD, NOT_YET, CloseFailed(Code.INTERRUPTED, OrderFate.UNKNOWN)),
        (
            "open, DEAD before it began: INTERRUPTED, given back",
            OPEN, UNBEGUN, NOT_YET, CloseFailed(Code.INTERRUPTED, OrderFate.NOT_MADE),
        ),
        ("open, ENDED: read why", OPEN, ENDED, NOT_YET, CloseFailed(None, None)),
        ("none, reached: the handshake decides", CLOSED, ABSENT, ON_DISK, Verify()),
        ("none, reached and served: no order", CLOSED, ABSENT, SERVED, SucceedWithoutOrder()),
        ("none, superseded, reached and served", _superseded(CLOSED), ENDED, SERVED, SucceedWithoutOrder()),
        ("none, superseded", _superseded(CLOSED), ABSENT, NOT_YET, Supersede()),
        ("none, superseded, reached but not served", _superseded(CLOSED), ABSENT, UNSERVED, Supersede()),
        ("none, cancelled", _cancelled(CLOSED), ABSENT, NOT_YET, Cancel()),
        ("none, another run of ours", CLOSED, Look(RunState.ABSENT, other_run=True), NOT_YET, WaitBusy()),
        ("none, certbot's own lock is held", CLOSED, Look(RunState.ABSENT, certbot_busy=True), NOT_YET, WaitBusy()),
        ("none: count", CLOSED, ABSENT, NOT_YET, Count(only_install=False)),
        ("none, whatever the last attempt was: count", CLOSED, ENDED, NOT_YET, Count(only_install=False)),
        ("none, reached but not served: only install", CLOSED, ENDED, UNSERVED, Count(only_install=True)),
        ("none, only to install, but busy", CLOSED, Look(RunState.ENDED, certbot_busy=True), UNSERVED, WaitBusy()),
    ],
)  # fmt: skip
def test_the_table(
    row: str, turn: Turn, look: Look, goal: tuple[bool, bool | None], expected: Action
) -> None:
    reached, served = goal
    assert decide(turn, look, goal_reached=reached, served=served) == expected, row


def test_at_the_deadline_a_living_run_is_stopped_once_and_nothing_else_is() -> None:
    assert decide(OPEN, ALIVE, goal_reached=False, served=None, overdue=True) == Stop(3)
    assert decide(OPEN, ABSENT, goal_reached=False, served=None, overdue=True) == Start(3)
    assert decide(OPEN, ENDED, goal_reached=False, served=None, overdue=True) == CloseFailed(None, None)


ALL = [
    (Turn(3, is_open, superseded, cancelled), Look(run, exit_code, begun, rebooted, other, busy), reached, served)
    for is_open, superseded, cancelled, begun, rebooted, other, busy, reached in itertools.product((True, False), repeat=8)
    for run in RunState for exit_code in (None, 0, 1) for served in (None, True, False)
]  # fmt: skip
CLOSES = (CloseSucceeded, CloseUnserved, CloseFailed, CloseVoid)


def test_every_case_has_an_answer_that_obeys_the_protocol() -> None:
    """Over all 11,520 inputs; the letters are those of PROTOCOL 5."""
    for turn, look, reached, served in ALL:
        action = decide(turn, look, goal_reached=reached, served=served)
        case = (turn, look, reached, served, action)
        over = look.run in {RunState.ENDED, RunState.DEAD, RunState.VOID}
        if turn.attempt_open:
            # c: while an attempt is open nothing is counted, and what is started has its number
            assert not isinstance(action, Count | WaitBusy | Supersede | Cancel | SucceedWithoutOrder), case
            assert not isinstance(action, Start | Void) or (
                action.attempt == 3 and look.run is RunState.ABSENT
            ), case
        # e, i: closed only when the server said that the run is over and can never start
        assert not isinstance(action, CLOSES) or (turn.attempt_open and over), case
        # f: success and failure follow the certificate, never the exit code
        assert isinstance(action, CloseSucceeded | SucceedWithoutOrder) <= (reached and served is True), case
        assert isinstance(action, CloseFailed | CloseVoid) <= (not reached), case
        # nothing is begun for a job that nobody wants any more
        assert not (turn.unwanted and isinstance(action, Start | Count)), case
        if not turn.attempt_open and (look.other_run or look.certbot_busy):
            assert not isinstance(action, Count), case


def test_c_a_take_over_attaches_or_starts_the_same_attempt_but_never_counts_anew() -> None:
    taken_over = Turn(1, attempt_open=True)
    assert decide(taken_over, ALIVE, goal_reached=False, served=None) == Poll()
    assert decide(taken_over, ABSENT, goal_reached=False, served=None) == Start(1)


def test_e_a_start_in_flight_keeps_its_attempt_open() -> None:
    """A released job is looked at like any other; ABSENT is no end."""
    for turn in (OPEN, _cancelled(OPEN), _superseded(OPEN)):
        assert not isinstance(decide(turn, ABSENT, goal_reached=False, served=None), CLOSES)


@pytest.mark.parametrize("look", [Look(RunState.ENDED, exit_code=1), DEAD])
def test_f_the_certificate_decides_and_not_the_exit_code(look: Look) -> None:
    assert decide(OPEN, look, goal_reached=True, served=True) == CloseSucceeded()
    assert isinstance(
        decide(OPEN, Look(RunState.ENDED, exit_code=0), goal_reached=False, served=None), CloseFailed
    )


def test_g_a_second_attempt_starts_under_its_own_number_and_reads_no_old_exit() -> None:
    """LOOK was asked about attempt 2, whose directory is not there; attempt 1's exit file is no answer to that."""
    assert decide(Turn(2, attempt_open=True), ABSENT, goal_reached=False, served=None) == Start(2)


def test_i_what_is_absent_is_voided_before_it_is_closed() -> None:
    unwanted = _superseded(OPEN)
    assert decide(unwanted, ABSENT, goal_reached=False, served=None) == Void(3)
    assert decide(unwanted, VOID, goal_reached=False, served=None) == CloseVoid()


def test_l_a_certificate_seen_while_the_run_lived_is_not_yet_a_verdict() -> None:
    """Only the certificate of the LOOK that found the run over counts, whether it is there by then or not."""
    assert decide(OPEN, ALIVE, goal_reached=True, served=True) == Poll()
    assert isinstance(decide(OPEN, ENDED, goal_reached=False, served=True), CloseFailed)


# --- closing after reading


@pytest.mark.parametrize(
    ("code", "order_made", "expected"),
    [
        (Code.SERVER_BUSY, None, CloseVoid()),  # "Another instance of Certbot is already running"
        (Code.CHALLENGE_FAILED, None, CloseFailed(Code.CHALLENGE_FAILED, OrderFate.MADE)),
        (Code.TOO_MANY_REQUESTS, None, CloseFailed(Code.TOO_MANY_REQUESTS, OrderFate.NOT_MADE)),
        (
            Code.TOO_MANY_REQUESTS,
            True,
            CloseFailed(Code.TOO_MANY_REQUESTS, OrderFate.MADE),
        ),  # refused at finalize
        (Code.CERTBOT_PLUGIN_MISSING, None, CloseFailed(Code.CERTBOT_PLUGIN_MISSING, OrderFate.NOT_MADE)),
        (Code.DISK_FULL, None, CloseFailed(Code.DISK_FULL, OrderFate.UNKNOWN)),
        (Code.DISK_FULL, False, CloseFailed(Code.DISK_FULL, OrderFate.NOT_MADE)),
        (Code.INTERNAL, None, CloseFailed(Code.INTERNAL, OrderFate.UNKNOWN)),
        # Killed between the CA's answer and its line in the log: silence proves nothing.
        (Code.INTERRUPTED, False, CloseFailed(Code.INTERRUPTED, OrderFate.UNKNOWN)),
        (Code.OUT_OF_MEMORY, False, CloseFailed(Code.OUT_OF_MEMORY, OrderFate.UNKNOWN)),
        (Code.OUT_OF_MEMORY, True, CloseFailed(Code.OUT_OF_MEMORY, OrderFate.MADE)),
    ],
)
def test_an_exit_is_closed_by_what_its_output_says(
    code: Code, order_made: bool | None, expected: Action
) -> None:
    assert close_after_reading(code, order_made=order_made) == expected


# --- no answer


UNREACHABLE = [Code.SERVER_UNREACHABLE, Code.SSH_AUTH_FAILED, Code.HOST_KEY_MISMATCH, Code.PERMISSION_DENIED]


@pytest.mark.parametrize("code", [*UNREACHABLE, Code.SERVER_BUSY, Code.FILESYSTEM_UNUSABLE])
@pytest.mark.parametrize("turn", [OPEN, _superseded(OPEN), _cancelled(OPEN)])
def test_a_server_that_does_not_answer_leaves_the_attempt_as_it_is(code: Code, turn: Turn) -> None:
    almost = NOW - SILENCE + timedelta(seconds=1)
    assert decide_without_look(code, turn, opened_at=almost, now=NOW) == WaitUnseen(code)


@pytest.mark.parametrize("code", UNREACHABLE)
def test_after_a_day_of_silence_the_attempt_is_given_up_and_its_order_stays_counted(code: Code) -> None:
    action = decide_without_look(code, OPEN, opened_at=NOW - SILENCE, now=NOW)
    assert action == CloseFailed(Code.INTERRUPTED, OrderFate.UNKNOWN)


def test_a_busy_server_has_answered_so_it_is_not_silent() -> None:
    action = decide_without_look(Code.SERVER_BUSY, OPEN, opened_at=NOW - SILENCE * 2, now=NOW)
    assert action == WaitUnseen(Code.SERVER_BUSY)


def test_without_an_open_attempt_an_unwanted_job_ends_although_the_server_is_away() -> None:
    def action(turn: Turn) -> object:
        return decide_without_look(Code.SERVER_UNREACHABLE, turn, opened_at=None, now=NOW)

    assert action(CLOSED) == WaitUnseen(Code.SERVER_UNREACHABLE)
    assert action(_superseded(CLOSED)) == Supersede()
    assert action(_cancelled(CLOSED)) == Cancel()


# --- the end of a turn


@pytest.mark.parametrize(
    ("action", "turn", "event"),
    [
        (RetryAction.WAIT, CLOSED, JobEvent.WAIT),
        (RetryAction.FAIL, CLOSED, JobEvent.FAIL),
        (RetryAction.DEAD, CLOSED, JobEvent.DIE),
        (RetryAction.WAIT, _superseded(OPEN), JobEvent.SUPERSEDE),
        (RetryAction.DEAD, _superseded(OPEN), JobEvent.SUPERSEDE),
        (RetryAction.WAIT, _cancelled(OPEN), JobEvent.CANCEL),
        (RetryAction.FAIL, Turn(3, attempt_open=True, superseded=True, cancelled=True), JobEvent.SUPERSEDE),
    ],
)
def test_a_turn_ends_as_the_newer_command_the_operator_or_the_cause_wants(
    action: RetryAction, turn: Turn, event: JobEvent
) -> None:
    assert end_of_turn(action, turn) is event


@pytest.mark.parametrize("action", RetryAction)
def test_no_job_ends_with_an_open_attempt(action: RetryAction) -> None:
    assert end_of_turn(action, _superseded(OPEN), still_open=True) is JobEvent.WAIT


# --- the goal


def _certificate(
    serial: str = "0a", *, names: tuple[str, ...] = ("a.test", "b.test"), age_days: float = 1
) -> Certificate:
    start = NOW - timedelta(days=age_days)
    return Certificate(serial, names, "R11", start, start + timedelta(days=90))


def _reached(certificate: Certificate | None, **changes: object) -> bool:
    job = {"force": False, "serial_before": None, "counted": False, **changes}
    return goal_reached(certificate, ("a.test", "b.test"), now=NOW, **job)  # type: ignore[arg-type]  # per test


@pytest.mark.parametrize(
    ("case", "certificate", "expected"),
    [
        ("none", None, False),
        ("the names", _certificate(), True),
        ("more names", _certificate(names=("a.test", "b.test", "c.test")), True),
        ("a name missing", _certificate(names=("a.test",)), False),
        ("expired", _certificate(age_days=90), False),
        ("expires in a moment", _certificate(age_days=89.999), True),
        ("the CA's clock is a minute ahead", _certificate(age_days=-1 / 1440), True),
        ("not valid before tomorrow", _certificate(age_days=-1), False),
    ],
)
def test_the_goal_is_a_valid_certificate_with_the_names(
    case: str, certificate: Certificate | None, expected: bool
) -> None:
    assert _reached(certificate) == expected, case


@pytest.mark.parametrize(
    ("case", "serial_before", "counted", "expected"),
    [
        ("the old one", "0a", True, False),
        ("the old one, known since admission", "0a", False, False),
        ("a new one", "09", True, True),
        ("the server's timer renewed before we looked", "09", False, True),
        ("nothing known, nothing counted: it may be the old one", None, False, False),
        ("there was none when the attempt was counted", None, True, True),
    ],
)
def test_a_forced_renewal_needs_another_serial(
    case: str, serial_before: str | None, counted: bool, expected: bool
) -> None:
    assert (
        _reached(_certificate("0a"), force=True, serial_before=serial_before, counted=counted) == expected
    ), case


def test_v_a_runner_that_takes_over_knows_the_old_serial_from_the_row() -> None:
    """Taken from its own first look instead, the new certificate would count as the old one, and be ordered again."""
    new = _certificate("0b")
    stored, remembered = "0a", new.serial
    assert _reached(new, force=True, serial_before=stored, counted=True)
    assert not _reached(new, force=True, serial_before=remembered, counted=True)
    assert not needs_force(new, force=True, serial_before=stored, counted=True)


@pytest.mark.parametrize(
    ("case", "certificate", "facts", "expected"),
    [
        ("first attempt", _certificate("0a"), {"serial_before": "0a", "counted": False}, True),
        (
            "first attempt, serial unknown so far",
            _certificate("0a"),
            {"serial_before": None, "counted": False},
            True,
        ),
        (
            "later attempt, still the old one",
            _certificate("0a"),
            {"serial_before": "0a", "counted": True},
            True,
        ),
        ("an earlier run renewed it", _certificate("0b"), {"serial_before": "0a", "counted": True}, False),
        (
            "there was none then, there is one now",
            _certificate("0b"),
            {"serial_before": None, "counted": True},
            False,
        ),
        ("nothing to renew", None, {"serial_before": None, "counted": False}, False),
        (
            "a run of it lives",
            _certificate("0a"),
            {"serial_before": "0a", "counted": True, "alive": True},
            False,
        ),
    ],
)
def test_certbot_is_forced_exactly_while_the_old_serial_is_there_and_no_run_lives(
    case: str, certificate: Certificate | None, facts: dict[str, object], expected: bool
) -> None:
    assert needs_force(certificate, force=True, **facts) == expected, case  # type: ignore[arg-type]  # per case
    assert not needs_force(certificate, force=False, **facts), case  # type: ignore[arg-type]
