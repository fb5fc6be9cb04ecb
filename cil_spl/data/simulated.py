"""Data sets of simulated recordings: scikit-learn's digits, and any images in MNIST's file format.

Both go through the saccade simulator with the same defaults. A data set is fixed: which digit is in
which split, and every recording, follow from the arguments here and from nothing else in a run.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.events import Recordings
from cil_spl.data.saccade_parameters import from_config
from cil_spl.data.saccades import SENSOR_SIZE, simulate

log = logging.getLogger(__name__)

_SIDE = 28  # of an MNIST image; the digit in it is 20 wide or high
_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


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
    from sklearn.datasets import load_digits

    scans, target = load_digits(return_X_y=True)
    images = enlarge(scans.reshape(-1, 8, 8) / 16)
    index = np.arange(len(target))
    test = _rank(target) % 5 == 2
    parts = [index[~test], index[test]]
    train_set, test_set = (
        _recordings(images[i], target[i], [f"sklearn/digits/{j}" for j in i], i, seed, simulator) for i in parts
    )
    return train_set, test_set


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
    for split, stem, limit, first in (("train", "train", n_train, 0), ("test", "t10k", n_test, 1 << 32)):
        images_file = idx_file(Path(root), f"{stem}-images-idx3-ubyte", download)
        labels_file = idx_file(Path(root), f"{stem}-labels-idx1-ubyte", download)
        images, target = read_idx(images_file), read_idx(labels_file).astype(np.int64)
        if images.ndim != 3 or target.ndim != 1 or len(images) != len(target):
            raise RequestError(
                f"{images_file} holds an array of shape {images.shape}, {labels_file} one of {target.shape}; "
                "they must be [N, height, width] and [N], with the same N"
            )
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


def read_idx(file: Path) -> np.ndarray:
    """Array of unsigned bytes in an idx file, plain or ``.gz``.

    Raises:
        RequestError: the file is no such file, or cut off, or longer than it says.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{file} cannot be read ({error}); get it again") from error
    # Magic: two zero bytes, 8 for unsigned bytes, number of axes; then each axis' length, big endian.
    axes = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    if not 1 <= axes <= 4 or len(data) < 4 + 4 * axes:
        raise RequestError(
            f"{file} is not an idx file of unsigned bytes (it begins with {data[:4].hex() or 'nothing'})"
        )
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", axes, offset=4))
    have, need = len(data) - 4 - 4 * axes, int(np.prod(shape, dtype=object))
    if have != need:
        raise RequestError(f"{file} has {have} bytes of data where its header {shape} needs {need}; get it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def idx_file(root: Path, name: str, download: bool) -> Path:
    """The idx file ``name`` in one of the places where it may be."""
    for folder in (root, root / "MNIST" / "raw"):
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    if not download:
        raise RequestError(
            f"dataset.root={root} has no {name} or {name}.gz, nor has its folder MNIST/raw; "
            "set dataset.root to where they are, or dataset.download=true to fetch them"
        )
    import pooch

    why = ""
    for mirror in _MIRRORS:
        try:
            return Path(pooch.retrieve(mirror + f"{name}.gz", f"sha256:{_SHA256[name + '.gz']}", f"{name}.gz", root))
        except (OSError, ValueError) as error:  # no network, refused, or a wrong checksum
            log.debug("%s%s.gz: %s", mirror, name, error)
            why = str(error)
    raise RequestError(
        f"dataset.download=true: {name}.gz could not be fetched into {root} ({why}); put it there by hand"
    )
