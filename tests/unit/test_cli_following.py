"""What the events of a command mean for `--wait`: whose they are, which of them is the end, and which end."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from contracts.codes import Code
from contracts.events import (
    EventData,
    JobProgress,
    OperatorAction,
    ReceivedEvent,
    RequestRejected,
    StatusChanged,
    build_event,
    error_object,
    read_event,
)
from workers.cli.following import Follower, Seen

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 24, 12, 31, tzinfo=UTC)
EXPIRY = datetime(2027, 2, 22, 12, 0, tzinfo=UTC)
MINE = {"command_id": "mine", "command_source": "/cli"}


def event(data: EventData, event_id: str | None = None) -> ReceivedEvent:
    body = build_event(event_id=event_id or str(uuid4()), site_id="site_1", occurred_at=NOW, data=data)
    return read_event(body)


def progress(step: str, message: str = "A message.", job: str | None = "job-1", **fields: Any) -> JobProgress:
    values = MINE | {"site_id": "site_1", "sequence": 1, "job_id": job, "attempt": 0}
    return JobProgress(**(values | {"step": step, "message": message} | fields))


def status(
    before: str, now: str, code: Code | None = None, job: str | None = "job-1", **fields: Any
) -> StatusChanged:
    values = MINE | {"site_id": "site_1", "sequence": 1, "job_id": job}
    return StatusChanged(
        previous_status=before, ssl_status=now, error=code and error_object(code, "Found it."),
        **(values | {"ssl_expiry": EXPIRY if now in ("active", "expired") else None} | fields),
    )  # fmt: skip


def rejected(code: Code, retry_at: datetime | None = None, **fields: Any) -> RequestRejected:
    values = MINE | {"site_id": "site_1", "sequence": 1}
    return RequestRejected(error=error_object(code, "Found it.", retry_at), **(values | fields))


def seen(*events: EventData) -> list[Seen]:
    follower = Follower("mine", "/cli")
    taken = [follower.take(event(data), NOW) for data in events]
    return [one for one in taken if one is not None]


ACCEPTED = (status("none", "pending"), progress("queued"))


@pytest.mark.parametrize(
    ("events", "succeeded"),
    [
        pytest.param(ACCEPTED, None, id="accepted: not the end"),
        pytest.param((*ACCEPTED, progress("waiting", error=error_object(Code.DNS_WRONG_SERVER, "x"))), None, id="waiting"),
        pytest.param((*ACCEPTED, progress("done"), status("pending", "active")), True, id="issued"),
        pytest.param(
            (*ACCEPTED, progress("done"), status("pending", "active", Code.CLOUDFLARE_FLEXIBLE_LOOP)), True,
            id="issued, and something is left to be mended",
        ),
        pytest.param((progress("queued"), progress("done"), status("active", "active")), True, id="renewed"),
        pytest.param((*ACCEPTED, progress("failed"), status("pending", "none", Code.CAA_FORBIDS)), False, id="failed"),
        pytest.param(
            (progress("queued"), progress("failed"), status("active", "active", Code.CAA_FORBIDS)), False,
            id="renewal failed: active all the same",
        ),
        pytest.param(
            (progress("queued"), progress("failed"), status("active", "active")), False,
            id="renewal cancelled: active and no error",
        ),
        pytest.param((*ACCEPTED, progress("failed"), status("pending", "none")), False, id="cancelled"),
        pytest.param(
            (*ACCEPTED, progress("failed"), status("pending", "pending", Code.CAA_FORBIDS)), False,
            id="failed while a newer job works for the site",
        ),
        pytest.param(
            (*ACCEPTED, progress("done"), status("pending", "pending")), False,
            id="issued for a request that a newer one has replaced",
        ),
        pytest.param((*ACCEPTED, progress("failed"), status("pending", "expired")), False, id="expired"),
        pytest.param((*ACCEPTED, progress("superseded", "Superseded by job job-2.")), False, id="superseded"),
        pytest.param((rejected(Code.ALREADY_ACTIVE),), False, id="rejected"),
    ],
)  # fmt: skip
def test_end_and_its_meaning(events: tuple[EventData, ...], succeeded: bool | None) -> None:
    found = seen(*events)
    assert len(found) == len(events)
    assert [one.succeeded for one in found] == [None] * (len(events) - 1) + [succeeded]


def test_joined_job_is_followed_by_its_id_although_its_events_name_another_command() -> None:
    others = {"command_id": "first", "command_source": "/sites"}
    found = seen(
        progress("connecting", **others),  # before we joined: not ours
        progress("queued", "Checking now."),
        progress("connecting", **others),
        status("pending", "active", **others),
    )
    assert [one.word for one in found] == ["queued", "connecting", "active"]
    assert found[-1].succeeded is True


@pytest.mark.parametrize(
    "other",
    [
        status("pending", "active", job="job-2", command_id="other"),
        status("pending", "active", job="job-2", command_source="/other"),
        status("active", "expired", job=None, command_id=None, command_source=None),
        rejected(Code.ALREADY_PENDING, command_id="other"),
        progress("superseded", job="job-0", command_id=None, command_source=None),
    ],
)
def test_other_events_of_the_site_are_no_end(other: EventData) -> None:
    assert [one.word for one in seen(*ACCEPTED, other)] == ["pending", "queued"]


def test_copy_of_an_event_is_not_shown_twice() -> None:
    follower = Follower("mine", "/cli")
    copy = event(progress("queued"), "one-id")
    assert follower.take(copy, NOW) is not None
    assert follower.take(copy, NOW) is None


def test_wait_says_what_for_until_when_and_what_to_do() -> None:
    error = error_object(Code.DNS_WRONG_SERVER, "www points to 192.0.2.1.", LATER)
    follower = Follower("mine", "/cli")
    [line] = [follower.take(event(progress("waiting", "raw", error=error, retry_at=LATER)), NOW)]
    assert line == Seen(
        "waiting", "DNS_WRONG_SERVER: www points to 192.0.2.1. Next try 12:31 UTC.", error.fix, "yellow"
    )
    assert follower.waits_for == f"waiting: {line.text}"


def test_rejection_says_code_message_fix_and_when_it_is_of_use_again() -> None:
    [line] = seen(rejected(Code.ALREADY_PENDING, LATER))
    assert (line.word, line.text) == ("rejected", "ALREADY_PENDING: Found it. Of use again 12:31 UTC.")
    assert line.fix == "Wait for it to finish; the activity feed shows each step."


def test_end_says_what_the_site_has() -> None:
    texts = {
        now: seen(
            progress("failed"), status("active" if now == "active" else "pending", now, Code.CAA_FORBIDS)
        )[-1]
        for now in ("none", "active", "expired", "pending")
    }
    assert texts["none"].text == "The site has no certificate."
    assert texts["active"].text == "Not renewed; the certificate that is there stays valid until 22 Feb 2027."
    assert texts["expired"].text == "No new certificate; the old one has expired."
    assert texts["pending"].text == "This job is over; a newer request works for the site."
    assert texts["none"].fix.startswith("CAA_FORBIDS: Found it. Add `0 issue")
    assert seen(status("pending", "active"))[-1].text == "The certificate is served until 22 Feb 2027."


def test_operator_who_cancels_is_named() -> None:
    action = OperatorAction(
        site_id="site_1", sequence=1, job_id="job-1", action="cancel", by="me@host", reason="mistake", **MINE
    )
    [_, line] = seen(progress("queued"), action)
    assert (line.word, line.text, line.succeeded) == ("cancel", "by me@host: mistake", None)
