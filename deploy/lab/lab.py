"""The whole lab in one object: `with Lab(servers=2) as lab: …`."""

import contextlib
import io
import os
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Self

from deploy.lab.ca import DAY_SECONDS, CertificateAuthority
from deploy.lab.ca_limits import LETS_ENCRYPT_STAGING, NONE, Figure, LimitName
from deploy.lab.keys import KeyPair
from deploy.lab.machine import CLEAN_PATH
from deploy.lab.network import Network
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from deploy.lab.run_directory import RunDirectory
from deploy.lab.server import CustomerServer

CUSTOMER_SERVER = Path(__file__).parents[1] / "customer-server"


class Lab:
    """A broker, a database, a certificate authority with its DNS, and customer servers, all for one owner.

    Two labs can run at the same time. All of it is gone when the context ends, also by Ctrl-C or SIGTERM; after a
    SIGKILL every process, mount and interface is gone too, and the next lab removes the files.

    Attributes:
        directory: the lab's folder.
        network: where the authority and the servers are.
        ca: the certificate authority.
        dns: its DNS.
        servers: the customer servers, by number from 0.
        worker_key_file: private key that may log in on every server as root.
        known_hosts_file: the host keys of all servers.
        start_seconds: how long each part took to start, and "all" together.
    """

    def __init__(
        self,
        *,
        servers: int = 1,
        limits: Mapping[LimitName, Figure] = NONE,
        staging_limits: Mapping[LimitName, Figure] = LETS_ENCRYPT_STAGING,
        validity_seconds: int = 90 * DAY_SECONDS,
        broker: bool = True,
        database: bool = True,
    ) -> None:
        """Prepare a lab; nothing runs yet.

        Args:
            servers: how many customer servers, called server-1 and so on.
            limits: rate limits of the authority, `ca_limits.LETS_ENCRYPT` for the published ones.
            staging_limits: those of its staging door.
            validity_seconds: lifetime of its certificates.
            broker: start RabbitMQ (tests with a session-wide one do not need another).
            database: start PostgreSQL.
        """
        self._wanted_servers = servers
        self._limits, self._staging_limits, self._validity_seconds = limits, staging_limits, validity_seconds
        self._wants = (broker, database)
        self._stack = contextlib.ExitStack()
        self._adding = threading.Lock()
        self._added = 0
        self.servers: list[CustomerServer] = []
        self.start_seconds: dict[str, float] = {}

    @property
    def server(self) -> CustomerServer:
        """The first server."""
        return self.servers[0]

    def start(self) -> None:
        """Start every part, as far as possible at the same time.

        Raises:
            LabError: a part did not start; all others are stopped again.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every part and remove every trace; may be called twice."""
        self._stack.close()

    def add_server(self, name: str | None = None, *, disk_megabytes: int = 512) -> CustomerServer:
        """Add a customer server and start it."""
        with self._adding:
            self._added += 1
            number = self._added  # not the length: a server that was taken off the list keeps its folder
            name = name or f"server-{number}"
            server = CustomerServer(
                self.network,
                self.directory / name,
                name,
                worker_key=self.worker_key.public,
                trusted_roots=self.ca.roots_file,
                disk_megabytes=disk_megabytes,
            )
            self.servers.append(server)
            self._stack.callback(server.stop)
            with self.known_hosts_file.open("a") as known:
                known.write(server.known_hosts_line())
        self._timed(name, server.start)
        return server

    def install_agent(self, server: CustomerServer, user: str = "certpilot") -> None:
        """Make the user that may run nothing but our script, by the same folder that a customer installs.

        Raises:
            LabError: the installation failed; the message holds what it printed.
        """
        folder = io.BytesIO()
        with tarfile.open(fileobj=folder, mode="w", dereference=True) as tar:
            tar.add(CUSTOMER_SERVER, arcname="customer-server")
        server.run(["tar", "-x", "--no-same-owner", "-C", "/root"], stdin=folder.getvalue())
        server.write("/root/customer-server/worker.pub", f"{self.worker_key.public}\n")
        install = "/root/customer-server/install.sh"
        server.run(["sh", install, "--no-packages", "--user", user, "/root/customer-server/worker.pub"])

    def point(self, *names: str, to: CustomerServer | None = None) -> None:
        """Let names resolve to a server (the first where None), by IPv4 and, where there is any, by IPv6."""
        server = to or self.server
        for name in names:
            self.dns.set_a(name, server.host)
            if server.host6:
                self.dns.set_aaaa(name, server.host6)

    def settings(self, *, database_url: str | None = None, rabbitmq_url: str | None = None) -> dict[str, str]:
        """Give the CERTPILOT_* variables for a worker in this lab; the lab's own broker and database by default."""
        return {
            "CERTPILOT_RABBITMQ_URL": rabbitmq_url or self.rabbit.url(),
            "CERTPILOT_DATABASE_URL": database_url or self.postgres.url(),
            "CERTPILOT_ACME_DIRECTORY_URL": self.ca.directory_url,
            "CERTPILOT_ACME_STAGING_DIRECTORY_URL": self.ca.staging_directory_url,
            "CERTPILOT_SSH_PRIVATE_KEY_FILE": str(self.worker_key_file),
            "CERTPILOT_SSH_KNOWN_HOSTS_FILE": str(self.known_hosts_file),
            "CERTPILOT_DNS_SERVERS": self.dns.server,
            "CERTPILOT_TLS_CA_FILE": str(self.ca.roots_file),
            "CERTPILOT_CA_LIMITS_FILE": str(self.ca.limits_file),
            # All servers of a lab share this machine; none of them is slow because it is busy.
            "CERTPILOT_PREFLIGHT_SECONDS": "20",
        }

    def environment(
        self, *, database_url: str | None = None, rabbitmq_url: str | None = None
    ) -> dict[str, str]:
        """Give the whole environment for a worker's process: the settings and a plain PATH, nothing of this one."""
        settings = self.settings(database_url=database_url, rabbitmq_url=rabbitmq_url)
        return {
            "PATH": f"{Path(sys.executable).parent}:{CLEAN_PATH}",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            **settings,
        }

    def ssh_command(self, server: CustomerServer, *command: str, user: str = "root") -> list[str]:
        """Give the command line that runs something on a server by hand, as an operator would."""
        options = {
            "UserKnownHostsFile": str(self.known_hosts_file),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
        }
        flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]
        login = ["-i", str(self.worker_key_file), "-p", str(server.port), f"{user}@{server.host}"]
        return ["ssh", "-F", "none", *flags, *login, *command]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        began = time.monotonic()
        self._stack.callback(_end_on_sigterm())
        run = self._stack.enter_context(RunDirectory())
        self.directory = run.path
        self.worker_key = KeyPair.generate()
        self.worker_key_file = self.directory / "worker-key"
        self.worker_key.save(self.worker_key_file)
        self.known_hosts_file = self.directory / "known-hosts"
        self.known_hosts_file.touch()
        starts = [self._start_authority_and_servers]
        if self._wants[0]:
            self.rabbit = RabbitNode(self.directory / "rabbitmq")
            starts.append(lambda: self._timed("rabbitmq", self.rabbit.start))
            self._stack.callback(self.rabbit.kill)
        if self._wants[1]:
            self.postgres = PostgresServer(self.directory / "postgresql")
            starts.append(lambda: self._timed("postgresql", self.postgres.start))
            self._stack.callback(self.postgres.kill)
        _all_at_once(starts, give_up=self._kill_slow_parts)
        self.start_seconds["all"] = time.monotonic() - began

    def _start_authority_and_servers(self) -> None:
        self.network = self._stack.enter_context(Network())
        self.ca = CertificateAuthority(
            self.network,
            self.directory / "ca",
            limits=self._limits,
            staging_limits=self._staging_limits,
            validity_seconds=self._validity_seconds,
        )
        self.dns = self.ca.dns
        self._stack.callback(self.ca.stop)
        self._timed("ca", self.ca.start)
        for _ in range(self._wanted_servers):
            self.add_server()

    def _kill_slow_parts(self) -> None:
        """Let threads that still wait for a server to start see it gone."""
        for part in ("rabbit", "postgres"):
            if hasattr(self, part):
                getattr(self, part).kill()

    def _timed(self, name: str, start: Callable[[], None]) -> None:
        began = time.monotonic()
        start()
        self.start_seconds[name] = time.monotonic() - began


def _all_at_once(starts: list[Callable[[], None]], *, give_up: Callable[[], None]) -> None:
    """Run all in threads; the first failure, or Ctrl-C, calls `give_up`, waits for the others and is raised."""
    with ThreadPoolExecutor(len(starts), "lab-start") as pool:
        futures: list[Future[None]] = [pool.submit(start) for start in starts]
        try:
            for future in futures:
                future.result()
        except BaseException:
            give_up()
            raise


def _end_on_sigterm() -> Callable[[], None]:
    """Make SIGTERM end the program as Ctrl-C does, through its `finally`s, and give what undoes that.

    Only in the main thread, and not where the program has a way of its own.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None
    owner = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork of ours: the lab is not its
            os._exit(128 + number)
        raise KeyboardInterrupt

    def undo() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, end)
    return undo
