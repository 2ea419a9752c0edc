"""The guards of PROTOCOL 1 on a real PostgreSQL."""

import threading
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from contracts.codes import Code
from db import claims, jobs, outcomes, sites
from db.claims import Claim, ClaimLostError, HeldJob, Unclaimable
from db.pool import Connection, Pool, transaction
from workers.core.model import JobId, JobKind, JobState, Server, SslStatus

SERVER = Server("203.0.113.7")
LEASE_SECONDS = 90.0


def new_job(conn: Connection, *names: str, server: Server = SERVER, site: str | None = None) -> JobId:
    job_id = JobId(str(uuid4()))
    site_id = site or f"site-{job_id}"
    with conn.transaction():
        sites.lock(conn, site_id)
        jobs.insert(
            conn, jobs.NewJob(job_id, site_id, JobKind.ISSUE, names, server, False, "c", "/s", None), 60
        )
        sites.set_request(
            conn,
            site_id,
            domain=names[0],
            aliases=names[1:],
            server=server,
            job_id=job_id,
            status=SslStatus.PENDING,
        )
    return job_id


def claim(conn: Connection, job_id: JobId) -> HeldJob | Unclaimable:
    with conn.transaction() as attempt:
        held = claims.claim(conn, job_id, uuid4(), LEASE_SECONDS)
        if isinstance(held, Unclaimable):
            raise psycopg.Rollback(attempt)
        return held
    return held


def must_claim(conn: Connection, job_id: JobId) -> HeldJob:
    held = claim(conn, job_id)
    assert isinstance(held, HeldJob)
    return held


def expire(conn: Connection, held: HeldJob) -> None:
    conn.execute(
        "update lease set expires_at = clock_timestamp() - interval '1 s' where key = any(%s)",
        (list(held.claim.keys),),
    )


def reheld(conn: Connection, held: Claim) -> HeldJob:
    return claims.hold(conn, held)


def test_claim_takes_the_server_and_every_name(conn: Connection) -> None:
    job_id = new_job(conn, "a.example", "www.a.example")
    held = must_claim(conn, job_id)
    assert held.claim.keys == ("domain:a.example", "domain:www.a.example", SERVER.key)
    assert conn.execute("select state from job where id = %s", (job_id,)).fetchone() == ("running",)


def test_second_claim_of_a_held_job_is_busy_and_takes_nothing(conn: Connection) -> None:
    job_id = new_job(conn, "a.example")
    held = must_claim(conn, job_id)
    assert claim(conn, job_id) is Unclaimable.BUSY
    claims.hold(conn, held.claim)


def test_two_jobs_of_one_server_take_turns(conn: Connection) -> None:
    first, second = new_job(conn, "a.example"), new_job(conn, "b.example")
    held = must_claim(conn, first)
    assert claim(conn, second) is Unclaimable.BUSY
    assert [offer.job_id for offer in jobs.next_after(conn, SERVER.key, ["a.example"])] == [second]
    outcomes.finish(conn, held, JobState.FAILED, code=Code.INTERNAL, message="x", because="test")
    assert isinstance(claim(conn, second), HeldJob)


def test_fence_grows_and_is_at_least_the_milliseconds_since_1970(conn: Connection) -> None:
    job_id = new_job(conn, "a.example")
    first = must_claim(conn, job_id)
    expire(conn, first)
    second = must_claim(conn, job_id)
    assert second.claim.fence > first.claim.fence > 1_700_000_000_000


def test_released_lease_keeps_its_fence(conn: Connection) -> None:
    """PROTOCOL 5 o: a deleted row would grant the same fence twice."""
    job_id = new_job(conn, "a.example")
    first = must_claim(conn, job_id)
    conn.execute("update lease set fence = fence + 1000000 where key = %s", (SERVER.key,))
    claims.release(conn, first.claim)
    assert must_claim(conn, job_id).claim.fence > first.claim.fence + 1_000_000


