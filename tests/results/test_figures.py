"""Pictures: what they show, read off their axes."""

from __future__ import annotations

from cil_spl.results.figures import learning_curve

HISTORY = [
    {"step": 1, "train/loss": 0.9, "train/stage": 0.0, "val/accuracy": 0.5},
    {"step": 2, "train/loss": 0.8, "train/stage": 0.0, "val/accuracy": 0.6},
    {"step": 3, "train/loss": 0.7, "train/stage": 1.0, "val/accuracy": 0.4, "val/loss": 0.7},
    {"step": 4, "train/loss": 0.6, "train/stage": 2.0, "val/accuracy": 0.7, "val/deployed_accuracy": 0.65},
]


def test_the_learning_curve_shows_the_deployed_network_and_shades_stages():
    loss, accuracy = learning_curve(HISTORY, "accuracy").axes
    shown = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in accuracy.lines}
    assert shown == {"val": [(1, 0.5), (2, 0.6), (3, 0.4), (4, 0.7)], "val, deployed": [(4, 0.65)]}
    assert {line.get_label(): list(line.get_data()[0]) for line in loss.lines} == {"train": [1, 2, 3, 4], "val": [3]}
    for axes in (loss, accuracy):
        (shade,) = axes.patches  # every second stage
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (2.5, 3.5)


def test_a_run_of_one_stage_has_no_shade():
    history = [{key: value for key, value in line.items() if key != "train/stage"} for line in HISTORY]
    assert not any(axes.patches for axes in learning_curve(history, "accuracy").axes)
