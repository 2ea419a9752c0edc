"""One checker of what must hold whatever was killed (FACTS-worker 6, I1 to I9, as PROTOCOL 4 and 6 have them).

It looks from outside: tables, queues, the CA's log and the servers' job directories, with no code of ours in between.
`observe` takes the picture, `complaints` judges it; an empty list is a clean one. The picture of the database is read
while judging, so it is meant for a system that is at rest.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pika
import psycopg
from psycopg.rows import dict_row

from deploy.lab.acme_messages import Seen
from deploy.lab.acme_proxy import AcmeProxy
from deploy.lab.server import CustomerServer

QUEUES = ("ssl.commands", "ssl.jobs", "ssl.activity")
ENDED = ("succeeded", "failed", "dead", "cancelled", "superseded")
_KILLED = (137, 143)
_LETTER_ID = "certpilot-letter-id"


@dataclass(frozen=True, slots=True)
class Command:
    """A command whose publishing was confirmed.

    Attributes:
        source: CloudEvents source.
        command_id: CloudEvents id.
        conflicts: how many other bodies were published under the same id.
    """

    source: str
    command_id: str
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A job directory on a server; times are the server's, seconds since 1970.

    Attributes:
        job: the job's id.
        attempt: the attempt's number.
        began: when certbot was about to start; None: it never was.
        ended: when it was over, or the last that was heard of one that was killed; None: it never began.
        alive: its lock is held.
        void: it was declared void.
    """

    job: str
    attempt: int
    began: float | None
    ended: float | None
    alive: bool = False
    void: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """A customer's server: the highest fence it saw, its runs, and the serials of its certificates by lineage."""

    key: str
    fence: int
    runs: Sequence[Run] = ()
    serials: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class World:
    """The picture. What a test has not got is None or empty, and not judged."""

    conn: "psycopg.Connection[Any]"
    commands: Sequence[Command] = ()
    broken_bodies: Sequence[bytes] = ()
    ready: Mapping[str, int] | None = None
    letters: Mapping[str, Sequence[str]] | None = None
    orders: Sequence[Seen] | None = None
    certificates: Sequence[Seen] = ()
    machines: Sequence[Machine] = ()

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()


def observe(
    conn: "psycopg.Connection[Any]",
    broker_url: str,
    ca: AcmeProxy,
    servers: Mapping[str, CustomerServer],
    *,
    commands: Sequence[Command] = (),
    broken_bodies: Sequence[bytes] = (),
) -> World:
    """Take the picture of a system at rest; `servers` by their key in leases."""
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    try:
        channel = connection.channel()
        ready = {q: channel.queue_declare(q, passive=True).method.message_count for q in QUEUES}
        letters = {q: _letters(channel, f"{q}.dlq") for q in QUEUES}
    finally:
        connection.close()
    machines = [read_machine(key, server) for key, server in servers.items()]
    return World(
        conn, commands, broken_bodies, ready, letters, ca.orders(), ca.certificates(), machines
    )  # fmt: skip


def complaints(world: World) -> list[str]:
    """Everything that is not as it must be, one sentence each."""
    return [
        *_each_command_is_answered_once(world),
        *_each_job_ends_or_will_go_on(world),
        *_runs_of_a_server_take_turns(world),
        *_every_order_is_counted(world),
        *_the_feed_has_no_gap(world),
        *_each_job_ends_in_one_event(world),
        *_dead_letters_are_the_dead(world),
        *_fences_only_grow(world),
        *_nothing_is_left_over(world),
        *_sites_say_what_is_true(world),
    ]


# --- I1 -------------------------------------------------------------------------------------------------------------


