from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from cil_spl.base.errors import RequestError
from cil_spl.base.files import write_json
from cil_spl.data import cache
from cil_spl.data.events import EVENT, from_list
from cil_spl.data.samples import from_arrays, spread, standardised


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("CILSPL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def some(n=3, seed=0):
    rng = np.random.default_rng(seed)
    arrays = []
    for i in range(n):
        e = np.zeros(10 * i, EVENT)
        e["x"], e["t"] = rng.integers(0, 5, 10 * i), np.sort(rng.integers(0, 99, 10 * i))
        arrays.append(e)
    return from_list(arrays, range(n), (5, 4, 2), "abcdefgh", origins=[f"o/{i}" for i in range(n)])


def same(a, b):
    assert len(a) == len(b)
    assert (a.sensor_size, a.classes) == (b.sensor_size, b.classes)
    for field in ("target", "name", "origin"):
        assert getattr(a, field).tolist() == getattr(b, field).tolist()
    for i in range(len(a)):
        assert a[i].dtype == b[i].dtype == EVENT
        assert a[i].tolist() == b[i].tolist()


def refuse():
    raise AssertionError("made again")


def entries(here):
    return [p for p in here.iterdir() if p.name != "locks"]


def test_made_once_and_read_back_the_same(here):
    data = {"train": some(), "part": some(4).subset([3, 1]), "empty": some(0)}
    first = cache.load_or_make({"a": 1}, lambda: data)
    again = cache.load_or_make({"a": 1}, refuse)
    for sets in (first, again):
        assert sets.keys() == data.keys()
        for name in data:
            same(sets[name], data[name])
    assert isinstance(again["train"].events, np.memmap)
    assert not again["train"].events.flags.writeable
    assert len(again["part"].events) == 40  # only the events of the subset are kept
    assert len(entries(here)) == 1


KEY = {"name": "x", "root": "r", "preprocess": {"pool": 1, "crop": None, "rotate": 0}, "n": [34, 34, 2], "f": 0.1}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "y"},
        {"root": "s"},
        {"preprocess": {"pool": 2, "crop": None, "rotate": 0}},
        {"preprocess": {"pool": 1, "crop": None, "rotate": 90}},
        {"preprocess": {"pool": 1, "crop": None}},
        {"n": [34, 34, 1]},
        {"f": 0.2},
        {"f": None},
        {"more": 1},
    ],
)
def test_any_changed_value_is_another_set(change):
    cache.load_or_make(KEY, lambda: {"a": some(2)})
    assert len(cache.load_or_make({**KEY, **change}, lambda: {"a": some(3)})["a"]) == 3
    assert len(cache.load_or_make(dict(reversed(KEY.items())), refuse)["a"]) == 2


def test_another_format_is_another_set(monkeypatch):
    cache.load_or_make(KEY, lambda: {"a": some(2)})
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert len(cache.load_or_make(KEY, lambda: {"a": some(3)})["a"]) == 3


def test_fingerprint_sees_names_sizes_and_times(tmp_path):
    root = tmp_path / "data"
    (root / "deep").mkdir(parents=True)
    seen = [cache.fingerprint([root]), cache.fingerprint([tmp_path / "absent"])]
    file = root / "deep" / "a.bin"
    for content in (b"abc", b"abcd"):
        file.write_bytes(content)
        os.utime(file, ns=(5, 5))
        seen.append(cache.fingerprint([root]))
    os.utime(file, ns=(6, 6))
    seen.append(cache.fingerprint([root]))
    assert cache.fingerprint([root]) == seen[-1]
    file.rename(root / "deep" / "b.bin")
    os.utime(root / "deep" / "b.bin", ns=(6, 6))
    seen.append(cache.fingerprint([root]))
    assert len(set(seen)) == len(seen)


def test_nothing_is_kept_of_what_fails(here):
    def fail():
        raise RequestError("Train/3/00001.bin: cut off")

    with pytest.raises(RequestError, match="cut off"):
        cache.load_or_make(KEY, fail)
    assert entries(here) == []
    same(cache.load_or_make(KEY, lambda: {"a": some()})["a"], some())


