"""The ledger around attempts: what is reserved, spent, given back and corrected, and what a job that waits is told."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from contracts.codes import Code
from db import ca_memory, claims, job_views, jobs, outcomes
from db import pool as pools
from db.outcomes import ClosedAttempt
from db.pool import Connection, Pool, transaction
from tests.support.held_jobs import SERVER, add_job, take
from workers.core.limits.costs import OrderFate, Spend
from workers.core.model import Certificate, JobId, Problem, Server
from workers.runner.ending import Endings
from workers.runner.flights import Flight
from workers.runner.ledger import Ledger, Payer, spends_to_json
from workers.runner.outcome import NOTHING

CA = "https://ca.test/dir"
ACCOUNT = "https://ca.test/acct/1"
FIGURES = {
    "registrations_per_address": {"count": 2, "period_seconds": 10_000},
    "orders_per_account": {"count": 3, "period_seconds": 10_800},
    "certificates_per_registered_domain": {"count": 2, "period_seconds": 86_400},
    "certificates_per_exact_set": {"count": 2, "period_seconds": 604_800},
    "failures_per_name": {"count": 1, "period_seconds": 1_800},
    "consecutive_failures_per_name": {"count": 1, "period_seconds": 86_400, "burst": 10},
}
BURST = {name: figure.get("burst", figure["count"]) for name, figure in FIGURES.items()}
ORDERS, DOMAIN, SET, REGISTRATIONS, FAILURES, IN_A_ROW = (
    "orders_per_account", "certificates_per_registered_domain", "certificates_per_exact_set",
    "registrations_per_address", "failures_per_name", "consecutive_failures_per_name",
)  # fmt: skip
SEE = ": see https://letsencrypt.org/docs/rate-limits/"


@dataclass
class Desk:
    """A runner's database work on jobs, with a ledger of small figures; no server, no CA."""

    pool: Pool
    conn: Connection
    ledger: Ledger
    payer: Payer = field(default_factory=lambda: Payer(ACCOUNT, "203.0.113.7"))

    @property
    def endings(self) -> Endings:
        return Endings(self.pool, self.ledger)

    def job(self, *names: str, server: Server = SERVER, site: str | None = None) -> Flight:
        return Flight(take(self.pool, add_job(self.conn, *names, server=server, site=site)))

    def again(self, flight: Flight) -> Flight:
        """The waiting job's time has come."""
        self.conn.execute("update job set state = 'queued' where id = %s", (flight.job_id,))
        return Flight(take(self.pool, flight.job_id))

    def count(self, flight: Flight) -> bool:
        """What COUNT does with the ledger; False: the job was refused and waits."""
        with transaction(self.pool) as conn:
            self.ledger.learn(conn, claims.hold(conn, flight.job.claim), self.payer, None)
        with transaction(self.pool) as conn:
            job = claims.hold(conn, flight.job.claim)
            spends: tuple[Spend, ...] = self.ledger.spends(conn, job, self.payer, pools.now(conn))
            allowed = self.ledger.reserve(conn, job, spends) is None
            if allowed:
                outcomes.count_attempt(
                    conn, job, serial_seen=None, orders=True, spec={"payer": self.payer.account or job.server_key},
                    spends=spends_to_json(spends),
                )  # fmt: skip
                flight.job = claims.hold(conn, flight.job.claim)
        if not allowed:
            self.endings.limited(flight, spends)
        return allowed

    def issue(self, *names: str, server: Server = SERVER) -> None:
        flight = self.job(*names, server=server)
        assert self.count(flight)
        self.succeed(flight)

    def succeed(self, flight: Flight) -> None:
        now = pools.real_now(self.conn)
        certificate = Certificate("a1", flight.job.names, "CA", now, now + timedelta(days=90))
        closed = ClosedAttempt("issued", fate=OrderFate.ISSUED)
        self.endings.well(flight, certificate, "issued and served", closed, NOTHING)

    def fail(
        self,
        flight: Flight,
        code: Code,
        fate: OrderFate,
        *,
        names: tuple[str, ...] = (),
        text: str = "",
        retry_at: datetime | None = None,
    ) -> None:
        closed = ClosedAttempt("failed", code, 1, text, fate, names)
        self.endings.problem(flight, Problem(code, text or "It failed.", names, retry_at, (text,)), closed)

    def taken(self, limit: str, subject: str = "") -> float:
        """Tokens missing in the buckets of a limit (those of one subject), reserved ones included."""
        figure = FIGURES[limit]
        row = self.conn.execute(
            "select coalesce(sum(reserved + extract(epoch from greatest(tat - certpilot_now(), interval '0')) / %s), 0)"
            " from limit_bucket where limit_name = %s and key like %s",
            (figure["period_seconds"] / figure["count"], limit, f"%{subject}"),
        ).fetchone()
        assert row is not None
        return round(float(row[0]), 2)

    def reserved(self) -> int:
        row = self.conn.execute("select coalesce(sum(reserved), 0) from limit_bucket").fetchone()
        assert row is not None
        return int(row[0])

    def state(self, flight: Flight) -> job_views.JobRow:
        return job_views.read(self.conn, job_id=flight.job_id)[0]


