"""What certbot 2.1.0, 2.9.0, 4.0.0 and 5.8.0 printed and logged in the lab, against a CA that enforces limits.

Recorded on Debian 12 with the distribution's 2.1.0 and the others from PyPI (certbot and certbot-nginx of one version in a
virtual environment of its own), each by `certbot run --nginx -n -d NAME` over SSH. The debug logs are cut to their last
12,000 characters. `plugin-missing` and `ca-busy` were recorded without a lab, from certbot alone and a server that answers every
request with 503, boulder's words and a Retry-After; 1.21.0 there on Python 3.9, since it does not run on 3.11 any more.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from workers.core.reading import read_text

RECORDED = [
    json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "fixtures" / "recorded").glob("*.json"))
]
VERSIONS = {"2.1.0", "2.9.0", "4.0.0", "5.8.0"}
STATES = {"challenge", "nxdomain", "rate-limit", "healthy", "nginx-broken"}


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["id"])
def test_recorded_output_is_read_right(case: dict[str, Any]) -> None:
    found = read_text(case["input"], exit_code=case["exit_code"]).main
    expected = case["expected"]
    assert (found.code, sorted(found.names), found.retry) == (
        expected["code"],
        expected["names"],
        expected["retry"],
    )
    retry_at = found.retry_at.strftime("%Y-%m-%dT%H:%M:%SZ") if found.retry_at else None
    assert retry_at == expected.get("retryAt")


def test_each_version_was_recorded_in_each_state() -> None:
    logs = {(case["certbot_version"], case["id"].rpartition("-")[0].rpartition("-")[0]) for case in RECORDED}
    assert {(version, state) for version in VERSIONS for state in STATES} <= logs
    alone = {"1.21.0", "2.9.0", "4.0.0", "5.8.0"}
    assert {(version, state) for version in alone for state in ("plugin-missing", "ca-busy")} <= logs
