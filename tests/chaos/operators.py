"""What people do meanwhile: cancel, pause and resume, replay dead letters; now and then they lose patience half-way."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from tests.support.installation import CERTPILOT

_LONGEST_SECONDS = 40.0


@dataclass
class Operators:
    """One person after the other at the command line; nothing stays paused when `run` returns.

    Attributes:
        done: how often each thing was done.
        complaints: commands that ended as they never should.
    """

    environment: Mapping[str, str]
    database_url: str
    hosts: Sequence[str]
    seed: int
    say: Callable[[str], None]
    gap_seconds: float
    done: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def run(self, give_up: threading.Event) -> None:
        """Until `give_up` is set; commands go straight to the database and the broker, which may be away."""
        dice = random.Random(f"{self.seed} operators")
        try:
            while not give_up.wait(dice.expovariate(1 / self.gap_seconds)):
                (act,) = dice.choices((self._cancel, self._pause, self._replay, self._look), (4, 2, 3, 1))
                act(dice, give_up)
        finally:
            self._resume()

    def _cancel(self, dice: random.Random, _: threading.Event) -> None:
        jobs = self._rows(
            "select id::text from job where finished_at is null and kind <> 'cleanup' order by id"
        )
        if jobs:
            self._certpilot("jobs", "cancel", dice.choice(jobs), "--by", "chaos", dice=dice)

    def _pause(self, dice: random.Random, give_up: threading.Event) -> None:
        where = [] if dice.random() < 0.3 else ["--server", dice.choice(self.hosts)]
        self._certpilot("pause", *where, "--by", "chaos", dice=dice)
        give_up.wait(dice.uniform(0.5, 6))
        self._resume()

    def _resume(self) -> None:
        """Whatever became of the command before: nothing may stay paused."""
        deadline = time.monotonic() + 120
        while scopes := self._rows("select scope from pause"):
            where = [] if scopes[0] == "*" else ["--server", scopes[0]]
            self._certpilot("resume", *where, "--by", "chaos")
            assert time.monotonic() < deadline, "it cannot be resumed"

    def _replay(self, dice: random.Random, _: threading.Event) -> None:
        queue = dice.choice(("ssl.commands", "ssl.jobs"))
        self._certpilot("dlq", "replay", "--queue", queue, "--all", "--by", "chaos", dice=dice)

    def _look(self, dice: random.Random, _: threading.Event) -> None:
        self._certpilot(*dice.choice((("dlq", "list"), ("jobs", "list"))), dice=dice)

    def _certpilot(self, *words: str, dice: random.Random | None = None) -> None:
        """Run it; with dice every fourth is killed or interrupted somewhere on its way."""
        process = subprocess.Popen(
            [CERTPILOT, *words], env=dict(self.environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        ending = ""
        if dice is not None and dice.random() < 0.25:
            time.sleep(dice.uniform(0.2, 2))
            number = dice.choice((signal.SIGKILL, signal.SIGINT))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            ending = f" {number.name}"
        try:
            _, said = process.communicate(timeout=_LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.complaints.append(f"certpilot {' '.join(words)} took more than {_LONGEST_SECONDS:g} s")
            return
        self.done[" ".join(words[:2]) if words[0] in {"dlq", "jobs"} else words[0]] += 1
        self.say(f"certpilot {' '.join(words)}{ending}: {process.returncode}")
        if b"Traceback" in said and not ending:
            self.complaints.append(f"certpilot {' '.join(words)}: {said.decode()[-2000:]}")

    def _rows(self, query: str) -> list[str]:
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as conn:
                    return [str(row[0]) for row in conn.execute(query).fetchall()]  # type: ignore[arg-type]
            except psycopg.Error:
                assert time.monotonic() < deadline, "the database does not come back"
                time.sleep(0.3)