@pytest.fixture
def limits_file(tmp_path: Path) -> Path:
    path = tmp_path / "limits.json"
    path.write_text(json.dumps({"cas": [{"directory_url": CA, "limits": FIGURES}]}))
    return path


@pytest.fixture
def desk(pool: Pool, conn: Connection, limits_file: Path) -> Desk:
    return Desk(pool, conn, Ledger(CA, limits_file))


# --- reserved, spent, given back ------------------------------------------------------------------------------------


def test_an_order_reserves_all_its_buckets_and_spends_them_when_it_issued(desk: Desk) -> None:
    flight = desk.job("a.example.com", "b.example.com")
    assert desk.count(flight)
    assert desk.reserved() == 3
    desk.succeed(flight)
    assert desk.reserved() == 0
    assert (desk.taken(ORDERS), desk.taken(DOMAIN, "|example.com"), desk.taken(SET)) == (1, 1, 1)
    assert (desk.taken(FAILURES), desk.taken(REGISTRATIONS)) == (0, 0)


@pytest.mark.parametrize(
    ("code", "fate"),
    [
        (Code.SERVER_BUSY, OrderFate.NOT_MADE),
        (Code.INTERRUPTED, OrderFate.NOT_MADE),
        (Code.CA_UNREACHABLE, OrderFate.NOT_MADE),
        (Code.REJECTED_BY_CA, OrderFate.NOT_MADE),
    ],
)
def test_all_is_given_back_where_no_order_was_made(desk: Desk, code: Code, fate: OrderFate) -> None:
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    desk.fail(flight, code, fate)
    assert sum(desk.taken(limit) for limit in FIGURES) == 0


@pytest.mark.parametrize("end", ["superseded", "cancelled"])
def test_unwanted_job_gives_back_what_its_void_attempt_had_reserved(desk: Desk, end: str) -> None:
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    if end == "superseded":
        assert not jobs.supersede_or_flag(desk.conn, flight.job_id, JobId(flight.job_id))
    else:
        assert jobs.cancel_or_flag(desk.conn, flight.job_id) == ("a.example.com", False)
    desk.fail(flight, Code.SERVER_BUSY, OrderFate.NOT_MADE)
    assert desk.state(flight).state == end
    assert sum(desk.taken(limit) for limit in FIGURES) == 0


def test_attempt_whose_server_is_silent_keeps_its_reservation(desk: Desk) -> None:
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    desk.endings.unseen(flight, Problem(Code.SERVER_UNREACHABLE, "No answer."))
    assert desk.state(flight).state == "waiting"
    assert desk.reserved() == 3
    again = desk.again(flight)
    desk.succeed(again)
    assert (desk.reserved(), desk.taken(ORDERS)) == (0, 1)


def test_job_with_an_open_attempt_waits_on_where_its_policy_would_end_it(desk: Desk) -> None:
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    desk.endings.unseen(flight, Problem(Code.INTERNAL, "The server's answer made no sense."))
    row = desk.state(flight)
    assert row.state == "waiting"
    assert row.because is not None
    assert row.because.endswith("but a run of it may still live on the server")
    assert row.run_at is not None
    assert abs(row.run_at - pools.now(desk.conn) - timedelta(hours=1)) < timedelta(seconds=30)


# --- failures -------------------------------------------------------------------------------------------------------


