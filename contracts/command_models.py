"""The `data` of the two commands as pydantic models: validation, normalisation and JSON Schema from one place.

Names are the exception: here they only have to be strings, because a wrong name is INVALID_DOMAIN and not a broken
request. A name that does not normalise stays as it was sent.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from contracts.envelope import SITE_ID_PATTERN, is_site_id
from contracts.host_keys import HOST_KEY_TYPES, normalise_host_key
from contracts.names import MAX_NAMES, InvalidName, normalise_address, normalise_host, normalise_name
from contracts.text import is_plain

DEFAULT_PORT: Final = 22
DEFAULT_USERNAME: Final = "root"

# Beyond this nothing is normalised any more: ten times what one certificate can hold, repetitions included.
_MAX_ALIASES_SENT = 10 * MAX_NAMES
_MAX_ADDRESSES = 64
_MAX_REQUESTER_CHARACTERS = 256

EXPECTED: Final[Mapping[str, str]] = {
    "specversion": '"1.0"',
    "id": "a string of 1 to 1024 bytes without control characters",
    "source": "a string of 1 to 1024 bytes without control characters",
    "type": "a string",
    "subject": "the same as data.siteId",
    "time": "a time as in RFC 3339, like 2026-11-24T10:00:00Z",
    "datacontenttype": "application/json",
    "data": "an object",
    "data.siteId": "a string of 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
    "data.domain": "a host name or null",
    "data.aliases": f"a list of host names, at most {MAX_NAMES} together with the domain",
    "data.aliases[]": "a host name",
    "data.server": "an object with the server's host",
    "data.server.host": "an IP address or a host name",
    "data.server.port": "a whole number from 1 to 65535",
    "data.server.username": "a user name: a-z or _, then at most 31 of a-z 0-9 _ -",
    "data.server.hostKey": "a public host key, TYPE BASE64, of type " + ", ".join(HOST_KEY_TYPES),
    "data.server.publicAddresses": f"a list of at most {_MAX_ADDRESSES} IP addresses",
    "data.server.publicAddresses[]": "an IP address",
    "data.requestedBy": f"a string of at most {_MAX_REQUESTER_CHARACTERS} characters without control characters",
    "data.force": "true or false",
    "data.revoke": "true or false",
}
"""What each field has to be, in the words of a rejection. Keyed by path; `[]` stands for any position."""


def _site_id(value: str) -> str:
    if not is_site_id(value):
        raise ValueError("not a site id")
    return value


def _name_or_as_sent(value: str) -> str:
    try:
        return normalise_name(value)
    except InvalidName:
        return value


def _blank_to_none(value: Any) -> Any:
    """Blank means the same as null (DESIGN A.1): text without a character, or an empty list or object."""
    if isinstance(value, str) and not value.strip():
        return None
    return None if value in ([], {}) else value


def _whole_number(value: Any) -> Any:
    """JSON has one kind of number (RFC 8259 6): 22.0, as some languages write it, is 22."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: str) -> str:
    if not is_plain(value):
        raise ValueError("has control characters")
    return value


SiteId = Annotated[
    str, AfterValidator(_site_id), WithJsonSchema({"type": "string", "pattern": SITE_ID_PATTERN})
]
_Name = Annotated[str, AfterValidator(_name_or_as_sent)]
# No pattern: a blank or wrong domain is a valid command whose answer is NO_DOMAIN or INVALID_DOMAIN.
_Domain = Annotated[
    _Name | None, BeforeValidator(_blank_to_none), WithJsonSchema({"type": ["string", "null"]})
]
_Aliases = Annotated[
    Annotated[list[_Name], Field(max_length=_MAX_ALIASES_SENT)] | None,
    WithJsonSchema(
        {
            "type": ["array", "null"],
            "items": {"type": "string", "format": "idn-hostname", "minLength": 1},
            "maxItems": MAX_NAMES - 1,
        }
    ),
]
_Host = Annotated[
    str,
    AfterValidator(normalise_host),
    WithJsonSchema(
        {"type": "string", "minLength": 1, "maxLength": 253, "pattern": r"^[^\s/@\[\]%_*-][^\s/@\[\]%_*]*$"}
    ),
]
_Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_whole_number)]
_Username = Annotated[str, Field(pattern="^[a-z_][a-z0-9_-]{0,31}$")]
_HostKey = Annotated[
    str,
    AfterValidator(normalise_host_key),
    WithJsonSchema(
        {"type": "string", "pattern": f"^({'|'.join(HOST_KEY_TYPES)}) +[A-Za-z0-9+/]+={{0,2}}( .*)?$"}
    ),
]
_Address = Annotated[
    str,
    AfterValidator(normalise_address),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]
