"""Samples: data that are whole at once, such as images, in one array; what :class:`Recordings` are for events.

Values are kept as the files have them (bytes, as a rule) and become numbers when they are taken, so that subsets and
experiences share one array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.augment_images import AugmentImages, augment_images
from cil_spl.data.labels import class_numbers, count_of, texts_of
from cil_spl.data.pictures import Pictures

_BLOCK = 4096  # samples worked on at once, to bound memory
_VALUES = 1 << 24  # values worked on at once, where samples are large
_PICTURES = 4096  # so many of a set that is read from files give its mean and deviation


@dataclass(frozen=True)
class Samples:
    """A set of samples.

    Attributes:
        values: of any real type, may be a read-only memory map, or pictures that are read when they are taken. Shape
            ``[N, C, H, W]``.
        target: what the task asks for: class numbers, int64 ``[R]``; otherwise float32 of any shape ``[R, ...]``.
        name: what messages and figures call a sample. Shape ``[R]``, str.
        origin: identity of what it shows, for example ``mnist/train/17``; empty where unknown. Shape ``[R]``, str.
        classes: the names of the classes, in the order of their numbers; None where targets are no classes.
        row: sample ``i`` is ``values[row[i]]``; None where they are all of ``values``, in order. Shape ``[R]``.
        scale, shift: a sample is ``values * scale + shift``, for each channel or for all.
        unit: scale and shift before the samples were standardised; None where they were not.
        order: pixel ``i`` of a sample is pixel ``order[i]`` of its values, the same in each channel; None leaves
            pixels where they are. Shape ``[H * W]``.
    """

    values: np.ndarray | Pictures
    target: np.ndarray
    name: np.ndarray
    origin: np.ndarray
    classes: tuple[str, ...] | None
    row: np.ndarray | None = None
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)
    unit: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    order: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, i: int) -> np.ndarray:
        """Sample ``i``. float32 ``[C, H, W]``."""
        return self.take([i])[0]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.values.shape[1:]
        return channels, height, width

    @property
    def rows(self) -> np.ndarray:
        """Where in ``values`` each sample lies. Shape ``[R]``."""
        return np.arange(len(self.values)) if self.row is None else self.row

    def subset(self, index: np.ndarray | Sequence[int]) -> Samples:
        """The samples ``index``, in that order; values are shared, not copied."""
        index = np.asarray(index, dtype=np.int64)
        picked = {field: getattr(self, field)[index] for field in ("target", "name", "origin")}
        return replace(self, row=self.rows[index], **picked)

    def take(
        self,
        index: np.ndarray | Sequence[int],
        augment: AugmentImages | None = None,
        seeds: Sequence[Sequence[int]] = (),
    ) -> np.ndarray:
        """The samples ``index`` as numbers; -1 is one of zeros.

        Args:
            augment: changes, each sample's drawn from its own of ``seeds``; None for none.

        Returns:
            float32 ``[B, C, H, W]``.
        """
        index = np.asarray(index, dtype=np.int64)
        real = index >= 0
        rows, cropped = self.rows[index[real]], False
        values = np.zeros((len(index), *self.input_shape), self.values.dtype)
        if isinstance(self.values, Pictures) and augment is not None and augment.crop_area is not None:
            drawn = [seed for seed, there in zip(seeds, real, strict=True) if there]
            values[real], cropped = self.values.read(rows, augment.crop_area, drawn), True
        else:
            values[real] = self.values[rows]
        if augment is not None:
            values = augment_images(values, augment, seeds, cropped=cropped)
        out = (values * of_channels(self.scale) + of_channels(self.shift)).astype(np.float32, copy=False)  # B C H W
        out[~real] = 0
        if self.order is not None:
            out = out.reshape(*out.shape[:2], -1)[..., self.order].reshape(out.shape)  # B C (H W)
        return out


def of_channels(numbers: Sequence[float]) -> np.ndarray:
    """A number for each channel, or one for all, along the channels of samples. float32 ``[C, 1, 1]``."""
    return np.array(numbers, np.float32)[:, None, None]


def from_arrays(
    values: np.ndarray,
    target: np.ndarray | Sequence[int],
    classes: Sequence[str] | None,
    names: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    *,
    scale: float = 1.0,
) -> Samples:
    """Samples from arrays; they are checked.

    Args:
        values: numbers. Shape ``[R, C, H, W]``.
        target: class numbers where there are ``classes``, otherwise numbers of any shape ``[R, ...]``.
        scale: factor on the values, 1 / 255 for bytes.

    Raises:
        RequestError: an array of another shape or length, a value that is no finite number, a class that there is not;
            names the sample.
    """
    values = _numbers(values, "samples")
    if values.ndim != 4:
        raise RequestError(
            f"samples: an array of {values.dtype}, shape {list(values.shape)}; needs numbers of shape "
            "[samples, channels, height, width]"
        )
    names = [f"sample {i}" for i in range(len(values))] if names is None else texts_of(names, "samples: names").tolist()
    origins = [""] * len(values) if origins is None else texts_of(origins, "samples: origins").tolist()
    if classes is not None:
        classes = texts_of(list(classes) if isinstance(classes, str) else classes, "samples: classes").tolist()
    for what, listed in (("targets", target), ("names", names), ("origins", origins)):
        n = count_of(listed, f"samples: {what}")
        if n != len(values):
            raise RequestError(f"samples: {n} {what} for {len(values)} samples; there must be one for each")
    for begin in range(0, len(values) if values.dtype.kind == "f" else 0, _BLOCK):
        _refuse(~np.isfinite(values[begin : begin + _BLOCK]), begin, names, "its values", "are not all finite numbers")
    if classes is None:
        with np.errstate(over="ignore"):
            target = _numbers(target, "samples: targets").astype(np.float32)
        _refuse(~np.isfinite(target), 0, names, "its target", "is no finite number")
    else:
        target = class_numbers(target, names, classes)
    return Samples(
        values=values,
        target=target,
        name=np.asarray(names, dtype=str),
        origin=np.asarray(origins, dtype=str),
        classes=None if classes is None else tuple(classes),
        scale=(scale,),
    )


def _numbers(values: Any, what: str) -> np.ndarray:
    """Real numbers in this machine's byte order."""
    try:
        found = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise RequestError(f"{what}: lists of different lengths; needs an array of numbers") from error
    if found.dtype.kind not in "buif":
        raise RequestError(f"{what}: an array of {found.dtype}; needs numbers")
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def check_samples(samples: Samples, what: str) -> None:
    """Refuse samples whose parts do not belong together; those of :func:`from_arrays` always do.

    Args:
        what: how messages call them.

    Raises:
        RequestError: names the part, or the sample with a label that is no class.
    """
    values, target = samples.values, samples.target
    array = isinstance(values, np.ndarray) and values.ndim == 4 and values.dtype.kind in "buif"
    if not array and not isinstance(values, Pictures):
        raise RequestError(
            f"{what}: values are no array of numbers [samples, channels, height, width]; see from_arrays"
        )
    if not isinstance(target, np.ndarray) or not target.ndim or target.dtype.kind not in "buif":
        raise RequestError(f"{what}: target is no array of numbers, one or more for each sample; see from_arrays")
    rows, n = samples.rows, len(target)
    for field, held, kinds in (("name", samples.name, "U"), ("origin", samples.origin, "U"), ("row", rows, "iu")):
        if not isinstance(held, np.ndarray) or held.ndim != 1 or (len(held) and held.dtype.kind not in kinds):
            raise RequestError(f"{what}: {field} is no flat array of such as from_arrays has; see there")
        if len(held) != n:
            of = "values" if field == "row" else field
            raise RequestError(f"{what}: {len(held)} of {of} for {n} targets; there must be one for each sample")
    _check_numbers(samples, what)
    if n and not ((rows >= 0) & (rows < len(values))).all():
        raise RequestError(f"{what}: row leads beyond its {len(values)} values; see from_arrays")
    if samples.classes is not None:
        texts_of(samples.classes, f"{what}: classes")
        class_numbers(samples.target, samples.name, samples.classes)


