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


def check_read_or_refused(path):
    """What the file holds is read as events, or refused by its name."""
    refusal = ""
    try:
        events = read_recording(path, SENSOR)
    except RequestError as error:
        refusal = str(error)
    assert str(path) in refusal if refusal else (events.dtype == EVENT and len(events))


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
    check_read_or_refused(path)


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


# --- what people bring ------------------------------------------------------------------------------------------------

ROWS = ["1,2,10,1", "33,0,10,0", "5,6,4000,1"]  # x, y, t, p of EVENTS


def text(header: str = "", order: str = "xytp", separator: str = ",", end: str = "\n") -> str:
    rows = [separator.join(str(int(e[name])) for name in order) for e in EVENTS]
    return end.join([*([header] if header else []), *rows, ""])


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
@pytest.mark.parametrize(
    "content",
    [
        text(),
        text("# y,x,t,p", "yxtp"),  # np.savetxt(..., header=...)
        text("#t x y p", "txyp", " "),
        text("# t x y p", "txyp", ","),
        text("x y t p", separator=","),
        text("y,x,t,p", "yxtp"),
        text("timestamp;x;y;polarity", "txyp", ";"),
        text("Timestamp\tX\tY\tPolarity", "txyp", "\t"),
        text("t [us], x, y, pol", "txyp"),
        text("# time (us) x y p", "txyp", " "),
        text("x_addr,y_addr,time_us,p"),
        text('"x","y","ts","p"'),
        text("\ufeff# y,x,t,p", "yxtp"),
        text("\ufeffy,x,t,p", "yxtp", end="\r\n"),
        text(separator=" ", end="\r\n"),
        text("# y,x,t,p", "yxtp", end="\r"),
        "# mine, at time 3\n\n" + text("# x,y,t,p") + "\n# the end\n",
        text("% t x y p", "txyp", " "),
        text("// y,x,t,p", "yxtp"),
        text("# time and row follow"),
        text("# rotated: x and y"),
        ",x,y,t,p\n" + "".join(f"{i},{row}\n" for i, row in enumerate(ROWS)),  # pandas with its index
        "x,y,t,p,label\n" + "".join(f"{row},7\n" for row in ROWS),
        "x,y,t,p\n1.0,2.0,1e1,True\n33,0,10,False\n5,6,4000,TRUE\n",
    ],
)
def test_columns_are_found_by_their_header(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.encode())
    assert read_recording(path, SENSOR).tolist() == EVENTS.tolist()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("# y,x,time\n2,1,10\n", "no column p; needs x, y, t, p"),
        ("# a,b,x,y\n1,2,3,1\n", "no column t, p"),
        ("x,y,t,t,p\n1,2,3,3,1\n", "t and t both mean t; keep one of them"),
        ("x,y,time,ts,p\n1,2,3,3,1\n", "time and ts both mean t"),
        ("x,y,t_ms,p\n1,2,3,1\n", r"its times are in ms \(t_ms\); convert them to whole microseconds"),
        ("# x,y,time [s],p\n1,2,3,1\n", "its times are in s"),
        ("x,y,t,p\n1,2,3,1\nx,y,t,p\n1,2,4,1\n", "event 1 is x,y,t,p; needs 4 numbers"),
        ("# x,y,t,p\n1,2,3,1\n# t,x,y,p\n4,1,2,1\n", "two headers, x,y,t,p and t,x,y,p"),
        ("1,2,3,1\n# t,x,y,p\n4,1,2,1\n", "two headers, x,y,t,p and t,x,y,p"),
        ("1,2,3,1\n1,2,abc,1\n", "event 1 is 1,2,abc,1; needs 4 numbers"),
        ("1,2,3\n", "event 0 is 1,2,3; needs 4 numbers: x,y,t,p"),
        ("1,2,3,1,5\n", "event 0 is 1,2,3,1,5; needs 4 numbers"),
        ("1,2,3,1,\n", "needs 4 numbers"),
        ("1;2,5;3;1\n", "needs 4 numbers"),
        ("1,2,1_0,1\n", "event 0 is 1,2,1_0,1; needs 4 numbers"),
        ("0.003811 96 133 0\n", "is not a whole number"),  # t x y p of DAVIS, in seconds
        ("1 2 0.003811 0\n", "which is not a whole number; times are whole microseconds: multiply seconds by 1e6"),
        ("1,2,3,1\n1,2,2,1\n", r"time runs backwards; sort them: events\[np.argsort"),
        ("1,2,-3,1\n", "t=-3.0, which is outside 0..2147483647; subtract"),
        ("1,2,3,inf\n", "p=inf, which is not a whole number"),
        ("1,2,1700000000123456789,1\n", "are these nanoseconds"),
        ("34,2,3,1\n", r"event 0 has x=34.0, which is outside 0\.\.33"),
        ("\n\n# nothing\n", "no event in it"),
        ("x,y,t,p\n", "no event in it"),
        ("\0,\0\n", "no column|needs 4 numbers|not a readable|no event"),
    ],
)
def test_text_that_cannot_be_a_recording_is_refused(tmp_path, content, why):
    (tmp_path / "a.csv").write_bytes(content.encode())
    with pytest.raises(RequestError, match=why) as caught:
        read_recording(tmp_path / "a.csv", SENSOR)
    assert str(tmp_path / "a.csv") in str(caught.value)


