"""Private RabbitMQ nodes: own data, own ports, own Erlang name service, gone with their owner."""

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from deploy.lab.cell import Cell
from deploy.lab.machine import LabError, free_port, run, tail

# Those in /usr/sbin switch to the user rabbitmq, who may not read our folder.
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
CTL = "/usr/lib/rabbitmq/bin/rabbitmqctl"
START_DEADLINE_SECONDS, EVAL_DEADLINE_SECONDS = 60, 5
USER, PASSWORD = "guest", "guest"

CONFIG = """\
# On loopback only, for one lab.
loopback_users = none
log.console.level = info
# Small disks and small machines must not raise an alarm that no test asked for.
disk_free_limit.absolute = 10MB
# Memory of the write-ahead log of quorum queues; the default of 512 MB is for production.
raft.wal_max_size_bytes = 67108864
"""

ADVANCED = """\
%% At-least-once dead-lettering looks again for a lost target each 5 s instead of each 180 s.
[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].
"""


class RabbitNode:
    """One RabbitMQ node.

    Attributes:
        port: AMQP port on 127.0.0.1.
        log: what the node printed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "rabbit",
        config: str = "",
        epmd_port: int | None = None,
        cookie: str | None = None,
    ) -> None:
        """Prepare a node; nothing runs yet.

        Args:
            directory: empty or its own from before; holds data, cookie and logs.
            name: the part of the node's name before "@localhost".
            config: lines added to rabbitmq.conf, for instance `consumer_timeout = 6000`.
            epmd_port: an Erlang name service that runs already, for a cluster; its own where None.
            cookie: the cluster's shared secret; random where None.
        """
        self.directory = directory
        self.name = f"{name}@localhost"
        self.port = free_port()
        self._dist_port = free_port()
        self._epmd_port = epmd_port or free_port()
        self._cookie = cookie or secrets.token_hex(16).upper()
        self._cell: Cell | None = None
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "rabbitmq.conf").write_text(CONFIG + config)
        # The file's ending matters: without `.config` it is ignored without a word.
        (directory / "advanced.config").write_text(ADVANCED)
        (directory / "plugins").write_text("[].\n")
        cookie_file = directory / ".erlang.cookie"
        cookie_file.unlink(missing_ok=True)
        cookie_file.write_text(self._cookie)
        cookie_file.chmod(0o400)
        self.log = directory / "node.log"

    def url(self, vhost: str = "/") -> str:
        """Give the AMQP URL of a vhost."""
        path = "%2F" if vhost == "/" else vhost
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{path}"

    def start(self) -> None:
        """Start the node and wait until it takes AMQP connections.

        Raises:
            LabError: it did not within 60 s; the message ends with its log.
        """
        assert self._cell is None, "the node runs already"
        self._cell = Cell(self.name)
        began = self.log.stat().st_size if self.log.exists() else 0
        server = self._cell.spawn([SERVER], log=self.log, env=self._environment())
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        # The listener comes up last but for the plugins' end; a node that refuses a handshake is not ready.
        while not (self._listens() and b"Server startup complete" in self.log.read_bytes()[began:]):
            if not server.running or time.monotonic() > deadline:
                self.kill()
                raise LabError(f"RabbitMQ did not start:\n{tail(self.log)}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill the node at once, as a power cut does. What it had written to its folder stays."""
        if self._cell is not None:
            self._cell.kill()
            self._cell = None

    def stop(self) -> None:
        """Stop the node in good order."""
        if self._cell is not None:
            self.eval("init:stop()")
            deadline = time.monotonic() + START_DEADLINE_SECONDS
            while self._listens() or self._beam_pids():
                if time.monotonic() > deadline:
                    raise LabError(f"RabbitMQ did not stop:\n{tail(self.log)}")
                time.sleep(0.05)
            self.kill()

    def pause(self) -> None:
        """Freeze the node (SIGSTOP); its connections stay open and silent."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen node go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether it was started and not killed or stopped since."""
        return self._cell is not None

    def ctl(self, *args: str, check: bool = True) -> str:
        """Run rabbitmqctl on this node and give what it printed. Starts an Erlang machine: about a second.

        Raises:
            LabError: it failed and `check` is set.
        """
        done = run([CTL, "-q", "-n", self.name, *args], env=self._environment(), check=check)
        return done.stdout

    def eval(self, expression: str) -> str:
        """Evaluate an Erlang expression in the node, in about 20 ms, and give its value as text.

        Raises:
            LabError: the node does not answer, or the expression failed.
        """
        deadline = time.monotonic() + EVAL_DEADLINE_SECONDS
        while True:
            # A name of its own for each call: the node turns away a second caller of the same name.
            caller = f"lab{secrets.token_hex(8)}"
            argv = ["erl_call", "-c", self._cookie, "-h", caller, "-n", self.name, "-fetch_stdout", "-e"]
            done = run(argv, stdin=f"{expression}.\n".encode(), env=self._environment(), check=False)
            # Not connected is not evaluated: safe to try again.
            if "failed to connect" not in done.stderr or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        answer = done.stdout.strip()
        if not answer.startswith("{ok, "):
            raise LabError(f"{expression}: {answer or done.stderr}")
        return answer.removeprefix("{ok, ").removesuffix("}")

    def add_vhost(self, name: str | None = None) -> str:
        """Make a vhost that the lab's user may use fully, and give its name (a random one where None)."""
        vhost = name or f"test-{secrets.token_hex(6)}"
        self.eval(f'rabbit_vhost:add(<<"{vhost}">>, <<"{USER}">>)')
        self.eval(
            f'rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, <<"{vhost}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"lab">>)'
        )
        return vhost

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with all it holds."""
        self.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"lab">>)')

    def settle(self) -> None:
        """Write to disk which quorum queues there are; after that a kill loses nothing that was confirmed.

        RabbitMQ does it by itself only a moment after a queue was declared (dets, auto_save 500 ms): a node that is
        killed before knows the queue afterwards, but not which log was its own (measured, 3.10.8). Tests that
        declare and kill at once need it.
        """
        self.eval("[ok = dets:sync(T) || T <- dets:all()]")

    def close_all_connections(self, reason: str = "lab") -> None:
        """Close every AMQP connection from the broker's side, as an operator can."""
        self.eval(
            f'[rabbit_networking:close_connection(P, <<"{reason}">>) || P <- rabbit_networking:connections()]'
        )

    def __enter__(self) -> Self:
        if self._cell is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _environment(self) -> Mapping[str, str]:
        home = str(self.directory)
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": home,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": f"{home}/none",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{home}/data",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_LOGS": "-",
            # Idle schedulers must not spin: the machine has other work than waiting for the broker.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _beam_pids(self) -> list[int]:
        assert self._cell is not None
        return self._cell.processes("beam")

    def _signal(self, number: signal.Signals) -> None:
        pids = self._beam_pids()
        if not pids:
            raise LabError("the node does not run")
        for pid in pids:
            os.kill(pid, number)