def test_heartbeat_that_comes_after_the_release_does_not_take_the_leases_back(conn: Connection) -> None:
    """Its list of claims was made before; else the job could not be claimed again for the length of a lease."""
    job_id, other = new_job(conn, "a.example"), new_job(conn, "b.example", server=Server("203.0.113.8"))
    held, living = must_claim(conn, job_id), must_claim(conn, other)
    expire(conn, living)
    claims.release(conn, held.claim)
    whole = claims.renew_all(conn, [held.claim, living.claim], LEASE_SECONDS)
    assert whole == {held.claim.owner, living.claim.owner}
    assert claim(conn, other) is Unclaimable.BUSY
    must_claim(conn, job_id)
    assert claims.renew_all(conn, [held.claim, living.claim], LEASE_SECONDS) == {living.claim.owner}


def test_stale_holder_writes_nothing(conn: Connection) -> None:
    """PROTOCOL 5 p and w: neither by the guard nor by a statement without it."""
    job_id = new_job(conn, "a.example")
    stale = must_claim(conn, job_id)
    expire(conn, stale)
    must_claim(conn, job_id)
    with pytest.raises(ClaimLostError):
        claims.hold(conn, stale.claim)
    with pytest.raises(ClaimLostError):
        outcomes.count_attempt(conn, stale, serial_seen=None, orders=True, spec={})
    with pytest.raises(ClaimLostError):
        outcomes.finish(conn, stale, JobState.FAILED, code=None, message=None, because="stale")
    assert conn.execute("select state, attempt from job where id = %s", (job_id,)).fetchone() == (
        "running",
        0,
    )


def test_holder_whose_server_lease_went_to_another_job_is_refused(conn: Connection) -> None:
    """PROTOCOL 5 w: the job's own row still shows the old fence."""
    held = must_claim(conn, new_job(conn, "a.example"))
    conn.execute("update lease set owner = %s where key = %s", (uuid4(), SERVER.key))
    with pytest.raises(ClaimLostError):
        claims.hold(conn, held.claim)


def test_count_is_made_once_however_often_it_is_repeated(conn: Connection) -> None:
    held = must_claim(conn, new_job(conn, "a.example"))
    assert outcomes.count_attempt(conn, held, serial_seen="old", orders=True, spec={}) == 1
    with pytest.raises(ClaimLostError):
        outcomes.count_attempt(conn, held, serial_seen="new", orders=True, spec={})
    again = reheld(conn, held.claim)
    assert (again.attempt, again.attempt_open, again.serial_before) == (1, True, "old")


def test_serial_before_survives_later_attempts(conn: Connection) -> None:
    """PROTOCOL 5 v: kept in memory, a new certificate would count as the old one after a take-over."""
    job_id = new_job(conn, "a.example")
    held = must_claim(conn, job_id)
    outcomes.count_attempt(conn, held, serial_seen="old", orders=True, spec={})
    held = reheld(conn, held.claim)
    now = conn.execute("select certpilot_now()").fetchone()
    assert now is not None
    outcomes.wait(
        conn, held, run_at=now[0], code=Code.INTERRUPTED, message="m", because="b", fails=1, failing_since=now[0],
        closed=outcomes.ClosedAttempt("dead"),
    )  # fmt: skip
    jobs.queue_due(conn, 10, 60)
    held = must_claim(conn, job_id)
    assert outcomes.count_attempt(conn, held, serial_seen="new", orders=True, spec={}) == 2
    assert reheld(conn, held.claim).serial_before == "old"


def test_superseded_job_counts_no_further_attempt(conn: Connection) -> None:
    job_id = new_job(conn, "a.example")
    held = must_claim(conn, job_id)
    assert jobs.supersede_or_flag(conn, job_id, JobId(str(uuid4()))) is False
    with pytest.raises(ClaimLostError):
        outcomes.count_attempt(conn, held, serial_seen=None, orders=True, spec={})


def test_job_with_an_open_attempt_ends_only_by_closing_it(conn: Connection) -> None:
    held = must_claim(conn, new_job(conn, "a.example"))
    outcomes.count_attempt(conn, held, serial_seen=None, orders=True, spec={})
    held = reheld(conn, held.claim)
    with pytest.raises(ClaimLostError):
        outcomes.finish(conn, held, JobState.FAILED, code=Code.INTERNAL, message="m", because="b")


