"""The reader: what any output of certbot, its debug log, nginx, or a server's renewal state means.

`read_text` reads what a person or a program saw, `read_run` a run of ours, `read_stream` a text of any length. All are
pure, never raise, and never take a text for success when the exit code says otherwise.
"""

from collections.abc import Iterable

from workers.core.model import RunOutput
from workers.core.reading.lines import clean
from workers.core.reading.report import certainty, report
from workers.core.reading.stream import window, window_of
from workers.core.reading.values import Evidence, Finding, Reading, Stage

__all__ = ["Evidence", "Finding", "Reading", "Stage", "read_run", "read_stream", "read_text"]


def read_text(text: str, *, exit_code: int | None = None) -> Reading:
    """Read a text of any kind: console output, debug log, nginx configuration or error lines, timers, crontab.

    Args:
        text: the text. Of very long ones the middle is only searched for signs of failure (`stream`).
        exit_code: certbot's, where known. With one that is not 0 the answer is never "nothing failed".
    """
    return report(clean(window(text)), exit_code)


def read_stream(lines: Iterable[str], *, exit_code: int | None = None) -> Reading:
    """Read a text line by line, in bounded memory; the same answer as `read_text` for one that fits."""
    return report(clean(window_of(lines)), exit_code)


def read_run(output: RunOutput) -> Reading:
    """Read a run of ours: the part of the debug log that it wrote, and its console where the log says less.

    Says that nothing failed only with exit code 0: a run without one was killed, or its server rebooted.
    """
    console = f"{output.stdout.rstrip()}\n{output.stderr}"
    readings = [
        report(clean(window(text)), output.exit_code, one_run=True, ours=True)
        for text in (output.debug_log, console)
        if text.strip()
    ]
    if not readings:
        return report(clean(()), output.exit_code, one_run=True, ours=True)
    return max(readings, key=certainty)
