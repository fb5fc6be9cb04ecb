"""Epochs, early stopping, schedules, checkpoints: what every method shares, as plain functions.

A method brings a ``step(batch)`` and its named stateful things; stages are a loop over :func:`fit`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch, Batches
from cil_spl.training.checkpoints import Stateful, read_checkpoint, write_checkpoint
from cil_spl.training.update import Trainer

_log = logging.getLogger(__name__)


@dataclass
class Fitted:
    """What a fit came to: the chosen epoch (from 1), its score, and how many ran."""

    best_epoch: int = 0
    best_score: float = -math.inf
    epochs: int = 0
    seconds: float = 0.0
    stopped: str = "all epochs done"
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    *,
    step: Callable[[Batch], Mapping[str, float | Tensor]],
    score: Callable[[], Mapping[str, float]],
    batches: Batches,
    keep: Mapping[str, Stateful],
    trainer: Trainer,
    monitor: str,
    folder: Path,
    log: Callable[[dict[str, float], int], None],
    stage: str = "train",
    first_epoch: int = 0,
    progress: bool | None = None,
) -> Fitted:
    """Train for some epochs and leave ``keep`` as it was at the best of them.

    Args:
        step: one batch, gradient and update included; returns what to average over the epoch.
        score: the validation metrics by name, after each epoch; ``monitor`` among them, more is better.
        keep: all that training changes; saved after every epoch, and put back from the best.
        folder: where checkpoints lie. A fit that was cut off goes on from there; one that was done is not done again.
        stage: name of this fit within the run.
        first_epoch: number under which the first epoch is logged and shuffled.

    Raises:
        RequestError: the loss is not a number any more; a checkpoint of another format.
    """
    last_file, best_file = folder / f"{stage}-last.pt", folder / f"{stage}-best.pt"
    fitted = Fitted()
    if last_file.exists():
        saved = read_checkpoint(last_file)
        for name, thing in keep.items():
            thing.load_state_dict(saved["keep"][name])
        torch.set_rng_state(saved["rng"])
        fitted = Fitted(**saved["fitted"])
    done = fitted.stopped if last_file.exists() and fitted.epochs == trainer.epochs else None
    while done is None and fitted.epochs < trainer.epochs:
        epoch = first_epoch + fitted.epochs
        began = time.monotonic()
        sums: dict[str, float] = {}
        n = 0
        for batch in _bar(
            batches.epoch(epoch), len(batches), f"{stage} {fitted.epochs + 1}/{trainer.epochs}", progress
        ):
            values = {name: float(value) for name, value in step(batch).items()}
            if not math.isfinite(values.get("loss", 0.0)):
                raise RequestError(
                    f"method.lr: the loss became {values['loss']} in epoch {epoch + 1}; lower the learning rate"
                )
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            n += 1
            out_of_time = (
                trainer.max_seconds is not None and fitted.seconds + time.monotonic() - began > trainer.max_seconds
            )
            if out_of_time:
                break
        metrics = {f"train/{name}": total / n for name, total in sums.items()}
        metrics |= {f"val/{name}": value for name, value in score().items()}
        fitted.epochs += 1
        fitted.seconds += time.monotonic() - began
        metrics["train/epoch_seconds"] = time.monotonic() - began
        fitted.history.append(metrics)
        log(metrics, epoch + 1)
        _log.info("%s", _line(stage, fitted.epochs, trainer.epochs, metrics))
        if metrics[f"val/{monitor}"] > fitted.best_score:
            fitted.best_score, fitted.best_epoch = metrics[f"val/{monitor}"], fitted.epochs
            write_checkpoint(best_file, {"keep": {name: thing.state_dict() for name, thing in keep.items()}})
        if trainer.patience is not None and fitted.epochs - fitted.best_epoch >= trainer.patience:
            fitted.stopped = f"no better for {trainer.patience} epochs"
            done = fitted.stopped
        if trainer.max_seconds is not None and fitted.seconds >= trainer.max_seconds:
            fitted.stopped = done = f"trainer.max_seconds={trainer.max_seconds:g} reached"
        write_checkpoint(
            last_file,
            {
                "keep": {name: thing.state_dict() for name, thing in keep.items()},
                "rng": torch.get_rng_state(),
                "fitted": vars(fitted),
            },
        )
    if best_file.exists():
        best = read_checkpoint(best_file)
        for name, thing in keep.items():
            thing.load_state_dict(best["keep"][name])
    return fitted


def _line(stage: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """What an epoch came to, in one line."""
    shown = [f"{stage} {epoch}/{epochs}"]
    shown += [f"{name} {value:.4g}" for name, value in metrics.items() if name != "train/epoch_seconds"]
    return "  ".join([*shown, f"{metrics['train/epoch_seconds']:.1f} s"])


def _bar(batches: Iterable[Batch], total: int, title: str, progress: bool | None) -> Iterable[Batch]:
    import sys

    from tqdm import tqdm

    # A pipe or a log file gets no bar.
    disable = not sys.stderr.isatty() if progress is None else not progress
    return tqdm(batches, total=total, desc=title, leave=False, disable=disable, dynamic_ncols=True)
