"""Data sets of images: functions that take keywords and return ``Splits`` of samples, values from 0 to 1.

What all of them share (limits, standardising, experiences, the validation split) is done in ``datasets.load``.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from cil_spl.base.errors import RequestError
from cil_spl.data import cache, idx
from cil_spl.data.download import Download, Folder, absent, fetch, folder_of, may_fetch, whole_folder
from cil_spl.data.events import Splits
from cil_spl.data.pictures import Pictures, classes_in, listed, shorter_side
from cil_spl.data.samples import Samples, from_arrays, joined

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BYTE = 1 / 255
_MNIST_ROOT, _FASHION_ROOT, _CIFAR_ROOT = "data/mnist", "data/fashion_mnist", "data/cifar10"

_CIFAR = "cifar-10-batches-bin"
_CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_BYTES = 1 + 3 * 32 * 32  # of an image: its label, then its planes red, green, blue


def digits() -> Splits:
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8; needs no files.

    The test images are those of ``event_digits``: of each class's scans, the third of every five.
    """
    from cil_spl.data.simulated import digits_scans

    scans, target, test = digits_scans()
    index = np.arange(len(target))

    def part(chosen: np.ndarray) -> Samples:
        origins = [f"sklearn/digits/{i}" for i in index[chosen]]
        values = scans[chosen][:, None].astype(np.uint8)  # R H W -> R C H W
        return from_arrays(values, target[chosen], DIGITS, origins, origins, scale=1 / 16)

    return cache.splits(
        {"dataset": "digits"}, (), ("samples", "images", "simulated"), lambda: (part(~test), part(test))
    )


def mnist(*, root: Folder = _MNIST_ROOT, download: Download = None) -> Splits:
    """MNIST, 1 x 28 x 28, ten classes; or other images of ten classes in its four files.

    Args:
        root: folder with the four idx files, plain or ``.gz``, or with them in ``MNIST/raw``.
        download: fetch them there if they are absent; None into the default folder only.

    Raises:
        RequestError: a file is missing, cut off or foreign; it is named.
    """
    return _of_idx("mnist", root, may_fetch(root, _MNIST_ROOT, download), idx.MNIST, DIGITS)


def fashion_mnist(*, root: Folder = _FASHION_ROOT, download: Download = None) -> Splits:
    """Fashion-MNIST, 1 x 28 x 28, ten classes.

    Args:
        root: folder with the four idx files, plain or ``.gz``, or with them in ``FashionMNIST/raw``.
        download: fetch them there if they are absent; None into the default folder only.

    Raises:
        RequestError: a file is missing, cut off or foreign; it is named.
    """
    return _of_idx("fashion_mnist", root, may_fetch(root, _FASHION_ROOT, download), idx.FASHION_MNIST, CLOTHES)


def _of_idx(name: str, root: str, fetches: bool, source: idx.Source, classes: Sequence[str]) -> Splits:
    folder = folder_of(root)
    files = idx.files_of(folder, fetches, source)

    def part(split: str, images_file: Path, labels_file: Path) -> Samples:
        images, target = idx.read_labelled(images_file, labels_file)
        origins = [f"{name}/{split}/{i}" for i in range(len(target))]
        return _checked(images[:, None], target, classes, origins, origins, labels_file)  # R H W -> R C H W

    return cache.splits(
        {"dataset": name},
        files,
        ("samples", "images", "idx"),
        lambda: (part("train", *files[:2]), part("test", *files[2:])),
    )


def _checked(
    images: np.ndarray, target: np.ndarray, classes: Sequence[str], names: list[str], origins: list[str], file: Path
) -> Samples:
    """Samples of bytes; what is wrong with them is said of the file that holds the labels."""
    if not len(target):
        raise RequestError(f"{file} holds no label: the data set needs images; get it again")
    if target.max() >= len(classes):
        i = int(np.argmax(target >= len(classes)))
        raise RequestError(
            f"{file}: label {i} is {target[i]}, allowed are 0 to {len(classes) - 1}; it is damaged or of another data "
            "set: get it again"
        )
    return from_arrays(images, target, classes, names, origins, scale=_BYTE)


def cifar10(*, root: Folder = _CIFAR_ROOT, download: Download = None) -> Splits:
    """CIFAR-10, 3 x 32 x 32, ten classes, in its binary version; any number of its training batches will do.

    Args:
        root: folder with ``data_batch_<number>.bin`` and ``test_batch.bin``, or with them in ``cifar-10-batches-bin``.
        download: fetch it there (162 MB) if it is absent; None into the default folder only.

    Raises:
        RequestError: a file is missing, cut off or foreign; it is named.
    """
    at = folder_of(root)
    folder = next((f for f in (at / _CIFAR, at) if _batches_in(f) or (f / "test_batch.bin").exists()), None)
    if folder is None:
        absent(
            at,
            may_fetch(root, _CIFAR_ROOT, download),
            f"data_batch_1.bin and test_batch.bin, nor a folder {_CIFAR} that does",
        )
        folder = _fetch_cifar10(at)
    files = {"train": _batches_in(folder), "test": [folder / "test_batch.bin"]}
    if not files["train"] or not files["test"][0].exists():
        missing = "data_batch_<number>.bin" if not files["train"] else "test_batch.bin"
        raise RequestError(f"dataset.root={root}: {folder} has no {missing}; put it there, or get the data set again")

    def part(split: str) -> Samples:
        return _read_cifar10(split, files[split])

    return cache.splits(
        {"dataset": "cifar10"},
        [*files["train"], *files["test"]],
        ("samples", "images"),
        lambda: (part("train"), part("test")),
    )


