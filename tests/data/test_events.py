from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT, Recordings, check_events, check_recordings, from_list

SENSOR = (6, 4, 2)  # width, height: not square, so that x and y cannot be exchanged unnoticed


def events(*rows: tuple[int, int, int, int], dtype: np.dtype = EVENT) -> np.ndarray:
    return np.array(list(rows), dtype)


def with_types(array: np.ndarray, **types: str) -> np.ndarray:
    """The same events in other numeric types, the fields in another order."""
    out = np.empty(len(array), [(f, types.get(f, "i8")) for f in ("t", "p", "y", "x")])
    for f in EVENT.names:
        out[f] = array[f]
    return out


recordings = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 2**31 - 1), st.integers(0, 1)), max_size=20
).map(lambda rows: events(*sorted(rows, key=lambda row: row[2])))


@given(recordings)
def test_sound_events_come_back_as_they_are(recording):
    out = check_events(recording, SENSOR)
    assert out.dtype == EVENT
    assert out.tolist() == recording.tolist()


@given(recordings, st.sampled_from(["u2", "i4", "f4", "f8"]), st.sampled_from(["u8", "f8"]), st.sampled_from("?bf"))
def test_any_numeric_type_and_field_order(recording, xy, t, p):
    given_as = with_types(recording, x=xy, y=xy, t=t, p=p)
    assert check_events(given_as, SENSOR).tolist() == recording.tolist()


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("x", 6, "outside 0..5"),
        ("x", -1, "outside 0..5"),
        ("y", 4, "outside 0..3"),
        ("y", -1, "outside 0..3"),
        ("p", 2, "outside 0..1"),
        ("p", -1, "outside 0..1"),
        ("t", -1, "outside 0..2147483647"),
        ("t", 2**31, "outside 0..2147483647"),
        ("x", np.nan, "not a whole number"),
        ("t", np.inf, "not a whole number"),
        ("y", 0.5, "not a whole number"),
    ],
)
def test_the_first_bad_event_is_named(field, value, why):
    """Both the corner that is still inside and the first step outside it."""
    recording = with_types(
        events((5, 3, 0, 1), (0, 0, 1, 0), (1, 1, 2, 1), (2, 2, 3, 0)), x="f8", y="f8", t="f8", p="f8"
    )
    check_events(recording, SENSOR)
    recording[field][2] = value
    recording[field][3] = value
    with pytest.raises(RequestError) as refused:
        check_events(recording, SENSOR, "00042.bin")
    assert str(refused.value).startswith(f"00042.bin: event 2 has {field}={recording[field][2]}")
    assert why in str(refused.value)


def test_integers_that_would_wrap_are_refused():
    """A value is judged before it is narrowed: 65536 + 3 is 3 in 16 bits."""
    recording = with_types(events((0, 0, 0, 0)))
    recording["x"] = 65536 + 3
    with pytest.raises(RequestError, match="event 0 has x=65539"):
        check_events(recording, SENSOR)
    unsigned = with_types(events((0, 0, 0, 0), (0, 0, 1, 0)), t="u4")
    unsigned["t"][1] = 2**32 - 1
    with pytest.raises(RequestError, match="event 1 has t=4294967295"):
        check_events(unsigned, SENSOR)


def test_time_may_stand_still_but_not_run_backwards():
    check_events(events((0, 0, 5, 0), (0, 0, 5, 0)), SENSOR)
    with pytest.raises(RequestError, match=r"^r: event 2 has t=4, .*time runs backwards"):
        check_events(events((0, 0, 1, 0), (0, 0, 5, 0), (0, 0, 4, 0), (0, 0, 3, 0)), SENSOR, "r")


def test_one_polarity_takes_both_signs():
    """A merged sensor has one channel; the events keep their sign."""
    assert check_events(events((0, 0, 0, 1), (0, 0, 1, 0)), (6, 4, 1))["p"].tolist() == [1, 0]


def test_missing_fields_are_named():
    with pytest.raises(RequestError, match=r"no field t, p \(needs x, y, t, p\)"):
        check_events(np.zeros(2, [("x", "i2"), ("y", "i2")]), SENSOR)
    with pytest.raises(RequestError, match="no field x, y, t, p"):
        check_events(np.zeros((2, 4)), SENSOR)


def test_the_input_is_not_changed():
    recording = with_types(events((1, 2, 3, 1)))
    before = recording.copy()
    check_events(recording, SENSOR)["x"] = 0
    assert (recording == before).all()


