"""What we publish, to the letter of DESIGN A.2, and what the feed's reader takes and refuses."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts import topology
from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from contracts.envelope import SetAside
from contracts.event_models import MAX_TEXT_CHARACTERS, SslStatusWord, StepWord
from contracts.events import (
    EventData,
    JobProgress,
    OperatorAction,
    ReceivedEvent,
    RequestRejected,
    StatusChanged,
    build_event,
    error_object,
    event_properties,
    event_type_of,
    read_event,
    routing_key_of,
)
from contracts.titles import activity_title
from workers.core.model import SslStatus, Step

NOW = datetime(2026, 11, 24, 10, 0, 0, 123456, tzinfo=UTC)
ABOUT: dict[str, Any] = {
    "site_id": "site_123", "domain": "shop.example.com", "sequence": 7, "command_id": "6f", "command_source": "/sites",
    "job_id": "0b9f",
}  # fmt: skip
ABOUT_ON_THE_WIRE = {
    "siteId": "site_123", "domain": "shop.example.com", "sequence": 7, "commandId": "6f", "commandSource": "/sites",
    "jobId": "0b9f",
}  # fmt: skip
NOTHING_KNOWN = {"domain": None, "commandId": None, "commandSource": None, "jobId": None}
ERROR = error_object(Code.DNS_NOT_RESOLVING, "www has no address.", NOW)
ERROR_ON_THE_WIRE = {
    "code": "DNS_NOT_RESOLVING",
    "message": "www has no address.",
    "fix": CATALOGUE[Code.DNS_NOT_RESOLVING].fix,
    "retryAt": "2026-11-24T10:00:00.123456Z",
}

EVENTS: dict[str, tuple[EventData, str, dict[str, Any]]] = {
    "status changed": (
        StatusChanged(**ABOUT, previous_status="pending", ssl_status="active", ssl_expiry=NOW),
        "ssl.status.changed",
        ABOUT_ON_THE_WIRE
        | {"previousStatus": "pending", "sslStatus": "active", "sslExpiry": "2026-11-24T10:00:00.123456Z", "error": None},
    ),
    "status changed, nothing but the site known": (
        StatusChanged(site_id="s", sequence=1, previous_status="none", ssl_status="none", error=ERROR),
        "ssl.status.changed",
        {"siteId": "s", "sequence": 1, **NOTHING_KNOWN, "previousStatus": "none", "sslStatus": "none",
         "sslExpiry": None, "error": ERROR_ON_THE_WIRE},
    ),
    "request rejected": (
        RequestRejected(**ABOUT, error=ERROR), "ssl.request.rejected", ABOUT_ON_THE_WIRE | {"error": ERROR_ON_THE_WIRE}
    ),
    "job progress": (
        JobProgress(**ABOUT, step="waiting", attempt=2, message="m", retry_at=NOW, error=ERROR),
        "ssl.job.progress",
        ABOUT_ON_THE_WIRE
        | {"step": "waiting", "attempt": 2, "message": "m", "retryAt": "2026-11-24T10:00:00.123456Z",
           "error": ERROR_ON_THE_WIRE},
    ),
    "operator action about no site": (
        OperatorAction(action="pause", by="alice@ops-1"),
        "ssl.operator.action",
        {"siteId": None, "sequence": None, **NOTHING_KNOWN, "action": "pause", "by": "alice@ops-1", "reason": None,
         "queue": None, "count": None},
    ),
    "operator action about a site": (
        OperatorAction(**ABOUT, action="replay", by="alice", reason="r", queue="ssl.jobs", count=1),
        "ssl.operator.action",
        ABOUT_ON_THE_WIRE | {"action": "replay", "by": "alice", "reason": "r", "queue": "ssl.jobs", "count": 1},
    ),
}  # fmt: skip


def built(data: EventData, occurred_at: datetime = NOW) -> bytes:
    return build_event(event_id="e-1", site_id=data.site_id, occurred_at=occurred_at, data=data)


@pytest.mark.parametrize(("data", "routing_key", "on_the_wire"), EVENTS.values(), ids=EVENTS)
def test_an_event_is_exactly_this_document(
    data: EventData, routing_key: str, on_the_wire: dict[str, Any]
) -> None:
    document = json.loads(built(data))
    subject = {} if data.site_id is None else {"subject": data.site_id}
    assert document == {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/certpilot",
        "type": f"com.cloudaipilot.{routing_key}.v1",
        **subject,
        "time": "2026-11-24T10:00:00.123456Z",
        "datacontenttype": "application/json",
        "data": on_the_wire,
    }
    assert routing_key_of(data) == routing_key


@pytest.mark.parametrize(("data", "routing_key", "on_the_wire"), EVENTS.values(), ids=EVENTS)
def test_an_event_is_read_back(data: EventData, routing_key: str, on_the_wire: dict[str, Any]) -> None:
    error = on_the_wire.get("error")
    assert read_event(built(data), "application/cloudevents+json") == ReceivedEvent(
        event_id="e-1",
        event_type=event_type_of(data),
        site_id=data.site_id,
        domain=data.domain,
        ssl_status=on_the_wire.get("sslStatus"),
        error_code=error and error["code"],
        sequence=data.sequence,
        occurred_at=NOW,
        data=on_the_wire,
    )


def test_the_properties_double_the_envelope() -> None:
    data = EVENTS["job progress"][0]
    properties = event_properties(event_id="e-1", site_id="site_123", data=data)
    assert (properties.message_id, properties.content_type) == ("e-1", "application/cloudevents+json")
    assert properties.headers == {
        "ce-id": "e-1", "ce-type": "com.cloudaipilot.ssl.job.progress.v1", "ce-subject": "site_123",
    }  # fmt: skip
    about_no_site = EVENTS["operator action about no site"][0]
    assert set(event_properties(event_id="e", site_id=None, data=about_no_site).headers) == {
        "ce-id",
        "ce-type",
    }


def test_times_are_utc_with_microseconds_whatever_the_zone() -> None:
    local = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    data = StatusChanged(
        **ABOUT, previous_status=SslStatus.ACTIVE, ssl_status=SslStatus.EXPIRED, ssl_expiry=local
    )
    document = json.loads(built(data, local))
    assert document["time"] == document["data"]["sslExpiry"] == "2026-11-24T10:00:00.000000Z"


def test_the_words_are_those_of_the_core() -> None:
    assert set(get_args(SslStatusWord)) == set(SslStatus)
    assert set(get_args(StepWord)) == set(Step)


def test_the_fix_comes_from_the_catalogue_and_a_blank_message_too() -> None:
    error = error_object(Code.DISK_FULL, " ")
    assert (error.message, error.fix) == (CATALOGUE[Code.DISK_FULL].means, CATALOGUE[Code.DISK_FULL].fix)


REFUSED: dict[str, tuple[type[EventData], dict[str, Any]]] = {
    "an unknown field": (RequestRejected, ABOUT | {"error": ERROR, "extra": 1}),
    "no site": (RequestRejected, {"sequence": 1, "error": ERROR}),
    "no sequence": (RequestRejected, {"site_id": "s", "error": ERROR}),
    "sequence 0": (RequestRejected, ABOUT | {"sequence": 0, "error": ERROR}),
    "a site id that no command can have": (RequestRejected, ABOUT | {"site_id": "a/b", "error": ERROR}),
    "a rejection without an error": (RequestRejected, ABOUT),
    "an unknown step": (JobProgress, ABOUT | {"step": "thinking", "attempt": 0, "message": "m"}),
    "an unknown status": (StatusChanged, ABOUT | {"previous_status": "none", "ssl_status": "ok"}),
    "an unknown action": (OperatorAction, {"action": "explode", "by": "a"}),
    "a time without a zone": (
        JobProgress,
        ABOUT | {"step": "done", "attempt": 0, "message": "m", "retry_at": NOW.replace(tzinfo=None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "fields"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_in_the_contract_is_not_published(model: type[EventData], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**fields)


def test_an_event_whose_subject_is_another_site_is_not_published() -> None:
    with pytest.raises(ValueError, match="different sites"):
        build_event(
            event_id="e", site_id="other", occurred_at=NOW, data=RequestRejected(**ABOUT, error=ERROR)
        )


@given(st.text(st.sampled_from("a\0\x1b\ud800\udfff\n\t\u202e😀"), max_size=40))
def test_whatever_certbot_said_the_event_can_be_stored(said: str) -> None:
    data = JobProgress(
        **ABOUT, step="failed", attempt=1, message=said, error=error_object(Code.INTERNAL, said)
    )
    event = read_event(built(data))
    assert activity_title(event).encode()


def test_a_long_text_is_cut() -> None:
    error = error_object(Code.INTERNAL, "x" * 1_000_000)
    assert len(error.message) == MAX_TEXT_CHARACTERS
    assert error.message.endswith("x…")


def event(**changes: Any) -> dict[str, Any]:
    """An event of a site as a later version might send it; `data__x` changes a field inside."""
    document = json.loads(built(EVENTS["status changed"][0]))
    for path, value in changes.items():
        place = document["data"] if path.startswith("data__") else document
        place[path.removeprefix("data__")] = value
    return document


TOLERATED = {
    "unknown fields": event(data__extra={"a": [1]}, traceparent="00"),
    "an unknown event of ours": event(type="com.cloudaipilot.ssl.certificate.at_risk.v1", data__error=None),
    "a step that this version does not know": event(
        type="com.cloudaipilot.ssl.job.progress.v1", data__step="thinking"
    ),
    "a code that this version does not know": event(data__error={"code": "MOON_IN_THE_WAY", "message": "m"}),
    "a domain that is not known": event(data__domain=None),
}
NOT_STORED = {
    "not JSON": (b"{", Code.MALFORMED, "The body is not JSON (line 1, column 2)."),
    "no id": (event(id=None), Code.MALFORMED, "The event does not fit: id is missing or wrong."),
    "no time": (event(time=None), Code.MALFORMED, "The event does not fit: time is missing."),
    "a wrong time": (event(time="now"), Code.MALFORMED, "The event does not fit: time is missing or wrong."),
    "somebody else's event": (
        event(source="/sites"), Code.UNKNOWN_TYPE,
        'The type "com.cloudaipilot.ssl.status.changed.v1" from "/sites" is not an event of ours.'),
    "somebody else's type": (
        event(type="com.example.x.v1"), Code.UNKNOWN_TYPE,
        'The type "com.example.x.v1" from "/certpilot" is not an event of ours.'),
    "no data": (event(data=None), Code.MALFORMED, "The event does not fit: data must be an object of storable text."),
    "a NUL somewhere, which jsonb cannot hold": (
        event(data__extra=[{"a": "x\0"}]), Code.MALFORMED,
        "The event does not fit: data must be an object of storable text."),
    "a lone surrogate in a key": (
        event(data__extra={"\ud800": 1}), Code.MALFORMED,
        "The event does not fit: data must be an object of storable text."),
    "a subject of another site": (
        event(subject="s"), Code.MALFORMED,
        "The event does not fit: data.siteId must be the site's id and equal the subject."),
    "a siteId that is none": (
        event(subject="a b", data__siteId="a b"), Code.MALFORMED,
        "The event does not fit: data.siteId must be the site's id and equal the subject."),
    "a domain that is a list": (
        event(data__domain=[]), Code.MALFORMED, "The event does not fit: data.domain must be a name or null."),
    "a sequence that is true": (
        event(data__sequence=True), Code.MALFORMED,
        "The event does not fit: data.sequence must be a whole number from 1."),
    "a sequence beyond bigint": (
        event(data__sequence=2**63), Code.MALFORMED,
        "The event does not fit: data.sequence must be a whole number from 1."),
    "a site without a sequence": (
        event(data__sequence=None), Code.MALFORMED,
        "The event does not fit: data.sequence must be there exactly where data.siteId is."),
    "an unknown status": (
        event(data__sslStatus="ok"), Code.MALFORMED,
        "The event does not fit: data.sslStatus must be one of none, pending, active, expired."),
    "a status that is a list": (
        event(data__sslStatus=["none"]), Code.MALFORMED,
        "The event does not fit: data.sslStatus must be one of none, pending, active, expired."),
    "an error without a code": (
        event(data__error={}), Code.MALFORMED, "The event does not fit: data.error must be null or have a code."),
    "an error that is text": (
        event(data__error="DNS"), Code.MALFORMED, "The event does not fit: data.error must be null or have a code."),
}  # fmt: skip


@pytest.mark.parametrize("document", TOLERATED.values(), ids=TOLERATED)
def test_a_later_version_s_event_is_stored(document: dict[str, Any]) -> None:
    received = read_event(json.dumps(document).encode())
    assert received.data == document["data"]
    assert received.event_type == document["type"]


@pytest.mark.parametrize(("document", "code", "reason"), NOT_STORED.values(), ids=NOT_STORED)
def test_what_cannot_be_stored_is_set_aside(document: Any, code: Code, reason: str) -> None:
    message = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(SetAside) as caught:
        read_event(message)
    assert (caught.value.code, caught.value.reason) == (code, reason)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["none", "waiting", "DISK_FULL"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["code", "message", "x"]), inner),
    max_leaves=4,
)  # fmt: skip
KEYS = [
    "id", "source", "type", "subject", "time", "data", "data__siteId", "data__domain", "data__sequence",
    "data__sslStatus", "data__sslExpiry", "data__previousStatus", "data__error", "data__step", "data__message",
    "data__retryAt", "data__action", "data__by", "data__count", "data__queue", "data__reason",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([data for data, _, _ in EVENTS.values()]),
    st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4),
)
def test_any_value_anywhere_is_stored_with_a_title_or_set_aside(
    data: EventData, changes: dict[str, Any]
) -> None:
    document = json.loads(built(data))
    for path, value in sorted(changes.items(), key=lambda item: "__" not in item[0]):
        place = document["data"] if path.startswith("data__") else document
        place[path.removeprefix("data__")] = value
    try:
        received = read_event(json.dumps(document).encode())
    except SetAside:
        return
    title = activity_title(received)
    assert title.encode()
    assert "\n" not in title
    assert len(title) < 1000


def test_the_names_on_the_broker() -> None:
    assert topology.EXCHANGES == ("ssl.commands", "ssl.events")
    assert topology.QUEUES == ("ssl.commands", "ssl.jobs", "ssl.activity")
    assert [topology.dead_letter_queue(queue) for queue in topology.QUEUES] == [
        "ssl.commands.dlq", "ssl.jobs.dlq", "ssl.activity.dlq",
    ]  # fmt: skip
    assert topology.BINDINGS == (("ssl.commands", "ssl.commands"), ("ssl.events", "ssl.activity"))
    assert dict(topology.QUEUE_ARGUMENTS) == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
    assert topology.MAX_COMMAND_BYTES == 256 * 1024
    assert topology.LETTER_HEADERS == (
        "certpilot-letter-id", "certpilot-code", "certpilot-reason", "certpilot-first-at", "certpilot-count",
        "certpilot-queue", "certpilot-routing-key",
    )  # fmt: skip
