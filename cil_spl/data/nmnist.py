"""N-MNIST in its official layout: ``{Train,Test}/<digit>/<number>.bin``, all of it or any part.

G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor, "Converting Static Image Datasets to Spiking Neuromorphic Datasets
Using Saccades", Frontiers in Neuroscience 9:437, 2015.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT, Recordings, from_list

SENSOR_SIZE = (34, 34, 2)
CLASSES = tuple("0123456789")
FOLDERS = {"train": "Train", "test": "Test"}
_N_TEST = 10_000  # official test recordings; a larger number in Test is one of a training image
_EVENT_BYTES = 5
_OVERFLOW_Y, _OVERFLOW_US = 240, 1 << 13  # an entry in this row is no event: time has gone on by so much


def find(root: Path) -> Path | None:
    """The folder that holds ``Train`` and ``Test``, or one of them: ``root`` or ``root/NMNIST``; None if neither."""
    for folder in (root, root / "NMNIST"):
        if any((folder / name).is_dir() for name in FOLDERS.values()):
            return folder
    return None


def decode(path: Path) -> np.ndarray:
    """The events of one file, as the sensor gave them: 40 bits each, big endian: x 8, y 8, polarity 1, microseconds 23.

    Returns:
        Events, dtype ``EVENT``, shape ``[N]``; N may be 0. They are not checked, see ``check_events``.

    Raises:
        RequestError: it cannot be read, not a whole number of events, or times beyond 32 bits.
    """
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error}); get it again, or move it away") from error
    if len(raw) % _EVENT_BYTES:
        raise RequestError(
            f"{path}: {len(raw)} bytes, not a whole number of {_EVENT_BYTES}-byte events; it is cut off or no N-MNIST "
            "recording: get it again, or move it away"
        )
    x, y, high, middle, low = raw.reshape(-1, _EVENT_BYTES).T
    t = (high & 127).astype(np.int64) << 16 | middle.astype(np.int64) << 8 | low
    overflow = y == _OVERFLOW_Y
    if overflow.any():
        t += np.cumsum(overflow) * _OVERFLOW_US
        if t.max() > np.iinfo(np.int32).max:
            raise RequestError(f"{path}: its times go up to {t.max()} us, beyond 32 bits; no N-MNIST recording")
    events = np.empty(len(t), EVENT)
    events["x"], events["y"], events["t"], events["p"] = x, y, t, high >> 7
    return events[~overflow]


def read(folder: Path, test_digits_from: str = "auto") -> dict[str, Recordings]:
    """All recordings in a folder.

    Args:
        folder: what ``find`` gave.
        test_digits_from: which MNIST images the recordings in ``Test`` show, ``train`` or ``test``. ``auto`` takes
            ``train`` where a number in it is above 10,000, as in a test set cut from the official training set.

    Returns:
        ``train`` and ``test``, either may be empty; in the order of digit and number. Targets are the digits, of ten
        classes even where some are absent. Origins are ``mnist/train/<number - 1>`` or ``mnist/test/<number - 1>``.

    Raises:
        RequestError: no recording at all, a file that is cut off or no recording; it is named.
    """
    if test_digits_from not in ("auto", "train", "test"):
        raise RequestError(f"dataset.test_digits_from={test_digits_from}: allowed are auto, train and test")
    files = {split: _files(folder / name) for split, name in FOLDERS.items()}
    if not any(files.values()):
        raise RequestError(f"{folder} holds no recordings (Train/<digit>/<number>.bin or Test/<digit>/<number>.bin)")
    digits_from = {"train": "train", "test": test_digits_from}
    if test_digits_from == "auto":
        of_training_images = any(int(file.stem) > _N_TEST for file in files["test"])
        digits_from["test"] = "train" if of_training_images else "test"
    return {split: _read_all(folder, files[split], digits_from[split]) for split in FOLDERS}


def _files(folder: Path) -> list[Path]:
    files: list[Path] = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        if place.name.startswith("."):
            continue
        if place.name not in CLASSES or not place.is_dir():
            raise RequestError(
                f"{place} does not belong to N-MNIST, which has the folders {folder}/0 to 9; move it away"
            )
        for file in place.iterdir():
            if file.name.startswith("."):
                continue
            if not re.fullmatch(r"\d+\.bin", file.name):
                raise RequestError(f"{file} does not belong to N-MNIST, whose files are <number>.bin; move it away")
            files.append(file)
    return sorted(files, key=lambda f: (f.parent.name, int(f.stem), f.name))


def _read_all(folder: Path, files: list[Path], digits_from: str) -> Recordings:
    from tqdm import tqdm

    recordings: list[np.ndarray] = []
    for file in tqdm(files, desc="reading N-MNIST", unit=" recordings", disable=None, leave=False):
        recordings.append(decode(file))
        if not len(recordings[-1]):
            raise RequestError(f"{file}: no event in it; get it again, or move it away")
    try:
        return from_list(
            recordings,
            np.array([int(f.parent.name) for f in files], np.int64),
            SENSOR_SIZE,
            CLASSES,
            names=[f.relative_to(folder).as_posix() for f in files],
            origins=[f"mnist/{digits_from}/{int(f.stem) - 1}" for f in files],
        )
    except RequestError as error:
        raise RequestError(f"{folder}/{error}; it is damaged or no N-MNIST recording") from None
