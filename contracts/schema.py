"""The committed JSON Schemas (draft 2020-12), one per command and event, made from the models.

They are for others: a producer validates a command before sending it, a consumer an event that it got. Both stay open
for fields that a later version adds. Some rules of commands (a host name, a key's inside) are tighter in
`contracts.commands` than a schema can say; what a schema accepts may still be refused, with the field's name.
"""

from typing import Any, Final

from contracts.commands import COMMAND_MODELS, COMMAND_TYPES, CommandKind
from contracts.envelope import DATA_CONTENT_TYPE, EVENT_SOURCE, SITE_ID_PATTERN, Envelope
from contracts.events import EVENT_TYPE_PREFIX, ROUTING_KEYS, EventData, OperatorAction, event_type_of
from contracts.examples import command_examples, event_examples

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_COMMAND_TITLES: Final = {
    CommandKind.ISSUE: "IssueSSL",
    CommandKind.RENEW: "RenewSSL",
    CommandKind.REMOVE: "RemoveSSL",
}


def schema_file_of(message_type: str) -> str:
    """Name the file of a message's schema: its type without the prefix."""
    return f"{message_type.removeprefix(EVENT_TYPE_PREFIX)}.json"


def schema_documents() -> dict[str, dict[str, Any]]:
    """Make all schemas.

    Returns:
        File name to schema, commands first.
    """
    documents = {schema_file_of(COMMAND_TYPES[kind]): command_schema(kind) for kind in CommandKind}
    documents |= {schema_file_of(event_type_of(model)): event_schema(model) for model in ROUTING_KEYS}
    return documents


def command_schema(kind: CommandKind) -> dict[str, Any]:
    """Make the schema of a command as producers send it.

    Args:
        kind: which command.

    Returns:
        The schema of the whole CloudEvents document.
    """
    data = COMMAND_MODELS[kind].model_json_schema(mode="validation")
    schema = _document(COMMAND_TYPES[kind], _COMMAND_TITLES[kind], data, list(command_examples()[kind]))
    schema["required"] = ["specversion", "id", "source", "type", "data"]
    return schema


def event_schema(model: type[EventData]) -> dict[str, Any]:
    """Make the schema of an event as consumers get it.

    Args:
        model: the model of its data.

    Returns:
        The schema of the whole CloudEvents document; every field that we always send is required.
    """
    data = model.model_json_schema(mode="serialization")
    schema = _document(event_type_of(model), model.__name__, data, list(event_examples()[model]))
    properties = schema["properties"]
    properties["id"] = properties["id"] | {"description": "The same in every copy of the event."}
    properties["source"] = {"const": EVENT_SOURCE, "description": "Always ours."}
    properties["subject"] = {
        "type": "string",
        "pattern": SITE_ID_PATTERN,
        "description": "The site's id; absent where it is about no site.",
    }
    properties["time"] = {"type": "string", "format": "date-time", "pattern": "Z$", "description": "UTC."}
    properties["datacontenttype"] = {"const": DATA_CONTENT_TYPE}
    required = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"]
    schema["required"] = [name for name in required if model is not OperatorAction or name != "subject"]
    return schema


def _document(message_type: str, title: str, data: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    definitions = data.pop("$defs", {})
    envelope = Envelope.model_json_schema()["properties"]
    properties = dict(envelope)
    properties["specversion"] = {"const": "1.0"}
    properties["type"] = {"const": message_type}
    properties["data"] = data
    schema: dict[str, Any] = {
        "$schema": DIALECT,
        "$id": f"urn:cloudaipilot:{message_type.removeprefix(EVENT_TYPE_PREFIX)}",
        "title": title,
        "description": data.pop("description"),
        "type": "object",
        "properties": properties,
    }
    if definitions:
        schema["$defs"] = definitions
    for node in (properties, *definitions.values()):
        _tidy(node)
    return schema | {"examples": examples}


def _tidy(node: Any) -> None:
    """Drop what pydantic adds for itself: titles that repeat the name, null defaults, closed objects."""
    if isinstance(node, list):
        for member in node:
            _tidy(member)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("title"), str):
        del node["title"]
    if node.get("additionalProperties") is False:
        del node["additionalProperties"]
    if "default" in node and node["default"] is None:
        del node["default"]
    for member in node.values():
        _tidy(member)
