"""`--wait`: the steps of one command as they happen. Needs the broker alone, no access to the database."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from contracts.envelope import SetAside
from contracts.events import ReceivedEvent, read_event
from workers.cli import output
from workers.cli.following import Follower, Seen
from workers.cli.live import AlignedLines, Spinner
from workers.cli.main import DONE, FAILED, USAGE
from workers.cli.output import Cell
from workers.edges.amqp.broker import BrokerError, BrokerUnavailableError
from workers.edges.amqp.event_watch import EventWatch
from workers.edges.amqp.publisher import OutgoingMessage, Publisher, PublishResult

_CLIENT = "certpilot-cli"
_PUBLISH_TRIES = 3
_CONFIRM_SECONDS = 10.0
_LONG_SECONDS = 100
_SPINNER_WIDTH = 2
_COLUMNS = (9, 10)  # elapsed time, step


def publish_confirmed(url: str, message: OutgoingMessage) -> None:
    """Publish one command and wait for the confirm; one without an answer is sent again under the same id.

    Raises:
        BrokerError: the broker cannot be reached, or does not take it.
    """
    publisher = Publisher(url, name=_CLIENT, confirm_seconds=_CONFIRM_SECONDS)
    result = PublishResult.UNKNOWN
    try:
        for _ in range(_PUBLISH_TRIES):
            [result] = publisher.publish_batch([message])
            if result is PublishResult.CONFIRMED:
                return
            if result is PublishResult.REFUSED:
                break
    finally:
        publisher.close()
    raise BrokerError(
        f"RabbitMQ did not confirm the command ({result}); sending it again is safe: what arrived is answered with"
        " ALREADY_PENDING"
    )


def publish_and_wait(
    url: str, message: OutgoingMessage, *, source: str, site_id: str, timeout_seconds: float, as_json: bool
) -> int:
    """Publish a command and show what becomes of it.

    Args:
        url: broker URL.
        message: the command; its message id is its CloudEvents id.
        source: its CloudEvents source.
        site_id: its site.
        timeout_seconds: how long to wait for the end, from the confirm on.
        as_json: print the CloudEvents themselves instead of sentences.

    Returns:
        The exit code: 0 active, 1 failed, rejected or superseded, 2 still waiting.

    Raises:
        BrokerError: the command was not published.
    """
    # The queue is bound before anything is published: no answer can come too early for it.
    with EventWatch(url, site_id, name=_CLIENT) as watch:
        publish_confirmed(url, message)
        waiting = _Waiting(watch, Follower(message.message_id, source), site_id, timeout_seconds)
        try:
            code = waiting.as_json(message.body) if as_json else waiting.as_lines()
        except KeyboardInterrupt:
            waiting.complain("No longer waiting.")
            raise
        if waiting.complaint:
            waiting.complain(waiting.complaint)
        return code


class _Waiting:
    """The loop. `complaint` is for standard error once the spinner is gone: why the end was not seen."""

    def __init__(self, watch: EventWatch, follower: Follower, site_id: str, timeout_seconds: float) -> None:
        self._watch = watch
        self._follower = follower
        self._site_id = site_id
        self._timeout_seconds = timeout_seconds
        self._began = time.monotonic()
        self.complaint = ""

    def as_json(self, command_body: bytes) -> int:
        output.write_json_line(output.parsed(command_body))
        return self._until_the_end(lambda body, _seen: output.write_json_line(output.parsed(body)))

    def as_lines(self) -> int:
        with Spinner(self._now_doing) as spinner:
            lines = AlignedLines(_COLUMNS, spinner.console)
            self._write(lines, Seen("sent", f"Site {self._site_id}."))
            return self._until_the_end(lambda _body, seen: self._write(lines, seen))

    def complain(self, text: str) -> None:
        status = f"`certpilot status {self._site_id}` shows how it stands"
        output.complain("wait", f"{text} The request goes on by itself; {status}.")

    def _until_the_end(self, show: Callable[[bytes, Seen], None]) -> int:
        deadline = self._began + self._timeout_seconds
        try:
            while (body := self._watch.next_body(max(0.0, deadline - time.monotonic()))) is not None:
                seen = self._look(body)
                if seen is None:
                    continue
                show(body, seen)
                if seen.succeeded is not None:
                    return DONE if seen.succeeded else FAILED
        except BrokerUnavailableError as error:
            self.complaint = f"{error}; what came since is not known here."
            return USAGE
        self.complaint = f"Still waiting after {self._timeout_seconds:g} s. {self._waits_for()}"
        return USAGE

    def _look(self, body: bytes) -> Seen | None:
        try:
            event: ReceivedEvent = read_event(body)
        except SetAside:
            return None  # not an event of ours; the activity consumer sets it aside
        return self._follower.take(event, datetime.now(UTC))

    def _write(self, lines: AlignedLines, seen: Seen) -> None:
        elapsed = Cell(self._elapsed().rjust(_COLUMNS[0]), "dim")
        lines.write(elapsed, Cell(seen.word, seen.style), Cell(seen.text))
        if seen.fix:
            lines.write(Cell(""), Cell("to do", "yellow"), Cell(seen.fix))

    def _now_doing(self) -> str:
        step = self._follower.waits_for.partition(":")[0]
        # The spinner takes two characters of the first column.
        elapsed = self._elapsed().rjust(_COLUMNS[0] - _SPINNER_WIDTH)
        return f"{elapsed}  {step or 'waiting for certpilot to take it'}"

    def _elapsed(self) -> str:
        seconds = time.monotonic() - self._began
        if seconds < _LONG_SECONDS:
            return f"{seconds:.1f} s"
        return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"

    def _waits_for(self) -> str:
        if not self._follower.waits_for:
            return "Nobody has taken the command yet (do `certpilot run intake` and `relay` run?); it stays queued."
        return f"It waits ({self._follower.waits_for.rstrip('.')})."
