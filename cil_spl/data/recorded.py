"""Recorded sets in the layouts that tonic knows: finding, fetching and reading them through tonic's classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.download import whole_folder
from cil_spl.data.events import EVENT, Recordings, from_list

log = logging.getLogger(__name__)


def fetch(tonic_class: str, root: Path, megabytes: int, splits: Sequence[dict[str, Any]]) -> Path:
    """Download a set through tonic and return its folder, ``root/<tonic_class>``.

    It is fetched and unpacked beside that folder and renamed when complete, so that a download that was cut off is
    never taken for a set that is there in part.

    Args:
        tonic_class: name of a class in ``tonic.datasets``.
        root: where its folder shall be.
        megabytes: about what is downloaded, for the message.
        splits: arguments of the class, one dictionary a download.

    Raises:
        RequestError: it cannot be downloaded or written; names the folder and what to do.
    """
    import tonic.datasets

    def fill(half: Path) -> None:
        log.warning("dataset.root=%s has no %s: downloading about %d MB there", root, tonic_class, megabytes)
        for arguments in splits:
            getattr(tonic.datasets, tonic_class)(save_to=str(half), **arguments)

    try:
        return whole_folder(root, tonic_class, fill)
    except Exception as error:  # whatever the network, the archive or the disk raises
        raise RequestError(
            f"dataset.root={root} has no {tonic_class}, and it could not be downloaded there "
            f"({type(error).__name__}: {error}); set dataset.root to the folder that holds it"
        ) from error


def read_dvs_gesture(folder: Path) -> dict[str, Recordings]:
    """The IBM gestures, 128 x 128 x 2, 11 classes, as tonic's ``DVSGesture`` has them, times from the first event.

    Args:
        folder: holds ``ibmGestureTrain`` and ``ibmGestureTest``, or one of them.

    Returns:
        ``train`` and ``test``.

    Raises:
        RequestError: nothing there, or a file cut off or foreign; it is named.
    """
    sets = {}
    for split in ("train", "test"):
        dataset = _open("DVSGesture", folder, train=split == "train")
        sets[split] = _read(dataset, range(len(dataset.data)), folder, dataset.classes, "dvs_gesture")
    if not any(len(s) for s in sets.values()):
        raise RequestError(f"{folder} holds no recordings (ibmGestureTrain/<user>_<light>/<gesture>.npy)")
    return sets


def read_cifar10_dvs(folder: Path) -> dict[str, Recordings]:
    """CIFAR10-DVS, 128 x 128 x 2, as tonic's ``CIFAR10DVS`` has it, times from the first event.

    The set has no official split: of each class's files, in the order of their numbers, every tenth is a test
    recording.

    Args:
        folder: holds one folder per class, with ``.aedat4`` files.

    Returns:
        ``train`` and ``test``.

    Raises:
        RequestError: nothing there, a file cut off or foreign, or the package ``aedat`` is missing.
    """
    try:
        import aedat  # noqa: F401
    except ImportError as error:
        raise RequestError(
            "dataset=cifar10_dvs needs the package aedat to read its files: pip install aedat"
        ) from error
    dataset = _open("CIFAR10DVS", folder)
    if not dataset.data:
        raise RequestError(f"{folder} holds no recordings (<class>/<name>.aedat4)")
    target = np.array(dataset.targets)
    numbers = ["".join(c for c in Path(file).stem.rpartition("_")[2] if c.isdigit()) for file in dataset.data]
    order = sorted(range(len(target)), key=lambda i: (target[i], int(numbers[i] or 0), dataset.data[i]))
    rank = dict.fromkeys(target.tolist(), 0)
    parts: dict[str, list[int]] = {"train": [], "test": []}
    for i in order:
        parts["test" if rank[int(target[i])] % 10 == 9 else "train"].append(i)
        rank[int(target[i])] += 1
    classes = sorted(dataset.classes, key=dataset.classes.__getitem__)
    return {split: _read(dataset, index, folder, classes, "cifar10_dvs") for split, index in parts.items()}


def _open(tonic_class: str, folder: Path, **arguments: Any) -> Any:
    """tonic's dataset over a folder that may hold only part of the set, files in the order of their names."""
    import tonic.datasets

    local = type(
        tonic_class,
        (getattr(tonic.datasets, tonic_class),),
        {
            "_check_exists": lambda self: True,  # tonic's own wants the archive and all of the files, or downloads
            "location_on_system": property(lambda self: str(folder), lambda self, value: None),
        },
    )
    try:
        dataset = local(save_to=str(folder.parent), **arguments)
    except (ValueError, KeyError) as error:
        raise RequestError(f"{folder} holds a file or folder that does not belong to {tonic_class}: {error}") from error
    order = sorted(range(len(dataset.data)), key=dataset.data.__getitem__)
    dataset.data, dataset.targets = [dataset.data[i] for i in order], [dataset.targets[i] for i in order]
    return dataset


def _read(dataset: Any, index: Sequence[int], folder: Path, classes: Sequence[str], name: str) -> Recordings:
    from tqdm import tqdm

    recordings, target, names = [], [], []
    for i in tqdm(index, desc=f"reading {name}", unit=" recordings", disable=None, leave=False):
        file = Path(dataset.data[i])
        try:
            events, label = dataset[i]
        except Exception as error:  # each reader has its own way to fail
            raise RequestError(
                f"{file} cannot be read ({error}): it is cut off or foreign; get it again or move it away"
            ) from error
        if not len(events) or not 0 <= label < len(classes):
            raise RequestError(f"{file} has {len(events)} events and class {label}: cut off, or not of this set")
        out = np.empty(len(events), [(f, np.int64) for f in EVENT.names or ()])
        for field in EVENT.names or ():
            out[field] = events[field]
        out["t"] -= out["t"][0]
        recordings.append(out)
        target.append(int(label))
        names.append(file.relative_to(folder).as_posix())
    try:
        return from_list(recordings, target, tuple(dataset.sensor_size), classes, names, [f"{name}/{n}" for n in names])
    except RequestError as error:
        raise RequestError(f"{folder}/{error}") from None
