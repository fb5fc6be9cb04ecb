"""Which membranes and weights an input pixel of a layer reaches, in the order in which the compiled loops take them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from cil_spl.chip.kernels.tables import PIXEL, SHAPES, WIDE
from cil_spl.chip.network import ChipLayer

LANES = 8  # features are padded to a multiple of this
HALF = 16  # lanes of the half of a cache line, across which a store takes twice as long


@dataclass(frozen=True)
class Geometry:
    """Which membranes and weights belong to an input pixel of a layer; no weights in it."""

    features: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_map: tuple[int, int]
    output: tuple[int, int, int]

    @staticmethod
    def of(layer: ChipLayer) -> Geometry:
        f, height, width = layer.output_shape
        kernel = (layer.weight.shape[2], layer.weight.shape[3])
        return Geometry(
            -(-f // LANES) * LANES, kernel, layer.stride, layer.padding, layer.input_shape[1:], (f, height, width)
        )

    @property
    def window(self) -> tuple[int, int]:
        """Rows and lanes of what one event may reach; lanes padded to one of ``SHAPES``, where that takes no more than
        one half of a cache line, or to whole lines."""
        rows, lanes = reach(self, 0).window, reach(self, 1).window * self.features
        halves = -(-lanes // HALF) * HALF
        for shape in SHAPES:
            if shape in ((rows, halves), (rows, halves + HALF)):
                return shape
        return rows, -(-lanes // WIDE) * WIDE

    @property
    def packed(self) -> int:
        """How many packed weights a channel has; see :meth:`pack`."""
        first, rows = _kernel_places(self)
        return (len(first) + 1) * len(rows) * self.window[1]

    def pack(self, weight: np.ndarray, nowhere: int) -> np.ndarray:
        """Weights in the order in which windows take them, int16 [c, first kernel column, kernel row, lane];
        the last column is none, for what is dropped."""
        f, c, ky, kx = weight.shape
        by_place = np.full((c, ky * kx * f + 1), nowhere, np.int16)  # the last one is what lies beside the kernel
        by_place[:, :-1] = weight.transpose(1, 2, 3, 0).reshape(c, -1)  # f c ky kx -> c (ky kx f)
        return by_place.take(_order_of_weights(self), axis=1)


class Reach(NamedTuple):
    """Along one axis, what each input row (column) reaches."""

    many: np.ndarray  # output rows
    window: int  # the most of them
    first: np.ndarray  # first output row of its window, which ends with the map
    kernel: np.ndarray  # the kernel row that falls there, or a number beyond the kernel; one stride less a row further


@lru_cache(maxsize=256)
def reach(geometry: Geometry, axis: int) -> Reach:
    k, s, p, n = geometry.kernel[axis], geometry.stride[axis], geometry.padding[axis], geometry.output[1 + axis]
    at = np.arange(geometry.input_map[axis]) + p
    first = np.maximum(-(-(at - k + 1) // s), 0)
    many = np.maximum(np.minimum(at // s, n - 1) - first + 1, 0)
    window = max(int(many.max()), 1)
    if axis == 1 and geometry.features % HALF and n % 2 == 0:  # windows begin with a half of a cache line
        window = min(-(-(window + 1) // 2) * 2, n)
        first = np.minimum(first, n - window) // 2 * 2
    else:
        first = np.minimum(first, n - window)
    return Reach(many, window, first, at - first * s)


@lru_cache(maxsize=256)
def _kernel_places(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """The kernel columns with which a window can begin, and the kernel rows that they take, some beyond it."""
    rows, columns = (reach(geometry, axis) for axis in (0, 1))
    y, x = rows.kernel[rows.many > 0], columns.kernel[columns.many > 0]
    first = y.min(initial=0) - (rows.window - 1) * geometry.stride[0]
    return np.unique(x), np.arange(first, y.max(initial=0) + 1)


@lru_cache(maxsize=256)
def _order_of_weights(geometry: Geometry) -> np.ndarray:
    """For each packed weight of a channel its place in (ky, kx, f); one past the end for what does not exist."""
    f, (ky, kx), (_, lanes) = geometry.output[0], geometry.kernel, geometry.window
    first, rows = _kernel_places(geometry)
    window = reach(geometry, 1).window
    x = first[:, None] - geometry.stride[1] * np.arange(window)  # [first kernel column, column of the window]
    y, x = rows[None, :, None, None], x[:, None, :, None]
    place = (y * kx + x) * f + np.arange(f)
    exists = (y >= 0) & (y < ky) & (x >= 0) & (x < kx)
    places = np.full((len(first), len(rows), window, geometry.features), ky * kx * f, np.int64)
    places[..., :f] = np.where(exists, place, ky * kx * f)
    order = np.full((len(first) + 1, len(rows), lanes), ky * kx * f, np.int64)
    order[:-1, :, : window * geometry.features] = places.reshape(*places.shape[:2], window * geometry.features)
    return order


@lru_cache(maxsize=256)
def pixels(source_map: tuple[int, int], pool: tuple[int, int], geometry: Geometry) -> np.ndarray:
    """A row for each pixel of a source map (before pooling): where its window lies (dtype ``PIXEL``)."""
    rows, columns = (reach(geometry, axis) for axis in (0, 1))
    first, kernel_rows = _kernel_places(geometry)
    f, _, width = geometry.output
    table = np.zeros(geometry.input_map, PIXEL)
    table["first"] = (rows.first[:, None] * width + columns.first) * geometry.features
    place = np.searchsorted(first, columns.kernel) * len(kernel_rows) + (
        rows.kernel[:, None] - kernel_rows.min(initial=0)
    )
    table["weight"] = place * geometry.window[1]
    table["adds"] = rows.many[:, None] * columns.many * f
    dropped = ((len(first) + 1) * len(kernel_rows) - 1) * geometry.window[1]
    table["weight"][table["adds"] == 0] = dropped
    found = np.zeros(source_map, PIXEL)
    found["weight"] = dropped
    pooled = table.repeat(pool[0], axis=0).repeat(pool[1], axis=1)[: source_map[0], : source_map[1]]
    found[: len(pooled), : pooled.shape[1]] = pooled
    return found.ravel()
