"""`python -m tests.soak [--lifetime-seconds S] [--lifetimes N]`: certificates of minutes, through many of their lifetimes."""

import argparse
import sys
import tempfile
from pathlib import Path

from db import migrate as migrations
from db.pool import connect
from deploy.lab.lab import Lab
from tests.soak.soak import SERVERS, Soak
from tests.support.installation import installed


def say(text: str) -> None:
    """Print at once: a soak of half an hour is watched through a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--lifetime-seconds", type=int, default=180)
    parser.add_argument("--lifetimes", type=float, default=10.0)
    args = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Lab(servers=SERVERS, validity_seconds=args.lifetime_seconds) as lab,
        ):
            with connect(lab.postgres.create_database("template"), "soak", autocommit=True) as conn:
                migrations.migrate(conn)
            with installed(lab, lab.postgres, lab.rabbit, template="template") as certpilot:
                soak = Soak(
                    lab, certpilot, lifetime_seconds=args.lifetime_seconds, lifetimes=args.lifetimes, say=say
                )
                report = soak.run(Path(folder) / "roles.log")
    except KeyboardInterrupt:
        say("interrupted; everything is stopped and removed")
        return 130
    say(report.as_text())
    return 1 if report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
