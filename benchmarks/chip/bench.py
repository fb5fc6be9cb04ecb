"""Speed of the chip simulator against the machine's own limit, in one run: python benchmarks/chip/bench.py

Inputs are made from fixed seeds; the beginning of a recording of each network is compared with the plain-Python
reference of the tests in the same run. Only additions that reach a neuron are counted. Every figure is the best of
several runs, so that other work on the machine shows as little as it can.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cil_spl.chip.interchange import load
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.chip.simulator import run
from cil_spl.data.events import EVENT

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "chip"))
import reference

SEED = 1


def main() -> None:
    """Measure and print; with --write also record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", help="chip.npz of a trained network to measure as well")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="record the figures in benchmarks/chip/results.json")
    options = parser.parse_args()
    limit, by = streaming_limit(options.repeats)
    print(f"streaming limit ({by}): {limit / 1e9:.1f} billion additions a second\n")
    rows = []
    print(f"{'one layer, one thread':44} {'ns/event':>9} {'fires/event':>12} {'billion/s':>10} {'of limit':>9}")
    for name, network, events in layers():
        rows.append(measure(name, network, events, 1, options.repeats))
        row = rows[-1]
        share = row["additions a second"] / limit
        print(
            f"{name:44} {row['seconds'] / row['events in'] * 1e9:9.1f} {row['events out'] / row['events in']:12.2f} "
            f"{row['additions a second'] / 1e9:10.2f} {share:9.0%}"
        )
    print(f"\n{'whole network':44} {'threads':>8} {'ms/recording':>13} {'million ops':>12} {'billion/s':>10}")
    for name, network, recordings in networks(options.network):
        for threads in (1, 2):
            row = measure(name, network, recordings, threads, options.repeats)
            rows.append(row)
            per = row["seconds"] / row["recordings"]
            ops = row["additions"] / row["recordings"]
            print(f"{name:44} {threads:8} {per * 1e3:13.3f} {ops / 1e6:12.2f} {row['additions a second'] / 1e9:10.2f}")
    if options.write:
        about = {
            "date": datetime.date.today().isoformat(),
            "machine": processor(),
            "load": os.getloadavg()[0],
            "limit": limit,
            "limit by": by,
            "rows": rows,
        }
        (Path(__file__).parent / "results.json").write_text(json.dumps(about, indent=1) + "\n")


def measure(
    name: str, network: ChipNetwork, recordings: list[np.ndarray], threads: int, repeats: int
) -> dict[str, float | int | str]:
    """Best time of ``repeats`` runs; the first recording's events are compared with the reference."""
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in recordings])]).astype(np.int64)
    events = np.concatenate(recordings)
    answer = run(network, events, offsets, threads=threads)
    some = recordings[0][:30]
    slow = reference.run(network, some)
    fast = run(network, some, np.array([0, len(some)]), threads=1)
    assert [len(e) for e in slow.events] == fast.events_per_layer[0].tolist(), name
    assert slow.synops == fast.synops[0].tolist(), name
    seconds = best(lambda: run(network, events, offsets, threads=threads), repeats)
    additions = int(answer.synops.sum())
    return {
        "name": name,
        "threads": threads,
        "recordings": len(recordings),
        "events in": len(events),
        "events out": int(answer.events_per_layer.sum()),
        "additions": additions,
        "seconds": seconds,
        "additions a second": additions / seconds,
    }


def best(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def streaming_limit(repeats: int) -> tuple[float, str]:
    """Additions a second of limit.c, or of the same loop in numba where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    passes, n = 20_000, 4096
    if compiler is None:
        import numba

        @numba.njit
        def stream(passes, low, threshold, v, w):  # type: ignore[no-untyped-def]
            fired = 0
            for _ in range(passes):
                some = False
                for i in range(n):
                    s = max(np.int16(v[i] + w[i]), low)
                    some |= s >= threshold
                    v[i] = s
                fired += some
            return fired

        arrays = np.zeros(n, np.int16), (np.arange(n) % 7 - 3).astype(np.int16)
        stream(1, np.int16(-100), np.int16(100), *arrays)
        return passes * n / best(lambda: stream(passes, np.int16(-100), np.int16(100), *arrays), repeats), "numba"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        source = Path(__file__).parent / "limit.c"
        subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        function = ctypes.CDLL(str(library)).stream
        function.argtypes, function.restype = [ctypes.c_int64, ctypes.c_int16, ctypes.c_int16], ctypes.c_int64
        return passes * n / best(lambda: function(passes, -100, 100), repeats), "C, -O3 -march=native"


def layers() -> list[tuple[str, ChipNetwork, list[np.ndarray]]]:
    """One layer each, with the activity of a trained one: about one event out for two in."""
    found = []
    for name, f, k, s, p, size in (
        ("8 features, 3 x 3", 8, 3, 1, 1, 34),
        ("16 features, 3 x 3", 16, 3, 1, 1, 34),
        ("64 features, 3 x 3", 64, 3, 1, 1, 32),
        ("128 features, 3 x 3", 128, 3, 1, 1, 16),
        ("16 features, 3 x 3, stride 2", 16, 3, 2, 1, 34),
        ("64 features, 3 x 3, stride 2", 64, 3, 2, 1, 32),
        ("64 features, 5 x 5, stride 4", 64, 5, 4, 1, 32),
        ("linear, 16 x 4 x 4 to 256", 256, 4, 1, 0, 4),
    ):
        c = 16 if size == 4 else 4
        rng = np.random.default_rng(SEED)
        weight = rng.integers(-60, 61, (f, c, k, k)).astype(np.int8)
        layer = ChipLayer(name, weight, (s, s), (p, p), (c, size, size), 1000, -1000)
        found.append((name, ChipNetwork((layer,), layer.input_shape), [recording(rng, layer.input_shape, 20_000)]))
    return found


def networks(trained: str | None) -> list[tuple[str, ChipNetwork, list[np.ndarray]]]:
    """The quickstart network with fixed random weights, quiet and busy, on 256 recordings of 4,000 events."""
    found = []
    for name, thresholds in (("quickstart, quiet", (300, 700, 700, 300)), ("quickstart, busy", (250, 450, 500, 400))):
        rng = np.random.default_rng(SEED)
        network = quickstart(rng, thresholds)
        found.append((name, network, [recording(rng, (2, 34, 34), 4000) for _ in range(256)]))
    if trained:
        network = load(trained)
        rng = np.random.default_rng(SEED)
        found.append((Path(trained).name, network, [recording(rng, network.input_shape, 4000) for _ in range(256)]))
    return found


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


def processor() -> str:
    """The processor's name and the number of cores at hand."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    main()
