"""The input as the target: pixels, the error, the picture; and a network that learns it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cil_spl.data.batches import Batch, Batches
from cil_spl.methods import bptt, conversion
from cil_spl.models import answers
from cil_spl.models.build import plan_from
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.reconstruction import as_image, picture, pixels, reconstruction, shape_of
from cil_spl.training.context import Frames, TrainingContext
from tests.tasks.test_evaluation import recordings
from tests.test_seams import make_context


def image_batch(values: np.ndarray, frames: torch.Tensor) -> Batch:
    """A batch of images: no events."""
    (batch,) = Batches(recordings(len(values)), len(values), Frames(1)).epoch(0)
    return replace(batch, events=cast(Any, None), frames=frames)


def test_pixels_of_images_are_their_values_however_often_they_are_shown() -> None:
    values = np.random.default_rng(0).random((3, 2, 4, 5)).astype(np.float32)
    x = torch.from_numpy(values)
    once = torch.stack([x, torch.zeros_like(x)])
    repeated = torch.stack([x, x])
    for frames in (once, repeated):
        assert np.array_equal(pixels(image_batch(values, frames)).numpy(), values.reshape(3, -1))


def test_pixels_of_recordings_are_counts_of_the_whole() -> None:
    data = recordings(3)
    for bins in (1, 4):
        (batch,) = Batches(data, 3, Frames(bins)).epoch(0)
        found = pixels(batch).reshape(3, 2, 8, 9)
        assert found.sum(dim=(1, 2, 3)).tolist() == [len(data[i]) for i in range(3)]
        first = data[0][0]
        assert found[0, first["p"], first["y"], first["x"]] >= 1


def test_the_error_is_in_units_of_pixels() -> None:
    task = reconstruction(scale=0.5)
    outputs, target = np.array([[2.0, 0.0], [0.0, 4.0]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    assert task.metrics(outputs, None, target) == {"mse": (0 + 0 + 1 + 1) / 4}
    assert float(task.loss(torch.from_numpy(outputs), torch.from_numpy(target))) == 0.5
    assert (task.monitor, task.better, task.decide(outputs, None)) == ("mse", "less", None)
    assert task.outputs((3, 4, 5), 10) == 60


def test_a_sigmoid_output_is_one_in_loss_error_values_and_scores() -> None:
    task = reconstruction(output="sigmoid", scale=2.0)
    outputs, target = np.array([[-1000.0, 0.0, 0.4], [1000.0, -0.2, 3.0]]), np.array([[0.0, 0.2, 1.0], [0.5, 1.0, 0.9]])
    with np.errstate(over="ignore"):
        pixels = 1 / (1 + np.exp(-2 * outputs))
    squares = (pixels - target) ** 2
    assert task.metrics(outputs, None, target)["mse"] == pytest.approx(squares.mean(), rel=1e-12)
    assert float(task.loss(torch.from_numpy(outputs), torch.from_numpy(target))) == pytest.approx(
        squares.mean(), rel=1e-12
    )
    np.testing.assert_allclose(task.scores(outputs, None, target), squares.mean(axis=1))
    np.testing.assert_allclose(task.values(outputs, (3, 1, 1))[:, :, 0, 0], pixels, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_picture_of_images(channels: int, tmp_path: Path) -> None:
    """A row per stage below the inputs, a column per input; a perfect output looks like its input."""
    values = np.random.default_rng(0).random((4, channels, 6, 5))
    seen = ev.Evaluation({}, None, values.reshape(4, -1), np.arange(4), 2 * values.reshape(4, -1))
    data = SimpleNamespace(values=values, name=np.array(["a", "b", "c", "d"]))
    figure = picture({"float": seen, "deployed": seen}, data, lambda outputs: 0.5 * outputs, most=3)
    assert len(figure.axes) == 3 * 3
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert all(np.allclose(shown[k], shown[k + 3]) and np.allclose(shown[k], shown[k + 6]) for k in range(3))
    assert not np.allclose(shown[0], shown[1])
    reconstruction(scale=0.5, pictures=2).files(tmp_path, {"deployed": seen}, data)
    assert (tmp_path / "figures" / "reconstruction.png").stat().st_size > 1000


def test_channels_become_colours() -> None:
    x = np.zeros((3, 2, 2))
    x[0] = 1
    assert as_image(x, 0, 1)[0, 0].tolist() == [1, 0, 0]
    assert as_image(x[:1], 0, 2).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert as_image(x[:2], 0, 1)[0, 0].tolist() == [0, 0, 1]  # OFF
    assert shape_of(recordings(2)) == (2, 8, 9)


def of_inputs(folder: Path, **trainer: Any) -> tuple[TrainingContext, list[dict[str, float]]]:
    """The toy recordings, and a network with an output for each pixel."""
    task = reconstruction(scale=0.25)
    plan = plan_from("toy", [{"linear": "classes"}], (2, 8, 9), task.outputs((2, 8, 9), 3))
    lines: list[dict[str, float]] = []
    ctx = make_context(folder, lambda metrics, _: lines.append(metrics), **trainer)
    return replace(ctx, task=task, plan=plan), lines


def test_a_network_learns_its_input_and_the_lowest_error_counts(tmp_path: Path) -> None:
    ctx, lines = of_inputs(tmp_path, epochs=6)
    net = bptt.train(ctx, lr=3e-2).net
    errors = [line["val/mse"] for line in lines]
    val = ctx.batches(ctx.experiences[0].val, train=False)
    seen = ev.evaluate(answers.stepped_answer(net), val.epoch(0), ctx.task)
    assert seen.metrics["mse"] == pytest.approx(min(errors))
    assert min(errors) < 0.7 * np.square(seen.target).mean()  # better than an output of nothing


def test_the_counts_of_the_loss_are_those_of_the_error(tmp_path: Path) -> None:
    """``count_scale`` is a temperature of a softmax; a task that has none is not scaled twice."""
    ctx, _ = of_inputs(tmp_path)
    batch = next(ctx.batches(ctx.experiences[0].val, train=False).epoch(0))
    outputs = torch.rand(len(batch), 144)
    assert torch.equal(ctx.loss(outputs, batch, 0.25), ctx.loss(outputs, batch))
    classes = make_context(tmp_path)
    assert torch.equal(classes.loss(outputs[:, :3], batch, 0.25), classes.loss(0.25 * outputs[:, :3], batch))


def test_the_gain_with_the_lowest_error_is_taken(tmp_path: Path) -> None:
    ctx, _ = of_inputs(tmp_path, epochs=1)
    ann = ctx.build("cnn")
    gains = [0.01, 1.0, 50.0]
    _, notes = conversion.choose_gain(ctx, ann, {"linear1": 1.0}, gains)
    assert notes["chosen/gain"] == min(gains, key=lambda gain: notes[f"val/gain_{gain:g}"])
    assert len({notes[f"val/gain_{gain:g}"] for gain in gains}) == 3
