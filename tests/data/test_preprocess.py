from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT, from_list
from cil_spl.data.frames import bin_edges, frames
from cil_spl.data.preprocess import Preprocess, preprocess_recordings, preprocessed_sensor_size


def recordings(sensor_size, n=4, seed=0):
    rng = np.random.default_rng(seed)
    arrays = []
    for i in range(n):
        e = np.zeros(i * 25, EVENT)
        for field, top in zip("xyp", sensor_size, strict=True):
            e[field] = rng.integers(0, top, len(e))
        e["t"] = np.sort(rng.integers(0, 500, len(e)))
        arrays.append(e)
    return from_list(arrays, [0] * n, sensor_size, ["a"])


def pictures(data):
    events, offsets = data.take(np.arange(len(data)))
    return frames(events, offsets, bin_edges(events, offsets, 1), data.sensor_size)[0]  # B C H W


def stage_on_frames(f, stage):
    """The same stage on counts ``B C H W``, with numpy's own flip and rot90."""
    f = {"both": f, "merge": f.sum(1, keepdims=True), "on": f[:, 1:], "off": f[:, :1]}[stage.polarity]
    k = stage.pool
    b, c, h, w = f.shape
    f = f[:, :, : h // k * k, : w // k * k].reshape(b, c, h // k, k, w // k, k).sum((3, 5))
    if stage.crop:
        left, top, width, height = stage.crop
        f = f[:, :, top : top + height, left : left + width]
    f = f[..., ::-1] if stage.mirror_x else f
    f = f[..., ::-1, :] if stage.mirror_y else f
    return np.rot90(f, -stage.rotate // 90, axes=(2, 3))


stages = st.builds(
    Preprocess,
    polarity=st.sampled_from(["both", "merge", "on", "off"]),
    pool=st.sampled_from([1, 2, 4]),
    crop=st.sampled_from([None, (0, 0, 2, 1), (1, 0, 1, 2)]),
    mirror_x=st.booleans(),
    mirror_y=st.booleans(),
    rotate=st.sampled_from([0, 90, 180, 270]),
)


@settings(max_examples=300, deadline=None)
@given(stages, st.integers(8, 13), st.integers(8, 13), st.integers(1, 100), st.integers(0, 9))
def test_events_after_the_stage_are_the_frames_after_the_stage(stage, width, height, block, seed):
    data = recordings((width, height, 2), seed=seed)
    out = preprocess_recordings(data, stage, block=block)
    want = stage_on_frames(pictures(data), stage)
    np.testing.assert_array_equal(pictures(out), want)
    assert out.sensor_size == preprocessed_sensor_size((width, height, 2), stage)
    assert out.sensor_size == (want.shape[3], want.shape[2], want.shape[1])
    for i in range(len(out)):
        assert (np.diff(out[i]["t"]) >= 0).all()


def test_nothing_to_do_copies_nothing():
    data = recordings((8, 8, 2))
    assert preprocess_recordings(data, None) is data
    assert preprocess_recordings(data, {"polarity": "both", "pool": 1, "crop": None, "rotate": 0}) is data


def test_subsets_in_any_order():
    data = recordings((8, 8, 2)).subset([3, 1])
    out = preprocess_recordings(data, {"pool": 2})
    for i in range(2):
        assert out[i]["x"].tolist() == (data[i]["x"] // 2).tolist()
        assert out[i]["t"].tolist() == data[i]["t"].tolist()
    one = preprocess_recordings(recordings((8, 8, 2)).subset([2]), {"pool": 2}, block=7)
    assert len(one[0]) == 50
    assert len(preprocess_recordings(data.subset([]), {"pool": 2})) == 0


def test_literal_rotation_is_clockwise():
    data = from_list([np.array([(0, 0, 0, 0), (3, 0, 1, 1)], EVENT)], [0], (4, 2, 2), ["a"])
    turned = preprocess_recordings(data, {"rotate": 90})
    assert turned.sensor_size == (2, 4, 2)
    assert [(e["x"], e["y"]) for e in turned[0]] == [(1, 0), (1, 3)]  # top edge becomes right edge


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ({"pool": 3}, "pool=3"),
        ({"polarity": "up"}, "polarity=up"),
        ({"rotate": 45}, "rotate=45"),
        ({"crop": [1, 2, 3]}, "crop="),
        ({"crop": 3}, "crop=3"),
        ({"crop": [0, 0, 1, 2.5]}, "crop="),
        ({"crop": [0, 0, 9, 4]}, "crop="),
        ({"crop": [-1, 0, 4, 4]}, "crop="),
        ({"crop": [0, 5, 4, 4]}, "crop="),
        ({"zoom": 2}, "preprocess.zoom"),
        ({"mirror_x": 2}, "mirror_x=2"),
    ],
)
def test_bad_settings_name_the_key(stage, names):
    with pytest.raises(RequestError, match=names):
        preprocessed_sensor_size((8, 8, 2), stage)


def test_settings_that_do_not_go_with_the_sensor():
    with pytest.raises(RequestError, match="polarity=on"):
        preprocessed_sensor_size((8, 8, 1), {"polarity": "on"})
    with pytest.raises(RequestError, match="pool=4"):
        preprocessed_sensor_size((3, 8, 2), {"pool": 4})
    assert preprocessed_sensor_size((128, 128, 2), {"pool": 4, "polarity": "merge"}) == (32, 32, 1)
