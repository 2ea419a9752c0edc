"""However a lab ends, nothing of it is left: no process, mount, interface or file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.lab.run_directory import RunDirectory, start_time
from tests.support.waiting import until

PROGRAM = """
import json, sys
from deploy.lab.lab import Lab

with Lab(servers=1, broker="broker" in sys.argv) as lab:
    lab.server.add_site("a.test")
    print(json.dumps({"directory": str(lab.directory), "interface": f"cplab{lab.network._number}"}), flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True)
class Trace:
    """What a running lab can be known by."""

    directory: Path
    interface: str
    processes: dict[int, int]


@contextlib.contextmanager
def started(tmp_path: Path, *parts: str) -> Iterator[tuple["subprocess.Popen[bytes]", Trace]]:
    """Run a lab in a process of its own, and give it with what it left traces of by then."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *parts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield process, Trace(Path(said["directory"]), said["interface"], descendants(process.pid))
        finally:
            process.kill()


def descendants(ancestor: int) -> dict[int, int]:
    """Give every process below one, with its start time, which tells it from a later one with the same number."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    alive = {}
    for pid in found - {ancestor}:
        with contextlib.suppress(OSError):
            alive[pid] = start_time(pid)
    return alive


def still_alive(trace: Trace) -> list[str]:
    alive = []
    for pid, started_at in trace.processes.items():
        with contextlib.suppress(OSError):
            if (
                start_time(pid) == started_at
                and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1][:3]
            ):
                alive.append(Path(f"/proc/{pid}/cmdline").read_text())
    return alive


def assert_nothing_is_left(trace: Trace) -> None:
    assert len(trace.processes) > 10  # sshd, nginx, Pebble, PostgreSQL and their cells
    until(lambda: not still_alive(trace), what=f"end of all processes: {still_alive(trace)}")
    # The kernel takes a network apart after the last process in it has ended.
    until(lambda: not Path(f"/sys/class/net/{trace.interface}").exists(), what="end of the interface")
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            assert str(trace.directory) not in mounts.read_text()


def test_normal_end_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as (process, trace):
        assert Path(f"/sys/class/net/{trace.interface}").exists()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert_nothing_is_left(trace)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path) as (process, trace):
        process.send_signal(number)
        process.wait(30)
    assert_nothing_is_left(trace)
    assert list(tmp_path.iterdir()) == []


def test_kill_leaves_files_only_and_the_next_lab_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path, "broker") as (process, trace):
        process.kill()
        process.wait(30)
    assert_nothing_is_left(trace)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with RunDirectory() as fresh:
        assert list(tmp_path.iterdir()) == [fresh.path]


def test_signal_while_starting_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "broker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=Path(__file__).parents[2],
    ) as process:
        until(lambda: any(tmp_path.glob("*/rabbitmq/node.log")), what="start of RabbitMQ")
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert not still_alive(Trace(tmp_path, "", below))
    assert list(tmp_path.iterdir()) == []


def test_two_labs_at_once_do_not_meet(tmp_path: Path) -> None:
    with started(tmp_path) as (one, first), started(tmp_path) as (two, second):
        assert first.directory != second.directory
        assert first.interface != second.interface
        for process in (one, two):
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert_nothing_is_left(first)
    assert_nothing_is_left(second)
