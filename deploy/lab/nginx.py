"""nginx on a customer server: sites, and reloads that are over when the call returns."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

from deploy.lab import server_files
from deploy.lab.cell import Cell


class Machine(Protocol):
    """What nginx needs of the server that it runs on."""

    @property
    def cell(self) -> Cell:
        """Its namespaces."""

    @property
    def has_ipv6(self) -> bool:
        """Whether it has an IPv6 address."""

    def run(self, argv: Sequence[str], *, check: bool = True) -> CompletedProcess[str]:
        """Run a command as root."""

    def write(self, path: str, text: str) -> None:
        """Write a file."""

    def listening(self) -> set[int]:
        """Give the TCP ports that something listens on."""

    def wait(self, condition: Callable[[], bool], complaint: str) -> None:
        """Wait until a condition holds."""


class Nginx:
    """The nginx of one server."""

    def __init__(self, machine: Machine) -> None:
        """Take a server, which may be off."""
        self._machine = machine

    def add_site(
        self, *names: str, root: str | None = None, body: str | None = None, vhost: str | None = None
    ) -> str:
        """Serve a site on port 80, and give its web root.

        Args:
            names: server names, the primary domain first.
            root: folder of its files; one of its own where None.
            body: text of its start page; the domain where None.
            vhost: the whole nginx server block, where the ordinary one will not do.
        """
        domain = names[0]
        root = root or f"/var/www/{domain}"
        self._machine.write(f"{root}/index.html", body if body is not None else f"This is {domain}\n")
        text = vhost or server_files.site(names, root, ipv6=self._machine.has_ipv6)
        self._machine.write(f"/etc/nginx/sites-available/{domain}", text)
        self._machine.run(["ln", "-sf", f"../sites-available/{domain}", f"/etc/nginx/sites-enabled/{domain}"])
        self.reload()
        return root

    def remove_site(self, domain: str) -> None:
        """Stop serving a site; its files stay."""
        self._machine.run(["rm", "-f", f"/etc/nginx/sites-enabled/{domain}"])
        self.reload()

    def reload(self) -> None:
        """Let it take its configuration anew; its new workers serve when this returns.

        Raises:
            LabError: nginx does not run or does not like the configuration, or has not reloaded within 20 s.
        """
        old = self._workers()
        self._machine.run(["nginx", "-s", "reload"])
        # The signal is only sent; until the old workers are told to go, any of them may take the next connection.
        self._machine.wait(lambda: bool(now := self._workers()) and not now & old, "nginx did not reload")

    def start(self) -> None:
        """Start it and wait until it listens on port 80.

        Raises:
            LabError: it did not.
        """
        self._machine.run(["nginx"])
        self._machine.wait(lambda: 80 in self._machine.listening(), "nginx does not listen")  # noqa: PLR2004 - HTTP

    def stop(self) -> None:
        """Stop it at once; nobody listens on its ports when this returns."""
        self._machine.run(["nginx", "-s", "stop"])
        self._machine.wait(lambda: not self._machine.cell.processes("nginx"), "nginx did not stop")

    def _workers(self) -> set[int]:
        """Find nginx's workers that still take connections."""
        workers = set()
        for pid in self._machine.cell.processes("nginx"):
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"worker process" in title and b"shutting down" not in title:
                    workers.add(pid)
        return workers