def test_each_name_that_failed_pays_for_itself(desk: Desk) -> None:
    flight = desk.job("a.example.com", "b.example.com", "c.example.com")
    assert desk.count(flight)
    desk.fail(flight, Code.CHALLENGE_FAILED, OrderFate.MADE, names=("b.example.com",))
    assert (desk.taken(ORDERS), desk.taken(DOMAIN), desk.taken(SET)) == (1, 0, 0)
    for limit in (FAILURES, IN_A_ROW):
        assert [desk.taken(limit, f"{ACCOUNT}|{name}.example.com") for name in "abc"] == [0, 1, 0]


def test_where_nobody_saw_how_far_a_run_came_it_is_taken_to_have_spent_everything(desk: Desk) -> None:
    flight = desk.job("a.example.com", "b.example.com")
    assert desk.count(flight)
    desk.fail(flight, Code.INTERRUPTED, OrderFate.UNKNOWN)
    assert [desk.taken(limit) for limit in (ORDERS, DOMAIN, SET, FAILURES)] == [1, 1, 1, 2]


def test_name_without_failures_left_waits_and_others_of_the_account_go(desk: Desk) -> None:
    bad = desk.job("bad.example.com")
    assert desk.count(bad)
    desk.fail(bad, Code.CHALLENGE_FAILED, OrderFate.MADE, names=("bad.example.com",))
    bad = desk.again(bad)
    assert not desk.count(bad)
    row = desk.state(bad)
    assert row.error_message == "The certificate authority's limit of failures per name is used up."
    assert row.run_at is not None
    wait = row.run_at - pools.now(desk.conn)
    assert timedelta(minutes=29) < wait <= timedelta(minutes=30) * 1.01
    lines = desk.conn.execute("select limit_name from limit_wait").fetchall()
    assert sorted(lines) == [(SET,), (DOMAIN,), (ORDERS,)]
    desk.issue("good.example.org")


def test_success_ends_the_row_of_failures(desk: Desk) -> None:
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    desk.fail(flight, Code.CHALLENGE_FAILED, OrderFate.MADE, names=("a.example.com",))
    assert desk.taken(IN_A_ROW) == 1
    desk.conn.execute("update clock set ahead_by = interval '31 minutes'")
    flight = desk.again(flight)
    assert desk.count(flight)
    desk.succeed(flight)
    assert desk.taken(IN_A_ROW) == 0


# --- renewals, accounts, registrations ------------------------------------------------------------------------------


def test_renewal_of_an_unchanged_set_spends_neither_orders_nor_domain(desk: Desk) -> None:
    desk.issue("a.example.com", "b.example.com")
    desk.issue("b.example.com", "a.example.com")
    assert (desk.taken(ORDERS), desk.taken(DOMAIN), desk.taken(SET)) == (1, 1, 2)
    desk.conn.execute("update clock set ahead_by = interval '121 days'")
    desk.issue("a.example.com", "b.example.com")
    assert (desk.taken(ORDERS), desk.taken(DOMAIN)) == (1, 1)


def test_certificate_that_the_servers_own_timer_renewed_prolongs_the_exemption(desk: Desk) -> None:
    desk.issue("a.example.com")
    seen = Certificate(
        "b2",
        ("a.example.com",),
        "CA",
        pools.now(desk.conn) + timedelta(days=60),
        pools.now(desk.conn) + timedelta(days=150),
    )
    flight = desk.job("a.example.com")
    with transaction(desk.pool) as conn:
        desk.ledger.learn(conn, flight.job, desk.payer, seen)
    desk.conn.execute("update clock set ahead_by = interval '121 days'")
    assert desk.count(flight)
    assert desk.taken(ORDERS) == 0


def test_first_order_of_a_server_is_its_accounts_once_that_is_known(desk: Desk) -> None:
    """Three orders per period: were the first forgotten, the account's fourth would be refused by the CA."""
    desk.payer = Payer(None, "203.0.113.7")
    desk.issue("a.example.com")
    assert (desk.taken(ORDERS, SERVER.key), desk.taken(REGISTRATIONS, "203.0.113.7")) == (1, 1)
    desk.payer = Payer(ACCOUNT, "203.0.113.7")
    desk.issue("b.example.org")
    desk.issue("c.example.net")
    assert (desk.taken(ORDERS, ACCOUNT), desk.taken(REGISTRATIONS)) == (3, 1)
    assert not desk.count(desk.job("d.example.edu"))