_Addresses = Annotated[list[_Address], Field(max_length=_MAX_ADDRESSES)]
_Requester = Annotated[str, AfterValidator(_plain), Field(max_length=_MAX_REQUESTER_CHARACTERS)]


class CommandModel(BaseModel):
    """Strict types, unknown fields ignored, camelCase on the wire."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, alias_generator=to_camel)


class ServerData(CommandModel):
    """The customer's server."""

    host: Annotated[_Host, Field(description="Address or name that SSH connects to.")]
    port: Annotated[_Port | None, Field(description="SSH port.")] = DEFAULT_PORT
    username: Annotated[_Username | None, Field(description="SSH user.")] = DEFAULT_USERNAME
    host_key: Annotated[
        _HostKey | None,
        Field(description="The only host key accepted. Absent: the worker's known_hosts file decides."),
    ] = None
    public_addresses: Annotated[
        _Addresses | None,
        Field(description="Where the public reaches the server, if SSH uses another address."),
    ] = None


class IssueData(CommandModel):
    """Ask for a certificate for a site."""

    site_id: Annotated[SiteId, Field(description="The site; a name of your choice that never changes.")]
    domain: Annotated[
        _Domain, Field(description="The primary name. Null or blank is answered with NO_DOMAIN.")
    ] = None
    aliases: Annotated[_Aliases, Field(description="Further names of the same certificate.")] = None
    server: Annotated[ServerData, Field(description="Where the site is served.")]
    requested_by: Annotated[_Requester | None, Field(description="Who asked, for the record.")] = None


class RenewData(CommandModel):
    """Ask for a new certificate for a site that has one; what is left out is taken from the last request."""

    site_id: Annotated[SiteId, Field(description="The site.")]
    domain: Annotated[_Domain, Field(description="Absent, null or blank: the stored one.")] = None
    aliases: Annotated[
        _Aliases,
        BeforeValidator(_blank_to_none),
        Field(description="Absent, null or empty: the stored ones."),
    ] = None
    server: Annotated[
        ServerData | None,
        BeforeValidator(_blank_to_none),
        Field(description="Absent, null or empty: the stored one."),
    ] = None
    requested_by: Annotated[_Requester | None, Field(description="Who asked, for the record.")] = None
    force: Annotated[bool | None, Field(description="Renew also before the renewal window opens.")] = False


class RemoveData(CommandModel):
    """Ask for a site's certificate to be removed from its server; it is not renewed any more."""

    site_id: Annotated[SiteId, Field(description="The site.")]
    revoke: Annotated[
        bool | None, Field(description="Also revoke the certificate at the certificate authority.")
    ] = False
    requested_by: Annotated[_Requester | None, Field(description="Who asked, for the record.")] = None


CommandData = IssueData | RenewData | RemoveData


def normalised(model: type[CommandModel], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Give the form of a command's data that its body hash is taken over.

    Fields that the model does not know are left out, because they change nothing; so is what says no more than its
    absence (null, blank, the default), so that a later version's new field keeps every older hash as it was.

    Args:
        model: the data's model.
        raw: the data as sent.

    Returns:
        Each known field normalised, or as it was sent where it does not normalise. Lists are sorted sets, the
        aliases without the domain.
    """
    fields: dict[str, Any] = {}
    for alias, (adapter, default) in _fields_of(model).items():
        value = raw.get(alias)
        if alias == "server" and isinstance(value, dict):
            value = normalised(ServerData, value)
        else:
            value = _validated_or_as_sent(adapter, value)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = sorted({item for item in value if alias != "aliases" or item != fields.get("domain")})
        if not _says_nothing(value, default):
            fields[alias] = value
    return fields


def _validated_or_as_sent(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError:
        return value


def _says_nothing(value: Any, default: Any) -> bool:
    # The type is compared too: 0 is not false, it is a mistake that has its own hash.
    return _blank_to_none(value) is None or (type(value) is type(default) and value == default)


def _annotated(field: FieldInfo) -> Any:
    """Put a field's type together again: pydantic keeps the outer annotations apart from it."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


@cache
def _fields_of(model: type[CommandModel]) -> dict[str, tuple[TypeAdapter[Any], Any]]:
    return {
        field.alias or name: (TypeAdapter(_annotated(field)), field.default)
        for name, field in model.model_fields.items()
    }
