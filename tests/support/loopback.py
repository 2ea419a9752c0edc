"""A real sshd on a free loopback port with keys of its own, and a proxy that cuts or freezes a connection."""

import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from deploy.lab.machine import free_port
from tests.support.agent import wait_for
from workers.core.model import Server

KEY_TYPES = ("ed25519", "ecdsa", "rsa")


def make_key(path: Path, kind: str = "ed25519") -> str:
    """A key pair without passphrase; gives `TYPE BASE64` of its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


class LoopbackSshd:
    """sshd with its own configuration, host keys of three types and one key that may log in as root."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str], extra: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.host_keys = {kind: make_key(folder / f"host_{kind}", kind) for kind in KEY_TYPES}
        self.user_key = folder / "user_key"
        (folder / "authorized_keys").write_text(make_key(self.user_key) + "\n")
        self.log = folder / "sshd.log"
        self._config = folder / "sshd_config"
        # A home without files: what this machine's root has in its shell's start-up files is no part of a test.
        variables = " ".join(f'"{name}={value}"' for name, value in {"HOME": folder, **environment}.items())
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            *(f"HostKey {folder}/host_{kind}" for kind in KEY_TYPES),
            f"AuthorizedKeysFile {folder}/authorized_keys",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "PidFile none",
            "LogLevel VERBOSE",
            f"SetEnv {variables}",
            extra,
        ]
        self._config.write_text("\n".join(lines) + "\n")
        # On by default since OpenSSH 9.8: a test that offers wrong keys would lock out the tests behind it.
        if self._accepts("-o", "PerSourcePenalties=no"):
            self._config.write_text(self._config.read_text() + "PerSourcePenalties no\n")
        self._process: subprocess.Popen[bytes] | None = None

    def _accepts(self, *options: str) -> bool:
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # its privilege separation directory, which a service makes
        tried = subprocess.run(
            ["/usr/sbin/sshd", "-t", "-f", self._config, *options], capture_output=True, check=False
        )
        return tried.returncode == 0

    def server(self, **fields: object) -> Server:
        values = {"host": "127.0.0.1", "port": self.port, "host_key": self.host_keys["ed25519"]} | fields
        return Server(**values)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        assert self._accepts(), f"sshd refuses {self._config}"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", self._config], stderr=log, env={}
            )
        wait_for(lambda: b"Server listening" in self.log.read_bytes(), "sshd listens")
        return self

    def sessions(self) -> list[int]:
        """Processes of sshd that serve a connection."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._process.kill()
        self._process.wait()


class Proxy:
    """Forwards one loopback port to another until told to cut (RST) or to freeze (nothing passes, nothing closes)."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._frozen = threading.Event()
        self._still = threading.Event()
        self._closed = threading.Event()
        self.connections = 0
        self.hang_up_on = 0
        """How many connections are closed at once, before one is forwarded."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def freeze(self) -> None:
        """On return nothing is forwarded any more."""
        self._frozen.set()
        assert self._still.wait(10)

    def cut(self) -> None:
        for pair in self._pairs:
            for end in pair:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
        self._pairs.clear()

    def _serve(self) -> None:
        while not self._closed.is_set():
            ends = [] if self._frozen.is_set() else [end for pair in self._pairs for end in pair]
            if not ends and self._frozen.is_set():
                self._still.set()
            with contextlib.suppress(OSError, ValueError, StopIteration):  # cut in the midst
                for ready in select.select([self._listener, *ends], [], [], 0.05)[0]:
                    self._accept() if ready is self._listener else self._forward(ready)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        self.connections += 1
        if self.connections <= self.hang_up_on:
            near.close()
            return
        self._pairs.append((near, socket.create_connection(("127.0.0.1", self._to_port))))

    def _forward(self, end: socket.socket) -> None:
        pair = next(pair for pair in self._pairs if end in pair)
        data = end.recv(65536)
        if data:
            pair[end is pair[0]].sendall(data)
        else:
            self._pairs.remove(pair)
            for side in pair:
                side.close()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self.cut()
        self._listener.close()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose SYN packets are dropped: the queue of a listener that accepts nobody is full."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(3):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
