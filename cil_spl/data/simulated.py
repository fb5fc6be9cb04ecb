"""Data sets of simulated recordings: scikit-learn's digits, and any images in MNIST's file format.

Both go through the saccade simulator with the same defaults. A data set is fixed: which digit is in
which split, and every recording, follow from the arguments here and from nothing else in a run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.events import Recordings
from cil_spl.data.idx import files_of, read_labelled
from cil_spl.data.saccade_parameters import from_config
from cil_spl.data.saccades import SENSOR_SIZE, simulate

_SIDE = 28  # of an MNIST image; the digit in it is 20 wide or high


def event_digits_recordings(
    *, seed: int = 0, simulator: Mapping[str, Any] | None = None
) -> tuple[Recordings, Recordings]:
    """Handwritten digits that come with scikit-learn (1,797 real scans of 8 x 8), as recordings.

    Args:
        seed: seed of the simulator; the split does not depend on it.
        simulator: parameters of the simulator that differ from its defaults.

    Returns:
        Training and test recordings, 1,438 and 359: of each class's scans, in scikit-learn's order,
        the third of every five is a test scan. Origins are ``sklearn/digits/<i>``.
    """
    scans, target, test = digits_scans()
    images = enlarge(scans / 16)
    index = np.arange(len(target))
    parts = [index[~test], index[test]]
    train_set, test_set = (
        _recordings(images[i], target[i], [f"sklearn/digits/{j}" for j in i], i, seed, simulator) for i in parts
    )
    return train_set, test_set


def digits_scans() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's digits: scans ``[N, 8, 8]`` with values from 0 to 16, their classes, and which are test scans."""
    from sklearn.datasets import load_digits

    scans, target = load_digits(return_X_y=True)
    return scans.reshape(-1, 8, 8), target, _rank(target) % 5 == 2


def enlarge(scans: np.ndarray) -> np.ndarray:
    """8 x 8 scans, enlarged smoothly to the size of an MNIST digit. Shape ``[N, 8, 8]`` to ``[N, 28, 28]``, 0..1."""
    from scipy.ndimage import zoom

    digit = zoom(np.asarray(scans, float), (1, 2.5, 2.5), order=3, mode="grid-constant", grid_mode=True)
    border = (_SIDE - digit.shape[1]) // 2
    return np.pad(np.clip(digit, 0, 1), ((0, 0), (border, border), (border, border)))


def saccade_mnist_recordings(
    root: str | Path,
    *,
    download: bool = False,
    exclude: Collection[str] = (),
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
    simulator: Mapping[str, Any] | None = None,
) -> tuple[Recordings, Recordings]:
    """Recordings of all images in MNIST's four idx files.

    Args:
        root: folder with the files, plain or ``.gz``, or with them in ``MNIST/raw``.
        download: fetch MNIST itself into ``root`` where files are missing.
        exclude: origins to leave out.
        n_train, n_test: only so many, the first of each class in the classes' proportions; None
            takes all.
        seed: seed of the simulator.
        simulator: parameters of the simulator that differ from its defaults.

    Returns:
        Training and test recordings. Origins are ``mnist/train/<i>`` and ``mnist/test/<i>``; a
        recording does not change with what else is taken or left out.

    Raises:
        RequestError: a file is missing, cut off or foreign, or nothing is left; it is named.
    """
    made = []
    n_classes = 0
    files = files_of(Path(root), download)
    for split, (images_file, labels_file), limit, first in (
        ("train", files[:2], n_train, 0),
        ("test", files[2:], n_test, 1 << 32),
    ):
        images, target = read_labelled(images_file, labels_file)
        n_classes = max(n_classes, int(target.max(initial=-1)) + 1)
        origins = np.array([f"mnist/{split}/{i}" for i in range(len(target))])
        kept = np.flatnonzero(~np.isin(origins, list(exclude)))
        if limit is not None:
            kept = kept[_first_stratified(target[kept], limit)]
        if not len(kept):
            raise RequestError(
                f"dataset: no recording is left of {images_file} (n_{split}={limit}, {len(exclude)} excluded)"
            )
        made.append((images[kept] / np.float32(255), target[kept], origins[kept], kept + first))
    train_set, test_set = (_recordings(i, t, o, index, seed, simulator, n_classes) for i, t, o, index in made)
    return train_set, test_set


def _recordings(
    images: np.ndarray,
    target: np.ndarray,
    origins: Any,
    index: np.ndarray,
    seed: int,
    simulator: Mapping[str, Any] | None,
    n_classes: int = 10,
) -> Recordings:
    events, offsets = simulate(images, seed, index, from_config(simulator))
    return Recordings(
        events=events,
        start=offsets[:-1],
        stop=offsets[1:],
        target=np.asarray(target, np.int64),
        name=np.asarray(origins, dtype=str),
        origin=np.asarray(origins, dtype=str),
        sensor_size=SENSOR_SIZE,
        classes=tuple(str(k) for k in range(n_classes)),
    )


def _rank(target: np.ndarray) -> np.ndarray:
    """How many of its class come before each. Shape ``[N]``."""
    rank = np.empty(len(target), np.int64)
    for k in np.unique(target):
        rank[target == k] = np.arange(np.count_nonzero(target == k))
    return rank


def _first_stratified(target: np.ndarray, n: int) -> np.ndarray:
    """Positions of ``n`` elements, the first of each class, classes in their proportions; ascending."""
    if n < 0:
        raise RequestError(f"dataset: a number of recordings is {n}; it must be at least 0")
    share = (_rank(target) + 0.5) / np.bincount(target)[target]
    return np.sort(np.argsort(share, kind="stable")[:n])
