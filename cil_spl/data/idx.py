"""The idx files of MNIST and its like: arrays of bytes with their lengths, plain or compressed."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from cil_spl.base.arrays import check_file
from cil_spl.base.errors import RequestError
from cil_spl.base.memory import check_fits
from cil_spl.data.download import fetch

_BLOCK = 1 << 22  # bytes
_MOST_BYTES = np.iinfo(np.intp).max
_PACKED_AT_MOST = 1100  # times that deflate makes anything smaller


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
        RequestError: there is no such file, or it is none, cut off, longer than it says, or larger than the memory.
    """
    check_file(file)
    try:
        size = file.stat().st_size
        if file.suffix == ".gz":
            with gzip.open(file) as unpacked:
                return _bytes_of(cast(IO[bytes], unpacked), file, packed=size)
        with file.open("rb") as plain:
            return _bytes_of(plain, file)
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{file} cannot be read ({error}); get it again") from error


def _bytes_of(data: IO[bytes], file: Path, packed: int | None = None) -> np.ndarray:
    """What the header announces, and no byte more: its size is known before it is read."""
    # Magic: two zero bytes, 8 for unsigned bytes, number of axes; then each axis' length, big endian.
    magic = data.read(4)
    axes = magic[3] if len(magic) == 4 and magic[:3] == b"\0\0\x08" else 0
    lengths = data.read(4 * axes) if 1 <= axes <= 4 else b""
    if not 1 <= axes <= 4 or len(lengths) < 4 * axes:
        raise RequestError(f"{file} is not an idx file of unsigned bytes (it begins with {magic.hex() or 'nothing'})")
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    need = math.prod(shape)
    if not need and math.prod(n or 1 for n in shape) > _MOST_BYTES:  # no array, not even an empty one
        raise RequestError(f"{file}: its header says an array of shape {list(shape)}; get it again")
    refused = f"of data where its header {shape} needs {need}; get it again"
    if packed is None:
        have = file.stat().st_size - 4 - 4 * axes
        if have != need:
            raise RequestError(f"{file} has {have} bytes {refused}")
    elif need > _PACKED_AT_MOST * packed:
        raise RequestError(f"{file} has fewer bytes {refused}")
    check_fits(need, f"{file}, of shape {list(shape)},", "get it again, or take fewer images", packed)
    values = np.empty(need, np.uint8)
    have = _fill(values, data)
    if have < need or data.read(1):
        raise RequestError(f"{file} has {'fewer' if have < need else 'more'} bytes {refused}")
    return values.reshape(shape)


def _fill(values: np.ndarray, data: IO[bytes]) -> int:
    """Fill an array of bytes; returns how many there were."""
    view, at = values.data, 0
    while at < len(values) and (part := data.read(min(_BLOCK, len(values) - at))):
        view[at : at + len(part)] = part
        at += len(part)
    return at


def read_labelled(images_file: Path, labels_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, H, W]``, bytes, and their labels ``[N]``, int64, of two idx files.

    Raises:
        RequestError: one is no such file, they do not belong together, or no image shows anything.
    """
    images, target = read_idx(images_file), read_idx(labels_file).astype(np.int64)
    if images.ndim != 3 or target.ndim != 1 or len(images) != len(target):
        raise RequestError(
            f"{images_file} holds an array of shape {images.shape}, {labels_file} one of {target.shape}; "
            "they must be [N, height, width] and [N], with the same N"
        )
    if not all(images.shape[1:]):
        raise RequestError(f"{images_file}: its images have {images.shape[1]} x {images.shape[2]} pixels; get it again")
    if len(images) and all((block == block[:, :1, :1]).all() for block in _blocks(images)):
        raise RequestError(
            f"{images_file}: each of its {len(images)} images is of one grey, as black ones are: get it again"
        )
    return images, target


def _blocks(images: np.ndarray, size: int = 4096) -> Iterator[np.ndarray]:
    return (images[begin : begin + size] for begin in range(0, len(images), size))


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
