"""A convolution of one frame, and its gradients: by what is not zero in the frame, or, where that is much, densely."""

from __future__ import annotations

import numpy as np
from numba import njit

from cil_spl.base.bits import bits, lowest_bit
from cil_spl.models.kernels import vectors as v

_1 = np.uint64(1)
# What adding a vector takes densely, over what it takes by event (measured with benchmarks/training).
DENSE = 0.2


@njit(nogil=True)
def find(x, masks):  # type: ignore[no-untyped-def]
    """Which numbers of a frame are not zero, as bits, and how many. Shapes (N,), (N / 64,)."""
    n, many = len(x), 0
    for k in range(len(masks)):
        if 64 * k + 64 <= n:
            mask = v.nonzero(x, 64 * k)
        else:
            mask = np.uint64(0)
            for i in range(64 * k, n):
                if x[i] != 0:
                    mask |= _1 << np.uint64(i - 64 * k)
        masks[k] = mask
        many += bits(mask)
    return many


@njit(nogil=True, inline="always")
def is_dense(many, shape):  # type: ignore[no-untyped-def]
    """Whether a frame of so many events is better computed densely."""
    g = shape
    dense = g.out_height * g.out_width * g.kernel_y * g.kernel_x * g.channels * g.feature_groups
    return many * g.rows * g.groups > DENSE * dense


@njit(nogil=True, forceinline=True)
def _window(into, at, row, source, first, lead, value, rows, groups):  # type: ignore[no-untyped-def]
    if rows == 3 and groups == 2:  # written as numbers, they become straight code
        v.add_window(into, at, row, source, first, lead, value, 3, 2)
    elif rows == 3 and groups == 3:
        v.add_window(into, at, row, source, first, lead, value, 3, 3)
    else:
        v.add_window(into, at, row, source, first, lead, value, rows, groups)


@njit(nogil=True)
def add_events(x, masks, current, runs, shape, pixels):  # type: ignore[no-untyped-def]
    """Add what a frame's events give to the currents. Shapes (H W C,), (size,)."""
    row, rows, groups, lead = shape.row, shape.rows, shape.groups, shape.lead
    for word in range(len(masks)):
        mask = masks[word]
        while mask:
            k = np.uint64(64 * word + lowest_bit(mask))  # numba looks whether other indices are negative
            mask &= mask - _1
            _window(current, pixels.at[k], row, runs, pixels.run[k], lead, x[k], rows, groups)


@njit(nogil=True)
def outer_events(x, masks, delta, runs, shape, pixels):  # type: ignore[no-untyped-def]
    """Add a frame's gradient of the weights to ``runs``. Shapes (H W C,), (size,)."""
    row, rows, groups, lead = shape.row, shape.rows, shape.groups, shape.lead
    for word in range(len(masks)):
        mask = masks[word]
        while mask:
            k = np.uint64(64 * word + lowest_bit(mask))
            mask &= mask - _1
            _window(runs, pixels.run[k], lead, delta, pixels.at[k], row, x[k], rows, groups)


@njit(nogil=True, inline="always")
def with_margins(x, out, shape):  # type: ignore[no-untyped-def]
    """A frame with its padding around it. Shapes (H W C,), (in_size,)."""
    n = shape.width * shape.channels
    for y in range(shape.height):
        v.copy(out, (y + shape.padding_y) * shape.in_row + shape.padding_x * shape.channels, x, y * n, n)


@njit(nogil=True, inline="always")
def add_dense(padded, current, dense, shape):  # type: ignore[no-untyped-def]
    """The currents of a frame, of all its numbers. Shapes (in_size,), (size,)."""
    g = shape
    length = g.kernel_x * g.channels
    for group in range(g.feature_groups):
        w = group * g.kernel_y * length * g.feature_lanes
        _sums(current, g.first + group * g.feature_lanes, g.row, g.features,
              min(g.features - group * g.feature_lanes, g.feature_lanes), padded, 0, g.in_row, g.stride_y * g.in_row,
              g.stride_x * g.channels, dense, w, g.kernel_y, length, g.out_height, g.out_width, g.feature_lanes,
              g.stride_y == 1)  # fmt: skip


