"""The task: what outputs mean, what they cost, and how good they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What pipeline and methods ask of a task.

    Attributes:
        loss: outputs [B, K] and targets [B] → scalar.
        decide: outputs [B, K] → decisions [B], -1 where there is none.
        metrics: decisions and targets → fractions by name.
        monitor: the metric on which an epoch, a setting or a row is chosen; more is better.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    decide: Callable[[np.ndarray], np.ndarray]
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    monitor: str = "accuracy"


def classification(*, name: str = "classification", label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0) -> Task:
    """One class per recording: the one with most output events; a tie or silence is no answer, and wrong."""
    return Task(
        name=name,
        loss=lambda outputs, target: F.cross_entropy(outputs, target, label_smoothing=label_smoothing),
        decide=most_events,
        metrics=lambda decision, target: {"accuracy": float((decision == target).mean())},
    )


def most_events(outputs: np.ndarray) -> np.ndarray:
    """The class with most output events, -1 for a tie. Shape: (B, K) → (B,)."""
    best = outputs.max(axis=1)
    tie = (outputs == best[:, None]).sum(axis=1) > 1
    return np.where(tie, -1, outputs.argmax(axis=1))
