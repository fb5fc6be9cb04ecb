"""One optimizer step: the only place where weights are stepped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from cil_spl.base import ranks
from cil_spl.training.options import Trainer


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
        if ranks.together():
            for p in self.params:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                ranks.mean(p.grad)
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
