"""One run: load and faults side by side, then quiet, then the checker."""

import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pika
import psycopg

from db import clock, migrate
from db.pool import connect
from deploy.lab.lab import Lab
from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.rabbitmq_cluster import RabbitCluster
from deploy.lab.tcp_proxy import TcpProxy
from tests.chaos.faults import Faults, Links
from tests.chaos.load import Door, Producer, make_sites
from tests.chaos.operators import Operators
from tests.chaos.roles import Fleet, Role
from tests.support import invariants
from tests.support.invariants import QUEUES, FenceWatch, World
from workers.edges.amqp.broker import ensure_topology

DATABASE = "chaos"
_ROOT = Path(__file__).parents[2]
"""Roles run the code beside this driver, also where that is a copy of what is installed."""
_SKIP_AT_MOST = timedelta(minutes=20)
"""Jobs that a person has to mend end after 24 h of certpilot's clock: the whole run skips less than that."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything.

    Attributes:
        seed: of all dice.
        seconds: of load and faults.
        commands: messages to publish.
        sites: how many.
        servers: how many.
        fleet: how many processes of each role.
        gap_seconds: between two faults of a lane, on average.
        rest_seconds: how long the backlog may take to drain after the last fault (I9).
        longest_stall_seconds: of a process under SIGSTOP.
        cluster: three RabbitMQ nodes instead of one.
    """

    seed: int
    seconds: float = 300.0
    commands: int = 500
    sites: int = 60
    servers: int = 3
    fleet: Mapping[str, int] = field(
        default_factory=lambda: {"intake": 2, "runner": 3, "relay": 2, "scheduler": 2, "activity": 2}
    )
    gap_seconds: float = 3.0
    rest_seconds: float = 300.0
    longest_stall_seconds: float = 16.0
    cluster: bool = False


@dataclass(slots=True)
class Result:
    """What came of it; `complaints` is empty after a clean run."""

    complaints: list[str]
    figures: dict[str, Any]


def run(plan: Plan, *, say: Callable[[str], None]) -> Result:
    """Run it in a lab of its own, which is gone when this returns, also by Ctrl-C or SIGTERM."""
    began = time.monotonic()
    lab = Lab(servers=plan.servers, validity_seconds=3600, broker=not plan.cluster)
    with lab, contextlib.ExitStack() as stack:
        nodes = _nodes(plan, lab, stack)
        url = lab.postgres.create_database(DATABASE)
        with connect(url, "chaos", autocommit=True) as conn:
            migrate.migrate(conn)
        ensure_topology(nodes[0].url(), name="chaos")
        doors, ssh = _doors(lab, stack)
        links = Links(
            [stack.enter_context(TcpProxy(("127.0.0.1", node.port))) for node in nodes for _ in range(2)],
            [stack.enter_context(TcpProxy(("127.0.0.1", lab.postgres.port))) for _ in range(2)],
            ssh,
        )
        producer = Producer(
            [node.url() for node in nodes],
            make_sites(lab, doors, plan.sites, f"c{plan.seed}"),
            random.Random(f"{plan.seed} load"),
        )
        fleet = stack.enter_context(Fleet(_roles(plan, lab, nodes, url, links)))
        faults = Faults(
            lab, nodes, DATABASE, fleet, links, plan.seed, plan.gap_seconds,
            lambda what: say(f"{time.monotonic() - began:6.1f} s  {what}"), plan.longest_stall_seconds,
        )  # fmt: skip
        watch = FenceWatch()
        operators = Operators(
            fleet.roles[0].environment,
            url,
            [door.host for door in doors],
            plan.seed,
            faults.say,
            2 * plan.gap_seconds,
        )
        with _skipping_waits(url, watch):
            _load_and_faults(plan, producer, faults, operators)
            quiet = time.monotonic()
            say(
                f"{quiet - began:6.1f} s  quiet: {producer.sent} messages, {sum(faults.done.values())} faults"
            )
            rested = _wait_for_rest(nodes[0].url(), url, plan.rest_seconds, say)
        drained = time.monotonic() - quiet
        with psycopg.connect(url, autocommit=True) as conn:
            servers = {door.key: door.server for door in doors}
            world = invariants.observe(
                conn, nodes[0].url(), lab.ca.production, servers,
                commands=list(producer.published.values()), broken_bodies=producer.broken,
            )  # fmt: skip
            found = [
                *rested,
                *invariants.complaints(world),
                *watch.complaints,
                *fleet.complaints,
                *operators.complaints,
            ]
            figures = _figures(world, producer, faults, fleet)
            figures["operators"] = dict(sorted(operators.done.items()))
            figures |= {"seconds": round(time.monotonic() - began), "drained_seconds": round(drained)}
            if found:
                figures["kept"] = _keep(lab, plan, conn)
        stack.close()
        return Result([*found, *(c for c in fleet.complaints if c not in found)], figures)


def _nodes(plan: Plan, lab: Lab, stack: contextlib.ExitStack) -> list[RabbitNode]:
    if not plan.cluster:
        return [lab.rabbit]
    return stack.enter_context(RabbitCluster(lab.directory / "cluster")).nodes


