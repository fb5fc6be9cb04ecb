"""Which substitution makes the best gradient: cosines against the chip's own loss, on the same weights and batch.

    python experiments/table1/gradient.py [--bins 1 2 4 10] [--directions 200] [--epochs 3] [override ...]

A network is trained by plain BPTT for some epochs; then the gradient of each option of chip-in-loop learning, and that
of plain BPTT, is held against what the chip's loss does along random directions
(cil_spl/training/gradient_cosine.py) on one batch of training recordings.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_module
from torch import Tensor

from cil_spl import schema
from cil_spl.base import fence, process
from cil_spl.chip.observer import ChipObserver
from cil_spl.data import datasets
from cil_spl.data.batches import Batch
from cil_spl.methods import bptt
from cil_spl.models.configured import plan_of
from cil_spl.models.forward import forward
from cil_spl.targets.deploy import with_target
from cil_spl.training.context import context_of
from cil_spl.training.gradient_cosine import Meter

OPTIONS = {
    "output layer": {"layers": "output", "v_mem": False},
    "all layers": {"layers": "all", "v_mem": False},
    "all layers, states": {"layers": "all", "v_mem": True},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, nargs="+", default=[1, 2, 4, 10])
    parser.add_argument("--directions", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    print("| windows | plain BPTT | " + " | ".join(OPTIONS) + " |")
    print("| --- " * (2 + len(OPTIONS)) + "|")
    for bins in given.bins:
        cosines = measured(bins, given)
        print(f"| {bins} | " + " | ".join(f"{c:.2f}" for c in cosines) + " |", flush=True)
    print(f"\n{given.directions} directions: each cosine is uncertain by about {given.directions**-0.5:.2f}.")
    return 0


def measured(bins: int, given: argparse.Namespace) -> list[float]:
    overrides = [*given.overrides, "method=bptt", f"frames.bins={bins}", f"trainer.epochs={given.epochs}"]
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        cfg = schema.check_config(compose("config", overrides=overrides))
    task, target = fence.make(cfg, "task"), fence.make(cfg, "target")
    plan = plan_of(cfg, task)
    target.check(plan, schema.asked(cfg))
    process.prepare(cfg.seed, cfg.trainer.threads, cfg.trainer.device)
    data = datasets.load(cfg.dataset, None, seed=cfg.seed, duration_us=cfg.frames.duration_us)
    with tempfile.TemporaryDirectory() as folder:
        record = SimpleNamespace(folder=Path(folder), log=lambda *_: None, warn=lambda _: None)
        ctx = with_target(context_of(cfg, plan, data, task, record, None), target)
        ctx = replace(ctx, trainer=replace(ctx.trainer, batch_size=64))
        net = bptt.train(ctx, **fence.keywords(cfg.method)).net
    batch = next(ctx.batches(data[0].train, train=True).epoch(0))
    output, fire = net.plan.output, bptt.output_neurons(net, True)

    def loss_with(observer: ChipObserver, seen: bool) -> Any:
        def loss(batch: Batch) -> Tensor:
            """The chip's loss, with the gradient of this option."""
            observer.load(net)
            observer.open(batch)
            windows = observer.windows()
            out = windows[output].counts
            if torch.is_grad_enabled():
                out, _, _ = forward(net, batch.frames, observed=windows if seen else None, fire=fire)
            return bptt.loss_of(ctx, out, batch, "counts", cfg.method.count_scale)

        return loss

    def cosine(options: dict[str, Any], seen: bool = True) -> float:
        loss = loss_with(ChipObserver(target, plan, **options), seen)
        return Meter(net, loss, batch, given.directions, cfg.seed)()["gradient_cosine"]

    return [cosine(OPTIONS["output layer"], seen=False), *(cosine(options) for options in OPTIONS.values())]


if __name__ == "__main__":
    sys.exit(main())
