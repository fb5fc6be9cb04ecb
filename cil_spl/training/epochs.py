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
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch, Batches
from cil_spl.models import neurons

CHECKPOINT_FORMAT = 1
_log = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything that can be saved and put back: tensors, numbers, strings, lists and dicts only."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Trainer:
    """How long and how to step; the config group ``trainer``. Times in seconds."""

    epochs: int = 25
    batch_size: int = 16
    eval_batch_size: int = 128
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 0
    patience: int | None = None
    grad_clip: float | None = None
    max_seconds: float | None = None
    limit_batches: int | None = None


class Update:
    """The only place where an optimizer steps.

    Averages gradients over ranks, transforms them if the method has a transform, clips, steps, counts the ``steps``,
    and tells who wants to know that weights have changed. An online method calls it at every time step.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        trainer: Trainer,
        *,
        lr: float,
        total_steps: int,
        transform: Callable[[list[nn.Parameter]], None] | None = None,
        changed: Iterable[Callable[[], None]] = (),
    ) -> None:
        self.params = [p for p in params if p.requires_grad]
        self.steps = 0
        self.clip, self.transform, self.changed = trainer.grad_clip, transform, tuple(changed)
        if trainer.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.params, lr=lr, momentum=trainer.momentum, weight_decay=trainer.weight_decay
            )
        else:
            self.optimizer = torch.optim.Adam(self.params, lr=lr, weight_decay=trainer.weight_decay)
        # What an earlier stage left in these gradients is not ours to step along.
        self.optimizer.zero_grad(set_to_none=True)
        factor = schedule(trainer.schedule, total_steps, trainer.warmup_steps)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def __call__(self) -> None:
        if dist.is_available() and dist.is_initialized():
            for p in self.params:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()
        if self.transform is not None:
            self.transform(self.params)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.params, self.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        for tell in self.changed:
            tell()

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.steps = int(state["steps"])


def schedule(kind: str, total_steps: int, warmup_steps: int = 0) -> Callable[[int], float]:
    """Factor on the learning rate: ``constant``, ``cosine`` to zero, or ``step`` (a tenth at 60 and at 85 %)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if kind == "step":
            return 0.1 ** ((done >= 0.6) + (done >= 0.85))
        return 1.0

    return factor


class Weights:
    """A network's weights as a stateful thing, without the neurons' states."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def state_dict(self) -> dict[str, Tensor]:
        return neurons.weights_of(self.net)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        neurons.load_weights(self.net, state)


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


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    torch.save({"format": CHECKPOINT_FORMAT} | content, new)
    new.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote; no code in the file is run.

    Raises:
        RequestError: not a checkpoint, or of another format.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        version = content["format"]
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except Exception as error:
        raise RequestError(f"{path}: not a checkpoint of cilspl, or damaged ({type(error).__name__})") from None
    if version != CHECKPOINT_FORMAT:
        raise RequestError(f"{path}: format {version}; this version reads {CHECKPOINT_FORMAT}")
    return content


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
