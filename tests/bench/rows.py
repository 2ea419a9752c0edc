"""What a measurement gives back."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        measure: what was measured, against what.
        figure: what came out, with its unit.
        aim: what it should be.
        met: whether it is; None where there is no aim.
    """

    measure: str
    figure: str
    aim: str
    met: bool | None


def median(values: Sequence[float]) -> float:
    """The median of what was measured."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def alternate(times: int, *works: Callable[[], float]) -> list[list[float]]:
    """Do the works in turn, so that what else the machine does meets all alike; what each gave, in its order.

    Every second round goes backwards.
    """
    results: list[list[float]] = [[] for _ in works]
    for turn in range(times):
        order = range(len(works)) if turn % 2 == 0 else reversed(range(len(works)))
        for index in order:
            results[index].append(works[index]())
    return results
