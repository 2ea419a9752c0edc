"""A change of a schema must not break those who were built on the first version of the contract.

The baseline in fixtures/contracts/v1 is what was promised; it is extended when a message is added and never edited.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.commands import COMMAND_TYPES, read_command
from contracts.schema import schema_documents, schema_file_of
from tests.support.schema_compatibility import objections_to_command, objections_to_event

BASELINE = Path(__file__).parent / "fixtures" / "contracts" / "v1"
COMMAND_FILES = {schema_file_of(command_type) for command_type in COMMAND_TYPES.values()}
FILES = sorted(path.name for path in BASELINE.glob("*.json"))


def baseline(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((BASELINE / name).read_text("utf-8"))
    return schema


def objections(name: str, new: dict[str, Any]) -> list[str]:
    judge = objections_to_command if name in COMMAND_FILES else objections_to_event
    return judge(baseline(name), new)


def test_every_message_has_a_baseline() -> None:
    assert sorted(schema_documents()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_the_schemas_of_today_fit_those_who_were_built_on_version_1(name: str) -> None:
    assert objections(name, schema_documents()[name]) == []


@pytest.mark.parametrize("name", sorted(COMMAND_FILES))
def test_what_version_1_called_a_good_command_is_still_read(name: str) -> None:
    examples = baseline(name)["examples"]
    assert examples
    for example in examples:
        result = read_command(json.dumps(example).encode())
        assert result.rejection is None or result.rejection.code == "NO_DOMAIN"


Change = Callable[[dict[str, Any]], object]


def data(schema: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = schema["properties"]["data"]
    return fields


def server(schema: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = schema["$defs"]["ServerData"]
    return fields


BREAKS_A_COMMAND: dict[str, tuple[Change, str]] = {
    "a field removed": (
        lambda s: data(s)["properties"].pop("aliases"), ".data.aliases: removed"),
    "a field of the server removed": (
        lambda s: server(s)["properties"].pop("hostKey"), ".data.server.hostKey: removed"),
    "a new field that is required": (
        lambda s: (data(s)["properties"].update(plan={"type": "string"}), data(s)["required"].append("plan")),
        ".data.plan: now required"),
    "an old field that is now required": (
        lambda s: data(s)["required"].append("domain"), ".data.domain: now required"),
    "null no longer accepted": (
        lambda s: data(s)["properties"]["domain"].update(type="string"), ".data.domain: null is no longer accepted"),
    "another type": (
        lambda s: server(s)["properties"]["port"].update(anyOf=[{"type": "string"}, {"type": "null"}]),
        ".data.server.port: integer is no longer accepted"),
    "fewer values": (
        lambda s: data(s)["properties"]["requestedBy"].update(anyOf=[{"enum": ["me"], "type": "string", "maxLength": 256},
                                                                   {"type": "null"}]),
        ".data.requestedBy: values were any, are ['me']"),
    "a smaller maximum": (
        lambda s: data(s)["properties"]["aliases"].update(maxItems=10), ".data.aliases: maxItems was 99, is 10"),
    "a smaller maximum of a number": (
        lambda s: server(s)["properties"]["port"]["anyOf"][0].update(maximum=1024),
        ".data.server.port: maximum was 65535, is 1024"),
    "a larger minimum": (
        lambda s: server(s)["properties"]["port"]["anyOf"][0].update(minimum=22),
        ".data.server.port: minimum was 1, is 22"),
    "another pattern": (
        lambda s: data(s)["properties"]["siteId"].update(pattern="^[a-z]+$"),
        ".data.siteId: pattern was ^[A-Za-z0-9._:-]{1,128}$, is ^[a-z]+$"),
    "a stricter item": (
        lambda s: data(s)["properties"]["aliases"]["items"].update(minLength=5),
        ".data.aliases[]: minLength was 1, is 5"),
    "another type string": (
        lambda s: s["properties"]["type"].update(const="com.cloudaipilot.ssl.issue.v2"),
        ".type: values were ['com.cloudaipilot.ssl.issue.v1'], are ['com.cloudaipilot.ssl.issue.v2']"),
    "closed to unknown fields": (
        lambda s: data(s).update(additionalProperties=False),
        ".data: closed to fields that a later version adds"),
}  # fmt: skip

FITS_A_COMMAND: dict[str, Change] = {
    "a new optional field": lambda s: data(s)["properties"].update(profile={"type": "string"}),
    "one field less required": lambda s: data(s)["required"].remove("server"),
    "a type more": lambda s: data(s)["properties"]["domain"].update(type=["string", "null", "array"]),
    "a larger maximum": lambda s: data(s)["properties"]["aliases"].update(maxItems=999),
    "no maximum": lambda s: data(s)["properties"]["aliases"].pop("maxItems"),
    "no pattern": lambda s: data(s)["properties"]["siteId"].pop("pattern"),
    "another description": lambda s: data(s)["properties"]["siteId"].update(description="x"),
}

BREAKS_AN_EVENT: dict[str, tuple[Change, str]] = {
    "a field removed": (
        lambda s: (data(s)["properties"].pop("sslExpiry"), data(s)["required"].remove("sslExpiry")),
        ".data.sslExpiry: removed"),
    "a field of the error removed": (
        lambda s: s["$defs"]["Error"]["properties"].pop("fix"), ".data.error.fix: removed"),
    "an attribute removed": (lambda s: s["properties"].pop("subject"), ".subject: removed"),
    "a field that is no longer always there": (
        lambda s: data(s)["required"].remove("jobId"), ".data.jobId: no longer always there"),
    "null where there was none": (
        lambda s: data(s)["properties"]["sequence"].update(type=["integer", "null"]), ".data.sequence: null is new"),
    "another type": (
        lambda s: data(s)["properties"]["sequence"].update(type="string"), ".data.sequence: string is new"),
    "a status that nobody knows": (
        lambda s: data(s)["properties"]["sslStatus"]["enum"].append("revoked"),
        (".data.sslStatus: values were ['none', 'pending', 'active', 'expired'],"
         " are ['none', 'pending', 'active', 'expired', 'revoked']")),
    "a word where any of a few was promised": (
        lambda s: data(s)["properties"]["sslStatus"].pop("enum"),
        ".data.sslStatus: values were ['none', 'pending', 'active', 'expired'], are any"),
    "another time format": (
        lambda s: s["properties"]["time"].pop("format"), ".time: format was date-time, is None"),
    "another pattern": (
        lambda s: s["$defs"]["Error"]["properties"]["code"].update(pattern=".*"),
        ".data.error.code: pattern was ^[A-Z][A-Z0-9_]{1,63}$, is .*"),
    "a larger maximum": (
        lambda s: data(s)["properties"]["sequence"].pop("maximum"),
        ".data.sequence: maximum was 9223372036854775807, is None"),
    "another type string": (
        lambda s: s["properties"]["type"].update(const="x"),
        ".type: values were ['com.cloudaipilot.ssl.status.changed.v1'], are ['x']"),
    "another source": (
        lambda s: s["properties"]["source"].update(const="/other"),
        ".source: values were ['/certpilot'], are ['/other']"),
}  # fmt: skip

FITS_AN_EVENT: dict[str, Change] = {
    "a new field": lambda s: data(s)["properties"].update(by={"type": "string"}),
    "a new field that is always there": lambda s: (
        data(s)["properties"].update(by={"type": "string"}),
        data(s)["required"].append("by"),
    ),
    "null no longer sent": lambda s: data(s)["properties"]["domain"].update(anyOf=[{"type": "string"}]),
    "fewer statuses": lambda s: data(s)["properties"]["sslStatus"]["enum"].remove("pending"),
}


def changed(name: str, change: Change) -> dict[str, Any]:
    schema = copy.deepcopy(baseline(name))
    change(schema)
    assert schema != baseline(name)
    return schema


@pytest.mark.parametrize(("change", "objection"), BREAKS_A_COMMAND.values(), ids=BREAKS_A_COMMAND)
def test_a_change_that_refuses_old_producers_is_found(change: Change, objection: str) -> None:
    name = "ssl.issue.v1.json"
    assert objections(name, changed(name, change)) == [objection]


@pytest.mark.parametrize("change", FITS_A_COMMAND.values(), ids=FITS_A_COMMAND)
def test_a_change_that_asks_producers_for_less_is_allowed(change: Change) -> None:
    name = "ssl.issue.v1.json"
    assert objections(name, changed(name, change)) == []


@pytest.mark.parametrize(("change", "objection"), BREAKS_AN_EVENT.values(), ids=BREAKS_AN_EVENT)
def test_a_change_that_surprises_old_consumers_is_found(change: Change, objection: str) -> None:
    name = "ssl.status.changed.v1.json"
    assert objections(name, changed(name, change)) == [objection]


@pytest.mark.parametrize("change", FITS_AN_EVENT.values(), ids=FITS_AN_EVENT)
def test_a_change_that_promises_consumers_more_is_allowed(change: Change) -> None:
    name = "ssl.status.changed.v1.json"
    assert objections(name, changed(name, change)) == []