def test_attempt_that_is_open_while_the_account_becomes_known_is_settled_in_the_accounts_bucket(
    desk: Desk,
) -> None:
    desk.payer = Payer(None, "203.0.113.7")
    silent = desk.job("a.example.com")
    assert desk.count(silent)
    desk.endings.unseen(silent, Problem(Code.SERVER_UNREACHABLE, "No answer."))
    desk.payer = Payer(ACCOUNT, "203.0.113.7")
    desk.issue("b.example.org")
    assert desk.taken(ORDERS, ACCOUNT) == 2
    silent = desk.again(silent)
    desk.fail(silent, Code.CHALLENGE_FAILED, OrderFate.MADE, names=("a.example.com",))
    assert (desk.reserved(), desk.taken(ORDERS, ACCOUNT), desk.taken(ORDERS)) == (0, 2, 2)
    assert desk.taken(FAILURES, f"{ACCOUNT}|a.example.com") == 1


def test_server_that_lost_its_account_starts_anew_and_is_not_mixed_with_the_old_one(desk: Desk) -> None:
    desk.issue("a.example.com")
    desk.payer = Payer(None, "203.0.113.7")
    flight = desk.job("b.example.org")
    assert desk.count(flight)
    desk.succeed(flight)
    assert (desk.taken(ORDERS, ACCOUNT), desk.taken(ORDERS, SERVER.key)) == (1, 1)
    desk.payer = Payer("https://ca.test/acct/2", "203.0.113.7")
    desk.issue("c.example.net")
    assert (desk.taken(ORDERS, ACCOUNT), desk.taken(ORDERS, "acct/2")) == (1, 2)


def test_registration_that_the_ca_took_before_it_refused_the_order_is_not_given_back(desk: Desk) -> None:
    desk.payer = Payer(None, "203.0.113.7")
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    text = f'too many certificates (50) already issued for "example.com" in the last 24h0m0s{SEE}'
    retry_at = pools.now(desk.conn) + timedelta(hours=5)
    desk.fail(flight, Code.TOO_MANY_REQUESTS, OrderFate.NOT_MADE, text=text, retry_at=retry_at)
    assert (desk.taken(REGISTRATIONS), desk.taken(ORDERS)) == (1, 0)


def test_sites_of_a_server_without_account_wait_for_one_registration_and_not_for_one_each(desk: Desk) -> None:
    for number in (1, 2):
        desk.payer = Payer(None, "198.51.100.1")
        desk.issue(f"n{number}.example.com", server=Server(f"203.0.113.{number}"))
    waits = []
    for number in range(5):
        flight = desk.job(f"n{number}.example{number}.org", server=Server("203.0.113.9"))
        assert not desk.count(flight)
        run_at = desk.state(flight).run_at
        assert run_at is not None
        waits.append((run_at - pools.now(desk.conn)).total_seconds())
    one = 10_000 / 2
    # three orders at once with the new account, then one an hour
    assert waits == pytest.approx([one, one + 60, one + 60, one + 3600, one + 7200], abs=100)
    other = desk.job("other.example.net", server=Server("203.0.113.8"))
    assert not desk.count(other)
    run_at = desk.state(other).run_at
    assert run_at is not None
    assert (run_at - pools.now(desk.conn)).total_seconds() == pytest.approx(2 * one, abs=120)


# --- the CA refuses all the same ------------------------------------------------------------------------------------


def refuse(desk: Desk, flight: Flight, text: str, wait: timedelta, names: tuple[str, ...] = ()) -> datetime:
    assert desk.count(flight)
    said = pools.now(desk.conn) + wait
    desk.fail(flight, Code.TOO_MANY_REQUESTS, OrderFate.NOT_MADE, text=text, retry_at=said, names=names)
    return said


