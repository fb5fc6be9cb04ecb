"""What happens to files: bits, bytes and lengths of any of them; members, values, headers of some formats."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.files import write_json
from tests.fuzz.kinds import Damage

NAN, INF = float("nan"), float("inf")
# Values that no reader should take on trust, as Python has them.
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**32, 2**53, 2**63, 2**64, 10**30, -(10**9), 1.5, -0.5, NAN, INF, -INF,
    1e38, 1e308, 1e-320, "", " ", "x", "1", "nan", "None", "null", "true", "ü\u202e💥", "../..", "/", "a\nb", "a\x00b",
    "\x1b[31m", "${oc.env:HOME}", "x" * 5000, [], [1], [1, 2], [0, 0], [1, 1, 1], [-1, 1], [[1]], [None], ["x"],
    [1e9, 1], [NAN], [10**9, 10**9], [2**40] * 3, [4096, 4096], {}, {"a": 1}, {"": None}, {"format": 1},
    [[[[[[[[1]]]]]]]], "2026-01-01", [0] * 2000,
)  # fmt: skip
# The same for lines of text.
ODD_TEXT = (
    "", "0", "-1", "1", "nan", "inf", "-inf", "1e38", "1e400", "99999999999999999999", "1.5", "0x10", "1_000", "x",
    "None", "null", "true", "ü", "\ufeff", "\x00", "\x1b[2J", "#", '"', "'", ",", ";", "\t", "\r", "x,y,t,p",
    "# y,x,t,p", "p", "1,1,1,1,1", "x" * 3000, "١٢", "1e5", " 1 ", "${seed}", "[1", "{a: 1}", "*a", "&a [*a]",
    "!!python/object:os.system x", "- 1", "? 1", "%", "|",
)  # fmt: skip


# Bytes


def flip(rng: random.Random, path: Path) -> str:
    """One bit, or a few."""
    content = bytearray(path.read_bytes() or b"x")
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return _written(rng, path, bytes(content), "bits flipped")


def byte(rng: random.Random, path: Path) -> str:
    content = bytearray(path.read_bytes() or b"x")
    at = rng.randrange(len(content))
    content[at] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    return _written(rng, path, bytes(content), f"byte {at} set")


def cut(rng: random.Random, path: Path) -> str:
    content = path.read_bytes()
    n = rng.choice((0, 1, len(content) - 1, rng.randrange(len(content) + 1)))
    return _written(rng, path, content[: max(0, n)], f"cut to {n} bytes")


def double(rng: random.Random, path: Path) -> str:
    """All of it, or a part, twice."""
    content = path.read_bytes()
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    if rng.random() < 0.4:
        begin, end = 0, len(content)
    return _written(rng, path, content[:end] + content[begin:], f"bytes {begin} to {end} twice")


def zero(rng: random.Random, path: Path) -> str:
    """A range of zeros, or of ones."""
    content = bytearray(path.read_bytes())
    begin = rng.randrange(len(content) + 1)
    end = min(len(content), begin + rng.choice((1, 8, 64, 512, 4096)))
    fill = rng.choice((b"\0", b"\xff"))
    content[begin:end] = fill * (end - begin)
    return _written(rng, path, bytes(content), f"bytes {begin} to {end} filled with {fill.hex()}")


def swap(rng: random.Random, path: Path) -> str:
    """Two blocks exchanged."""
    content = path.read_bytes()
    size = max(1, min(len(content) // 3, rng.choice((1, 4, 64, 512))))
    a, b = sorted(rng.randrange(max(1, len(content) - size)) for _ in range(2))
    b = max(b, a + size)
    first, second = content[a : a + size], content[b : b + size]
    new = content[:a] + second + content[a + size : b] + first + content[b + size :]
    return _written(rng, path, new, f"{size} bytes at {a} and {b} exchanged")


def insert(rng: random.Random, path: Path) -> str:
    content = path.read_bytes()
    at, more = rng.randrange(len(content) + 1), bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
    return _written(rng, path, content[:at] + more + content[at:], f"{more.hex()} put in at {at}")


def lose(rng: random.Random, path: Path) -> str:
    content = path.read_bytes()
    at, n = rng.randrange(len(content) + 1), rng.randrange(1, 60)
    return _written(rng, path, content[:at] + content[at + n :], f"{n} bytes lost at {at}")


def gone(rng: random.Random, path: Path) -> str:
    """No file, or something else in its place."""
    path.unlink()
    if rng.random() < 0.5:
        path.mkdir()
        return "a folder in its place"
    return "gone"


def noise(rng: random.Random, path: Path) -> str:
    """Another content altogether."""
    content = rng.choice(
        (b"", b"\0" * 100, b"{}", b"[]", b"null", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n\x1a\n", rng.randbytes(300))
    )
    return _written(rng, path, content, f"{content[:20]!r} in its place")


def _written(rng: random.Random, path: Path, content: bytes, what: str) -> str:
    """The content; where it is what was there, with one bit flipped."""
    before = path.read_bytes()
    if content == before:
        changed = bytearray(content or b"\0\0")
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        content, what = bytes(changed), "a bit flipped"
    path.write_bytes(content)
    return what


BYTES: tuple[Damage, ...] = (flip, flip, byte, cut, double, zero, swap, insert, lose)
ANY: tuple[Damage, ...] = (*BYTES, gone, noise)


# Text


def lines(rng: random.Random, path: Path) -> str:
    """A line lost, doubled, moved or replaced; a cell replaced."""
    found = path.read_bytes().split(b"\n")
    i, j = rng.randrange(len(found)), rng.randrange(len(found))
    odd = rng.choice(ODD_TEXT).encode()
    how = rng.choice(("lost", "doubled", "moved", "replaced", "cell", "cell", "cell", "all"))
    if how == "lost":
        del found[i]
    elif how == "doubled":
        found.insert(j, found[i])
    elif how == "moved":
        found[i], found[j] = found[j], found[i]
    elif how == "replaced":
        found[i] = odd
    elif how == "all":
        old, new = rng.choice(
            ((b",", b";"), (b",", b" "), (b"1", odd), (b"\n", b"\r"), (b",", b",,"), (b": ", b":"), (b"0", b"-"))
        )
        return _written(rng, path, b"\n".join(found).replace(old, new), f"{old!r} became {new!r}")
    else:
        cells = list(re.finditer(rb"[^,;\s:\"]+", found[i]))
        if cells:
            cell = rng.choice(cells)
            found[i] = found[i][: cell.start()] + odd + found[i][cell.end() :]
    return _written(rng, path, b"\n".join(found), f"line {i} {how} ({odd[:20]!r})")


# Plain values, as JSON, YAML and checkpoints hold them


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def edited(rng: random.Random, value: Any, odd: Sequence[Any] = ODD) -> tuple[Any, str]:
    """A copy with one value, or two, replaced, left out, doubled or added; and what was done."""
    new, told = copy.deepcopy(value), []
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = list(paths(new))
        if not places or rng.random() < 0.02:
            return rng.choice(odd), "all of it replaced"
        *way, last = rng.choice(places)
        inner, how = new, rng.random()
        for key in way:
            inner = inner[key]
        if how < 0.75:
            put = rng.choice(odd)
            inner[last] = copy.deepcopy(put)
            told.append(f"{'.'.join(map(str, (*way, last)))}={put!r:.60}")
        elif how < 0.88:
            del inner[last]
            told.append(f"without {'.'.join(map(str, (*way, last)))}")
        elif isinstance(inner, list):
            inner.insert(rng.randrange(len(inner) + 1), copy.deepcopy(inner[last]))
            told.append(f"{'.'.join(map(str, way))} longer")
        else:
            inner[rng.choice(("new", "", "__class__", "format", "name", "_target_"))] = rng.choice(odd)
            told.append(f"{'.'.join(map(str, way))} with another key")
    return new, ", ".join(told)


def json_values(write: Callable[[Path, Any], None]) -> Damage:
    """An edit of a JSON file.

    Args:
        write: so, with a checksum or without.
    """

    def edit(rng: random.Random, path: Path) -> str:
        new, told = edited(rng, json.loads(path.read_bytes()))
        write(path, new)
        return told

    return edit


def sealed_json(path: Path, value: Any) -> None:
    """With a checksum that fits, where it is a mapping."""
    write_json(path, value) if isinstance(value, dict) else plain_json(path, value)


def plain_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False))


def nested_json(rng: random.Random, path: Path) -> str:
    """Deeper than Python's recursion, or a number longer than Python reads."""
    content = rng.choice(
        ("[" * 100_000, '{"a":' * 50_000, "[" * 3000 + "]" * 3000, "1" * 10_000, '{"a": ' + "9" * 9000 + "}")
    )
    path.write_text(content)
    return f"{content[:20]}…"


