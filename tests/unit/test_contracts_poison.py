"""Messages that are not commands: each is set aside with its reason, and none raises anything else."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.codes import Code
from contracts.commands import ReadCommand, read_command
from contracts.envelope import MAX_BODY_BYTES, SetAside
from tests.support.command_documents import ABSENT, body, issue, renew

GOOD = body(issue())
ID = "id must be a string of 1 to 1024 bytes without control characters, not "
SOURCE = "source must be a string of 1 to 1024 bytes without control characters, not "
NESTED = "The body nests deeper than 64 levels."
TYPES = "it must be com.cloudaipilot.ssl.issue.v1 or com.cloudaipilot.ssl.renew.v1 or com.cloudaipilot.ssl.remove.v1."
DRAMATIQ = {
    "queue_name": "ssl.commands", "actor_name": "issue_ssl", "args": [], "kwargs": {}, "options": None,
    "message_id": "1", "message_timestamp": 1,
}  # fmt: skip

MALFORMED = {
    "nothing": (b"", "The body is not JSON (line 1, column 1)."),
    "not UTF-8": (b'{"id": "\xff"}', "The body is not UTF-8 (byte 9)."),
    "UTF-16": (GOOD.decode().encode("utf-16"), "The body is not UTF-8 (byte 1)."),
    "a gzip body": (b"\x1f\x8b\x08\x00", "The body is not UTF-8 (byte 2)."),
    "text": (b"hello", "The body is not JSON (line 1, column 1)."),
    "cut off": (GOOD[:-1], f"The body is not JSON (line 1, column {len(GOOD)})."),
    "two documents": (GOOD + GOOD, f"The body is not JSON (line 1, column {len(GOOD) + 1})."),
    "a raw line break in a string": (b'{"id": "a\nb"}', "The body is not JSON (line 1, column 10)."),
    "NaN": (b'{"id": NaN}', "The body has NaN, which is not JSON."),
    "Infinity": (b'{"id": -Infinity}', "The body has -Infinity, which is not JSON."),
    "a number beyond every double": (b'{"id": 1e999}', "The body has a number that is out of range."),
    "a number of 5,000 digits": (b'{"id": ' + b"9" * 5000 + b"}", "The body has a number that is out of range."),
    "a key twice": (b'{"id": "1", "id": "2"}', "The body has an object in which a key stands twice."),
    "a key twice deep inside": (
        GOOD.replace(b'"port"', b'"host"'), "The body has an object in which a key stands twice."),
    "lists 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, NESTED),
    "lists 100,000 deep, never closed": (b"[" * 100_000, NESTED),
    "objects 50,000 deep": (b'{"a":' * 50_000, NESTED),
    "a bomb inside a field that is ignored": (
        GOOD.replace(b'"user_42"', b"[" * 65 + b"]" * 65), NESTED),
    "null": (b"null", "The body is JSON, but not an object."),
    "a list": (b"[]", "The body is JSON, but not an object."),
    "a string": (b'"x"', "The body is JSON, but not an object."),
    "an empty object": (b"{}", 'specversion is missing; it must be "1.0".'),
    "a Dramatiq envelope": (body(DRAMATIQ), 'specversion is missing; it must be "1.0".'),
    "specversion 0.3": (body(issue(specversion="0.3")), 'specversion must be "1.0", not "0.3".'),
    "specversion a number": (body(issue(specversion=1.0)), 'specversion must be "1.0", not 1.0.'),
    "no id": (
        body(issue(id=ABSENT)), "id is missing; it must be a string of 1 to 1024 bytes without control characters."),
    "id null": (body(issue(id=None)), ID + "null."),
    "id a number": (body(issue(id=5)), ID + "5."),
    "id empty": (body(issue(id="")), ID + '"".'),
    "id blank": (body(issue(id="  ")), ID + '"  ".'),
    "id with a NUL": (body(issue(id="a\0")), ID + r'"a\x00".'),
    "id with a lone surrogate": (body(issue(id="\udc00")), ID + r'"\udc00".'),
    "id too long for the index": (body(issue(id="é" * 513)), ID + f'"{"é" * 60}…".'),
    "source missing": (
        body(issue(source=ABSENT)),
        "source is missing; it must be a string of 1 to 1024 bytes without control characters."),
    "source a list": (body(issue(source=["/sites"])), SOURCE + "a list of 1."),
    "type missing": (body(issue(type=ABSENT)), "type is missing; it must be a string."),
    "type null": (body(issue(type=None)), "type must be a string, not null."),
}  # fmt: skip

UNKNOWN_TYPES = {
    "a later version": (
        issue(type="com.cloudaipilot.ssl.issue.v2"), f'The type "com.cloudaipilot.ssl.issue.v2" is not known; {TYPES}'),
    "another case": (
        issue(type="com.cloudaipilot.ssl.Issue.v1"), f'The type "com.cloudaipilot.ssl.Issue.v1" is not known; {TYPES}'),
    "empty": (issue(type=""), f'The type "" is not known; {TYPES}'),
    "unknown type comes before what is wrong inside": (
        issue(type="x", time="y", data=None), f'The type "x" is not known; {TYPES}'),
}  # fmt: skip

CONTENT = "The content type must be application/cloudevents+json, not "
UNSUPPORTED = {
    "text": ("text/plain", None, CONTENT + "'text/plain'."),
    "a batch": (
        "application/cloudevents-batch+json", None, CONTENT + "'application/cloudevents-batch+json'."),
    "Avro": ("application/cloudevents+avro", None, CONTENT + "'application/cloudevents+avro'."),
    "Latin-1": ("application/json; charset=iso-8859-1", None, "The charset must be utf-8, not 'iso-8859-1'."),
    "UTF-16": ('application/json;charset="UTF-16"', None, "The charset must be utf-8, not '\"UTF-16\"'."),
    "gzip": ("application/json", "gzip", "The content encoding must be none, not 'gzip'."),
    "deflate": (None, "deflate", "The content encoding must be none, not 'deflate'."),
    "a long one is cut": ("x" * 5000, None, f"{CONTENT}'{'x' * 60}'."),
}  # fmt: skip

SUPPORTED = {
    "CloudEvents": ("application/cloudevents+json", None),
    "CloudEvents with a charset": ("application/cloudevents+json; charset=UTF-8", None),
    "JSON": ("application/json", None),
    "JSON in capitals, with a quoted charset and a parameter": (
        'Application/JSON; charset="utf8"; v=1',
        None,
    ),
    "none at all": (None, None),
    "empty": ("", ""),
    "identity": ("application/json", "identity"),
    "utf-8 as the encoding, as several clients set it": ("application/json", "UTF-8"),
}


def set_aside(message: bytes, content_type: str | None = None, encoding: str | None = None) -> SetAside:
    with pytest.raises(SetAside) as caught:
        read_command(message, content_type, encoding)
    return caught.value


@pytest.mark.parametrize(("message", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(message: bytes, reason: str) -> None:
    problem = set_aside(message)
    assert (problem.code, problem.reason) == (Code.MALFORMED, reason)


@pytest.mark.parametrize(("document", "reason"), UNKNOWN_TYPES.values(), ids=UNKNOWN_TYPES)
def test_unknown_type(document: object, reason: str) -> None:
    problem = set_aside(body(document))
    assert (problem.code, problem.reason) == (Code.UNKNOWN_TYPE, reason)


@pytest.mark.parametrize(("content_type", "encoding", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unsupported_content(content_type: str | None, encoding: str | None, reason: str) -> None:
    problem = set_aside(GOOD, content_type, encoding)
    assert (problem.code, problem.reason) == (Code.UNSUPPORTED_CONTENT, reason)


@pytest.mark.parametrize(("content_type", "encoding"), SUPPORTED.values(), ids=SUPPORTED)
def test_supported_content(content_type: str | None, encoding: str | None) -> None:
    assert read_command(GOOD, content_type, encoding).command is not None


def test_a_byte_order_mark_is_skipped() -> None:
    assert read_command(b"\xef\xbb\xbf" + GOOD).command is not None


def test_brackets_inside_strings_are_not_nesting() -> None:
    assert read_command(body(issue(note="[{" * 1000, other='"\\[' * 50))).command is not None


def test_64_levels_are_read_and_65_are_not() -> None:
    def nested(levels: int) -> bytes:  # the document itself is the first level
        return GOOD[:-1] + b', "x": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert read_command(nested(64)).command is not None
    assert set_aside(nested(65)).reason == NESTED


def test_256_kib_are_read_and_a_byte_more_is_not() -> None:
    padded = GOOD + b" " * (MAX_BODY_BYTES - len(GOOD))
    assert read_command(padded).command is not None
    problem = set_aside(padded + b" ")
    assert problem.code is Code.TOO_LARGE
    assert problem.reason == "The body has 262,145 bytes; at most 262,144 are read."


def test_size_is_checked_before_content_and_before_reading() -> None:
    problem = set_aside(b"\xff" * 50_000_000, "text/plain", "gzip")
    assert problem.code is Code.TOO_LARGE
    assert problem.site_id is None


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * MAX_BODY_BYTES,
        (b'"' + b"[") * (MAX_BODY_BYTES // 2),
        b"[" * 70 + b'"' + b'\\"' * (MAX_BODY_BYTES // 2 - 40),
        b"{" * 70 + b'"' * (MAX_BODY_BYTES - 80),
        b"[" * 70 + b"\\" * (MAX_BODY_BYTES - 80),
    ],
    ids=["brackets", "strings of brackets", "one endless string", "quotes", "backslashes"],
)
def test_no_body_takes_more_than_one_pass(bomb: bytes) -> None:
    """A pattern that starts anew at every quote would need minutes for these."""
    began = time.process_time()
    set_aside(bomb)
    assert time.process_time() - began < 2.0


TELLABLE = {
    "another specversion": (body(issue(specversion="0.3")), None, None, True),
    "an unknown type": (body(issue(type="x")), None, None, True),
    "only the subject names the site": (body(issue(type="x", data=None)), None, None, True),
    "data names the site before the subject does": (body(issue(type="x", subject="site_9")), None, None, True),
    "a wrong label on a good body": (GOOD, "text/plain", None, True),
    "a wrong encoding label on a good body": (GOOD, None, "gzip", True),
    "no id": (body(issue(id=5)), None, None, False),
    "no source": (body(issue(source=None)), None, None, False),
    "no site": (body(issue(type="x", subject=None, data={})), None, None, False),
    "an event of ours that strayed: the answer would stray too": (
        body(issue(type="com.cloudaipilot.ssl.job.progress.v1", source="/certpilot")), None, None, False),
    "not JSON": (GOOD[:-1], None, None, False),
    "not UTF-8 under a wrong label": (b"\xff", "text/plain", None, False),
    "a bomb under a wrong label": (b"[" * 100_000, "text/plain", None, False),
}  # fmt: skip


@pytest.mark.parametrize(("message", "content_type", "encoding", "tellable"), TELLABLE.values(), ids=TELLABLE)
def test_the_sender_is_told_where_it_can_be_read(
    message: bytes, content_type: str | None, encoding: str | None, tellable: bool
) -> None:
    problem = set_aside(message, content_type, encoding)
    assert problem.rejectable is tellable
    if tellable:
        assert (problem.source, problem.command_id, problem.site_id) == ("/sites", "6f1c0c0e", "site_123")
        assert problem.body_hash is not None


def test_the_reason_always_fits_into_the_headers_of_a_letter() -> None:
    hostile = body(issue(type="\u202e" * 5000))
    assert len(set_aside(hostile).reason.encode()) < 1000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["", " ", "a.com", "*.a.com", "a_b", "\ud800", "\0", "203.0.113.7", 22, 22.0, 1e308, -1, 10**400])
    | st.sampled_from(["site_123", "1.0", "com.cloudaipilot.ssl.renew.v1", "root", "-oX", "ssh-ed25519 AAAA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FIELDS = [
    "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "extra",
    "data__siteId", "data__domain", "data__aliases", "data__server", "data__requestedBy", "data__force",
    "data__server__host", "data__server__port", "data__server__username", "data__server__hostKey",
    "data__server__publicAddresses",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good command with up to four fields replaced or removed, deepest first so that each place is still there."""
    changes = draw(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES | st.just(ABSENT), max_size=4))
    ordered: dict[str, Any] = dict(sorted(changes.items(), key=lambda item: -item[0].count("__")))
    return body(draw(st.sampled_from([issue, renew]))(**ordered))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good command with bytes overwritten, inserted or cut out."""
    message = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(message)))
        message[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(message)


SET_ASIDE_CODES = {Code.MALFORMED, Code.UNKNOWN_TYPE, Code.UNSUPPORTED_CONTENT, Code.TOO_LARGE}


def is_handled(message: bytes, content_type: str | None = None, encoding: str | None = None) -> None:
    try:
        result = read_command(message, content_type, encoding)
    except SetAside as caught:
        problem = caught
    else:
        is_consistent(result)
        return
    assert problem.code in SET_ASIDE_CODES
    assert problem.reason.encode()


def is_consistent(result: ReadCommand) -> None:
    assert isinstance(result, ReadCommand)
    assert (result.command is None) != (result.rejection is None)
    assert result.site_id is not None or result.rejection is not None
    if result.rejection is not None:
        result.rejection.message.encode()


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), st.none() | st.text(max_size=40), st.none() | st.text(max_size=10))
def test_arbitrary_bytes_are_handled(message: bytes, content_type: str | None, encoding: str | None) -> None:
    is_handled(message, content_type, encoding)


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_damaged_commands_are_handled(message: bytes) -> None:
    is_handled(message)


@settings(max_examples=600, deadline=None)
@given(mutated())
def test_commands_with_any_value_in_any_field_are_handled(message: bytes) -> None:
    is_handled(message)
