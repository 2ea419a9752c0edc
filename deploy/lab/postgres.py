"""A private PostgreSQL cluster in its own folder, gone with its owner."""

import os
import pwd
import shutil
import time
from pathlib import Path
from typing import Self

from deploy.lab.cell import Cell
from deploy.lab.machine import CLEAN_PATH, LabError, free_port, run, tail

BASE = Path("/usr/lib/postgresql")
START_DEADLINE_SECONDS = 30
USER = "postgres"
INSIDE = "/mnt"  # where the server's own mounts have its folder

CONFIG = """\
listen_addresses = '127.0.0.1'
max_connections = 300
timezone = 'UTC'
log_timezone = 'UTC'
# The data lives as long as the lab: a crash of the machine loses it, a crash of the server does not.
fsync = off
synchronous_commit = on
full_page_writes = off
# Shared memory in the cluster's own folder, so that a killed server leaves nothing in /dev/shm.
dynamic_shared_memory_type = mmap
shared_buffers = 64MB
max_wal_size = 256MB
"""


def programs() -> Path:
    """Give the folder of the newest installed PostgreSQL server's programs.

    Raises:
        LabError: there is none.
    """
    versions = [folder for folder in BASE.glob("*/bin") if (folder / "initdb").exists()]
    if not versions:
        raise LabError("no PostgreSQL server below /usr/lib/postgresql")
    return max(versions, key=lambda folder: int(folder.parent.name))


class PostgresServer:
    """One PostgreSQL cluster, reached by TCP on 127.0.0.1 and by a Unix socket; no password, for this lab only.

    Attributes:
        port: TCP port on 127.0.0.1.
        log: what the server printed.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare a cluster in an empty folder; nothing runs yet."""
        self.directory = directory
        self.port = free_port()
        self._bin = programs()
        self._cell: Cell | None = None
        # The server refuses to run as root.
        self._account = pwd.getpwnam(USER) if _account_exists(USER) else pwd.getpwnam("nobody")
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, self._account.pw_uid, self._account.pw_gid)
        self._data = directory / "data"
        self.log = directory / "server.log"

    def url(self, database: str = "postgres") -> str:
        """Give the URL of a database, as CERTPILOT_DATABASE_URL takes it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str = "postgres") -> str:
        """Give the URL of a database by the Unix socket."""
        return f"postgresql://{USER}@/{database}?host={self.directory}&port={self.port}"

    def start(self) -> None:
        """Make the cluster if it is not there, start it and wait until it takes connections.

        Raises:
            LabError: it did not within 30 s; the message ends with its log.
        """
        assert self._cell is None, "the server runs already"
        self._cell = Cell("postgresql")
        try:
            # The folder may lie below one that only root may enter (a TMPDIR of root's own).
            self._cell.run(["mount", "--bind", str(self.directory), INSIDE])
            if not self._data.exists():
                self._initialise(self._cell)
        except LabError:
            self.kill()
            raise
        # In a cell of its own a number left by a killed server says nothing: the same one may be ours.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        argv = [str(self._bin / "postgres"), "-D", f"{INSIDE}/data", "-p", str(self.port), "-k", INSIDE]
        server = self._cell.spawn(self._as_account(argv), log=self.log)
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while not self._ready():
            if not server.running or time.monotonic() > deadline:
                self.kill()
                raise LabError(f"PostgreSQL did not start:\n{tail(self.log)}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the server at once, as a power cut does; its committed data stays."""
        if self._cell is not None:
            self._cell.kill()
            self._cell = None

    def stop(self) -> None:
        """Stop the server in good order, ending its sessions (pg_ctl's mode "fast")."""
        if self._cell is not None:
            argv = [str(self._bin / "pg_ctl"), "-D", f"{INSIDE}/data", "-m", "fast", "-w", "stop"]
            self._cell.run(self._as_account(argv))
            self.kill()

    def restart(self) -> None:
        """Stop in good order and start again; every session is ended."""
        self.stop()
        self.start()

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run one SQL statement with psql and give its rows, unaligned; for tests that hold no connection.

        Raises:
            LabError: it failed.
        """
        argv = [
            str(self._bin / "psql"),
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url(database),
        ]
        return run([*argv, "-c", statement], env={"PATH": CLEAN_PATH}).stdout.strip()

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database, from a template where one is named, and give its URL."""
        clause = f' template "{template}"' if template else ""
        self.execute(f'create database "{name}"{clause}')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending the sessions that use it."""
        self.execute(f'drop database if exists "{name}" with (force)')

    def end_sessions(self, database: str) -> int:
        """Terminate every session of a database, as an operator can, and give how many there were."""
        count = self.execute(
            f"select count(pg_terminate_backend(pid)) from pg_stat_activity "
            f"where datname = '{database}' and pid <> pg_backend_pid()"
        )
        return int(count)

    def __enter__(self) -> Self:
        if self._cell is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _initialise(self, cell: Cell) -> None:
        argv = [str(self._bin / "initdb"), "-D", f"{INSIDE}/data", "-U", USER, "-A", "trust", "-E", "UTF8"]
        argv += ["--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        try:
            cell.run(self._as_account(argv))
        except LabError:
            shutil.rmtree(self._data, ignore_errors=True)
            raise
        with (self._data / "postgresql.conf").open("a") as config:
            config.write(CONFIG)

    def _as_account(self, argv: list[str]) -> list[str]:
        account = self._account
        return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", *argv]

    def _ready(self) -> bool:
        argv = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return run(argv, env={"PATH": CLEAN_PATH}, check=False).returncode == 0


def _account_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
