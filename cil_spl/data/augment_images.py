"""Augmentation of training images: a crop from the padded image, and its mirror image.

All off by default. Drawn anew from (seed, epoch, image), so that neither the order of a set nor the number of
processes changes what an image becomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from cil_spl.base.options import check_fields, unless_default


@dataclass(frozen=True)
class AugmentImages:
    """How far an image may be changed.

    Attributes:
        padding: pixels of value 0 around the image, from which a crop of its own size is drawn.
        flip: whether every other image, by chance, is mirrored left to right.

    Raises:
        RequestError: a value is out of range.
    """

    padding: Annotated[int, Ge(0), Le(64)] = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "dataset.augment")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | AugmentImages | None) -> AugmentImages | None:
        """From the keys of ``dataset.augment``; None where nothing is changed.

        Raises:
            RequestError: an unknown key or a value out of range.
        """
        return unless_default(cls, config, "dataset.augment")


def augment_images(values: np.ndarray, augment: AugmentImages, seeds: Sequence[Sequence[int]]) -> np.ndarray:
    """Change each image of a batch by its own draw.

    Args:
        values: images as the files have them; not written to. Shape ``[B, C, H, W]``.
        augment: how far.
        seeds: what each image's draw starts from. Length B.

    Returns:
        The changed images, of the same shape and type.
    """
    height, width = values.shape[2:]
    border = augment.padding
    padded = np.pad(values, ((0, 0), (0, 0), (border, border), (border, border)))
    out = np.empty_like(values)
    for b, seed in enumerate(seeds):
        # Every draw is made whether used or not: turning one change on leaves the other's draws as they were.
        down, right, mirror = np.random.default_rng(list(seed)).random(3)
        top, left = int(down * (2 * border + 1)), int(right * (2 * border + 1))
        image = padded[b, :, top : top + height, left : left + width]
        out[b] = image[:, :, ::-1] if augment.flip and mirror < 0.5 else image
    return out
