"""One SSH connection to a customer's server: known keys only, and nothing waits without a deadline.

paramiko's own client is not used: it asks for the first known key's type only, and its `exec_command` and
`recv_exit_status` wait without end (FACTS-worker 1.3). Its transport does the protocol; choosing, checking and waiting
is done here and in `ssh_login`.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import paramiko

from contracts.codes import Code
from workers.core.model import Server
from workers.edges.errors import EdgeError, NoAnswerInTimeError
from workers.edges.server.ssh_login import log_in

CONNECT_TIMEOUT_SECONDS = 10.0
LOGIN_TIMEOUT_SECONDS = 20.0
MAX_OUTPUT_BYTES = 16 * 1024 * 1024

# sshd's MaxSessions is 10 for one connection. A session that we closed counts until sshd has cleared it away, so a
# refusal is asked again for a while.
_SESSIONS = 8
_REFUSED_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 0.05
_CHUNK_BYTES = 32_768
_TICK_SECONDS = 0.2
_FEEDING_TICK_SECONDS = 0.01
# After the exit status more output may be under way; a daemon that keeps the stream open must not hold us.
_LINGER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command on the server left.

    Attributes:
        exit_status: its exit status.
        stdout: the first `max_output_bytes` of its standard output.
        stderr: the same of its standard error.
        truncated: whether one of them was longer.
    """

    exit_status: int
    stdout: bytes
    stderr: bytes
    truncated: bool


