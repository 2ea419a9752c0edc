"""Process 1 of a cell: prepares the cell's own view of the machine, then waits until its owner is gone.

Run by `deploy.lab.cell` as `unshare … python3 -I -S cell_init.py`, standard library only. Standard input is a pipe
that the owner holds open. Its first line is JSON, `{"hostname": str | null, "root": {…} | null}`: keys and password
files must not show in a list of processes. Its end, for whatever reason, ends this process, and with process 1 the
kernel kills everything else in the PID namespace.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

MS_NOSUID, MS_NODEV, MS_BIND = 0x2, 0x4, 0x1000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """Mount onto a folder, which is made where it is missing, by the system call of that name."""
    target.mkdir(parents=True, exist_ok=True)
    mount_over(source, target, kind, flags, options)


def mount_over(
    source: str, target: Path, kind: str | None, flags: int = 0, options: str | None = None
) -> None:
    """Mount onto something that exists, a file or a folder; raises OSError with the kernel's reason."""
    encoded = [None if text is None else text.encode() for text in (source, str(target), kind, options)]
    if _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]):
        code = ctypes.get_errno()
        raise OSError(code, f"mount {kind or 'bind'} {source}: {os.strerror(code)}", str(target))


def enter_root(spec: dict[str, Any]) -> None:
    """Make an overlay of the machine's root this cell's root, with its own /proc, /sys, /dev, /run and /tmp.

    The machine's own trees stay untouched below; what is written goes to `disk`, a file system of its own. An overlay
    does not show what is mounted below its lower folder, so `trees` names each part of the system that is.
    """
    disk, root = Path(spec["disk"]), Path(spec["disk"]) / "root"
    for number, tree in enumerate(spec["trees"]):
        upper, work = disk / f"upper{number}", disk / f"work{number}"
        for folder in (upper, work):
            folder.mkdir(exist_ok=True)
        if tree == "/" and spec["new_disk"]:
            empty_homes(upper)
        target = root if tree == "/" else root / tree.lstrip("/")
        mount("overlay", target, "overlay", 0, f"lowerdir={tree},upperdir={upper},workdir={work}")
    mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV)
    mount("sysfs", root / "sys", "sysfs", MS_NOSUID | MS_NODEV)
    mount("tmpfs", root / "dev", "tmpfs", MS_NOSUID, "mode=755,size=1m")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (root / "dev" / name).touch()
        mount_over(f"/dev/{name}", root / "dev" / name, None, MS_BIND)
    mount("devpts", root / "dev/pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=620")
    for link, to in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                     ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):  # fmt: skip
        (root / "dev" / link).symlink_to(to)
    for name, mode in (("dev/shm", "1777"), ("run", "755"), ("tmp", "1777"), ("var/tmp", "1777")):
        mount("tmpfs", root / name, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}")
    (root / "run/lock").mkdir(mode=0o1777)
    if spec["new_disk"]:
        forget(root, spec["forget"])
    for name, text in spec["files"].items():
        replace(root / name.lstrip("/"), text)
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True)
    # Both roots are now stacked on one point; the machine's is on top and goes.
    if _libc.umount2(b".", MNT_DETACH):
        raise OSError(ctypes.get_errno(), "umount of the machine's root")
    os.chdir("/")
    new_boot_id()


def empty_homes(upper: Path) -> None:
    """Hide the home folders of the machine, whatever their size.

    Their dotfiles would run with every command over ssh (seen: a version manager in root's .bashrc, 0.3 s each time).
    """
    for name, mode in (("root", 0o700), ("home", 0o755)):
        (upper / name).mkdir(mode)
        os.setxattr(upper / name, "trusted.overlay.opaque", b"y")


def forget(root: Path, names: list[str]) -> None:
    """Hide from the cell what the machine's own owner has in these folders (its sites, its certificates)."""
    for name in names:
        folder = root / name.lstrip("/")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)


def replace(path: Path, text: str) -> None:
    """Write a file in place of whatever stands there, a link to somewhere else included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_text(text)


def new_boot_id() -> None:
    """Show a fresh boot id: the kernel has one for the whole machine, a server that reboots gets a new one."""
    fresh = Path("/run/boot_id")
    fresh.write_text(f"{uuid.uuid4()}\n")
    mount_over(str(fresh), Path("/proc/sys/kernel/random/boot_id"), None, MS_BIND)


def reap(*_: object) -> None:
    """Collect every child that has ended: process 1 inherits all orphans of the cell."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    """Set the cell up, say so, wait for the end of standard input."""
    said = b""
    while not said.endswith(b"\n"):
        said += os.read(0, 65536)
    spec = json.loads(said)
    if spec["hostname"]:
        socket.sethostname(spec["hostname"])
    if spec["root"]:
        enter_root(spec["root"])
    else:
        mount_over("proc", Path("/proc"), "proc", MS_NOSUID | MS_NODEV)
    signal.signal(signal.SIGCHLD, reap)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.close(sys.stdout.fileno())
    while os.read(0, 4096):
        pass


if __name__ == "__main__":
    main()
