"""The `certpilot` command as people and scripts start it: a process of its own, in a pipe or on a terminal."""

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

from db import jobs, sites
from db.activity import ActivityEvent
from db.jobs import NewJob
from db.pool import Connection, real_now
from workers.cli.main import main
from workers.core.model import JobId, JobKind, Server, SslStatus

SECONDS = 60
# Commands that set no logging up: they leave nothing behind in the process.
_IN_PROCESS = frozenset({"status", "activity", "jobs", "pause", "resume", "forecast"})
SERVER = Server("203.0.113.7", 22, "root", None, ())
HOSTILE = "[/x] [bold]\x1b[2J\x1b]0;owned\x07 line\nbreak \u202eesrever \u2028"
"""Markup of rich that raises, escape sequences, a line break, a bidirectional override."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Cli:
    """`certpilot` with an environment of its own."""

    def __init__(self, **environment: str) -> None:
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "LOGNAME": "tester",
            **environment,
        }

    def __call__(self, *args: str, **environment: str) -> Done:
        """Run to the end, in this process where that makes no difference: an interpreter's start is most of the time."""
        if args[0] in _IN_PROCESS and not any(name.startswith(("LC_", "PYTHON")) for name in environment):
            return self._here(args, self.env | environment)
        return self.process(*args, **environment)

    def process(self, *args: str, **environment: str) -> Done:
        """Run to the end in a process of its own, both streams in pipes."""
        done = subprocess.run(
            self.argv(*args), env=self.env | environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    @staticmethod
    def _here(args: tuple[str, ...], environment: dict[str, str]) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = main(args)
            except SystemExit as ended:  # argparse
                code = int(str(ended.code))
            finally:
                logging.disable(logging.NOTSET)
        return Done(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def start(self, *args: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Begin, with both streams in pipes."""
        return subprocess.Popen(
            self.argv(*args), env=self.env | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    @contextlib.contextmanager
    def terminal(self, *args: str, columns: int = 80, **environment: str) -> "Iterator[Terminal]":
        """Begin on a terminal of that width."""
        near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            self.argv(*args), env=self.env | {"TERM": "xterm-256color"} | environment, stdin=far, stdout=far,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        os.close(far)
        try:
            yield Terminal(process, near)
        finally:
            process.kill()
            process.communicate()
            os.close(near)

    def on_terminal(self, *args: str, columns: int = 80, **environment: str) -> Done:
        """Run to the end on a terminal; `out` is what it wrote, with its escape sequences."""
        with self.terminal(*args, columns=columns, **environment) as terminal:
            return terminal.finish()

    @staticmethod
    def argv(*args: str) -> list[str]:
        return [sys.executable, "-m", "workers.cli.main", *args]


class Terminal:
    """The other side of a terminal that a command runs on."""

    def __init__(self, process: "subprocess.Popen[bytes]", fd: int) -> None:
        self.process = process
        self._fd = fd
        self._seen = b""

    @property
    def raw(self) -> str:
        return self._seen.decode(errors="replace")

    def read_until(self, word: str) -> str:
        """Everything that was written, as soon as it holds the word."""
        deadline = time.monotonic() + SECONDS
        while word not in self.raw:
            assert time.monotonic() < deadline, f"{word!r} did not come: {self.raw!r}"
            assert self._read(), f"{word!r} did not come: {self.raw!r}"
        return self.raw

    def finish(self) -> Done:
        deadline = time.monotonic() + SECONDS
        while self._read():
            assert time.monotonic() < deadline, self.raw
        _, err = self.process.communicate(timeout=SECONDS)
        return Done(self.process.returncode, self.raw, err.decode())

    def _read(self) -> bool:
        """Take what is there; False at the end."""
        if not select.select([self._fd], [], [], 1.0)[0]:
            return True
        try:
            chunk = os.read(self._fd, 65536)
        except OSError:  # Linux says EIO once the other side is closed
            return False
        self._seen += chunk
        return bool(chunk)


def without_ansi(text: str) -> list[str]:
    """What a person sees, line by line, without colours."""
    return [line.rstrip() for line in _ANSI.sub("", text).replace("\r\n", "\n").split("\n")]


def add_job(
    conn: Connection,
    site_id: str,
    *,
    domain: str = "shop.example.com",
    aliases: tuple[str, ...] = (),
    server: Server = SERVER,
    command_id: str | None = "command-1",
) -> JobId:
    """A site with a queued job, as intake makes it, without its events."""
    job_id = JobId(str(uuid4()))
    with conn.transaction():
        sites.ensure(conn, site_id)
        names = (domain, *aliases)
        new = NewJob(job_id, site_id, JobKind.ISSUE, names, server, False, command_id, "/sites", "user_42")
        jobs.insert(conn, new, 60.0)
        sites.set_request(
            conn, site_id, domain=domain, aliases=aliases, server=server, job_id=job_id, status=SslStatus.PENDING
        )  # fmt: skip
    return job_id


def feed_event(conn: Connection, title: str, *, site: str | None = "site_1", **fields: Any) -> ActivityEvent:
    """A row for the feed; `fields` replace parts of it."""
    values: dict[str, Any] = {
        "event_id": str(uuid4()),
        "event_type": "com.cloudaipilot.ssl.job.progress.v1",
        "site_id": site,
        "domain": "shop.example.com",
        "ssl_status": None,
        "title": title,
        "error_code": None,
        "detail": {"step": "queued"},
        "occurred_at": real_now(conn),
        "sequence": 1,
    }
    return ActivityEvent(**(values | fields))


def outbox_events(conn: Connection) -> list[dict[str, Any]]:
    """Every event that waits for the relay, in order."""
    rows = conn.execute("select body from outbox where lane = 'event' order by seq").fetchall()
    return [json.loads(row[0]) for row in rows]


def offered_jobs(conn: Connection) -> list[str]:
    """Message ids (`JOB.EPOCH`) of the jobs that were offered, in order."""
    rows = conn.execute("select message_id from outbox where lane = 'job' order by seq").fetchall()
    return [row[0] for row in rows]


def owner_only(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path
