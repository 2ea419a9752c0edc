"""A fleet on a virtual clock: certificates come due, servers are off and come back, one run at a time on each server.

The decisions are those of the core: when a renewal is due (`core.lifetime.renewal`), how fast due ones begin (`core.lifetime.pacing`), when
an unreachable server is tried again (`core.deciding.retry`, `core.lifetime.own_renewal`), what an order spends (`core.limits.costs`) and whether
a bucket allows it (`core.limits.buckets`). What they say of equal cases is asked once and kept: 16 million renewals are played.
Times are seconds since 1970.
"""

import heapq
import random
from array import array
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import count

from contracts.codes import Code
from workers.core.deciding.retry import History, RetryAction, decide_retry
from workers.core.lifetime.future_lifetimes import LETS_ENCRYPT, lifetime_of
from workers.core.lifetime.own_renewal import OwnRenewal, decide_own_renewal
from workers.core.lifetime.pacing import SHARE_KEPT_FREE, Cohort, fleet_demand_per_hour, pace_per_hour
from workers.core.lifetime.renewal import due_at, window_of
from workers.core.limits.buckets import LimitName, spend
from workers.core.limits.costs import Order, PaidBy, spends_of_order
from workers.core.limits.profiles import builtin_profiles
from workers.core.model import Certificate, Server, Site, SslStatus

HOUR, DAY = 3600, 86_400
TICK_SECONDS = 600
RUN_SECONDS = 6.0
BACKDATED_SECONDS = HOUR
"""Let's Encrypt's notBefore lies an hour back."""

