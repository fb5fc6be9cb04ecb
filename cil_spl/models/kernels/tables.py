"""Weights and pixels of a convolution as the kernels want them: what an input event reaches, in a few runs of numbers.

An input pixel at y reaches the output rows (y + padding - k) / stride, for the k of the kernel for which that is whole:
those of one remainder, its phase. They follow one another, and so do the columns; so an event of feature c adds to
``rows`` runs of ``length`` numbers, the weights of its phase and of c in the order of the map.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from cil_spl.models.kernels.vectors import NUMBERS


class Geometry(NamedTuple):
    """A convolution, the neurons after it and their pooling; sizes in pixels unless said otherwise.

    A map has a margin, into which events at its edge reach; a row of it is ``row`` numbers long, all ``size``, and
    what belongs to neurons lies in the ``span`` numbers from ``first`` on.
    """

    height: int
    width: int
    channels: int
    kernel_y: int
    kernel_x: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int
    out_height: int
    out_width: int
    features: int
    pool_y: int
    pool_x: int
    area: int  # by which pooled sums are divided
    rows: int
    length: int  # numbers of a run that are weights
    groups: int  # vectors of a run
    lead: int  # numbers of a run
    row: int
    first: int
    span: int
    size: int
    lanes: int  # of the vectors in which input features are summed
    channel_groups: int  # so many of them
    feature_lanes: int  # of the vectors in which features are summed densely
    feature_groups: int
    in_row: int  # numbers of a row of the input with its padding
    in_size: int
    dense_length: int  # numbers of a row of the kernel, filled up
    masks: int  # words of the bits of a frame


class Pixels(NamedTuple):
    """For each number of the input: where its window begins in the map, and its run in the weights. int32 (H W C,)."""

    at: np.ndarray
    run: np.ndarray


def geometry(
    source: tuple[int, int, int],
    features: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    pool: tuple[int, int],
    average: bool,
    vector: int,
) -> tuple[Geometry, Pixels]:
    """The tables of a convolution.

    Args:
        source: (C, H, W) of what enters.
        average: whether pooling divides by its area.
        vector: numbers of a vector: 16 for float32, 8 for float64.
    """
    channels, height, width = source
    out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip((height, width), padding, kernel, stride, strict=True)]
    taps = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    begins = [
        (np.arange(n) + p) // s - (m - 1) for n, p, s, m in zip((height, width), padding, stride, taps, strict=True)
    ]
    before = [max(0, -int(b.min())) for b in begins]
    after = [max(0, int(b.max()) + m - n) for b, m, n in zip(begins, taps, out, strict=True)]
    columns = out[1] + max(before[1], after[1])  # one margin between two rows serves both
    length = taps[1] * features
    groups = -(-length // vector)
    row = columns * features
    first = before[0] * row + before[1] * features
    span = (out[0] - 1) * row + out[1] * features
    # A run's vectors may reach over its end, and a block of eight pixels over the end of its row.
    size = first + span + after[0] * row + (after[1] + 8) * features + groups * vector
    lanes = vector // 2 if channels <= vector // 2 else vector
    feature_lanes = vector // 2 if features <= vector // 2 else vector
    in_row = (width + 2 * padding[1]) * channels
    dense_length = -(-kernel[1] * channels // NUMBERS) * NUMBERS
    in_size = (height + 2 * padding[0]) * in_row + dense_length + 8 * stride[1] * channels
    shape = Geometry(
        height, width, channels, *kernel, *stride, *padding, out[0], out[1], features, *pool,
        pool[0] * pool[1] if average else 1, taps[0], length, groups, groups * vector, row, first, span,
        -(-size // vector) * vector, lanes, -(-channels // lanes),
        feature_lanes, -(-features // feature_lanes), in_row, in_size, dense_length,
        -(-height * width * channels // 64),
    )  # fmt: skip
    phases = [(np.arange(n) + p) % s for n, p, s in zip((height, width), padding, stride, strict=True)]
    at = (begins[0] + before[0])[:, None] * row + (begins[1] + before[1])[None, :] * features
    phase = phases[0][:, None] * stride[1] + phases[1][None, :]
    run = (phase[:, :, None] * channels + np.arange(channels)) * taps[0] * shape.lead
    at = np.broadcast_to(at[:, :, None], run.shape)
    return shape, Pixels(at.astype(np.int32).ravel(), run.astype(np.int32).ravel())


class Gradients(NamedTuple):
    """Parts of the gradient of the weights: of what was computed by events, and of what was computed densely."""

    runs: np.ndarray
    dense: np.ndarray


class Tables:
    """A convolution's geometry, and its weights (F, C, ky, kx) in the orders of the kernels.

    Args:
        as in :func:`geometry`.
    """

    def __init__(self, *of: Any) -> None:
        self.shape, self.pixels = geometry(*of)
        g = self.shape
        number = np.arange(g.features * g.channels * g.kernel_y * g.kernel_x)
        f, c, ky, kx = np.unravel_index(number, (g.features, g.channels, g.kernel_y, g.kernel_x))
        phase = (ky % g.stride_y) * g.stride_x + kx % g.stride_x
        phases, r = g.stride_y * g.stride_x, g.rows - 1 - ky // g.stride_y
        in_run = (g.length // g.features - 1 - kx // g.stride_x) * g.features + f
        run = np.full((phases, g.channels, g.rows, g.lead), len(number))  # one more weight, which is zero
        run[phase, c, r, in_run] = number
        group = np.full((phases, g.channel_groups, g.rows, g.length, g.lanes), len(number))
        group[phase, c // g.lanes, r, in_run, c % g.lanes] = number
        dense = np.full((g.feature_groups, g.kernel_y, g.kernel_x * g.channels, g.feature_lanes), len(number))
        in_row = kx * g.channels + c
        dense[f // g.feature_lanes, ky, in_row, f % g.feature_lanes] = number
        self._run, self._group, self._dense = run.ravel(), group.ravel(), dense.ravel()
        of = (f // g.feature_lanes, ky, in_row, f % g.feature_lanes)
        self._dense_shape = (g.feature_groups, g.kernel_y, g.dense_length, g.feature_lanes)
        self._dense_place = np.ravel_multi_index(of, self._dense_shape)
        self._place = np.ravel_multi_index((phase, c, r, in_run), run.shape)

    def runs(self, weight: np.ndarray) -> np.ndarray:
        """Weights by phase, input feature and run: for what an event adds."""
        return np.append(weight.ravel(), weight.dtype.type(0))[self._run]

    def groups(self, weight: np.ndarray) -> np.ndarray:
        """Weights by phase, group of input features, run, and number in it: for what a pixel sums up."""
        return np.append(weight.ravel(), weight.dtype.type(0))[self._group]

    def dense(self, weight: np.ndarray) -> np.ndarray:
        """Weights by group of features, row of the kernel, number in it, and feature: for what a neuron sums up."""
        return np.append(weight.ravel(), weight.dtype.type(0))[self._dense]

    def empty(self, chunks: int, f: Any) -> Gradients:
        """Room for the gradient of the weights in so many parts."""
        return Gradients(np.zeros((chunks, len(self._run)), f), np.zeros((chunks, math.prod(self._dense_shape)), f))

    def weights(self, of: Gradients) -> np.ndarray:
        """The sum of the parts of a gradient, one after the other, as weights."""
        g = self.shape
        total = of.runs.sum(0)[self._place] + of.dense.sum(0)[self._dense_place]
        return total.reshape(g.features, g.channels, g.kernel_y, g.kernel_x)
