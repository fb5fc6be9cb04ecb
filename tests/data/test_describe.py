from __future__ import annotations

import numpy as np
import pytest

from cil_spl.data.describe import describe, picture, picture_of_values
from cil_spl.data.events import EVENT, Splits, from_list
from cil_spl.data.samples import from_arrays


def test_numbers():
    a = np.array([(0, 0, 0, 1), (1, 1, 2000, 1), (2, 2, 4000, 0)], EVENT)
    b = np.array([(0, 0, 6000, 1)], EVENT)
    data = from_list([a, b, a[:0]], [0, 2, 2], (4, 3, 2), ["p", "q", "r"])
    about = describe(Splits(data, data.subset([1]), data.subset([])))
    assert about["sensor_size"] == [4, 3, 2]
    assert about["train"] == {
        "recordings": 3,
        "per_class": {"p": 1, "q": 0, "r": 2},
        "events": {"min": 0, "mean": 4 / 3, "max": 3},
        "on_share": 0.75,
        "duration_ms": {"min": 4, "mean": 5, "max": 6},
    }
    assert about["val"]["on_share"] == 1
    assert about["test"]["recordings"] == 0
    assert about["test"]["events"] is None


def test_picture_shows_what_happened(tmp_path):
    events = np.array([(1, 2, 0, 1), (1, 2, 100, 1), (3, 0, 2999, 0)], EVENT)
    figure = picture(events, (4, 3, 2), "a digit")
    images = [axes.images[0].get_array() for sub in figure.subfigs for axes in sub.axes if axes.images]
    assert len(images) >= 3
    assert images[0][2, 1] == 2
    assert images[2][0, 3] == -1
    assert figure.get_suptitle() == "a digit"
    figure.savefig(tmp_path / "a.png")
    for odd in (events[:0], events[2:]):
        for sensor_size in ((4, 3, 2), (4, 3, 1)):
            picture(odd, sensor_size).savefig(tmp_path / "b.png")


def test_numbers_of_samples():
    values = np.array([0, 2, 4, 6, 8, 4]).reshape(3, 1, 1, 2)
    data = from_arrays(values, [0, 2, 2], "pqr", scale=0.5)
    about = describe(Splits(data, data.subset([1]), data.subset([])))
    assert (about["input_shape"], about["classes"]) == ([1, 1, 2], ["p", "q", "r"])
    assert about["train"] == {
        "samples": 3,
        "per_class": {"p": 1, "q": 0, "r": 2},
        "values": {"min": 0, "mean": 2, "max": 4},
        "deviation": pytest.approx(np.std([0, 1, 2, 3, 4, 2])),
    }
    assert about["val"]["values"] == {"min": 2, "mean": 2.5, "max": 3}
    assert about["test"] == {"samples": 0, "per_class": {"p": 0, "q": 0, "r": 0}, "values": None, "deviation": None}
    numbers = from_arrays(values, [0.5, 1, 2], None)
    assert describe(Splits(numbers, numbers, numbers))["train"]["per_class"] is None


def test_a_picture_of_values_shows_them(tmp_path):
    values = np.arange(24.0).reshape(2, 3, 4)
    figure = picture_of_values(values, "two channels")
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(shown[0], values[0])
    np.testing.assert_array_equal(shown[1], values[1])
    colours = picture_of_values(np.stack([np.zeros((3, 4)), np.full((3, 4), 0.5), np.ones((3, 4))]))
    assert colours.axes[0].images[0].get_array().tolist() == [[[0, 0.5, 1]] * 4] * 3
    for odd in (np.zeros((1, 2, 2)), -np.ones((3, 2, 2))):
        picture_of_values(odd).savefig(tmp_path / "a.png")
