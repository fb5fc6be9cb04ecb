"""One layer: its input events through its neurons, and the events that these fire."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from cil_spl.base.bits import bits, lowest_bit
from cil_spl.chip.kernels.chance import shuffle
from cil_spl.chip.kernels.events import event, grown, neuron_of, no_events, time_of
from cil_spl.chip.kernels.tables import ANY, CLOSE, NARROW, RECIPROCAL_BITS, SHAPES, SLACK, WIDE
from cil_spl.chip.kernels.vectors import (
    Bounds,
    Masks,
    Window,
    apart,
    borrowed,
    exact,
    fixed,
    resident,
    wide,
)

MASKS = 512  # masks that are set aside, at least
SELDOM = 6  # input events for one mask, from which it pays to ask after each whether any neuron fired

_1, _2, _4 = np.uint64(1), np.uint64(2), np.uint64(4)


@njit(nogil=True, forceinline=True)
def states(size):  # type: ignore[no-untyped-def]
    """States at rest, from a cache line's beginning on, and what the last window may touch after them."""
    space = np.zeros(size + SLACK + 32, np.int16)
    first = (-space.ctypes.data % 64) // 2
    return space[first : first + size + SLACK]


@njit(nogil=True, forceinline=True)
def masks_of(layer):  # type: ignore[no-untyped-def]
    """How many masks one event can add."""
    return layer.rows * ((layer.lanes + NARROW - 1) // NARROW)


@njit(nogil=True, forceinline=True)
def no_masks(layers):  # type: ignore[no-untyped-def]
    """Room for the masks of at least one event, and of some hundred small ones."""
    most = 0
    for k in range(len(layers)):
        most = max(most, masks_of(layers[k]))
    return Masks(np.zeros(2 * (most + MASKS), np.int64), np.zeros(1, np.int64))


@njit(nogil=True, forceinline=True)
def additions(tables, e, neuron):  # type: ignore[no-untyped-def]
    """How many neurons a source's event reaches over edge ``e``; 0 for one that pooling or the kernel drops."""
    edge = tables.edges[e]
    place = (neuron * edge.reciprocal) >> RECIPROCAL_BITS
    c = neuron - place * edge.features + edge.shift
    if c < 0 or c >= edge.channels:
        return np.int64(0)
    return np.int64(tables.pixels[edge.pixels + place].adds)


class Path(NamedTuple):
    """An edge and the windows of the layer at its end, as numbers: a loop that writes would read them from tables again
    and again."""

    pixels: int
    features: int
    reciprocal: int
    shift: int
    channels: int
    weights: int
    channel: int
    row: int
    lead: int


@njit(nogil=True, forceinline=True)
def path_of(edge, layer):  # type: ignore[no-untyped-def]
    return Path(
        edge.pixels, edge.features, edge.reciprocal, edge.shift, np.uint64(edge.channels), layer.weights, layer.channel,
        layer.row, layer.lead,
    )  # fmt: skip


@njit(nogil=True, forceinline=True)
def located(source, pixels, path):  # type: ignore[no-untyped-def]
    """Where a source's event finds its window.

    Returns:
        additions, -1 for an event that the layer does not take; the window's first membrane, and its first weight.
    """
    place = (source * path.reciprocal) >> RECIPROCAL_BITS
    c = source - place * path.features + path.shift
    pixel = pixels[np.uint64(path.pixels + place)]  # numba looks whether other indices are negative
    reaches = np.uint64(c) < path.channels  # one comparison, as a negative number is large
    adds = np.int64(pixel.adds) if reaches else np.int64(-1)
    return adds, np.int64(pixel.first), path.weights + c * path.channel + np.int64(pixel.weight)


def _loop(rows: int, lanes: int, seldom: bool = False, widest: int = WIDE) -> Any:
    """Input events ``first`` to ``stop`` of a layer that has such windows: words of masks, additions. One loop for each
    shape, as there is nothing left to ask within it; it is given the few arrays that it takes, as numba counts the
    references to each."""
    one = fixed(rows, lanes, seldom, widest)

    @njit(nogil=True, forceinline=True)
    def loop(events, first, stop, pixels, weight, path, bounds, v, state, pairs):  # type: ignore[no-untyped-def]
        adds = m = 0
        for i in range(np.uint64(first), np.uint64(stop)):
            word = events[i]
            source = neuron_of(word)
            more, at, w = located(source, pixels, path)
            if more < 0:
                continue
            adds += more
            m = one(v, weight, state + at, w, path.row, path.lead, bounds, pairs, word - source + at, m)
        return m, adds

    return loop


def _resident_loop(lanes: int) -> Any:
    """As :func:`_loop`, of a layer that is one window of one row: its states stay in a register."""
    taken, one, kept = resident(lanes)

    @njit(nogil=True, forceinline=True)
    def loop(events, first, stop, pixels, weight, path, bounds, v, state, pairs):  # type: ignore[no-untyped-def]
        adds = m = 0
        states = taken(v, state)
        for i in range(np.uint64(first), np.uint64(stop)):
            word = events[i]
            source = neuron_of(word)
            more, _, w = located(source, pixels, path)
            if more < 0:
                continue
            adds += more
            states, m = one(states, weight, w, bounds, pairs, word - source, m)
        kept(states, v, state)
        return m, adds

    return loop


@njit(nogil=True, forceinline=True)
def _loop_any(events, first, stop, tables, path, layer, bounds, v, state, masks):  # type: ignore[no-untyped-def]
    """As :func:`_loop`, for any window, and for layers that take the exact step."""
    adds = m = 0
    pixels, weight, threshold, is_exact, own = tables.pixels, tables.weight, tables.threshold, layer.exact, layer.state
    window = Window(layer.row, layer.lead, layer.rows, layer.lanes)
    for i in range(np.uint64(first), np.uint64(stop)):
        word = events[i]
        source = neuron_of(word)
        more, at, w = located(source, pixels, path)
        if more < 0:
            continue
        adds += more
        neuron = word - source + at
        if is_exact:
            m = exact(v, weight, threshold, own - state, state + at, w, window, bounds, masks, neuron, m)
        else:
            m = wide(v, weight, threshold, own - state, state + at, w, window, bounds, masks, neuron, m)
    return m, adds


_often_0, _often_1, _often_2, _often_3, _often_4, _often_5, _often_6, _often_7 = (_loop(*shape) for shape in SHAPES)
_seldom_0, _seldom_1, _seldom_2, _seldom_3, _seldom_4, _seldom_5, _seldom_6, _seldom_7 = (
    _loop(*shape, seldom=True) for shape in SHAPES
)
_close = _loop(2, 32, widest=16)
_of_one_window = _resident_loop(16)


@njit(nogil=True, forceinline=True)
def step(events, first, stop, tables, e, v, state, masks, few):  # type: ignore[no-untyped-def]
    """Input events ``first`` to ``stop`` of edge ``e``'s layer, or as many as ``masks`` has room for; its membranes lie
    from ``v[state]`` on. With ``few``, the processor should expect that no neuron fires.

    Returns:
        the next input event, how many ``masks`` are filled, additions.
    """
    edge = tables.edges[e]
    layer = tables.layers[edge.target]
    bounds = Bounds(np.int16(layer.low), np.int16(layer.threshold), np.int16(layer.keep))
    path, pixels, weight, pairs, shape = path_of(edge, layer), tables.pixels, tables.weight, masks.pairs, layer.shape
    if stop - first > 1:  # a division takes as long as half an event
        stop = min(stop, first + (len(pairs) // 2) // masks_of(layer))
    if layer.exact or shape == ANY:
        m, adds = _loop_any(events, first, stop, tables, path, layer, bounds, v, state, masks)
    elif layer.resident:
        m, adds = _of_one_window(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == CLOSE:
        m, adds = _close(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == 0:
        if few:
            m, adds = _seldom_0(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_0(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == 1:
        if few:
            m, adds = _seldom_1(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_1(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == 2:
        if few:
            m, adds = _seldom_2(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_2(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == 3:
        if few:
            m, adds = _seldom_3(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_3(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == 4:
        if few:
            m, adds = _seldom_4(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_4(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == 5:
        if few:
            m, adds = _seldom_5(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_5(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    elif shape == 6:
        if few:
            m, adds = _seldom_6(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_6(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    else:
        if few:
            m, adds = _seldom_7(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
        else:
            m, adds = _often_7(events, first, stop, pixels, weight, path, bounds, v, state, pairs)
    return stop, m // 2, adds


@njit(nogil=True, forceinline=True)
def emit(masks, m, tables, k, out, n):  # type: ignore[no-untyped-def]
    """The events of layer ``k`` that ``m`` masks stand for, in order, appended to ``out`` at ``n``; the new ``n``."""
    n, lane, pairs = np.uint64(n), tables.lane, masks.pairs
    base = np.uint64(64 * k)
    for i in range(np.uint64(m)):
        fired, first = np.uint64(pairs[_2 * i]), pairs[_2 * i + _1]
        stop = n + np.uint64(bits(fired))
        # Four before the first look, for the branch predictor; what is too much is overwritten.
        for j in range(np.uint64(4)):
            out[n + j] = first + lane[base + np.uint64(lowest_bit(fired))]
            fired &= fired - _1
        if fired != 0:
            n += _4
            while n < stop:
                out[n] = first + lane[base + np.uint64(lowest_bit(fired))]
                fired &= fired - _1
                n += _1
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
    numbered = no_events(len(masks.pairs) if in_random_order else 0)
    while first < stop:
        while n + _most(masks) > len(out):
            out = grown(out, n)
        first, n, more = _while_there_is_room(
            borrowed(events), first, stop, tables, e, v, masks, borrowed(out), n, borrowed(numbered), random
        )
        adds += more
    return out, n, adds, masks.saturations[0]


@njit(nogil=True, forceinline=True)
def _most(masks):  # type: ignore[no-untyped-def]
    """How many events are written at once, at most."""
    return 32 * len(masks.pairs) + 4


@njit(nogil=True, forceinline=False)
def _while_there_is_room(events, first, stop, tables, e, v, masks, out, n, numbered, random):  # type: ignore[no-untyped-def]
    """As :func:`through`, as far as ``out`` has room; the next input event, ``n``, additions. Where ``numbered`` has
    room, the order is random."""
    apart()
    adds = 0
    few = False
    while first < stop and n + _most(masks) <= len(out):
        given, begin, end = events, first, stop
        if len(numbered) > 0:
            given, begin, end = numbered, 0, _number(events, first, stop, numbered)
        done, m, more = step(given, begin, end, tables, e, v, 0, masks, few)
        after = first + done - begin
        few = SELDOM * m < after - first
        adds += more
        before = n
        n = emit(masks, m, tables, tables.edges[e].target, out, n)
        if len(numbered) > 0:
            _shuffle_each(events, first, out, before, n, random)
        first = after
    return first, n, adds


@njit(nogil=True, forceinline=True)
def _number(events, first, stop, numbered):  # type: ignore[no-untyped-def]
    """Events ``first`` to ``stop``, or fewer, with a number in the place of the time: what each of them fires, it alone
    has fired. How many."""
    n = min(stop - first, len(numbered))
    for i in range(n):
        numbered[i] = event(neuron_of(events[first + i]), i)
    return n


@njit(nogil=True, forceinline=True)
def _shuffle_each(events, first, out, begin, stop, random):  # type: ignore[no-untyped-def]
    """Put what each event fired, ``out[begin:stop]``, in a random order, and its time in the place of its number."""
    while begin < stop:
        number, end = time_of(out[begin]), begin + 1
        while end < stop and time_of(out[end]) == number:
            end += 1
        shuffle(out, begin, end, random)
        time = time_of(events[first + number])
        for j in range(begin, end):
            out[j] = event(neuron_of(out[j]), time)
        begin = end
