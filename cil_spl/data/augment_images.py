"""Augmentation of training images: a crop that is scaled to the image's size, a crop from the padded image, and its
mirror image.

All off by default. Drawn anew from (seed, epoch, image), so that neither the order of a set nor the number of
processes changes what an image becomes. The scaled crop is that of Szegedy et al. 2015 (arXiv:1409.4842, section 6), as
torchvision's RandomResizedCrop draws it; Pillow scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, Len

from cil_spl.base.annotations import Says
from cil_spl.base.errors import RequestError
from cil_spl.base.options import check_fields, unless_default

Areas = Annotated[
    Annotated[Sequence[Annotated[float, Gt(0), Le(1)]], Len(2, 2)] | None,
    Says("two shares of the image's area, above 0 and up to 1, [0.08, 1], or null"),
]
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
_NARROWEST, _WIDEST = 3 / 4, 4 / 3  # width over height of a crop that is scaled
_TRIES = 10  # at a crop that lies inside the image


@dataclass(frozen=True)
class AugmentImages:
    """How far an image may be changed.

    Attributes:
        padding: pixels of value 0 around the image, from which a crop of its own size is drawn.
        flip: whether every other image, by chance, is mirrored left to right.
        crop_area: shares of the image's area, from and to; a crop of an area between them, and of a shape between 3:4
            and 4:3, is drawn first, and scaled to the size of the samples. None for none.

    Raises:
        RequestError: a value is out of range.
    """

    padding: Annotated[int, Ge(0), Le(64)] = 0
    flip: bool = False
    crop_area: Areas = None

    def __post_init__(self) -> None:
        check_fields(self, "dataset.augment")
        if self.crop_area is not None and self.crop_area[0] > self.crop_area[1]:
            raise RequestError(
                f"dataset.augment.crop_area={list(self.crop_area)}: needs the smaller share first, for example "
                "[0.08, 1]"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | AugmentImages | None) -> AugmentImages | None:
        """From the keys of ``dataset.augment``; None where nothing is changed.

        Raises:
            RequestError: an unknown key or a value out of range.
        """
        return unless_default(cls, config, "dataset.augment")


def augment_images(
    values: np.ndarray, augment: AugmentImages, seeds: Sequence[Sequence[int]], *, cropped: bool = False
) -> np.ndarray:
    """Change each image of a batch by its own draw.

    Args:
        values: images as the files have them; not written to. Shape ``[B, C, H, W]``.
        augment: how far.
        seeds: what each image's draw starts from. Length B.
        cropped: whether the images are crops by ``crop_area`` already.

    Returns:
        The changed images, of the same shape and type.
    """
    height, width = values.shape[2:]
    border = augment.padding
    if augment.crop_area is not None and not cropped:
        values = np.stack([_scaled(image, augment.crop_area, seed) for image, seed in zip(values, seeds, strict=True)])
    padded = np.pad(values, ((0, 0), (0, 0), (border, border), (border, border)))
    out = np.empty_like(values)
    for b, seed in enumerate(seeds):
        # Every draw is made whether used or not: turning one change on leaves the other's draws as they were.
        down, right, mirror = np.random.default_rng(list(seed)).random(3)
        top, left = int(down * (2 * border + 1)), int(right * (2 * border + 1))
        image = padded[b, :, top : top + height, left : left + width]
        out[b] = image[:, :, ::-1] if augment.flip and mirror < 0.5 else image
    return out


def crop_of(height: int, width: int, areas: Sequence[float], seed: Sequence[int]) -> Box:
    """The crop that an image's seed draws: the first of ten that lies inside, else the largest one in the middle.

    Args:
        height, width: of the image, in pixels.
        areas: shares of its area, from and to.
    """
    rng = np.random.default_rng(list(seed))
    rng.random(3)  # those of the other changes
    low, high = math.log(_NARROWEST), math.log(_WIDEST)
    for area, shape, right, down in rng.random((_TRIES, 4)):
        pixels = height * width * (areas[0] + area * (areas[1] - areas[0]))
        ratio = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(right * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * _WIDEST))), min(height, max(1, round(width / _NARROWEST)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _scaled(image: np.ndarray, areas: Sequence[float], seed: Sequence[int]) -> np.ndarray:
    """A crop at the size of the image. Shape (C, H, W)."""
    from PIL import Image

    height, width = image.shape[1:]
    box = crop_of(height, width, areas, seed)
    maps = [
        np.asarray(
            Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR, box=box)
        )
        for channel in image
    ]
    found = np.stack(maps)
    return (found if image.dtype.kind == "f" else np.rint(found)).astype(image.dtype)
