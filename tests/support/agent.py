"""Runs the agent script as the server would, with a home, a PATH and a certbot of the test's own."""

import json
import os
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "workers" / "edges" / "server" / "certpilot-agent.sh"
STANDIN = Path(__file__).with_name("standin_certbot.py")
WORDS = (
    "action=run",
    "auth=nginx",
    "redirect=yes",
    "server=https://ca.test/dir",
    "name=a.test",
    "domain=a.test",
)
"""What `start` needs at least."""


def wait_for(condition: Callable[[], Any], what: str, timeout_seconds: float = 20) -> Any:
    """The first true value of the condition; at the deadline the test fails and says what it waited for."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.02)
    return value


@dataclass(frozen=True, slots=True)
class Answer:
    """What the script printed, and how it ended."""

    text: str
    exit_code: int
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def result(self) -> str:
        """The last line's word; an answer without it was cut."""
        last = self.lines[-1] if self.lines else ""
        assert last.startswith("result="), (self.text, self.stderr)
        return last.removeprefix("result=")

    def values(self, key: str) -> list[str]:
        return [line.removeprefix(key + "=") for line in self.lines if line.startswith(key + "=")]

    def __getitem__(self, key: str) -> str | None:
        found = self.values(key)
        assert len(found) <= 1, self.text
        return found[0] if found else None

    def section(self, name: str) -> str | None:
        lines = self.lines
        if f"begin {name}" not in lines:
            return None
        inside = lines[lines.index(f"begin {name}") + 1 : lines.index(f"end {name}")]
        assert all(line.startswith("|") for line in inside)
        return "\n".join(line[1:] for line in inside)

    def decoded(self, name: str) -> bytes:
        return b64decode(self.section(name) or "")


class Agent:
    """A server's home of the agent, below one folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.jobs = self.home / "jobs"
        self.log = folder / "standin.log"
        self.letsencrypt = folder / "letsencrypt"
        self.logs = folder / "logs"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "certbot").symlink_to(STANDIN)
        self.env = {
            "PATH": f"{self.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "CERTPILOT_HOME": str(self.home),
            "CERTPILOT_LETSENCRYPT": str(self.letsencrypt),
            "CERTPILOT_LOGS": str(self.logs),
            "STANDIN_LOG": str(self.log),
        }

    def command(self, *words: object) -> list[str]:
        return ["sh", str(SCRIPT), *map(str, words)]

    def environment(self, **standin: object) -> dict[str, str]:
        return self.env | {f"STANDIN_{key.upper()}": str(value) for key, value in standin.items()}

    def run(self, *words: object, **standin: object) -> Answer:
        done = subprocess.run(
            self.command(*words),
            env=self.environment(**standin),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Answer(done.stdout.decode("latin-1"), done.returncode, done.stderr.decode("latin-1"))

    def begin(self, *words: object, **standin: object) -> "subprocess.Popen[str]":
        """The same, without waiting for the answer."""
        return subprocess.Popen(
            self.command(*words),
            env=self.environment(**standin),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self, fence: int, job: str = "j", attempt: int = 1, **standin: object) -> Answer:
        return self.run("start", fence, job, attempt, *WORDS, **standin)

    def wait_over(self, fence: int, job: str = "j", attempt: int = 1) -> Answer:
        """LOOK until the attempt's run is over."""

        def over() -> Answer | None:
            answer = self.run("look", fence, job, attempt)
            return None if answer["run"] == "ALIVE" else answer

        found = wait_for(over, f"run {job}.{attempt} is over")
        assert isinstance(found, Answer)
        return found

    def wait_pid(self, job: str = "j", attempt: int = 1) -> int:
        """The certbot of the attempt, once it has said `start`."""
        wait_for(lambda: self.starts() > 0, "certbot started")
        return int((self.jobs / f"{job}.{attempt}" / "pid").read_text())

    def log_lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def starts(self) -> int:
        return sum(line.startswith("start") for line in self.log_lines())

    def argv(self) -> list[str]:
        """The arguments of the last certbot that started."""
        wait_for(lambda: self.starts() > 0, "certbot started")
        arguments = json.loads([line for line in self.log_lines() if line.startswith("start")][-1][6:])
        assert isinstance(arguments, list)
        return arguments

    def stub(self, name: str, body: str) -> None:
        """Put a shell script before the system's program of that name."""
        path = self.bin / name
        path.write_text("#!/bin/sh\n" + body)
        path.chmod(0o755)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
