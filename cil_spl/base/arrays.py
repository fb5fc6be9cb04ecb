"""Arrays from files that anyone may have written, ``.npy`` and ``.npz``: as numbers, or refused by name.

The header is read first and held against the bytes that are there and the memory that is free, so that nothing is
allocated, or unpacked, on the word of a file. Nothing is unpickled.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from cil_spl.base.errors import RequestError
from cil_spl.base.memory import check_fits

_LONGEST_HEADER = 1 << 16  # bytes; numpy itself takes 10,000 characters
_MOST_AXES = 32
_BLOCK = 1 << 22  # bytes
# What numpy's parser of headers raises on bytes that are none.
_NO_HEADER = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    EOFError,
)
_NO_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


def check_file(path: Path | str) -> Path:
    """A file that is there, as a path.

    Raises:
        RequestError: there is none, it is a folder or no ordinary file, or it may not be looked at.
    """
    path = Path(path)
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise RequestError(f"{path} is a folder; name a file")
        if path.exists():
            raise RequestError(f"{path} is no ordinary file; name one")
    except (OSError, ValueError) as error:  # no access, a name that is too long, a zero byte in it
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path}: cannot be opened ({error}); name another file") from error
    raise RequestError(f"{path}: no such file")


def read_npy(path: Path | str) -> np.ndarray:
    """The array of an ``.npy`` file.

    Raises:
        RequestError: no such file, no array of plain values, cut off, longer than it says, or larger than the memory.
    """
    path = check_file(path)
    try:
        with path.open("rb") as file:
            return _array(file, path.stat().st_size, str(path))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error})") from error


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an ``.npz`` file by name, each read when it is asked for.

    Raises:
        RequestError: as :func:`read_npy`, on opening and on each look.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in self._members:
                raise RequestError(f"{path}: holds two arrays {name}; save it again")
            self._members[name] = member

    def __getitem__(self, name: str) -> np.ndarray:
        member = self._members[name]
        what = f"{self._path}: its array {name}"
        if member.flag_bits & 1:
            raise RequestError(f"{what} is encrypted; save it without a password")
        try:
            with self._archive.open(member) as file:
                return _array(file, member.file_size, what, member.compress_size)
        except (*_NO_ARCHIVE, OSError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"{what} cannot be read ({_first_line(error)}); save it again") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


@contextmanager
def open_npz(path: Path | str) -> Iterator[Archive]:
    """The arrays of an ``.npz`` file.

    Raises:
        RequestError: no such file, or no archive.
    """
    path = check_file(path)
    try:
        archive = zipfile.ZipFile(path)
    except (*_NO_ARCHIVE, OSError) as error:
        raise RequestError(f"{path}: not a readable .npz archive ({_first_line(error)}); save it again") from error
    with archive:
        yield Archive(path, archive)


def _array(file: IO[bytes], size: int, what: str, packed: int | None = None) -> np.ndarray:
    """The one array of an open file of so many bytes, of which ``packed`` lie on the disk."""
    shape, fortran, dtype, begin = _header(file, what)
    if dtype.hasobject:
        raise RequestError(
            f"{what}: not a readable array of numbers: it holds pickled objects, which may run code; save it as numbers"
        )
    whole = all(isinstance(n, int) and 0 <= n <= np.iinfo(np.intp).max for n in shape)
    if not whole or len(shape) > _MOST_AXES or not dtype.itemsize:
        raise RequestError(
            f"{what}: not a readable array (its header says {dtype}, shape {_short(shape)}); save it again"
        )
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - begin:
        why = "it is cut off" if needed > size - begin else "it holds more than one array, or is damaged"
        raise RequestError(
            f"{what}: not a readable array: {size - begin} bytes, where its header needs {needed} ({dtype}, shape "
            f"{_short(shape)}): {why}; save it again"
        )
    check_fits(needed, what, "give a shorter one, or one of smaller numbers", packed)
    values = np.empty(needed, np.uint8)
    view, at = values.data, 0
    while at < needed:
        part = file.read(min(_BLOCK, needed - at))
        if not part:
            raise RequestError(
                f"{what}: not a readable array: it is cut off after {at} of {needed} bytes; save it again"
            )
        view[at : at + len(part)] = part
        at += len(part)
    file.read(1)  # at its end an archive compares the checksum
    try:
        return np.ndarray(shape, dtype, values, order="F" if fortran else "C")
    except (ValueError, TypeError) as error:  # more axes than numpy has
        raise RequestError(f"{what}: not a readable array ({_first_line(error)}); save it again") from error


def _header(file: IO[bytes], what: str) -> tuple[tuple[Any, ...], bool, np.dtype, int]:
    """Shape, order, type, and where the values begin."""
    start = file.read(npy.MAGIC_LEN)
    try:
        version = npy.read_magic(io.BytesIO(start))
        width = 2 if version == (1, 0) else 4
        count = file.read(width)
        length = int.from_bytes(count, "little")
        if version not in ((1, 0), (2, 0), (3, 0)) or len(count) < width or length > _LONGEST_HEADER:
            raise ValueError(f"format {version}, a header of {length} bytes")
        text = io.BytesIO(count + file.read(length))
        with warnings.catch_warnings():  # of Python 2's headers
            warnings.simplefilter("ignore")
            read = npy.read_array_header_1_0 if width == 2 else npy.read_array_header_2_0  # 3 is 2 with other letters
            shape, fortran, dtype = read(text, max_header_size=_LONGEST_HEADER)
    except _NO_HEADER as error:
        raise RequestError(f"{what}: not a readable .npy array ({_first_line(error)}); save it again") from error
    return shape, bool(fortran), dtype, npy.MAGIC_LEN + width + length


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _short(shape: tuple[Any, ...]) -> str:
    return f"of {len(shape)} axes" if len(shape) > 8 else ascii(shape)[:80]
