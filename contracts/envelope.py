"""The CloudEvents 1.0 envelope, structured JSON: reading it strictly and writing it.

Our own few lines rather than the `cloudevents` package: its JSON format takes a missing `specversion`, repeated keys,
NaN and any nesting, and lets plain KeyError and RecursionError out, so every check below would be needed all the same.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from contracts.codes import Code
from contracts.text import is_plain
from contracts.times import TIME_PATTERN, parse_time

CONTENT_TYPE: Final = "application/cloudevents+json"
"""What we send; `application/json` and none at all are read too (DESIGN A.1)."""

DATA_CONTENT_TYPE: Final = "application/json"

EVENT_SOURCE: Final = "/certpilot"
"""The `source` of every event of ours."""

MAX_BODY_BYTES: Final = 256 * 1024
"""Larger bodies are set aside unread (DESIGN A.5, TOO_LARGE)."""

MAX_NESTING: Final = 64
"""A command nests 4 deep. Python's parser recurses, so a bomb has to be found before it starts."""

MAX_ATTRIBUTE_BYTES: Final = 1024
"""For `id` and `source`: both stand in one unique index, whose entries PostgreSQL limits to 2,704 bytes."""

SITE_ID_PATTERN: Final = "^[A-Za-z0-9._:-]{1,128}$"
_SITE_ID = re.compile(SITE_ID_PATTERN.strip("^$"))

