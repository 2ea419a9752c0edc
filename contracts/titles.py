"""The feed's `title`: one sentence that a site owner understands (DESIGN A.4)."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from contracts.codes import Code
from contracts.events import (
    EVENT_TYPE_PREFIX,
    CertificateAtRisk,
    CertificateRenewed,
    JobProgress,
    OperatorAction,
    ReceivedEvent,
    RequestRejected,
    StatusChanged,
    event_type_of,
)
from contracts.text import cleaned
from contracts.times import parse_time

# Not strftime, whose month names depend on the machine's locale.
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MAX_QUOTE_CHARACTERS = 200

REMOVAL: Final = "Removal: "
"""Begins the message of every progress event of a removal, whose steps are not those of a certificate that is made."""

CAUSES: Final[Mapping[Code, str]] = MappingProxyType(
    {
        Code.NO_DOMAIN: "the site has no domain yet",
        Code.ALREADY_ACTIVE: "{name} already has a valid certificate",
        Code.ALREADY_PENDING: "a request for {name} is already being worked on",
        Code.NOT_ISSUED: "no certificate was ever issued for {name}",
        Code.INVALID_DOMAIN: "a name is not one that a certificate can be issued for",
        Code.WILDCARD_NEEDS_DNS: "wildcard names cannot be proven over HTTP",
        Code.DUPLICATE_ID: "another request was already sent under the same id",
        Code.INVALID_REQUEST: "the request has a field that is missing or wrong",
        Code.MALFORMED: "the message could not be read",
        Code.UNKNOWN_TYPE: "the message has an unknown type",
        Code.UNSUPPORTED_CONTENT: "the message has an unknown content type",
        Code.TOO_LARGE: "the message is too large",
        Code.CRASHED: "something went wrong on our side",
        Code.DNS_NOT_RESOLVING: "DNS of {name} does not resolve",
        Code.DNS_WRONG_SERVER: "DNS of {name} points to another server",
        Code.PORT_80_BLOCKED: "port 80 of {name} cannot be reached",
        Code.PORT_443_BLOCKED: "port 443 of {name} cannot be reached",
        Code.GEO_BLOCKED: "{name} answers only to some parts of the world",
        Code.CHALLENGE_FAILED: "{name} did not answer the certificate authority's check",
        Code.REDIRECT_LOOP: "{name} redirects in a circle",
        Code.CAA_FORBIDS: "a CAA record of {name} forbids the certificate authority",
        Code.CLOUDFLARE_FLEXIBLE_LOOP: "Cloudflare speaks HTTP to the server of {name} (Flexible mode)",
        Code.CLOUDFLARE_STRICT_ORIGIN: "Cloudflare's Full (strict) mode finds no valid certificate behind {name}",
        Code.CLOUDFLARE_ORIGIN_DOWN: "Cloudflare cannot reach the server of {name}",
        Code.TOO_MANY_REQUESTS: "too many certificates were requested for {name} in a short time",
        Code.CA_UNAVAILABLE: "the certificate authority is not answering",
        Code.SERVER_BUSY: "another certificate is being issued on the same server",
        Code.SERVER_UNREACHABLE: "the server of {name} does not answer",
        Code.SSH_AUTH_FAILED: "the server of {name} refused our key",
        Code.HOST_KEY_MISMATCH: "the server of {name} has an unknown host key",
        Code.PERMISSION_DENIED: "we lack rights on the server of {name}",
        Code.CERTBOT_MISSING: "certbot is not installed on the server of {name}",
        Code.CERTBOT_PLUGIN_MISSING: "certbot's nginx plugin is not installed on the server of {name}",
        Code.CERTBOT_BROKEN: "certbot on the server of {name} does not work",
        Code.CERTBOT_OUTDATED: "certbot on the server of {name} is too old",
        Code.NGINX_MISSING: "nginx is not installed on the server of {name}",
        Code.NO_MATCHING_VHOST: "the web server has no site called {name}",
        Code.NGINX_CONFIG_BROKEN: "the web server's configuration has an error",
        Code.NGINX_CONFIG_UNREADABLE: "certbot cannot read the web server's configuration",
        Code.NGINX_RELOAD_FAILED: "the web server did not take over its new configuration",
        Code.PORT_80_IN_USE: "another program holds port 80 on the server of {name}",
        Code.INSTALL_FAILED: "the certificate could not be put into the web server's configuration",
        Code.NOT_SERVED: "visitors of {name} are shown another certificate",
        Code.LINEAGE_BROKEN: "the certificate's files on the server are damaged",
        Code.CLOCK_SKEW: "the clock of the server of {name} is wrong",
        Code.INTERRUPTED: "the work on the server was interrupted",
        Code.DISK_FULL: "the disk of the server of {name} is full",
        Code.FILESYSTEM_UNUSABLE: "a file system of the server of {name} cannot be written",
        Code.OUT_OF_MEMORY: "the server of {name} has too little free memory",
        Code.CA_UNREACHABLE: "the server of {name} cannot reach the certificate authority",
        Code.AUTO_RENEW_MISSING: "nothing on the server of {name} renews its certificates",
        Code.AUTO_RENEW_FAILING: "the renewal on the server of {name} fails",
        Code.ACCOUNT_PAUSED: "the certificate authority has paused {name} after many failures",
        Code.ACCOUNT_INVALID: "the certificate authority does not accept our account",
        Code.ACCOUNT_CONTACT_INVALID: "the certificate authority does not accept our e-mail address",
        Code.ACCOUNT_EAB_REQUIRED: "the certificate authority wants our account bound to another one",
        Code.INTERNAL: "something went wrong on our side",
        Code.REJECTED_BY_CA: "the certificate authority does not issue certificates for {name}",
    }
)
"""Each code as a clause that follows "Waiting: ". A test proves that none is missing."""

# Their message is the sentence of `contracts.commands` that names the one name that is wrong.
_MESSAGE_SAYS_MORE: Final = frozenset({Code.INVALID_DOMAIN, Code.WILDCARD_NEEDS_DNS})

_STEPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "queued": "Certificate for {name} requested; waiting for its turn",
        "connecting": "Connecting to the server of {name}",
        "preflight": "Checking DNS, ports and web server of {name}",
        "requesting": "Requesting a certificate for {name}",
        "installing": "Installing the certificate for {name}",
        "verifying": "Checking that visitors of {name} are shown the certificate",
        "done": "The certificate for {name} is installed and served",
        "superseded": "The request for {name} was replaced by a newer one",
    }
)

_ACTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "replay": "{by} replayed {what}",
        "discard": "{by} discarded {what}",
        "pause": "{by} paused {what}",
        "resume": "{by} resumed {what}",
        "cancel": "{by} cancelled {what}",
    }
)


def activity_title(event: ReceivedEvent) -> str:
    """Say in one sentence what happened, without a full stop.

    Args:
        event: any event of ours, also one of a type, step or code that this version does not know.

    Returns:
        The sentence. Times are UTC and say so; the day is left out where it is the event's own.
    """
    tell = _TELLERS.get(event.event_type, _tell_unknown)
    return tell(event, _name_of(event))


def _tell_status(event: ReceivedEvent, name: str) -> str:
    cause = _cause_of(event, name)
    because = "" if cause is None else f": {cause}"
    match event.ssl_status:
        case "pending":
            return f"A certificate for {name} is on its way"
        case "active":
            return _tell_active(event, name, because)
        case "expired":
            return f"Certificate for {name} has expired{because}"
        case _:
            if cause is None and event.data.get("previousStatus") in {"active", "expired"}:
                return f"The certificate for {name} was removed"
            return f"No certificate for {name}{because}"


def _tell_active(event: ReceivedEvent, name: str, because: str) -> str:
    expiry = _instant(event.data.get("sslExpiry"))
    until = "" if expiry is None else f" until {_day(expiry)}"
    was_active = event.data.get("previousStatus") == "active"
    if because and was_active:
        return f"The renewal for {name} failed{because}; its certificate stays valid{until}"
    if because:
        return f"Certificate for {name} is active{until}, but{because[1:]}"
    if was_active:
        return f"Certificate for {name} was renewed and is active{until}"
    return f"Certificate for {name} is active{until}"


def _tell_rejection(event: ReceivedEvent, name: str) -> str:
    retry_at = _instant(_error_of(event).get("retryAt"))
    later = "" if retry_at is None else f"; try again {_moment(retry_at, event.occurred_at)}"
    return f"Request refused: {_cause_of(event, name)}{later}"


def _tell_progress(event: ReceivedEvent, name: str) -> str:
    step = event.data.get("step")
    cause = _cause_of(event, name)
    message = _message_of(event)
    if message.startswith(REMOVAL):
        return f"Removal of the certificate for {name}: {message.removeprefix(REMOVAL)}"
    if step == "waiting":
        retry_at = _instant(event.data.get("retryAt"))
        later = "" if retry_at is None else f"; next check {_moment(retry_at, event.occurred_at)}"
        return f"Waiting: {cause or _message_of(event)}{later}"
    if step == "failed":
        return f"No certificate for {name}" + (f": {cause}" if cause else "")
    if step == "done" and cause:
        return f"The certificate for {name} is installed and served, but {cause}"
    known = _STEPS.get(step) if isinstance(step, str) else None
    return known.format(name=name) if known else f"{_capitalised(name)}: {_message_of(event)}"


def _tell_action(event: ReceivedEvent, name: str) -> str:
    by = _quoted(event.data.get("by")) or "an operator"
    action = event.data.get("action")
    sentence = _ACTIONS.get(action) if isinstance(action, str) else None
    if sentence is None:
        return f"{_capitalised(by)} did something that this version does not know"
    title = sentence.format(by=_capitalised(by), what=_object_of(event, name))
    reason = _quoted(event.data.get("reason"))
    return f"{title}: {reason}" if reason else title


def _object_of(event: ReceivedEvent, name: str) -> str:
    """Name what an operator acted on: a site's request, letters of a queue, or work itself."""
    count, queue = event.data.get("count"), _quoted(event.data.get("queue"))
    if event.site_id is not None:
        return f"the request for {name}"
    if event.data.get("action") in ("pause", "resume"):
        return f"work on {queue}" if queue else "work"
    what = "1 dead letter" if count == 1 else "dead letters" if count is None else f"{count} dead letters"
    return f"{what} of {queue}" if queue else what