def _make_slowly(log):
    def make():
        with open(log, "a") as f:
            f.write("made\n")
        time.sleep(0.5)
        return {"a": some()}

    same(cache.load_or_make({"k": 1}, make)["a"], some())


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_make_slowly, args=(tmp_path / "log",)) for _ in range(2)]
    for p in both:
        p.start()
    for p in both:
        p.join(60)
    assert [p.exitcode for p in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def _stop_while_writing(ready):
    save = np.save

    def slow_save(file, array, **kwargs):
        save(file, array, **kwargs)
        if "origin" in str(file):
            open(ready, "w").close()
            time.sleep(60)

    np.save = slow_save
    cache.load_or_make({"k": 1}, lambda: {"a": some(), "b": some()})


def test_a_kill_in_the_middle_leaves_nothing_that_is_read(tmp_path, here):
    process = multiprocessing.get_context("spawn").Process(target=_stop_while_writing, args=(tmp_path / "ready",))
    process.start()
    for _ in range(600):
        if (tmp_path / "ready").exists():
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    left = entries(here)
    assert left  # it was killed half-way
    assert all(p.name.startswith(".half-") for p in left)
    made = []
    same(cache.load_or_make({"k": 1}, lambda: made.append(1) or {"a": some()})["a"], some())
    assert made == [1]
    assert [p.name.startswith(".half-") for p in entries(here)] == [False]  # the remains went with it


DAMAGE = {
    "cut": "a.events.npy has 453 bytes in place of 462",
    "absent": "a.origin.npy",
    "json": "Expecting",
    "foreign": "another version made it",
    "old": "another version made it",
    "flipped": "a.events.npy does not fit its checksum",
    "about": "about.json does not fit its checksum",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_made_again(here, caplog, damage):
    cache.load_or_make(KEY, lambda: {"a": some()})
    (entry,) = entries(here)
    if damage == "cut":
        events = entry / "a.events.npy"
        events.write_bytes(events.read_bytes()[:-9])
    elif damage == "absent":
        (entry / "a.origin.npy").unlink()
    elif damage == "json":
        (entry / "about.json").write_text("{")
    elif damage == "foreign":
        write_json(entry / "about.json", {**json.loads((entry / "about.json").read_text()), "format": -1})
    elif damage == "old":  # before there were checksums
        about = json.loads((entry / "about.json").read_text())
        del about["sha256"], about["sets"]["a"]["crc"]
        (entry / "about.json").write_text(json.dumps(about))
    elif damage == "flipped":  # one bit of an event, size and time as they were
        events = entry / "a.events.npy"
        content = bytearray(events.read_bytes())
        content[-20] ^= 1
        stat = events.stat()
        events.write_bytes(content)
        os.utime(events, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        cache._verified.clear()  # as in another process
    else:
        text = (entry / "about.json").read_text()
        (entry / "about.json").write_text(text.replace('"b"', '"x"'))
    made = []
    same(cache.load_or_make(KEY, lambda: made.append(1) or {"a": some()})["a"], some())
    assert made == [1]
    (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert DAMAGE[damage] in record.getMessage()
    assert record.getMessage().endswith("it is made anew")
    same(cache.load_or_make(KEY, refuse)["a"], some())


def test_a_file_is_compared_once_in_a_process_and_again_when_it_changed(here, monkeypatch):
    cache.load_or_make(KEY, lambda: {"a": some()})
    read = []
    crc = cache._crc
    monkeypatch.setattr(cache, "_crc", lambda file: read.append(file.name) or crc(file))
    cache.load_or_make(KEY, refuse)
    assert read == []
    os.utime(entries(here)[0] / "a.events.npy", ns=(5, 5))
    same(cache.load_or_make(KEY, refuse)["a"], some())
    cache.load_or_make(KEY, refuse)
    assert read == ["a.events.npy"]


@pytest.mark.parametrize("at", ["before", "while writing"])
def test_full_disk_names_folder_and_bytes(here, monkeypatch, at):
    if at == "before":
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    else:

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(np, "save", full)
    data = some()
    with pytest.raises(RequestError, match="no room") as caught:
        cache.load_or_make(KEY, lambda: {"a": data})
    needed = sum(getattr(data, f).nbytes for f in ("events", "start", "stop", "target", "name", "origin"))
    assert str(here) in str(caught.value)
    assert f"{needed} bytes" in str(caught.value)
    assert entries(here) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CILSPL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RequestError, match="CILSPL_CACHE"):
        cache.load_or_make(KEY, lambda: {"a": some()})


def test_size_and_clear(here):
    assert cache.size() == 0
    assert cache.clear() == 0
    data = cache.load_or_make(KEY, lambda: {"a": some()})["a"]
    cache.load_or_make({"k": 2}, lambda: {"a": some()})
    (here / ".half-0123").mkdir()
    held = cache.size()
    assert held > some().events.nbytes * 2
    assert cache.clear() == held
    assert cache.size() == 0
    assert entries(here) == []
    same(data, some())  # open recordings outlive the clearing


def test_identity_tells_subsets_apart():
    data = cache.load_or_make(KEY, lambda: {"a": some(), "b": some()})
    assert cache.identity(some()) is None
    assert cache.identity(data["a"]) == cache.identity(cache.load_or_make(KEY, refuse)["a"])
    ids = [cache.identity(r) for r in (data["a"], data["b"], data["a"].subset([1, 2]), data["a"].subset([2, 1]))]
    assert len(set(ids)) == 4


def samples(n=4, classes="ab", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (n, 2, 3, 3)).astype(np.uint8)
    target = np.arange(n) % 2 if classes else np.arange(2.0 * n).reshape(n, 2)
    return from_arrays(values, target, classes, origins=[f"o/{i}" for i in range(n)], scale=1 / 255)


def test_samples_are_made_once_and_read_back_the_same(here):
    data = {"train": samples(), "part": samples(5).subset([4, 1]), "numbers": samples(classes=None), "none": samples(0)}
    cache.load_or_make({"a": 1}, lambda: data | {"events": some()})
    again = cache.load_or_make({"a": 1}, refuse)
    same(again.pop("events"), some())
    for name, made in data.items():
        kept = again[name]
        assert (kept.classes, kept.scale, kept.shift) == (made.classes, made.scale, made.shift)
        for field in ("target", "name", "origin"):
            assert getattr(kept, field).tolist() == getattr(made, field).tolist()
        assert kept.target.dtype == made.target.dtype
        np.testing.assert_array_equal(kept.take(np.arange(len(kept))), made.take(np.arange(len(made))))
    assert isinstance(again["train"].values, np.memmap)
    assert not again["train"].values.flags.writeable
    assert len(again["part"].values) == 2  # only the values of the subset are kept


def test_damaged_samples_are_made_again(here):
    cache.load_or_make(KEY, lambda: {"a": samples()})
    (file,) = here.glob("*/a.values.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = cache.load_or_make(KEY, lambda: {"a": samples(seed=1)})["a"]
    np.testing.assert_array_equal(again.values, samples(seed=1).values)


def test_identity_tells_samples_apart():
    data = cache.load_or_make(KEY, lambda: {"a": samples(), "b": samples()})
    whole = data["a"]
    assert cache.identity(samples()) is None
    assert cache.identity(whole) == cache.identity(cache.load_or_make(KEY, refuse)["a"])
    assert cache.identity(whole) == cache.identity(whole.subset(range(4)))
    others = [whole.subset([1, 2]), whole.subset([2, 1]), standardised(whole, *spread(whole)), data["b"]]
    others += [replace(whole, order=np.arange(9)[::-1]), replace(whole, classes=("x", "y"))]
    assert len({cache.identity(one) for one in [whole, *others]}) == 7
