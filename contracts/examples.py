"""One of each: the examples that the schemas, the AsyncAPI document and the tests share. Names are RFC 2606's."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from contracts.codes import Code
from contracts.commands import (
    Command,
    CommandKind,
    IssueSSL,
    RemoveSSL,
    RenewSSL,
    ServerRef,
    build_command,
)
from contracts.events import (
    CertificateAtRisk,
    CertificateRenewed,
    EventData,
    JobProgress,
    OperatorAction,
    RequestRejected,
    StatusChanged,
    build_event,
    error_object,
)

_SENT_AT: Final = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
_SITE: Final = "site_123"
_DOMAIN: Final = "shop.example.com"
_JOB: Final = "0b9f2c8e-4d2a-4f7e-9c35-1f1f5a1c7a10"
_COMMAND: Final = "6f1c0c0e-9a41-4f0e-8f63-6c1f4a0a3a5d"
_SERVER: Final = ServerRef(
    host="203.0.113.7",
    host_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKcwaHcbDsPk3HbQPRwWvX2HXn1dyhPuuaVwNWN7Qf6W",
    public_addresses=("198.51.100.7",),
)


def command_examples() -> Mapping[CommandKind, list[dict[str, Any]]]:
    """Give full documents of each command, the fullest first; all of them are read without a schema's objection."""
    full = IssueSSL(_SITE, _DOMAIN, ("www.shop.example.com",), _SERVER, "user_42")
    plain = IssueSSL("site_124", "example.org", (), ServerRef("198.51.100.20"))
    without_domain = _document(plain, "4f5ab1c3-6f0c-4a6e-8d5e-0d2f9e7b6a11")
    without_domain["data"]["domain"] = None
    return {
        CommandKind.ISSUE: [_document(full, _COMMAND), without_domain],
        CommandKind.RENEW: [
            _document(
                RenewSSL(_SITE, _DOMAIN, ("www.shop.example.com",), _SERVER, "user_42", force=True),
                "c2c1f7de-5d5b-4d39-9d0e-0e5a3b0c8f21",
            ),
            _document(RenewSSL(_SITE), "a8e4bb0e-93f0-4d4b-b5cb-4d8b0c4f1e33"),
        ],
        CommandKind.REMOVE: [
            _document(
                RemoveSSL(_SITE, revoke=True, requested_by="user_42"), "3c1d8a52-70fb-4a3f-9a8e-6f6d2f0d9b44"
            ),
            _document(RemoveSSL(_SITE), "9be5a6c1-2f7a-4c55-8f0d-4a1b6f3e7d20"),
        ],
    }


def _document(command: Command, command_id: str) -> dict[str, Any]:
    body = build_command(command, command_id=command_id, source="/sites", sent_at=_SENT_AT)
    document: dict[str, Any] = json.loads(body)
    return document


def event_examples() -> Mapping[type[EventData], list[dict[str, Any]]]:
    """Give full documents of each event."""
    about: dict[str, Any] = {
        "site_id": _SITE,
        "domain": _DOMAIN,
        "command_id": _COMMAND,
        "command_source": "/sites",
        "job_id": _JOB,
    }
    expiry = datetime(2027, 2, 22, 9, 1, 12, tzinfo=UTC)
    retry_at = datetime(2026, 11, 24, 10, 5, tzinfo=UTC)
    unresolved = error_object(
        Code.DNS_NOT_RESOLVING, "shop.example.com has neither an A nor an AAAA record.", retry_at
    )
    active = StatusChanged(
        **about, sequence=9, previous_status="pending", ssl_status="active", ssl_expiry=expiry
    )
    given_up = StatusChanged(
        **about,
        sequence=9,
        previous_status="pending",
        ssl_status="none",
        error=error_object(Code.REJECTED_BY_CA, "The CA's policy forbids issuing for shop.example.com."),
    )
    refused = RequestRejected(
        **{**about, "job_id": None},
        sequence=10,
        error=error_object(Code.ALREADY_ACTIVE, "The certificate covers all names until 22 Feb 2027."),
    )
    waiting = JobProgress(
        **about,
        sequence=5,
        step="waiting",
        attempt=0,
        message="Waiting for DNS",
        retry_at=retry_at,
        error=unresolved,
    )
    started = JobProgress(
        **about, sequence=4, step="preflight", attempt=0, message="Checking DNS, port 80 and nginx"
    )
    replayed = OperatorAction(action="replay", by="alice", reason="disk was full", queue="ssl.jobs", count=12)
    cancelled = OperatorAction(**about, sequence=6, action="cancel", by="alice@ops-1", count=1)
    renewed = CertificateRenewed(
        **{**about, "job_id": None, "command_id": None, "command_source": None},
        sequence=11, by="server", previous_expiry=_SENT_AT, ssl_expiry=expiry,
    )  # fmt: skip
    at_risk = CertificateAtRisk(
        **{**about, "job_id": None, "command_id": None, "command_source": None},
        sequence=12, ssl_expiry=expiry,
        error=error_object(Code.DNS_WRONG_SERVER, "shop.example.com points to 192.0.2.99, not to this server."),
    )  # fmt: skip
    over = at_risk.model_copy(update={"sequence": 13, "error": None})
    return {
        StatusChanged: [_event(active, 1), _event(given_up, 2)],
        RequestRejected: [_event(refused, 3)],
        JobProgress: [_event(waiting, 4), _event(started, 5)],
        OperatorAction: [_event(replayed, 6), _event(cancelled, 7)],
        CertificateRenewed: [_event(renewed, 8)],
        CertificateAtRisk: [_event(at_risk, 9), _event(over, 10)],
    }


def _event(data: EventData, number: int) -> dict[str, Any]:
    event_id = f"5e0f8a8c-7a52-4d59-8a0b-{number:012d}"
    body = build_event(event_id=event_id, site_id=data.site_id, occurred_at=_SENT_AT, data=data)
    document: dict[str, Any] = json.loads(body)
    return document
