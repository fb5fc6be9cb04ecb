"""Real recordings, the network of a config and a chip: what the parts that need more than random frames begin with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from turns import Options

from cil_spl import schema
from cil_spl.base import fence, process
from cil_spl.data import datasets
from cil_spl.data.batches import Batches
from cil_spl.methods import bptt
from cil_spl.models.configured import plan_of
from cil_spl.models.net import Net
from cil_spl.results.start import starting_weights
from cil_spl.targets.deploy import with_target
from cil_spl.training.context import TrainingContext, context_of


@dataclass(frozen=True)
class Setting:
    """A run of ``method=bptt`` that never begins."""

    cfg: Any
    ctx: TrainingContext
    target: Any

    def batches(self) -> Batches:
        """Those of its training."""
        return self.ctx.batches(self.ctx.experiences[0].train, train=True)


def overrides_of(options: Options) -> list[str]:
    """The config's words for the recordings asked for."""
    found = ["experiment=nmnist8", "dataset.download=false"] if options.data == "nmnist8" else []
    if options.root is not None:
        found.append(f"dataset.root={options.root}")
    return [*found, f"trainer.batch_size={options.batch}", *options.overrides]


def setting(options: Options, bins: int, threads: int, *more: str) -> Setting:
    """The setting on the recordings asked for; the process gets so many threads."""
    words = [*overrides_of(options), f"frames.bins={bins}", f"target.threads={threads}", f"trainer.threads={threads}"]
    found = composed((*words, *more), options.start)
    process.set_threads(threads)
    return found


@cache
def composed(overrides: Sequence[str], start: str | None) -> Setting:
    """The setting of a config; ``start`` is a run to take the weights from."""
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        cfg = schema.check_config(compose("config", overrides=[*overrides, "method=bptt"]))
    task, target = fence.make(cfg, "task"), fence.make(cfg, "target")
    plan = plan_of(cfg, task)
    target.check(plan, schema.asked(cfg))
    process.prepare(cfg.seed, cfg.trainer.threads, cfg.trainer.device)
    record = SimpleNamespace(folder=Path(), log=lambda *_: None, warn=lambda _: None)
    weights = starting_weights(OmegaConf.merge(cfg, {"start_from": start}), task, plan)
    ctx = context_of(cfg, plan, _data(OmegaConf.to_yaml(cfg.dataset), cfg.seed), task, record, weights)
    return Setting(cfg, with_target(ctx, target), target)


@cache
def _data(dataset: str, seed: int) -> Any:
    return datasets.load(OmegaConf.create(dataset), None, seed=seed)


@cache
def trained(options: Options, threads: int, steps: int = 60) -> Net:
    """A network after some steps at ten bins, whose activity decides what the chip costs; or that of ``start``."""
    return train(setting(options, 10, threads), steps)


def train(at: Setting, steps: int | None = None) -> Net:
    """The network of a setting after an epoch, or after so many steps of it; one to start from stays as it is."""
    if at.ctx.start is not None:
        return at.ctx.build("snn")
    trainer = replace(at.ctx.trainer, epochs=1, limit_batches=steps or at.ctx.trainer.limit_batches)
    with tempfile.TemporaryDirectory() as folder:
        once = replace(at.ctx, trainer=trainer, folder=Path(folder) / "checkpoints")
        return bptt.train(once, **fence.keywords(at.cfg.method)).net