def test_shared_name_on_another_server_waits_for_the_open_attempt(conn: Connection) -> None:
    """PROTOCOL 4.6: the other server never saw the newer fence, so the domain lease alone is not enough."""
    first = new_job(conn, "a.example")
    second = new_job(conn, "b.example", "a.example", server=Server("203.0.113.8"))
    held = must_claim(conn, first)
    outcomes.count_attempt(conn, held, serial_seen=None, orders=True, spec={})
    claims.release(conn, held.claim)
    assert claim(conn, second) is Unclaimable.SHARED_NAME
    held = must_claim(conn, first)
    outcomes.finish(
        conn,
        held,
        JobState.FAILED,
        code=Code.INTERNAL,
        message="m",
        because="b",
        closed=outcomes.ClosedAttempt("x"),
    )
    assert isinstance(claim(conn, second), HeldJob)


def test_outcome_repeated_after_a_lost_reply_finds_nothing_to_do(conn: Connection) -> None:
    held = must_claim(conn, new_job(conn, "a.example"))
    outcomes.finish(conn, held, JobState.SUCCEEDED, code=None, message=None, because="done")
    with pytest.raises(ClaimLostError):
        claims.hold(conn, held.claim)


def test_reload_waits_for_an_undecided_commit(pool: Pool) -> None:
    """PROTOCOL 4.7: what the holder reads after a lost reply is decided, not a guess."""
    with transaction(pool) as conn:
        job_id = new_job(conn, "a.example")
    with transaction(pool) as conn:
        held = must_claim(conn, job_id)
    seen: list[bool] = []

    def reload() -> None:
        with transaction(pool) as conn:
            seen.append(claims.hold(conn, held.claim).attempt_open)

    with transaction(pool) as undecided:
        claims.hold(undecided, held.claim)
        outcomes.count_attempt(undecided, held, serial_seen=None, orders=True, spec={})
        other = threading.Thread(target=reload)
        other.start()
        other.join(0.3)
        assert not seen
    other.join(10)
    assert seen == [True]


def test_orphan_is_offered_and_a_held_job_is_not(conn: Connection) -> None:
    job_id = new_job(conn, "a.example")
    held = must_claim(conn, job_id)
    assert jobs.reoffer_orphans(conn, 10, 60) == []
    expire(conn, held)
    assert [offer.job_id for offer in jobs.reoffer_orphans(conn, 10, 60)] == [job_id]
    assert jobs.reoffer_orphans(conn, 10, 60) == []


def test_only_the_oldest_queued_job_of_a_server_is_offered_again(conn: Connection) -> None:
    first, _second = new_job(conn, "a.example"), new_job(conn, "b.example")
    assert jobs.reoffer_queued(conn, 10, 60) == []
    conn.execute("update clock set ahead_by = %s", (timedelta(seconds=61),))
    assert [offer.job_id for offer in jobs.reoffer_queued(conn, 10, 60)] == [first]


def test_job_whose_name_is_anothers_does_not_keep_the_rest_of_its_server_waiting(conn: Connection) -> None:
    """The other may be on a server that is off for a day, or behind it in the queue: with the clock set back (chaos 202)."""
    closed = new_job(conn, "a.example")
    held = must_claim(conn, closed)
    outcomes.count_attempt(conn, held, serial_seen=None, orders=True, spec={})
    conn.execute("update job set state = 'queued', run_at = certpilot_now() where id = %s", (closed,))
    claims.release(conn, held.claim)
    conn.execute("update clock set ahead_by = ahead_by - interval '10 minutes'")
    newer = new_job(conn, "a.example")
    assert claim(conn, newer) is Unclaimable.SHARED_NAME
    conn.execute("update job set run_at = certpilot_now() - interval '1 s'")
    assert [offer.job_id for offer in jobs.next_after(conn, SERVER.key, ["z.example"])] == [closed]
    assert [offer.job_id for offer in jobs.reoffer_queued(conn, 10, 60)] == [closed]
    other = new_job(conn, "b.example")
    must_claim(conn, closed)
    assert [offer.job_id for offer in jobs.next_after(conn, SERVER.key, ["a.example"])] == [other]


