"""`python -m tests.chaos [--seed N] [--minutes M] [--runs R]`: random faults under load, for minutes or for hours.

Ends with 0 when every run was clean. Each run prints its seed; the same seed gives the same commands and the same
faults in the same order, though never at the same instants.
"""

import argparse
import random
import sys

from tests.chaos.drive import Plan, run
from tests.support.invariants import as_text


def say(text: str) -> None:
    """Print at once: a run of hours is watched through a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=5.0, help="of load and faults in each run")
    parser.add_argument("--runs", type=int, default=1, help="with seeds from --seed on")
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--sites", type=int, default=60)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--cluster", action="store_true", help="RabbitMQ as three nodes")
    args = parser.parse_args()
    unclean = 0
    try:
        for seed in range(args.seed, args.seed + args.runs):
            say(f"== seed {seed}")
            plan = Plan(
                seed, args.minutes * 60, args.commands, args.sites, args.servers, cluster=args.cluster
            )
            result = run(plan, say=say)
            say(as_text(result.figures))
            for complaint in result.complaints:
                say(f"  {complaint}")
            say(f"== seed {seed}: {'clean' if not result.complaints else 'NOT CLEAN'}")
            unclean += bool(result.complaints)
    except KeyboardInterrupt:
        say("interrupted; everything is stopped and removed")
        return 130
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())
