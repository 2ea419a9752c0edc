"""A RabbitMQ cluster on one machine: nodes that can be killed, frozen and started one by one."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from deploy.lab.cell import Cell
from deploy.lab.machine import free_port
from deploy.lab.rabbitmq import RabbitNode


class RabbitCluster:
    """Nodes that know each other; a quorum queue declared on one has a member on each.

    Attributes:
        nodes: in the order in which they joined.
    """

    def __init__(self, directory: Path, *, size: int = 3, config: str = "") -> None:
        """Prepare the nodes; nothing runs yet.

        Args:
            directory: an empty folder.
            size: how many nodes.
            config: lines added to each node's rabbitmq.conf.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "epmd.log"
        self._epmd_port = free_port()
        self._epmd: Cell | None = None
        cookie = secrets.token_hex(16).upper()
        self.nodes = [
            RabbitNode(
                directory / f"node{number}",
                name=f"node{number}",
                config=config,
                epmd_port=self._epmd_port,
                cookie=cookie,
            )
            for number in range(1, size + 1)
        ]

    def start(self) -> None:
        """Start all nodes at the same time and join them to the first.

        Raises:
            LabError: a node did not start or join.
        """
        # A name service of its own: one that a node had started would die with that node.
        self._epmd = Cell("epmd")
        self._epmd.spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], log=self._log)
        try:
            with ThreadPoolExecutor(len(self.nodes)) as pool:
                list(pool.map(RabbitNode.start, self.nodes))
            for node in self.nodes[1:]:
                node.ctl("stop_app")
                node.ctl("join_cluster", self.nodes[0].name)
                node.ctl("start_app")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill all nodes at once."""
        for node in self.nodes:
            node.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd = None

    def urls(self, vhost: str = "/") -> list[str]:
        """Give the AMQP URL of a vhost on each node."""
        return [node.url(vhost) for node in self.nodes]

    def add_vhost(self, name: str | None = None) -> str:
        """Make a vhost on all nodes and give its name."""
        return self.nodes[0].add_vhost(name)

    def leader(self, vhost: str, queue: str) -> RabbitNode:
        """Give the node that leads a quorum queue; asks the first node that runs."""
        up = next(node for node in self.nodes if node.running)
        resource = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)'
        name = up.eval(
            f"begin {{ok, Q}} = rabbit_amqqueue:lookup({resource}), {{_, Node}} = amqqueue:get_pid(Q), Node end"
        )
        return next(node for node in self.nodes if node.name == name.strip("'"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
