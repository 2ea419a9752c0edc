"""Cells: process trees in Linux namespaces of their own that cannot outlive the process that made them.

A cell is `unshare` with `cell_init.py` as process 1 of a new PID namespace. Its standard input is a pipe held by the
owner; when the owner ends, even by SIGKILL, the pipe closes, process 1 ends, and the kernel kills every process of
the cell and drops its mounts, its network and its interfaces. No list of things to clean has to be kept.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from deploy.lab.machine import CLEAN_PATH, LabError, run

INIT = Path(__file__).with_name("cell_init.py")
CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class RootSpec:
    """A root file system for a cell: an overlay of the machine's own, written to a disk elsewhere.

    Attributes:
        disk: folder on a file system other than the machine's root; holds what the cell writes.
        trees: mount points of the machine that make up its system, "/" first.
        forget: folders of the machine that are empty in the cell.
        files: absolute path and text of files to write before anything runs.
        new_disk: False where the disk has been booted from before, which keeps what it holds.
    """

    disk: str
    trees: tuple[str, ...]
    forget: tuple[str, ...]
    files: Mapping[str, str]
    new_disk: bool = True


class Program:
    """A long-running program in a cell: `nsenter` outside, its child inside."""

    def __init__(self, outer: "subprocess.Popen[bytes]") -> None:
        """Take over a started `nsenter`."""
        self._outer = outer

    @property
    def running(self) -> bool:
        """Tell whether it still runs."""
        return self._outer.poll() is None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the program itself; after SIGKILL it is gone when this returns."""
        with contextlib.suppress(LabError, ProcessLookupError):
            if self.running:
                os.kill(_child_of(self._outer.pid), number)
        if number == signal.SIGKILL:
            self.wait()

    def wait(self) -> int:
        """Wait for its end and give its exit code."""
        return self._outer.wait()


class Cell:
    """A process tree that dies with its owner.

    Attributes:
        pid: process 1 of the cell, as numbered outside.
    """

    pid: int

    def __init__(
        self,
        name: str,
        *,
        network: bool = False,
        hostname: str | None = None,
        root: RootSpec | None = None,
        mounts_of: "Cell | None" = None,
    ) -> None:
        """Start the cell; on return its namespaces and mounts are ready.

        Args:
            name: for messages.
            network: give it a network of its own, with nothing but loopback, which is up.
            hostname: its own host name (implies its own UTS namespace).
            root: its own root file system; without it the cell sees the machine's.
            mounts_of: start from the mounts of this other cell instead of the machine's.

        Raises:
            LabError: a namespace or a mount was refused.
        """
        self.name = name
        self._programs: list[Program] = []
        self._ending, self._ended = threading.Lock(), False
        flags = ["--pid", "--fork", "--mount", "--ipc"]
        flags += ["--net"] if network else []
        flags += ["--uts"] if hostname else []
        self._namespaces = [flag for flag in flags if flag != "--fork"]
        spec = json.dumps({"hostname": hostname, "root": asdict(root) if root else None})
        outer = ["nsenter", f"--mount=/proc/{mounts_of.pid}/ns/mnt"] if mounts_of else []
        argv = [*outer, "unshare", *flags, "--", sys.executable, "-I", "-S", str(INIT)]
        read_end, self._lifeline = os.pipe()
        self._outer = subprocess.Popen(
            argv,
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": CLEAN_PATH, "LC_ALL": "C.UTF-8"},
        )
        os.close(read_end)
        with contextlib.suppress(BrokenPipeError), open(self._lifeline, "wb", closefd=False) as pipe:
            pipe.write(f"{spec}\n".encode())
        assert self._outer.stdout is not None
        said = self._outer.stdout.readline()
        if said != b"ready\n":
            os.close(self._lifeline)
            error = self._outer.communicate()[1].decode(errors="replace").strip()
            raise LabError(f"cell {name} did not start: {error}")
        self._outer.stdout.close()
        self.pid = _child_of(self._outer.pid)
        if network:
            self.run(["ip", "link", "set", "lo", "up"])

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Give the command line that runs `argv` inside, from outside."""
        return ["nsenter", "--target", str(self.pid), *self._namespaces, "--", *argv]

    def spawn(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> "Program":
        """Start a long-running program inside; it dies with the cell.

        Args:
            argv: program and arguments, resolved inside.
            log: file outside the cell that its output is appended to.
            env: its whole environment (a plain PATH where None).
        """
        with log.open("ab") as out:
            outer = subprocess.Popen(
                self.enter(argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"PATH": CLEAN_PATH, "LC_ALL": "C.UTF-8", **(env or {})},
            )
        program = Program(outer)
        self._programs.append(program)
        return program

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        check: bool = True,
        timeout_seconds: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside and wait for it.

        Raises:
            LabError: it failed, and `check` is set; the message holds what it printed.
        """
        return run(
            self.enter(argv),
            stdin=stdin,
            check=check,
            timeout_seconds=timeout_seconds,
            env={"PATH": CLEAN_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **(env or {})},
        )

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Make an IPv4 socket that lives in the cell's network while this process uses it.

        A socket belongs to the network in which it was made, whoever uses it. Only the calling thread visits.
        """
        there = Path(f"/proc/{self.pid}/ns/net")
        with Path("/proc/thread-self/ns/net").open("rb") as home, there.open("rb") as away:
            _enter_network(away)
            try:
                return socket.socket(socket.AF_INET, kind)
            finally:
                _enter_network(home)

    def processes(self, program: str = "") -> list[int]:
        """Find what runs inside, by the numbers outside; only programs whose name begins so, where one is given."""
        inside = Path(f"/proc/{self.pid}/ns/pid").stat().st_ino
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it may end while we look
                same = entry.name.isdigit() and (entry / "ns/pid").stat().st_ino == inside
                if same and (entry / "comm").read_text().startswith(program):
                    found.append(int(entry.name))
        return found

    @property
    def alive(self) -> bool:
        """Tell whether process 1 still runs."""
        return self._outer.poll() is None

    def kill(self) -> None:
        """Kill everything inside at once, as a power cut does; returns when all of it is gone."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
            os.close(self._lifeline)
            with contextlib.suppress(ProcessLookupError):
                if self.alive:
                    os.kill(self.pid, signal.SIGKILL)
            self._outer.wait()
            for program in self._programs:
                program.wait()
            if self._outer.stderr is not None:
                self._outer.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _child_of(parent: int) -> int:
    """Give the one child of a process: `unshare` and `nsenter` become the parents of what they start."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                return int(stat.parent.name)
    raise LabError(f"process {parent} has no child")


def _enter_network(namespace: IO[bytes]) -> None:
    if _libc.setns(namespace.fileno(), CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
