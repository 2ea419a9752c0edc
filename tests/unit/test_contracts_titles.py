"""The feed's sentences, word for word."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.codes import Code
from contracts.event_models import ActionWord, StepWord
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
    read_event,
)
from contracts.titles import CAUSES, activity_title

NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
SOON = datetime(2026, 11, 24, 10, 5, tzinfo=UTC)
TOMORROW = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
EXPIRY = datetime(2027, 2, 24, 10, 0, tzinfo=UTC)
SITE: dict[str, Any] = {"site_id": "site_123", "domain": "shop.example.com", "sequence": 1}
DNS = error_object(Code.DNS_NOT_RESOLVING, "m", SOON)


def title_of(data: EventData) -> str:
    return activity_title(
        read_event(build_event(event_id="e", site_id=data.site_id, occurred_at=NOW, data=data))
    )


def status(before: str, now: str, **more: Any) -> StatusChanged:
    return StatusChanged(**SITE, previous_status=before, ssl_status=now, **more)


def refused(code: Code, message: str = "m", retry_at: datetime | None = None, **more: Any) -> RequestRejected:
    return RequestRejected(**SITE | more, error=error_object(code, message, retry_at))


def progress(step: str, **more: Any) -> JobProgress:
    return JobProgress(**SITE, step=step, attempt=0, **{"message": "Something.", **more})


TITLES = {
    "issued": (
        status("pending", "active", ssl_expiry=EXPIRY),
        "Certificate for shop.example.com is active until 24 Feb 2027"),
    "renewed": (
        status("active", "active", ssl_expiry=EXPIRY),
        "Certificate for shop.example.com was renewed and is active until 24 Feb 2027"),
    "renewal failed": (
        status("active", "active", ssl_expiry=EXPIRY, error=DNS),
        ("The renewal for shop.example.com failed: DNS of shop.example.com does not resolve;"
         " its certificate stays valid until 24 Feb 2027")),
    "issued, and something is left to be mended": (
        status("pending", "active", ssl_expiry=EXPIRY, error=error_object(Code.CLOUDFLARE_FLEXIBLE_LOOP, "m")),
        ("Certificate for shop.example.com is active until 24 Feb 2027, but Cloudflare speaks HTTP to the server of"
         " shop.example.com (Flexible mode)")),
    "done, and something is left to be mended": (
        progress("done", error=error_object(Code.CLOUDFLARE_FLEXIBLE_LOOP, "m")),
        ("The certificate for shop.example.com is installed and served, but Cloudflare speaks HTTP to the server of"
         " shop.example.com (Flexible mode)")),
    "requested": (status("none", "pending"), "A certificate for shop.example.com is on its way"),
    "failed": (
        status("pending", "none", error=error_object(Code.REJECTED_BY_CA, "m")),
        "No certificate for shop.example.com: the certificate authority does not issue certificates for shop.example.com"),
    "ended without a certificate": (status("pending", "none"), "No certificate for shop.example.com"),
    "expired": (status("active", "expired", ssl_expiry=EXPIRY), "Certificate for shop.example.com has expired"),
    "expired and could not be renewed": (
        status("pending", "expired", ssl_expiry=EXPIRY, error=error_object(Code.DISK_FULL, "m")),
        "Certificate for shop.example.com has expired: the disk of the server of shop.example.com is full"),
    "refused: no domain": (
        refused(Code.NO_DOMAIN, domain=None), "Request refused: the site has no domain yet"),
    "refused: active, with the start of the window": (
        refused(Code.ALREADY_ACTIVE, "m", EXPIRY),
        "Request refused: shop.example.com already has a valid certificate; try again on 24 Feb 2027 at 10:00 UTC"),
    "refused: a wrong name is named": (
        refused(Code.INVALID_DOMAIN, 'The alias "a_b.com" has an underscore.'),
        'Request refused: the alias "a_b.com" has an underscore'),
    "refused: a wrong name, told otherwise": (
        refused(Code.INVALID_DOMAIN, "a_b.com"),
        "Request refused: a name is not one that a certificate can be issued for"),
    "queued": (progress("queued"), "Certificate for shop.example.com requested; waiting for its turn"),
    "connecting": (progress("connecting"), "Connecting to the server of shop.example.com"),
    "preflight": (progress("preflight"), "Checking DNS, ports and web server of shop.example.com"),
    "requesting": (progress("requesting"), "Requesting a certificate for shop.example.com"),
    "installing": (progress("installing"), "Installing the certificate for shop.example.com"),
    "verifying": (progress("verifying"), "Checking that visitors of shop.example.com are shown the certificate"),
    "waiting, until later today": (
        progress("waiting", retry_at=SOON, error=DNS),
        "Waiting: DNS of shop.example.com does not resolve; next check at 10:05 UTC"),
    "waiting, until another day": (
        progress("waiting", retry_at=TOMORROW, error=error_object(Code.TOO_MANY_REQUESTS, "m", TOMORROW)),
        ("Waiting: too many certificates were requested for shop.example.com in a short time;"
         " next check on 25 Nov 2026 at 09:30 UTC")),
    "waiting for nothing that has a code": (progress("waiting"), "Waiting: Something"),
    "done": (progress("done"), "The certificate for shop.example.com is installed and served"),
    "failed step": (
        progress("failed", error=error_object(Code.CAA_FORBIDS, "m")),
        "No certificate for shop.example.com: a CAA record of shop.example.com forbids the certificate authority"),
    "failed step without an error": (progress("failed"), "No certificate for shop.example.com"),
    "superseded": (progress("superseded"), "The request for shop.example.com was replaced by a newer one"),
    "a site without a domain is called by its id": (
        JobProgress(site_id="site_9", sequence=1, step="connecting", attempt=0, message="m"),
        "Connecting to the server of site site_9"),
    "replayed letters": (
        OperatorAction(action="replay", by="alice@ops-1", queue="ssl.jobs", count=12, reason="disk was full"),
        "alice@ops-1 replayed 12 dead letters of ssl.jobs: disk was full"),
    "discarded one letter": (
        OperatorAction(action="discard", by="alice", queue="ssl.commands", count=1),
        "alice discarded 1 dead letter of ssl.commands"),
    "paused": (OperatorAction(action="pause", by="alice", reason="maintenance"), "alice paused work: maintenance"),
    "resumed": (OperatorAction(action="resume", by="alice"), "alice resumed work"),
    "removed": (status("active", "none"), "The certificate for shop.example.com was removed"),
    "step of a removal": (
        progress("done", message="Removal: the certificate for shop.example.com was deleted on 203.0.113.7."),
        ("Removal of the certificate for shop.example.com: the certificate for shop.example.com was deleted on"
         " 203.0.113.7")),
    "renewed by the server": (
        CertificateRenewed(**SITE, by="server", previous_expiry=NOW, ssl_expiry=EXPIRY),
        "Certificate for shop.example.com was renewed by its own server; valid until 24 Feb 2027"),
    "at risk": (
        CertificateAtRisk(**SITE, ssl_expiry=EXPIRY, error=DNS),
        ("The certificate for shop.example.com will lapse on 24 Feb 2027 unless this is mended: DNS of"
         " shop.example.com does not resolve")),
    "lapsed": (
        CertificateAtRisk(**SITE, ssl_expiry=NOW, error=DNS),
        "The certificate for shop.example.com has lapsed: DNS of shop.example.com does not resolve"),
    "the risk is over": (
        CertificateAtRisk(**SITE, ssl_expiry=EXPIRY), "The certificate for shop.example.com is no longer at risk"),
    "cancelled": (
        OperatorAction(**SITE, action="cancel", by="alice"), "alice cancelled the request for shop.example.com"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "title"), TITLES.values(), ids=TITLES)
def test_title(data: EventData, title: str) -> None:
    assert title_of(data) == title


def test_every_step_and_action_has_a_case_above() -> None:
    steps = {data.step for data, _ in TITLES.values() if isinstance(data, JobProgress)}
    actions = {data.action for data, _ in TITLES.values() if isinstance(data, OperatorAction)}
    assert steps == set(StepWord.__args__)
    assert actions == set(ActionWord.__args__)


@pytest.mark.parametrize("code", Code)
def test_every_code_gives_a_sentence_about_the_site(code: Code) -> None:
    error = error_object(code, "Technical.", SOON)
    title = title_of(progress("waiting", retry_at=SOON, error=error))
    assert title == f"Waiting: {CAUSES[code].format(name='shop.example.com')}; next check at 10:05 UTC"
    assert code not in title
    assert "{" not in title
    assert not title.endswith(".")


def later(event_type: str, **data: Any) -> str:
    document = {
        "specversion": "1.0", "id": "e", "source": "/certpilot", "type": event_type, "subject": "site_123",
        "time": "2026-11-24T10:00:00Z", "data": {"siteId": "site_123", "domain": "shop.example.com", "sequence": 1, **data},
    }  # fmt: skip
    return activity_title(read_event(json.dumps(document).encode()))


def test_what_a_later_version_sends_has_a_sentence_too() -> None:
    assert later("com.cloudaipilot.ssl.certificate.copied.v1") == "shop.example.com: certificate copied"
    lost = "com.cloudaipilot.ssl.certificate.lost.v1"
    assert later(lost, error={"code": "NOT_SERVED"}) == (
        "shop.example.com: certificate lost: visitors of shop.example.com are shown another certificate"
    )
    moon = {"code": "MOON_IN_THE_WAY", "message": "The moon is in the way."}
    assert later(lost, error=moon) == "shop.example.com: certificate lost: The moon is in the way"
    step = "com.cloudaipilot.ssl.job.progress.v1"
    assert later(step, step="thinking", message="Thinking hard.") == "shop.example.com: Thinking hard"


def test_a_title_is_one_line_of_bounded_length_whatever_it_quotes() -> None:
    title = title_of(OperatorAction(action="pause", by="a\nb", reason="r " * 1000))
    assert title.startswith("a b paused work: r r")
    assert len(title) < 300
