"""The pictures of a run of any task: learning curve, activity per layer, one recording with what it made fire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cil_spl.base import drawing
from cil_spl.results.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cil_spl.data.batches import Batch
    from cil_spl.results.record import Record
    from cil_spl.targets.deploy import Deployed
    from cil_spl.targets.target import Target, TargetNetwork
    from cil_spl.training.context import TrainingContext

STAGES = {"float": "C0", "spiking": "C4", "quantized": "C1", "deployed": "C2"}
ON, OFF = "#c1440e", "#1f5a99"


def learning_curve(history: Sequence[Mapping[str, float]], monitor: str) -> Figure:
    """Loss, and the metric that epochs are judged by, over epochs, from the lines of metrics.jsonl.

    The deployed network's stands beside it where it was asked for, and stages of training are shaded in turn.
    """
    figure = drawing.figure(7, 3)
    left, right = figure.subplots(1, 2)
    for axes, quantity in ((left, "loss"), (right, monitor)):
        for key, label, colour in (
            (f"train/{quantity}", "train", "C0"),
            (f"val/{quantity}", "val", "C1"),
            (f"val/deployed_{quantity}", "val, deployed", "C2"),
        ):
            points = [(h["step"], h[key]) for h in history if key in h]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=label)
        for stage, first, last in _stages(history):
            if stage % 2:
                axes.axvspan(first - 0.5, last + 0.5, color="0.92", zorder=0)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    return figure


def _stages(history: Sequence[Mapping[str, float]]) -> list[tuple[int, float, float]]:
    """Each stage of training by its number, with its first and its last epoch."""
    found: dict[int, list[float]] = {}
    for line in history:
        if "train/stage" in line:
            found.setdefault(int(line["train/stage"]), []).append(line["step"])
    return [(stage, min(steps), max(steps)) for stage, steps in found.items()]


def activity(metrics: Mapping[str, Mapping[str, float]]) -> Figure:
    """Events and synaptic operations of each layer, one bar per network; mean per recording."""
    figure = drawing.figure(8, 3)
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
    events: np.ndarray,
    output_us: np.ndarray,
    output_class: np.ndarray,
    classes: Sequence[str],
    title: str,
    n_outputs: int,
) -> Figure:
    """One recording: its events as a map and over time, and the output events that it caused."""
    figure = drawing.figure(8, 3.2)
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
    raster.set(xlabel="time (ms)", ylabel="output", xlim=rate.get_xlim(), ylim=(-0.7, n_outputs - 0.3))
    if n_outputs == len(classes):  # an output per class, as a rule
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


def example_of(target: Target, network: TargetNetwork, batch: Batch, recordings: Any) -> dict[str, Any] | None:
    """One recording and the output events that it caused: arguments of :func:`recording`; None where there are none."""
    found = target.output_events(network, batch) if batch.events is not None else None
    if found is None or recordings.classes is None:
        return None
    title = f"{recordings.name[0]}: class {recordings.classes[int(recordings.target[0])]}"
    return {"events": batch.events, "output_us": found[0], "output_class": found[1], "title": title}


def draw(record: Record, ctx: TrainingContext, target: Target, deployed: Deployed) -> list[Path]:
    """The pictures of a run that are alike for all tasks.

    Args:
        record: of the run.
        ctx: its task and data.
        target: the target.
        deployed: what came out.
    """
    test, seen = ctx.experiences[-1].test, deployed.evaluations
    pictures = {"learning_curve.png": learning_curve(read_metrics(record.folder), ctx.task.monitor)}
    if any(e.events for e in seen.values()):
        pictures["activity.png"] = activity({stage: e.metrics for stage, e in seen.items()})
    batch = next(ctx.batches(test.subset([0]), train=False).epoch(0))
    example = example_of(target, deployed.network, batch, test)
    if example is not None:
        n_outputs = seen["deployed"].outputs.shape[1]
        pictures["recording.png"] = recording(**example, classes=test.classes or (), n_outputs=n_outputs)
    return [drawing.write(picture, record.place / "figures" / name) for name, picture in pictures.items()]