def made_of(parts: list[np.ndarray]) -> Recordings:
    return from_list(
        parts,
        target=range(len(parts)),
        sensor_size=SENSOR,
        classes=[str(i) for i in range(len(parts))],
        origins=[f"mnist/train/{i}" for i in range(len(parts))],
    )


@given(st.lists(recordings, max_size=5), st.data())
def test_recordings_keep_each_its_events(parts, data):
    """Through from_list, subset and gather, repeated and reordered, empty ones between."""
    made = made_of(parts)
    assert len(made) == len(parts)
    assert [made[i].tolist() for i in range(len(made))] == [part.tolist() for part in parts]
    index = data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=8)) if parts else []
    subset = made.subset(index)
    assert [subset[i].tolist() for i in range(len(subset))] == [parts[i].tolist() for i in index]
    assert subset.target.tolist() == index
    assert subset.name.tolist() == [f"recording {i}" for i in index]
    assert subset.origin.tolist() == [f"mnist/train/{i}" for i in index]
    assert subset.events is made.events
    for gathered, offsets in (made.take(index), subset.take(range(len(index)))):
        assert offsets.dtype == np.int64
        assert offsets.tolist() == np.cumsum([0, *(len(parts[i]) for i in index)]).tolist()
        assert gathered.dtype == EVENT
        assert gathered.tolist() == [event for i in index for event in parts[i].tolist()]


def test_subset_of_a_subset():
    made = made_of([events((i, 0, i, 0)) for i in range(4)])
    assert [int(e["x"]) for e in made.subset([3, 1, 2]).subset([2, 0]).events] == [0, 1, 2, 3]
    assert made.subset([3, 1, 2]).subset([2, 0]).target.tolist() == [2, 3]


def test_each_recording_is_checked_and_named():
    parts = [events((0, 0, 0, 0)), events((0, 0, 0, 0), (0, 9, 1, 0))]
    with pytest.raises(RequestError, match=r"^recording 1: event 1 has y=9"):
        from_list(parts, [0, 0], SENSOR, ["a"])
    with pytest.raises(RequestError, match=r"^b\.bin: event 1 has y=9"):
        from_list(parts, [0, 0], SENSOR, ["a"], names=["a.bin", "b.bin"])


def test_names_have_to_match_in_number():
    with pytest.raises(RequestError, match="1 recordings, but 2 names"):
        from_list([events((0, 0, 0, 0))], [0], SENSOR, ["a"], names=["a", "b"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], r"^from_list: 2 recordings, but 1 labels; needs one for each recording$"),
        ([0, 1, 0], r"^from_list: 2 recordings, but 3 labels"),
        ([0, 7], r"^b\.bin: its label is 7; allowed are 0 to 1, the numbers of the classes left, right; name 8 "),
        ([-1, 0], r"^a\.bin: its label is -1; allowed are 0 to 1"),
        ([0, 0.5], r"^b\.bin: its label is 0\.5; allowed"),
        ([0, float("nan")], r"^b\.bin: its label is nan; allowed"),
        (["left", "right"], r"^a\.bin: its label is left; allowed"),
        ([None, 0], r"^a\.bin: its label is None; allowed"),
    ],
)
def test_each_recording_has_one_label_of_a_class(labels, message):
    with pytest.raises(RequestError, match=message):
        from_list([events((0, 0, 0, 0))] * 2, labels, SENSOR, ["left", "right"], names=["a.bin", "b.bin"])


def test_whole_numbers_of_any_kind_are_labels():
    for labels in ([1.0, 0.0], np.array([1, 0], np.uint8), [True, False]):
        assert from_list([events((0, 0, 0, 0))] * 2, labels, SENSOR, ["a", "b"]).target.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": np.array([0, 0])}, r"^its train: target is of shape \(2,\); needs an array of shape \(1,\)"),
        ({"name": ["a"]}, r"^its train: name is of type list"),
        ({"stop": np.array([2])}, r"^its train: recording 0 lies at events 0 to 2 of 1"),
        ({"target": np.array([1])}, r"^recording 0: its label is 1; allowed are 0 to 0"),
        ({"events": np.zeros(1)}, r"^its train: events are of float64"),
    ],
)
def test_recordings_made_by_hand_are_checked(changes, message):
    made = dataclasses.replace(from_list([events((0, 0, 0, 0))], [0], SENSOR, ["a"]), **changes)
    with pytest.raises(RequestError, match=message):
        check_recordings(made, "its train")


def test_recordings_are_frozen():
    made = made_of([])
    assert (len(made), made.events.dtype, made.target.dtype) == (0, EVENT, np.int64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.target = np.zeros(1)  # type: ignore[misc]
