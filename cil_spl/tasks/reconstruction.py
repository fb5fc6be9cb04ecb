"""Reconstruction: the outputs shall be the input itself, pixel by pixel; what an autoencoder is trained on.

Outputs are counts of events on a spiking network, pixels mostly fractions, so that an output event stands for a value
(``scale``). An image is a pixel's target as it is; of a recording of events, its number of events at each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from cil_spl.base import drawing
from cil_spl.data.batches import Batch
from cil_spl.tasks.evaluation import Evaluation
from cil_spl.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstruction(
    *,
    name: str = "reconstruction",
    scale: Annotated[float, Gt(0)] = 1.0,
    output: Literal["linear", "sigmoid"] = "linear",
    pictures: Annotated[int, Ge(1), Le(100)] = 8,
) -> Task:
    """The input from a network's outputs, one output for each pixel of each channel; judged by the mean square error.

    Args:
        name: what results call it.
        scale: factor on the outputs; of a spiking output, the value of an event in units of a pixel.
        output: what a pixel is: the scaled output itself (``linear``), or its ``sigmoid``, from 0 to 1.
        pictures: test inputs that are drawn beside the outputs.
    """

    def values(outputs: np.ndarray) -> np.ndarray:
        # The tanh does not overflow.
        return 0.5 + 0.5 * np.tanh(0.5 * scale * outputs) if output == "sigmoid" else scale * outputs

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        scaled = scale * outputs
        return F.mse_loss(scaled.sigmoid() if output == "sigmoid" else scaled, target)

    def metrics(outputs: np.ndarray, decision: np.ndarray | None, target: np.ndarray) -> dict[str, float]:
        return {"mse": float(np.square(values(outputs) - target).mean())}

    def files(folder: Path, evaluations: Mapping[str, Evaluation], data: Any) -> None:
        drawing.write(picture(evaluations, data, values, pictures), folder / "figures" / "reconstruction.png")

    return Task(
        name=name,
        monitor="mse",
        better="less",
        loss=loss,
        metrics=metrics,
        scores=lambda outputs, decision, target: np.square(values(outputs) - target).mean(axis=1),
        values=lambda outputs, input_shape: values(outputs).reshape(-1, *input_shape),  # B K -> B C H W
        target=pixels,
        outputs=lambda input_shape, n_classes: math.prod(input_shape),
        files=files,
    )


def pixels(batch: Batch) -> Tensor:
    """What a batch shows, flat. Shape (B, C H W).

    An image stands whole in its first time step, in any other it is repeated or absent; events lie in all of them.
    """
    frames = batch.frames  # T B C H W
    return (frames[0] if batch.events is None else frames.sum(dim=0)).flatten(1)


def picture(
    evaluations: Mapping[str, Evaluation], data: Any, values: Callable[[np.ndarray], np.ndarray], most: int
) -> Figure:
    """The first inputs in the upper row, below them each stage's outputs; all of a column in the same range.

    Args:
        evaluations: by stage.
        data: the test set, for its shape (C, H, W) and the names of its inputs.
        values: of pixels, from outputs.
        most: columns.
    """
    first = next(iter(evaluations.values()))
    n, shape = min(most, len(first.target)), shape_of(data)
    rows = {"input": first.target} | {stage: values(seen.outputs) for stage, seen in evaluations.items()}
    figure = drawing.figure(1.0 + 1.15 * n, 0.4 + 1.25 * len(rows))
    grid = figure.subplots(len(rows), n, squeeze=False)
    for axes, (title, shown) in zip(grid, rows.items(), strict=True):
        for k in range(n):
            low, high = min(0.0, float(first.target[k].min())), float(first.target[k].max())
            axes[k].imshow(as_image(shown[k].reshape(shape), low, high), vmin=0, vmax=1, cmap="gray")
            axes[k].set(xticks=[], yticks=[])
        axes[0].set_ylabel(title, fontsize=8)
    for k, axes in enumerate(grid[0]):
        axes.set_title(str(data.name[first.index[k]])[-14:], fontsize=7)
    return figure


def shape_of(data: Any) -> tuple[int, ...]:
    """(C, H, W) of a set's inputs: of images (R, C, H, W), or of recordings of a sensor."""
    values = getattr(data, "values", None)
    if isinstance(values, np.ndarray):
        return tuple(values.shape[1:])
    width, height, polarities = data.sensor_size
    return polarities, height, width


def as_image(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Channels as a picture: one as grey, three as red, green and blue, two polarities as blue (OFF) and red (ON) on
    black, any other number as their mean.

    Shape:
        values: (C, H, W) → (H, W) or (H, W, 3), from 0 to 1.
    """
    x = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    if len(x) == 3:
        return np.moveaxis(x, 0, -1)  # C H W -> H W C
    if len(x) == 2:
        return np.stack([x[1], np.zeros_like(x[0]), x[0]], axis=-1)
    return x.mean(axis=0) if len(x) > 1 else x[0]
