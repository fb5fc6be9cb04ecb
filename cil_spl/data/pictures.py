"""Folders of pictures, one folder for each class, as ImageNet is laid: read when a batch asks for them.

Where other samples hold all their values in memory, these hold the names of files. A picture is decoded by Pillow each
time that it is taken, in as many threads as torch has, and scaled to the size of the samples: for evaluation its
shorter side, with a crop from the middle; for training, where ``dataset.augment.crop_area`` asks for it, a crop that is
drawn. In memory are the pictures of one batch, and at most one whole picture per thread. Pixels are taken as they are
stored: a camera's note that it was held sideways (EXIF) changes nothing, and what is transparent shows its colour.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.base.memory import check_fits
from cil_spl.data.augment_images import crop_of

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")
MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels
_READ_AS = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # those of 8 bits
_LARGE = 1 << 24  # pixels of a picture from which on the memory is looked at


@contextmanager
def readable(what: str, remedy: str) -> Iterator[None]:
    """What Pillow raises over bytes that are no picture, as one message.

    Args:
        what: its beginning, the file and what it is not.
        remedy: its end.

    Raises:
        RequestError: as such, or in the place of these.
    """
    from PIL import Image

    try:
        yield
    except RequestError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as e:
        raise RequestError(f"{what} ({e}); {remedy}") from e


@dataclass(frozen=True, eq=False)
class Pictures:
    """Files of pictures with the face of an array of bytes ``[N, C, H, W]``; what is indexed is read.

    Attributes:
        root: folder that the names of the files begin in.
        files: their names. Shape ``[N]``, str.
        sizes: of the files in bytes. Shape ``[N]``, int64.
        input_shape: (C, H, W) of what is given; C is 1 (grey) or 3 (red, green, blue).
        resize: pixels of a picture's shorter side, of whose middle H x W are given.
    """

    root: Path
    files: np.ndarray
    sizes: np.ndarray
    input_shape: tuple[int, int, int]
    resize: int

    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self), *self.input_shape)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows, as an evaluation sees them. uint8 ``[B, C, H, W]``."""
        return self.read(rows)

    def read(
        self,
        rows: np.ndarray | Sequence[int],
        areas: Sequence[float] | None = None,
        seeds: Sequence[Sequence[int]] = (),
    ) -> np.ndarray:
        """The pictures of these rows.

        Args:
            areas: ``crop_area`` of :class:`~cil_spl.data.augment_images.AugmentImages`; None for the middle of each.
            seeds: what each picture's crop is drawn from. Length B.

        Returns:
            uint8 ``[B, C, H, W]``.

        Raises:
            RequestError: a file is no picture, damaged or of more than 8 bits; it is named.
        """
        import torch

        out = np.empty((len(rows), *self.input_shape), np.uint8)

        def fill(b: int) -> None:
            out[b] = self._read(self.root / str(self.files[rows[b]]), None if areas is None else (areas, seeds[b]))

        with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(rows))), "pictures") as readers:
            for _ in readers.map(fill, range(len(rows))):
                pass
        return out

    def _read(self, path: Path, drawn: tuple[Sequence[float], Sequence[int]] | None) -> np.ndarray:
        """Shape (C, H, W)."""
        from PIL import Image

        channels, height, width = self.input_shape
        with (
            readable(f"{path}: not a readable picture", "get it again, or remove it"),
            Image.open(path, formats=("JPEG", "PNG")) as image,
        ):
            box = self._middle(image) if drawn is None else crop_of(image.height, image.width, *drawn)
            part = _decoded(image, MODES[channels], path).resize((width, height), Image.Resampling.BILINEAR, box)
        return np.asarray(part).reshape(height, width, channels).transpose(2, 0, 1)  # H W C -> C H W

    def _middle(self, image: Image) -> tuple[float, float, float, float]:
        """What remains of a picture when it is scaled to whole pixels, its shorter side ``resize``, and the middle cut
        out: the part of the picture itself, so that nothing else is scaled."""
        _, height, width = self.input_shape
        w, h = (self.resize * side // min(image.size) for side in image.size)
        left, top = round((w - width) / 2), round((h - height) / 2)
        x, y = image.width / w, image.height / h
        return left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height)

    def digest(self) -> str:
        """A hash of the files' names and sizes: to read them all would take as long as an epoch."""
        found = hashlib.sha256(np.ascontiguousarray(self.sizes).tobytes())
        for name in self.files.tolist():
            found.update(name.encode() + b"\0")
        found.update(repr((self.input_shape, self.resize)).encode())
        return found.hexdigest()


