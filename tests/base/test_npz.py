"""Arrays of an archive: what numpy wrote comes back, and nothing is unpacked that is damaged or too large."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cil_spl.base.errors import RequestError
from cil_spl.base.npz import check_file, read_arrays


def saved(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@settings(max_examples=50)
@given(hnp.arrays(st.sampled_from(["u1", ">i4", "f8", "U3"]), hnp.array_shapes(min_dims=0, min_side=0)))
def test_arrays_come_back(array: np.ndarray) -> None:
    (found,) = read_arrays(saved(a=array)).values()
    assert found.shape == array.shape
    np.testing.assert_array_equal(found, array)
    turned = read_arrays(saved(a=np.asfortranarray(array)))["a"]
    np.testing.assert_array_equal(turned, array)


def member(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", content)
    return file.getvalue()


def header(text: str) -> bytes:
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip file"),
        (b"hello", "not a zip file"),
        (saved(a=np.zeros(3))[:-40], "not a zip file"),
        (member(b""), "EOF"),
        (member(b"no array at all"), "magic"),
        (member(header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,)}")), "a: its header is not that"),
        (
            member(header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}")),
            r"a: 0 bytes, its shape \(1000000000000,\) needs 8000000000000",
        ),
        (member(header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}") + bytes(8)), "needs -8"),
        (member(header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + bytes(8)), "object in place of"),
        (member(header("{'descr': '<U0', 'fortran_order': False, 'shape': (9,)}")), "in place of numbers"),
        (member(header("((((")), "a: its header is not that"),
        (member(header("(" * 9000)), "a: its header is not that"),
        (saved(a=np.zeros(3, "M8[s]")), "in place of numbers or text"),
        (saved(a=np.zeros(3, [("x", "i4")])), "in place of numbers or text"),
        (saved(a=np.ones(3) * 1j), "complex128 in place of"),
        (member(b"x", zipfile.ZIP_LZMA), "packed as numpy does not pack"),
    ],
    ids=range(16),
)
def test_what_is_no_array_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_arrays(content)
    assert "\n" not in str(caught.value)


def test_sizes_are_known_before_anything_is_unpacked() -> None:
    packed = saved(a=np.zeros(10_000_000, np.int8))
    assert len(packed) < 20_000
    with pytest.raises(ValueError, match=r"would take 10000\d\d\d bytes; at most 1000000 are read"):
        read_arrays(packed, most_bytes=1_000_000)
    assert read_arrays(packed)["a"].nbytes == 10_000_000
    # A directory that understates a member: what is there in excess is never unpacked.
    lying = packed.replace(struct.pack("<I", 10_000_128), struct.pack("<I", 1000))
    with pytest.raises(ValueError, match=r"CRC|cut short"):
        read_arrays(lying)


def test_a_flipped_bit_is_found_by_the_archive() -> None:
    file = io.BytesIO()
    np.savez(file, a=np.arange(100))
    content = bytearray(file.getvalue())
    content[content.index(np.int64(50).tobytes())] ^= 1
    with pytest.raises(ValueError, match=r"Bad CRC-32 for file 'a\.npy'"):
        read_arrays(bytes(content))


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(11))
    check_file(tmp_path / "a", 11, "a thing")
    for path, message in (
        (tmp_path / "a", r"a: 11 bytes; a thing has at most 10"),
        (tmp_path / "b", "b: no such file; name a thing"),
        (tmp_path, "no file, but a folder or a device; name a thing"),
        (tmp_path / ("x" * 300), "cannot be read|no such file"),
        (tmp_path / "a\0", "cannot be read|no such file"),
    ):
        with pytest.raises(RequestError, match=message):
            check_file(path, 10, "a thing")


@pytest.mark.parametrize(("order", "sound"), [("<", 0x10FFFF), (">", 0x10FFFF)])
def test_text_with_characters_that_there_are_not(order, sound):
    """Python raises SystemError over them, wherever they are looked at."""
    for code, fits in ((sound, True), (sound + 1, False), (0xFFFFFFFF, False)):
        file = io.BytesIO()
        np.savez(file, names=np.array([65, code], f"{order}u4").view(f"{order}U2"))
        if fits:
            assert read_arrays(file.getvalue())["names"].tolist() == ["A" + chr(code)]
        else:
            with pytest.raises(ValueError, match="names: its text has characters that there are not"):
                read_arrays(file.getvalue())
