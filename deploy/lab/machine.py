"""Small things that every part of the lab does on this machine."""

import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(RuntimeError):
    """A part of the lab did not do what it must; the message says which and shows its last output."""


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    check: bool = True,
    timeout_seconds: float = 60,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program on the machine itself; output is text, undecodable bytes are replaced.

    Raises:
        LabError: it failed or took too long, and `check` is set; the message holds what it printed.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=timeout_seconds,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise LabError(f"{' '.join(argv)} took more than {timeout_seconds} s: {late.stderr!r}") from late
    result = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if check and result.returncode:
        raise LabError(f"{' '.join(argv)} ended with {result.returncode}: {result.stderr}{result.stdout}")
    return result


def tail(log: Path, lines: int = 15) -> str:
    """Give the last lines of a log, for an error message; empty where there is no such file."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


_ports_lock = threading.Lock()
_ports_given: set[int] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """Find a TCP port that nobody uses now.

    Below the range from which the kernel takes the ports of outgoing connections, so that none of those takes it
    in the moment before our server binds it; never the same one twice in one process.
    """
    with _ports_lock:
        for _ in range(500):
            port = 10000 + int.from_bytes(os.urandom(3), "big") % 20000
            if port in _ports_given:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind((address, port))
                except OSError:
                    continue
            _ports_given.add(port)
            return port
    raise LabError("no free TCP port between 10000 and 30000")
