"""A store of finished runs that nobody ran: five seeds each of configurations that differ in learning rate and bins."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_module

from cil_spl import schema
from cil_spl.results.record import open_record
from cil_spl.results.row import row_of
from cil_spl.tasks.classification import classification

EPOCHS, SEEDS = 3, 5
METHODS = ("bptt", "cil_bptt", "conversion", "sltt")
STAGES = ("float", "quantized", "deployed")


def fabricate(folder: Path, runs: int) -> None:
    """Make ``runs`` run folders below ``folder/runs``, and their copies in ``folder/mlflow.db``."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    rng = np.random.default_rng(0)
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        configs = [
            schema.check_config(compose("config", overrides=[f"method={method}", "method.lr=0.001", "frames.bins=4"]))
            for method in METHODS
        ]
    with chdir(folder):
        for number in range(runs):
            group, seed = divmod(number, SEEDS)
            cfg = configs[group % len(METHODS)].copy()
            cfg.seed = seed
            cfg.method.lr = 1e-3 * (1 + group // (2 * len(METHODS)))
            cfg.frames.bins = (4, 10)[group // len(METHODS) % 2]
            one_run(cfg, folder / "runs" / f"{number:04d}", rng)


def one_run(cfg: Any, folder: Path, rng: np.random.Generator) -> None:
    """A run whose epochs and figures are drawn at random."""
    task = classification()
    with open_record(cfg, folder, tags={"backend": "simulator", "data": "fabricated"}) as record:
        for epoch in range(1, EPOCHS + 1):
            names = ("train/loss", "train/accuracy", "val/accuracy", "val/silent", "val/synops", "train/epoch_seconds")
            record.log({name: float(rng.random()) for name in names}, epoch)
        names = [f"{stage}/{column.metric}" for stage in STAGES for column in task.columns]
        metrics = {name: float(rng.random()) for name in names} | {"deployed/synops": float(rng.integers(10**6))}
        metrics |= {"deployed/n": 359.0}
        record.finish(metrics, row_of(cfg, "simulator", task, metrics))
