"""Looking at a private key file before any server is asked: can it be used, and is it private?"""

import stat
from dataclasses import dataclass
from pathlib import Path

import paramiko

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What is known of a private key file; never its content.

    Attributes:
        path: the file.
        fingerprint: of its public key, as `ssh-keygen -l` prints it; empty where it cannot be used.
        problem: why it cannot be used; empty where it can.
        mode: its permission bits; 0 where it could not be looked at.
    """

    path: Path
    fingerprint: str
    problem: str
    mode: int

    @property
    def is_private(self) -> bool:
        """Whether nobody but its owner may read or write it (OpenSSH refuses any other)."""
        return not self.mode & _OTHERS


def examine_key(path: Path) -> KeyFile:
    """Read the file and forget the key."""
    mode = 0
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = paramiko.PKey.from_path(path)
    except OSError as error:
        return KeyFile(path, "", error.strerror or "it cannot be read", mode)
    except (paramiko.PasswordRequiredException, TypeError):  # cryptography's word for it is a TypeError
        return KeyFile(path, "", "it needs a passphrase", mode)
    except Exception:  # noqa: BLE001  # the parsers below raise ValueError, TypeError, UnsupportedAlgorithm and more
        return KeyFile(path, "", "it is no private key that SSH can use without a passphrase", mode)
    return KeyFile(path, f"{key.get_name()} {key.fingerprint}", "", mode)
