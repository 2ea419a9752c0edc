"""`python -m tests.bench [WORD …]`: every module bench_*.py of this folder, or those whose name has one of the words.

Each has a `run() -> list[Row]`, or a `main()` that prints its figures itself and gives 0 where they are as they should
be. What misses its aim is said and is no error; a measurement that breaks down is one.
"""

import importlib
import logging
import sys
import time
from pathlib import Path
from types import ModuleType

import structlog
from rich.console import Console
from rich.table import Table

from tests.bench.rows import Row

_WIDTH = 160


def main(words: list[str]) -> int:
    """Measure and print one table; 1 when a measurement broke down."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    rows: list[Row] = []
    broken = 0
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if words and not any(word in path.stem for word in words):
            continue
        began = time.monotonic()
        console.print(f"{path.stem} …")
        try:
            rows += measure(importlib.import_module(f"tests.bench.{path.stem}"))
        except Exception:  # noqa: BLE001  # the other measurements go on
            console.print_exception()
            broken += 1
        console.print(f"{path.stem}: {time.monotonic() - began:.0f} s")
    console.print(table_of(rows))
    return 1 if broken else 0


def measure(module: ModuleType) -> list[Row]:
    """What the module measures."""
    if hasattr(module, "run"):
        found: list[Row] = module.run()
        return found
    name = module.__name__.rpartition(".bench_")[2]
    return [Row(name, "as printed above", "as printed above", module.main([]) == 0)]


def table_of(rows: list[Row]) -> Table:
    """One line for each measure."""
    table = Table(title="certpilot, measured beside the same work done by hand")
    for column in ("measure", "figure", "aim", "met"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(row.measure, row.figure, row.aim, {True: "yes", False: "NO", None: ""}[row.met])
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
