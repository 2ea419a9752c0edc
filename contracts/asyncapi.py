"""The AsyncAPI 3.0 document: channels, operations and messages, seen from certpilot."""

from typing import Any, Final

from contracts import topology
from contracts.commands import COMMAND_TYPES, CommandKind
from contracts.envelope import CONTENT_TYPE
from contracts.events import ROUTING_KEYS, event_type_of
from contracts.schema import schema_documents, schema_file_of

ASYNCAPI_VERSION: Final = "3.0.0"
CONTRACT_VERSION: Final = "1.1.0"
"""Grows in its second place with every compatible addition; what is not compatible gets a new `type` instead."""

AMQP_BINDING_VERSION: Final = "0.3.0"
SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"

_PERSISTENT = 2  # AMQP 0-9-1 delivery-mode
_COMMAND_ROUTING_KEYS: Final = {
    CommandKind.ISSUE: topology.ISSUE_ROUTING_KEY,
    CommandKind.RENEW: topology.RENEW_ROUTING_KEY,
    CommandKind.REMOVE: topology.REMOVE_ROUTING_KEY,
}

_DESCRIPTION: Final = """\
Free HTTPS certificates for sites on many customer servers. Publish IssueSSL, RenewSSL or RemoveSSL, follow the events.
Bodies are CloudEvents 1.0 structured JSON in UTF-8. `source` and `id` together make a command idempotent.
Fields that are not known are ignored on both sides; every error code is in docs/errors.md."""


def asyncapi_document() -> dict[str, Any]:
    """Make the document.

    Returns:
        The document as plain values; its payloads refer to `./schemas/`, beside which it is committed.
    """
    schemas = schema_documents()
    commands = {
        schemas[schema_file_of(COMMAND_TYPES[kind])]["title"]: (COMMAND_TYPES[kind], key)
        for kind, key in _COMMAND_ROUTING_KEYS.items()
    }
    events = {model.__name__: (event_type_of(model), key) for model, key in ROUTING_KEYS.items()}
    both = commands | events
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {"title": "certpilot", "version": CONTRACT_VERSION, "description": _DESCRIPTION},
        "defaultContentType": CONTENT_TYPE,
        "servers": {"rabbitmq": _server()},
        "channels": {
            name: _channel(
                name, key, topology.COMMANDS_EXCHANGE if name in commands else topology.EVENTS_EXCHANGE
            )
            for name, (_, key) in both.items()
        },
        "operations": {f"receive{name}": _operation(name, "receive") for name in commands}
        | {f"send{name}": _operation(name, "send") for name in events},
        "components": {
            "messages": {
                name: _message(
                    name, message_type, schemas[schema_file_of(message_type)], is_event=name in events
                )
                for name, (message_type, _) in both.items()
            }
        },
    }


def _server() -> dict[str, Any]:
    return {
        "host": "{host}",
        "protocol": "amqp",
        "protocolVersion": "0.9.1",
        "description": "RabbitMQ. Queues of your own bind to `ssl.events` with the routing keys below, or `#`.",
        "variables": {
            "host": {"default": "localhost", "description": "Host and port as your operator says."}
        },
    }


def _channel(name: str, routing_key: str, exchange: str) -> dict[str, Any]:
    return {
        "address": routing_key,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": AMQP_BINDING_VERSION,
            }
        },
    }


def _operation(name: str, action: str) -> dict[str, Any]:
    binding: dict[str, Any] = {"ack": True}
    if action == "send":
        binding = {"deliveryMode": _PERSISTENT, "mandatory": True}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        "bindings": {"amqp": {**binding, "bindingVersion": AMQP_BINDING_VERSION}},
    }


def _message(name: str, message_type: str, schema: dict[str, Any], *, is_event: bool) -> dict[str, Any]:
    message = {
        "name": message_type,
        "title": name,
        "summary": schema["description"],
        "contentType": CONTENT_TYPE,
        "payload": {
            "schemaFormat": SCHEMA_FORMAT,
            "schema": {"$ref": f"./schemas/{schema_file_of(message_type)}"},
        },
    }
    if is_event:
        message["headers"] = {
            "type": "object",
            "properties": {
                topology.EVENT_ID_HEADER: {
                    "type": "string",
                    "description": "The event's id; also message_id.",
                },
                topology.EVENT_TYPE_HEADER: {"const": message_type},
                topology.EVENT_SUBJECT_HEADER: {"type": "string", "description": "The site's id, if any."},
            },
            "required": [topology.EVENT_ID_HEADER, topology.EVENT_TYPE_HEADER],
        }
    return message
