from __future__ import annotations

import numpy as np

from cil_spl.data.describe import describe, picture
from cil_spl.data.events import EVENT, Splits, from_list


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