def _decoded(image: Image, mode: str, path: Path) -> Image:
    """The picture in grey or in colours, without what its transparency hides."""
    if image.mode not in _READ_AS:
        raise RequestError(
            f"{path}: a picture in mode {image.mode}; save it with 8 bits, in grey or in red, green, blue"
        )
    if image.width * image.height > _LARGE:
        size = f"{path}, of {image.width} x {image.height} pixels,"
        check_fits(8 * image.width * image.height, size, "save it smaller, or remove it")
    return (image.convert("RGBA") if image.mode == "P" else image).convert(mode)


def of_file(path: Path, input_shape: Sequence[int], resize: int) -> np.ndarray:
    """One picture, as an evaluation sees it. uint8 ``[1, C, H, W]``.

    Raises:
        RequestError: the file is no picture, damaged or of more than 8 bits.
    """
    channels, height, width = input_shape
    one = Pictures(path.parent, np.array([path.name]), np.zeros(1, np.int64), (channels, height, width), resize)
    return one.read([0])


def shorter_side(shape: Sequence[int], resize: int | None, group: str = "dataset") -> int:
    """Pixels to which a picture's shorter side is scaled: ``resize``, or 8/7 of the larger of height and width.

    Args:
        shape: (C, H, W) of a sample.
        group: of the config, for messages.

    Raises:
        RequestError: no such channels, or fewer pixels than a sample has.
    """
    larger = max(shape[1:])
    if shape[0] not in MODES:
        raise RequestError(f"{group}.input_shape={shown(list(shape))}: pictures have 1 channel (grey) or 3 (colours)")
    if resize is not None and resize < larger:
        raise RequestError(
            f"{group}.resize={resize}: less than the {larger} pixels of {group}.input_shape={shown(list(shape))}; "
            "choose at least so many, or null"
        )
    return round(larger * 8 / 7) if resize is None else resize


def classes_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, in order; hidden ones are left out."""
    return sorted(one.name for one in os.scandir(folder) if one.is_dir() and not one.name.startswith("."))


def listed(root: Path, part: str) -> dict[str, tuple[list[str], list[int]]]:
    """The pictures in ``root/part/CLASS`` and in folders below it, by class, in the order of their names.

    Returns:
        for each class the names of its files, from ``root`` on, and their sizes in bytes.

    Raises:
        RequestError: no folder of a class, a class without a picture, an empty file, a name that is no text.
    """
    folder = root / part
    classes = classes_in(folder)
    if not classes:
        raise RequestError(f"{folder} holds no folder of a class; pictures lie in {folder / 'CLASS' / 'NAME.jpg'}")
    others: list[str] = []
    found = {}
    for name in classes:
        files = sorted(_files(folder / name, others))
        if not files:
            raise RequestError(
                f"{folder / name} holds no picture ({', '.join(SUFFIXES)}); remove the folder, or put some there"
            )
        found[name] = [os.path.relpath(file, root) for file in files], [_size(file) for file in files]
    if others:
        log.warning("%s: %d files that are no pictures are left out, for example %s", folder, len(others), others[0])
    return found


def _files(folder: Path, others: list[str]) -> list[str]:
    """The pictures below a folder; files of another kind are added to ``others``, hidden ones are not."""
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            is_picture = name.lower().endswith(SUFFIXES) and not name.startswith(".")
            if is_picture:
                found.append(os.path.join(where, name))
            elif not name.startswith("."):
                others.append(os.path.join(where, name))
    return found


def _size(file: str) -> int:
    try:
        file.encode()
        size = os.stat(file).st_size
    except UnicodeEncodeError:
        raise RequestError(f"{file!a}: the name of this file is no UTF-8; rename it") from None
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}); get it again, or remove it") from error
    if not size:
        raise RequestError(f"{file}: the file is empty; get it again, or remove it")
    return size
