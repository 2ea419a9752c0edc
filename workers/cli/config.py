"""`certpilot config`."""

import argparse
import json
import os
import sys

from workers import settings
from workers.cli.main import DONE


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the output form."""
    del command
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(command: str, args: argparse.Namespace) -> int:
    """Print name, value and meaning of every setting; passwords in URLs are hidden."""
    del command
    rows = settings.describe(settings.load())
    if args.json:
        print(
            json.dumps([{"name": name, "value": value, "meaning": meaning} for name, value, meaning in rows])
        )
        return DONE
    for name, value, meaning in rows:
        print(f"# {meaning}\n{name}={value}")
    for name in settings.unknown_variables(os.environ):
        print(f"{name}: there is no such setting", file=sys.stderr)
    return DONE
