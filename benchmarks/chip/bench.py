"""Speed of the chip simulator in one run: against the machine's own limit, and against sinabs at the same result.

    python benchmarks/chip/bench.py              measure and print, about three minutes
    python benchmarks/chip/bench.py --write      also record results.json, the tables of README.md and linear.png
    python benchmarks/chip/bench.py --against COMMIT    in turn with another commit, some five minutes; exit code 1 if
                                                        a figure is more than 5 % slower

Inputs are fixed: layers, networks and recordings come from seeds, the trained network lies beside this file, and its
recordings are the first test recordings of event_digits. The events of each layer must be those of expected.json. The
beginning of a recording is compared with the plain-Python reference of the tests in the same run. Only additions that
reach a neuron are counted. Every figure is the best of several runs, on one thread in the thread's own processor time
and on two by the clock on the wall, so that other work shows as little as it can.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.simulator import ChipAnswer, simulate

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "chip"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import reference
from against import compare
from cases import SEED, Case, best, case, layers, one_layer, quickstarts, recording, trained
from machine import processor
from markdown import table

HERE = Path(__file__).resolve().parent
SINABS_RECORDINGS = 2  # one event a step takes sinabs seconds a recording


def main() -> None:
    """Measure and print; with --write also record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", type=Path, help="chip.npz to measure in place of the networks kept here")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="record results.json, README.md's tables and linear.png")
    parser.add_argument("--against", metavar="COMMIT", help="measure another commit too, in turn")
    options = parser.parse_args()
    if options.against:
        sys.exit(compare(options.against, HERE / "worker.py", ["--repeats", str(options.repeats)]))
    if options.write and options.network:
        parser.error("--write records the networks kept here; leave --network out")
    limit, by = max(streaming_limit(options.repeats) for _ in range(3))
    answer: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "load": round(os.getloadavg()[0], 2),
        "limit": limit,
        "limit by": by,
    }
    print(f"streaming limit ({by}): {limit / 1e9:.1f} billion additions a second; load {answer['load']}\n")
    expected = json.loads((HERE / "expected.json").read_text()) if (HERE / "expected.json").exists() else {}
    found: dict[str, list[int]] = {}
    tables = []
    if not options.network:
        answer["layers"] = [layer_row(case, limit, options.repeats, found) for case in layers()]
        tables.append(table("one layer, one thread", answer["layers"]))
    cases = [trained(options.network)] if options.network else [*quickstarts(), trained(HERE / "quickstart.npz")]
    answer["networks"] = [row for case in cases for row in network_rows(case, options.repeats, found)]
    tables.append(table("whole network", answer["networks"]))
    answer["others"] = others(cases[-1], answer["networks"][-2:])
    tables.append(table(f"same recordings, {cases[-1].name}", answer["others"]))
    if not options.network:
        answer["lines"] = lines()
        tables.append(table("time over", answer["lines"]))
        if options.write:
            (HERE / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
        elif found != expected:
            sys.exit(f"events of the layers are {found}, expected were {expected}")
    print("\n\n".join(tables))
    if options.write:
        (HERE / "results.json").write_text(json.dumps(answer, indent=1) + "\n")
        plot(answer["lines"])
        write_readme(answer, tables)


def layer_row(case: Case, limit: float, repeats: int, found: dict[str, list[int]]) -> dict[str, Any]:
    """Share of the streaming limit."""
    answer = checked(case, found)
    network = replace(case.network, readout=(0,))  # a hidden layer: its neurons are no classes to be counted
    seconds = best(lambda: simulate(network, case.events, case.offsets, threads=1), 3 * repeats)
    rate = int(answer.synops.sum()) / seconds
    return {
        "name": case.name,
        "ns/event": round(seconds / len(case.events) * 1e9, 1),
        "events out/in": round(int(answer.events_per_layer.sum()) / len(case.events), 2),
        "billion/s": round(rate / 1e9, 2),
        "share of limit": f"{rate / limit:.0%}",
        "aim": f"{case.share:.0%}",
        "reached": "yes" if rate / limit >= (case.share or 0) else "no",
    }


def network_rows(case: Case, repeats: int, found: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Time a recording on one thread and on two, in turn."""
    answer = checked(case, found)
    n = len(case.offsets) - 1
    seconds = {1: np.inf, 2: np.inf}
    had = 0.0  # processors that the machine gave to the two threads, in the fastest run
    for _ in range(repeats):
        for threads in seconds:
            clock = time.thread_time if threads == 1 else time.perf_counter
            work = time.process_time()
            one = best(
                lambda threads=threads: simulate(case.network, case.events, case.offsets, threads=threads), 1, clock
            )
            if one < seconds[threads]:
                seconds[threads] = one
                had = (time.process_time() - work) / one if threads == 2 else had
    additions = answer.synops.sum() / n
    return [
        {
            "name": case.name,
            "threads": threads,
            "million ops": round(additions / 1e6, 2),
            "events": int(answer.input_events.sum() + answer.events_per_layer.sum()) // n,
            "ms/recording": round(seconds[threads] / n * 1e3, 3),
            "aim": "" if threads == 1 or case.ms is None else f"{case.ms:.2f} ms, 1.9 x",
            "over one thread": "" if threads == 1 else f"{seconds[1] / seconds[2]:.2f} x",
            "processors had": "" if threads == 1 else f"{had:.2f}",
        }
        for threads in seconds
    ]


def checked(case: Case, found: dict[str, list[int]]) -> ChipAnswer:
    """The answer for a case; the beginning of its first recording is compared with the reference."""
    some = case.events[:40]
    slow = reference.run(case.network, some)
    fast = simulate(case.network, some, np.array([0, len(some)]), threads=1)
    assert [len(e) for e in slow.events] == fast.events_per_layer[0].tolist(), case.name
    assert slow.synops == fast.synops[0].tolist(), case.name
    answer = simulate(case.network, case.events, case.offsets)
    found[case.name] = [int(answer.input_events.sum()), *answer.events_per_layer.sum(0).tolist()]
    return answer


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
        source = HERE / "limit.c"
        subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        function = ctypes.CDLL(str(library)).stream
        function.argtypes, function.restype = [ctypes.c_int64, ctypes.c_int16, ctypes.c_int16], ctypes.c_int64
        return passes * n / best(lambda: function(passes, -100, 100), repeats), "C, -O3 -march=native"


def others(case: Case, ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """sinabs on the same recordings, one thread: one event a step with the same result, and in bins."""
    import torch

    torch.set_num_threads(1)
    base = ours[0]["ms/recording"]
    rows = [{"name": f"ours, {r['threads']} thread(s)", "ms/recording": r["ms/recording"]} for r in ours]
    with torch.no_grad():
        seconds = [sinabs_by_event(case, b) for b in range(SINABS_RECORDINGS)]
        rows.append({"name": "sinabs, one event a step", "ms/recording": round(1e3 * float(np.mean(seconds)), 1)})
        for bins in (100, 1000):
            binned = [best(sinabs_by_bin(case, b, bins), 3) for b in range(SINABS_RECORDINGS)]
            rows.append({"name": f"sinabs, {bins} bins", "ms/recording": round(1e3 * float(np.mean(binned)), 1)})
    for row in rows:
        row["over ours, 1 thread"] = f"{row['ms/recording'] / base:.0f} x"
        row["same events"] = "no" if "bins" in row["name"] else "yes"
        row["aim"] = "200 x" if "step" in row["name"] else ""
    return rows


def sinabs_layers(network: ChipNetwork, multi: bool) -> list[tuple[Any, Any]]:
    """Convolution and neurons of each layer, with the chip's integers."""
    import sinabs.activation as sa
    import sinabs.layers as sl
    import torch

    found = []
    for layer in network.layers:
        f, c, ky, kx = layer.weight.shape
        convolution = torch.nn.Conv2d(c, f, (ky, kx), stride=layer.stride, padding=layer.padding, bias=False)
        convolution.weight.copy_(torch.from_numpy(layer.weight.astype(np.float32)))
        neurons = sl.IAFSqueeze(
            batch_size=1,
            spike_threshold=torch.tensor(float(layer.threshold)),
            min_v_mem=float(layer.min_v_mem),
            spike_fn=sa.MultiSpike if multi else sa.SingleSpike,
            reset_fn=sa.MembraneSubtract(),
        )
        found.append((convolution, neurons))
    return found


def sinabs_by_event(case: Case, b: int, chunk: int = 1000) -> float:
    """Seconds of the convolutions and neurons with one event a time step; the events must equal ours, in order."""
    import torch

    one = case.events[case.offsets[b] : case.offsets[b + 1]]
    ours = simulate(case.network, one, np.array([0, len(one)]), record=("events",), threads=1)
    assert ours.layer_events is not None
    events = np.stack([one["p"], one["y"], one["x"]], 1).astype(np.int64)
    if case.network.input_shape[0] == 1:
        events[:, 0] = 0
    seconds = 0.0
    for k, (convolution, neurons) in enumerate(sinabs_layers(case.network, multi=False)):
        layer, out = case.network.layers[k], []
        for first in range(0, len(events), chunk):
            part = events[first : first + chunk]
            x = torch.zeros((len(part), *layer.input_shape))
            x[(np.arange(len(part)), *part.T)] = 1.0
            start = time.thread_time()
            spikes = neurons(convolution(x))
            seconds += time.thread_time() - start
            out.append(torch.nonzero(spikes.permute(0, 2, 3, 1))[:, 1:].numpy())  # T f y x -> T y x f
        fired = np.concatenate([np.zeros((0, 3), np.int64), *out])
        mine = ours.layer_events[k].events
        assert np.array_equal(fired, np.stack([mine["y"], mine["x"], mine["f"]], 1)), layer.name
        if layer.destinations:
            pool = layer.destinations[0].pool
            target = case.network.layers[layer.destinations[0].layer].input_shape
            events = np.stack([fired[:, 2], fired[:, 0] // pool[0], fired[:, 1] // pool[1]], 1)
            events = events[(events[:, 1] < target[1]) & (events[:, 2] < target[2])]
    return seconds


def sinabs_by_bin(case: Case, b: int, bins: int) -> Callable[[], object]:
    """A forward pass of the whole network over frames."""
    import torch

    one = case.events[case.offsets[b] : case.offsets[b + 1]]
    c, height, width = case.network.input_shape
    t = (one["t"] - one["t"].min()) * bins // (int(np.ptp(one["t"])) + 1)
    x = torch.zeros((bins, c, height, width))
    p = one["p"].astype(np.int64) if c > 1 else np.zeros(len(one), np.int64)
    np.add.at(x.numpy(), (t, p, one["y"], one["x"]), 1.0)
    steps: list[Any] = []
    for layer, pair in zip(case.network.layers, sinabs_layers(case.network, multi=True), strict=True):
        steps += pair
        if layer.destinations:
            pool = layer.destinations[0].pool
            steps.append(torch.nn.LPPool2d(1, pool))  # sums, as spikes are not negative
    network = torch.nn.Sequential(*steps)

    def forward() -> object:
        for _, step in network.named_children():
            if hasattr(step, "reset_states"):
                step.reset_states()
        with torch.no_grad():
            return network(x)

    return forward


def lines() -> list[dict[str, Any]]:
    """Cost over width, recording length and batch: time divided by what it should be proportional to."""
    rows = []
    for f in (16, 32, 64, 128, 256):
        network, rng = one_layer(f, 3, 1, 1, (4, 16, 16))
        one = case("", replace(network, readout=(0,)), [recording(rng, network.input_shape, 10_000)])
        rows.append(("features", f, best(lambda one=one: simulate(one.network, one.events, one.offsets, threads=1), 7)))
    network = quickstarts()[0].network
    rng = np.random.default_rng(SEED)
    for n in (1000, 4000, 16_000, 64_000):
        one = case("", network, [recording(rng, (2, 34, 34), n) for _ in range(4)])
        seconds = best(lambda one=one: simulate(one.network, one.events, one.offsets, threads=1), 7)
        rows.append(("events per recording", n, seconds))
    for batch in (4, 16, 64, 256):
        one = case("", network, [recording(rng, (2, 34, 34), 4000) for _ in range(batch)])
        seconds = best(lambda one=one: simulate(one.network, one.events, one.offsets, threads=1), 7)
        rows.append(("recordings", batch, seconds))
    return [
        {"over": over, "value": value, "ms": round(1e3 * seconds, 3), "us / value": round(1e6 * seconds / value, 2)}
        for over, value, seconds in rows
    ]


def plot(rows: list[dict[str, Any]]) -> None:
    """linear.png: time over width, recording length and batch, with a line through the origin and the last point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["over"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(10, 3), layout="constrained")
    for name, axis in zip(names, axes, strict=True):
        x, y = ([row[key] for row in rows if row["over"] == name] for key in ("value", "ms"))
        axis.plot([0, x[-1]], [0, y[-1]], color="0.7", linewidth=1)
        axis.plot(x, y, "o")
        axis.set(xlabel=name, ylabel="ms" if name == names[0] else "", xlim=0, ylim=0)
    figure.savefig(HERE / "linear.png", dpi=100)


def write_readme(answer: dict[str, Any], tables: list[str]) -> None:
    """Put the tables between README.md's two marks."""
    path = HERE / "README.md"
    before, rest = path.read_text().split("<!-- figures -->\n")
    after = rest.split("<!-- end of figures -->\n")[1]
    about = (
        f"{answer['date']}, {answer['machine']}, load {answer['load']}. Streaming limit ({answer['limit by']}): "
        f"{answer['limit'] / 1e9:.1f} billion additions a second."
    )
    text = "\n\n".join([about, *tables, "![cost over width, length and batch](linear.png)"])
    path.write_text(f"{before}<!-- figures -->\n{text}\n<!-- end of figures -->\n{after}")


if __name__ == "__main__":
    main()