# Strings are skipped whole; possessive, so that unbalanced quotes cost one pass and not one pass each.
_BRACKET_OR_STRING = re.compile(rb'[\[{]|[\]}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_JSON_MEDIA_TYPE = re.compile(r"application/(?:[a-z0-9.-]+\+)?json", re.IGNORECASE)


class SetAside(Exception):  # noqa: N818 - named for what follows, like the letters it becomes
    """A message that cannot be handled: it becomes a dead letter (DESIGN A.9).

    Attributes:
        code: MALFORMED, UNKNOWN_TYPE, UNSUPPORTED_CONTENT or TOO_LARGE.
        reason: one sentence for whoever looks at the letter and for the producer.
        source: the envelope's `source`, where it can be read.
        command_id: the envelope's `id`, where it can be read.
        site_id: `data.siteId`, else `subject`, where one of them can be read.
        body_hash: hex SHA-256 of `type` and `data` as sent, where source and id can be read.
    """

    def __init__(self, code: Code, reason: str, document: Any = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.source, self.command_id, self.site_id = _sender_of(document)
        self.body_hash: str | None = None
        if self.source is not None and self.command_id is not None:
            self.body_hash = canonical_hash({"type": document.get("type"), "data": document.get("data")})

    @property
    def rejectable(self) -> bool:
        """Whether the sender can be told: also reject it with INVALID_REQUEST (DESIGN A.9).

        Never for our own events: one that strayed onto the command exchange would breed the next.
        """
        readable = None not in (self.source, self.command_id, self.site_id)
        return readable and self.source != EVENT_SOURCE


def is_site_id(value: Any) -> bool:
    """Say whether a JSON value is a site's id (DESIGN A.1)."""
    return isinstance(value, str) and _SITE_ID.fullmatch(value) is not None


def is_attribute(value: Any) -> bool:
    """Say whether a JSON value can be an `id` or a `source`: not blank, storable, at most 1,024 bytes."""
    return (
        isinstance(value, str)
        and value.strip() != ""
        and is_plain(value)
        and len(value.encode()) <= MAX_ATTRIBUTE_BYTES
    )


def site_of(data: Any, subject: Any) -> str | None:
    """Find the site that a broken command is about (DESIGN A.9).

    Args:
        data: the envelope's `data`, whatever it is.
        subject: the envelope's `subject`, whatever it is.

    Returns:
        `data.siteId`, else `subject`; None where neither is a site's id.
    """
    stated = data.get("siteId") if isinstance(data, dict) else None
    return next((value for value in (stated, subject) if is_site_id(value)), None)


def _sender_of(document: Any) -> tuple[str | None, str | None, str | None]:
    if not isinstance(document, dict):
        return None, None, None
    source, command_id = document.get("source"), document.get("id")
    return (
        source if is_attribute(source) else None,
        command_id if is_attribute(command_id) else None,
        site_of(document.get("data"), document.get("subject")),
    )


def _attribute(value: str) -> str:
    if not is_attribute(value):
        raise ValueError("not an attribute")
    return value


def _rfc3339(value: str) -> str:
    parse_time(value)
    return value


def _json_media_type(value: str) -> str:
    if not _JSON_MEDIA_TYPE.fullmatch(value.partition(";")[0].strip()):
        raise ValueError("not JSON")
    return value


Attribute = Annotated[str, AfterValidator(_attribute), Field(min_length=1, max_length=MAX_ATTRIBUTE_BYTES)]
Rfc3339 = Annotated[
    str,
    AfterValidator(_rfc3339),
    # The pattern too, because most validators take `format` for a remark.
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": TIME_PATTERN}),
]


class Envelope(BaseModel):
    """The attributes of CloudEvents 1.0 that we read; extensions are ignored, null means absent (JSON format 2.2)."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    specversion: Literal["1.0"]
    id: Annotated[
        Attribute, Field(description="With `source` the idempotency key: a new id for every new request.")
    ]
    source: Annotated[Attribute, Field(description="Who sends, as a URI reference.")]
    type: str
    subject: Annotated[
        str | None, Field(description="The site's id; where present it equals `data.siteId`.")
    ] = None
    time: Annotated[Rfc3339 | None, Field(description="When it was sent.")] = None
    datacontenttype: Annotated[
        Annotated[str, AfterValidator(_json_media_type)] | None, Field(description="JSON, where present.")
    ] = None
    data: Any = None


def parse_body(body: bytes, content_type: str | None, content_encoding: str | None) -> dict[str, Any]:
    """Read a message's body as one JSON object.

    Args:
        body: the message's body.
        content_type: the AMQP property, None where the producer set none.
        content_encoding: the AMQP property, None where the producer set none.

    Returns:
        The object. All its numbers are finite, no key stands twice, it nests at most 64 deep.

    Raises:
        SetAside: TOO_LARGE (checked first), UNSUPPORTED_CONTENT or MALFORMED.
    """
    if len(body) > MAX_BODY_BYTES:
        raise SetAside(
            Code.TOO_LARGE, f"The body has {len(body):,} bytes; at most {MAX_BODY_BYTES:,} are read."
        )
    unreadable = _why_unsupported(content_type, content_encoding)
    if unreadable is not None:
        raise SetAside(Code.UNSUPPORTED_CONTENT, unreadable, _peek(body))
    document = _parse_json(body)
    if not isinstance(document, dict):
        raise SetAside(Code.MALFORMED, "The body is JSON, but not an object.")
    return document


def _peek(body: bytes) -> Any:
    """Read the sender out of a body that was labelled wrongly, so that the producer hears of it."""
    try:
        return _parse_json(body)
    except SetAside:
        return None


def _why_unsupported(content_type: str | None, content_encoding: str | None) -> str | None:
    encoding = (content_encoding or "").strip().lower()
    if encoding not in {"", "identity", "utf-8", "utf8"}:
        return f"The content encoding must be none, not {_short(content_encoding)}."
    media_type, *parameters = (content_type or CONTENT_TYPE).split(";")
    if media_type.strip().lower() not in {"", CONTENT_TYPE, DATA_CONTENT_TYPE}:
        return f"The content type must be {CONTENT_TYPE}, not {_short(content_type)}."
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in {"utf-8", "utf8"}:
            return f"The charset must be utf-8, not {_short(value)}."
    return None


def _short(text: str | None) -> str:
    return ascii((text or "")[:60])


def _parse_json(body: bytes) -> Any:
    try:
        text = body.decode(
            "utf-8-sig"
        )  # RFC 8259 8.1: a byte order mark may be ignored; .NET likes to send one
    except UnicodeDecodeError as error:
        raise SetAside(Code.MALFORMED, f"The body is not UTF-8 (byte {error.start + 1}).") from error
    if _nesting_of(body) > MAX_NESTING:
        raise SetAside(Code.MALFORMED, f"The body nests deeper than {MAX_NESTING} levels.")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SetAside(Code.MALFORMED, f"The body is not JSON ({where}).") from error
    except _StrictJsonError as error:
        raise SetAside(Code.MALFORMED, str(error)) from error
    except ValueError as error:  # Python reads no integer of more than 4,300 digits
        raise SetAside(Code.MALFORMED, "The body has a number that is out of range.") from error


class _StrictJsonError(ValueError):
    """Python's parser would take it, RFC 8259 or RFC 7493 (I-JSON) does not."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 7493 2.3: which of two equal keys counts differs between parsers, so nobody can say what was asked.
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _StrictJsonError("The body has an object in which a key stands twice.")
    return members


def _refuse_constant(constant: str) -> NoReturn:
    raise _StrictJsonError(f"The body has {constant}, which is not JSON.")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise _StrictJsonError("The body has a number that is out of range.")
    return value


# Made once: `json.loads` with hooks makes a decoder for each document.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite
)


def _nesting_of(body: bytes) -> int:
    if body.count(b"{") + body.count(b"[") <= MAX_NESTING:
        return 0
    depth = deepest = 0
    for match in _BRACKET_OR_STRING.finditer(body):
        first = match[0][0]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def canonical_hash(value: Mapping[str, Any]) -> str:
    """Hash a JSON object independently of key order and white space.

    Args:
        value: an object of JSON values; lone surrogates in strings are all right.

    Returns:
        SHA-256 in hexadecimal.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
