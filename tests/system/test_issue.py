"""From a plain JSON command to a certificate that browsers accept; one issue, looked at from every side."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.support.installation import (
    ROLES,
    DemoSite,
    Event,
    OwnQueue,
    get_http,
    installed,
    names_of,
    new_site,
    orders_of,
    renewal_setting,
    served,
    wait_for_http,
)
from tests.support.roles import running


@dataclass
class Issued:
    """What was seen of one issue."""

    site: DemoSite
    command_id: str
    view: dict[str, Any]
    seen: list[tuple[str, str | None, int | None]]
    feed: list[Event]
    queue: list[tuple[Any, bytes]]


@pytest.fixture(scope="module")
def issued(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode) -> Iterator[Issued]:
    with installed(lab, postgres, rabbit, template=TEMPLATE) as certpilot:
        site = new_site(lab, aliases=1)
        own_queue = OwnQueue(certpilot.rabbitmq_url)
        with running(certpilot.settings(), *ROLES), certpilot.watching(site) as seen:
            command_id = certpilot.issue(site)
            certpilot.wait_until_active(site)
            feed = certpilot.settled_feed(site)
            queue = own_queue.read()
        yield Issued(site, command_id, certpilot.view(site), seen, feed, queue)


def test_every_name_is_served_with_a_certificate_that_verifies(lab: Lab, issued: Issued) -> None:
    for name in issued.site.names:
        assert names_of(served(lab, issued.site.server, name)) == set(issued.site.names)


def test_http_redirects_to_https_for_every_name(issued: Issued) -> None:
    for name in issued.site.names:
        wait_for_http(issued.site.server, name, 301)
        assert get_http(issued.site.server, name) == (301, f"https://{name}/")


def test_names_with_different_roots_are_validated_each_in_its_own(issued: Issued) -> None:
    config = issued.site.server.read(f"/etc/letsencrypt/renewal/{issued.site.domain}.conf")
    assert renewal_setting(issued.site.server, issued.site.domain, "authenticator") == "webroot"
    for name in issued.site.names:
        assert re.search(rf"^{re.escape(name)} = /var/www/{re.escape(name)}$", config, re.MULTILINE), config


def test_the_ca_sees_one_order(lab: Lab, issued: Issued) -> None:
    assert [order.names for order in orders_of(lab, issued.site)] == [tuple(sorted(issued.site.names))]


def test_the_view_tells_queued_then_running_then_active(issued: Issued) -> None:
    states = [row for row in issued.seen if row != ("pending", "queued", 0)]
    assert states == [("pending", "running", 0), ("pending", "running", 1), ("active", "succeeded", 1)]


def test_the_view_ends_with_the_certificates_own_not_after(lab: Lab, issued: Issued) -> None:
    certificate = served(lab, issued.site.server, issued.site.domain)
    view = issued.view
    assert (view["ssl_status"], view["ssl_expiry"]) == ("active", certificate.not_valid_after_utc)
    assert (view["job_state"], view["error_code"], view["retry_at"]) == ("succeeded", None, None)


def test_the_feed_tells_every_step_once_in_order(issued: Issued) -> None:
    told = [(event.kind, event.step or event.status) for event in issued.feed]
    installing = ("ssl.job.progress", "installing")  # seen only where a poll comes at that moment
    assert [step for step in told if step != installing] == [
        ("ssl.status.changed", "pending"),
        ("ssl.job.progress", "queued"),
        ("ssl.job.progress", "connecting"),
        ("ssl.job.progress", "preflight"),
        ("ssl.job.progress", "requesting"),
        ("ssl.job.progress", "verifying"),
        ("ssl.job.progress", "done"),
        ("ssl.status.changed", "active"),
    ]
    assert told.count(installing) <= 1


def test_the_feeds_sequence_has_no_gap(issued: Issued) -> None:
    assert [event.sequence for event in issued.feed] == list(range(1, len(issued.feed) + 1))


def test_the_job_ends_in_exactly_one_status_changed(issued: Issued) -> None:
    changes = [event for event in issued.feed if event.kind == "ssl.status.changed"]
    assert [(c.detail["previousStatus"], c.detail["sslStatus"]) for c in changes] == [
        ("none", "pending"),
        ("pending", "active"),
    ]
    assert changes[1] is issued.feed[-1]
    expiry = datetime.fromisoformat(changes[1].detail["sslExpiry"])
    assert expiry == issued.view["ssl_expiry"]


def test_every_event_names_the_command_and_the_job(issued: Issued) -> None:
    told = {
        (event.detail["commandId"], event.detail["commandSource"], event.detail["jobId"])
        for event in issued.feed
    }
    assert told == {(issued.command_id, "/sites", str(issued.view["job_id"]))}


def test_a_queue_of_the_producers_own_gets_the_same_events_in_order(issued: Issued) -> None:
    bodies = [json.loads(body) for _, body in issued.queue]
    assert [body["id"] for body in bodies] == [event.event_id for event in issued.feed]
    assert [body["data"] for body in bodies] == [event.detail for event in issued.feed]
    for properties, raw in issued.queue:
        body = json.loads(raw)
        assert (body["source"], body["subject"], body["specversion"]) == (
            "/certpilot",
            issued.site.site_id,
            "1.0",
        )
        assert properties.message_id == properties.headers["ce-id"] == body["id"]
        assert properties.headers["ce-type"] == body["type"]
        assert (properties.content_type, properties.delivery_mode) == ("application/cloudevents+json", 2)
        assert body["time"].endswith("Z")
