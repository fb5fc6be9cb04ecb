"""One recording from the user's own file.

Formats: ``.bin`` (N-MNIST, 5 bytes per event), ``.npy`` (structured array with fields x, y, t, p), ``.npz`` (such an
array as ``events``, or arrays x, y, t, p), ``.csv`` (columns x, y, t, p, in the order of a header or in this one).
Times are microseconds.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data import nmnist
from cil_spl.data.events import check_events

SUFFIXES = (".bin", ".npy", ".npz", ".csv")
_FIELDS = ("x", "y", "t", "p")
_LOOSE = np.dtype([(name, np.float64) for name in _FIELDS])  # holds any whole number that an event may have


def read_recording(path: Path | str, sensor_size: tuple[int, int, int]) -> np.ndarray:
    """Read and check one recording.

    Args:
        path: a file of one of the formats above.
        sensor_size: (width, height, polarities) that its events must lie in.

    Returns:
        Events, dtype ``EVENT``, shape ``[N]``. Times that do not fit 32 bits are counted from the first event.

    Raises:
        RequestError: no such file, not of its format, without events, or with an event that cannot be; names the file
            and the event.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{path}: unknown kind of file; allowed are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    try:
        events = {".bin": nmnist.decode, ".npy": _npy, ".npz": _npz, ".csv": _csv}[path.suffix.lower()](path)
    except RequestError:
        raise
    except (OSError, ValueError, KeyError, EOFError, csv.Error, UnicodeDecodeError, _bad_zip()) as error:
        raise RequestError(f"{path}: not a readable {path.suffix} recording ({error})") from error
    if not len(events):
        raise RequestError(f"{path}: no event in it")
    t = events["t"]
    if t.dtype.kind in "iuf" and np.isfinite(t).all() and t.max() > np.iinfo(np.int32).max:
        events = events.copy()
        events["t"] = t - t[0]
    return check_events(events, sensor_size, str(path))


def _bad_zip() -> type[Exception]:
    from zipfile import BadZipFile

    return BadZipFile


def _npy(path: Path) -> np.ndarray:
    return _structured(np.load(path, allow_pickle=False), path)


def _npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        if "events" in archive:
            return _structured(archive["events"], path)
        return _joined({name: archive[name] for name in _FIELDS if name in archive}, path)


def _structured(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.names is None or array.ndim != 1:
        raise RequestError(
            f"{path}: an array of {array.dtype}, shape {array.shape}; needs a list of events with fields x, y, t, p"
        )
    return array


def _csv(path: Path) -> np.ndarray:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    names = list(_FIELDS)
    if rows and any(not _is_number(cell) for cell in rows[0]):
        names = [cell.strip().lower() for cell in rows.pop(0)]
    for i, row in enumerate(rows):
        if len(row) != len(names) or not all(_is_number(cell) for cell in row):
            raise RequestError(f"{path}: event {i} is {','.join(row)}; needs {len(names)} numbers: {','.join(names)}")
    table = np.array([[float(cell) for cell in row] for row in rows], np.float64).reshape(len(rows), len(names))
    return _joined({name: table[:, i] for i, name in enumerate(names) if name in _FIELDS}, path)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _joined(columns: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    missing = [name for name in _FIELDS if name not in columns]
    if missing:
        raise RequestError(f"{path}: no column {', '.join(missing)}; needs x, y, t, p")
    lengths = {name: column.shape for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or columns["x"].ndim != 1:
        raise RequestError(f"{path}: columns of different shapes: {lengths}")
    events = np.empty(len(columns["x"]), _LOOSE)
    for name in _FIELDS:
        events[name] = columns[name]
    return events