def _doors(lab: Lab, stack: contextlib.ExitStack) -> tuple[list[Door], list[TcpProxy]]:
    """SSH by way of a proxy; the handshakes of verify go to the same address, by one that never fails."""
    doors, ssh = [], []
    for server in lab.servers:
        host = lab.network.add_host_address()
        ssh.append(stack.enter_context(TcpProxy((server.host, 22), host=host, port=22)))
        stack.enter_context(TcpProxy((server.host, 443), host=host, port=443))
        doors.append(Door(server, host))
    return doors, ssh


def _roles(plan: Plan, lab: Lab, nodes: Sequence[RabbitNode], database_url: str, links: Links) -> list[Role]:
    """Half of each role's processes go by one proxy, half by the other; to a cluster each begins at another node."""
    roles = []
    for role, count in plan.fleet.items():
        for number in range(count):
            urls = {
                "database_url": _through(links.database[number % 2], database_url),
                "rabbitmq_url": ",".join(
                    _through(links.broker[2 * place + number % 2], nodes[place].url())
                    for place in ((number + more) % len(nodes) for more in range(len(nodes)))
                ),
            }
            environment = lab.environment(**urls) | {"CERTPILOT_LOG_FORMAT": "json", "PYTHONPATH": str(_ROOT)}
            roles.append(Role(f"{role}-{number}", environment, lab.directory / f"{role}-{number}.log"))
    return roles


def _through(proxy: TcpProxy, url: str) -> str:
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{proxy.host}:{proxy.port}"))


def _load_and_faults(plan: Plan, producer: Producer, faults: Faults, operators: Operators) -> None:
    give_up = threading.Event()
    failures: list[BaseException] = []

    quiet = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # handed to the caller's thread
                failures.append(error)

        return run

    def publish() -> None:
        producer.run(plan.commands, plan.seconds * 0.9, give_up)

    thread = threading.Thread(target=guarded(publish), name="producer")
    people = threading.Thread(target=guarded(lambda: operators.run(quiet)), name="operators")
    thread.start()
    people.start()
    try:
        faults.run(plan.seconds, give_up)
        quiet.set()
        thread.join(plan.rest_seconds)
    finally:
        give_up.set()
        quiet.set()
        thread.join()
        people.join()
    if failures:
        raise failures[0]


_NEXT_WAIT = (
    "select min(run_at) - certpilot_now() from job where state = 'waiting'"
    # A queued job whose message was lost is offered again after a minute, which nobody waits for where nothing else goes on.
    " or (state = 'queued' and not exists (select from job where state = 'running'))"
)


@contextlib.contextmanager
def _skipping_waits(url: str, watch: FenceWatch) -> Iterator[None]:
    """Move certpilot's clock to the next retry, so that minutes cost none; and look at the fences on the way."""
    ending = threading.Event()

    def skip() -> None:
        while not ending.wait(2.0):
            with contextlib.suppress(psycopg.Error), connect(url, "chaos-clock", autocommit=True) as conn:
                row = conn.execute(_NEXT_WAIT).fetchone()
                if row is not None and row[0] is not None and row[0] > timedelta(seconds=1):
                    clock.move_ahead(conn, min(row[0], _SKIP_AT_MOST))
                watch.look_at_database(conn)

    thread = threading.Thread(target=skip, name="clock")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


_UNREST = {
    "jobs": "select count(*) from job where finished_at is null",
    "messages": "select count(*) from outbox where published_at is null",
    "events": "select (select coalesce(sum(sequence), 0) from site)"
    " - (select count(*) from activity where site_id is not null)",
}


def _wait_for_rest(broker_url: str, url: str, seconds: float, say: Callable[[str], None]) -> list[str]:
    """Wait until nothing is left to do (I9); what is left after the deadline otherwise."""
    deadline = time.monotonic() + seconds
    told = 0.0
    while True:
        with psycopg.connect(url, autocommit=True) as conn:
            left = {name: int(conn.execute(query).fetchone()[0]) for name, query in _UNREST.items()}  # type: ignore[index]
        left |= _ready(broker_url)
        left = {name: count for name, count in left.items() if count}
        if not left:
            return []
        now = time.monotonic()
        if now > deadline:
            return [f"I9: {seconds:g} s after the last fault there are still {left}"]
        if now > told + 10:
            told = now
            say(f"          left: {left}")
        time.sleep(0.5)


def _ready(url: str) -> dict[str, int]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    with contextlib.closing(connection):
        channel = connection.channel()
        return {q: channel.queue_declare(q, passive=True).method.message_count for q in QUEUES}


def _figures(world: World, producer: Producer, faults: Faults, fleet: Fleet) -> dict[str, Any]:
    return invariants.summary(world) | {
        "messages": producer.sent, "kinds": producer.kinds, "faults": dict(sorted(faults.done.items())),
        "process_starts": fleet.starts, "lab_trouble": faults.trouble,
    }  # fmt: skip


def _keep(lab: Lab, plan: Plan, conn: "psycopg.Connection[Any]") -> str:
    """Keep logs and tables of a run that was not clean; the lab is about to vanish."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{plan.seed}-"))
    for log in lab.directory.glob("*.log"):
        (folder / log.name).write_bytes(log.read_bytes())
    for table in ("job", "job_attempt", "site", "activity", "outbox", "lease", "inbox"):
        with (
            (folder / f"{table}.csv").open("wb") as file,
            conn.cursor().copy(f"copy {table} to stdout csv header") as rows,  # type: ignore[call-overload]
        ):
            for row in rows:
                file.write(row)
    return str(folder)
