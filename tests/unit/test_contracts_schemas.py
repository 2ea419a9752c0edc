"""The committed files: they are what the code makes, they are sound, and they agree with the readers."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import topology
from contracts.asyncapi import asyncapi_document
from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from contracts.commands import COMMAND_TYPES, read_command
from contracts.envelope import SetAside
from contracts.events import EVENT_TYPE_PREFIX, read_event
from contracts.schema import schema_documents, schema_file_of
from docs import generate
from tests.support.command_documents import ABSENT, body, issue, renew

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = {
    path.name: json.loads(path.read_text("utf-8")) for path in (ROOT / "contracts/schemas").glob("*.json")
}
COMMANDS = {schema_file_of(command_type) for command_type in COMMAND_TYPES.values()}
ASYNCAPI = yaml.safe_load((ROOT / "contracts/asyncapi.yaml").read_text("utf-8"))


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        SCHEMAS[name], format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def test_no_committed_file_differs_from_what_the_code_makes() -> None:
    assert generate.stale_files() == []


def test_check_names_a_stale_file_and_generate_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("contracts/schemas", "docs"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "README.md").write_text("# x\n<!-- codes:begin -->\nold\n<!-- codes:end -->\nend\n", "utf-8")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert readme.startswith("# x\n<!-- codes:begin -->\n| code |")
    assert readme.endswith("|\n<!-- codes:end -->\nend\n")
    capsys.readouterr()

    (tmp_path / "docs/errors.md").write_text("edited", "utf-8")
    (tmp_path / "contracts/schemas/ssl.gone.v1.json").write_text("{}", "utf-8")
    (tmp_path / "contracts/schemas/ssl.issue.v1.json").unlink()
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "contracts/schemas/ssl.issue.v1.json is stale: run `make generate`",
        "docs/errors.md is stale: run `make generate`",
        "contracts/schemas/ssl.gone.v1.json is stale: run `make generate`",
    ]
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert not (tmp_path / "contracts/schemas/ssl.gone.v1.json").exists()


def test_a_readme_without_markers_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("# x\n", "utf-8")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert tmp_path / "README.md" not in generate.generated_files()


def test_every_code_has_a_row_in_the_catalogue_and_in_the_document() -> None:
    assert set(CATALOGUE) == set(Code)
    text = (ROOT / "docs/errors.md").read_text("utf-8")
    for code in Code:
        assert text.count(f"| `{code}` |") == 1


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_sound_and_every_example_is_valid(name: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:cloudaipilot:{name.removesuffix('.json')}"
    assert schema["examples"]
    for example in schema["examples"]:
        validator(name).validate(example)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_example_of_a_command_is_read(name: str) -> None:
    for example in SCHEMAS[name]["examples"]:
        result = read_command(json.dumps(example).encode())
        assert result.command is not None or result.rejection.code is Code.NO_DOMAIN


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - COMMANDS))
def test_an_example_of_an_event_is_read(name: str) -> None:
    for example in SCHEMAS[name]["examples"]:
        assert read_event(json.dumps(example).encode()).data == example["data"]


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - COMMANDS))
def test_a_consumer_s_schema_misses_no_field_and_stays_open(name: str) -> None:
    example = SCHEMAS[name]["examples"][0]
    for field in example["data"]:
        broken = copy.deepcopy(example)
        del broken["data"][field]
        assert not validator(name).is_valid(broken), field
    grown = copy.deepcopy(example)
    grown["data"]["addedLater"] = grown["addedlater"] = 1
    validator(name).validate(grown)


VALID = {
    "the example of the contract": issue(),
    "domain null": issue(data__domain=None),
    "domain blank": issue(data__domain=""),
    "no domain": issue(data__domain=ABSENT),
    "unknown fields": issue(data__x=1, y=2),
    "nulls for what is optional": issue(subject=None, time=None, data__aliases=None, data__server__port=None),
    "renew with nothing but the site": renew(),
    "renew with nulls": renew(data__domain=None, data__aliases=None, data__server=None),
    "a server by IPv6 and public addresses": issue(
        data__server={"host": "2001:db8::1", "publicAddresses": ["198.51.100.7", "2001:db8::2"]}
    ),
}
INVALID = {
    "no server": issue(data__server=ABSENT),
    "server null": issue(data__server=None),
    "no siteId": renew(data__siteId=ABSENT),
    "siteId with a space": issue(data__siteId="a b"),
    "port as text": issue(data__server__port="22"),
    "port 0": issue(data__server__port=0),
    "host an option": issue(data__server__host="-oProxyCommand=x"),
    "host with a space": issue(data__server__host="a b"),
    "a username that is none": issue(data__server__username="Root"),
    "a host key without its type": issue(data__server__hostKey="AAAA"),
    "a public address that is a name": issue(data__server__publicAddresses=["web1"]),
    "aliases as text": issue(data__aliases="a.com"),
    "a blank alias": issue(data__aliases=[""]),
    "100 aliases": issue(data__aliases=["a.com"] * 100),
    "force as text": renew(data__force="yes"),
    "another type": issue(type="x"),
    "another specversion": issue(specversion="0.3"),
    "no id": issue(id=ABSENT),
    "time not RFC 3339": issue(time="yesterday"),
    "time without a zone": issue(time="2026-11-24T10:00:00"),
}


def schema_of(document: dict[str, Any]) -> str:
    return "ssl.renew.v1.json" if "renew" in document["type"] else "ssl.issue.v1.json"


@pytest.mark.parametrize("document", VALID.values(), ids=VALID)
def test_a_producer_may_send(document: dict[str, Any]) -> None:
    validator(schema_of(document)).validate(document)
    rejection = read_command(body(document)).rejection
    assert rejection is None or rejection.code is Code.NO_DOMAIN


@pytest.mark.parametrize("document", INVALID.values(), ids=INVALID)
def test_a_producer_is_stopped_before_sending(document: dict[str, Any]) -> None:
    assert not validator(schema_of(document)).is_valid(document)


FIELDS = ["port", "username", "host", "publicAddresses"]


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.none() | st.booleans() | st.integers(-5, 70000) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5) | st.lists(st.sampled_from(["1.2.3.4", "::1", "x", 4]), max_size=3),
        max_size=2,
    )
)  # fmt: skip
def test_what_the_reader_takes_the_schema_takes_too(server: dict[str, Any]) -> None:
    document = issue(data__server={"host": "web1", **server})
    try:
        rejection = read_command(body(document)).rejection
    except SetAside:
        return
    if rejection is None:
        validator("ssl.issue.v1.json").validate(document)


def resolve(reference: str) -> Any:
    place: Any = ASYNCAPI
    file, _, pointer = reference.partition("#")
    if file:
        place = json.loads((ROOT / "contracts" / file).read_text("utf-8"))
    for step in pointer.split("/")[1:]:
        place = place[step]
    return place


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [reference for member in node for reference in references(member)]
    if not isinstance(node, dict):
        return []
    here = [node["$ref"]] if "$ref" in node else []
    return here + [reference for member in node.values() for reference in references(member)]


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    found = references(ASYNCAPI)
    assert len(found) >= 4 * len(SCHEMAS)
    for reference in found:
        assert isinstance(resolve(reference), dict), reference
    with pytest.raises(KeyError):
        resolve("#/components/messages/Nothing")


def test_the_asyncapi_document_has_the_parts_that_version_3_asks_for() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert set(ASYNCAPI["info"]) >= {"title", "version"}
    assert len(ASYNCAPI["channels"]) == len(ASYNCAPI["operations"]) == len(SCHEMAS)
    for operation in ASYNCAPI["operations"].values():
        channel = resolve(operation["channel"]["$ref"])
        (message,) = [resolve(resolve(each["$ref"])["$ref"]) for each in operation["messages"]]
        binding = channel["bindings"]["amqp"]
        is_command = operation["action"] == "receive"
        exchange = topology.COMMANDS_EXCHANGE if is_command else topology.EVENTS_EXCHANGE
        assert binding["is"] == "routingKey"
        assert binding["exchange"] == {
            "name": exchange,
            "type": "topic",
            "durable": True,
            "autoDelete": False,
        }
        assert message["name"] == f"{EVENT_TYPE_PREFIX}{channel['address']}.v1"
        assert message["contentType"] == "application/cloudevents+json"
        schema = resolve(message["payload"]["schema"]["$ref"])
        assert schema["properties"]["type"]["const"] == message["name"]
        assert (schema_file_of(message["name"]) in COMMANDS) is is_command


def test_the_routing_keys_are_those_of_the_contract() -> None:
    assert {channel["address"] for channel in ASYNCAPI["channels"].values()} == {
        "ssl.issue", "ssl.renew", "ssl.remove", "ssl.status.changed", "ssl.request.rejected", "ssl.job.progress",
        "ssl.operator.action", "ssl.certificate.renewed", "ssl.certificate.at_risk",
    }  # fmt: skip


def test_the_yaml_says_what_the_code_says() -> None:
    assert asyncapi_document() == ASYNCAPI
    assert schema_documents() == SCHEMAS
