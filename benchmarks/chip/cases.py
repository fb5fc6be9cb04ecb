"""Layers, networks and recordings that are measured; all come from seeds or lie beside this file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.chip.interchange import load
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.data.events import EVENT

SEED = 1
RECORDINGS = 256


@dataclass(frozen=True)
class Case:
    """A network and its recordings, and its aim: a share of the limit, or ms per recording on two threads."""

    name: str
    network: ChipNetwork
    events: np.ndarray
    offsets: np.ndarray
    share: float | None = None
    ms: float | None = None


def best(call: Callable[[], object], repeats: int, clock: Callable[[], float] = time.thread_time) -> float:
    """The shortest of ``repeats`` times, in seconds, by default of this thread alone on its processor."""
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def layers() -> list[Case]:
    """One layer each, with the activity of a trained one or more: an event out for two to ten in and 16 features."""
    found = []
    for name, f, k, s, p, size, share in (
        ("8 features, 3 x 3, map 34", 8, 3, 1, 1, 34, 0.20),
        ("16 features, 3 x 3, map 34", 16, 3, 1, 1, 34, 0.20),
        ("64 features, 3 x 3, map 32", 64, 3, 1, 1, 32, 0.30),
        ("128 features, 3 x 3, map 16", 128, 3, 1, 1, 16, 0.30),
        ("16 features, 3 x 3, stride 2, map 34", 16, 3, 2, 1, 34, 0.15),
        ("64 features, 3 x 3, stride 2, map 32", 64, 3, 2, 1, 32, 0.15),
        ("64 features, 5 x 5, stride 4, map 32", 64, 5, 4, 1, 32, 0.15),
        ("linear, 16 x 4 x 4 to 256", 256, 4, 1, 0, 4, 0.15),
    ):
        network, rng = one_layer(f, k, s, p, (16 if size == 4 else 4, size, size))
        found.append(case(name, network, [recording(rng, network.input_shape, 10_000) for _ in range(20)], share=share))
    return found


def one_layer(
    f: int, kernel: int, stride: int, padding: int, shape: tuple[int, int, int]
) -> tuple[ChipNetwork, np.random.Generator]:
    """A layer with random weights and the generator behind them."""
    rng = np.random.default_rng(SEED)
    weight = rng.integers(-60, 61, (f, shape[0], kernel, kernel)).astype(np.int8)
    layer = ChipLayer("layer", weight, (stride, stride), (padding, padding), shape, 1000, -1000)
    return ChipNetwork((layer,), shape), rng


def quickstarts() -> list[Case]:
    """The quickstart network with fixed random weights at two activities."""
    found = []
    for name, thresholds, ms in (
        ("quickstart at 1 million", (900, 1500, 1000, 400), 0.2),
        ("quickstart at 8 million", (240, 430, 450, 400), 0.8),
    ):
        rng = np.random.default_rng(SEED)
        network = quickstart(rng, thresholds)
        found.append(case(name, network, [recording(rng, (2, 34, 34), 4000) for _ in range(RECORDINGS)], ms=ms))
    return found


def trained(path: Path) -> Case:
    """A trained network on test recordings of event_digits, or on random ones if its sensor is another."""
    network = load(path)
    if network.input_shape == (2, 34, 34):
        from cil_spl.data.datasets import event_digits

        test: Any = event_digits().test
        take = (
            test.take if hasattr(test, "take") else test.gather
        )  # the name in earlier commits, which are compared with
        return Case(f"trained, {path.name}", network, *take(np.arange(RECORDINGS)))
    rng = np.random.default_rng(SEED)
    return case(path.name, network, [recording(rng, network.input_shape, 4000) for _ in range(RECORDINGS)])


def case(name: str, network: ChipNetwork, recordings: list[np.ndarray], **aims: float) -> Case:
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in recordings])]).astype(np.int64)
    return Case(name, network, np.concatenate(recordings), offsets, **aims)


def quickstart(rng: np.random.Generator, thresholds: tuple[int, ...]) -> ChipNetwork:
    """The vendor's four layers with random weights."""

    def layer(k: int, f: int, shape: tuple[int, int, int], kernel: int, s: int, p: int, pool: int) -> ChipLayer:
        weight = rng.integers(-100, 128, (f, shape[0], kernel, kernel)).astype(np.int8)
        onward = (Destination(k + 1, (pool, pool)),) if k < 3 else ()
        low = -thresholds[k]
        return ChipLayer(f"l{k}", weight, (s, s), (p, p), shape, thresholds[k], low, destinations=onward)

    return ChipNetwork(
        (
            layer(0, 8, (2, 34, 34), 3, 1, 1, 2),
            layer(1, 16, (8, 17, 17), 3, 1, 1, 2),
            layer(2, 16, (16, 8, 8), 3, 2, 1, 1),
            layer(3, 10, (16, 4, 4), 4, 1, 0, 1),
        ),
        (2, 34, 34),
    )


def recording(rng: np.random.Generator, shape: tuple[int, int, int], n: int) -> np.ndarray:
    """``n`` events over the middle of the map."""
    events = np.zeros(n, EVENT)
    for field, size in (("y", shape[1]), ("x", shape[2])):
        events[field] = np.clip(np.round(rng.normal(size / 2, size / 5, n)), 0, size - 1)
    events["p"] = rng.integers(0, min(shape[0], 128), n)
    events["t"] = np.sort(rng.integers(0, 300_000, n))
    return events


def branches() -> Case:
    """A layer that feeds two, both of which feed the last: each event is followed to its end before the next."""
    rng = np.random.default_rng(SEED)

    def layer(name: str, c: int, f: int, kernel: int, size: int, *destinations: Destination) -> ChipLayer:
        weight = rng.integers(-60, 70, (f, c, kernel, kernel)).astype(np.int8)
        padding = kernel // 2 if size > kernel else 0
        return ChipLayer(
            name, weight, (1, 1), (padding, padding), (c, size, size), 400, -400, destinations=destinations
        )

    network = ChipNetwork(
        (
            layer("stem", 2, 8, 3, 34, Destination(1, (2, 2)), Destination(2, (2, 2))),
            layer("left", 8, 8, 1, 17, Destination(3, (4, 4))),
            layer("right", 8, 8, 3, 17, Destination(3, (4, 4), 8)),
            layer("last", 16, 10, 4, 4),
        ),
        (2, 34, 34),
    )
    return case("branches", network, [recording(rng, (2, 34, 34), 4000) for _ in range(32)])