class SshConnection:
    """An authenticated connection; commands may run on it from several threads at once."""

    def __init__(self, transport: paramiko.Transport, server: Server) -> None:
        """Take over an authenticated transport; `connect` makes one."""
        self._transport = transport
        self._slots = threading.BoundedSemaphore(_SESSIONS)
        self.server = server

    @classmethod
    def connect(
        cls,
        server: Server,
        *,
        key_files: Sequence[Path],
        known_hosts_file: Path | None,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        login_timeout_seconds: float = LOGIN_TIMEOUT_SECONDS,
    ) -> Self:
        """Connect and log in; what may pass within seconds is tried up to three times.

        Args:
            server: the server as the command names it.
            key_files: private keys without passphrase, tried in this order.
            known_hosts_file: the operator's file, used where the command brings no host key.
            connect_timeout_seconds: for each of the host's addresses.
            login_timeout_seconds: for greeting, key exchange and login, each.

        Raises:
            EdgeError: SERVER_UNREACHABLE, SSH_AUTH_FAILED or HOST_KEY_MISMATCH; `sent` is False.
        """
        transport = log_in(
            server,
            key_files=key_files,
            known_hosts_file=known_hosts_file,
            connect_timeout_seconds=connect_timeout_seconds,
            login_timeout_seconds=login_timeout_seconds,
        )
        return cls(transport, server)

    @property
    def alive(self) -> bool:
        """Whether the connection is up, as far as this side knows."""
        return self._transport.is_active()

    def run(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        timeout_seconds: float,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
    ) -> CommandResult:
        """Run one command line in the user's login shell and wait for its end.

        Args:
            command: the line; quote every argument.
            stdin: given to its standard input, which is then closed. None: the input stays open and silent. Give
                bytes only to a command that reads them to the end: paramiko may say "end of input" after it has
                confirmed the channel's close (its two threads race), and sshd then ends the whole connection.
            timeout_seconds: for everything. At its end the command is left to itself: it may go on.
            max_output_bytes: of each stream; the rest is read and dropped, so that the command is not held up.

        Raises:
            EdgeError: SERVER_UNREACHABLE; `sent` tells whether the command may have run.
            NoAnswerInTimeError: of them, where its time ran out while it ran.
        """
        deadline = time.monotonic() + timeout_seconds
        if not self._slots.acquire(timeout=timeout_seconds):
            raise self._lost(f"had {_SESSIONS} commands at work for {timeout_seconds:g} s", sent=False)
        # `exec`, and a write into a dead connection, wait without end inside the library: closing it wakes them.
        watch = threading.Timer(timeout_seconds + _LINGER_SECONDS, self.close)
        watch.daemon = True
        watch.start()
        try:
            exchange = self._exchange(command, stdin, deadline, max_output_bytes)
        finally:
            watch.cancel()
            self._slots.release()
        if exchange.exit_status is None:
            message = self._message(f"gave no answer to a command within {timeout_seconds:.3g} s")
            raise NoAnswerInTimeError(Code.SERVER_UNREACHABLE, message, said=exchange.said)
        if exchange.exit_status < 0:
            how = (
                "gave no exit status: the command was killed"
                if self.alive
                else "was lost while a command ran"
            )
            raise self._lost(how, sent=True)
        return exchange.result(exchange.exit_status)

    def _exchange(self, command: str, stdin: bytes | None, deadline: float, max_bytes: int) -> "_Exchange":
        sent = False
        try:
            channel = self._open_session(deadline)
            if channel is None:
                raise self._lost("takes no further command (MaxSessions)", sent=False)
            try:
                sent = True
                channel.exec_command(command.encode())
                exchange = _Exchange(channel, stdin, max_bytes)
                exchange.run_until(deadline)
                return exchange
            finally:
                with suppress(paramiko.SSHException, OSError, EOFError):
                    channel.close()
        except (paramiko.SSHException, OSError, EOFError):
            when = "while a command ran" if sent else "before a command was sent"
            raise self._lost(f"was lost {when}", sent=sent) from None

    def _open_session(self, deadline: float) -> paramiko.Channel | None:
        """Open a session; None where the server keeps refusing one over a connection that is up."""
        give_up = min(deadline, time.monotonic() + _REFUSED_SECONDS)
        while True:
            try:
                return self._transport.open_session(timeout=max(0.1, deadline - time.monotonic()))
            except (
                paramiko.SSHException
            ):  # the refusal itself goes to whichever thread asks the transport first
                if not self.alive:
                    raise
            if time.monotonic() > give_up:
                return None
            time.sleep(_ASK_AGAIN_SECONDS)

    def _lost(self, what: str, *, sent: bool) -> EdgeError:
        return EdgeError(Code.SERVER_UNREACHABLE, self._message(what), sent=sent)

    def _message(self, what: str) -> str:
        return f"The SSH connection to {self.server.host}:{self.server.port} {what}."

    def close(self) -> None:
        """Close the connection. Commands that wait on it fail with `sent`; what they started on the server goes on."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Exchange:
    """Feeds a command and drains it.

    Attributes:
        exit_status: None until the command has ended and said all; below zero where it gave none.
    """

    def __init__(self, channel: paramiko.Channel, stdin: bytes | None, max_bytes: int) -> None:
        self._channel = channel
        self._pending = memoryview(stdin or b"")
        self._feeding = stdin is not None
        self._max_bytes = max_bytes
        self._out, self._err = bytearray(), bytearray()
        self._truncated = False
        self.exit_status: int | None = None

    def run_until(self, deadline: float) -> None:
        """Return once the command has ended, or at the deadline."""
        heard_at = time.monotonic()
        while (now := time.monotonic()) < deadline:
            self._feed()
            tick = _FEEDING_TICK_SECONDS if self._feeding else _TICK_SECONDS
            chunk = self._read(min(tick, deadline - now))
            if chunk:
                heard_at = now
            ended = self._channel.exit_status_ready()
            if chunk == b"":  # the end of both streams; the status comes beside it
                ended = self._channel.status_event.wait(max(0.0, deadline - now))
            if ended and (chunk == b"" or now - heard_at > _LINGER_SECONDS):
                self.exit_status = self._channel.recv_exit_status()
                return

    def _feed(self) -> None:
        """Send what the other side takes now; after the last byte say that it was the last."""
        if not self._feeding:
            return
        try:
            while self._pending and self._channel.send_ready():
                self._pending = self._pending[self._channel.send(bytes(self._pending[:_CHUNK_BYTES])) :]
            if not self._pending:
                self._channel.shutdown_write()
                self._feeding = False
        except OSError:  # it ended without reading on: what it said is in the buffers still
            self._feeding = False

    def _read(self, wait_seconds: float) -> bytes | None:
        """A piece of standard output, empty at the end, None where none came in time; and all of standard error."""
        self._channel.settimeout(max(0.001, wait_seconds))
        chunk = None
        with suppress(TimeoutError):
            chunk = self._channel.recv(_CHUNK_BYTES)
            self._keep(self._out, chunk)
        while self._channel.recv_stderr_ready():
            self._keep(self._err, self._channel.recv_stderr(_CHUNK_BYTES))
        return chunk

    def _keep(self, kept: bytearray, chunk: bytes) -> None:
        room = self._max_bytes - len(kept)
        self._truncated = self._truncated or len(chunk) > room
        kept += chunk[:room]

    @property
    def said(self) -> bytes:
        """Standard output so far."""
        return bytes(self._out)

    def result(self, exit_status: int) -> CommandResult:
        return CommandResult(exit_status, bytes(self._out), bytes(self._err), self._truncated)
