"""A recording from the user's own file: what is read, and that everything else is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT
from cil_spl.data.files import SUFFIXES, read_recording

SENSOR = (34, 34, 2)
EVENTS = np.array([(1, 2, 10, 1), (33, 0, 10, 0), (5, 6, 4000, 1)], EVENT)


def write(path, events):
    if path.suffix == ".npy":
        np.save(path, events)
    elif path.suffix == ".npz":
        np.savez(path, **{name: events[name] for name in EVENT.names})
    elif path.suffix == ".csv":
        path.write_text("t,x,y,p\n" + "".join(f"{e['t']},{e['x']},{e['y']},{e['p']}\n" for e in events))
    elif path.suffix == ".txt":
        table = np.stack([events[name] for name in ("t", "p", "y", "x")], axis=1)
        np.savetxt(path, table, fmt="%d", header="timestamp polarity y x")
    else:  # N-MNIST: x, y, then 1 bit of polarity and 23 bits of time, highest byte first
        raw = bytearray()
        for e in events:
            raw += bytes([e["x"], e["y"]]) + (int(e["p"]) << 23 | int(e["t"])).to_bytes(3, "big")
        path.write_bytes(bytes(raw))


event = st.tuples(st.integers(0, 33), st.integers(0, 33), st.integers(0, 2**23 - 1), st.integers(0, 1))


@given(st.lists(event, min_size=1, max_size=20), st.sampled_from(SUFFIXES))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_what_is_written_is_read(tmp_path, rows, suffix):
    events = np.array(sorted(rows, key=lambda e: e[2]), EVENT)
    path = tmp_path / f"a{suffix}"
    write(path, events)
    assert np.array_equal(read_recording(path, SENSOR), events)


@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_bytes_are_read_or_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refusal = ""
    try:
        events = read_recording(path, SENSOR)
    except RequestError as error:
        refusal = str(error)
    assert str(path) in refusal if refusal else (events.dtype == EVENT and len(events))


def test_a_structured_array_in_an_npz_and_a_bare_csv(tmp_path):
    np.savez(tmp_path / "a.npz", events=EVENTS)
    (tmp_path / "a.csv").write_text("# mine\n1,2,10,1\n33,0,10,0\n5,6,4000,1\n")
    for name in ("a.npz", "a.csv"):
        assert np.array_equal(read_recording(tmp_path / name, SENSOR), EVENTS)


def test_absolute_times_are_counted_from_the_first_event(tmp_path):
    wide = EVENTS.astype([(name, np.int64) for name in EVENT.names])
    wide["t"] += 1_700_000_000_000_000
    np.save(tmp_path / "a.npy", wide)
    assert read_recording(tmp_path / "a.npy", SENSOR)["t"].tolist() == [0, 0, 3990]


@pytest.mark.parametrize(
    ("name", "content", "piece"),
    [
        ("a.dat", b"", "unknown kind of file"),
        ("a.bin", b"1234", "4 bytes, not a whole number of 5-byte events"),
        ("a.bin", b"", "no event"),
        ("a.bin", bytes([40, 2, 0, 0, 1]), "event 0 has x=40"),
        ("a.csv", b"x,y,t\n1,2,3\n", "no column p"),
        ("a.csv", b"1,2,nan,1\n", "event 0 has t=nan"),
        ("a.csv", b"1,2,0.5,1\n", "not a whole number"),
        ("a.csv", b"1,2,3,1\nhello\n", "event 1 is hello"),
        ("a.npy", b"\x93NUMPY", "not a readable .npy"),
    ],
)
def test_refused(tmp_path, name, content, piece):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=piece) as caught:
        read_recording(tmp_path / name, SENSOR)
    assert str(tmp_path / name) in str(caught.value)


def test_plain_arrays_and_pickles_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    with pytest.raises(RequestError, match="needs a list of events with fields"):
        read_recording(tmp_path / "a.npy", SENSOR)
    np.save(tmp_path / "b.npy", np.array([{"x": 1}], object), allow_pickle=True)
    with pytest.raises(RequestError, match="not a readable"):
        read_recording(tmp_path / "b.npy", SENSOR)
    with pytest.raises(RequestError, match="no such file"):
        read_recording(tmp_path / "c.npy", SENSOR)