JSON: tuple[Damage, ...] = (*(json_values(sealed_json),) * 2, json_values(plain_json), nested_json)


# Arrays


HEADERS = (
    "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f8', 'fortran_order': True, 'shape': (), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10000000000), }",
    "{'descr': '<M8[us]', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '|S0', 'fortran_order': False, 'shape': (99999999999,), }",
    "{'descr': '<U100', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': [('x', '<i2'), ('x', '<i2')], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': [], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<c16', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '|V8', 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1.5,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': ('a',), }",
    "{'descr': '<f8', 'fortran_order': None, 'shape': (2,)",
    "{'descr': ('<i2', (3000000000,)), 'fortran_order': False, 'shape': (1,), }",
    "{'descr': [('x', '|O')], 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (1,)*40, }", "__import__('os')", "((((((", "{" * 3000,
    "{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 500 + ")" * 500 + "}", "",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (18446744073709551616,), }", "{'shape': (1,)}",
    "{'descr': 'spam', 'fortran_order': False, 'shape': (1,), }",
)  # fmt: skip


def npy_header(rng: random.Random, path: Path) -> str:
    """Another header before the same values."""
    new, told = _with_header(rng, path.read_bytes())
    path.write_bytes(new)
    return told


def _with_header(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    header = rng.choice(HEADERS)
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", rng.choice((len(text), len(text), 0, 60_000)))
    return b"\x93NUMPY" + version + length + text + content[128:], header


ARRAYS: tuple[Callable[[], np.ndarray], ...] = (
    lambda: np.zeros(0), lambda: np.array(3), lambda: np.array("x"), lambda: np.array([b"ab"]),
    lambda: np.array([1 + 2j]), lambda: np.full((3, 4), np.nan), lambda: np.array([np.inf]), lambda: np.zeros((0, 5)),
    lambda: np.ones((1,) * 20), lambda: np.array(["2020-01-01"], "M8[s]"), lambda: np.array([True, False]),
    lambda: np.array([2**63], np.uint64), lambda: np.array([-(2**63)]),
    lambda: np.zeros(3, [("x", "i4"), ("y", "i4"), ("t", "f8"), ("p", "?")]),
    lambda: np.zeros(2, [("x", "i4", (2,)), ("y", "i4"), ("t", "i8"), ("p", "i1")]), lambda: np.zeros(4, "f2"),
    lambda: np.zeros(4, ">i4"),
    lambda: np.zeros(2, [("timestamp", "i8"), ("x", "i2"), ("y", "i2"), ("polarity", "i1"), ("t", "i8")]),
    lambda: np.zeros((2, 2), "S3"), lambda: np.full(3, 1e300),
    lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)), lambda: np.longdouble([1]),
)  # fmt: skip


