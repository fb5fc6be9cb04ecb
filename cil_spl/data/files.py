"""One recording from the user's own file.

Formats: ``.bin`` (N-MNIST, 5 bytes per event), ``.npy`` (structured array with fields x, y, t, p), ``.npz`` (such an
array, or arrays x, y, t, p), ``.csv`` and ``.txt`` (columns x, y, t, p, in the order of a header or in this one, parted
by commas, semicolons, tabs or spaces; a header may stand in a comment, as ``np.savetxt`` writes it). Other common names
of the fields are understood (:mod:`cil_spl.data.fields`). Times are microseconds.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cil_spl.base.arrays import check_file, open_npz, read_npy
from cil_spl.base.errors import RequestError
from cil_spl.base.memory import check_fits
from cil_spl.data import nmnist
from cil_spl.data.events import check_events
from cil_spl.data.fields import FIELDS, is_header, named

SUFFIXES = (".bin", ".npy", ".npz", ".csv", ".txt")
_COMMENTS = ("#", "%", "//")
_TRUTH = {"true": 1.0, "false": 0.0}
_SHORTER = "cut the recording into shorter ones"
_MORE_IN_MEMORY = 8  # bytes in memory for a byte of text, or of N-MNIST's packed events


def read_recording(path: Path | str, sensor_size: tuple[int, int, int]) -> np.ndarray:
    """Read and check one recording.

    Args:
        path: a file of one of the formats above.
        sensor_size: (width, height, polarities) that its events must lie in.

    Returns:
        Events, dtype ``EVENT``, shape ``[N]``. Times that do not fit 32 bits are counted from the first event.

    Raises:
        RequestError: no such file, not of its format, without events, larger than the memory, or with an event that
            cannot be; names the file and the event.
    """
    path = Path(path)
    readers = dict(zip(SUFFIXES, (_bin, _npy, _npz, _text, _text), strict=True))
    if path.suffix.lower() not in readers:
        raise RequestError(f"{path}: unknown kind of file; allowed are {', '.join(SUFFIXES)}")
    check_file(path)
    try:
        events = readers[path.suffix.lower()](path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not a readable {path.suffix} recording ({error})") from error
    if not len(events):
        raise RequestError(f"{path}: no event in it")
    return check_events(events, sensor_size, str(path))


def _bin(path: Path) -> np.ndarray:
    check_fits(path.stat().st_size * _MORE_IN_MEMORY, str(path), _SHORTER)
    return nmnist.decode(path)


def _npy(path: Path) -> np.ndarray:
    return _structured(read_npy(path), path)


def _npz(path: Path) -> np.ndarray:
    with open_npz(path) as archive:
        if "events" in archive:
            return _structured(archive["events"], path)
        columns = named(archive, str(path))
        if not columns and len(archive) == 1:  # np.savez(path, events)
            return _structured(archive[next(iter(archive))], path)
        if len(columns) < len(FIELDS):
            missing = [field for field in FIELDS if field not in columns]
            held = ", ".join(list(archive)[:10]) or "none"
            raise RequestError(
                f"{path}: no array {', '.join(missing)}; needs x, y, t, p, or a structured array events; it holds "
                f"{held}"
            )
        return _joined({field: archive[column] for field, column in columns.items()}, path)


def _structured(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype.names is None or values.ndim != 1:
        raise RequestError(
            f"{path}: an array of {values.dtype}, shape {values.shape}; needs a list of events with fields x, y, t, p: "
            "columns without names may be in any order"
        )
    return values


def _text(path: Path) -> np.ndarray:
    check_fits(path.stat().st_size * _MORE_IN_MEMORY, str(path), _SHORTER)
    names: Sequence[str] = ()
    separator: str | None = None
    columns: list[array[float]] = []
    for line in _lines(path):
        comment = line.startswith(_COMMENTS)
        if comment:
            text = line.lstrip("#%/")
            cells = _names_in(text)
            # Two of the names may stand in a sentence, too, which no comma parts so.
            if not is_header(cells, at_least=3 if _separator(text) is None else 2):
                continue
        else:
            separator = separator if columns else _separator(line)
            cells = [cell.strip().strip('"') for cell in line.split(separator)]
        if comment or (not columns and all(_number(cell) is None for cell in cells)):
            names = _same_header(names, cells if comment else _names_in(line, separator), path)
            continue
        if not columns:
            names = names or FIELDS
            columns = [array("d") for _ in names]
        numbers = [number for number in map(_number, cells) if number is not None]
        if not len(cells) == len(columns) == len(numbers):
            raise RequestError(
                f"{path}: event {len(columns[0])} is {line[:80]}; needs {len(columns)} numbers: {','.join(names)}"
            )
        for column, number in zip(columns, numbers, strict=True):
            column.append(number)
    if not columns:
        return np.empty(0)
    chosen = named(names, str(path))
    missing = [field for field in FIELDS if field not in chosen]
    if missing:
        raise RequestError(f"{path}: no column {', '.join(missing)}; needs x, y, t, p")
    return _joined({field: np.frombuffer(columns[names.index(name)]) for field, name in chosen.items()}, path)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if text := line.strip():
                yield text


def _separator(line: str) -> str | None:
    """What parts the numbers of a line; None for spaces."""
    return next((one for one in (";", "\t", ",") if one in line), None)


def _names_in(line: str, separator: str | None = None) -> list[str]:
    """Names of columns; a unit in brackets belongs to the name before it."""
    bound = re.sub(r"\s*([\[(<][^\])>]*[\])>])", lambda unit: unit[1].replace(" ", ""), line)
    cells = bound.split(separator or _separator(bound))
    return [cell.strip().strip("\"'").strip() for cell in cells]


def _same_header(names: Sequence[str], found: Sequence[str], path: Path) -> Sequence[str]:
    """The header; another one further down says that files were put together, or that the first was none."""
    if names and list(map(str.lower, names)) != list(map(str.lower, found)):
        raise RequestError(f"{path}: two headers, {','.join(names)} and {','.join(found)}; keep the right one")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return _TRUTH.get(text.lower())  # as pandas writes polarities


def _joined(columns: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """Events from one array for each field, in the types that they have."""
    lengths = {name: column.shape for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or columns["x"].ndim != 1:
        raise RequestError(f"{path}: columns of different shapes: {lengths}")
    for name, column in columns.items():
        if column.dtype.kind not in "buif":
            raise RequestError(f"{path}: its {name} is of type {column.dtype}; needs whole numbers")
    events = np.empty(len(columns["x"]), [(name, columns[name].dtype) for name in FIELDS])
    for name in FIELDS:
        events[name] = columns[name]
    return events
