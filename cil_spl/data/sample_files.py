"""Samples from the user's own files: ``.npy`` (one array of numbers) and ``.png`` (8 bits, grey or colours); ``.jpg``
too, and of any size, for a run that was trained on a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cil_spl.base.arrays import check_file, read_npy
from cil_spl.base.errors import RequestError
from cil_spl.data import pictures
from cil_spl.data.pictures import readable
from cil_spl.data.preparation import Preparation

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".npy", ".png")
_GREY = ("1", "L", "LA")
_COLOURS = ("P", "RGB", "RGBA")


def read_samples(path: Path | str, preparation: Preparation) -> np.ndarray:
    """Read and check the samples of a file.

    Args:
        path: of one of the formats above. A picture's black is 0 and its white what a data set's values have for 1;
            where the data set's are bytes they are taken as they are.
        preparation: of the run's data.

    Returns:
        numbers that ``preparation`` takes, ``[N, C, H, W]``.

    Raises:
        RequestError: no such file, not of its format, or not such samples as the run's data are; names the file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    allowed = SUFFIXES if preparation.resize is None else (".npy", *pictures.SUFFIXES)
    if suffix not in allowed:
        raise RequestError(f"{path}: unknown kind of file; the run was trained on samples: give {' or '.join(allowed)}")
    check_file(path)
    if suffix == ".npy":
        values = read_npy(path)
    elif preparation.resize is None:
        values = _picture(path, preparation)
    else:
        values = pictures.of_file(path, preparation.input_shape, preparation.resize)
    return preparation.checked(values, str(path))


def _picture(path: Path, preparation: Preparation) -> np.ndarray:
    """Bytes as whole numbers or as fractions, as the data set takes them. Shape (C, H, W)."""
    from PIL import Image

    channels, height, width = preparation.input_shape
    if channels not in (1, 3):
        raise RequestError(
            f"{path}: a picture has 1 or 3 channels, the run's dataset.input_shape is {list(preparation.input_shape)}; "
            "give a .npy array"
        )
    with readable(f"{path}: not a readable .png picture", "save it again"), Image.open(path, formats=("PNG",)) as image:
        if image.size != (width, height):  # before it is unpacked
            raise RequestError(
                f"{path}: a picture of {image.size[0]} x {image.size[1]} pixels (width x height); the run's "
                f"pictures have {width} x {height}: crop or scale it"
            )
        values = _channels(image, channels, path)
    own_bytes = preparation.whole and (not preparation.scaled or preparation.unit_scale == (1 / 255,))
    return values if own_bytes else values.astype(np.float32) / np.float32(255)


def _channels(image: Image, channels: int, path: Path) -> np.ndarray:
    """Of a picture of 8 bits; colours that are none count as grey. uint8, (C, H, W)."""
    if image.mode not in (*_GREY, *_COLOURS):
        raise RequestError(
            f"{path}: a picture in mode {image.mode}; save it with 8 bits, in grey or in red, green, blue"
        )
    values = np.moveaxis(np.asarray(image.convert("RGBA")), -1, 0)  # H W C -> C H W
    if (values[3] != 255).any():
        raise RequestError(
            f"{path}: parts of the picture are transparent; save it on a background, without transparency"
        )
    if channels == 3:
        return values[:3]
    if (values[:3] != values[:1]).any():
        raise RequestError(f"{path}: the picture has colours, and the run's data have one channel; save it in grey")
    return values[:1]
