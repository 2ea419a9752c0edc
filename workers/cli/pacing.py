"""Working through many letters: at most so many a second, with a bar on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from workers.cli import output

T = TypeVar("T")


def paced(items: Iterator[T], per_second: int | None, most: int) -> Iterator[list[T]]:
    """Give the items in batches of `most`, no faster than `per_second`; batches are smaller where that is slow."""
    size = most if per_second is None else min(most, per_second)
    started, given = time.monotonic(), 0
    while batch := list(islice(items, size)):
        if per_second is not None:
            time.sleep(max(0.0, started + given / per_second - time.monotonic()))
        given += len(batch)
        yield batch


@contextmanager
def progress(what: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show how far it is; what is yielded counts so many more.

    Args:
        what: the word before the bar.
        total: how many there may be.
        shown: False for none at all; beside that there is one only on a terminal.
    """
    if not shown or not output.is_terminal():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415  # 40 ms for the others

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=output.rich_console(), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
