"""`certpilot doctor`: is everything there that certpilot needs, and as it needs it? One line each, with what to do."""

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

from workers import settings
from workers.cli import output
from workers.cli.arguments import add_json
from workers.cli.checks import Check, Checks, failed, note, ok, show
from workers.cli.doctor_services import check_broker, check_database
from workers.cli.main import DONE, FAILED
from workers.cli.trouble import quiet_logs
from workers.edges.server.key_files import examine_key
from workers.settings import Settings, SettingsError

_OLDEST_PYTHON = (3, 11)
_PACKAGES = ("contracts", "db", "workers")
_DISTRIBUTION = "certpilot"
# A suffix that is missing makes two customers share a limit of the CA; that is worth a note, not an alarm.
_OLDEST_LIST_DAYS = 365
_NAME_WIDTH = 12


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the output form."""
    del command
    add_json(parser, "an array with name, state (ok, note, failed), found, fix and code")


def run(command: str, args: argparse.Namespace) -> int:
    """Check everything and print each result when it is there; 1 where any failed."""
    del command
    return DONE if show(_all_checks(), as_json=args.json, name_width=_NAME_WIDTH) else FAILED


def _all_checks() -> Checks:
    yield from _check_installation()
    try:
        config = settings.load()
    except SettingsError as error:
        for line in str(error).splitlines():
            yield failed("settings", line, "set it right; `certpilot config` lists what is accepted")
        return
    quiet_logs(config)
    yield from _check_settings()
    yield from _check_keys(config)
    yield _check_known_hosts(config)
    yield from check_broker(config)
    yield from check_database(config)


def _check_installation() -> Checks:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= _OLDEST_PYTHON:
        yield ok("python", f"{version} in {sys.prefix}")
    else:
        yield failed("python", f"{version} in {sys.prefix}", "run certpilot with Python 3.11 or later")
    yield _check_packages()
    yield _check_suffix_list()


def _check_packages() -> Check:
    """PyPI has packages called contracts, db and workers: one of them in our place would be imported in silence."""
    folders = {name: Path(import_module(name).__file__ or "").parent for name in _PACKAGES}
    found = ", ".join(map(str, folders.values()))
    providers = metadata.packages_distributions()
    foreign = {
        other for name in _PACKAGES for other in providers.get(name, []) if other.lower() != _DISTRIBUTION
    }
    if foreign:
        return failed(
            "packages", found, f"uninstall {', '.join(sorted(foreign))}: it has a package of the same name"
        )
    if len({folder.parent for folder in folders.values()}) > 1:
        return failed(
            "packages", found, "they come from different places: start certpilot from its own .venv"
        )
    return ok("packages", found)


def _check_suffix_list() -> Check:
    """The version of the package ends in the day of its list."""
    version = metadata.version("publicsuffixlist")
    day = version.rpartition(".")[2]
    try:
        age_days = (output.now() - output.day_from(day)).days
    except ValueError:
        return note("suffix list", f"of unknown date (publicsuffixlist {version})")
    if age_days > _OLDEST_LIST_DAYS:
        return note("suffix list", f"{age_days} days old", "upgrade publicsuffixlist")
    return ok("suffix list", f"Public Suffix List of {output.day_of(output.day_from(day))}")


def _check_settings() -> Checks:
    unknown = settings.unknown_variables(os.environ)
    if unknown:
        # Not a failure: Kubernetes sets CERTPILOT_SERVICE_HOST and the like beside a Service of our name.
        yield note(
            "settings", f"no such setting: {', '.join(unknown)}", "see `certpilot config` for their names"
        )
    else:
        yield ok("settings", "every value is accepted")


def _check_keys(config: Settings) -> Iterator[Check]:
    if not config.ssh_private_key_file:
        yield failed("ssh key", "none is set", "set CERTPILOT_SSH_PRIVATE_KEY_FILE")
    for path in config.ssh_private_key_file:
        key = examine_key(path)
        if key.problem:
            yield failed(
                "ssh key",
                f"{path}: {key.problem}",
                "make one with `ssh-keygen -t ed25519 -N '' -f FILE` and set CERTPILOT_SSH_PRIVATE_KEY_FILE",
            )
        elif not key.is_private:
            yield failed("ssh key", f"{path} has mode {key.mode:04o}: others may use it", f"chmod 600 {path}")
        else:
            yield ok("ssh key", f"{path}, {key.fingerprint}")


def _check_known_hosts(config: Settings) -> Check:
    path = config.ssh_known_hosts_file
    without = "a command without hostKey is then refused with HOST_KEY_MISMATCH"
    if path is None:
        return note("known hosts", f"no file is set; {without}")
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return note("known hosts", f"{path} does not exist; {without}")
    except OSError as error:
        return failed("known hosts", f"{path}: {error.strerror}", "let certpilot's user read it")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return failed(
            "known hosts",
            f"{path} can be written by others, who could name their own server",
            f"chmod 644 {path}",
        )
    keys = sum(1 for line in lines if line.strip() and not line.startswith("#"))
    return ok("known hosts", f"{path}, {keys} {'key' if keys == 1 else 'keys'}")
