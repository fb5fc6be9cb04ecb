"""One turn of ``bench.py --against``: figures of the simulator in the tree given.

Besides the cases of bench.py: exact steps, dies, branches, records, and small batches, where making the tables counts.
Both sides are measured by this file, which therefore takes the simulator under its earlier name too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from against import answer
from cases import Case, best, branches, layers, quickstarts, trained

from cil_spl.chip import simulator
from cil_spl.chip.die import Die

HERE = Path(__file__).resolve().parent
simulate: Any = getattr(simulator, "simulate", None) or simulator.run  # type: ignore[attr-defined]

DIES: dict[str, dict[str, Any]] = {
    "thresholds of their own": {"threshold_spread": 0.05, "dead": 0.01, "stuck": 0.001},
    "losses, decimators": {"lost": 0.1, "decimate": 2},
    "jitter": {"jitter_us": 20.0},
    "all": {
        "threshold_spread": 0.05, "lost": 0.05, "jitter_us": 20.0, "reorder_us": 10.0, "synops_per_second": 3e7,
        "fifo": 16, "decimate": 2, "leak": -1, "leak_period_us": 1000.0,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--repeats", type=int, required=True)
    given = parser.parse_args()
    answer(figures(given.repeats))


def figures(n: int) -> Iterator[tuple[str, float]]:
    """Names and times, each of them the shortest of ``n``."""
    for one in layers():
        hidden = replace(one, network=replace(one.network, readout=(0,)))
        yield f"{one.name}, ns/event", 1e9 * seconds(hidden, n) / len(one.events)
    few, many = quickstarts()
    real = trained(HERE / "quickstart.npz")
    for one, recordings in ((few, 128), (many, 16), (real, 64), (branches(), 32)):
        yield f"{one.name}, ms", per_recording(one, recordings, n)
    yield "trained, neurons in another order, ms", per_recording(real, 64, n, order_seed=1)
    for name in ("counts", "v_mem", "events"):
        bins = np.linspace(0, 300_000, 11, dtype=np.int64)[None].repeat(64, axis=0)
        yield f"trained, {name} recorded, ms", per_recording(real, 64, n, edges_us=bins, record=(name,))
    for name, settings in DIES.items():
        yield f"trained, die with {name}, ms", per_recording(real, 16, n, die=Die(seed=1, **settings))
    yield "branches, die with all, ms", per_recording(branches(), 16, n, die=Die(seed=1, **DIES["all"]))
    yield "4 recordings of one network, ms", 4 * per_recording(real, 4, 3 * n)
    yield "4 recordings of one network on a die, ms", 4 * per_recording(real, 4, 3 * n, die=Die(dead=0.1))
    yield "4 recordings of a new network, ms", 1e3 * new_networks(first(real, 4), 3 * n)


def first(one: Case, n: int) -> Case:
    return replace(one, events=one.events[: one.offsets[n]], offsets=one.offsets[: n + 1])


def per_recording(one: Case, n: int, repeats: int, **options: Any) -> float:
    """Milliseconds for each of the first ``n`` recordings."""
    return 1e3 * seconds(first(one, n), repeats, **options) / n


def seconds(one: Case, repeats: int, **options: Any) -> float:
    """The shortest time of a call. Where its arrays happen to lie can double it, so they are moved between calls."""
    rng, held, times = np.random.default_rng(0), [], []
    for _ in range(repeats):
        times.append(best(lambda: simulate(one.network, one.events, one.offsets, threads=1, **options), 1))
        held.append([bytearray(int(n)) for n in rng.integers(64, 40_000, 20)])
    return min(times)


def new_networks(one: Case, repeats: int) -> float:
    """Seconds of a call whose network has weights that it never had, as each step of a training makes them."""
    times = []
    for i in range(repeats):
        layer = one.network.layers[0]
        weight = layer.weight.copy()
        weight[0, 0, 0, 0] = i % 100
        network = replace(one.network, layers=(replace(layer, weight=weight), *one.network.layers[1:]))
        began = time.thread_time()
        simulate(network, one.events, one.offsets, threads=1)
        times.append(time.thread_time() - began)
    return min(times)


if __name__ == "__main__":
    main()
