from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data import nmnist
from cil_spl.data.events import EVENT

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "NMNIST"


def write(file: Path, events) -> None:
    """A recording in N-MNIST's format: x, y, then polarity and time in 24 bits, big endian."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        b"".join(
            bytes([x, y]) + (p << 23 | t).to_bytes(3, "big") for x, y, t, p in (tuple(map(int, e)) for e in events)
        )
    )


def some(n=20, seed=0):
    rng = np.random.default_rng(seed)
    e = np.zeros(n, EVENT)
    e["x"], e["y"], e["p"] = rng.integers(0, 34, n), rng.integers(0, 34, n), rng.integers(0, 2, n)
    e["t"] = np.sort(rng.integers(0, 300_000, n))
    return e


def test_reads_what_was_written(tmp_path):
    written = {("Train", 3, 7): some(20), ("Train", 0, 12): some(5, 1), ("Test", 3, 2): some(9, 2)}
    for (split, digit, number), events in written.items():
        write(tmp_path / split / str(digit) / f"{number:05d}.bin", events)
    sets = nmnist.read(tmp_path)
    assert [len(sets["train"]), len(sets["test"])] == [2, 1]
    assert sets["train"].target.tolist() == [0, 3]
    assert sets["train"].origin.tolist() == ["mnist/train/11", "mnist/train/6"]
    assert sets["test"].origin.tolist() == ["mnist/test/1"]
    assert sets["train"].name.tolist() == ["Train/0/00012.bin", "Train/3/00007.bin"]
    assert sets["train"].sensor_size == (34, 34, 2)
    assert len(sets["train"].classes) == 10
    assert sets["train"][1].tolist() == written["Train", 3, 7].tolist()
    assert sets["test"][0].tolist() == written["Test", 3, 2].tolist()


@pytest.mark.parametrize(("setting", "number", "split"), [("auto", 10_000, "test"), ("auto", 10_001, "train")])
def test_which_digits_the_test_recordings_show(tmp_path, setting, number, split):
    write(tmp_path / "Test" / "1" / "00004.bin", some())
    write(tmp_path / "Test" / "1" / f"{number:05d}.bin", some())
    assert nmnist.read(tmp_path, setting)["test"].origin.tolist() == [f"mnist/{split}/3", f"mnist/{split}/{number - 1}"]
    assert nmnist.read(tmp_path, "train")["test"].origin[0] == "mnist/train/3"
    assert nmnist.read(tmp_path, "test")["test"].origin[0] == "mnist/test/3"


def test_finds_the_folder_and_takes_part_of_the_set(tmp_path):
    assert nmnist.find(tmp_path) is None
    write(tmp_path / "NMNIST" / "Test" / "8" / "00001.bin", some())
    (tmp_path / "NMNIST" / "README.md").touch()
    assert nmnist.find(tmp_path) == nmnist.find(tmp_path / "NMNIST") == tmp_path / "NMNIST"
    sets = nmnist.read(tmp_path / "NMNIST")
    assert [len(sets["train"]), len(sets["test"])] == [0, 1]
    (tmp_path / "NMNIST" / "Test" / ".DS_Store").touch()
    (tmp_path / "NMNIST" / "Test" / "8" / ".hidden").touch()
    assert len(nmnist.read(tmp_path / "NMNIST")["test"]) == 1


def spoil(tmp_path, what):
    good = tmp_path / "Train" / "2" / "00005.bin"
    write(good, some())
    bad = tmp_path / "Train" / "2" / "00009.bin"
    if what == "cut":
        bad.write_bytes(good.read_bytes()[:-2])
    elif what == "empty":
        bad.touch()
    elif what == "outside":
        write(bad, [(1, 1, 0, 0), (34, 1, 5, 0)])
    elif what == "backwards":
        write(bad, [(1, 1, 9, 0), (1, 1, 5, 0)])
    elif what == "text":
        bad = bad.with_name("notes.txt")
        bad.write_text("hello")
    elif what == "named":
        bad = bad.with_name("five.bin")
        write(bad, some())
    elif what == "folder":
        bad = tmp_path / "Train" / "11"
        bad.mkdir()
    return bad


@pytest.mark.parametrize("what", ["cut", "empty", "outside", "backwards", "text", "named", "folder"])
def test_a_damaged_or_foreign_file_is_named(tmp_path, what):
    bad = spoil(tmp_path, what)
    with pytest.raises(RequestError) as caught:
        nmnist.read(tmp_path)
    assert str(bad) in str(caught.value)


def test_empty_folders_are_named(tmp_path):
    (tmp_path / "Train" / "3").mkdir(parents=True)
    with pytest.raises(RequestError, match="holds no recordings") as caught:
        nmnist.read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_unknown_setting(tmp_path):
    with pytest.raises(RequestError, match="test_digits_from=both"):
        nmnist.read(tmp_path, "both")


def test_events_are_decoded_by_hand(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes([3, 33, 0x80, 0x00, 0x05, 33, 0, 0x7F, 0xFF, 0xFF, 1, 2, 0x01, 0x02, 0x03]))
    assert nmnist.decode(path).tolist() == [(3, 33, 5, 1), (33, 0, 8_388_607, 0), (1, 2, 66_051, 0)]
    path.write_bytes(b"")
    assert nmnist.decode(path).tolist() == []


def test_an_overflow_of_time_is_no_event_and_shifts_what_follows(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(
        bytes([1, 1, 0, 0, 9, 0, 240, 0, 0, 0, 1, 2, 0, 0, 1, 0, 240, 0, 0, 0, 0, 240, 0, 0, 0, 1, 3, 0, 0, 2])
    )
    assert nmnist.decode(path).tolist() == [(1, 1, 9, 0), (1, 2, 8193, 0), (1, 3, 3 * 8192 + 2, 0)]


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 5), max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_events_are_decoded_as_tonic_does(tmp_path, events):
    read_mnist_file = pytest.importorskip("tonic.io").read_mnist_file
    path = tmp_path / "a.bin"
    path.write_bytes(b"".join(map(bytes, [*events, (0, 240, 1, 2, 3), *events])))
    assert nmnist.decode(path).tolist() == read_mnist_file(str(path), dtype=EVENT).tolist()


def test_times_beyond_32_bits_are_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes([0, 240, 0, 0, 0]) * (1 << 18))
    with pytest.raises(RequestError, match=r"a\.bin: its times go up to 2147483648 us"):
        nmnist.decode(tmp_path / "a.bin")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real recordings beside the checkout")
def test_real_recordings_are_decoded_as_tonic_does():
    read_mnist_file = pytest.importorskip("tonic.io").read_mnist_file
    files = sorted(SHARED.glob("T*/*/*.bin"))[::50]
    assert len(files) > 20
    for file in files:
        assert nmnist.decode(file).tobytes() == read_mnist_file(str(file), dtype=EVENT).tobytes()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real recordings beside the checkout")
def test_real_recordings_agree_with_their_manifest():
    sets = nmnist.read(SHARED)
    assert [len(sets["train"]), len(sets["test"])] == [1001, 100]
    assert np.bincount(sets["train"].target).tolist() == [97, 116, 99, 93, 106, 92, 94, 117, 87, 100]
    n_events = sets["train"].stop - sets["train"].start
    assert (n_events.min(), n_events.max(), round(n_events.mean())) == (1112, 7152, 4133)
    with open(SHARED / "manifest.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1101
    known = {str(name): (s, i) for s in sets.values() for i, name in enumerate(s.name)}
    for row in rows:
        recordings, i = known[row["path"]]
        assert len(recordings[i]) == int(row["events"])
        assert (recordings[i]["t"][0], recordings[i]["t"][-1]) == (int(row["t_first_us"]), int(row["t_last_us"]))
        assert recordings.target[i] == int(row["label"])
        assert recordings.origin[i].rpartition("/")[2] == row["mnist_index0"]