def test_waiting_job_whose_place_a_newer_one_takes_is_looked_after_at_once(conn: Connection) -> None:
    closed = new_job(conn, "a.example")
    outcomes.count_attempt(conn, must_claim(conn, closed), serial_seen=None, orders=True, spec={})
    later = "update job set state = 'waiting', run_at = certpilot_now() + interval '1 hour' where id = %s"
    conn.execute(later, (closed,))
    assert not jobs.supersede_or_flag(conn, closed, new_job(conn, "a.example"))
    assert [offer.job_id for offer in jobs.queue_due(conn, 10, 60)] == [closed]


def test_paused_server_is_neither_claimed_nor_offered(conn: Connection) -> None:
    job_id = new_job(conn, "a.example")
    conn.execute("insert into pause (scope, paused_by) values ('203.0.113.7', 'me')")
    assert claim(conn, job_id) is Unclaimable.PAUSED
    conn.execute("update clock set ahead_by = %s", (timedelta(seconds=61),))
    assert jobs.reoffer_queued(conn, 10, 60) == []


def test_clock_that_was_set_back_keeps_no_server_from_its_jobs(conn: Connection) -> None:
    """A dead holder's lease then ends in an hour; a living one's is written anew by its next heartbeat."""
    job_id, other = new_job(conn, "a.example"), new_job(conn, "b.example")
    dead = must_claim(conn, job_id)
    conn.execute("update lease set expires_at = expires_at + interval '1 hour'")
    assert [offer.job_id for offer in jobs.reoffer_orphans(conn, 10, 60)] == [job_id]
    held = must_claim(conn, job_id)
    assert held.claim.fence > dead.claim.fence
    assert claim(conn, other) is Unclaimable.BUSY
    with pytest.raises(ClaimLostError):
        claims.hold(conn, dead.claim)
    outcomes.finish(conn, held, JobState.FAILED, code=Code.INTERNAL, message="x", because="test")
    conn.execute("update lease set expires_at = clock_timestamp() + interval '1 hour'")
    conn.execute("update job set run_at = certpilot_now() - interval '1 s' where id = %s", (other,))
    assert [offer.job_id for offer in jobs.reoffer_queued(conn, 10, 60)] == [other]


def test_offers_that_were_planned_before_the_clock_was_set_back_are_made_now(conn: Connection) -> None:
    """Else a job that somebody should go on with would wait for as long as the clock went back."""
    orphan, queued = new_job(conn, "a.example"), new_job(conn, "b.example", server=Server("203.0.113.8"))
    must_claim(conn, orphan)
    conn.execute("update lease set expires_at = '-infinity'")
    assert [offer.job_id for offer in jobs.reoffer_orphans(conn, 10, 5)] == [orphan]
    assert (jobs.reoffer_orphans(conn, 10, 5), jobs.reoffer_queued(conn, 10, 60)) == ([], [])
    conn.execute("update clock set ahead_by = ahead_by - interval '10 minutes'")
    assert [offer.job_id for offer in jobs.reoffer_orphans(conn, 10, 5)] == [orphan]
    assert [offer.job_id for offer in jobs.reoffer_queued(conn, 10, 60)] == [queued]
    assert (jobs.reoffer_orphans(conn, 10, 5), jobs.reoffer_queued(conn, 10, 60)) == ([], [])


def test_fence_does_not_go_back_with_the_clock(conn: Connection) -> None:
    job_id = new_job(conn, "a.example")
    first = must_claim(conn, job_id)
    # As if that had been granted by a clock that was an hour ahead.
    conn.execute("update lease set fence = fence + 3600000, expires_at = expires_at + interval '1 hour'")
    assert must_claim(conn, job_id).claim.fence > first.claim.fence + 3_600_000