def _each_command_is_answered_once(world: World) -> Iterator[str]:
    for row in world.rows(
        "select command_source, command_id, count(*) as jobs from job where command_id is not null and kind <> 'cleanup'"
        " group by 1, 2 having count(*) > 1"
    ):
        yield f"I1: command {row['command_id']} became {row['jobs']} jobs"
    if not world.commands:
        return
    taken = {(r["source"], r["command_id"]) for r in world.rows("select source, command_id from inbox")}
    answers = Counter(
        (row["source"], row["id"])
        for row in world.rows(
            "select command_source as source, command_id as id from job where command_id is not null and kind <> 'cleanup'"
            " union all select detail->>'commandSource', detail->>'commandId' from activity_feed"
            "  where event_type = 'com.cloudaipilot.ssl.request.rejected.v1'"
            # A command that joins a job is answered by progress of a job that another command made.
            " union all select a.detail->>'commandSource', a.detail->>'commandId' from activity_feed a"
            "  join job j on j.id::text = a.detail->>'jobId' where a.detail->>'step' = 'queued'"
            "   and j.command_id is distinct from a.detail->>'commandId'"
            # A removal with nothing on any server is answered by the end of the job that it cancels.
            " union all select a.detail->>'commandSource', a.detail->>'commandId' from activity_feed a"
            "  join job j on j.id::text = a.detail->>'jobId' where j.because = 'removal'"
            "   and a.event_type = 'com.cloudaipilot.ssl.status.changed.v1' and a.detail->>'sslStatus' = 'none'"
            "   and j.command_id is distinct from a.detail->>'commandId'"
        )
    )
    for command in world.commands:
        key = (command.source, command.command_id)
        if key not in taken:
            yield f"I1: command {command.command_id} was confirmed and is not in the inbox"
        elif answers[key] != 1 + command.conflicts:
            yield f"I1: command {command.command_id} has {answers[key]} answers instead of {1 + command.conflicts}"


# --- I2 -------------------------------------------------------------------------------------------------------------


def _each_job_ends_or_will_go_on(world: World) -> Iterator[str]:
    for row in world.rows(
        "select j.id, j.state, j.run_at, j.attempt_open, coalesce(l.expires_at > clock_timestamp(), false) as held,"
        " j.run_at > certpilot_now() - interval '5 s' as planned"
        " from job j left join lease l on l.key = j.server_key where j.finished_at is null"
    ):
        if not (row["planned"] or row["held"]):
            yield f"I2: job {row['id']} is {row['state']} with neither a time to go on nor a holder"
    for row in world.rows(
        "select j.id, j.state, a.attempt from job j join job_attempt a on a.job_id = j.id"
        " where a.closed_at is null and (not j.attempt_open or a.attempt <> j.attempt)"
        " union all select j.id, j.state, j.attempt from job j where j.attempt_open and not exists"
        "  (select from job_attempt a where a.job_id = j.id and a.attempt = j.attempt and a.closed_at is null)"
    ):
        yield f"I2: job {row['id']} ({row['state']}) and its attempt {row['attempt']} disagree about being open"


# --- I3 -------------------------------------------------------------------------------------------------------------


def _runs_of_a_server_take_turns(world: World) -> Iterator[str]:
    for machine in world.machines:
        runs = sorted(
            ((run.began, run) for run in machine.runs if run.began is not None), key=lambda one: one[0]
        )
        for (_, earlier), (began, later) in pairwise(runs):
            if earlier.alive or (earlier.ended is not None and began < earlier.ended):
                yield (
                    f"I3: on {machine.key} attempt {later.job}.{later.attempt} began"
                    f" while {earlier.job}.{earlier.attempt} was at work"
                )
    yield from _orders_of_a_server_take_turns(world)


def _orders_of_a_server_take_turns(world: World) -> Iterator[str]:
    """The CA's view of the same: between an order and its certificate the server made no other order."""
    by_client: dict[str, list[tuple[float, str, tuple[str, ...]]]] = defaultdict(list)
    for what, seen in (
        *(("order", o) for o in world.orders or ()), *(("certificate", c) for c in world.certificates)
    ):  # fmt: skip
        by_client[seen.client].append((seen.at, what, seen.names))
    for client, events in by_client.items():
        events.sort()
        ordered: dict[tuple[str, ...], int] = {}
        for number, (_, what, names) in enumerate(events):
            if what == "order":
                ordered[names] = number
                continue
            between = [n for _, w, n in events[ordered.get(names, number) + 1 : number] if w == "order"]
            if between:
                yield f"I3: {client} ordered {between[0]} between its order and its certificate for {names}"


# --- I4 -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Counted:
    orders: int = 0
    certified: int = 0
    interrupted: int = 0
    open: int = 0


