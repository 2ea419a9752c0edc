"""What a turn that a bug of ours ended leaves behind."""

import pytest

from db import claims, outcomes
from db.pool import Connection, Pool, transaction
from tests.support.held_jobs import add_job, take
from workers.runner.flights import Flight
from workers.runner.runner import Runner
from workers.runner.turn import Turns
from workers.settings import Settings


def fail(_: Turns, __: Flight) -> bool:
    raise RuntimeError("a bug of ours")


@pytest.mark.parametrize(("attempt_open", "state"), [(False, "dead"), (True, "waiting")])
def test_bug_ends_the_job_or_makes_it_wait_where_its_run_may_live(
    pool: Pool, conn: Connection, monkeypatch: pytest.MonkeyPatch, attempt_open: bool, state: str
) -> None:
    monkeypatch.setattr(Turns, "begin", fail)
    job_id = add_job(conn, "a.example")
    if attempt_open:
        held = take(pool, job_id)
        with transaction(pool) as inside:
            outcomes.count_attempt(inside, held, serial_seen=None, orders=True, spec={})
            claims.release(inside, held.claim)
    Runner(pool, Settings()).begin(job_id, 1)
    row = conn.execute(
        "select state, error_code, attempt_open, coalesce(run_at > certpilot_now(), false) from job"
    ).fetchone()
    assert row == (state, "INTERNAL", attempt_open, attempt_open)
