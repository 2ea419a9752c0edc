"""What a runner does next: the decision table of PROTOCOL 2 as a pure function of the row and the server's answer.

`decide` is asked after every LOOK; the runner carries the action out and looks again. Every closing action is only ever
given when the server said that the run is over and can never start (directory there, lock free), and the goal is judged
by the certificate that came with that same answer, never by an exit code or an earlier look (PROTOCOL 5 f, i, l).

Whatever the server did not answer is `decide_without_look`; `STALE` needs no decision: drop the job, write nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from workers.core.deciding.lifecycle import JobEvent
from workers.core.deciding.retry import RetryAction
from workers.core.limits.costs import OrderFate
from workers.core.model import Look, RunState

SILENCE = timedelta(hours=24)
"""A server that cannot be looked at for so long has its open attempt closed: far longer than a run can last."""

# Codes that strike before certbot asks the CA for an order, or that are the CA's refusal of it.
_NO_ORDER = frozenset({
    Code.SERVER_BUSY, Code.TOO_MANY_REQUESTS, Code.REJECTED_BY_CA, Code.ACCOUNT_PAUSED,
    Code.ACCOUNT_INVALID, Code.ACCOUNT_CONTACT_INVALID, Code.ACCOUNT_EAB_REQUIRED, Code.CERTBOT_MISSING,
    Code.CERTBOT_PLUGIN_MISSING, Code.NGINX_MISSING, Code.PERMISSION_DENIED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """The job's row, as far as the decision needs it.

    Attributes:
        attempt: number of the last counted attempt; 0 before the first.
        attempt_open: it is counted and not closed.
        superseded: a newer job takes its place.
        cancelled: an operator wants it to end.
    """

    attempt: int
    attempt_open: bool
    superseded: bool = False
    cancelled: bool = False

    @property
    def unwanted(self) -> bool:
        """Whether nothing more shall be started for it."""
        return self.superseded or self.cancelled


@dataclass(frozen=True, slots=True)
class Poll:
    """The run lives: look again later."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The run takes too long: send STOP (TERM, never KILL), then poll on."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Start:
    """Send START with the attempt's own number: it finds the run that a lost START began, or begins it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Void:
    """Send VOID, so that the attempt can never start any more, then look again."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Verify:
    """The goal is reached on disk: do the handshake for every name, then decide again with its result."""


@dataclass(frozen=True, slots=True)
class CloseSucceeded:
    """Close the attempt; the job has succeeded.

    Attributes:
        fate: of the reserved order; not made where certbot never began and somebody else brought the certificate.
    """

    fate: OrderFate = OrderFate.ISSUED


@dataclass(frozen=True, slots=True)
class CloseUnserved:
    """Close the attempt as `NO_MATCHING_VHOST`, `INSTALL_FAILED` or `NOT_SERVED`, whichever the output says.

    The certificate is there: the next attempt only installs and reserves no order.
    """

    fate: OrderFate = OrderFate.ISSUED


@dataclass(frozen=True, slots=True)
class CloseFailed:
    """Close the attempt as a failure, then `core.deciding.retry` and `end_of_turn`.

    Attributes:
        code: the cause; None: read it from the run's output, then `close_after_reading`.
        fate: what became of the reserved order; None as long as the output is not read.
    """

    code: Code | None
    fate: OrderFate | None


@dataclass(frozen=True, slots=True)
class CloseVoid:
    """Close the attempt without a failure and give its reservation back; the job waits for the busy server."""

    code: Code = Code.SERVER_BUSY
    fate: OrderFate = OrderFate.NOT_MADE


@dataclass(frozen=True, slots=True)
class SucceedWithoutOrder:
    """The certificate is there and served already: the job has succeeded."""


@dataclass(frozen=True, slots=True)
class Supersede:
    """The job ends superseded."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job ends cancelled."""


@dataclass(frozen=True, slots=True)
class WaitBusy:
    """Another run of ours or another certbot is at work: the job waits; nothing failed."""

    code: Code = Code.SERVER_BUSY


@dataclass(frozen=True, slots=True)
class Count:
    """Count the next attempt, then START it.

    Attributes:
        only_install: the certificate is there but not served: no order, so none is reserved.
    """

    only_install: bool


@dataclass(frozen=True, slots=True)
class WaitUnseen:
    """The server could not be looked at: the job waits for `code`; an open attempt stays open."""

    code: Code


Action = (
    Poll | Stop | Start | Void | Verify | CloseSucceeded | CloseUnserved | CloseFailed | CloseVoid
    | SucceedWithoutOrder | Supersede | Cancel | WaitBusy | Count
)  # fmt: skip


