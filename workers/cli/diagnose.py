"""`certpilot diagnose`: what does this certbot output, debug log, nginx configuration or timer state mean?

Needs no broker, no database and no settings. Exit codes: 0 the text was read, whatever it says; 2 usage, or the file
cannot be read.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO

from contracts.catalogue import CATALOGUE
from contracts.codes import Code, Mender, Retry
from workers.cli.main import DONE, USAGE
from workers.core.reading import Finding, Reading, read_stream

LONGEST_LINE = 1_000_000
"""Bytes; ansible puts a whole run into one line, and far fewer are kept of it."""

_WHO = {
    Mender.REQUESTER: "whoever sent the request",
    Mender.OWNER: "the owner of the site",
    Mender.TIME: "nobody: time mends it",
    Mender.SERVER_ADMIN: "the server's admin",
    Mender.OPERATOR: "the operator of certpilot",
    Mender.NOBODY: "nobody can",
}
_WHEN = {
    Retry.OWNER_FIX: "it goes on by itself once that is mended",
    Retry.WAIT_UNTIL: "wait",
    Retry.SOON: "try again soon",
    Retry.NEVER: "trying again changes nothing",
    Retry.SERVER_ADMIN: "then it is tried again",
}


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Add the file, certbot's exit code and the output form."""
    del command
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="the text; - or none: standard input"
    )
    parser.add_argument(
        "--exit-code", type=int, metavar="N", help="what certbot exited with, if known: a text alone can lie"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(command: str, args: argparse.Namespace) -> int:
    """Read the text and say what it means."""
    del command
    try:
        with _opened(args.file) as text:
            reading = read_stream(text, exit_code=args.exit_code)
    except OSError as error:
        print(f"{args.file}: {error.strerror or error}", file=sys.stderr)
        return USAGE
    if args.json:
        print(json.dumps(_as_json(reading)))
    else:
        _print_for_people(reading)
    return DONE


@contextmanager
def _opened(name: str) -> Iterator[Iterator[str]]:
    """Open the text as UTF-8, whatever the locale: logs hold other bytes too, and none may stop the reading."""
    if name == "-":
        yield _bounded_lines(sys.stdin.buffer)
        return
    with open(name, "rb") as opened:  # noqa: PTH123  # may be a pipe or /dev/fd/N
        yield _bounded_lines(opened)


def _bounded_lines(stream: BinaryIO) -> Iterator[str]:
    """Read line by line; a line longer than `LONGEST_LINE` comes in pieces, so that no input fills memory."""
    while line := stream.readline(LONGEST_LINE):
        yield line.decode("utf-8", errors="replace")


def _as_json(reading: Reading) -> dict[str, Any]:
    """The main finding under the contract's keys (DESIGN A.7), every finding under `findings`."""
    return {**_finding_json(reading.main), "findings": [_finding_json(one) for one in reading.findings]}


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "names": list(finding.names),
        "retry": finding.retry,
        "retryAt": _utc(finding.retry_at) if finding.retry_at else None,
        "message": finding.message,
        "fix": finding.fix,
        "evidence": [line.text for line in finding.evidence],
        "evidenceLines": [line.line_number for line in finding.evidence],
        "ruledOut": list(finding.ruled_out),
        "mender": mender(finding),
        "step": finding.step,
    }


def _utc(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def mender(finding: Finding) -> Mender | None:
    """Say whose a finding is to mend: the catalogue's, unless what was found belongs to somebody else."""
    if finding.code is None:
        return None
    usual = CATALOGUE[finding.code].mender
    if finding.retry is Retry.SOON:
        return Mender.TIME
    if finding.retry is Retry.SERVER_ADMIN and usual in {Mender.OWNER, Mender.REQUESTER}:
        return Mender.SERVER_ADMIN
    return usual


def _print_for_people(reading: Reading) -> None:
    from rich.console import Console  # noqa: PLC0415  # 60 ms that --json does not need

    # No markup and no emoji codes: a CA's text holds brackets and colons of its own. rich's width is not wanted either.
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True, legacy_windows=False)
    with (
        console.capture() as captured
    ):  # rich itself ends the program with 1 where a reader goes away (`| head`)
        for place, finding in enumerate(reading.findings):
            if place:
                console.print()
            for text, style in _lines(finding):
                console.print(_printable(text), style=style)
    print(captured.get(), end="")


def _lines(finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.code is None:
        yield "Nothing failed.", "bold green"
    else:
        yield f"{finding.message}  ({finding.code})", "bold red"
        yield f"Whose it is: {_whose(finding)}.", ""
        yield f"What to do:  {finding.fix}", ""
    if finding.evidence:
        yield "What shows it:", ""
    for line in finding.evidence:
        yield f"  {line.line_number}: {line.text}", "dim"
    if finding.ruled_out:
        yield "Ruled out:", ""
    for sentence in finding.ruled_out:
        yield f"  {sentence}", "dim"


def _whose(finding: Finding) -> str:
    who = mender(finding)
    whose = _WHO[who] if who else ""
    if finding.retry_at:
        return f"{whose}, not before {finding.retry_at:%Y-%m-%d %H:%M:%S} UTC"
    if finding.code is Code.TOO_MANY_REQUESTS:
        return f"{whose}, but the text does not say when"
    return f"{whose}; {_WHEN[finding.retry]}" if finding.retry else whose


def _printable(text: str) -> str:
    """Keep what this terminal can show: `LC_ALL=C` has no quotation marks of other languages."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, errors="replace").decode(encoding)
