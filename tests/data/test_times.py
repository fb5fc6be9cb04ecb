"""One rule for recordings whose times do not count from their start."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.data import cache
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, Recordings, Splits, from_list
from cil_spl.data.options import Frames
from cil_spl.data.prepared import prepared
from cil_spl.data.times import begins_late, from_first_event

SENSOR = (4, 4, 2)


def at(*times: int) -> np.ndarray:
    out = np.zeros(len(times), [(name, np.int64) for name in EVENT.names])
    out["t"], out["x"] = times, np.arange(len(times)) % 4
    return out


def recordings(*several: np.ndarray) -> Recordings:
    return from_list(several, [0] * len(several), SENSOR, ["a"])


def times(data: Recordings) -> list[list[int]]:
    return [data[i]["t"].tolist() for i in range(len(data))]


@pytest.mark.parametrize(
    ("given_as", "duration_us", "expected"),
    [
        # Inside duration_us: as they are, the edge not.
        ([0, 50, 300], 1000, [0, 50, 300]),
        ([999, 1500], 1000, [999, 1500]),
        ([1000, 1500], 1000, [0, 500]),
        ([10**9, 10**9 + 500], 1000, [0, 500]),
        ([10**9, 10**9 + 500], 2 * 10**9, [10**9, 10**9 + 500]),
        # Without it: inside the recording's own length.
        ([100, 150, 500], None, [100, 150, 500]),
        ([399, 799], None, [399, 799]),
        ([400, 800], None, [0, 400]),
        ([10**9, 10**9 + 300_000], None, [0, 300_000]),
        ([5], None, [0]),
        ([0], None, [0]),
        # Beyond 32 bits, whatever the duration: no clock of such a recording starts at 0.
        ([2**31, 2**31 + 7], None, [0, 7]),
        ([2**32 + 1, 2**32 + 8], 1000, [0, 7]),
        ([1_700_000_000_000_000, 1_700_000_000_000_007], 2**31 - 1, [0, 7]),
    ],
)
def test_a_recording_that_begins_late_counts_from_its_first_event(given_as, duration_us, expected):
    found = from_first_event(recordings(at(*given_as)), duration_us)
    assert times(found) == [expected]
    assert times(prepared({"a": recordings(at(*given_as))}, None, duration_us)["a"]) == [expected]


def test_each_recording_for_itself_and_nothing_else_changes():
    data = recordings(at(0, 100), at(500, 600), at(), at(10**9, 10**9 + 3)).subset([3, 2, 0, 1])
    assert begins_late(data).tolist() == [True, False, False, True]
    found = from_first_event(data)
    assert times(found) == [[0, 3], [], [0, 100], [0, 100]]
    assert found.name.tolist() == data.name.tolist()
    assert times(data)[0] == [10**9, 10**9 + 3]  # what was given stays
    early = data.subset([1, 2])
    assert from_first_event(early) is early


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=8), st.integers(0, 2**52), st.none() | st.integers(1, 5000))
def test_the_rule_holds_for_all_and_is_the_same_twice(spans, start, duration_us):
    """Whatever the start, a recording that begins late looks as if it began at 0, in frames and in events alike."""
    own = np.sort(spans) - min(spans)
    shifted = recordings(at(*(own + start)))
    found = from_first_event(shifted, duration_us)
    inside = start < (own[-1] if duration_us is None else duration_us)
    assert times(found) == [(own + (start if inside else 0)).tolist()]
    assert from_first_event(found, duration_us) is found
    if not inside:
        frames = Frames(bins=1 if duration_us is None else min(3, duration_us), duration_us=duration_us)
        ours, plain = (next(Batches(one, 1, frames).epoch(0)) for one in (found, recordings(at(*own))))
        assert ours.events.tolist() == plain.events.tolist()
        assert ours.edges_us.tolist() == plain.edges_us.tolist()
        assert (ours.frames == plain.frames).all()


def test_what_the_stage_leaves_out_does_not_move_the_start():
    """The rule looks at recordings as the sensor gave them: the first event may be cropped."""
    data = recordings(at(100, 900, 901))  # x = 0, 1, 2
    kept = prepared({"a": data}, {"crop": [1, 0, 2, 4]})["a"]
    assert times(kept) == [[900, 901]]


def test_a_cached_set_is_kept_apart_by_the_rule(tmp_path, monkeypatch):
    monkeypatch.setenv("CILSPL_CACHE", str(tmp_path))
    late = recordings(at(2000, 2010, 5000), at(500, 1100))
    made = cache.load_or_make({"set": "one"}, lambda: {"train": late})["train"]
    found = [times(prepared({"train": made}, None, duration)["train"]) for duration in (None, 3000, 1000, 400)]
    assert found[:2] == [times(late)] * 2
    assert found[2:] == [[[0, 10, 3000], [500, 1100]], [[0, 10, 3000], [0, 600]]]
    again = prepared({"train": made}, None, 1000)["train"]
    assert cache.identity(again) not in (None, cache.identity(made))
    assert cache.identity(prepared({"train": made}, None, 3000)["train"]) == cache.identity(made)


def late_set() -> Splits:
    """A user's own, of absolute times."""
    data = recordings(*(at(*(10**9 + 7 * i + np.arange(5))) for i in range(40)))
    train = from_list([data[i] for i in range(30)], np.arange(30) % 2, SENSOR, ["a", "b"])
    test = from_list([data[i] for i in range(30, 40)], np.arange(10) % 2, SENSOR, ["a", "b"])
    return Splits(train, train.subset([]), test)


def test_training_validation_and_test_set_alike():
    from cil_spl.data import datasets

    config = {"_target_": f"{__name__}.late_set", "name": "late", "sensor_size": list(SENSOR), "n_classes": 2}
    for duration_us, first in ((None, 0), (10**6, 0), (2 * 10**9, 10**9)):
        (splits,) = datasets.load(config, config, extensions=[__name__], duration_us=duration_us)
        for part in (splits.train, splits.val, splits.test):
            assert {one[0] // 10**9 * 10**9 for one in times(part)} == {first}
            assert {one[-1] - one[0] for one in times(part)} == {4}
