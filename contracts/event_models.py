"""The `data` of our events (DESIGN A.2) as pydantic models, published exactly as declared."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from contracts.catalogue import CATALOGUE
from contracts.codes import Code
from contracts.command_models import SiteId
from contracts.text import cleaned
from contracts.times import format_time

CODE_PATTERN: Final = "^[A-Z][A-Z0-9_]{1,63}$"
MAX_TEXT_CHARACTERS: Final = 2000
"""Of every free text in an event: enough for the lines that decided, and no body nears the 256 KiB of its readers."""

MAX_SEQUENCE: Final = 2**63 - 1
"""PostgreSQL's bigint."""


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return instant.astimezone(UTC)


def _clean(text: Any) -> Any:
    # What certbot or an exception said may hold anything; an event that cannot be stored would stop the feed.
    return cleaned(text, MAX_TEXT_CHARACTERS) if isinstance(text, str) else text


Instant = Annotated[
    datetime,
    AfterValidator(_utc),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": "Z$"}),
]
Text = Annotated[str, BeforeValidator(_clean)]
# Not an enumeration: codes are added (DESIGN A.5), and a consumer must not choke on a new one.
OpenCode = Annotated[Code, WithJsonSchema({"type": "string", "pattern": CODE_PATTERN})]
SslStatusWord = Literal["none", "pending", "active", "expired"]
StepWord = Literal[
    "queued",
    "connecting",
    "preflight",
    "requesting",
    "installing",
    "verifying",
    "waiting",
    "done",
    "failed",
    "superseded",
]
ActionWord = Literal["replay", "discard", "pause", "resume", "cancel"]
RenewerWord = Literal["server", "certpilot"]


class EventModel(BaseModel):
    """Published exactly as declared: no unknown field, every field present, camelCase on the wire."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        json_schema_serialization_defaults_required=True,
    )


class Error(EventModel):
    """What went wrong, and what to do."""

    code: Annotated[OpenCode, Field(description="One of the codes in docs/errors.md; new ones may come.")]
    message: Annotated[Text, Field(description="What was found, and where.")]
    fix: Annotated[Text, Field(description="What to do, in the words of whoever mends it.")]
    retry_at: Annotated[
        Instant | None, Field(description="When it goes on by itself, or when asking again is of use.")
    ] = None


def error_object(code: Code, message: str, retry_at: datetime | None = None) -> Error:
    """Build the error of an event; the fix comes from the catalogue.

    Args:
        code: the code.
        message: what was found, and where; blank means the catalogue's sentence.
        retry_at: when it goes on by itself, with a time zone.

    Returns:
        The error.
    """
    entry = CATALOGUE[code]
    return Error(code=code, message=message.strip() or entry.means, fix=entry.fix, retry_at=retry_at)


class _Common(EventModel):
    """What every event tells beside its own fields; null where it is not known."""

    domain: Annotated[str | None, Field(description="The site's primary name as an A-label.")] = None
    command_id: Annotated[str | None, Field(description="CloudEvents id of the command behind it.")] = None
    command_source: Annotated[str | None, Field(description="CloudEvents source of that command.")] = None
    job_id: Annotated[str | None, Field(description="The job behind it.")] = None


class _AboutSite(_Common):
    """Every event of a site takes the next number of that site."""

    site_id: Annotated[SiteId, Field(description="The site.")]
    sequence: Annotated[
        int, Field(ge=1, le=MAX_SEQUENCE, description="Counts this site's events: 1, 2, 3 … without a gap.")
    ]


class StatusChanged(_AboutSite):
    """A job has ended, or the status changed by itself; after a failed renewal it is what it was."""

    previous_status: Annotated[SslStatusWord, Field(description="The status before.")]
    ssl_status: Annotated[SslStatusWord, Field(description="The status now.")]
    ssl_expiry: Annotated[Instant | None, Field(description="notAfter of the certificate, if any.")] = None
    error: Annotated[
        Error | None,
        Field(
            description="Why it did not succeed; null where it did. A site that becomes active with an error has its"
            " certificate, and something else is left to be mended."
        ),
    ] = None


class RequestRejected(_AboutSite):
    """A command that was refused; it made no job."""

    error: Annotated[Error, Field(description="Why.")]


class JobProgress(_AboutSite):
    """A job has reached a step."""

    step: Annotated[StepWord, Field(description="The step that begins, or how it ended.")]
    attempt: Annotated[int, Field(ge=0, le=MAX_SEQUENCE, description="Attempts counted so far.")]
    message: Annotated[Text, Field(description="One sentence for people.")]
    retry_at: Annotated[Instant | None, Field(description="When a waiting job goes on by itself.")] = None
    error: Annotated[
        Error | None,
        Field(description="What a waiting or failed job waits for; with done: what is left to be mended."),
    ] = None


class OperatorAction(_Common):
    """Somebody acted by hand; siteId and sequence are null where it is about no site."""

    site_id: Annotated[SiteId | None, Field(description="The site, if it is about one.")] = None
    sequence: Annotated[
        int | None, Field(ge=1, le=MAX_SEQUENCE, description="As in every event; null without a site.")
    ] = None
    action: Annotated[ActionWord, Field(description="What was done.")]
    by: Annotated[Text, Field(description="Who did it.")]
    reason: Annotated[Text | None, Field(description="Why, in their words.")] = None
    queue: Annotated[str | None, Field(description="The queue acted on, if any.")] = None
    count: Annotated[int | None, Field(ge=0, le=MAX_SEQUENCE, description="How many things it touched.")] = (
        None
    )


class CertificateRenewed(_AboutSite):
    """A site's certificate was replaced by a newer one for the same names, before it expired or after."""

    by: Annotated[
        RenewerWord, Field(description="server: its own timer did it; certpilot: a job of ours did.")
    ]
    previous_expiry: Annotated[Instant | None, Field(description="notAfter of the one before.")] = None
    ssl_expiry: Annotated[Instant, Field(description="notAfter of the new one.")]


class CertificateAtRisk(_AboutSite):
    """Something has to be mended, or the site's certificate lapses; told once per cause.

    A null error ends it: the risk is over.
    """

    ssl_expiry: Annotated[Instant | None, Field(description="When the certificate lapses: its notAfter.")] = (
        None
    )
    error: Annotated[Error | None, Field(description="The cause; null: the risk is over.")] = None


EventData = (
    StatusChanged | RequestRejected | JobProgress | OperatorAction | CertificateRenewed | CertificateAtRisk
)