def _every_order_is_counted(world: World) -> Iterator[str]:
    attempts = world.rows(
        "select a.*, j.names, j.server_key from job_attempt a join job j on j.id = a.job_id"
    )
    yield from _runs_are_attempts(world, attempts)
    if world.orders is None:
        return
    sets: defaultdict[tuple[str, ...], _Counted] = defaultdict(_Counted)
    for row in attempts:
        if row["orders"]:
            one = sets[tuple(sorted(row["names"]))]
            one.orders += 1
            one.certified += str(row["result"]).startswith("issued")
            # A certbot that was killed alone leaves its exit code, and is read as killed for want of memory.
            one.interrupted += row["error_code"] == "INTERRUPTED" or row["exit_code"] in _KILLED
            one.open += row["closed_at"] is None
    ordered = Counter(seen.names for seen in world.orders)
    issued = Counter(seen.names for seen in world.certificates)
    for names in sorted({*sets, *ordered, *issued}):
        one = sets[names]
        if ordered[names] > one.orders:
            yield f"I4: {ordered[names]} orders for {names}, of which {one.orders} were counted"
        if not one.certified <= issued[names] <= one.certified + one.interrupted + one.open:
            yield (
                f"I4: {issued[names]} certificates for {names}; {one.certified} attempts had one"
                f" and {one.interrupted} were interrupted"
            )


