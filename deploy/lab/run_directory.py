"""Where a lab keeps its files, and the broom for what a killed one left."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

PREFIX = "certpilot-lab"
SHM = Path("/dev/shm")
ENOUGH_BYTES = 512 * 1024 * 1024


class RunDirectory:
    """A private folder, removed on exit. Its name tells its owner: `certpilot-lab.PID.STARTED.NAMESPACE.RANDOM`.

    It lies in TMPDIR where that is set, else in memory (/dev/shm) where there is room, else in /tmp. Paths stay
    short: a Unix socket's path may have 107 bytes.
    """

    def __init__(self, prefix: str = PREFIX) -> None:
        """Make the folder; what runs of the same prefix whose owner died left behind goes first."""
        base = choose_base()
        sweep(base, prefix)
        name = f"{prefix}.{os.getpid()}.{start_time(os.getpid())}.{_namespace()}."
        self.path = Path(tempfile.mkdtemp(prefix=name, dir=base))
        # Other users' servers (PostgreSQL refuses root) must pass through, not list.
        self.path.chmod(0o711)

    def folder(self, name: str) -> Path:
        """Make a folder below; it may exist."""
        folder = self.path / name
        folder.mkdir(mode=0o755, exist_ok=True)
        return folder

    def remove(self) -> None:
        """Remove the folder with all it holds."""
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def choose_base() -> Path:
    """Give the folder below which run directories are made."""
    if os.environ.get("TMPDIR"):
        return Path(tempfile.gettempdir())
    if os.path.ismount(SHM) and os.access(SHM, os.W_OK):
        room = os.statvfs(SHM)
        if room.f_bavail * room.f_frsize >= ENOUGH_BYTES:
            return SHM
    return Path(tempfile.gettempdir())


def start_time(pid: int) -> int:
    """Give when a process started (clock ticks since boot): a number alone may belong to a later process.

    Raises:
        FileNotFoundError: there is no such process.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19])  # proc(5): field 22, and 1, 2 are before the bracket


def sweep(base: Path, prefix: str = PREFIX) -> list[Path]:
    """Remove the run directories whose owner is dead, and give them. Their processes died with the owner.

    Only of this PID namespace: in a container that shares the folder, the owners of others cannot be seen.
    """
    gone = []
    for folder in base.glob(f"{prefix}.*.*.{_namespace()}.*"):
        pid, started = folder.name.split(".")[1:3]
        try:
            alive = start_time(int(pid)) == int(started)
        except (FileNotFoundError, ProcessLookupError):
            alive = False
        if not alive:
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone


def _namespace() -> int:
    """Give the number of this process's PID namespace."""
    return Path("/proc/self/ns/pid").stat().st_ino
