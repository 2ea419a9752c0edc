"""Customer servers: real sshd, nginx and certbot on a machine of their own, made of namespaces.

Each has its own network, process numbers, mounts, host name and disk. Its disk is an overlay of this machine's root,
so that the programs are the distribution's own at their standard paths, and writes stay in memory.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Literal, Self

from deploy.lab import server_files
from deploy.lab.cell import Cell, RootSpec
from deploy.lab.keys import KeyPair
from deploy.lab.machine import LabError, run, tail
from deploy.lab.network import Network
from deploy.lab.nginx import Nginx

BOOT_DEADLINE_SECONDS = 20
# Parts of a system that may be file systems of their own: an overlay of "/" alone would show them empty.
_PARTS = ("/usr", "/usr/local", "/var", "/var/lib", "/var/log", "/etc", "/opt")
_LISTEN = "0A"  # the state in /proc/net/tcp


class CustomerServer:
    """One customer server.

    Attributes:
        name: its host name; also the name of its folder.
        number: its number in the lab's network.
        host: its IPv4 address, for SSH and for DNS.
        host6: its IPv6 address; None where this machine has no IPv6.
        port: the SSH port.
        nginx: its web server.
        host_key: its public host key, as a command's `hostKey` or a known_hosts line has it.
    """

    port = 22

    def __init__(
        self,
        network: Network,
        directory: Path,
        name: str,
        *,
        worker_key: str,
        trusted_roots: Path,
        disk_megabytes: int = 512,
    ) -> None:
        """Prepare a server; it is off.

        Args:
            network: where it gets its address.
            directory: an empty folder for its disk and logs.
            name: host name.
            worker_key: the public key that may log in as root.
            trusted_roots: PEM file of authorities that it trusts beside the distribution's.
            disk_megabytes: size of its disk; a full one is a test's business.
        """
        self.name = name
        self._network = network
        self._directory = directory
        self.number = network.next_number()
        self.host = network.address(self.number)
        self.host6 = network.address6(self.number) if network.has_ipv6 else None
        self._key = KeyPair.generate()
        self.host_key = self._key.public
        self._worker_key = worker_key
        self._trusted_roots = trusted_roots
        self.nginx = Nginx(self)
        self._firewall: list[str] = []
        self._cell: Cell | None = None
        self._booted_before = False
        self.log = directory / "console.log"
        disk = directory / "disk"
        disk.mkdir(parents=True)
        # In the network's mounts, not in this machine's: it outlives a power cut of the server, not the lab.
        self._disk = disk
        where = ["nsenter", f"--mount=/proc/{network.cell.pid}/ns/mnt"]
        run([*where, "mount", "-t", "tmpfs", "-o", f"size={disk_megabytes}m,mode=755", "tmpfs", str(disk)])

    @property
    def has_ipv6(self) -> bool:
        """Whether it has an IPv6 address."""
        return self.host6 is not None

    @property
    def cell(self) -> Cell:
        """The server's namespaces.

        Raises:
            LabError: it is off.
        """
        if self._cell is None:
            raise LabError(f"{self.name} is off")
        return self._cell

    def start(self) -> None:
        """Switch it on; sshd and nginx listen when this returns, except for what its disk makes impossible.

        Raises:
            LabError: sshd did not listen within 20 s; the message ends with the console.
        """
        if self._cell is not None:
            return
        root = RootSpec(
            disk=str(self._disk),
            trees=_system_trees(),
            forget=server_files.FORGET,
            files={} if self._booted_before else self._first_files(),
            new_disk=not self._booted_before,
        )
        self._cell = Cell(
            self.name, network=True, hostname=self.name, root=root, mounts_of=self._network.cell
        )
        try:
            if not self._booted_before:
                self._first_boot()
            self._network.join(self._cell, self.number)
            if self._firewall:
                self._apply_firewall()
            self._start_services()
        except LabError:
            self.stop()
            raise
        self._booted_before = True

    def stop(self) -> None:
        """Cut the power: every process ends at once, the disk keeps what was written."""
        if self._cell is not None:
            self._cell.kill()
            self._cell = None

    def reboot(self) -> None:
        """Cut the power and switch it on again, with a new boot id."""
        self.stop()
        self.start()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        check: bool = True,
        timeout_seconds: float = 120,
    ) -> CompletedProcess[str]:
        """Run a command as root, without SSH.

        Raises:
            LabError: it failed and `check` is set, or took too long, or the server is off.
        """
        return self.cell.run(argv, stdin=stdin, check=check, timeout_seconds=timeout_seconds)

    def read(self, path: str) -> str:
        """Give a file's text.

        Raises:
            LabError: there is none.
        """
        return self.run(["cat", path]).stdout

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file; missing folders are made."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{mode:o}"], stdin=text.encode())

    def exists(self, path: str) -> bool:
        """Tell whether there is such a file or folder."""
        return self.run(["test", "-e", path], check=False).returncode == 0

    def written_since(self, marker: str) -> list[str]:
        """Give what was written, made or deleted on its disk after that file of its was touched, folders included.

        Read from the disk alone: the machine's own files below it change while the machine lives.
        """
        where = ["nsenter", f"--mount=/proc/{self._network.cell.pid}/ns/mnt"]
        touched = self.run(["stat", "--format=%.9Z", marker]).stdout.strip()
        paths = []
        for number, tree in enumerate(_system_trees()):
            below = f"{self._disk}/upper{number}"
            newer = ["find", below, "-mindepth", "1", "-newerct", f"@{touched}", "-printf", "%P\\n"]
            paths += [f"{tree.rstrip('/')}/{line}" for line in run([*where, *newer]).stdout.splitlines()]
        return paths

    def add_site(
        self, *names: str, root: str | None = None, body: str | None = None, vhost: str | None = None
    ) -> str:
        """Serve a site on port 80, and give its web root; see `Nginx.add_site`."""
        return self.nginx.add_site(*names, root=root, body=body, vhost=vhost)

    def block(
        self,
        port: int,
        *,
        how: Literal["drop", "reject"] = "drop",
        source: str | None = None,
        outgoing: bool = False,
    ) -> None:
        """Close a TCP port by firewall.

        Args:
            port: destination port.
            how: drop (the peer waits for nothing) or reject (it is refused at once).
            source: only for this peer: an IPv4 address; destination where outgoing.
            outgoing: close it for connections that the server makes.
        """
        peer = f"ip {'daddr' if outgoing else 'saddr'} {source} " if source else ""
        verdict = "reject with tcp reset" if how == "reject" else "drop"
        self._firewall.append(f"{'out' if outgoing else 'in'} {peer}tcp dport {port} {verdict}")
        self._apply_firewall()

    def unblock(self, port: int | None = None) -> None:
        """Open a TCP port again, in every direction; all of them where None."""
        self._firewall = [
            rule for rule in self._firewall if port is not None and f"dport {port} " not in rule
        ]
        self._apply_firewall()

    def listening(self) -> set[int]:
        """Give the TCP ports that something listens on, without connecting to any.

        OpenSSH 9.8 and newer penalise connections that do not log in.
        """
        ports = set()
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(FileNotFoundError):
                for line in Path(f"/proc/{self.cell.pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == _LISTEN:
                        ports.add(int(fields[1].rpartition(":")[2], 16))
        return ports

    def wait(self, condition: Callable[[], bool], complaint: str) -> None:
        """Wait until a condition holds.

        Raises:
            LabError: it did not within 20 s; the message begins with the complaint.
        """
        deadline = time.monotonic() + BOOT_DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: {complaint}\n{tail(self.log)}")
            time.sleep(0.01)

    def known_hosts_line(self) -> str:
        """Give the server's line for a known_hosts file."""
        return f"{self.host} {self.host_key}\n"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _first_files(self) -> dict[str, str]:
        ipv6 = self._network.has_ipv6
        return {
            "/etc/hostname": f"{self.name}\n",
            "/etc/hosts": server_files.hosts(self.name, self.host),
            "/etc/resolv.conf": server_files.resolv_conf(self._network.authority),
            "/etc/nsswitch.conf": server_files.NSSWITCH,
            "/etc/shadow": server_files.unlocked_shadow(Path("/etc/shadow").read_text()),
            "/etc/ssh/sshd_config": server_files.SSHD_CONFIG,
            "/etc/ssh/ssh_host_ed25519_key": self._key.private,
            "/etc/ssh/ssh_host_ed25519_key.pub": f"{self._key.public}\n",
            "/etc/ssh/authorized_keys/root": f"{self._worker_key}\n",
            "/etc/nginx/nginx.conf": server_files.NGINX_CONF,
            "/etc/nginx/sites-available/default": server_files.default_site(ipv6=ipv6),
            "/var/www/html/index.html": f"This is {self.name}\n",
            "/usr/local/share/ca-certificates/lab.crt": self._trusted_roots.read_text(),
        }

    def _first_boot(self) -> None:
        """Finish what text files alone cannot say."""
        # update-ca-certificates does the same to the bundle, and takes a second for all the rest of it.
        script = """
            chmod 600 /etc/shadow /etc/ssh/ssh_host_ed25519_key
            cat /usr/local/share/ca-certificates/lab.crt >> /etc/ssl/certs/ca-certificates.crt
            ln -s ../sites-available/default /etc/nginx/sites-enabled/default
        """
        self.run(["sh", "-ec", script])

    def _start_services(self) -> None:
        self.run(["mkdir", "-p", "/run/sshd"])
        self.cell.spawn(["/usr/sbin/sshd", "-D", "-e"], log=self.log)
        with self.log.open("ab") as console:
            console.write(self.run(["nginx"], check=False).stderr.encode())
        self.wait(lambda: self.port in self.listening(), "sshd does not listen")

    def _apply_firewall(self) -> None:
        self.run(["nft", "-f", "-"], stdin=server_files.firewall(self._firewall).encode())


def _system_trees() -> tuple[str, ...]:
    """Give the mount points that together hold the machine's system, "/" first."""
    mounted = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return ("/", *(part for part in _PARTS if part in mounted))
