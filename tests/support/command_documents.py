"""Commands as a producer of another team would write them: plain JSON, none of our code."""

import json
from typing import Any

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKcwaHcbDsPk3HbQPRwWvX2HXn1dyhPuuaVwNWN7Qf6W"
ABSENT = object()
"""As a value: leave the field out."""


def issue(**changes: Any) -> dict[str, Any]:
    """The example of the contract (DESIGN A.1); `data__server__port=22` changes a field inside."""
    document = {
        "specversion": "1.0",
        "id": "6f1c0c0e",
        "source": "/sites",
        "type": "com.cloudaipilot.ssl.issue.v1",
        "subject": "site_123",
        "time": "2026-11-24T10:00:00Z",
        "datacontenttype": "application/json",
        "data": {
            "siteId": "site_123",
            "domain": "shop.example.com",
            "aliases": ["www.shop.example.com"],
            "server": {"host": "203.0.113.7", "port": 22, "username": "root", "hostKey": HOST_KEY},
            "requestedBy": "user_42",
        },
    }
    return _changed(document, changes)


def renew(**changes: Any) -> dict[str, Any]:
    """The shortest renew; fields are added as in `issue`."""
    document = {
        "specversion": "1.0",
        "id": "7a",
        "source": "/sites",
        "type": "com.cloudaipilot.ssl.renew.v1",
        "data": {"siteId": "site_123"},
    }
    if any(path.startswith("data__server__") for path in changes):
        document["data"] = {"siteId": "site_123", "server": {"host": "203.0.113.7"}}
    return _changed(document, changes)


def _changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = document
        for parent in parents:
            place = place[parent]
        if value is ABSENT:
            place.pop(last, None)
        else:
            place[last] = value
    return document


def body(document: Any) -> bytes:
    return json.dumps(document).encode()
