"""Arrays of an .npz archive: numbers and text alone, each of a size that is known before memory is taken for it."""

from __future__ import annotations

import io
import math
import struct
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from cil_spl.base.errors import RequestError

MOST_BYTES = 2**28  # no array file of ours has as many
_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, OSError, ValueError, SyntaxError,
    TypeError, KeyError, OverflowError, RuntimeError, NotImplementedError, MemoryError,
)  # fmt: skip  # what zipfile and numpy raise over bytes that are no archive, or no array


def check_file(path: Path, most_bytes: int, what: str) -> None:
    """Refuse what cannot be read whole: no file, a device, or more than ``most_bytes``.

    Raises:
        RequestError: names the path, and what it should be.
    """
    try:
        there, is_file = path.exists(), path.is_file()
        size = path.stat().st_size if is_file else 0
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); name {what}") from None
    if not there:
        raise RequestError(f"{path}: no such file; name {what}")
    if not is_file:
        raise RequestError(f"{path}: no file, but a folder or a device; name {what}")
    if size > most_bytes:
        raise RequestError(f"{path}: {size} bytes; {what} has at most {most_bytes}")


def read_arrays(content: bytes, most_bytes: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an archive that ``np.savez`` wrote, by their names.

    Args:
        content: of the file.
        most_bytes: that all arrays together may take; known from the archive's directory before one is unpacked.

    Raises:
        ValueError: no archive, damaged, larger than that, or an array that is no numbers or text; says what and which.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > most_bytes:
                raise ValueError(f"its arrays would take {total} bytes; at most {most_bytes} are read")
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                raise ValueError("two arrays have the same name")
            return {name: _array(name, _unpacked(archive, member)) for name, member in zip(names, members, strict=True)}
    except _BROKEN as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes, checked by the archive's CRC."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename}: packed as numpy does not pack")
    with archive.open(member) as file:
        found = file.read(member.file_size)
        if len(found) < member.file_size or file.read(1):
            raise ValueError(f"{member.filename}: cut short")
    return found


def is_text(flat: np.ndarray) -> bool:
    """Whether an array of text holds characters alone, of any other array true; Python breaks on the rest."""
    if flat.dtype.kind != "U" or not flat.size:
        return True
    codes = flat.view(np.dtype("u4").newbyteorder(flat.dtype.byteorder))
    return int(codes.max()) <= sys.maxunicode


def _array(name: str, content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name}: an array of format {version}, which numpy does not write of numbers")
    try:
        shape, fortran, dtype = read(file)
    except _BROKEN:
        raise ValueError(f"{name}: its header is not that of an array") from None
    if dtype.kind not in "biufUS" or not dtype.itemsize:
        raise ValueError(f"{name}: {dtype} in place of numbers or text")
    count, left = math.prod(shape), len(content) - file.tell()
    if min(shape, default=0) < 0 or count * dtype.itemsize != left:
        raise ValueError(f"{name}: {left} bytes, its shape {shape} needs {count * dtype.itemsize}")
    flat = np.frombuffer(content, dtype, count, file.tell()) if count else np.zeros(0, dtype)
    if not is_text(flat):
        raise ValueError(f"{name}: its text has characters that there are not")
    return flat.reshape(shape, order="F" if fortran else "C").copy()