@njit(nogil=True, inline="always")
def outer_dense(padded, delta, dense, shape):  # type: ignore[no-untyped-def]
    """Add a frame's gradient of the weights to ``dense``, of all its numbers. Shapes (in_size,), (size,)."""
    g = shape
    apart, line = g.stride_x * g.channels, g.stride_y * g.in_row
    at = 0
    for group in range(g.feature_groups):
        start = g.first + group * g.feature_lanes
        for ky in range(g.kernel_y):
            first = ky * g.in_row
            for q in range(0, g.dense_length, v.NUMBERS):
                if g.feature_lanes * dense.itemsize == 64:
                    v.outer(dense, at, padded, first + q, line, apart, delta, start, g.row, g.features, g.out_height,
                            g.out_width)  # fmt: skip
                else:
                    v.half_outer(dense, at, padded, first + q, line, apart, delta, start, g.row, g.features,
                                 g.out_height, g.out_width)  # fmt: skip
                at += v.NUMBERS * g.feature_lanes


@njit(nogil=True, inline="always")
def sum_back(delta, groups, out, shape, pixels):  # type: ignore[no-untyped-def]
    """The gradient of a frame. Shapes (size,), (H W C,)."""
    g = shape
    line = g.width * g.channels
    for phase_y in range(g.stride_y):
        y = (phase_y - g.padding_y) % g.stride_y
        for phase_x in range(g.stride_x):
            x = (phase_x - g.padding_x) % g.stride_x
            high, wide = (g.height - y + g.stride_y - 1) // g.stride_y, (g.width - x + g.stride_x - 1) // g.stride_x
            if high == 0 or wide == 0:
                continue
            w = (phase_y * g.stride_x + phase_x) * g.channel_groups * g.rows * g.length * g.lanes
            pixel = (y * g.width + x) * g.channels
            for group in range(g.channel_groups):
                _sums(out, pixel + group * g.lanes, g.stride_y * line, g.stride_x * g.channels,
                      min(g.channels - group * g.lanes, g.lanes), delta, pixels.at[pixel], g.row, g.row, g.features,
                      groups, w, g.rows, g.length, high, wide, g.lanes, True)  # fmt: skip
                w += g.rows * g.length * g.lanes


@njit(nogil=True)
def _sums(  # type: ignore[no-untyped-def]
    into, at, line, step, channels, source, first, row, next_row, apart, weight, w, rows, length, height, width, lanes,
    share,
):  # fmt: skip
    """Sums over the windows of ``height`` rows of ``width`` pixels, two rows at a time where they ``share`` rows."""
    block, least = 1, 1 << 60
    for size in (8, 6, 4):
        computed = (width + size - 1) // size * size
        if size <= width and computed < least:
            block, least = size, computed
    half = lanes * into.itemsize < 64
    y = 0
    while y < height:
        two = share and y + 1 < height
        done = 0
        while done < width:
            i = min(done, width - block)  # the last block may overlap the one before
            a, b = at + y * line + i * step, first + y * next_row + i * apart
            if two and half:
                if block == 8:
                    v.half_two_8(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                elif block == 6:
                    v.half_two_6(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                elif block == 4:
                    v.half_two_4(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                else:
                    v.half_two_1(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
            elif two:
                if block == 8:
                    v.two_8(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                elif block == 6:
                    v.two_6(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                elif block == 4:
                    v.two_4(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                else:
                    v.two_1(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
            elif half:
                if block == 8:
                    v.half_8(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                elif block == 6:
                    v.half_6(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                elif block == 4:
                    v.half_4(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
                else:
                    v.half_1(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
            elif block == 8:
                v.sum_8(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
            elif block == 6:
                v.sum_6(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
            elif block == 4:
                v.sum_4(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
            else:
                v.sum_1(into, a, line, step, channels, source, b, row, apart, weight, w, rows, length)
            done = i + block
        y += 2 if two else 1
