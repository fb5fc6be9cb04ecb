"""The pictures of a run: confusion matrix, learning curve, activity per layer, one recording with what it made fire."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cil_spl.base.files import write_text
from cil_spl.data.events import Data
from cil_spl.tasks.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = {"float": "C0", "spiking": "C4", "quantized": "C1", "deployed": "C2"}
ON, OFF = "#c1440e", "#1f5a99"


def write(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Rows are the true classes, columns the decisions, the last column no decision. Shape (K, K + 1)."""
    k = len(classes)
    figure = _figure(1.6 + 0.42 * (k + 1), 1.4 + 0.42 * k)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for y, x in zip(*np.nonzero(matrix), strict=True):
        axes.text(x, y, matrix[y, x], ha="center", va="center", fontsize=8, color="w" if share[y, x] > 0.6 else "k")
    axes.set_xticks(range(k + 1), [*classes, "none"], rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(range(k), classes)
    axes.set(xlabel="answer", ylabel="class", title=title)
    return figure


def write_confusion(path: Path, matrix: np.ndarray, classes: Sequence[str]) -> None:
    """The same as a table: a row per class, a column per answer."""
    lines = [["class", *classes, "none"], *([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))]
    write_text(path, "".join(",".join(map(str, line)) + "\n" for line in lines))


def write_decisions(path: Path, evaluations: Mapping[str, Evaluation], recordings: Data) -> None:
    """Each stage's answer to each recording, for paired comparisons between runs; ``none`` where there is no answer."""
    names = [*(recordings.classes or ()), "none"]
    first = next(iter(evaluations.values()))
    answers = [[names[k] for k in seen.decision] for seen in evaluations.values()]
    lines = [["recording", "class", *evaluations]]
    for row, (index, target) in enumerate(zip(first.index.tolist(), first.target.tolist(), strict=True)):
        lines.append([str(recordings.name[index]), names[target], *(column[row] for column in answers)])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(path, text.getvalue())


def learning_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy over epochs, from the lines of metrics.jsonl."""
    figure = _figure(7, 3)
    left, right = figure.subplots(1, 2)
    for axes, quantity in ((left, "loss"), (right, "accuracy")):
        for split, colour in (("train", "C0"), ("val", "C1")):
            points = [(h["step"], h[f"{split}/{quantity}"]) for h in history if f"{split}/{quantity}" in h]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=split)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def activity(metrics: Mapping[str, Mapping[str, float]]) -> Figure:
    """Events and synaptic operations of each layer, one bar per network; mean per recording."""
    figure = _figure(8, 3)
    shown = {stage: m for stage, m in metrics.items() if any(key.startswith("events/") for key in m)}
    for axes, quantity, label in zip(
        figure.subplots(1, 2),
        ("events", "synops"),
        ("events per recording", "synaptic operations per recording"),
        strict=True,
    ):
        width = 0.8 / max(1, len(shown))
        for i, (stage, values) in enumerate(shown.items()):
            layers = [key.partition("/")[2] for key in values if key.startswith(f"{quantity}/")]
            at = np.arange(len(layers)) + (i - (len(shown) - 1) / 2) * width
            axes.bar(at, [values[f"{quantity}/{name}"] for name in layers], width, color=STAGES[stage], label=stage)
            axes.set_xticks(range(len(layers)), layers, fontsize=8)
        axes.set(ylabel=label, yscale="log")
        axes.grid(axis="y", alpha=0.3)
    if shown:
        axes.legend(frameon=False, fontsize=8)
    return figure


def recording(
    events: np.ndarray, output_us: np.ndarray, output_class: np.ndarray, classes: Sequence[str], title: str
) -> Figure:
    """One recording: its events as a map and over time, and the output events that it caused."""
    figure = _figure(8, 3.2)
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 2.4])
    view, rate, raster = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
    view.imshow(event_map(events))
    for polarity, colour in ((1, ON), (0, OFF)):
        here = events[events["p"] == polarity]
        rate.hist(here["t"] / 1000, bins=100, histtype="step", color=colour, label="ON" if polarity else "OFF")
    view.set(xlabel="x", ylabel="y", title=title)
    rate.set(ylabel="input events")
    rate.legend(frameon=False, fontsize=8, loc="upper right")
    raster.plot(output_us / 1000, output_class, "|", color="k", markersize=6)
    raster.set(xlabel="time (ms)", ylabel="output", xlim=rate.get_xlim(), ylim=(-0.7, len(classes) - 0.3))
    raster.set_yticks(range(len(classes)), classes, fontsize=7)
    raster.grid(axis="y", alpha=0.3)
    return figure


def event_map(events: np.ndarray) -> np.ndarray:
    """Counts as colours on white: ON takes away green and blue, OFF red and green. Shape (H, W, 3)."""
    height, width = int(events["y"].max(initial=0)) + 1, int(events["x"].max(initial=0)) + 1
    counts = np.zeros((2, height, width))
    np.add.at(counts, (events["p"], events["y"], events["x"]), 1)
    on, off = counts[1] / max(1, np.percentile(counts, 99.5)), counts[0] / max(1, np.percentile(counts, 99.5))
    return np.clip(np.stack([1 - off, 1 - (on + off) / 2, 1 - on], axis=-1), 0, 1)


def draw(
    folder: Path,
    history: Sequence[Mapping[str, float]],
    evaluations: Mapping[str, Evaluation],
    classes: Sequence[str],
    example: Mapping[str, Any] | None,
) -> list[Path]:
    """All pictures of a run; ``example`` holds the arguments of :func:`recording`."""
    made = [
        write(confusion(evaluations["deployed"].confusion, classes, "deployed network"), folder / "confusion.png"),
        write(learning_curve(history), folder / "learning_curve.png"),
    ]
    if any(e.events for e in evaluations.values()):
        made.append(write(activity({stage: e.metrics for stage, e in evaluations.items()}), folder / "activity.png"))
    if example is not None:
        made.append(write(recording(**example, classes=classes), folder / "recording.png"))
    return made