def test_refusal_by_the_ca_corrects_the_bucket_that_it_names_and_no_other(desk: Desk) -> None:
    text = f'too many certificates (2) already issued for "example.com" in the last 24h0m0s{SEE}'
    wait = timedelta(hours=5)
    flight = desk.job("a.example.com", "a.example.org")
    said = refuse(desk, flight, text, wait, ("example.com",))
    row = desk.state(flight)
    assert (row.state, row.error_code, row.retry_at) == ("waiting", Code.TOO_MANY_REQUESTS, row.run_at)
    assert row.run_at is not None
    assert said <= row.run_at <= said + wait * 0.03
    other = desk.job("b.example.com")
    assert not desk.count(other)
    after = desk.state(other).run_at
    assert after is not None
    # one token each twelve hours, and the first is for the one that was refused
    assert (
        said + timedelta(hours=12) <= after <= said + timedelta(hours=12) + wait * 0.03 + timedelta(minutes=1)
    )
    desk.issue("b.example.org")


def test_refused_job_goes_before_those_that_were_promised_a_later_turn(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.issue(f"{name}.example.com")
    first = desk.job("c.example.net")
    assert desk.count(first)
    later = desk.job("d.example.org", server=Server("203.0.113.8"))
    assert not desk.count(later)
    text = f"too many new orders (3) from this account in the last 3h0m0s{SEE}"
    said = pools.now(desk.conn) + timedelta(hours=3)
    desk.fail(first, Code.TOO_MANY_REQUESTS, OrderFate.NOT_MADE, text=text, retry_at=said)
    turns = dict(
        desk.conn.execute(
            "select job_id::text, turn_at from limit_wait where limit_name = %s", (ORDERS,)
        ).fetchall()
    )
    assert turns[first.job_id] == said
    again = desk.again(later)
    assert not desk.count(again)
    moved = desk.conn.execute(
        "select turn_at from limit_wait where limit_name = %s and job_id = %s", (ORDERS, later.job_id)
    ).fetchone()
    assert moved == (said + timedelta(hours=1),)


def test_refused_job_goes_after_the_one_whose_turn_had_come_before(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.issue(f"{name}.example.com")
    slow, waiter = desk.job("c.example.net"), desk.job("d.example.org", server=Server("203.0.113.8"))
    assert desk.count(slow)
    assert not desk.count(waiter)
    desk.conn.execute("update clock set ahead_by = interval '61 minutes'")
    text = f"too many new orders (3) from this account in the last 3h0m0s{SEE}"
    said = pools.now(desk.conn) + timedelta(hours=3)
    desk.fail(slow, Code.TOO_MANY_REQUESTS, OrderFate.NOT_MADE, text=text, retry_at=said)
    run_at = desk.state(slow).run_at
    assert run_at is not None
    assert said + timedelta(hours=1) <= run_at <= said + timedelta(hours=1, minutes=1)


@pytest.mark.parametrize(
    "text", ["Request rate limit exceeded for this account.", "The request exceeds a rate limit"]
)
def test_refusal_in_another_cas_words_makes_the_job_wait_and_corrects_no_bucket(
    desk: Desk, text: str
) -> None:
    flight = desk.job("a.example.com")
    said = refuse(desk, flight, text, timedelta(hours=2))
    row = desk.state(flight)
    assert row.run_at is not None
    assert said <= row.run_at <= said + timedelta(hours=2) * 0.03
    assert sum(desk.taken(limit) for limit in FIGURES) == 0
    assert desk.conn.execute("select 1 from limit_wait").fetchall() == []
    desk.issue("b.example.com")


def test_refusal_without_a_time_is_believed_for_an_hour(desk: Desk) -> None:
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    text = "too many certificates already issued for exact set of domains: a.example.com"
    desk.fail(flight, Code.TOO_MANY_REQUESTS, OrderFate.NOT_MADE, text=text)
    with desk.conn.transaction():
        row = desk.conn.execute("select tat from limit_bucket where limit_name = %s", (SET,)).fetchone()
    assert row is not None
    free_at = row[0] - timedelta(seconds=604_800) + timedelta(seconds=604_800 / 2)
    assert abs(free_at - pools.now(desk.conn) - timedelta(hours=1)) < timedelta(seconds=30)


# --- what a job that waits is told ----------------------------------------------------------------------------------


def use_up(desk: Desk) -> None:
    for number in range(3):
        desk.issue(f"used{number}.example{number}.org")


def test_job_that_the_ledger_refuses_waits_for_its_turn_and_says_so(desk: Desk) -> None:
    use_up(desk)
    flight = desk.job("a.example.com")
    assert not desk.count(flight)
    row = desk.state(flight)
    assert (row.state, row.attempt, row.error_code) == ("waiting", 0, Code.TOO_MANY_REQUESTS)
    assert row.run_at is not None
    assert row.retry_at == row.run_at
    wait = row.run_at - pools.now(desk.conn)
    assert timedelta(minutes=59) < wait < timedelta(hours=1) * 1.03
    view = desk.conn.execute(
        "select ssl_status, job_state, error_code, retry_at from site_ssl where site_id = 'a.example.com'"
    ).fetchone()
    assert view == ("pending", "waiting", Code.TOO_MANY_REQUESTS, row.run_at)
    body = desk.conn.execute(
        "select convert_from(body, 'utf8') from outbox where lane = 'event' order by seq desc limit 1"
    ).fetchone()
    assert body is not None
    told = json.loads(body[0])["data"]
    assert (told["step"], told["error"]["code"]) == ("waiting", "TOO_MANY_REQUESTS")
    assert datetime.fromisoformat(told["retryAt"]) == row.run_at
    assert told["error"]["retryAt"] == told["retryAt"]
    desk.conn.execute("update clock set ahead_by = interval '61 minutes'")
    assert desk.count(desk.again(flight))


def test_those_who_wait_for_one_bucket_come_one_after_the_other(desk: Desk) -> None:
    use_up(desk)
    runs: list[datetime] = []
    for number in range(5):
        flight = desk.job(f"a{number}.site{number}.net")
        assert not desk.count(flight)
        run_at = desk.state(flight).run_at
        assert run_at is not None
        runs.append(run_at)
    gaps = [later - earlier for earlier, later in pairwise(runs)]
    assert all(timedelta(minutes=58) < gap < timedelta(minutes=62) for gap in gaps)


def test_job_over_two_limits_waits_for_the_strictest_and_for_nothing_after_that(desk: Desk) -> None:
    for name in ("a", "b", "c"):
        flight = desk.job(f"{name}.example.com")
        if desk.count(flight):
            desk.succeed(flight)
    desk.issue("x.example.org")
    assert desk.taken(ORDERS) == 3
    flight = desk.job("d.example.com")  # the fourth order, and the fourth certificate of example.com
    assert not desk.count(flight)
    assert desk.state(flight).error_message == (
        "The certificate authority's limit of certificates per registered domain is used up."
    )
    run_at = desk.state(flight).run_at
    assert run_at is not None
    assert timedelta(hours=23) < run_at - pools.now(desk.conn) < timedelta(hours=24, minutes=1)
    desk.conn.execute("update clock set ahead_by = interval '24 hours 1 minute'")
    assert desk.count(desk.again(flight))


def test_job_with_a_broken_site_does_not_keep_its_token_from_the_others(desk: Desk) -> None:
    use_up(desk)
    broken, next_one = desk.job("a.example.com"), desk.job("b.example.net", server=Server("203.0.113.8"))
    assert not desk.count(broken)
    assert not desk.count(next_one)
    desk.conn.execute("update clock set ahead_by = interval '61 minutes'")
    desk.endings.problem(desk.again(broken), Problem(Code.DNS_NOT_RESOLVING, "No address."))
    newcomer = desk.job("c.example.edu", server=Server("203.0.113.9"))
    assert desk.count(newcomer)


# --- figures --------------------------------------------------------------------------------------------------------


def test_ca_of_which_no_limits_are_known_is_asked_at_once_and_nothing_is_kept(
    desk: Desk, limits_file: Path
) -> None:
    desk.ledger = Ledger("https://other.test/dir", limits_file)
    for number in range(5):
        desk.issue(f"n{number}.example.com")
    assert desk.conn.execute("select count(*) from limit_bucket").fetchone() == (0,)


def test_attempt_of_the_ca_that_was_set_before_is_settled_with_its_own_figures(
    desk: Desk, limits_file: Path
) -> None:
    flight = desk.job("a.example.com")
    assert desk.count(flight)
    desk.ledger = Ledger("https://other.test/dir", limits_file)
    desk.succeed(flight)
    assert (desk.reserved(), desk.taken(ORDERS, f"{CA}|{ACCOUNT}")) == (0, 1)
    assert ca_memory.last_issued_at(desk.conn, "https://other.test/dir", "") is None