def decide(
    turn: Turn, look: Look, *, goal_reached: bool, served: bool | None, overdue: bool = False
) -> Action:
    """Decide what follows an answer to LOOK about attempt `turn.attempt`.

    Args:
        turn: the row, read under the guard by this claim.
        look: the answer.
        goal_reached: `goal.goal_reached` for the certificate in that very answer.
        served: whether a handshake made after it shows the certificate for every name; None: not made yet.
        overdue: the run's deadline has passed and this claim has sent no STOP.
    """
    if not turn.attempt_open:
        return _decide_closed(turn, look, goal_reached=goal_reached, served=served)
    match look.run:
        case RunState.ALIVE:
            return Stop(turn.attempt) if overdue else Poll()
        case RunState.ABSENT:
            # Never closed because it is absent: our own START may still be on its way (PROTOCOL 5 i).
            return Void(turn.attempt) if goal_reached or turn.unwanted else Start(turn.attempt)
        case RunState.ENDED | RunState.DEAD | RunState.VOID:
            if goal_reached:
                return _judge_served(look, served)
            return _close(look)
    assert_never(look.run)


def _decide_closed(turn: Turn, look: Look, *, goal_reached: bool, served: bool | None) -> Action:
    if goal_reached and served is None:
        return Verify()
    if goal_reached and served:
        return SucceedWithoutOrder()
    if turn.superseded:
        return Supersede()
    if turn.cancelled:
        return Cancel()
    # A run that lives although its attempt is closed cannot be; if it were, starting beside it would be the worst answer.
    if look.other_run or look.certbot_busy or look.run is RunState.ALIVE:
        return WaitBusy()
    return Count(only_install=goal_reached)


def _judge_served(look: Look, served: bool | None) -> Verify | CloseSucceeded | CloseUnserved:
    if served is None:
        return Verify()
    began = look.run is RunState.ENDED or (look.run is RunState.DEAD and look.begun)
    fate = OrderFate.ISSUED if began else OrderFate.NOT_MADE
    return CloseSucceeded(fate) if served else CloseUnserved(fate)


def _close(look: Look) -> CloseFailed | CloseVoid:
    if look.run is RunState.VOID:
        return CloseVoid()
    if look.run is RunState.DEAD:
        # Killed before certbot had begun: no order. After that nobody knows how far it came.
        return CloseFailed(Code.INTERRUPTED, OrderFate.UNKNOWN if look.begun else OrderFate.NOT_MADE)
    return CloseFailed(None, None)


def close_after_reading(code: Code, *, order_made: bool | None = None) -> CloseFailed | CloseVoid:
    """Complete `CloseFailed` once the output of an ENDED run was read; the goal was not reached.

    Args:
        code: what the output says.
        order_made: whether the debug log shows that the CA made an order; None: it does not say.
    """
    if code is Code.SERVER_BUSY:
        return CloseVoid()
    if order_made is False and code in (Code.INTERRUPTED, Code.OUT_OF_MEMORY):
        # certbot logs the CA's answer after it came: killed in between, its log lacks an order that was made.
        return CloseFailed(code, OrderFate.UNKNOWN)
    if order_made is not None:
        return CloseFailed(code, OrderFate.MADE if order_made else OrderFate.NOT_MADE)
    if CATALOGUE[code].spends_ca_limit:
        return CloseFailed(code, OrderFate.MADE)
    return CloseFailed(code, OrderFate.NOT_MADE if code in _NO_ORDER else OrderFate.UNKNOWN)


def decide_without_look(
    code: Code, turn: Turn, *, opened_at: datetime | None, now: datetime
) -> WaitUnseen | CloseFailed | Supersede | Cancel:
    """Decide when the server could not be looked at: unreachable, refused, busy or in error.

    Args:
        code: why; `SERVER_BUSY` for BUSY and AGENT_BUSY.
        turn: the row.
        opened_at: when the open attempt was counted, UTC; None without one.
        now: by the same clock, UTC.

    Returns:
        Without an open attempt an unwanted job ends at once: nothing of it can run any more. With one it waits, until
        the server was silent for `SILENCE`.
    """
    if turn.attempt_open:
        silent = opened_at is not None and now - opened_at >= SILENCE and code is not Code.SERVER_BUSY
        return CloseFailed(Code.INTERRUPTED, OrderFate.UNKNOWN) if silent else WaitUnseen(code)
    if turn.superseded:
        return Supersede()
    return Cancel() if turn.cancelled else WaitUnseen(code)


def end_of_turn(action: RetryAction, turn: Turn, *, still_open: bool = False) -> JobEvent:
    """What happens to the job when its turn ends without success.

    A superseded job ends superseded even where its failures would have ended it as failed or dead: its letter could
    only be removed again, and its end must not put back a status that the newer job has made `pending`. (The model asks
    for the failures first; both ends are terminal. With this order it was searched again, completely and without an
    error: two superseding jobs, any 3 faults, 1 and 2 failures allowed; "every job ends" with any 2.)

    Args:
        action: of `core.deciding.retry`, for the cause.
        turn: the row.
        still_open: an attempt stays open; then the job waits, whatever else (PROTOCOL 7: no end with an open attempt).
    """
    if still_open:
        return JobEvent.WAIT
    if turn.superseded:
        return JobEvent.SUPERSEDE
    if turn.cancelled:
        return JobEvent.CANCEL
    return {RetryAction.WAIT: JobEvent.WAIT, RetryAction.FAIL: JobEvent.FAIL, RetryAction.DEAD: JobEvent.DIE}[
        action
    ]
