"""Which commands count as having killed their process, and which came back for another reason (DESIGN A.5 CRASHED)."""

import json
from typing import Any, cast

import pytest

from db.pool import Connection, OperationalError, Pool
from tests.support.commands import command
from workers import intake
from workers.edges.amqp.delivery_stream import Delivery, DeliveryStream
from workers.intake import Intake


class Died(BaseException):
    """Stands for the death of the process: nothing catches it."""


def redelivered(site: str) -> Delivery:
    return Delivery(
        body=json.dumps(command(site=site)).encode(), content_type=None, content_encoding=None, headers={}, message_id=None,
        exchange="ssl.commands", routing_key="ssl.issue", redelivered=True, readable=True, tag=1,
        stream=cast(DeliveryStream, None),
    )  # fmt: skip


def hand(
    process: Intake, delivery: Delivery, monkeypatch: pytest.MonkeyPatch, end: BaseException | None
) -> None:
    """One delivery; `end` is what happens while the command is looked into."""

    def broken(*_: Any) -> None:
        assert end is not None
        raise end

    with monkeypatch.context() as patch:
        if end is not None:
            patch.setattr(intake, "take", broken)
            with pytest.raises(type(end)):
                process.handle([delivery])
        else:
            process.handle([delivery])


def set_aside(conn: Connection) -> list[str]:
    rows = conn.execute("select headers->>'certpilot-code' from outbox where lane = 'letter'").fetchall()
    return [row[0] for row in rows]


def test_command_whose_process_died_three_times_is_set_aside(
    pool: Pool, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = redelivered("site_1")
    for _ in range(2):
        hand(Intake(pool), delivery, monkeypatch, Died())
        assert set_aside(conn) == []
    hand(Intake(pool), delivery, monkeypatch, None)
    assert set_aside(conn) == ["CRASHED"]
    assert conn.execute("select count(*) from job").fetchone() == (0,)


def test_command_that_comes_back_because_the_database_was_away_is_no_crash_whoever_gets_it(
    pool: Pool, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = redelivered("site_1")
    for _ in range(3):
        hand(Intake(pool), delivery, monkeypatch, OperationalError("the database went away"))
    hand(Intake(pool), delivery, monkeypatch, None)
    assert set_aside(conn) == []
    assert conn.execute("select count(*) from job").fetchone() == (1,)