def test_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(text().encode("utf-16"))
    with pytest.raises(RequestError, match=r"not a readable \.csv"):
        read_recording(tmp_path / "a.csv", SENSOR)


def as_fields(**types: str) -> np.ndarray:
    """EVENTS in fields of other names: ``name="field type"``."""
    out = np.empty(len(EVENTS), [(name, said.split()[1]) for name, said in types.items()])
    for name, said in types.items():
        values = EVENTS[said.split()[0]]
        out[name] = values if out[name].ndim == 1 else values[:, None]
    return out


def signed(events: np.ndarray) -> np.ndarray:
    out = events.copy()
    out["p"] = np.where(events["p"] == 1, 1, -1)
    return out


@pytest.mark.parametrize(
    "array",
    [
        as_fields(timestamp="t <u4", x="x <u2", y="y <u2", polarity="p ?"),
        as_fields(Timestamp="t >i8", X="x >f4", Y="y >i2", Pol="p u1"),
        as_fields(ts="t f8", y_addr="y i8", x_addr="x f2", label="x i4", p="p i1"),
        as_fields(t="t u8", time="x i8", x="x u1", y="y u1", p="p f4"),  # an exact name comes first
        signed(EVENTS),
        np.asfortranarray(EVENTS),
        EVENTS.astype(EVENT.newbyteorder(">")),
    ],
    ids=lambda array: ",".join(array.dtype.names),
)
def test_fields_of_common_names_and_types(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", events=array)
    np.savez_compressed(tmp_path / "b.npz", array)
    np.savez(tmp_path / "c.npz", **{name: array[name] for name in array.dtype.names}, about=np.array(["any"]))
    for name in ("a.npy", "a.npz", "b.npz", "c.npz"):
        assert read_recording(tmp_path / name, SENSOR).tolist() == EVENTS.tolist(), name


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (as_fields(t="t i8", x="x c8", y="y i8", p="p i8"), "its x is of type complex64; needs whole numbers"),
        (
            as_fields(t="t M8[us]", x="x i8", y="y i8", p="p i8"),
            r"its t is of type datetime64\[us\]; needs whole micro",
        ),
        (as_fields(t="t m8[us]", x="x i8", y="y i8", p="p i8"), "its t is of type timedelta64"),
        (as_fields(t="t U9", x="x i8", y="y i8", p="p i8"), "its t is of type <U9"),
        (as_fields(t="t i8", x="x i8", y="y i8", p="p S3"), r"its p is of type \|S3"),
        (as_fields(t="t i8", x="x ?", y="y i8", p="p i8"), "its x is of type bool"),
        (as_fields(t="t i8", x="x 2i8", y="y i8", p="p i8"), "its x is of type"),
        (as_fields(t="t i8", x="x i8", y="y i8"), "has no field p"),
        (as_fields(t_s="t i8", x="x i8", y="y i8", p="p i8"), "its times are in s"),
        (np.stack([EVENTS["t"], EVENTS["x"], EVENTS["y"], EVENTS["p"]], axis=1), "columns without names"),
        (np.zeros((3, 5)), "columns without names"),
        (EVENTS.reshape(1, -1), "needs a list of events"),
        (EVENTS[0], "needs a list of events"),
        (EVENTS[:0], "no event in it"),
        (np.array([0x1234567890123456], np.uint64), "columns without names"),  # packed events
    ],
)
def test_arrays_that_cannot_be_a_recording_are_refused(tmp_path, array, why):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", events=array)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(RequestError, match=why) as caught:
            read_recording(tmp_path / name, SENSOR)
        assert str(tmp_path / name) in str(caught.value)


