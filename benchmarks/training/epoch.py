"""Part ``epoch``: an epoch as a run has it against the bare steps of the same batches.

The epoch is that of ``learn``: recordings are taken from the set, augmented and binned, the step is taken and the
optimizer's after it, metrics are added up, a checkpoint is written. Validation is left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import recorded
import torch
from loop import LOSS
from turns import Options, judged, shown, taken, told

from cil_spl.methods import bptt
from cil_spl.training.learn import learn

OVER_STEPS = 1.15
BATCHES = 40  # of an epoch


def part(options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
    """Times of both, and the aims."""
    rows, aims = [], []
    for threads in options.threads:
        for bins in [n for n in options.bins if n in (4, 10)] or options.bins[:1]:
            told(f"epoch: {bins} bins, {threads} thread(s)")
            limit = 4 if options.quick else BATCHES
            at = recorded.setting(options, bins, threads, f"trainer.limit_batches={limit}", "trainer.epochs=1")
            times = taken(sides(at), options.repeats)
            whole, bare = min(times["epoch"]), min(times["bare steps"])
            what = f"{bins} bins, {threads} thread(s)"
            rows.append({"what": what, "batches": limit} | {name: shown(values) for name, values in times.items()})
            aims.append(judged(f"{what}, over the bare steps", whole / bare, OVER_STEPS))
    return [(f"{options.data}, an epoch, ms", rows), ("aim of an epoch", aims)]


def sides(at: recorded.Setting) -> dict[str, Callable[[], object]]:
    """An epoch, and its steps on batches made beforehand."""
    net = recorded_net(at)
    made = list(at.batches().epoch(0))
    along = bptt.gradient(net, at.ctx, **LOSS)

    def bare() -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)  # as a run has it
        for batch in made:
            for _ in along(batch):
                net.zero_grad(set_to_none=True)

    def epoch() -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        with tempfile.TemporaryDirectory() as folder:  # or it would go on from the last one
            ctx = replace(at.ctx, folder=Path(folder) / "checkpoints")
            learn(ctx, net, bptt.gradient(net, ctx, **LOSS), lr=1e-5, score=lambda: {ctx.monitor: 0.0})

    return {"epoch": epoch, "bare steps": bare}


def recorded_net(at: recorded.Setting) -> Any:
    """Fresh weights at the scale at which a run begins."""
    net = at.ctx.build("snn")
    at.ctx.scale(net, 1.0)
    return net
