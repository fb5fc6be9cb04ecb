"""One turn of ``bench.py --against``: the figures of the loop.py (of earlier trees: bench.py) in the tree given.

That file brings its own ``measure`` and ``taken``; the latter is replaced, so that both sides are timed alike: the
shortest of the processor times, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from against import answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--bins", type=int, nargs="+", required=True)
    parser.add_argument("--start")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    here = given.tree / "benchmarks" / "training"
    sys.path.insert(0, str(here))  # its own neighbours, not those of this file
    file = next(path for path in (here / "loop.py", here / "bench.py") if path.exists())
    spec = importlib.util.spec_from_file_location("bench", file)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    answer(figures(bench, given))


def figures(bench: Any, given: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Names and times in milliseconds."""
    for bins in given.bins:
        found: dict[str, list[float]] = {}

        def taken(
            sides: dict[str, Callable[[], None]], repeats: int, found: dict[str, list[float]] = found
        ) -> dict[str, list[float]]:
            found |= processor_times(sides, repeats)
            return found

        bench.taken = taken
        bench.measure(bins, 1, given)
        for name, times in found.items():
            yield f"{bins} windows, {name}, ms", 1e3 * min(times)


def processor_times(sides: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 2):  # the first two warm up
        for name, side in sides.items():
            began = time.process_time()
            side()
            if turn >= 2:
                times[name].append(time.process_time() - began)
    return times


if __name__ == "__main__":
    main()