def _tell_renewed(event: ReceivedEvent, name: str) -> str:
    expiry = _instant(event.data.get("sslExpiry"))
    until = "" if expiry is None else f"; valid until {_day(expiry)}"
    by = "by its own server" if event.data.get("by") == "server" else "by certpilot"
    return f"Certificate for {name} was renewed {by}{until}"


def _tell_risk(event: ReceivedEvent, name: str) -> str:
    cause = _cause_of(event, name)
    if cause is None:
        return f"The certificate for {name} is no longer at risk"
    expiry = _instant(event.data.get("sslExpiry"))
    when = "" if expiry is None else f" on {_day(expiry)}"
    if expiry is not None and expiry <= event.occurred_at:
        return f"The certificate for {name} has lapsed: {cause}"
    return f"The certificate for {name} will lapse{when} unless this is mended: {cause}"


def _tell_unknown(event: ReceivedEvent, name: str) -> str:
    words = event.event_type.removeprefix(EVENT_TYPE_PREFIX).removeprefix("ssl.").split(".")
    if words[-1].startswith("v") and words[-1][1:].isdigit():
        words.pop()
    said = " ".join(words).replace("_", " ")
    cause = _cause_of(event, name)
    return f"{_capitalised(name)}: {said}" + (f": {cause}" if cause else "")


