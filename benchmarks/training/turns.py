"""Times of several sides that take turns within one process, and rows of what they are worth."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Times = dict[str, list[float]]


@dataclass(frozen=True)
class Options:
    """What is measured, and how often.

    Attributes:
        data: real recordings: ``event_digits``, or ``nmnist8`` in the folder ``root``.
        compiled: peers are measured compiled too, up to so many bins; their loops over steps are unrolled, so that
            compiling them takes minutes.
    """

    bins: tuple[int, ...] = (1, 4, 10, 100)
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 9
    batch: int = 32
    data: str = "event_digits"
    root: str | None = None
    start: str | None = None
    overrides: tuple[str, ...] = ()
    compiled: int = 10
    quick: bool = False


def taken(
    sides: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> Times:
    """Seconds of each side, in turn; the first turn warms up and is left out."""
    times: Times = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            began = clock()
            side()
            if turn:
                times[name].append(clock() - began)
    return times


def clock_of(threads: int) -> Callable[[], float]:
    """On one thread the process's own processor time, which other work disturbs less; on several that of the wall."""
    return time.process_time if threads == 1 else time.perf_counter


def shown(seconds: list[float]) -> str:
    """Minimum and median in milliseconds."""
    return f"{1e3 * min(seconds):.4g} ({1e3 * statistics.median(seconds):.4g})"


def judged(what: str, value: float, aim: float, at_least: bool = False, unit: str = " x") -> dict[str, Any]:
    """A row: the figure, its aim, and whether it was reached."""
    reached = value >= aim if at_least else value <= aim
    return {
        "what": what,
        "figure": f"{value:.3g}{unit}",
        "aim": f"{'at least' if at_least else 'at most'} {aim:.3g}{unit}",
        "reached": "yes" if reached else "no",
    }


def told(text: str) -> None:
    """Progress, apart from what is printed."""
    print(text, file=sys.stderr, flush=True)
