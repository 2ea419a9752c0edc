"""Reading the commands (DESIGN A.1), and building them as any producer would."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from contracts.codes import Code
from contracts.command_models import (
    DEFAULT_PORT,
    DEFAULT_USERNAME,
    EXPECTED,
    CommandData,
    IssueData,
    RemoveData,
    RenewData,
    ServerData,
    normalised,
)
from contracts.command_values import (
    COMMAND_TYPES,
    Command,
    CommandKind,
    IssueSSL,
    ReadCommand,
    Rejection,
    RemoveSSL,
    RenewSSL,
    ServerRef,
)
from contracts.envelope import (
    DATA_CONTENT_TYPE,
    Envelope,
    SetAside,
    canonical_hash,
    parse_body,
    site_of,
)
from contracts.names import MAX_NAMES, InvalidName, normalise_name
from contracts.text import shown
from contracts.times import format_time

__all__ = [
    "COMMAND_MODELS",
    "COMMAND_TYPES",
    "Command",
    "CommandKind",
    "IssueSSL",
    "ReadCommand",
    "Rejection",
    "RemoveSSL",
    "RenewSSL",
    "ServerRef",
    "build_command",
    "read_command",
]

COMMAND_MODELS: Final[Mapping[CommandKind, type[CommandData]]] = {
    CommandKind.ISSUE: IssueData,
    CommandKind.RENEW: RenewData,
    CommandKind.REMOVE: RemoveData,
}

_KIND_OF_TYPE: Final = {command_type: kind for kind, command_type in COMMAND_TYPES.items()}
_INDEX: Final = re.compile(r"\[\d+\]")
_ENVELOPE_IDENTITY: Final = ("specversion", "id", "source", "type")


def read_command(
    body: bytes, content_type: str | None = None, content_encoding: str | None = None
) -> ReadCommand:
    """Read a message from the command queue.

    Args:
        body: the message's body.
        content_type: the AMQP property, None where the producer set none.
        content_encoding: likewise.

    Returns:
        The command, or its rejection in A.1's order: INVALID_REQUEST, NO_DOMAIN, then the names. DUPLICATE_ID comes
        before all of them and is the database's to find, by `body_hash`.

    Raises:
        SetAside: it is not a CloudEvents document of a type that we know.
    """
    document = parse_body(body, content_type, content_encoding)
    envelope, faults = _read_envelope(document)
    kind = _KIND_OF_TYPE.get(envelope.type)
    if kind is None:
        reason = f"The type {shown(envelope.type)} is not known; it must be {' or '.join(_KIND_OF_TYPE)}."
        raise SetAside(Code.UNKNOWN_TYPE, reason, document)
    model = COMMAND_MODELS[kind]
    as_sent = envelope.data
    normal = normalised(model, as_sent) if isinstance(as_sent, dict) else as_sent
    data, more_faults = _read_data(model, envelope)
    command, rejection = _judge(data, [*faults, *more_faults])
    return ReadCommand(
        source=envelope.source,
        command_id=envelope.id,
        site_id=site_of(as_sent, envelope.subject),
        kind=kind,
        body_hash=canonical_hash({"type": envelope.type, "data": normal}),
        domain=_valid_or_none(as_sent.get("domain")) if isinstance(as_sent, dict) else None,
        command=command,
        rejection=rejection,
    )


def _read_envelope(document: dict[str, Any]) -> tuple[Envelope, list[Rejection]]:
    """Read the attributes; what is wrong beside the identity does not hide who sent it."""
    try:
        return Envelope.model_validate(document), []
    except ValidationError as error:
        faults = [(str(details["loc"][0]), _fault(details)) for details in error.errors(include_url=False)]
    for attribute, fault in faults:
        if attribute in _ENVELOPE_IDENTITY:
            raise SetAside(Code.MALFORMED, fault.message, document)
    wrong = {attribute for attribute, _ in faults}
    rest = {key: value for key, value in document.items() if key not in wrong}
    return Envelope.model_validate(rest), [fault for _, fault in faults]


def _read_data(model: type[CommandData], envelope: Envelope) -> tuple[CommandData | None, list[Rejection]]:
    if not isinstance(envelope.data, dict):
        return None, [_wrong("data", envelope.data)]
    try:
        data = model.model_validate(envelope.data)
    except ValidationError as error:
        return None, [_fault(details, "data") for details in error.errors(include_url=False)]
    faults = []
    if envelope.subject not in {None, data.site_id}:
        faults.append(_wrong("subject", envelope.subject))
    if not isinstance(data, RemoveData) and len({data.domain, *(data.aliases or ())} - {None}) > MAX_NAMES:
        faults.append(_wrong("data.aliases", envelope.data["aliases"]))
    return data, faults


def _fault(details: ErrorDetails, *prefix: str) -> Rejection:
    path = ""
    for step in (*prefix, *details["loc"]):
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    if details["type"] == "missing":
        return Rejection(Code.INVALID_REQUEST, f"{path} is missing; it must be {EXPECTED[path]}.", path)
    return _wrong(path, details["input"])


def _wrong(path: str, value: Any) -> Rejection:
    expected = EXPECTED[_INDEX.sub("[]", path)]
    return Rejection(Code.INVALID_REQUEST, f"{path} must be {expected}, not {shown(value)}.", path)


def _judge(data: CommandData | None, faults: list[Rejection]) -> tuple[Command | None, Rejection | None]:
    if data is None or faults:
        return None, faults[0]
    if isinstance(data, RemoveData):
        return RemoveSSL(data.site_id, data.revoke or False, data.requested_by), None
    if isinstance(data, IssueData) and data.domain is None:
        return None, Rejection(Code.NO_DOMAIN, f"Site {data.site_id} has no domain.", "data.domain")
    for path, name in _names_of(data):
        try:
            normalise_name(name)
        except InvalidName as error:
            code = Code.WILDCARD_NEEDS_DNS if error.wildcard else Code.INVALID_DOMAIN
            kind = "domain" if path == "data.domain" else "alias"
            return None, Rejection(code, f"The {kind} {error}.", path)
    return _command_of(data), None


def _names_of(data: IssueData | RenewData) -> Iterator[tuple[str, str]]:
    if data.domain is not None:
        yield "data.domain", data.domain
    for position, alias in enumerate(data.aliases or ()):
        yield f"data.aliases[{position}]", alias


def _command_of(data: IssueData | RenewData) -> IssueSSL | RenewSSL:
    aliases = tuple(dict.fromkeys(alias for alias in data.aliases or () if alias != data.domain))
    server = None if data.server is None else _server_of(data.server)
    if isinstance(data, RenewData):
        return RenewSSL(
            data.site_id, data.domain, aliases or None, server, data.requested_by, data.force or False
        )
    assert data.domain is not None
    assert server is not None
    return IssueSSL(data.site_id, data.domain, aliases, server, data.requested_by)


def _server_of(data: ServerData) -> ServerRef:
    return ServerRef(
        host=data.host,
        port=DEFAULT_PORT if data.port is None else data.port,
        username=DEFAULT_USERNAME if data.username is None else data.username,
        host_key=data.host_key,
        public_addresses=tuple(dict.fromkeys(data.public_addresses or ())),
    )


def _valid_or_none(name: Any) -> str | None:
    try:
        return normalise_name(name) if isinstance(name, str) else None
    except InvalidName:
        return None


def build_command(command: Command, *, command_id: str, source: str, sent_at: datetime) -> bytes:
    """Write a command as any producer would; its content type is `contracts.envelope.CONTENT_TYPE`.

    Args:
        command: what to ask for. It is not checked: `read_command` says what the answer would be.
        command_id: new for every new request, the same when the same request is sent again.
        source: who asks, a URI reference; not `/certpilot`, which is ours as the sender of events.
        sent_at: now, with a time zone.

    Returns:
        The message's body.
    """
    kind, data = _data_on_the_wire(command)
    envelope = {
        "specversion": "1.0",
        "id": command_id,
        "source": source,
        "type": COMMAND_TYPES[kind],
        "subject": command.site_id,
        "time": format_time(sent_at),
        "datacontenttype": DATA_CONTENT_TYPE,
        "data": {key: value for key, value in data.items() if value is not None},
    }
    return json.dumps(envelope, ensure_ascii=False).encode()


def _data_on_the_wire(command: Command) -> tuple[CommandKind, dict[str, Any]]:
    data: dict[str, Any] = {"siteId": command.site_id, "requestedBy": command.requested_by}
    if isinstance(command, RemoveSSL):
        return CommandKind.REMOVE, data | {"revoke": command.revoke or None}
    data |= {
        "domain": command.domain,
        "aliases": None if command.aliases is None else list(command.aliases),
        "server": None if command.server is None else _server_on_the_wire(command.server),
    }
    if isinstance(command, RenewSSL):
        return CommandKind.RENEW, data | {"force": command.force or None}
    return CommandKind.ISSUE, data


def _server_on_the_wire(server: ServerRef) -> dict[str, Any]:
    fields: dict[str, Any] = {"host": server.host, "port": server.port, "username": server.username}
    if server.host_key is not None:
        fields["hostKey"] = server.host_key
    if server.public_addresses:
        fields["publicAddresses"] = list(server.public_addresses)
    return fields