OFF_SHARE, OFF_MEAN_SECONDS = 0.02, 12 * HOUR
_DRAWS = 4096
_TIMER_SECONDS = 12 * HOUR


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is played.

    Attributes:
        sites: how many, spread evenly over the servers.
        servers: how many.
        issued_within_days: the first certificates were issued at random within so many days before the start; None:
            within the time after which they are renewed, as in a fleet that has grown for long.
        by_themselves: share of the servers whose own timer renews as soon as the window opens.
        off_for_long: servers that are off for 100 days besides, from a random day on.
        paced: due renewals begin at the pace of `core.lifetime.pacing`, not at once.
    """

    sites: int = 1_000_000
    servers: int = 10_000
    issued_within_days: float | None = None
    by_themselves: float = 0.0
    off_for_long: int = 0
    paced: bool = True


@dataclass(slots=True)
class Played:
    """What came out.

    Attributes:
        per_hour: orders in each hour of the period.
        refused: orders that a limit of the CA would have refused.
        lapsed: certificates that were renewed after their notAfter, or were not when the period ended.
        lapsed_though_reachable: those of them whose server was on at some time after the renewal was due to certpilot.
        lapsed_after_the_servers_chance: those whose server was on only before that, in the half of the window in which its
            own timer would have renewed.
        longest_wait_days: how long a due renewal on a server that was on waited for its turn.
        least_left_days: the shortest time that was left to a notAfter at a renewal on a server that was on when it was
            due.
    """

    per_hour: "array[int]"
    refused: int = 0
    lapsed: int = 0
    lapsed_though_reachable: int = 0
    lapsed_after_the_servers_chance: int = 0
    longest_wait_days: float = 0.0
    least_left_days: float = 1000.0


class Year:
    """One play; `play` gives its result."""

    def __init__(self, fleet: Fleet, start: date, end: date, seed: int = 1) -> None:
        self._fleet, self._random = fleet, random.Random(seed)
        self._start, self._end = _seconds(start), _seconds(end)
        self._played = Played(array("l", [0]) * (int(self._end - self._start) // HOUR + 1))
        self._due = array("d", bytes(8 * fleet.sites))
        self._not_after = array("d", bytes(8 * fleet.sites))
        self._life = array("H", bytes(2 * fleet.sites))
        self._free_at = array("d", bytes(8 * fleet.servers))
        self._off_from = array("d", bytes(8 * fleet.servers))
        self._off_until = array("d", bytes(8 * fleet.servers))
        self._renewing_self = bytearray(
            self._random.random() < fleet.by_themselves for _ in range(fleet.servers)
        )
        self._long: dict[int, float] = {}
        self._failing_since: dict[int, float] = {}
        self._first_off: dict[int, tuple[float, float]] = {}
        self._buckets: dict[int, datetime] = {}
        self._ticks: defaultdict[int, array[int]] = defaultdict(lambda: array("L"))
        self._offsets: dict[int, list[float]] = {}
        self._number_of: dict[int, int] = {}
        self._newest_of: dict[int, float] = {}
        self._opens_after: dict[int, float] = {}
        self._retries = _retry_offsets()
        self._profile = next(p for p in builtin_profiles().by_url.values() if p.name == LETS_ENCRYPT)
        self._emission = self._profile.limits[LimitName.CERTIFICATES_PER_EXACT_SET].emission.total_seconds()
        self._sum_of_ends = self._allowance = 0.0
        self._waiting: list[tuple[float, int]] = []
        self._fill()

    def _fill(self) -> None:
        fleet, draw = self._fleet, self._random
        mean_on = OFF_MEAN_SECONDS * (1 - OFF_SHARE) / OFF_SHARE
        for server in range(fleet.servers):
            began = self._start - draw.expovariate(1 / OFF_MEAN_SECONDS)
            self._off_from[server] = (
                began if draw.random() < OFF_SHARE else self._start + draw.expovariate(1 / mean_on)
            )
            self._off_until[server] = max(self._off_from[server], self._start) + draw.expovariate(
                1 / OFF_MEAN_SECONDS
            )
        for server in draw.sample(range(fleet.servers), fleet.off_for_long):
            self._long[server] = self._start + draw.random() * (self._end - self._start - 150 * DAY)
        life = self._lifetime_at(self._start)
        self._learn(life)
        for site in range(fleet.sites):
            if fleet.issued_within_days is not None:
                issued = self._start - draw.random() * fleet.issued_within_days * DAY
            else:
                issued = self._start - draw.random() * self._offset(site % fleet.servers, life)
            self._issue(site, issued, life)

    # --- the clock --------------------------------------------------------------------------------------------------

    def play(self) -> Played:
        """Play from the start to the end."""
        for tick in count(int(self._start) // TICK_SECONDS):
            now = float((tick + 1) * TICK_SECONDS)
            if now > self._end:
                return self._finish()
            fresh = self._ticks.pop(tick, ())
            if not self._fleet.paced:
                for site in fresh:
                    self._renew(site, max(self._due_or_retry(site), now - TICK_SECONDS))
                continue
            for site in fresh:
                if self._renewing_self[site % self._fleet.servers]:
                    self._renew(site, now)
                elif self._cannot_wait(site, now):
                    self._renew(site, now)
                    self._allowance -= 1
                else:
                    heapq.heappush(self._waiting, (self._not_after[site], site))
                    self._sum_of_ends += self._not_after[site]
            self._begin_waiting(now)
        raise AssertionError("time does not end")

    def _begin_waiting(self, now: float) -> None:
        """Let as many go as the pace allows, the next to expire first, and those that cannot wait."""
        waiting = self._waiting
        if not waiting:
            self._allowance = min(self._allowance, 0.0)
        mean_left = timedelta(seconds=max(self._sum_of_ends / max(len(waiting), 1) - now, 0))
        cohorts = [
            Cohort(timedelta(days=life), number, _moment(self._newest_of[life]))
            for life, number in self._number_of.items()
        ]
        pace = pace_per_hour(fleet_demand_per_hour(cohorts), len(waiting), mean_left)
        self._allowance = max(self._allowance, -pace) + pace * TICK_SECONDS / HOUR
        number = 0
        while waiting and (number < int(self._allowance) or self._cannot_wait(waiting[0][1], now)):
            _, site = heapq.heappop(waiting)
            self._sum_of_ends -= self._not_after[site]
            self._renew(site, now + TICK_SECONDS * number / max(self._allowance, number + 1))
            number += 1
        self._allowance = min(self._allowance - number, 1.0)

    def _cannot_wait(self, site: int, now: float) -> bool:
        return self._not_after[site] - now <= self._life[site] * DAY * SHARE_KEPT_FREE

    def _due_or_retry(self, site: int) -> float:
        return self._due[site] if site not in self._failing_since else 0.0

    def _finish(self) -> Played:
        for site in range(self._fleet.sites):
            if self._not_after[site] < self._end:
                self._lapse(site)
        return self._played

    # --- one renewal ------------------------------------------------------------------------------------------------

    def _renew(self, site: int, now: float) -> None:
        server = site % self._fleet.servers
        if self._is_off(server, now):
            self._try_again(site, server, now)
            return
        begin = max(now, self._free_at[server])
        self._free_at[server] = begin + RUN_SECONDS
        played = self._played
        if begin > self._not_after[site]:
            self._lapse(site)
        self._first_off.pop(site, None)
        if self._failing_since.pop(site, None) is None:
            played.longest_wait_days = max(played.longest_wait_days, (begin - self._due[site]) / DAY)
            played.least_left_days = min(played.least_left_days, (self._not_after[site] - begin) / DAY)
        self._order(site, server, begin)
        hour = int(begin - self._start) // HOUR
        if hour < len(played.per_hour):
            played.per_hour[hour] += 1
        self._number_of[self._life[site]] -= 1
        self._issue(site, begin + RUN_SECONDS, self._lifetime_at(begin))

    def _issue(self, site: int, issued: float, life: int) -> None:
        if life not in self._offsets:
            self._learn(life)
        not_before = issued - BACKDATED_SECONDS
        self._life[site] = life
        self._number_of[life] += 1
        self._newest_of[life] = max(issued, self._newest_of.get(life, issued))
        self._not_after[site] = not_before + life * DAY
        due = not_before + self._offset(site % self._fleet.servers, life)
        self._due[site] = due
        if due < self._end:
            self._ticks[int(max(due, self._start)) // TICK_SECONDS].append(site)

    def _offset(self, server: int, life: int) -> float:
        if self._renewing_self[server]:
            return self._opens_after[life] + self._random.random() * _TIMER_SECONDS
        return self._offsets[life][int(self._random.random() * _DRAWS)]

    def _learn(self, life: int) -> None:
        """Ask the core once for each draw of a lifetime."""
        began = datetime(2027, 1, 1, tzinfo=UTC)
        certificate = Certificate("", (), "", began, began + timedelta(days=life))
        self._offsets[life] = [
            (due_at(certificate, (n + 0.5) / _DRAWS) - began).total_seconds() for n in range(_DRAWS)
        ]
        self._opens_after[life] = (window_of(certificate).opens_at - began).total_seconds()
        self._number_of[life] = 0

    def _lifetime_at(self, now: float) -> int:
        if not (cached := getattr(self, "_cached", None)) or not cached[0] <= now < cached[0] + DAY:
            day = now // DAY * DAY
            cached = self._cached = (day, lifetime_of(LETS_ENCRYPT, None, _moment(now).date()))
        return int(cached[1])

    # --- servers that are off ---------------------------------------------------------------------------------------

    def _is_off(self, server: int, now: float) -> bool:
        if now < self._off_from[server]:
            return False
        if now < self._off_until[server]:
            return True
        draw = self._random
        while now >= self._off_until[server]:
            if server in self._long and self._off_until[server] > self._long[server]:
                self._off_from[server] = max(self._long.pop(server), self._off_until[server])
                self._off_until[server] = self._off_from[server] + 100 * DAY
                continue
            on = draw.expovariate(OFF_SHARE / (OFF_MEAN_SECONDS * (1 - OFF_SHARE)))
            self._off_from[server] = self._off_until[server] + on
            self._off_until[server] = self._off_from[server] + draw.expovariate(1 / OFF_MEAN_SECONDS)
        return now >= self._off_from[server]

    def _try_again(self, site: int, server: int, now: float) -> None:
        """At the first of the job's looks after the server is back; a job that has died is followed by another."""
        self._first_off.setdefault(site, (self._off_from[server], self._off_until[server]))
        if self._renewing_self[server]:
            back = self._off_until[server] + self._random.random() * _TIMER_SECONDS
        else:
            since = self._failing_since.setdefault(site, now)
            back = self._next_look(site, since, self._off_until[server])
        if back < self._end:
            self._ticks[int(back) // TICK_SECONDS + 1].append(site)

    def _next_look(self, site: int, since: float, back_at: float) -> float:
        while True:
            for offset in self._retries:
                if since + offset >= back_at:
                    return since + offset
            following = self._next_job_at(site, since)
            if following is None:  # given up until the server itself has renewed, or a person asks
                return max(back_at, since + DAY)
            since = max(following, since + self._retries[-1])
            if since >= back_at:
                return since

    def _next_job_at(self, site: int, now: float) -> float | None:
        not_after = self._not_after[site]
        certificate = Certificate(
            "01", ("a.example",), "R10", _moment(not_after - self._life[site] * DAY), _moment(not_after)
        )
        server = Server("192.0.2.1")
        status = SslStatus.ACTIVE if now < not_after else SslStatus.EXPIRED
        stored = Site(
            "s", "a.example", (), server, status, certificate, server.key, ever_issued=True, job=None
        )
        decision = decide_own_renewal(stored, _moment(now))
        return decision.next_try_at.timestamp() if isinstance(decision, OwnRenewal) else None

    def _lapse(self, site: int) -> None:
        """Count it, by how far its server was off all the time: the last third of the lifetime, or certpilot's part of it."""
        played, end = self._played, self._not_after[site]
        opened = end - self._life[site] * DAY + self._opens_after[self._life[site]]
        off_from, off_until = self._first_off.get(site, (end, end))
        played.lapsed += 1
        if off_until < end or off_from > self._due[site]:
            played.lapsed_though_reachable += 1
        elif off_from > opened:
            played.lapsed_after_the_servers_chance += 1

    # --- the CA -----------------------------------------------------------------------------------------------------

    def _order(self, site: int, server: int, now: float) -> None:
        """Ask the buckets that the order touches; where the last one is longer ago than a token takes, they are full."""
        last = self._not_after[site] - self._life[site] * DAY + BACKDATED_SECONDS
        if now - last >= self._emission and now - last < self._profile.renewal_days * DAY and site % 1000:
            return
        order = Order(f"account {server}", "", (f"s{site}.example",), (f"s{site}.example",), _moment(last))
        for one in spends_of_order(self._profile, order, _moment(now)):
            if one.paid_by is PaidBy.FAILURE:
                continue
            key = hash((one.limit.name, one.key))
            verdict = spend(one.limit, self._buckets.get(key), _moment(now), one.cost)
            self._played.refused += not verdict.allowed
            if verdict.new_tat is not None:
                self._buckets[key] = verdict.new_tat


def _retry_offsets() -> list[float]:
    """After how many seconds a job looks again for a server that does not answer, until it dies; the core's word."""
    began = datetime(2027, 1, 1, tzinfo=UTC)
    history, now, offsets = History(admitted_at=began), began, [0.0]
    while True:
        decision = decide_retry(Code.SERVER_UNREACHABLE, history, now=now, jitter=0.5)
        if decision.action is not RetryAction.WAIT or decision.run_at is None:
            return offsets
        now = decision.run_at
        offsets.append((now - began).total_seconds())
        history = History(began, decision.code, decision.fails, decision.failing_since)


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
