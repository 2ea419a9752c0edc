"""What goes wrong, by the dice. Every fault undoes itself before it returns, so that stopping the schedule is enough."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contracts.topology import QUEUES, dead_letter_queue
from deploy.lab.lab import Lab
from deploy.lab.machine import LabError
from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.server import CustomerServer
from deploy.lab.tcp_proxy import TcpProxy
from tests.chaos.roles import Fleet, Role
from tests.support.amqp import accept_publishing, consumer_timeout, memory_alarm, refuse_publishing

Fault = Callable[[], None]


@dataclass
class Links:
    """The proxies on the way to each part; one fault strikes one of them."""

    broker: Sequence[TcpProxy]
    database: Sequence[TcpProxy]
    ssh: Sequence[TcpProxy]

    def heal(self) -> None:
        for proxy in (*self.broker, *self.database, *self.ssh):
            proxy.heal()


@dataclass
class Faults:
    """The schedule: two lanes of faults side by side, one for processes and one for everything else.

    Attributes:
        done: how often each kind was done.
        gap_seconds: between two faults of a lane, on average.
    """

    lab: Lab
    nodes: Sequence[RabbitNode]
    database: str
    fleet: Fleet
    links: Links
    seed: int
    gap_seconds: float
    say: Callable[[str], None]
    longest_stall_seconds: float = 16.0
    done: Counter[str] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _nodes_killed: int = 0
    _node_order: list[RabbitNode] = field(default_factory=list)

    def run(self, seconds: float, give_up: threading.Event) -> None:
        """Do both lanes for so long; all is healed and every process runs when this returns."""
        lanes = [
            threading.Thread(target=self._lane, args=(name, faults), name=f"faults {name}")
            for name, faults in (("processes", self._of_processes()), ("parts", self._of_parts()))
        ]
        for lane in lanes:
            lane.start()
        try:
            give_up.wait(seconds)
        finally:
            self._stop.set()
            for lane in lanes:
                lane.join()
            self.links.heal()
            for role in self.fleet.roles:
                role.signal(signal.SIGCONT)

    def _lane(self, name: str, faults: Sequence[tuple[int, Callable[[random.Random], str]]]) -> None:
        dice = random.Random(f"{self.seed} {name}")
        # In a cluster every node is killed, however short the run: first each once, in the dice's order.
        first = [self._restart_broker] * (len(self.nodes) if name == "parts" and len(self.nodes) > 1 else 0)
        while not self._stop.wait(dice.expovariate(1 / self.gap_seconds)):
            (fault,) = dice.choices([one for _, one in faults], [weight for weight, _ in faults])
            fault = first.pop() if first else fault
            began = time.monotonic()
            try:
                what = fault(dice)
            except LabError as error:
                # The lab itself could not do it: that is no finding about certpilot, but a reader wants to know.
                self.trouble.append(f"lab: {error}")
                continue
            if what:
                self.done[what.partition(" ")[0]] += 1
                self.say(f"{what} ({time.monotonic() - began:.1f} s)")

    # --- processes --------------------------------------------------------------------------------------------------

    def _of_processes(self) -> Sequence[tuple[int, Callable[[random.Random], str]]]:
        return ((5, self._kill), (3, self._stall), (2, self._terminate))

    def _one_role(self, dice: random.Random) -> Role:
        runners = [role for role in self.fleet.roles if role.role == "runner"]
        return dice.choice(runners if dice.random() < 0.5 else list(self.fleet.roles))

    def _kill(self, dice: random.Random) -> str:
        role = self._one_role(dice)
        return f"SIGKILL {role.name}" if role.signal(signal.SIGKILL) else ""

    def _stall(self, dice: random.Random) -> str:
        """Now and then longer than a lease (12 s), so that somebody else takes over and the old holder wakes up."""
        role, seconds = self._one_role(dice), dice.uniform(0.5, self.longest_stall_seconds)
        if not role.signal(signal.SIGSTOP):
            return ""
        self._stop.wait(seconds)
        role.signal(signal.SIGCONT)
        return f"SIGSTOP {role.name}"

    def _terminate(self, dice: random.Random) -> str:
        role = self._one_role(dice)
        return f"SIGTERM {role.name}" if self.fleet.terminate(role) else ""

    # --- everything else --------------------------------------------------------------------------------------------

    def _of_parts(self) -> Sequence[tuple[int, Callable[[random.Random], str]]]:
        return (
            (2, self._close_connections), (1, self._restart_broker), (2, self._end_sessions), (1, self._restart_database),
            (2, self._kill_database), (3, self._reset), (3, self._black_hole), (2, self._half_open), (4, self._lose_reply),
            (2, self._answers_only), (1, self._slow), (3, self._kill_certbot), (2, self._kill_run), (2, self._reboot),
            (3, self._kill_script), (2, self._alarm), (2, self._refuse_publishing), (1, self._time_out_consumers),
            (2, self._set_clock_back),
        )  # fmt: skip

    def _close_connections(self, dice: random.Random) -> str:
        dice.choice(self.nodes).close_all_connections()
        return "broker-closes-connections"

    def _restart_broker(self, dice: random.Random) -> str:
        """Kill a node at once and start it again; of a cluster one at a time, since two of three must live."""
        turn = self._nodes_killed % len(self.nodes)
        if turn == 0:
            self._node_order = dice.sample(list(self.nodes), len(self.nodes))
        node = self._node_order[turn]
        self._nodes_killed += 1
        for one in self.nodes:
            one.settle()
        node.kill()
        if len(self.nodes) > 1:
            self._stop.wait(dice.uniform(0.5, 8))
        node.start()
        return f"broker-killed {node.name}"

    def _alarm(self, dice: random.Random) -> str:
        """Publishers are blocked on every connection, and hear nothing."""
        with memory_alarm(dice.choice(self.nodes)):
            self._stop.wait(dice.uniform(1, 8))
        return "memory-alarm"

    def _refuse_publishing(self, dice: random.Random) -> str:
        """One queue is full and says so: commands, jobs, events or letters."""
        node = dice.choice(self.nodes)
        queue = dice.choice((*QUEUES, *map(dead_letter_queue, QUEUES)))
        refuse_publishing(node, node.url(), queue)
        try:
            self._stop.wait(dice.uniform(1, 6))
        finally:
            accept_publishing(node, node.url())
        return f"reject-publish {queue}"

    def _time_out_consumers(self, dice: random.Random) -> str:
        """Who leaves a delivery unacknowledged for 2 s loses its channel; it counts for channels opened meanwhile."""
        node = dice.choice(self.nodes)
        with consumer_timeout(node, 2000):
            node.close_all_connections()
            self._stop.wait(dice.uniform(4, 10))
        node.close_all_connections()
        return "consumer-timeout"

    def _set_clock_back(self, dice: random.Random) -> str:
        """As the database would see it: what was written before is later than it was, leases as well as plans."""
        minutes = dice.uniform(0.2, 30)
        self.lab.postgres.execute(
            f"update lease set expires_at = expires_at + interval '{minutes} min' where expires_at <> '-infinity';"
            f" update clock set ahead_by = ahead_by - interval '{minutes} min'",
            self.database,
        )
        return "clock-set-back"

    def _end_sessions(self, _: random.Random) -> str:
        self.lab.postgres.end_sessions(self.database)
        return "database-ends-sessions"

    def _restart_database(self, _: random.Random) -> str:
        self.lab.postgres.restart()
        return "database-restarted"

    def _kill_database(self, _: random.Random) -> str:
        self.lab.postgres.kill()
        self.lab.postgres.start()
        return "database-killed"

    def _link(self, dice: random.Random) -> tuple[str, TcpProxy]:
        name = dice.choice(("broker", "database", "ssh"))
        return name, dice.choice(list(getattr(self.links, name)))

    def _reset(self, dice: random.Random) -> str:
        name, proxy = self._link(dice)
        proxy.reset()
        return f"reset-{name}"

    def _black_hole(self, dice: random.Random) -> str:
        """What was held back arrives late, or never."""
        name, proxy = self._link(dice)
        proxy.black_hole()
        self._stop.wait(dice.uniform(0.5, 9))
        if dice.random() < 0.5:
            proxy.reset()
        proxy.heal()
        return f"black-hole-{name}"

    def _half_open(self, dice: random.Random) -> str:
        name, proxy = self._link(dice)
        proxy.abandon()
        self._stop.wait(dice.uniform(0.5, 6))
        proxy.heal()
        return f"half-open-{name}"

    def _lose_reply(self, dice: random.Random) -> str:
        """The answer is cut after some bytes: a commit's, a confirm's, a command's."""
        name, proxy = self._link(dice)
        proxy.cut_after(dice.randint(0, 600))
        self._stop.wait(2.0)
        proxy.heal()
        return f"lost-reply-{name}"

    def _answers_only(self, dice: random.Random) -> str:
        """Requests arrive, their answers never do."""
        name, proxy = self._link(dice)
        proxy.black_hole(to_target=False)
        self._stop.wait(dice.uniform(0.2, 3))
        proxy.reset()
        proxy.heal()
        return f"no-answers-{name}"

    def _slow(self, dice: random.Random) -> str:
        name, proxy = self._link(dice)
        proxy.set_latency(dice.uniform(0.02, 0.3))
        self._stop.wait(3.0)
        proxy.heal()
        return f"slow-{name}"

    def _server(self, dice: random.Random) -> CustomerServer:
        return dice.choice(self.lab.servers)

    def _kill_certbot(self, dice: random.Random) -> str:
        """Certbot alone; its wrapper notes the exit code."""
        pids = self._server(dice).cell.processes("certbot")
        for pid in pids:
            _kill(pid)
        return "kill-certbot" if pids else ""

    def _kill_run(self, dice: random.Random) -> str:
        """Certbot and its wrapper: nobody is left to note how it ended."""
        pids = self._server(dice).cell.processes("certbot")
        for pid in pids:
            _kill(_parent(pid))
            _kill(pid)
        return "kill-run" if pids else ""

    def _kill_script(self, dice: random.Random) -> str:
        """Certpilot's own script, somewhere between its first line and its last; it is there for a tenth of a second."""
        server, deadline = self._server(dice), time.monotonic() + 3
        while not self._stop.is_set() and time.monotonic() < deadline:
            scripts = [pid for pid in server.cell.processes() if _is_script(pid)]
            if scripts:
                time.sleep(dice.uniform(0, 0.08))
                for pid in scripts:
                    _kill(pid)
                return "kill-script"
            time.sleep(0.01)
        return ""

    def _reboot(self, dice: random.Random) -> str:
        server = self._server(dice)
        server.reboot()
        return f"reboot {server.name}"


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_script(pid: int) -> bool:
    """A shell that runs certpilot's script, and not the wrapper of a certbot run: that is a fault of its own."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0] == b"sh" and any(word.startswith(b"/var/lib/certpilot/agent/") for word in words[1:2])


def _kill(pid: int) -> None:
    if pid > 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
