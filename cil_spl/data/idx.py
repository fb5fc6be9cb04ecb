"""The idx files of MNIST and its like: arrays of bytes with their lengths, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.download import fetch


@dataclass(frozen=True)
class Source:
    """Where the four files of a data set are to be had.

    Attributes:
        folder: where torchvision puts them, below the root.
        mirrors: addresses that a file's name is appended to.
        sha256: of the compressed files, by name.
    """

    folder: str
    mirrors: Sequence[str]
    sha256: Mapping[str, str]


MNIST = Source(
    "MNIST/raw",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
FASHION_MNIST = Source(
    "FashionMNIST/raw",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)


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


def read_labelled(images_file: Path, labels_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, H, W]``, bytes, and their labels ``[N]``, int64, of two idx files.

    Raises:
        RequestError: one is no such file, or they do not belong together.
    """
    images, target = read_idx(images_file), read_idx(labels_file).astype(np.int64)
    if images.ndim != 3 or target.ndim != 1 or len(images) != len(target):
        raise RequestError(
            f"{images_file} holds an array of shape {images.shape}, {labels_file} one of {target.shape}; "
            "they must be [N, height, width] and [N], with the same N"
        )
    return images, target


def idx_file(root: Path, name: str, download: bool, source: Source = MNIST) -> Path:
    """The idx file ``name`` in one of the places where it may be, or fetched into ``root``.

    Raises:
        RequestError: it is in none of them, and may not or cannot be fetched; a folder has its name.
    """
    for folder in (root, root / source.folder):
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
            if file.is_dir():
                raise RequestError(f"{file} is a folder; the file of this name is needed: move the folder away")
    if not download:
        raise RequestError(
            f"dataset.root={root} has no {name} or {name}.gz, nor has its folder {source.folder}; "
            "set dataset.root to where they are, or dataset.download=true to fetch them"
        )
    return fetch(f"{name}.gz", source.mirrors, f"sha256:{source.sha256[name + '.gz']}", root)


def files_of(root: Path, download: bool, source: Source = MNIST) -> list[Path]:
    """The four files: training images, training labels, test images, test labels.

    Raises:
        RequestError: as :func:`idx_file`.
    """
    names = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    return [idx_file(root, name, download, source) for name in names]