def test_columns_of_an_archive_belong_together(tmp_path):
    columns = {name: EVENTS[name] for name in EVENT.names}
    for changes, why in (
        ({"t": EVENTS["t"][:-1]}, "columns of different shapes"),
        ({name: EVENTS[name][:, None] for name in EVENT.names}, "columns of different shapes"),
        ({"t": EVENTS["t"].astype(str)}, "its t is of type <U"),
        ({"ts": EVENTS["t"]}, None),
    ):
        np.savez(tmp_path / "a.npz", **(columns | changes))
        if why is None:
            assert len(read_recording(tmp_path / "a.npz", SENSOR)) == 3
            continue
        with pytest.raises(RequestError, match=why):
            read_recording(tmp_path / "a.npz", SENSOR)
    np.savez(tmp_path / "a.npz", frames=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(RequestError, match=r"no array x, y, t, p; .*; it holds frames, labels"):
        read_recording(tmp_path / "a.npz", SENSOR)


@pytest.mark.parametrize("start", [2**31 - 1, 2**32 + 5, 1_700_000_000_000_000])
def test_absolute_times_of_any_width(tmp_path, start):
    wide = EVENTS.astype([(name, np.int64) for name in EVENT.names])
    wide["t"] += start - wide["t"][0]
    np.save(tmp_path / "a.npy", wide)
    table = np.stack([wide[name] for name in ("t", "x", "y", "p")], axis=1)
    np.savetxt(tmp_path / "a.csv", table, fmt="%d", delimiter=",", header="t,x,y,p")
    for name in ("a.npy", "a.csv"):
        assert read_recording(tmp_path / name, SENSOR)["t"].tolist() == [0, 0, 3990]


SHARED_FILES = {
    "dtype_long.npy": None,
    "header_comment.csv": None,
    "giant.npy": "cut off",
    "token.npy": "not a readable",
}


@pytest.mark.parametrize("name", SHARED_FILES)
def test_the_files_of_field_reports(shared, name):
    path, why = shared / "cases" / "files" / name, SHARED_FILES[name]
    if why is not None:
        with pytest.raises(RequestError, match=why):
            read_recording(path, SENSOR)
        return
    events = read_recording(path, SENSOR)
    assert events[:2].tolist() == [(22, 17, 11, 0), (16, 9, 122, 1)]


TOKENS = st.sampled_from(
    ["1", "33", "x", "y", "t", "p", "ts", "#", ",", ";", " ", "\t", "\n", "\r", "nan", "-", "e", '"', "\ufeff"]
)


@given(st.lists(TOKENS, max_size=60), st.sampled_from([".csv", ".txt"]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_any_text_is_read_or_refused_by_name(tmp_path, words, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("".join(words), encoding="utf-8", newline="")
    check_read_or_refused(path)


KINDS = st.sampled_from(
    ["?", "i1", "u1", "<i2", ">u4", "<i8", "<u8", "f2", "f4", "f8", "g", "c8", "M8[us]", "S2", "U2"]
)


@given(st.tuples(KINDS, KINDS, KINDS, KINDS), st.integers(0, 3), st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_fields_of_any_type_are_read_or_refused_by_name(tmp_path, kinds, place, content):
    """Any bytes as numbers: NaN, infinities, what 32 or 64 bits do not hold."""
    dtype = np.dtype([(name, kind) for name, kind in zip("xytp", kinds, strict=True)])
    array = np.zeros(3, dtype)
    raw = bytearray(array.tobytes())
    raw[place : place + len(content)] = content[: max(0, len(raw) - place)]
    np.save(tmp_path / "a.npy", np.frombuffer(bytes(raw), dtype))
    refusal = ""
    try:
        events = read_recording(tmp_path / "a.npy", SENSOR)
    except RequestError as error:
        refusal = str(error)
    assert "a.npy" in refusal if refusal else len(events) == 3
