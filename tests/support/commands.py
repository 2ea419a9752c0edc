"""Commands and their publishing, without any code of ours: what a producer in another language does."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pika

SERVER = {"host": "203.0.113.7", "port": 22, "username": "root"}


def command(
    kind: str = "issue", *, site: str = "site_1", command_id: str | None = None, **data: Any
) -> dict[str, Any]:
    """A valid command; `data` replaces or adds fields of its data."""
    body: dict[str, Any] = {"siteId": site, "domain": "shop.example.com", "aliases": [], "server": SERVER}
    if kind in {"renew", "remove"}:
        body = {"siteId": site}
    return {
        "specversion": "1.0",
        "id": command_id or str(uuid4()),
        "source": "/sites",
        "type": f"com.cloudaipilot.ssl.{kind}.v1",
        "subject": site,
        "time": "2026-11-24T10:00:00Z",
        "datacontenttype": "application/json",
        "data": body | data,
    }


def publish(url: str, *bodies: Mapping[str, Any] | bytes, routing_key: str = "ssl.issue") -> None:
    """Publish with confirms on one connection; the exchange is declared plainly, as any producer does."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare("ssl.commands", "topic", durable=True)
    for body in bodies:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        channel.basic_publish(
            "ssl.commands",
            routing_key,
            raw,
            pika.BasicProperties(content_type="application/cloudevents+json", delivery_mode=2),
        )
    connection.close()