_TELLERS: Final = {
    event_type_of(StatusChanged): _tell_status,
    event_type_of(RequestRejected): _tell_rejection,
    event_type_of(JobProgress): _tell_progress,
    event_type_of(OperatorAction): _tell_action,
    event_type_of(CertificateRenewed): _tell_renewed,
    event_type_of(CertificateAtRisk): _tell_risk,
}


def _name_of(event: ReceivedEvent) -> str:
    if event.domain:
        return _quoted(event.domain)
    return "certpilot" if event.site_id is None else f"site {event.site_id}"


def _error_of(event: ReceivedEvent) -> Mapping[str, Any]:
    error = event.data.get("error")
    return error if isinstance(error, dict) else {}


def _cause_of(event: ReceivedEvent, name: str) -> str | None:
    if event.error_code is None:
        return None
    message = _quoted(_error_of(event).get("message")).rstrip(".")
    if event.error_code not in CAUSES:
        return message or event.error_code
    code = Code(event.error_code)
    if code in _MESSAGE_SAYS_MORE and message.startswith("The "):
        return "t" + message[1:]
    return CAUSES[code].format(name=name)


def _message_of(event: ReceivedEvent) -> str:
    return _quoted(event.data.get("message")).rstrip(".") or "no further word"


def _quoted(text: Any) -> str:
    """Fit somebody's words into a sentence: one line, not too long."""
    return " ".join(cleaned(text, _MAX_QUOTE_CHARACTERS).split()) if isinstance(text, str) else ""


def _capitalised(text: str) -> str:
    # Not for names: a domain is written as it is.
    return text[:1].upper() + text[1:] if text.startswith(("an ", "site ")) else text


def _instant(value: Any) -> datetime | None:
    try:
        return parse_time(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _day(instant: datetime) -> str:
    return f"{instant.day} {_MONTHS[instant.month - 1]} {instant.year}"


def _moment(instant: datetime, now: datetime) -> str:
    clock = f"at {instant:%H:%M} UTC"
    return clock if instant.date() == now.astimezone(UTC).date() else f"on {_day(instant)} {clock}"