def _batches_in(folder: Path) -> list[Path]:
    """The training batches, in the order of their numbers."""
    found = [(re.fullmatch(r"data_batch_([1-9]\d*)\.bin", path.name), path) for path in folder.glob("data_batch_*.bin")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def _read_cifar10(split: str, files: Sequence[Path]) -> Samples:
    parts = []
    for file in files:
        try:
            raw = np.frombuffer(file.read_bytes(), np.uint8)
        except OSError as error:
            raise RequestError(f"{file} cannot be read ({error}); get it again") from error
        if not len(raw) or len(raw) % _CIFAR_BYTES:
            raise RequestError(
                f"{file}: {len(raw)} bytes, not a whole number of images of {_CIFAR_BYTES} bytes; it is cut off or no "
                "batch of CIFAR-10's binary version: get it again"
            )
        images = raw.reshape(-1, _CIFAR_BYTES)
        target = images[:, 0].astype(np.int64)
        # The official batches hold 10,000 images each: the number of an image is that of its place in all of them.
        number = re.search(r"\d+", file.stem)
        first = 10_000 * (int(number[0]) - 1) if number else 0
        names = [f"{file.stem}/{i}" for i in range(len(target))]
        origins = [f"cifar10/{split}/{first + i}" for i in range(len(target))]
        parts.append(_checked(images[:, 1:].reshape(-1, *_CIFAR_SHAPE), target, THINGS, names, origins, file))
    return joined(parts)


def _fetch_cifar10(root: Path) -> Path:
    """Download and unpack; the folder is there whole or not at all."""

    def fill(half: Path) -> None:
        archive = fetch(_CIFAR_ARCHIVE, _CIFAR_MIRRORS, f"sha256:{_CIFAR_SHA256}", root)
        with tarfile.open(archive) as packed:
            packed.extractall(half, filter="data")

    try:
        folder = whole_folder(root, _CIFAR, fill)
        (root / _CIFAR_ARCHIVE).unlink(missing_ok=True)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise RequestError(
            f"dataset.root={root}: CIFAR-10 could not be unpacked there ({error}); set dataset.root to the folder that "
            "holds it"
        ) from error
    return folder


def image_folder(
    *,
    root: Folder = "data/imagenet",
    input_shape: Sequence[int] = (3, 224, 224),
    resize: Annotated[int, Ge(1)] | None = None,
) -> Splits:
    """Pictures in ``root/train/CLASS`` and ``root/val/CLASS``, as ImageNet has them; those of ``val`` are tested on.

    Where there is ``root/test/CLASS`` as well, those are tested on, and choices are made on ``val``.

    Args:
        root: folder that holds ``train`` and ``val``.
        input_shape: (channels, height, width) of a sample; 1 channel is grey, 3 are red, green and blue.
        resize: pixels of a picture's shorter side, of which the middle is taken; None for 8/7 of the larger of height
            and width (256 for 224).

    Raises:
        RequestError: a folder is missing or empty, or classes differ; it is named.
    """
    at = folder_of(root)
    side = shorter_side(input_shape, resize)
    parts = {}
    for part in ("train", "val"):
        if not (at / part).is_dir():
            raise RequestError(
                f"dataset.root={root}: there is no folder {at / part}; pictures lie in train/CLASS/NAME.jpg and "
                "val/CLASS/NAME.jpg below dataset.root"
            )
        parts[part] = listed(at, part)
    if (at / "test").is_dir() and classes_in(at / "test"):  # ImageNet's has none
        parts["test"] = listed(at, "test")
    classes = tuple(parts["train"])
    for part, found in parts.items():
        odd = sorted(set(classes) ^ set(found))
        if odd:
            there, missing = ("train", part) if odd[0] in classes else (part, "train")
            raise RequestError(f"{at / there / odd[0]}: there is no such class in {at / missing}; both need the same")
    return _splits(at, parts, classes, tuple(input_shape), side)


def _splits(
    root: Path,
    parts: Mapping[str, Mapping[str, tuple[list[str], list[int]]]],
    classes: tuple[str, ...],
    shape: tuple[int, ...],
    side: int,
) -> Splits:
    """All parts are rows of the same pictures."""
    files: list[str] = []
    sizes: list[int] = []
    target: list[int] = []
    ends = {}
    for part, found in parts.items():
        for number, name in enumerate(classes):
            names, lengths = found[name]
            files += names
            sizes += lengths
            target += [number] * len(names)
        ends[part] = len(files)
    channels, height, width = shape
    names_of_all = np.array(files, dtype=str)
    every = Samples(
        values=Pictures(root, names_of_all, np.array(sizes, np.int64), (channels, height, width), side),
        target=np.array(target, np.int64),
        name=names_of_all,
        origin=names_of_all,
        classes=classes,
        scale=(1 / 255,),
    )
    train, second = (every.subset(np.arange(a, b)) for a, b in ((0, ends["train"]), (ends["train"], ends["val"])))
    if "test" not in ends:
        return Splits(train, every.subset([]), second)
    return Splits(train, second, every.subset(np.arange(ends["val"], len(files))))
