"""The checker of the invariants is clean on a clean world, and complains when a known bug is put back."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from contracts.codes import Code
from contracts.events import read_event
from db import activity, claims, inbox, outbox, outcomes, sites
from db.claims import HeldJob
from db.outbox import Lane
from db.outcomes import ClosedAttempt
from db.pool import Connection, Pool, transaction
from deploy.lab.acme_messages import Seen
from tests.support.held_jobs import SERVER, add_job, take
from tests.support.invariants import Command, FenceWatch, Machine, Run, World, complaints
from workers.activity import _row
from workers.announce import About, rejected
from workers.core.limits.costs import OrderFate
from workers.core.model import Certificate, JobId, JobState, Problem
from workers.runner import outcome
from workers.runner.outcome import End

CLIENT = "203.0.113.7"


def certificate(name: str) -> Certificate:
    return Certificate(
        f"5e{name[0]}" if name[0] in "abcdef" else "5e",
        (name,),
        "Lab CA",
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2099, 1, 1, tzinfo=UTC),
    )


def count(pool: Pool, held: HeldJob) -> HeldJob:
    with transaction(pool) as conn:
        outcomes.count_attempt(conn, held, serial_seen=None, orders=True, spec={})
        return claims.hold(conn, held.claim)


def succeed(pool: Pool, held: HeldJob) -> None:
    closed = ClosedAttempt("issued", exit_code=0, fate=OrderFate.ISSUED)
    with transaction(pool) as conn:
        outcome.succeed(conn, held, certificate(held.domain), "issued and served", closed)


def deliver(conn: Connection) -> None:
    """Relay and activity consumer in one step: what is in the outbox is published, and each event stored."""
    for lane in Lane:
        while rows := outbox.unpublished(conn, lane, 100):
            if lane is Lane.EVENT:
                activity.insert_batch(conn, [_row(read_event(row.body)) for row in rows])
            outbox.mark_published(conn, [row.seq for row in rows])


class Story:
    """A site whose certificate was issued at the second attempt, a job that is dead, a command that was rejected."""

    def __init__(self, pool: Pool, conn: Connection) -> None:
        self.pool, self.conn = pool, conn
        with conn.transaction():
            for command_id in ("c1", "c2", "c3"):
                inbox.take(conn, "/s", command_id, "hash")
        self.good = self._job("a.example", "c1")
        held = take(pool, self.good)
        held = count(pool, held)
        wait = outcome.Wait(
            datetime.now(UTC) - timedelta(hours=1), Problem(Code.INTERRUPTED, "Killed."), "test", 1, None
        )
        with transaction(pool) as inside:
            outcome.wait(
                inside,
                held,
                wait,
                ClosedAttempt("dead", Code.INTERRUPTED, fate=OrderFate.UNKNOWN),
            )
        conn.execute("update job set state = 'queued' where id = %s", (self.good,))
        succeed(pool, count(pool, take(pool, self.good)))
        self.dead = self._job("b.example", "c2")
        with transaction(pool) as inside:
            problem = Problem(Code.INTERNAL, "A bug.")
            outcome.end(inside, take_in(inside, self.dead), JobState.DEAD, End(problem, "test"), None)
        with conn.transaction():
            about = About("a.example", "c3", "/s")
            rejected(conn, about, Problem(Code.ALREADY_ACTIVE, "It is active."), domain="a.example")
        deliver(conn)

    def _job(self, name: str, command_id: str) -> JobId:
        job_id = add_job(self.conn, name)
        self.conn.execute("update job set command_id = %s where id = %s", (command_id, job_id))
        return job_id

    def world(self) -> World:
        (fence,) = self.conn.execute("select fence from lease where key = %s", (SERVER.key,)).fetchone() or (
            0,
        )
        closed = [
            row[0].timestamp()
            for row in self.conn.execute(
                "select closed_at from job_attempt where job_id = %s order by attempt", (self.good,)
            )
        ]
        runs = [Run(self.good, n, at - 0.002, at - 0.001) for n, at in enumerate(closed, 1)]
        orders = [Seen(n, "new-order", CLIENT, names=("a.example",), status=201) for n in (1.0, 3.0)]
        broken = b"no command"
        return World(
            self.conn,
            commands=[Command("/s", one) for one in ("c1", "c2", "c3")],
            broken_bodies=[broken],
            ready={"ssl.commands": 0, "ssl.jobs": 0, "ssl.activity": 0},
            letters={
                "ssl.commands": [hashlib.sha256(broken).hexdigest()],
                "ssl.jobs": [f"{self.dead}.1"] * 2,
                "ssl.activity": [],
            },
            orders=orders,
            certificates=[Seen(4.0, "finalize", CLIENT, names=("a.example",), status=200)],
            machines=[Machine(SERVER.key, fence, runs, {"a.example": "5ea"})],
        )


def take_in(conn: Connection, job_id: JobId) -> HeldJob:
    held = claims.claim(conn, job_id, uuid4(), 60)
    assert isinstance(held, HeldJob)
    return held


@pytest.fixture
def story(pool: Pool, conn: Connection) -> Story:
    return Story(pool, conn)


def test_clean_world_gives_no_complaint(story: Story) -> None:
    assert complaints(story.world()) == []


SQL = {
    "I1 two jobs of one command": ("I1", "update job set command_id = 'c1'"),
    "I1 confirmed command lost": ("I1", "delete from inbox where command_id = 'c3'"),
    "I1 command without an answer": ("I1", "delete from activity where detail->>'commandId' = 'c3'"),
    "I2 waits without a time": (
        "I2",
        "update job set state = 'waiting', finished_at = null, run_at = certpilot_now() - interval '1 h' where state = 'dead'",
    ),
    "I2 runs and nobody holds it": (
        "I2", "update job set state = 'running', finished_at = null where state = 'dead'",
    ),
    "I2 attempt left open": ("I2", "update job_attempt set closed_at = null where attempt = 1"),
    "I4 attempt that nobody counted": ("I4", "delete from job_attempt where attempt = 1"),
    "I4 order given back although it was made": ("I4", "update job_attempt set orders = false where attempt = 2"),
    "I4 closed as a failure although it issued": (
        "I4", "update job_attempt set result = 'failed', error_code = 'NOT_SERVED'",
    ),
    "I4 closed while it went on": ("I4", "update job_attempt set closed_at = closed_at - interval '1 s'"),
    "I5 gap": ("I5", "delete from activity where sequence = 1"),
    "I5 number given twice": ("I5", "update activity set sequence = 1 where sequence = 2"),
    "I6 event not stored": ("I6", "delete from activity where sequence = 1"),
    "I6 end not told": ("I6", "delete from activity where ssl_status = 'active'"),
    "I6 superseded and not told so": ("I6", "update job set state = 'superseded' where state = 'succeeded'"),
    "I7 dead without a letter": ("I7", "update job set epoch = 2 where state = 'dead'"),
    "I7 letter of a job that is not dead": ("I7", "update job set state = 'failed' where state = 'dead'"),
    "I8 lease started anew": ("I8", "update lease set fence = 1"),
    "I8 attempt with an older fence": ("I8", "update job_attempt set fence = 1 where attempt = 2"),
    "I9 not published": ("I9", "update outbox set published_at = null"),
    "I9 lease left behind": ("I9", "update lease set expires_at = 'infinity'"),
    "A.3 pending for ever": ("A.3", "update site set ssl_status = 'pending'"),
    "A.3 another certificate": ("A.3", "update site set certificate_serial = '1' where ssl_status = 'active'"),
    "A.3 succeeded and none": ("A.3", "update site set ssl_status = 'none'"),
    "A.3 removed and active": ("A.3", "update job set kind = 'remove' where state = 'succeeded'"),
    "A.3 removed and still on the server": (
        "A.3", "update job set kind = 'remove' where state = 'succeeded'; update site set ssl_status = 'none'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", SQL)
def test_corrupt_row_is_found(story: Story, bug: str) -> None:
    expected, statement = SQL[bug]
    world = story.world()
    story.conn.execute(statement)
    found = complaints(world)
    assert any(one.startswith(f"{expected}: ") for one in found), found


def one_more(machine: Machine, run: Run) -> Machine:
    return replace(machine, runs=[*machine.runs, run])


def overlapping(world: World) -> None:
    (machine,) = world.machines
    first, second = machine.runs
    world.machines = [replace(machine, runs=[replace(first, ended=second.began + 0.0005), second])]


def closed_and_alive(world: World) -> None:
    (machine,) = world.machines
    world.machines = [
        replace(machine, runs=[machine.runs[0], replace(machine.runs[1], alive=True)]),
    ]


def never_counted(world: World) -> None:
    (machine,) = world.machines
    world.machines = [one_more(machine, Run(machine.runs[0].job, 3, None, None))]


def void_and_ran(world: World) -> None:
    (machine,) = world.machines
    world.machines = [replace(machine, runs=[replace(machine.runs[0], void=True), machine.runs[1]])]


def third_order(world: World) -> None:
    world.orders = [*(world.orders or ()), Seen(5.0, "new-order", CLIENT, names=("a.example",), status=201)]


def other_order_between(world: World) -> None:
    world.orders = [*(world.orders or ()), Seen(3.5, "new-order", CLIENT, names=("z.example",), status=201)]


def third_certificate(world: World) -> None:
    world.certificates = [*world.certificates] * 3


def without_certificate(world: World) -> None:
    world.certificates = []


def server_saw_more(world: World) -> None:
    (machine,) = world.machines
    world.machines = [replace(machine, fence=machine.fence + 1)]


def left_in_queue(world: World) -> None:
    world.ready = {**(world.ready or {}), "ssl.jobs": 1}


def lost_letter(world: World) -> None:
    world.letters = {**(world.letters or {}), "ssl.commands": []}


def strange_event_letter(world: World) -> None:
    world.letters = {**(world.letters or {}), "ssl.activity": ["x"]}


@pytest.mark.parametrize(
    ("expected", "bug"),
    [
        ("I3", overlapping), ("I3", other_order_between), ("I4", closed_and_alive), ("I4", never_counted),
        ("I4", void_and_ran), ("I4", third_order), ("I4", third_certificate), ("I4", without_certificate),
        ("I7", lost_letter), ("I7", strange_event_letter), ("I8", server_saw_more), ("I9", left_in_queue),
    ],
)  # fmt: skip
def test_wrong_evidence_is_found(story: Story, expected: str, bug: Callable[[World], None]) -> None:
    world = story.world()
    bug(world)
    found = complaints(world)
    assert any(one.startswith(f"{expected}: ") for one in found), found


def test_command_answered_twice_is_found(story: Story) -> None:
    with story.conn.transaction():
        rejected(
            story.conn, About("a.example", "c3", "/s"), Problem(Code.ALREADY_ACTIVE, "Again."), domain=None
        )
    deliver(story.conn)
    assert any("has 2 answers" in one for one in complaints(story.world()))


def test_fence_that_went_back_is_remembered(story: Story) -> None:
    watch = FenceWatch()
    watch.look_at_database(story.conn)
    story.conn.execute("update lease set fence = fence - 1")
    watch.look_at_database(story.conn)
    assert watch.complaints
    assert all(one.startswith("I8: ") for one in watch.complaints)


# --- our own code with a guard taken out ----------------------------------------------------------------------------


def test_event_that_takes_no_number_is_found(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sites.bump_sequence

    def without_counting(conn: Connection, site_id: str) -> Any:
        row = real(conn, site_id)
        conn.execute("update site set sequence = sequence - 1 where site_id = %s", (site_id,))
        return row

    monkeypatch.setattr(sites, "bump_sequence", without_counting)
    succeed_once_more(story)
    deliver(story.conn)
    assert any(one.startswith("I5: ") for one in complaints(story.world()))


def succeed_once_more(story: Story) -> HeldJob:
    held = count(story.pool, take(story.pool, add_job(story.conn, "c.example")))
    succeed(story.pool, held)
    return held


def test_outcome_of_a_stale_holder_is_found_where_the_guard_is_missing(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL 5 n: the event is written although the guarded update touched no row."""
    held = succeed_once_more(story)
    monkeypatch.setattr(outcomes, "_check", lambda rows, job: None)
    succeed(story.pool, held)
    deliver(story.conn)
    assert f"I6: job {held.claim.job_id} is succeeded and its end was told 2 times" in complaints(
        story.world()
    )


def test_second_job_of_a_name_is_found_where_only_the_lease_keeps_it_off(story: Story) -> None:
    """PROTOCOL 5 e: the attempt is closed while its run goes on, and the next certbot begins beside it."""
    held = succeed_once_more(story)
    world = story.world()
    (machine,) = world.machines
    last = max(run.began or 0 for run in machine.runs)
    world.machines = [
        replace(
            machine,
            runs=[*machine.runs, Run(held.claim.job_id, 1, last - 0.5, last + 60)],
        )
    ]
    found = complaints(world)
    assert any(one.startswith("I3: ") for one in found), found
    assert any("went on after it was closed" in one for one in found), found
