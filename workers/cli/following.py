"""What the events of one command mean for whoever waits for it: a line each, and whether that was the end. No I/O."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.events import (
    JobProgress,
    OperatorAction,
    ReceivedEvent,
    RequestRejected,
    StatusChanged,
    event_type_of,
)
from contracts.times import parse_time
from workers.cli import output

_STATUS_CHANGED = event_type_of(StatusChanged)
_REJECTED = event_type_of(RequestRejected)
_PROGRESS = event_type_of(JobProgress)
_ACTION = event_type_of(OperatorAction)

_STEP_STYLES = {"waiting": "yellow", "failed": "red", "superseded": "red", "done": "green"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One event as a line.

    Attributes:
        word: the step or status.
        text: what happened.
        fix: what to do about it; empty where nothing has to be done.
        style: rich's style of the word.
        succeeded: how it ended; None: it goes on.
    """

    word: str
    text: str
    fix: str = ""
    style: str = ""
    succeeded: bool | None = None


class Follower:
    """Picks the events of one command out of its site's, and tells the end.

    A command that joins a job is answered under its own id once, with the job's id; the job's later events carry the
    id of the command that made it. So both ids are followed.

    Attributes:
        job_id: the job that works for the command, as soon as that is known.
        waits_for: what is going on, for the spinner and the time-out.
    """

    def __init__(self, command_id: str, source: str) -> None:
        """Follow the command with this CloudEvents id and source."""
        self._command = (command_id, source)
        self._seen_ids: set[str] = set()
        self._last_step = ""
        self.job_id: str | None = None
        self.waits_for = ""

    def take(self, event: ReceivedEvent, now: datetime) -> Seen | None:
        """Look at the site's next event.

        Args:
            event: as published; copies are dropped by their id.
            now: for showing times.

        Returns:
            What it says; None where it is about something else.
        """
        if event.event_id in self._seen_ids or not self._is_ours(event):
            return None
        self._seen_ids.add(event.event_id)
        if event.event_type == _REJECTED:
            return _rejected(event, now)
        if event.event_type == _STATUS_CHANGED:
            return self._status(event)
        if event.event_type == _PROGRESS:
            return self._progress(event, now)
        if event.event_type == _ACTION:
            by, reason = _text(event.data, "by"), _text(event.data, "reason")
            return Seen(_text(event.data, "action"), f"by {by}" + (f": {reason}" if reason else ""))
        return None

    def _is_ours(self, event: ReceivedEvent) -> bool:
        job_id = event.data.get("jobId")
        if (event.data.get("commandId"), event.data.get("commandSource")) == self._command:
            if isinstance(job_id, str):
                self.job_id = job_id
            return True
        return self.job_id is not None and job_id == self.job_id

    def _progress(self, event: ReceivedEvent, now: datetime) -> Seen:
        step, message = _text(event.data, "step"), _text(event.data, "message")
        self._last_step = step
        fix = ""
        if step == "waiting":
            message = _problem(event) or message
            retry_at = _instant(event.data, "retryAt")
            if retry_at is not None:
                message += f" Next try {output.moment_of(retry_at, now)}."
            fix = _text(_error(event), "fix")
        self.waits_for = f"{step}: {message}"
        style = _STEP_STYLES.get(step, "")
        return Seen(step, message, fix, style, succeeded=False if step == "superseded" else None)

    def _status(self, event: ReceivedEvent) -> Seen:
        """Tell the beginning from the end: only an accepted command makes a site pending that was not."""
        status = event.ssl_status or ""
        begins = status == "pending" and event.data.get("previousStatus") != "pending"
        if begins and event.error_code is None:
            self.waits_for = "pending: accepted"
            return Seen(status, "Accepted.", style="cyan")
        expiry = _instant(event.data, "sslExpiry")
        # A cancelled renewal ends active and without an error as well: what its last step was tells them apart.
        # With one, a site that was not active before has its certificate, and something else is left to be mended.
        well = event.error_code is None or event.data.get("previousStatus") != "active"
        if status == "active" and well and self._last_step != "failed":
            until = f" until {output.day_of(expiry)}" if expiry else ""
            fix = _fix_at_the_end(event)
            return Seen(status, f"The certificate is served{until}.", fix, "bold green", succeeded=True)
        if status == "none" and event.error_code is None and self._last_step != "failed":
            return Seen(status, "The certificate is removed.", style="bold green", succeeded=True)
        return Seen(
            status, _what_is_left(status, expiry), _fix_at_the_end(event), style="bold red", succeeded=False
        )


def _rejected(event: ReceivedEvent, now: datetime) -> Seen:
    text = _problem(event)
    retry_at = _instant(_error(event), "retryAt")
    if retry_at is not None:
        text += f" Of use again {output.moment_of(retry_at, now)}."
    return Seen("rejected", text, _text(_error(event), "fix"), "bold red", succeeded=False)


def _what_is_left(status: str, expiry: datetime | None) -> str:
    """Say what the site has after a job that got it no certificate; why, its last step said."""
    match status:
        case "active":
            until = f" until {output.day_of(expiry)}" if expiry else ""
            return f"Not renewed; the certificate that is there stays valid{until}."
        case "expired":
            return "No new certificate; the old one has expired."
        case "pending":
            return "This job is over; a newer request works for the site."
        case _:
            return "The site has no certificate."


def _fix_at_the_end(event: ReceivedEvent) -> str:
    problem, fix = _problem(event), _text(_error(event), "fix")
    return f"{problem} {fix}".strip()


def _problem(event: ReceivedEvent) -> str:
    error = _error(event)
    code, message = _text(error, "code"), _text(error, "message")
    return f"{code}: {message}" if code else ""


def _error(event: ReceivedEvent) -> dict[str, Any]:
    error = event.data.get("error")
    return error if isinstance(error, dict) else {}


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _instant(data: dict[str, Any], key: str) -> datetime | None:
    try:
        return parse_time(_text(data, key))
    except ValueError:
        return None