def npy_other(rng: random.Random, path: Path) -> str:
    """Another array."""
    array = rng.choice(ARRAYS)()
    np.save(path, array, allow_pickle=False)
    return f"an array of {array.dtype}, shape {array.shape}"


def _npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    return held.getvalue()


# Archives


def members(rng: random.Random, path: Path) -> str:
    """An archive with one member lost, doubled, renamed, replaced, packed or said to be encrypted."""
    with zipfile.ZipFile(path) as archive:
        held = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i = rng.randrange(len(held))
    name, content = held[i]
    how = rng.choice(("lost", "doubled", "renamed", "bytes", "header", "array", "bomb", "packed", "more", "encrypted"))
    packing = zipfile.ZIP_STORED
    if how == "lost":
        del held[i]
    elif how == "doubled":
        held.append(held[i])
    elif how == "renamed":
        held[i] = (rng.choice((*(n for n, _ in held), "x.npy", ".npy", "../x.npy", "ü.npy", "x" * 300)), content)
    elif how == "bytes":
        at = rng.randrange(len(content) or 1)
        held[i] = (name, content[:at] + rng.randbytes(3) + content[at + 3 :])
    elif how == "header":
        held[i] = (name, _with_header(rng, content)[0])
    elif how == "array":
        held[i] = (name, _npy(rng.choice(ARRAYS)()))
    elif how == "bomb":
        packing = zipfile.ZIP_DEFLATED
        held[i] = (name, _npy(np.zeros((4000, 1000), rng.choice(("i1", "f8")))))
    elif how == "packed":
        packing = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif how == "more":
        held.append((f"more{i}.npy", _npy(rng.choice(ARRAYS)())))
    _write_members(path, held, packing)
    if how == "encrypted":
        raw = bytearray(path.read_bytes())
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            raw[raw.find(mark) + at] |= 1
        path.write_bytes(bytes(raw))
    return f"member {name} {how}"


def _write_members(path: Path, held: Sequence[tuple[str, bytes]], packing: int) -> None:
    import warnings

    with warnings.catch_warnings():  # of names that stand twice
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w", packing) as archive:
            for name, content in held:
                archive.writestr(name, content)


def replaced_by(others: Sequence[Path]) -> Damage:
    """A sound file of another kind in its place."""

    def put(rng: random.Random, path: Path) -> str:
        other = rng.choice(others)
        shutil.copyfile(other, path)
        return f"{other.name} in its place"

    return put
