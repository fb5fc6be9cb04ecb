from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT
from cil_spl.data.frames import bin_edges, frames

SENSOR = (5, 4, 2)


def flat(recordings):
    """Recordings as lists of (x, y, t, p) to a flat array and offsets."""
    arrays = [np.array(sorted(r, key=lambda e: e[2]), dtype=EVENT) for r in recordings]
    offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
    return np.concatenate([*arrays, np.empty(0, EVENT)]), offsets


event = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 60), st.integers(0, 1))
batches = st.lists(st.lists(event, max_size=40), min_size=1, max_size=4).map(flat)
cuts = st.sampled_from([("time", None), ("time", 30), ("count", None)])


@settings(max_examples=200, deadline=None)
@given(batches, st.integers(1, 12), cuts)
def test_frames_equal_a_plain_histogram_and_keep_every_event(batch, bins, cut):
    events, offsets = batch
    edges = bin_edges(events, offsets, bins, *cut)
    assert edges.dtype == np.int64
    assert edges.shape == (len(offsets) - 1, bins + 1)
    assert (edges[:, 0] == 0).all()
    assert (np.diff(edges) >= 0).all()
    got = frames(events, offsets, edges, SENSOR)
    assert got.shape == (bins, len(offsets) - 1, 2, 4, 5)
    assert got.dtype == np.float32
    want = np.zeros_like(got)
    for b in range(len(offsets) - 1):
        for e in events[offsets[b] : offsets[b + 1]]:
            t = sum(e["t"] >= edge for edge in edges[b, 1:-1])  # inner edges at or before the event
            want[t, b, e["p"], e["y"], e["x"]] += 1
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got.sum((0, 2, 3, 4)), np.diff(offsets))
    if cut[1] is None:
        for b in range(len(offsets) - 1):
            assert (events["t"][offsets[b] : offsets[b + 1]] < edges[b, -1]).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 12))
def test_equal_count_edges_are_the_nearest_possible_cuts(times, bins):
    events, offsets = flat([[(0, 0, t, 0) for t in times]])
    t = np.sort(times)
    possible = np.array([0, *(np.flatnonzero(np.diff(t)) + 1), len(t)])
    below = np.searchsorted(t, bin_edges(events, offsets, bins, "count")[0])  # events before each edge
    for k in range(1, bins):
        wanted = k * len(t)
        assert below[k] in possible
        assert abs(below[k] * bins - wanted) == np.abs(possible * bins - wanted).min()


def test_literal_edges():
    events, offsets = flat([[(0, 0, t, 0) for t in (0, 3, 3, 7, 9)], []])
    assert bin_edges(events, offsets, 2).tolist() == [[0, 5, 10], [0, 0, 1]]
    assert bin_edges(events, offsets, 3).tolist() == [[0, 3, 6, 10], [0, 0, 0, 1]]
    assert bin_edges(events, offsets, 2, duration_us=8).tolist() == [[0, 4, 8], [0, 4, 8]]
    assert bin_edges(events, offsets, 2, "count").tolist() == [[0, 7, 10], [0, 0, 1]]
    # An event on an edge belongs to the bin that begins there; one beyond the last edge to the last bin.
    assert frames(events, offsets, bin_edges(events, offsets, 3), SENSOR)[:, 0, 0, 0, 0].tolist() == [1, 2, 2]
    assert frames(events, offsets, bin_edges(events, offsets, 2, duration_us=8), SENSOR)[1, 0].sum() == 2


def test_one_polarity_takes_all_events_into_one_channel():
    events, offsets = flat([[(1, 1, 0, 0), (1, 1, 1, 1)]])
    assert frames(events, offsets, bin_edges(events, offsets, 1), (5, 4, 1))[0, 0, 0, 1, 1] == 2


def test_event_outside_the_sensor_is_refused():
    events, offsets = flat([[(0, 0, 0, 0), (4, 4, 1, 0)]])
    with pytest.raises(ValueError, match="event 1"):
        frames(events, offsets, bin_edges(events, offsets, 1), SENSOR)


@pytest.mark.parametrize(
    ("settings_", "key"),
    [
        ((0, "time", None), "bins=0"),
        ((2, "size", None), "by=size"),
        ((9, "time", 3), "duration_us=3"),
        ((2, "count", 30), "duration_us=30"),
    ],
)
def test_bad_settings_name_the_key(settings_, key):
    with pytest.raises(RequestError, match=key):
        bin_edges(*flat([[]]), *settings_)
