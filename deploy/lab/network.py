"""The lab's own internet: one bridge in a network namespace, joined by this machine and by each customer server.

This machine (the worker's place) has the first address, the certificate authority with its DNS the second, the
servers the ones from the tenth on, so that a server's firewall can tell the worker from the authority. All of it
vanishes with the namespace; on the machine itself there is one interface, whose other end is in there.

The addresses come from 198.18.0.0/15, which RFC 2544 keeps for tests of network devices: no network that this machine
may have to reach uses them. IPv6 addresses are unique local ones (RFC 4193).
"""

import contextlib
import itertools
import secrets
import socket
from pathlib import Path
from typing import Self

from deploy.lab.cell import Cell
from deploy.lab.machine import LabError, run

HOST, AUTHORITY, FIRST_SERVER = 1, 2, 10
NETWORKS = 512  # of /24 in 198.18.0.0/15
_IPV6 = Path("/proc/sys/net/ipv6/conf")


class Network:
    """A bridge in a cell of its own, and an address plan.

    Attributes:
        cell: where the bridge is, and where the authority's programs run.
        has_ipv6: whether this machine can do IPv6 at all.
    """

    def __init__(self) -> None:
        """Make the namespace and the bridge, and join this machine to it.

        Raises:
            LabError: no free network, or the kernel refused an interface.
        """
        self._claim, self._number = _claim_number()
        self._next_server = itertools.count(FIRST_SERVER)
        self.has_ipv6 = _IPV6.exists() and all(
            (_IPV6 / which / "disable_ipv6").read_text().strip() == "0" for which in ("all", "default")
        )
        try:
            self.cell = Cell("lab network", network=True)
        except LabError:
            self._claim.close()
            raise
        try:
            # Of its own accord a bridge takes the lowest hardware address of its ports: with each server that joins, what
            # others remember of the authority's address would be wrong for seconds, and DNS silent.
            mac = f"06:00:{self._number >> 8:02x}:{self._number & 255:02x}:00:{AUTHORITY:02x}"
            bridge = ("link add br0 type bridge", f"link set br0 address {mac}", "link set br0 up")
            self._batch(*bridge, *self._addresses(AUTHORITY, "br0"))
            self._near = near = f"cplab{self._number}"
            _ip(f"link add {near} type veth peer name host netns {self.cell.pid}")
            _ip(*self._addresses(HOST, near), f"link set {near} up")
            self._batch("link set host master br0 up")
        except LabError:
            self.close()
            raise

    def address(self, number: int) -> str:
        """Give the IPv4 address with this number."""
        return f"198.{18 + self._number // 256}.{self._number % 256}.{number}"

    def address6(self, number: int) -> str:
        """Give the IPv6 address with this number."""
        return f"fdce:7917:{self._number:x}::{number:x}"

    @property
    def host(self) -> str:
        """Where this machine, and so the worker, stands."""
        return self.address(HOST)

    @property
    def authority(self) -> str:
        """Where the certificate authority and the DNS stand."""
        return self.address(AUTHORITY)

    def next_number(self) -> int:
        """Give an address number that no server has yet.

        Raises:
            LabError: all are given out.
        """
        number = next(self._next_server)
        if number > 254:  # noqa: PLR2004 - the last address of a /24
            raise LabError("the lab's network is full")
        return number

    def add_authority_address(self) -> str:
        """Give the cell of the authority one more IPv4 address, for a program that stands for another machine."""
        number = self.next_number()
        self._batch(f"address add {self.address(number)}/24 dev br0")
        return self.address(number)

    def add_host_address(self) -> str:
        """Give this machine one more IPv4 address in the lab, for a proxy that stands before a server.

        It belongs to the lab's interface and is gone with it.
        """
        address = self.address(self.next_number())
        _ip(f"address add {address}/32 dev {self._near}")
        return address

    def join(self, cell: Cell, number: int) -> None:
        """Give a cell the interface eth0 with the addresses of this number, and a default route to this machine."""
        # After a power cut the kernel takes the old pair away in its own time; a reboot may come before.
        with contextlib.suppress(LabError):
            self._batch(f"link del s{number}")
        self._batch(
            f"link add s{number} type veth peer name eth0 netns {cell.pid}",
            f"link set s{number} master br0 up",
        )
        # The same hardware address after a reboot: this machine remembers the old one for a while.
        mac = f"06:00:{self._number >> 8:02x}:{self._number & 255:02x}:00:{number:02x}"
        commands = [
            f"link set eth0 address {mac}",
            *self._addresses(number, "eth0"),
            "link set eth0 up",
            f"route add default via {self.host}",
        ]
        _ip(*commands, inside=cell)

    def close(self) -> None:
        """Drop the bridge and every interface on it."""
        self.cell.kill()
        self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _addresses(self, number: int, interface: str) -> list[str]:
        commands = [f"address add {self.address(number)}/24 dev {interface}"]
        if self.has_ipv6:
            # nodad: an address that is still being checked for duplicates cannot be used for a second or two.
            commands.append(f"address add {self.address6(number)}/64 dev {interface} nodad")
        return commands

    def _batch(self, *commands: str) -> None:
        _ip(*commands, inside=self.cell)


def _ip(*commands: str, inside: Cell | None = None) -> None:
    """Run commands of ip(8), in a cell's network but with this machine's process numbers."""
    enter = ["nsenter", f"--net=/proc/{inside.pid}/ns/net"] if inside else []
    run([*enter, "ip", "-batch", "-"], stdin="\n".join(commands).encode())


def _claim_number() -> tuple[socket.socket, int]:
    """Choose a network that no other lab has and that this machine has no route to.

    The claim is a name in the abstract socket space: it belongs to one process at a time and ends with it.
    """
    routes = Path("/proc/net/route").read_text()
    for number in secrets.SystemRandom().sample(range(NETWORKS), NETWORKS):
        prefix = bytes((198, 18 + number // 256, number % 256, 0))
        if f"\t{prefix[::-1].hex().upper()}\t" in routes:
            continue
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            claim.bind(f"\0certpilot-lab-network-{number}")
            return claim, number
        claim.close()
    raise LabError("all networks of 198.18.0.0/15 are in use")
