"""certpilot's roles as processes, kept running as a service manager keeps them."""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.installation import CERTPILOT

RESTART_SECONDS = 0.5
STOP_SECONDS = 35.0
"""What a service manager grants between SIGTERM and SIGKILL; the roles' own limit is 25 s."""


@dataclass
class Role:
    """One process of a role; another one after its end."""

    name: str
    environment: Mapping[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    stopped: bool = False
    terminated_at: float | None = None
    restart_at: float = 0.0

    @property
    def role(self) -> str:
        return self.name.partition("-")[0]

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [CERTPILOT, "run", self.role],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the driver, which ends them itself
            )
        self.stopped, self.terminated_at = False, None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; whether there was somebody to take it."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.process.send_signal(number)
        self.stopped = number is signal.SIGSTOP or (self.stopped and number is not signal.SIGCONT)
        return True


@dataclass
class Fleet:
    """All of them, with a thread that starts anew what has ended."""

    roles: Sequence[Role]
    complaints: list[str] = field(default_factory=list)
    starts: int = 0
    _ending: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._keep, name="fleet")
        for role in self.roles:
            role.start()
            self.starts += 1
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop in good order where that works, whatever happens."""
        self._ending.set()
        self._thread.join()
        for role in self.roles:
            role.signal(signal.SIGCONT)
            role.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for role in self.roles:
            if role.process is None:
                continue
            try:
                role.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.complaints.append(f"B.4: {role.name} did not stop within {STOP_SECONDS:g} s of SIGTERM")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    role.process.kill()
                role.process.wait()

    def terminate(self, role: Role) -> bool:
        """Stop one in good order; the keeper starts it anew."""
        with self._lock:
            if role.stopped or not role.signal(signal.SIGTERM):
                return False
            role.terminated_at = time.monotonic()
            return True

    def _keep(self) -> None:
        while not self._ending.wait(0.1):
            now = time.monotonic()
            for role in self.roles:
                with self._lock:
                    self._keep_one(role, now)

    def _keep_one(self, role: Role, now: float) -> None:
        assert role.process is not None
        code = role.process.poll()
        if code is None:
            if role.terminated_at is not None and now - role.terminated_at > STOP_SECONDS:
                self.complaints.append(f"B.4: {role.name} did not stop within {STOP_SECONDS:g} s of SIGTERM")
                role.process.kill()
            return
        if not role.restart_at:
            role.restart_at = now + RESTART_SECONDS
            # -SIGTERM: it was told to stop before Python had come as far as to listen.
            early = code == -signal.SIGTERM and role.terminated_at is not None
            if code not in (0, -signal.SIGKILL) and not early:
                self.complaints.append(f"{role.name} ended by itself with {code}: {role.log}")
        elif now >= role.restart_at:
            role.restart_at = 0.0
            role.start()
            self.starts += 1
