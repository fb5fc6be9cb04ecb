"""What a training step costs: chip in the loop against plain BPTT, and the fused neurons against the same step by step.

    python benchmarks/training/bench.py [--bins 1 10] [--threads 1 2] [--start RUN] [--repeats 20] [override ...]
    python benchmarks/training/bench.py --against COMMIT [...]    in turn with another commit, one thread; exit code 1
                                                                  if a figure is more than 5 % slower

All sides take turns on the same batch within one process, and the figures are the medians of their times and of the
ratios within a turn. The network is trained for an epoch first (its activity decides what the chip costs), or taken
from --start.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cil_spl import schema
from cil_spl.base import fence, process
from cil_spl.chip.observer import ChipObserver
from cil_spl.data import datasets
from cil_spl.methods import bptt
from cil_spl.models import fused
from cil_spl.models.configured import plan_of
from cil_spl.models.forward import forward
from cil_spl.results.start import starting_weights
from cil_spl.targets.deploy import with_target
from cil_spl.training.context import context_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--start", help="a run to take the weights from; its layers must be those of the overrides")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("overrides", nargs="*", help="of the config, for example experiment=nmnist8 dataset.root=DIR")
    parser.add_argument("--against", metavar="COMMIT", help="measure another commit too, in turn")
    given = parser.parse_args()
    if given.against:
        from against import compare

        bins = [str(n) for n in given.bins]
        arguments = [
            *given.overrides,
            "--repeats",
            str(given.repeats),
            *(["--start", given.start] if given.start else []),
        ]
        arguments += ["--bins", *bins]
        sys.exit(compare(given.against, Path(__file__).with_name("worker.py"), arguments))
    for threads in given.threads:
        for bins in given.bins:
            measure(bins, threads, given)


def measure(bins: int, threads: int, given: argparse.Namespace) -> None:
    torch.set_num_threads(threads)
    overrides = [*given.overrides, "method=bptt", f"frames.bins={bins}", f"target.threads={threads}"]
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        cfg = schema.check_config(compose("config", overrides=overrides))
    with tempfile.TemporaryDirectory() as folder:
        ctx, target = prepared(cfg, Path(folder), given.start)
        if given.start is None:
            once = replace(ctx, trainer=replace(ctx.trainer, epochs=1))
            net = bptt.train(once, **fence.keywords(cfg.method)).net
        else:
            net = ctx.build("snn")
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    fire = bptt.output_neurons(net, True)
    loops = {
        "chip, output layer": ChipObserver(target, ctx.plan, layers="output", v_mem=False),
        "chip, all layers": ChipObserver(target, ctx.plan, layers="all", v_mem=False),
        "chip, all layers and states": ChipObserver(target, ctx.plan, layers="all", v_mem=True),
    }

    def step(observer: ChipObserver | None = None) -> None:
        seen = None
        if observer is not None:
            observer.load(net)
            observer.open(batch)
            seen = observer.windows()
        out, _, _ = forward(net, batch.frames, observed=seen, fire=fire)
        bptt.loss_of(ctx, out, batch, "counts", 0.25).backward()
        net.zero_grad(set_to_none=True)

    sides: dict[str, Callable[[], None]] = {"bptt": step}
    sides |= {name: (lambda o=o: step(o)) for name, o in loops.items()}

    def unfused() -> None:
        with without_fused():
            step()

    sides["bptt, neurons step by step"] = unfused
    times = taken(sides, given.repeats)
    answer = target.send(loops["chip, all layers"].chip, batch)
    synops = answer.synops.sum() / len(batch) / 1e6
    title = f"{cfg.dataset.name}, {bins} windows, {threads} threads, batch of {len(batch)}"
    print(f"{title}, {synops:.2f} million synaptic operations a recording on the chip")
    for name, values in times.items():
        ratio = statistics.median(v / plain for v, plain in zip(values, times["bptt"], strict=True))
        print(f"  {name:<30} {1e3 * statistics.median(values):8.1f} ms   {ratio:5.2f} x bptt")


def prepared(cfg: Any, folder: Path, start: str | None) -> tuple[Any, Any]:
    task, target = fence.make(cfg, "task"), fence.make(cfg, "target")
    plan = plan_of(cfg, task)
    target.check(plan, schema.asked(cfg))
    process.prepare(cfg.seed, cfg.trainer.threads, cfg.trainer.device)
    data = datasets.load(cfg.dataset, None, seed=cfg.seed)
    record = SimpleNamespace(folder=folder, log=lambda *_: None, warn=lambda _: None)
    return with_target(context_of(cfg, plan, data, task, record, _start(cfg, task, plan, start)), target), target


def _start(cfg: Any, task: Any, plan: Any, start: str | None) -> Any:
    return starting_weights(OmegaConf.merge(cfg, {"start_from": start}), task, plan)


def taken(sides: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 2):  # the first two warm up
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if turn >= 2:
                times[name].append(time.perf_counter() - began)
    return times


@contextmanager
def without_fused():  # type: ignore[no-untyped-def]
    supports = fused.supports
    fused.supports = lambda *_: False
    try:
        yield
    finally:
        fused.supports = supports


if __name__ == "__main__":
    main()
