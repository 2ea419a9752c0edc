"""A hundred thousand dead letters: how long `certpilot dlq` takes over them, and how much memory."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.bench.rows import Row
from tests.support.commands import command
from tests.support.installation import CERTPILOT
from workers.edges.amqp.broker import ensure_topology
from workers.edges.amqp.outgoing import OutgoingMessage, PublishResult
from workers.edges.amqp.publisher import Publisher

LETTERS = int(os.environ.get("BENCH_DLQ_LETTERS", "100000"))
_MOST_MEGABYTES, _MOST_SECONDS = 120, 60


def run() -> list[Row]:
    """A queue filled twice: to be looked at and replayed (with nobody to take it in), and to be discarded."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RabbitNode(Path(folder, "rabbit")) as rabbit,
        PostgresServer(Path(folder, "postgres")) as postgres,
    ):
        url = postgres.create_database("dlq")
        environment = {
            **os.environ,
            "CERTPILOT_DATABASE_URL": url,
            "CERTPILOT_RABBITMQ_URL": rabbit.url(),
        }
        subprocess.run([CERTPILOT, "migrate"], env=environment, check=True, capture_output=True)
        ensure_topology(rabbit.url(), name="bench")
        _fill(rabbit.url(), LETTERS)

        rows = [_measure(words, environment) for words in ("list", "show --site site_9", "replay --all")]
        _fill(rabbit.url(), LETTERS)
        return [*rows, _measure("discard --all --yes", environment), _told(url)]


def _fill(url: str, count: int) -> None:
    publisher = Publisher(url, name="bench", confirm_seconds=300)
    try:
        for start in range(0, count, 1000):
            results = publisher.publish_batch([_letter(number) for number in range(start, start + 1000)])
            assert set(results) == {PublishResult.CONFIRMED}
    finally:
        publisher.close()


def _letter(number: int) -> OutgoingMessage:
    body = json.dumps(command(site=f"site_{number}", command_id=f"c-{number}", server=None)).encode()
    headers = {
        "certpilot-letter-id": f"{number:064x}", "certpilot-code": "INVALID_REQUEST", "certpilot-reason": "server: missing",
        "certpilot-first-at": "2026-11-24T10:00:00Z", "certpilot-count": 1, "certpilot-routing-key": "ssl.issue",
    }  # fmt: skip
    return OutgoingMessage(
        exchange="", routing_key="ssl.commands.dlq", body=body, message_id=f"m-{number}",
        content_type="application/cloudevents+json", headers=headers,
    )  # fmt: skip


def _measure(words: str, environment: dict[str, str]) -> Row:
    began = time.monotonic()
    process = subprocess.Popen(
        [CERTPILOT, "dlq", *words.split()], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()
    seconds, megabytes = time.monotonic() - began, usage.ru_maxrss / 1024
    return Row(
        f"certpilot dlq {words}, {LETTERS} letters", f"{seconds:.1f} s, {megabytes:.0f} MB",
        f"≤ {_MOST_SECONDS} s, ≤ {_MOST_MEGABYTES} MB", seconds <= _MOST_SECONDS and megabytes <= _MOST_MEGABYTES,
    )  # fmt: skip


def _told(url: str) -> Row:
    query = "select sum((convert_from(body, 'UTF8')::jsonb->'data'->>'count')::int) from outbox where lane = 'event'"
    with psycopg.connect(url) as conn:
        row = conn.execute(query).fetchone()
    assert row is not None
    return Row(
        "letters that the feed says were acted on", str(row[0]), str(2 * LETTERS), row[0] == 2 * LETTERS
    )
