"""Part ``chip``: a step with the chip in the loop against plain BPTT and against the chip alone.

``measure`` and ``taken`` are also what ``bench.py --against COMMIT`` times in two trees, see worker.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import recorded
import torch
from turns import Options, judged, shown, taken, told

from cil_spl.base import process
from cil_spl.chip.observer import ChipObserver
from cil_spl.methods import bptt, cil_bptt
from cil_spl.models.net import Net

OVER_PARTS, OVER_BPTT, FROM_BINS = 1.0, 1.3, 10
LOSS: dict[str, Any] = {"loss": "counts", "count_scale": 0.25, "straight_through_output": True}


def part(options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
    """Times, their ratios, and the aims; the chip runs the recordings in as many threads."""
    rows, aims = [], []
    for threads in options.threads:
        net = recorded.trained(options, threads, steps=2 if options.quick else 60)
        for bins in options.bins:
            told(f"chip: {bins} windows, {threads} thread(s)")
            process.set_threads(threads)
            every = sides(net, recorded.setting(options, bins, threads))
            some = {name: every[name] for name in ("bptt", "chip alone", "chip, all layers")}
            times = taken(some, options.repeats)
            plain, alone, both = (min(times[name]) for name in some)
            rows.append(
                {"windows, threads": f"{bins}, {threads}"}
                | {name if name != "chip, all layers" else "cil_bptt": shown(times[name]) for name in some}
                | {"over bptt": f"{both / plain:.2f} x", "over bptt + chip": f"{both / (plain + alone):.2f} x"}
            )
            what = f"{bins} windows, {threads} thread(s)"
            aims.append(judged(f"{what}, over bptt + chip alone", both / (plain + alone), OVER_PARTS))
            if bins >= FROM_BINS:
                aims.append(judged(f"{what}, over bptt", both / plain, OVER_BPTT))
    return [(f"{options.data}, a step, ms", rows), ("aim of a step with the chip", aims)]


def sides(net: Net, at: recorded.Setting) -> dict[str, Callable[[], object]]:
    """Steps on one batch: plain, with the chip's output or all layers, with their states; and the chip alone."""
    batch = next(at.batches().epoch(0))
    loops = {
        "chip, output layer": ChipObserver(at.target, at.ctx.plan, layers="output", v_mem=False),
        "chip, all layers": ChipObserver(at.target, at.ctx.plan, layers="all", v_mem=False),
        "chip, all layers and states": ChipObserver(at.target, at.ctx.plan, layers="all", v_mem=True),
    }

    def stepped(observer: ChipObserver | None) -> Callable[[], object]:
        ctx = replace(at.ctx, observer=observer)
        along = (bptt if observer is None else cil_bptt).gradient(net, ctx, **LOSS)

        def step() -> None:
            torch.use_deterministic_algorithms(True, warn_only=True)  # as a run has it
            for _ in along(batch):
                net.zero_grad(set_to_none=True)

        return step

    def alone() -> object:
        observer = loops["chip, all layers"]
        observer.load(net)
        observer.open(batch)
        return observer.windows()

    found: dict[str, Callable[[], object]] = {"bptt": stepped(None)}
    return found | {name: stepped(observer) for name, observer in loops.items()} | {"chip alone": alone}


def measure(bins: int, threads: int, given: argparse.Namespace) -> None:
    """What :func:`taken` times of a tree: steps with the config of ``given.overrides``, after an epoch of it."""
    words = (*given.overrides, f"frames.bins={bins}", f"target.threads={threads}")
    at = recorded.composed(words, given.start)
    process.set_threads(threads)
    taken(sides(recorded.train(at), at), given.repeats)
