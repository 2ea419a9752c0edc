"""The events that we publish (DESIGN A.2): writing them, and reading them back for the feed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, get_args

from pydantic import ValidationError

from contracts import topology
from contracts.codes import Code
from contracts.envelope import (
    CONTENT_TYPE,
    DATA_CONTENT_TYPE,
    EVENT_SOURCE,
    Envelope,
    SetAside,
    is_site_id,
    parse_body,
)
from contracts.event_models import (
    CODE_PATTERN,
    MAX_SEQUENCE,
    CertificateAtRisk,
    CertificateRenewed,
    Error,
    EventData,
    JobProgress,
    OperatorAction,
    RequestRejected,
    SslStatusWord,
    StatusChanged,
    error_object,
)
from contracts.text import is_storable, shown
from contracts.times import format_time, parse_time

__all__ = [
    "EVENT_TYPE_PREFIX",
    "ROUTING_KEYS",
    "CertificateAtRisk",
    "CertificateRenewed",
    "Error",
    "EventData",
    "EventProperties",
    "JobProgress",
    "OperatorAction",
    "ReceivedEvent",
    "RequestRejected",
    "StatusChanged",
    "build_event",
    "error_object",
    "event_properties",
    "event_type_of",
    "read_event",
    "routing_key_of",
]

EVENT_TYPE_PREFIX: Final = "com.cloudaipilot."

_EVENT_TYPE = re.compile(re.escape(EVENT_TYPE_PREFIX) + "[a-z0-9_.]{1,128}")
_CODE = re.compile(CODE_PATTERN.strip("^$"))
_STATUSES: Final = get_args(SslStatusWord)

ROUTING_KEYS: Final[Mapping[type[EventData], str]] = {
    StatusChanged: topology.STATUS_CHANGED_ROUTING_KEY,
    RequestRejected: topology.REQUEST_REJECTED_ROUTING_KEY,
    JobProgress: topology.JOB_PROGRESS_ROUTING_KEY,
    OperatorAction: topology.OPERATOR_ACTION_ROUTING_KEY,
    CertificateRenewed: topology.CERTIFICATE_RENEWED_ROUTING_KEY,
    CertificateAtRisk: topology.CERTIFICATE_AT_RISK_ROUTING_KEY,
}


def routing_key_of(data: EventData | type[EventData]) -> str:
    """Name the routing key on `ssl.events`."""
    return ROUTING_KEYS[data if isinstance(data, type) else type(data)]


def event_type_of(data: EventData | type[EventData]) -> str:
    """Name the CloudEvents `type`: the routing key with a prefix and a version."""
    return f"{EVENT_TYPE_PREFIX}{routing_key_of(data)}.v1"


def build_event(*, event_id: str, site_id: str | None, occurred_at: datetime, data: EventData) -> bytes:
    """Write an event as structured CloudEvents JSON.

    Args:
        event_id: kept by every copy, so that consumers can drop the second.
        site_id: becomes `subject`; None where it is about no site.
        occurred_at: when it became true, with a time zone.
        data: the event.

    Returns:
        The message's body.

    Raises:
        ValueError: site_id is not that of the data, or a time has no zone.
    """
    if site_id != data.site_id:
        raise ValueError("subject and data name different sites")
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": EVENT_SOURCE,
        "type": event_type_of(data),
        **({} if site_id is None else {"subject": site_id}),
        "time": format_time(occurred_at),
        "datacontenttype": DATA_CONTENT_TYPE,
        "data": data.model_dump(mode="json", by_alias=True),
    }
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class EventProperties:
    """AMQP properties of an event; the publisher adds that it is persistent.

    Attributes:
        message_id: the event's id.
        content_type: always structured CloudEvents JSON.
        headers: id, type and subject once more; no subject where it is about no site.
    """

    message_id: str
    content_type: str
    headers: dict[str, str]


def event_properties(*, event_id: str, site_id: str | None, data: EventData) -> EventProperties:
    """Give the AMQP properties that go with the body of `build_event` for the same arguments."""
    headers = {topology.EVENT_ID_HEADER: event_id, topology.EVENT_TYPE_HEADER: event_type_of(data)}
    if site_id is not None:
        headers[topology.EVENT_SUBJECT_HEADER] = site_id
    return EventProperties(event_id, CONTENT_TYPE, headers)


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event as the feed stores it, whichever version of ours published it.

    Attributes:
        event_id: its id; the same for every copy.
        event_type: its CloudEvents type, perhaps one that this version does not know.
        site_id: the site, or None.
        domain: the site's primary name, or None.
        ssl_status: the status that the event says the site has now, or None where it says nothing of it.
        error_code: the code of its error, perhaps one that this version does not know; or None.
        sequence: its number among the site's events, or None.
        occurred_at: when it became true, UTC.
        data: all of its data, unknown fields too.
    """

    event_id: str
    event_type: str
    site_id: str | None
    domain: str | None
    ssl_status: str | None
    error_code: str | None
    sequence: int | None
    occurred_at: datetime
    data: dict[str, Any]


