"""One layer: its input events through its neurons, and the events that these fire."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from cil_spl.chip.kernels.chance import shuffle
from cil_spl.chip.kernels.tables import NARROW, RECIPROCAL_BITS, SLACK, WIDE
from cil_spl.chip.kernels.vectors import Bounds, Masks, Window, bits, exact, lowest_bit, narrow, wide

MASKS = 512  # words of mask that are set aside, at least

_1, _2 = np.uint64(1), np.uint64(2)


class Events(NamedTuple):
    """Events of one source, in order: number of the neuron and time in microseconds, int32."""

    neuron: np.ndarray
    time: np.ndarray


@njit(nogil=True, forceinline=True)
def no_events(room):  # type: ignore[no-untyped-def]
    """Room for so many events."""
    return Events(np.empty(room, np.int32), np.empty(room, np.int32))


@njit(nogil=True, forceinline=True)
def grown(array, n):  # type: ignore[no-untyped-def]
    """A larger array with the same first ``n`` entries."""
    new = np.empty(2 * len(array), array.dtype)
    new[:n] = array[:n]
    return new


@njit(nogil=True, forceinline=True)
def more_room(events, n):  # type: ignore[no-untyped-def]
    """The first ``n`` of the events, with room for twice as many as before."""
    return Events(grown(events.neuron, n), grown(events.time, n))


@njit(nogil=True, forceinline=True)
def states(size):  # type: ignore[no-untyped-def]
    """States at rest, from a cache line's beginning on, and what the last window may touch after them."""
    space = np.zeros(size + SLACK + 32, np.int16)
    first = (-space.ctypes.data % 64) // 2
    return space[first : first + size + SLACK]


@njit(nogil=True, forceinline=True)
def no_masks(layers):  # type: ignore[no-untyped-def]
    """Room for the masks of at least one event, and of some hundred small ones."""
    words = 0
    for k in range(len(layers)):
        words = max(words, layers[k].rows * (layers[k].lanes // NARROW))
    words += MASKS
    return Masks(np.zeros(words, np.uint64), np.zeros(words, np.int64), np.zeros(1, np.int64))


@njit(nogil=True, forceinline=True)
def additions(tables, e, neuron):  # type: ignore[no-untyped-def]
    """How many neurons a source's event reaches over edge ``e``; 0 for one that pooling or the kernel drops."""
    edge = tables.edges[e]
    place = (neuron * edge.reciprocal) >> RECIPROCAL_BITS
    c = neuron - place * edge.features + edge.shift
    if c < 0 or c >= edge.channels:
        return np.int64(0)
    return np.int64(tables.pixels[edge.pixels + place].adds)


@njit(nogil=True, forceinline=True)
def step(events, first, stop, tables, e, v, state, masks):  # type: ignore[no-untyped-def]
    """Input events ``first`` to ``stop`` of edge ``e``'s layer, or fewer if ``masks`` is full; its membranes lie from
    ``v[state]`` on.

    Returns:
        the next input event, how many words of ``masks`` are filled, additions.
    """
    edge = tables.edges[e]
    layer = tables.layers[edge.target]
    first_pixel, features, reciprocal = edge.pixels, edge.features, edge.reciprocal
    shift, channels = edge.shift, edge.channels
    own, row, channel, weights, lead = layer.state, layer.row, layer.channel, layer.weights, layer.lead
    rows, lanes, is_exact = layer.rows, layer.lanes, layer.exact
    bounds = Bounds(np.int16(layer.low), np.int16(layer.threshold), np.int16(layer.keep))
    full = len(masks.mask) - rows * (lanes // NARROW)
    adds = m = 0
    for i in range(first, stop):
        if m > full:
            return i, m, adds
        source = np.int64(events.neuron[np.uint64(i)])  # numba looks whether other indices are negative
        place = (source * reciprocal) >> RECIPROCAL_BITS
        c = source - place * features + shift
        pixel = tables.pixels[np.uint64(first_pixel + place)]
        reached = np.int64(pixel.adds)
        if reached == 0 or c < 0 or c >= channels:
            continue
        adds += reached
        at, w = np.int64(pixel.first), weights + c * channel + np.int64(pixel.weight)
        t = np.int64(events.time[np.uint64(i)]) << 32
        window = Window(row, lead, rows, lanes)
        if is_exact:
            m = exact(v, state, tables, own, at, w, window, bounds, masks, t, m)
        elif lanes == NARROW:  # rows that are written as numbers become straight code
            if rows == 3:
                window = Window(row, lead, 3, 32)
                m = narrow(v, state, tables, own, at, w, window, bounds, masks, t, m)
            elif rows == 2:
                window = Window(row, lead, 2, 32)
                m = narrow(v, state, tables, own, at, w, window, bounds, masks, t, m)
            else:
                window = Window(row, lead, 1, 32)
                m = narrow(v, state, tables, own, at, w, window, bounds, masks, t, m)
        elif lanes == WIDE and rows == 3:
            window = Window(row, lead, 3, 64)
            m = wide(v, state, tables, own, at, w, window, bounds, masks, t, m)
        elif lanes == WIDE and rows == 2:
            window = Window(row, lead, 2, 64)
            m = wide(v, state, tables, own, at, w, window, bounds, masks, t, m)
        elif lanes == 192 and rows == 3:
            window = Window(row, lead, 3, 192)
            m = wide(v, state, tables, own, at, w, window, bounds, masks, t, m)
        elif lanes == 128 and rows == 2:
            window = Window(row, lead, 2, 128)
            m = wide(v, state, tables, own, at, w, window, bounds, masks, t, m)
        else:
            m = wide(v, state, tables, own, at, w, window, bounds, masks, t, m)
    return stop, m, adds


@njit(nogil=True, forceinline=True)
def emit(masks, m, out, n):  # type: ignore[no-untyped-def]
    """The neurons of ``m`` masks, in order, appended to the events ``out`` at ``n``; the new ``n``."""
    n = np.uint64(n)
    for k in range(np.uint64(m)):
        fired, first, t = masks.mask[k], masks.tag[k] & 0xFFFFFFFF, masks.tag[k] >> 32
        stop = n + np.uint64(bits(fired))
        while n < stop:  # two at a time, for the branch predictor; what is too much is overwritten
            out.neuron[n], out.time[n] = first + lowest_bit(fired), t
            fired &= fired - _1
            out.neuron[n + _1], out.time[n + _1] = first + lowest_bit(fired), t
            fired &= fired - _1
            n += _2
        n = stop
    return np.int64(n)


@njit(nogil=True, forceinline=True)
def through(events, first, stop, tables, e, v, masks, out, n, in_random_order, random):  # type: ignore[no-untyped-def]
    """Input events ``first`` to ``stop`` of edge ``e``'s layer, whose membranes are ``v``; what it fires is appended to
    ``out`` at ``n``.

    Returns:
        ``out``, a larger one if room ran out, ``n``, additions, saturations.
    """
    adds = masks.saturations[0] = 0
    while first < stop:
        until = first + 1 if in_random_order else stop
        first, m, more = step(events, first, until, tables, e, v, 0, masks)
        adds += more
        while n + 64 * m + 4 > len(out.neuron):
            out = more_room(out, n)
        before = n
        n = emit(masks, m, out, n)
        if in_random_order:
            shuffle(out.neuron, before, n, random)
    return out, n, adds, masks.saturations[0]