def _runs_are_attempts(world: World, attempts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Nothing ran that was not counted, and nothing of an attempt happened after it was closed."""
    known = {(str(row["job_id"]), row["attempt"]): row for row in attempts}
    for machine in world.machines:
        for run in machine.runs:
            name = f"{run.job}.{run.attempt} on {machine.key}"
            row = known.get((run.job, run.attempt))
            if row is None:
                yield f"I4: {name} was never counted"
            elif row["server_key"] != machine.key:
                yield f"I4: {name} belongs to {row['server_key']}"
            elif row["closed_at"] is not None:
                closed = row["closed_at"].timestamp()
                if run.alive:
                    yield f"I4: {name} is closed and its certbot lives"
                if any(at is not None and at > closed for at in (run.began, run.ended)):
                    yield f"I4: {name} went on after it was closed"
            if run.void and run.began is not None:
                yield f"I4: {name} is void and ran"


# --- I5, I6 ---------------------------------------------------------------------------------------------------------


def _the_feed_has_no_gap(world: World) -> Iterator[str]:
    for row in world.rows(
        "select s.site_id, s.sequence, count(a.*) as events, count(distinct a.sequence) as numbers,"
        " min(a.sequence) as first, max(a.sequence) as last"
        " from site s left join activity_feed a on a.site_id = s.site_id group by s.site_id, s.sequence"
    ):
        told = (row["events"], row["numbers"], row["last"] or 0)
        if told != (row["sequence"],) * 3 or (row["events"] and row["first"] != 1):
            yield (
                f"I5: site {row['site_id']} counts {row['sequence']} events; its feed has {row['events']}"
                f" with {row['numbers']} numbers from {row['first']} to {row['last']}"
            )
    for row in world.rows(
        "select o.message_id from outbox o left join activity_feed a on a.event_id = o.message_id"
        " where o.lane = 'event' and a.id is null"
    ):
        yield f"I6: event {row['message_id']} was written and is not in the feed"
    for row in world.rows(
        "select message_id, count(*) as times from outbox where lane = 'event' group by 1 having count(*) > 1"
    ):
        yield f"I6: event {row['message_id']} was written {row['times']} times"


def _each_job_ends_in_one_event(world: World) -> Iterator[str]:
    """An end says pending only where the site was pending already, by a newer job; what made it so is no end."""
    changed = "a.event_type = 'com.cloudaipilot.ssl.status.changed.v1'"
    for row in world.rows(
        "select j.id, j.kind, j.state, j.because, j.started_at,"
        f" count(a.*) filter (where {changed} and not (a.detail->>'sslStatus' = 'pending'"
        "   and a.detail->>'previousStatus' <> 'pending')) as ends,"
        " count(a.*) filter (where a.detail->>'step' = 'superseded') as superseded,"
        " count(a.*) filter (where a.detail->>'message' = 'An operator has replayed the request.') as replays"
        " from job j left join activity_feed a on a.detail->>'jobId' = j.id::text group by j.id"
    ):
        state, ends, superseded = row["state"], row["ends"], row["superseded"]
        if row["kind"] == "cleanup" or (row["because"] == "removal" and ends <= 1):
            continue  # nobody waits for the one; the end of the other is told together with its removal's
        if state == "superseded":
            # A dead one had its end before a newer job took its place.
            if superseded != 1 or ends > 1 + row["replays"]:
                yield f"I6: superseded job {row['id']} was told so {superseded} times and ended {ends} times"
        elif ends != row["replays"] + (state in ENDED) or superseded:
            yield f"I6: job {row['id']} is {state} and its end was told {ends} times"


# --- I7, I8, I9 -----------------------------------------------------------------------------------------------------


def _dead_letters_are_the_dead(world: World) -> Iterator[str]:
    if world.letters is None:
        return
    dead = {
        f"{row['id']}.{row['epoch']}" for row in world.rows("select id, epoch from job where state = 'dead'")
    }
    # A dead job that a newer one superseded leaves its letter behind; its replay removes it.
    gone = {
        f"{row['id']}.{row['epoch']}"
        for row in world.rows("select id, epoch from job where state = 'superseded'")
    }
    yield from _differences("ssl.jobs.dlq", set(world.letters["ssl.jobs"]) - gone, dead)
    crashed = {
        row["id"]
        for row in world.rows(
            "select headers->>'certpilot-letter-id' as id from outbox where lane = 'letter'"
            " and routing_key = 'ssl.commands.dlq' and headers->>'certpilot-code' = 'CRASHED'"
        )
    }
    for one in sorted(crashed):
        yield f"I7: command letter {one} says CRASHED, and nothing published here kills a process"
    broken = {hashlib.sha256(body).hexdigest() for body in world.broken_bodies}
    yield from _differences("ssl.commands.dlq", set(world.letters["ssl.commands"]) - crashed, broken)
    yield from _differences("ssl.activity.dlq", set(world.letters["ssl.activity"]), set())


def _differences(queue: str, there: set[str], wanted: set[str]) -> Iterator[str]:
    for one in sorted(wanted - there):
        yield f"I7: {queue} lacks {one}"
    for one in sorted(there - wanted):
        yield f"I7: {queue} holds {one}, which is not dead"


def _fences_only_grow(world: World) -> Iterator[str]:
    leases = {row["key"]: row["fence"] for row in world.rows("select key, fence from lease")}
    for row in world.rows("select id, server_key, fence from job where fence > 0"):
        if leases.get(row["server_key"], 0) < row["fence"]:
            yield f"I8: job {row['id']} has a later fence than the lease of {row['server_key']}"
    for row in world.rows(
        "select job_id, attempt from (select job_id, attempt, fence,"
        " lag(fence) over (partition by job_id order by attempt) as before from job_attempt) a where fence < before"
    ):
        yield f"I8: attempt {row['job_id']}.{row['attempt']} has an older fence than the one before it"
    for machine in world.machines:
        if machine.fence > leases.get(machine.key, 0):
            yield f"I8: {machine.key} saw fence {machine.fence}, later than its lease's {leases.get(machine.key, 0)}"


class FenceWatch:
    """Looks at fences again and again, and remembers those that went back."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}
        self.complaints: list[str] = []

    def look(self, fences: Iterable[tuple[str, int]]) -> None:
        """Compare with what was seen before; keys are free to choose, one for each counter."""
        for key, fence in fences:
            if fence < self._highest.get(key, 0):
                self.complaints.append(f"I8: {key} went back from {self._highest[key]} to {fence}")
            self._highest[key] = max(fence, self._highest.get(key, 0))

    def look_at_database(self, conn: "psycopg.Connection[Any]") -> None:
        self.look(conn.execute("select key, fence from lease").fetchall())
        self.look(conn.execute("select 'job ' || id, fence from job where fence > 0").fetchall())


def _nothing_is_left_over(world: World) -> Iterator[str]:
    for row in world.rows("select lane, count(*) as n from outbox where published_at is null group by lane"):
        yield f"I9: {row['n']} messages of lane {row['lane']} were not published"
    for queue, count in (world.ready or {}).items():
        if count:
            yield f"I9: {count} messages wait in {queue}"
    for row in world.rows(
        "select key from lease l where expires_at > clock_timestamp() and key not like 'role:%%'"
        " and not exists (select from job where state = 'running' and (server_key = l.key"
        "  or substr(l.key, 8) = any(names)))"
    ):
        yield f"I9: {row['key']} is held and no job runs"
    for machine in world.machines:
        for run in machine.runs:
            if run.alive:
                yield f"I9: {run.job}.{run.attempt} still runs on {machine.key}"


def _sites_say_what_is_true(world: World) -> Iterator[str]:
    """The status agrees with the certificate, and with the job that is the site's newest."""
    disks = {machine.key: machine.serials for machine in world.machines}
    for row in world.rows(
        "select s.*, j.state, j.kind, j.server_key from site s left join job j on j.id = s.job_id"
        " where not exists (select from job o where o.server_key = s.certificate_server_key"
        "  and o.finished_at is null)"
    ):
        if row["ssl_status"] == "pending" and row["state"] in (*ENDED, None):
            yield f"A.3: site {row['site_id']} is pending and its job has {row['state']}"
        wanted = ("none",) if row["kind"] == "remove" else ("active", "expired")
        if row["state"] == "succeeded" and row["ssl_status"] not in wanted:
            yield f"A.3: site {row['site_id']} is {row['ssl_status']} although its newest job succeeded"
        disk = disks.get(row["server_key"] if row["kind"] == "remove" else row["certificate_server_key"])
        # Two sites of one name share a lineage: what the other one did to it is no news to this one.
        if disk is None or len(world.rows("select 1 from site where domain = %s", row["domain"])) > 1:
            continue
        there = disk.get(row["domain"])
        if row["ssl_status"] == "active" and there != row["certificate_serial"]:
            yield (
                f"A.3: site {row['site_id']} is active by certificate {row['certificate_serial']},"
                f" but {row['certificate_server_key']} has {there}"
            )
        if row["kind"] == "remove" and row["state"] == "succeeded" and there:
            yield f"A.3: site {row['site_id']}'s certificate was removed, but {row['server_key']} has {there}"


# --- looking at queues and servers ----------------------------------------------------------------------------------


def _letters(channel: Any, queue: str) -> list[str]:
    """The letters' ids, all left where they are: what is not acknowledged goes back when the channel closes."""
    found: list[str] = []
    while True:
        method, properties, _ = channel.basic_get(queue, auto_ack=False)
        if method is None:
            return found
        found.append(str((properties.headers or {}).get(_LETTER_ID, "without an id")))


_READ_MACHINE = r"""
cd /var/lib/certpilot 2>/dev/null || exit 0
echo "fence $(cat fence 2>/dev/null || echo 0)"
cd jobs && for d in *; do
  [ -d "$d" ] || continue
  began=- ended=- alive=no void=no
  [ ! -e "$d/begun" ] || began=$(stat -c %.9Y "$d/begun")
  # Without an exit: the last that was heard of it.
  if [ -e "$d/exit" ]; then ended=$(stat -c %.9Y "$d/exit")
  elif [ -e "$d/begun" ]; then ended=$(stat -c %.9Y "$d/begun" "$d/out" "$d/err" 2>/dev/null | sort -n | tail -n 1); fi
  [ ! -e "$d/void" ] || void=yes
  [ ! -e "$d/lock" ] || flock -n "$d/lock" true || alive=yes
  echo "run $d $began $ended $alive $void"
done
for f in /etc/letsencrypt/live/*/cert.pem; do
  [ ! -e "$f" ] || { n=${f%/*}; echo "serial ${n##*/} $(openssl x509 -noout -serial -in "$f" | cut -d= -f2)"; }
done
"""


def read_machine(key: str, server: CustomerServer) -> Machine:
    """What a server's job directories and lineages say."""
    fence, runs, serials = 0, [], {}
    for line in server.run(["sh", "-s"], stdin=_READ_MACHINE.encode()).stdout.splitlines():
        match line.split():
            case ["fence", number]:
                fence = int(number)
            case ["run", name, began, ended, alive, void]:
                job, _, attempt = name.rpartition(".")
                times = [None if at == "-" else float(at) for at in (began, ended)]
                runs.append(Run(job, int(attempt), *times, alive == "yes", void == "yes"))
            case ["serial", name, serial]:
                serials[name] = f"{int(serial, 16):x}"
    return Machine(key, fence, runs, serials)


def summary(world: World) -> dict[str, Any]:
    """Figures for people."""
    jobs = {row["state"]: row["n"] for row in world.rows("select state, count(*) as n from job group by 1")}
    ends = world.rows(
        "select coalesce(error_code, result, 'open') as what, count(*) as n from job_attempt group by 1"
    )
    return {
        "commands": len(world.commands), "jobs": jobs, "attempts": {row["what"]: row["n"] for row in ends},
        "orders": len(world.orders or ()), "certificates": len(world.certificates),
        "events": world.rows("select count(*) as n from activity_feed")[0]["n"],
        "letters": {queue: len(ids) for queue, ids in (world.letters or {}).items()},
    }  # fmt: skip


def as_text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, sort_keys=True, default=str)