def _check_numbers(samples: Samples, what: str) -> None:
    """Scale, shift and the order of pixels."""
    channels, pixels = samples.values.shape[1], math.prod(samples.values.shape[2:])
    unit = samples.unit if isinstance(samples.unit, tuple) and len(samples.unit) == 2 else (samples.unit,)
    pairs = [samples.scale, samples.shift, *(() if samples.unit is None else unit)]
    for numbers in pairs:
        known = isinstance(numbers, tuple) and len(numbers) in (1, channels)
        if not known or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in numbers):
            raise RequestError(f"{what}: scale, shift or unit is no tuple of one number, or of one for each channel")
    order = samples.order
    if order is not None and not (
        isinstance(order, np.ndarray)
        and order.shape == (pixels,)
        and order.dtype.kind in "iu"
        and np.array_equal(np.sort(order), np.arange(pixels))
    ):
        raise RequestError(f"{what}: order is no array with each of the {pixels} pixels once")


def _refuse(bad: np.ndarray, first: int, names: Sequence[str], what: str, why: str) -> None:
    if bad.any():
        i = first + int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        raise RequestError(f"{names[i]}: {what} {why}")


def spread(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all samples and pixels. float64 ``[C]`` each.

    Of pictures that are read from files, over some thousand of them, taken at equal distances.
    """
    channels, height, width = samples.input_shape
    total, squares, rows = np.zeros(channels), np.zeros(channels), samples.rows
    if isinstance(samples.values, Pictures):
        rows = rows[:: max(1, math.ceil(len(rows) / _PICTURES))]
    step = max(1, min(_BLOCK, _VALUES // (channels * height * width)))
    for begin in range(0, len(rows), step):
        block = samples.values[rows[begin : begin + step]].astype(np.float64)  # B C H W
        total += block.sum(axis=(0, 2, 3))
        squares += np.einsum("bchw,bchw->c", block, block)
    n = len(rows) * height * width
    mean = total / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 0))
    scale, shift = np.array(samples.scale), np.array(samples.shift)
    return mean * scale + shift, deviation * np.abs(scale)


def standardised(samples: Samples, mean: np.ndarray, deviation: np.ndarray) -> Samples:
    """The samples less ``mean`` over ``deviation``, by channel; a channel that never changes is not divided."""
    divisor = np.where(deviation > 0, deviation, 1.0)
    scale = np.broadcast_to(samples.scale, divisor.shape) / divisor
    shift = (np.broadcast_to(samples.shift, divisor.shape) - mean) / divisor
    unit = samples.unit or (samples.scale, samples.shift)
    return replace(samples, scale=tuple(scale.tolist()), shift=tuple(shift.tolist()), unit=unit)


def joined(parts: Sequence[Samples]) -> Samples:
    """Sets of the same kind, one after another."""
    if len(parts) == 1:
        return parts[0]
    one, row = parts[0].values, None
    if all(part.values is one for part in parts):
        values, row = one, np.concatenate([part.rows for part in parts])
    else:
        values = np.concatenate([part.values[part.rows] for part in parts])
    return replace(
        parts[0],
        values=values,
        row=row,
        target=np.concatenate([part.target for part in parts]),
        name=np.concatenate([part.name for part in parts]),
        origin=np.concatenate([part.origin for part in parts]),
    )
