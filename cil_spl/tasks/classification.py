"""Classification: one class per recording, the one with the largest output."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch.nn.functional as F
from annotated_types import Ge, Le

from cil_spl.base import drawing
from cil_spl.base.files import write_text
from cil_spl.tasks.columns import CLASSIFICATION
from cil_spl.tasks.evaluation import Evaluation
from cil_spl.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def classification(*, name: str = "classification", label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0) -> Task:
    """One class per recording: the one with most output events; a tie or silence is no answer, and wrong."""
    return Task(
        name=name,
        monitor="accuracy",
        columns=CLASSIFICATION,
        loss=lambda outputs, target: F.cross_entropy(outputs, target, label_smoothing=label_smoothing),
        decide=most_events,
        metrics=metrics,
        scores=right,
        train_metrics=lambda outputs, target: {"accuracy": (outputs.argmax(1).cpu() == target).float().mean()},
        files=write_files,
        softmax=True,
    )


def most_events(outputs: np.ndarray, allowed: Sequence[int] | None = None) -> np.ndarray:
    """The class with most output events, -1 for a tie; of ``allowed`` classes only, if given. Shape: (B, K) → (B,)."""
    if allowed is not None:
        counts = np.full_like(outputs, -np.inf, dtype=np.float64)
        counts[:, list(allowed)] = outputs[:, list(allowed)]
        outputs = counts
    best = outputs.max(axis=1)
    tie = (outputs == best[:, None]).sum(axis=1) > 1
    return np.where(tie, -1, outputs.argmax(axis=1))


def right(outputs: np.ndarray, decision: np.ndarray | None, target: np.ndarray) -> np.ndarray:
    """Whether each recording was answered correctly. Shape (B,)."""
    assert decision is not None
    found: np.ndarray = decision == target
    return found


def metrics(outputs: np.ndarray, decision: np.ndarray | None, target: np.ndarray) -> dict[str, float]:
    """``accuracy``; ``accuracy_low`` and ``accuracy_high``, its 95 % Wilson interval; ``accuracy_worst_class``, the
    lowest accuracy of a class that has a recording."""
    assert decision is not None
    n, right = len(target), decision == target
    low, high = wilson(int(right.sum()), n)
    worst = min(float(right[target == k].mean()) for k in np.unique(target))
    share = {"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high}
    return share | {"accuracy_worst_class": worst}


def wilson(right: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % interval of a fraction (Wilson 1927)."""
    p = right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion_matrix(decision: np.ndarray, target: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts by true class (rows) and decision (columns); the last column is no decision. Shape (K, K + 1)."""
    matrix = np.zeros((n_classes, n_classes + 1), np.int64)
    np.add.at(matrix, (target, np.where(decision < 0, n_classes, decision)), 1)
    return matrix


# --- files ------------------------------------------------------------------------------------------------------------


def write_files(folder: Path, evaluations: Mapping[str, Evaluation], data: Any) -> None:
    """``confusion.csv`` and its picture, ``per_class.csv`` and ``decisions.csv``."""
    last = evaluations["deployed"]
    classes = data.classes or tuple(str(k) for k in range(last.outputs.shape[1]))
    matrices = {stage: _matrix(seen) for stage, seen in evaluations.items()}
    confusion = matrices["deployed"]
    _write_table(
        folder / "confusion.csv",
        [["class", *classes, "none"], *([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))],
    )
    _write_table(folder / "per_class.csv", per_class(matrices, classes))
    _write_table(folder / "decisions.csv", decisions(evaluations, data.name, classes))
    drawing.write(confusion_picture(confusion, classes, "deployed network"), folder / "figures" / "confusion.png")


def _matrix(seen: Evaluation) -> np.ndarray:
    assert seen.decision is not None
    return confusion_matrix(seen.decision, seen.target, seen.outputs.shape[1])


def _write_table(path: Path, lines: Sequence[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(path, text.getvalue())


def per_class(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[list[object]]:
    """A line for each class: its recordings, and the accuracy of each stage on them; empty where it has none.

    Args:
        matrices: the confusion matrix of each stage. Shape (K, K + 1) each.
        classes: their names.
    """
    size = next(iter(matrices.values())).sum(axis=1)
    lines: list[list[object]] = [["class", "recordings", *matrices]]
    for k, name in enumerate(classes):
        lines.append([name, int(size[k]), *(matrix[k, k] / size[k] if size[k] else "" for matrix in matrices.values())])
    return lines


def decisions(
    evaluations: Mapping[str, Evaluation], recordings: Sequence[str], classes: Sequence[str]
) -> list[list[str]]:
    """Each stage's answer to each recording, for paired comparisons between runs; ``none`` where there is no answer."""
    names = [*classes, "none"]
    first = next(iter(evaluations.values()))
    answers = [[names[k] for k in seen.decision] for seen in evaluations.values() if seen.decision is not None]
    lines = [["recording", "class", *evaluations]]
    for row, (index, target) in enumerate(zip(first.index.tolist(), first.target.tolist(), strict=True)):
        lines.append([str(recordings[index]), names[target], *(column[row] for column in answers)])
    return lines


def confusion_picture(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Rows are the true classes, columns the decisions, the last column no decision. Shape (K, K + 1)."""
    k = len(classes)
    figure = drawing.figure(1.6 + 0.42 * (k + 1), 1.4 + 0.42 * k)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for y, x in zip(*np.nonzero(matrix), strict=True):
        axes.text(x, y, matrix[y, x], ha="center", va="center", fontsize=8, color="w" if share[y, x] > 0.6 else "k")
    axes.set_xticks(range(k + 1), [*classes, "none"], rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(range(k), classes)
    axes.set(xlabel="answer", ylabel="class", title=title)
    return figure
