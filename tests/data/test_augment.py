from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.augment import Augment, _augment_one, augment_events
from cil_spl.data.events import EVENT

SENSOR = (9, 9, 2)


def some(n=200, seed=0):
    rng = np.random.default_rng(seed)
    e = np.zeros(n, EVENT)
    e["x"], e["y"], e["p"] = rng.integers(0, 9, n), rng.integers(0, 9, n), rng.integers(0, 2, n)
    e["t"] = np.sort(rng.integers(0, 5000, n))
    return e


def one(events, kind, seed=(0, 0, 0)):
    out, offsets = augment_events(events, np.array([0, len(events)]), SENSOR, kind, [seed])
    assert offsets.tolist() == [0, len(out)]
    return out


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 60), st.integers(0, 4), st.floats(0, 90), st.floats(0, 1000), st.floats(0, 0.9), st.integers(0, 99)
)
def test_events_stay_valid(n, shift, rotate, jitter, drop, seed):
    events = some(n)
    before = events.copy()
    out = one(events, Augment(shift, rotate, jitter, drop), (seed,))
    assert out.dtype == EVENT
    assert (events == before).all()
    assert len(out) <= n
    assert ((out["x"] >= 0) & (out["x"] < 9) & (out["y"] >= 0) & (out["y"] < 9)).all()
    assert (np.diff(out["t"]) >= 0).all()
    assert n == 0 or len(out) == 0 or (out["t"][0] >= 0 and out["t"][-1] <= events["t"][-1])


def test_shift_moves_all_events_alike_and_drops_what_leaves():
    events = some()
    shifts = set()
    for seed in range(60):
        out = one(events, Augment(shift=1), (seed,))
        fits = [
            (dx, dy)
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            for moved in [(events["x"] + dx, events["y"] + dy)]
            for inside in [(moved[0] >= 0) & (moved[0] < 9) & (moved[1] >= 0) & (moved[1] < 9)]
            if inside.sum() == len(out)
            and (out["x"] == moved[0][inside]).all()
            and (out["y"] == moved[1][inside]).all()
            and (out["t"] == events["t"][inside]).all()
        ]
        assert len(fits) == 1
        shifts.add(fits[0])
    assert len(shifts) == 9  # all of -1..1 in x and in y, both ends


def test_rotation_turns_about_the_middle():
    events = np.array([(4, 4, 0, 0), (8, 4, 1, 0)], EVENT)
    reached = set()
    for seed in range(100):
        out = one(events, Augment(rotate_degrees=90), (seed,))
        assert (out["x"][0], out["y"][0]) == (4, 4)
        assert abs(np.hypot(out["x"][1] - 4.0, out["y"][1] - 4.0) - 4) < 0.75
        reached.add((int(out["x"][1]), int(out["y"][1])))
    assert len(reached) > 6
    assert all(x >= 4 for x, _ in reached)


def test_drop_share_and_jitter_width():
    events = some(20_000)
    assert abs(len(one(events, Augment(drop=0.25))) / 20_000 - 0.75) < 0.02
    middle = np.zeros(20_001, EVENT)
    middle["t"] = 50_000
    middle["t"][-1] = 100_000
    jittered = one(middle, Augment(jitter_us=1000))["t"][:-1].astype(float)
    assert abs(jittered.std() - 1000) < 30
    assert abs(jittered.mean() - 50_000) < 30


def test_each_recording_has_its_own_draw():
    events = some(50)
    batch, offsets = np.concatenate([events, events]), np.array([0, 50, 100])
    out, new = augment_events(batch, offsets, SENSOR, Augment(drop=0.5), [(0, 0, 0), (0, 0, 1)])
    assert out[: new[1]].tolist() == one(events, Augment(drop=0.5), (0, 0, 0)).tolist()
    assert out[: new[1]].tolist() != out[new[1] :].tolist()


def test_config():
    assert Augment.from_config(None) is None
    assert Augment.from_config({"shift": 0, "drop": 0.0}) is None
    assert Augment.from_config({"shift": 2}) == Augment(shift=2)
    for config, names in [
        ({"shift": -1}, "shift=-1"),
        ({"drop": 1.0}, "drop=1"),
        ({"drop": "much"}, "drop=much"),
        ({"spin": 3}, "augment.spin"),
        ({"shift": 1.5}, "shift=1.5"),
        ({"jitter_us": float("nan")}, "jitter_us=nan"),
    ]:
        with pytest.raises(RequestError, match=names):
            Augment.from_config(config)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(0, 4),
    st.one_of(st.just(0.0), st.floats(0, 180)),
    st.one_of(st.just(0.0), st.floats(0, 0.9)),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 300)),
)
def test_compiled_it_is_what_numpy_makes_of_each_recording(sizes, shift, rotate, drop, seed):
    events = [some(n, seed=k) for k, n in enumerate(sizes)]
    offsets = np.cumsum([0, *sizes])
    seeds = [(*seed, k) for k in range(len(sizes))]
    kind = Augment(shift, rotate, 0.0, drop)
    out, new = augment_events(np.concatenate(events), offsets, SENSOR, kind, seeds)
    expected = [
        _augment_one(e, SENSOR, kind, np.random.default_rng(list(s))) for e, s in zip(events, seeds, strict=True)
    ]
    assert np.diff(new).tolist() == [len(e) for e in expected]
    assert (out == np.concatenate(expected)).all()
