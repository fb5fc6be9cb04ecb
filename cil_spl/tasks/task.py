"""What pipeline and methods ask of a task: what outputs mean, what they cost, and how good they are.

A network's outputs are the sum over time of its last layer. A task is plain values and functions, most with a default,
so that one of a user's own is a function that returns a :class:`Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch
from cil_spl.tasks.columns import Column

if TYPE_CHECKING:
    from cil_spl.tasks.evaluation import Evaluation

BETTER = ("more", "less")


def _target_of(batch: Batch) -> Tensor:
    return batch.target


def _one_per_class(input_shape: Sequence[int], n_classes: int | None) -> int:
    if n_classes is None:
        raise RequestError(
            "dataset.n_classes=null: this task has one output for each class; choose a data set with classes, or a "
            "task that says how many outputs it needs"
        )
    return n_classes


def _no_decision(outputs: np.ndarray, allowed: Sequence[int] | None = None) -> None:
    return None


def _no_scores(outputs: np.ndarray, decision: np.ndarray | None, target: np.ndarray) -> None:
    return None


def _as_they_are(outputs: np.ndarray, input_shape: Sequence[int]) -> np.ndarray:
    return outputs


def _nothing(outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {}


def _no_files(folder: Path, evaluations: Mapping[str, Evaluation], data: Any) -> None:
    return None


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: what results call it.
        monitor: the metric by which an epoch, a setting or a run is chosen.
        loss: outputs (B, K) and targets (B, ...) → scalar.
        metrics: outputs, decisions and targets of a whole set → numbers by name, ``monitor`` among them; fractions run
            from 0 to 1.
        better: whether ``more`` or ``less`` of ``monitor`` is better.
        columns: the metrics that rows show; ``monitor`` alone where none are named.
        decide: outputs (B, K), and the outputs that count (None for all) → decisions (B,), -1 where there is none; None
            where the task has no decisions.
        scores: outputs, decisions and targets of a whole set → what ``monitor`` is for each input, so that their mean
            is that of the set, for paired comparisons between runs; None where it is no such mean. Shape (B,).
        values: outputs (B, K) and the input shape (C, H, W) → what they say, as ``predict`` keeps it. Shape (B, ...).
        target: what a batch asks for. Shape (B, ...).
        outputs: input shape (C, H, W) and number of classes of the data → number of outputs, K.
        train_metrics: outputs and targets of a training batch → what the log says of it besides the loss.
        files: folder of the run, evaluations by stage and the test set → the files that the task leaves there.
        softmax: whether the loss takes a softmax of the outputs, so that a method may scale them (``count_scale``).
    """

    name: str
    monitor: str
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Callable[[np.ndarray, np.ndarray | None, np.ndarray], dict[str, float]]
    better: Literal["more", "less"] = "more"
    columns: tuple[Column, ...] = ()
    decide: Callable[[np.ndarray, Sequence[int] | None], np.ndarray | None] = _no_decision
    scores: Callable[[np.ndarray, np.ndarray | None, np.ndarray], np.ndarray | None] = _no_scores
    values: Callable[[np.ndarray, Sequence[int]], np.ndarray] = _as_they_are
    target: Callable[[Batch], Tensor] = _target_of
    outputs: Callable[[Sequence[int], int | None], int] = _one_per_class
    train_metrics: Callable[[Tensor, Tensor], Mapping[str, float | Tensor]] = _nothing
    files: Callable[[Path, Mapping[str, Evaluation], Any], None] = _no_files
    softmax: bool = False

    def __post_init__(self) -> None:
        if self.better not in BETTER:
            raise RequestError(f"task={self.name}: better={self.better}: allowed are {', '.join(BETTER)}")
        object.__setattr__(self, "columns", tuple(self.columns) or (Column(self.monitor),))
        for column in self.columns:
            if column.metric != column.metric.strip(" %,") or len(column.metric.split()) != 1 or "," in column.metric:
                raise RequestError(f"task={self.name}: column {column.metric!r}: needs a metric's name of one word")

    def is_better(self, value: float, than: float) -> bool:
        """Whether one value of ``monitor`` is better than another; one that is not a number never is."""
        return value < than if self.better == "less" else value > than

    def best(self, values: Sequence[float]) -> float:
        """The best of some values of ``monitor``."""
        return min(values) if self.better == "less" else max(values)
