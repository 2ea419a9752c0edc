"""The `certpilot` command: which subcommand, and what its exit code means (0 done, 1 failed, 2 usage).

Only the module of the subcommand in use is imported: `certpilot --help` takes no longer than Python's own start.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, Protocol, cast

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class CommandModule(Protocol):
    """What a module of `workers.cli` offers for each of its subcommands."""

    def add_arguments(self, command: str, parser: argparse.ArgumentParser) -> None:
        """Add the subcommand's options."""

    def run(self, command: str, args: argparse.Namespace) -> int:
        """Do it; the exit code."""


class _Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "migrate": _Command("database", "bring the database to this version"),
    "run": _Command("roles", "run a role: intake, runner, relay, activity, scheduler or all"),
    "issue": _Command("publish", "publish IssueSSL, as any producer does"),
    "renew": _Command("publish", "publish RenewSSL, as any producer does"),
    "remove": _Command("publish", "publish RemoveSSL, as any producer does"),
    "status": _Command("sites", "what each site has, and what is being done about it"),
    "activity": _Command("sites", "the activity feed"),
    "jobs": _Command("jobs", "list, show or cancel jobs"),
    "dlq": _Command("dlq", "list, show, replay or discard dead letters"),
    "pause": _Command("pause", "stop starting work, everywhere or for one server"),
    "resume": _Command("pause", "start work again"),
    "server": _Command(
        "server", "check what a server needs to issue and renew, or adopt what certbot has there"
    ),
    "forecast": _Command("forecast", "show expiries and renewals to come, against the CA's limits"),
    "diagnose": _Command("diagnose", "say what a certbot output, nginx configuration or timer state means"),
    "doctor": _Command("doctor", "check broker, database, migrations, topology and clock"),
    "config": _Command("config", "list every setting and its value"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="certpilot", description="HTTPS certificates for sites on many servers."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.help, description=f"{command.help[0].upper()}{command.help[1:]}."
        )
        if name == chosen:
            _module(name).add_arguments(name, subparser)
    args = parser.parse_args(words)
    return _run(args.command, args)


def _module(command: str) -> CommandModule:
    return cast("CommandModule", import_module(f"workers.cli.{COMMANDS[command].module}"))


def _run(command: str, args: argparse.Namespace) -> int:
    from workers.settings import SettingsError  # noqa: PLC0415  # pydantic costs 100 ms, --help needs none of it

    try:
        code = _module(command).run(command, args)
        sys.stdout.flush()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, and Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
