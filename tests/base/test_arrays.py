"""Arrays from files: what numpy writes is read, all else is refused by name and measured before it is unpacked."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cil_spl.base import memory
from cil_spl.base.arrays import check_file, open_npz, read_npy
from cil_spl.base.errors import RequestError
from cil_spl.base.memory import check_fits, free_bytes

EVENTS = np.array([(1, 2, 3, True)], [("x", "<u2"), ("y", ">i4"), ("t", "f8"), ("p", "?")])
FAST = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    """An ``.npy`` file of this header, without values."""
    width = "<H" if version == 1 else "<I"
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, len(text) if length is None else length) + text.encode()
    )


WHOLE = [
    np.arange(6, dtype=">i2").reshape(2, 3),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    EVENTS,
    np.zeros((0, 3), np.int8),
    np.array(5),
    np.array(["abc"]),
    np.array(["2020-01-01"], "M8[us]"),
    np.ones(3, [("a", "u1", (2, 2))]),
]


@pytest.mark.parametrize("array", WHOLE, ids=lambda array: str(array.dtype))
def test_what_numpy_writes_is_read(tmp_path: Path, array: np.ndarray) -> None:
    for version in ((1, 0), (2, 0), (3, 0)):
        (tmp_path / "a.npy").write_bytes(saved(array, version))
        found = read_npy(tmp_path / "a.npy")
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", first=array, second=np.arange(3))
        with open_npz(tmp_path / "a.npz") as archive:
            assert list(archive) == ["first", "second"]
            np.testing.assert_array_equal(archive["first"], array)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a readable .npy array"),
        (b"\x93NUMPY", "not a readable .npy array"),
        (header("{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }"), "0 bytes, where its header needs 12"),
        (header("{'descr': '<i4', 'fortran_order': False, 'shape': ((3,, }"), "not a readable .npy array"),
        (header("{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }"), r"its header says int32, shape \(-1,\)"),
        (header("{'descr': '<i4', 'fortran_order': False, 'shape': (10**99,), }"), "not a readable"),
        (header("{'descr': '<i4', 'fortran_order': False, 'shape': (" + "9" * 40 + ",), }"), "its header says int32"),
        (header("{'descr': '<i4', 'fortran_order': False, 'shape': (" + "9999999," * 99 + "), }"), "of 99 axes"),
        (header("{'descr': '<V0', 'fortran_order': False, 'shape': (1000000000000,), }"), "not a readable"),
        (header("{'descr': '<x9', 'fortran_order': False, 'shape': (3,), }"), "not a readable .npy array"),
        (header("{'descr': [('x', '<i2')" + ", ('x', '<i2')] }"), "not a readable .npy array"),
        (header("(" * 5000), "not a readable .npy array"),
        (header("{}", version=2, length=1 << 31), "a header of 2147483648 bytes"),
        (saved(np.arange(3)) + saved(np.arange(3)), "more than one array"),
        (saved(np.arange(3))[:-1], "it is cut off"),
    ],
)
def test_what_is_no_array_is_refused_by_name(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=why) as caught:
        read_npy(path)
    assert str(caught.value).startswith(str(path))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("events.npy", content)
    with open_npz(tmp_path / "a.npz") as archive, pytest.raises(RequestError, match=why) as caught:
        archive["events"]
    assert f"{tmp_path / 'a.npz'}: its array events" in str(caught.value)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(RequestError, match="pickled objects"):
        read_npy(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros(1, [("x", "O")]), allow_pickle=True)
    with pytest.raises(RequestError, match="pickled objects"):
        read_npy(tmp_path / "a.npy")


@FAST
@given(st.data())
def test_damaged_files_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed, cut off or added, in an array and in an archive of several."""
    archive = io.BytesIO()
    np.savez_compressed(archive, events=EVENTS, x=np.arange(50))
    content = bytearray(data.draw(st.sampled_from([saved(EVENTS), saved(np.arange(50)), archive.getvalue()])))
    for _ in range(data.draw(st.integers(1, 4))):
        kind, at = data.draw(st.sampled_from("sxc")), data.draw(st.integers(0, max(0, len(content) - 1)))
        if kind == "s" and content:
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "x":
            content[at:at] = data.draw(st.binary(max_size=9))
        else:
            del content[at : at + data.draw(st.integers(1, 60))]
    path = tmp_path / "a"
    path.write_bytes(content)
    for read in (read_npy, lambda path: [*opened(path).values()]):
        refusal = None
        try:
            read(path)
        except RequestError as error:
            refusal = str(error)
        assert refusal is None or str(path) in refusal


def opened(path: Path) -> dict[str, np.ndarray]:
    with open_npz(path) as found:
        return {name: found[name] for name in found}


def bomb(path: Path, gigabytes: float) -> Path:
    """An ``.npz`` of so many gigabytes of zeros, of which a thousandth lie on the disk."""
    n = int(gigabytes * 1e9) // 13
    dtype = [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "i1")]
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': ({n},), }}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("events.npy", "w") as member:
        member.write(header(text))
        left, block = n * 13, bytes(1 << 24)
        while left > 0:
            left -= member.write(block[:left])
    return path


def test_an_archive_is_measured_before_it_is_unpacked(tmp_path: Path) -> None:
    """In a process of its own, whose memory is looked at: 0.6 GB of zeros in half a megabyte."""
    path = bomb(tmp_path / "a.npz", 0.6)
    assert path.stat().st_size < 1e6
    said = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=False)
    message, grown = said.stdout.splitlines()
    assert "would unpack" in message
    assert "to 0.6 GB, more than 100 times as much" in message
    assert int(grown) < 100_000  # kilobytes


_READ = """
import resource, sys
from cil_spl.base.errors import RequestError
from cil_spl.data.files import read_recording
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_recording(sys.argv[1], (34, 34, 2))
except RequestError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1000, np.uint8))
    np.savez(tmp_path / "a.npz", x=np.zeros(1000, np.uint8))
    monkeypatch.setattr(memory, "free_bytes", lambda: 4000)
    assert read_npy(tmp_path / "a.npy").nbytes == 1000
    monkeypatch.setattr(memory, "free_bytes", lambda: 3999)
    with pytest.raises(RequestError, match=r"a\.npy would take 1e-06 GB; at most 1e-06 GB fit, a quarter"):
        read_npy(tmp_path / "a.npy")
    with open_npz(tmp_path / "a.npz") as archive, pytest.raises(RequestError, match="its array x would take"):
        archive["x"]
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    check_fits(1 << 60, "all", "")


def test_a_limit_of_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_bytes()
    assert free is not None
    assert free > 0
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (used + (1 << 30), resource.RLIM_INFINITY))
    assert (1 << 29) < free_bytes() <= (1 << 30)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none", "no such file"),
        (".", "is a folder"),
        ("a" * 300, "too long"),
        ("a\0b", "null byte|no such"),
        ("fifo", "ordinary"),
    ],
)
def test_what_is_no_file_is_named(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RequestError, match=why):
        check_file(tmp_path / name)
