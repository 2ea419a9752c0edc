"""The ledger in SQL: the arithmetic of the pure core, many at once, and who leaves a line when."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.codes import Code
from db import ca_memory, claims, jobs, limits, outcomes
from db.limits import LedgerSpend
from db.pool import Connection, Pool, open_pool, transaction
from tests.support.held_jobs import add_job, take
from workers.core.limits.buckets import Bucket, Limit, LimitName, refused_until, settle
from workers.core.limits.waiting_line import PLACE_KEPT, Line, first_turn
from workers.core.model import JobId, JobState

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
ORDERS, SETS, FAILURES = (
    LimitName.ORDERS_PER_ACCOUNT,
    LimitName.CERTIFICATES_PER_EXACT_SET,
    LimitName.FAILURES_PER_NAME,
)
LIMITS = {
    ORDERS: Limit(ORDERS, count=3, period_seconds=60, burst=3),
    SETS: Limit(SETS, count=2, period_seconds=100, burst=2),
    FAILURES: Limit(FAILURES, count=2, period_seconds=50, burst=2),
}
BUCKETS = ((ORDERS, "a"), (SETS, "a"), (SETS, "b"), (FAILURES, "a"))


def wanted(name: LimitName, key: str = "a", *, limit: Limit | None = None) -> LedgerSpend:
    limit = limit or LIMITS[name]
    return LedgerSpend(name.value, key, 1, name is FAILURES, limit.emission, limit.burst_offset)


def stop_clock(conn: Connection) -> None:
    """Let `certpilot_now()` be what a row says, so that instants can be compared to the microsecond."""
    conn.execute("create table stopped_clock (at timestamptz not null)")
    conn.execute("insert into stopped_clock values (%s)", (NOW,))
    conn.execute(
        "create or replace function certpilot_now() returns timestamptz language sql stable as"
        " 'select at from stopped_clock'"
    )


def set_clock(conn: Connection, at: datetime) -> None:
    conn.execute("update stopped_clock set at = %s", (at,))


class Model:
    """The same ledger in memory, by `core.limits.buckets` and `core.limits.waiting_line`."""

    def __init__(self) -> None:
        self.buckets = {bucket: Bucket(EPOCH) for bucket in BUCKETS}
        self.waiting: dict[tuple[JobId, LimitName, str], tuple[datetime, datetime]] = {}

    def ahead(self, job: JobId, name: LimitName, key: str, now: datetime) -> tuple[datetime, ...]:
        own = [place for (who, _, _), (place, _) in self.waiting.items() if who == job]
        turns = (
            turn
            for (who, *bucket), (place, turn) in self.waiting.items()
            if who != job
            and bucket == [name, key]
            and turn > now - PLACE_KEPT
            and (not own or place < min(own))
        )
        return tuple(sorted(turns)) if name is not FAILURES else ()

    def line(self, job: JobId, name: LimitName, key: str, now: datetime, *, near: bool = False) -> Line:
        limit = LIMITS[name]
        ahead = self.ahead(job, name, key, now)
        if near:
            ahead = tuple(turn for turn in ahead if turn < now + limit.burst_offset)
        return Line(limit, self.buckets[name, key], ahead)

    def allows(self, job: JobId, buckets: list[tuple[LimitName, str]], now: datetime) -> bool:
        lines = [self.line(job, *bucket, now, near=True) for bucket in buckets]
        return first_turn(lines, not_before=now, now=now).at == now

    def take(self, job: JobId, buckets: list[tuple[LimitName, str]]) -> None:
        for bucket in buckets:
            if bucket[0] is not FAILURES:
                stored = self.buckets[bucket]
                self.buckets[bucket] = Bucket(stored.tat, stored.reserved + 1)
        self.waiting = {key: wait for key, wait in self.waiting.items() if key[0] != job}

    def promise(self, job: JobId, buckets: list[tuple[LimitName, str]], now: datetime) -> datetime:
        lines = [self.line(job, *bucket, now) for bucket in buckets]
        turn = first_turn(lines, not_before=now, now=now).at
        own = [place for (who, _, _), (place, _) in self.waiting.items() if who == job]
        self.waiting = {key: wait for key, wait in self.waiting.items() if key[0] != job}
        for name, key in buckets:
            if name is not FAILURES:
                self.waiting[job, name, key] = (min(own, default=turn), turn)
        return turn

    def spend(self, bucket: tuple[LimitName, str], now: datetime) -> None:
        limit, stored = LIMITS[bucket[0]], self.buckets[bucket]
        ended = settle(limit, Bucket(stored.tat, stored.reserved + 1), now, spent=True)
        self.buckets[bucket] = ended


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"), st.integers(0, 5), st.sets(st.sampled_from(BUCKETS), min_size=1, max_size=4)
        ),
        st.tuples(st.just("wait"), st.integers(0, 40_000_000)),
        st.tuples(st.just("come at the next turn")),
        st.tuples(st.just("settle"), st.integers(0, 10), st.booleans()),
        st.tuples(st.just("fail"), st.sampled_from(BUCKETS)),
        st.tuples(st.just("refusal"), st.sampled_from(BUCKETS), st.integers(0, 100_000_000), st.booleans()),
        st.tuples(st.just("fill"), st.sampled_from(BUCKETS)),
    ),
    min_size=10,
    max_size=60,
)


class Twin:
    """Both, step by step, and every answer compared."""

    def __init__(self, conn: Connection, job_ids: list[JobId]) -> None:
        self.conn, self.jobs, self.model, self.now = conn, job_ids, Model(), NOW
        self.held: list[list[tuple[LimitName, str]]] = []

    def ask(self, number: int, buckets: set[tuple[LimitName, str]]) -> None:
        job, order = self.jobs[number], sorted(buckets, reverse=True)
        spends = [wanted(*bucket) for bucket in order]
        refused = limits.reserve(self.conn, job, spends)
        assert (refused is None) == self.model.allows(job, order, self.now)
        if refused is None:
            self.model.take(job, order)
            self.held.append([bucket for bucket in order if bucket[0] is not FAILURES])
            return
        assert (refused.limit_name, refused.key) in buckets
        rows = limits.lines(self.conn, job, spends)
        lines = [
            Line(LIMITS[name], row.bucket, row.ahead) for (name, _), row in zip(order, rows, strict=True)
        ]
        turn = first_turn(lines, not_before=self.now, now=self.now).at
        limits.line_up(self.conn, job, spends, turn)
        assert turn == self.model.promise(job, order, self.now)

    def come_at_the_next_turn(self) -> None:
        turns = {job: turn for (job, _, _), (_, turn) in self.model.waiting.items()}
        if turns:
            job = min(turns, key=lambda one: (turns[one], one))
            self.now = max(self.now, turns[job])
            set_clock(self.conn, self.now)
            self.ask(
                self.jobs.index(job), {(name, key) for who, name, key in self.model.waiting if who == job}
            )

    def settle(self, number: int, *, spent: bool) -> None:
        if self.held:
            buckets = self.held.pop(number % len(self.held))
            limits.settle(self.conn, [(wanted(*bucket), spent) for bucket in buckets])
            for bucket in buckets:
                self.model.buckets[bucket] = settle(
                    LIMITS[bucket[0]], self.model.buckets[bucket], self.now, spent=spent
                )

    def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case "ask", number, buckets:
                self.ask(number, buckets)
            case "wait", microseconds:
                self.now += timedelta(microseconds=microseconds)
                set_clock(self.conn, self.now)
            case ("come at the next turn",):
                self.come_at_the_next_turn()
            case "settle", number, spent:
                self.settle(number, spent=spent)
            case "fail", bucket:
                limits.spend(self.conn, [wanted(*bucket)])
                self.model.spend(bucket, self.now)
            case "refusal", bucket, microseconds, counted:
                said = self.now + timedelta(microseconds=microseconds)
                limits.believe_refusal(self.conn, wanted(*bucket), said, reserved_are_counted=counted)
                stored = self.model.buckets[bucket]
                self.model.buckets[bucket] = refused_until(
                    LIMITS[bucket[0]], stored, said, reserved_are_counted=counted
                )
            case "fill", bucket:
                limits.fill(self.conn, [wanted(*bucket)])
                self.model.buckets[bucket] = Bucket(EPOCH, self.model.buckets[bucket].reserved)

    def check(self) -> None:
        stored = {
            (LimitName(row[0]), row[1]): (max(row[2], self.now), row[3])
            for row in self.conn.execute("select limit_name, key, tat, reserved from limit_bucket")
        }
        expected = {
            name: (max(bucket.tat or NOW, self.now), bucket.reserved)
            for name, bucket in self.model.buckets.items()
        }
        assert {name: stored.get(name, (self.now, 0)) for name in expected} == expected
        waits = {
            (JobId(row[0]), LimitName(row[1]), row[2]): (row[3], row[4])
            for row in self.conn.execute(
                "select job_id::text, limit_name, key, place, turn_at from limit_wait"
            )
        }
        assert waits == self.model.waiting


@pytest.fixture
def six_jobs(conn: Connection) -> list[JobId]:
    stop_clock(conn)
    return [add_job(conn, f"{number}.example") for number in range(6)]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_the_database_says_and_keeps_what_the_pure_core_does(
    conn: Connection, six_jobs: list[JobId], steps: list[tuple[Any, ...]]
) -> None:
    conn.execute("delete from limit_bucket")
    conn.execute("delete from limit_wait")
    set_clock(conn, NOW)
    twin = Twin(conn, six_jobs)
    for step in steps:
        twin.do(step)
        twin.check()


# --- many at once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def many(database_url: str) -> Iterator[Pool]:
    with open_pool(database_url, "test", max_size=16) as opened:
        opened.wait()
        yield opened


def test_many_at_once_never_get_more_than_there_is(conn: Connection, many: Pool) -> None:
    limit = Limit(ORDERS, count=10, period_seconds=100_000, burst=10)
    ids = [add_job(conn, f"{number}.example") for number in range(80)]
    together = threading.Barrier(16)

    def ask(job_id: JobId) -> bool:
        if ids.index(job_id) < 16:
            together.wait(30)
        with transaction(many) as own:
            return limits.reserve(own, job_id, [wanted(ORDERS, limit=limit)]) is None

    with ThreadPoolExecutor(16) as threads:
        allowed = sum(threads.map(ask, ids))
    assert allowed == 10
    assert conn.execute("select reserved from limit_bucket").fetchone() == (10,)


def test_all_or_nothing_for_several_buckets(conn: Connection) -> None:
    first, second = add_job(conn, "a.example"), add_job(conn, "b.example")
    small = Limit(SETS, count=1, period_seconds=1000, burst=1)
    both = [wanted(ORDERS), wanted(SETS, limit=small)]
    assert limits.reserve(conn, first, both) is None
    refused = limits.reserve(conn, second, both)
    assert refused is not None
    assert (refused.limit_name, refused.key) == (SETS, "a")
    assert dict(conn.execute("select limit_name, reserved from limit_bucket").fetchall()) == {
        ORDERS: 1,
        SETS: 1,
    }


def test_orders_over_the_same_buckets_in_any_order_never_wait_for_each_other(
    conn: Connection, many: Pool
) -> None:
    """A deadlock raises in one of the two; 16 threads over the same 12 buckets find one within a few rounds."""
    limit = Limit(ORDERS, count=100_000, period_seconds=1, burst=100_000)
    ids = [add_job(conn, f"{number}.example") for number in range(16)]
    together = threading.Barrier(16)

    def work(job_id: JobId) -> None:
        dice = random.Random(job_id)
        for number in range(25):
            together.wait(60)  # all make the rows of this round
            spends = [wanted(ORDERS, f"{number}.{dice.randrange(12)}", limit=limit) for _ in range(20)]
            spends = list({one.key: one for one in spends}.values())
            dice.shuffle(spends)
            with transaction(many) as own:
                assert limits.reserve(own, job_id, spends) is None
                limits.lines(own, job_id, spends)
                limits.line_up(own, job_id, spends, NOW)
            with transaction(many) as own:
                limits.settle(own, [(one, False) for one in spends])

    with ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(work, job_id) for job_id in ids]:
            done.result(120)
    assert conn.execute("select sum(reserved) from limit_bucket").fetchone() == (0,)


def test_pruning_beside_reservations_loses_none(conn: Connection, many: Pool) -> None:
    limit = Limit(ORDERS, count=100_000, period_seconds=1, burst=100_000)
    ids = [add_job(conn, f"{number}.example") for number in range(8)]
    stop = threading.Event()

    def prune() -> int:
        deleted = 0
        while not stop.is_set():
            with transaction(many) as own:
                deleted += limits.prune(own, 100)
        return deleted

    def work(job_id: JobId) -> None:
        spends = [wanted(ORDERS, f"{job_id}{number}", limit=limit) for number in range(5)]
        for _ in range(40):
            with transaction(many) as own:
                assert limits.reserve(own, job_id, spends) is None
            with transaction(many) as own:
                held = own.execute(
                    "select sum(reserved) from limit_bucket where key like %s", (f"{job_id}%",)
                )
                assert held.fetchone() == (5,)
                limits.settle(own, [(one, False) for one in spends])

    with ThreadPoolExecutor(9) as threads:
        pruning = threads.submit(prune)
        try:
            for done in [threads.submit(work, job_id) for job_id in ids]:
                done.result(120)
        finally:
            stop.set()
        assert pruning.result(30) > 0


# --- who waits ------------------------------------------------------------------------------------------------------


def wait_in_line(conn: Connection, pool: Pool, name: str) -> claims.HeldJob:
    """A job that was refused and waits for its turn, now running again."""
    job = take(pool, add_job(conn, name))
    with transaction(pool) as own:
        job = claims.hold(own, job.claim)
        limits.line_up(own, job.claim.job_id, [wanted(ORDERS), wanted(FAILURES)], NOW)
        wait(own, job, waits_for_limit="orders_per_account|a")
    conn.execute("update job set state = 'queued' where id = %s", (job.claim.job_id,))
    return take(pool, job.claim.job_id)


def wait(conn: Connection, job: claims.HeldJob, waits_for_limit: str | None = None) -> None:
    outcomes.wait(
        conn, job, run_at=NOW, code=Code.TOO_MANY_REQUESTS, message="", because="", fails=0, failing_since=None,
        waits_for_limit=waits_for_limit,
    )  # fmt: skip


def in_line(conn: Connection) -> list[tuple[str, str]]:
    return conn.execute("select limit_name, key from limit_wait").fetchall()


def test_waiting_job_stands_in_the_lines_it_will_take_from_until_it_gets_its_tokens(
    conn: Connection, pool: Pool
) -> None:
    job = wait_in_line(conn, pool, "a.example")
    assert in_line(conn) == [(ORDERS, "a")]
    assert limits.reserve(conn, job.claim.job_id, [wanted(ORDERS)]) is None
    assert in_line(conn) == []


def test_job_that_waits_for_something_else_holds_no_token_back(conn: Connection, pool: Pool) -> None:
    job = wait_in_line(conn, pool, "a.example")
    with transaction(pool) as own:
        wait(own, claims.hold(own, job.claim))
    assert in_line(conn) == []


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.DEAD, JobState.SUCCEEDED])
def test_job_that_ends_leaves_its_lines(conn: Connection, pool: Pool, state: JobState) -> None:
    job = wait_in_line(conn, pool, "a.example")
    with transaction(pool) as own:
        outcomes.finish(own, claims.hold(own, job.claim), state, code=None, message=None, because="")
    assert in_line(conn) == []


@pytest.mark.parametrize("how", ["superseded", "cancelled"])
def test_waiting_job_that_somebody_ends_leaves_its_lines(conn: Connection, pool: Pool, how: str) -> None:
    job = wait_in_line(conn, pool, "a.example")
    with transaction(pool) as own:
        wait(own, claims.hold(own, job.claim), waits_for_limit="orders_per_account|a")
    assert in_line(conn) != []
    if how == "superseded":
        assert jobs.supersede_or_flag(conn, job.claim.job_id, JobId(str(uuid4())))
    else:
        assert jobs.cancel_or_flag(conn, job.claim.job_id) == ("a.example", True)
    assert in_line(conn) == []


def test_newcomer_leaves_the_token_to_whoever_was_promised_it_but_not_for_ever(
    conn: Connection, pool: Pool
) -> None:
    stop_clock(conn)
    one = Limit(ORDERS, count=1, period_seconds=7200, burst=1)
    spends = [wanted(ORDERS, limit=one)]
    waiting, newcomer = add_job(conn, "a.example"), add_job(conn, "b.example")
    limits.line_up(conn, waiting, spends, NOW)
    assert limits.reserve(conn, newcomer, spends) is not None
    set_clock(conn, NOW + PLACE_KEPT - timedelta(seconds=1))
    assert limits.reserve(conn, newcomer, spends) is not None
    assert limits.reserve(conn, waiting, spends) is None
    limits.settle(conn, [(spends[0], False)])
    limits.line_up(conn, waiting, spends, NOW)
    set_clock(conn, NOW + PLACE_KEPT)
    assert limits.reserve(conn, newcomer, spends) is None


def test_newcomer_takes_no_token_that_would_be_missing_at_a_promised_turn(conn: Connection) -> None:
    stop_clock(conn)
    one = Limit(ORDERS, count=1, period_seconds=3600, burst=1)
    spends = [wanted(ORDERS, limit=one)]
    waiting, newcomer = add_job(conn, "a.example"), add_job(conn, "b.example")
    limits.line_up(conn, waiting, spends, NOW + timedelta(minutes=59))
    assert limits.reserve(conn, newcomer, spends) is not None
    limits.line_up(conn, waiting, spends, NOW + timedelta(minutes=60))
    assert limits.reserve(conn, newcomer, spends) is None


def test_job_that_is_refused_at_its_turn_keeps_its_place(conn: Connection) -> None:
    stop_clock(conn)
    spends = [wanted(ORDERS)]
    ids = [add_job(conn, f"{number}.example") for number in range(3)]
    for number, job_id in enumerate(ids):
        limits.line_up(conn, job_id, spends, NOW + timedelta(seconds=20 * number))
    limits.believe_refusal(conn, spends[0], NOW + timedelta(seconds=100))
    row = limits.lines(conn, ids[1], spends)[0]
    assert row.ahead == (NOW,)
    limits.line_up(conn, ids[1], spends, NOW + timedelta(seconds=120))
    assert limits.lines(conn, ids[0], spends)[0].ahead == ()
    set_clock(conn, NOW + timedelta(seconds=100))
    assert limits.reserve(conn, ids[0], spends) is None  # those behind it were promised this token too
    assert limits.reserve(conn, ids[2], spends) is not None
    limits.line_up(conn, ids[0], spends, NOW)
    assert limits.lines(conn, ids[2], spends)[0].ahead == (NOW, NOW + timedelta(seconds=120))


# --- accounts, sets -------------------------------------------------------------------------------------------------


def test_what_a_server_spent_and_waits_for_is_its_accounts_once_that_is_known(conn: Connection) -> None:
    stop_clock(conn)
    old, new = "ca|server:203.0.113.7:22", "ca|https://ca/acct/1"
    stranger = f"{old}0"  # port 220 of the same host
    job_id = add_job(conn, "a.example")
    for key in (old, new, stranger):
        limits.settle(conn, [(wanted(ORDERS, key), True)])
    assert limits.reserve(conn, job_id, [wanted(ORDERS, old)]) is None
    limits.spend(conn, [wanted(FAILURES, f"{old}|a.example"), wanted(FAILURES, f"{stranger}|a.example")])
    limits.line_up(conn, job_id, [wanted(ORDERS, old)], NOW)
    limits.move(conn, [ORDERS, FAILURES], old, new)
    step, failure = LIMITS[ORDERS].emission, LIMITS[FAILURES].emission
    assert set(conn.execute("select limit_name, key, tat, reserved from limit_bucket").fetchall()) == {
        (ORDERS, new, NOW + step * 2, 1),
        (ORDERS, stranger, NOW + step, 0),
        (FAILURES, f"{new}|a.example", NOW + failure, 0),
        (FAILURES, f"{stranger}|a.example", NOW + failure, 0),
    }
    assert in_line(conn) == [(ORDERS, new)]


def test_issuance_counts_from_the_attempts_beginning_which_is_before_the_cas(
    conn: Connection, pool: Pool
) -> None:
    job = take(pool, add_job(conn, "a.example"))
    with transaction(pool) as own:
        outcomes.count_attempt(own, claims.hold(own, job.claim), serial_seen=None, orders=True, spec={})
    conn.execute("update clock set ahead_by = interval '30 days'")
    job = claims.hold(conn, job.claim)
    opened_at = outcomes.read_attempt(conn, job).opened_at
    ca_memory.note_issued(conn, "ca", "hash", opened_at)
    issued_at = ca_memory.last_issued_at(conn, "ca", "hash")
    assert issued_at is not None
    assert abs(issued_at - opened_at - timedelta(days=30)) < timedelta(seconds=1)
    assert issued_at <= opened_at + timedelta(days=30)


def test_newer_certificate_of_a_set_that_we_had_extends_its_exemption_and_no_other_does(
    conn: Connection,
) -> None:
    ca_memory.note_issued(conn, "ca", "ours", NOW)
    before = ca_memory.last_issued_at(conn, "ca", "ours")
    assert before is not None
    ca_memory.note_seen(conn, "ca", "ours", before - timedelta(days=1))
    assert ca_memory.last_issued_at(conn, "ca", "ours") == before
    ca_memory.note_seen(conn, "ca", "ours", before + timedelta(days=60))
    assert ca_memory.last_issued_at(conn, "ca", "ours") == before + timedelta(days=60)
    ca_memory.note_seen(conn, "ca", "anothers", before)
    assert ca_memory.last_issued_at(conn, "ca", "anothers") is None


def test_pruning_keeps_what_says_more_than_a_full_bucket(conn: Connection) -> None:
    stop_clock(conn)
    job_id = add_job(conn, "a.example")
    limits.settle(conn, [(wanted(ORDERS, "refilled"), True)])
    set_clock(conn, NOW + timedelta(hours=1))
    limits.settle(conn, [(wanted(ORDERS, "used"), True)])
    assert limits.reserve(conn, job_id, [wanted(ORDERS, "reserved")]) is None
    ca_memory.note_issued(conn, "ca", "now", NOW + timedelta(hours=1))
    conn.execute("insert into issued_set values ('ca', 'long ago', %s)", (NOW - timedelta(days=401),))
    assert limits.prune(conn, 10) == 1
    assert ca_memory.prune_issued(conn, 10) == 1
    assert {row[0] for row in conn.execute("select key from limit_bucket")} == {"used", "reserved"}
    assert ca_memory.last_issued_at(conn, "ca", "now") is not None
    assert ca_memory.last_issued_at(conn, "ca", "long ago") is None