def read_event(
    body: bytes, content_type: str | None = None, content_encoding: str | None = None
) -> ReceivedEvent:
    """Read an event of ours for the feed.

    During an upgrade a newer version publishes beside an older consumer, so fields, steps, codes and whole types that
    are not known here are stored like any other; only what the feed's own columns hold is checked.

    Args:
        body: the message's body.
        content_type: the AMQP property, None where there is none.
        content_encoding: likewise.

    Returns:
        The event.

    Raises:
        SetAside: it is not an event of ours, or could not be stored. Its `command_id` is the event's id.
    """
    document = parse_body(body, content_type, content_encoding)
    try:
        envelope = Envelope.model_validate(document)
    except ValidationError as error:
        attribute = error.errors(include_url=False)[0]["loc"][0]
        raise _unfit(document, f"{attribute} is missing or wrong") from error
    if envelope.source != EVENT_SOURCE or not _EVENT_TYPE.fullmatch(envelope.type):
        reason = f"The type {shown(envelope.type)} from {shown(envelope.source)} is not an event of ours."
        raise SetAside(Code.UNKNOWN_TYPE, reason, document)
    data = envelope.data
    # In UTF-8 that is JSON a NUL or a lone surrogate can only be written as an escape: mostly there is nothing to search.
    if not isinstance(data, dict) or (b"\\u" in body and not is_storable(data)):
        raise _unfit(document, "data must be an object of storable text")
    if envelope.time is None:
        raise _unfit(document, "time is missing")
    _check_columns(document, envelope.subject, data)
    error_object = data.get("error")
    return ReceivedEvent(
        event_id=envelope.id,
        event_type=envelope.type,
        site_id=data.get("siteId"),
        domain=data.get("domain"),
        ssl_status=data.get("sslStatus"),
        error_code=None if error_object is None else error_object["code"],
        sequence=data.get("sequence"),
        occurred_at=parse_time(envelope.time),
        data=data,
    )


def _check_columns(document: dict[str, Any], subject: str | None, data: Mapping[str, Any]) -> None:
    site_id, domain, sequence = data.get("siteId"), data.get("domain"), data.get("sequence")
    if site_id != subject or not (site_id is None or is_site_id(site_id)):
        raise _unfit(document, "data.siteId must be the site's id and equal the subject")
    if not (domain is None or isinstance(domain, str)):
        raise _unfit(document, "data.domain must be a name or null")
    if not (sequence is None or (type(sequence) is int and 1 <= sequence <= MAX_SEQUENCE)):
        raise _unfit(document, "data.sequence must be a whole number from 1")
    if (sequence is None) != (site_id is None):
        raise _unfit(document, "data.sequence must be there exactly where data.siteId is")
    if data.get("sslStatus") not in (None, *_STATUSES):
        raise _unfit(document, f"data.sslStatus must be one of {', '.join(_STATUSES)}")
    error = data.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if not (error is None or (isinstance(code, str) and _CODE.fullmatch(code))):
        raise _unfit(document, "data.error must be null or have a code")


def _unfit(document: dict[str, Any], what: str) -> SetAside:
    return SetAside(Code.MALFORMED, f"The event does not fit: {what}.", document)
