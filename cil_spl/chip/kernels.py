"""The compiled inner loops of the simulator.

Membranes lie features innermost (y, x, feature), features padded to a multiple of eight. Every event of a layer is
handled alike: a window of as many rows and columns as an event can reach, a row of it being one contiguous run of
membranes and one of weights, which are zero where the kernel does not reach. A zero changes no state that is below its
threshold, so that nothing depends on the event but addresses: no branch that a processor could predict wrongly.

The step itself is written in LLVM's vector types, 64 neurons at a time, which any processor has: numba keeps its
wrap-around checks on indexed arrays, counts references to them and finds no mask of the neurons that fired. The masks
of some hundred events are set aside and turned into events in a loop of their own.

Neurons that may leave 16 bits, still be above their threshold, or have one of their own take the exact step. It tells
apart the weight that is zero and the one that does not exist, and counts saturations.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Columns of the table of layers. ROWS and LANES are the window: rows, and membranes of a row, padded to 32 or to a
# multiple of 64; STEP leads from the weights of a row to those of the next.
STATE, SIZE, ROW, LOW, THRESHOLD, KEEP, WEIGHTS, CHANNEL, ROWS, LANES, STEP, EXACT = range(12)
LAYER_COLUMNS = 12
# Columns of the table of edges: an edge is what lies between a source's events and the weights of a layer.
TARGET, TABLE, SOURCE_FEATURES, RECIPROCAL, SHIFT, CHANNELS = range(6)
EDGE_COLUMNS = 6
# Columns of the table of pixels, one row for each source pixel of an edge; ADDS is 0 where an event is dropped.
FIRST, WEIGHT, ADDS = range(3)
PIXEL_COLUMNS = 3

RECIPROCAL_BITS = 40
# What a die draws by chance for each recording and layer (see chip/die.py).
LOST, JITTER, REORDER, DECIMATE = range(4)
CHANCES = 4
# Columns of the queue of events that are under way.
TIME, NUMBER, EDGE, NEURON, STAGE = range(5)
QUEUE_COLUMNS = 5
# Where an event is: sent by its source, at the core's input, or next in the core.
SENT, ARRIVED, NEXT = range(3)
FOREVER = 1 << 62
LAST_US = np.int64(2**31 - 1)  # times are told in 32 bits

TOP, BOTTOM = 32767, -32768
NARROW, WIDE = 32, 64  # lanes of a vector
NOWHERE = 1 << 14  # in the exact tables, the weight of a neuron that the kernel does not reach
NEVER = 1 << 15  # a threshold that no state reaches
SLACK = 64  # states behind those of a layer: its windows are padded
MASKS = 512  # words of mask that are set aside, at least

_1, _2 = np.uint64(1), np.uint64(2)
_FIRST, _WEIGHT, _ADDS = np.uint64(FIRST), np.uint64(WEIGHT), np.uint64(ADDS)
_word, _half = ir.IntType(64), ir.IntType(16)


class _Vectors:
    """Vectors of 16-bit numbers while LLVM's instructions are put together."""

    def __init__(self, context: Any, builder: Any, lanes: int) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.type = ir.VectorType(_half, lanes)

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def pointer(self, array: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(array, [index]), self.type.as_pointer())

    def mask(self, condition: Any) -> Any:
        """The condition's lanes as bits of a 64-bit word."""
        bits = self.builder.bitcast(condition, ir.IntType(self.lanes))
        return bits if self.lanes == 64 else self.builder.zext(bits, _word)

    def step(self, v: Any, w: Any, low: Any, threshold: Any) -> Any:
        """Add, clip from below, compare, subtract and store; the condition that a neuron fired."""
        builder = self.builder
        state = builder.add(builder.load(v, align=2), builder.load(w, align=2))
        state = builder.select(builder.icmp_signed(">", state, low), state, low)
        fired = builder.icmp_signed(">=", state, threshold)
        state = builder.select(fired, builder.sub(state, threshold), state)
        builder.store(state, v, align=2)
        return fired

    def exact_step(self, v: Any, w: Any, low: Any, threshold: Any, keep: Any) -> tuple[Any, Any]:
        """As :meth:`step`; the conditions that a neuron fired and that its sum left 16 bits.

        The thresholds are read as unsigned numbers: 0 is reached by every state, ``NEVER`` by none.
        """
        builder = self.builder
        name, kind = f"llvm.sadd.sat.v{self.lanes}i16", ir.FunctionType(self.type, [self.type, self.type])
        saturating = cgutils.get_or_insert_function(builder.module, kind, name)
        old, weight, zero = builder.load(v, align=2), builder.load(w, align=2), self.splat(_half(0))
        threshold = builder.load(threshold, align=2)
        reached = builder.icmp_signed("!=", weight, self.splat(_half(NOWHERE)))
        state = builder.call(saturating, [old, weight])
        saturated = builder.and_(builder.icmp_signed("!=", state, builder.add(old, weight)), reached)
        state = builder.select(builder.icmp_signed(">", state, low), state, low)
        positive = builder.select(builder.icmp_signed(">", state, zero), state, zero)
        fired = builder.and_(builder.icmp_unsigned(">=", positive, threshold), reached)
        state = builder.select(fired, builder.and_(builder.sub(state, threshold), keep), state)
        builder.store(builder.select(reached, state, old), v, align=2)
        return fired, saturated


def _event(lanes: int, exact: bool) -> Any:
    """The step of one input event, in vectors of so many lanes.

    ``rows`` x ``width`` membranes from ``v[state + at]`` on, a row every ``row``, take the weights from ``w[j]`` on, a
    row every ``step``; thresholds of their own lie from ``threshold[state + at]`` on. A mask that is not zero is
    appended to ``mask`` at ``m``, and to ``tag`` the ``time`` (upper half) and number of its first neuron, less
    ``state``. Returns the new ``m``.
    """

    @intrinsic
    def event(  # type: ignore[no-untyped-def]
        typing_context,
        v,
        state,
        at,
        row,
        w,
        j,
        step,
        rows,
        width,
        low,
        threshold,
        keep,
        saturations,
        time,
        mask,
        tag,
        m,
    ):
        half, integer = types.int16, types.intp
        one_or_each = threshold if exact else half
        signature = types.intp(
            v, integer, integer, integer, w, integer, integer, integer, integer, half, one_or_each, half, saturations,
            types.int64, mask, tag, integer,
        )  # fmt: skip

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            def data(i):  # type: ignore[no-untyped-def]
                is_array = isinstance(signature.args[i], types.Array)
                return context.make_array(signature.args[i])(context, builder, args[i]).data if is_array else args[i]

            v, state, at, row, w, j, step, rows, width, low, threshold, keep, saturations, time, mask, tag, m = map(
                data, range(len(args))
            )
            vectors = _Vectors(context, builder, lanes)
            low, keep, v = vectors.splat(low), vectors.splat(keep), builder.gep(v, [state])
            threshold = builder.gep(threshold, [state]) if exact else vectors.splat(threshold)
            filled = cgutils.alloca_once_value(builder, m)
            many = builder.sdiv(width, ir.Constant(width.type, lanes))
            with cgutils.for_range(builder, rows) as y, cgutils.for_range(builder, many) as x:
                shift = builder.mul(x.index, ir.Constant(width.type, lanes))
                neuron = builder.add(builder.add(at, builder.mul(y.index, row)), shift)
                weight = builder.add(builder.add(j, builder.mul(y.index, step)), shift)
                voltage, weight = vectors.pointer(v, neuron), vectors.pointer(w, weight)
                if exact:
                    own = vectors.pointer(threshold, neuron)
                    fired, saturated = vectors.exact_step(voltage, weight, low, own, keep)
                    more = builder.ctpop(vectors.mask(saturated))
                    builder.store(builder.add(builder.load(saturations), more), saturations)
                else:
                    fired = vectors.step(voltage, weight, low, threshold)
                fired, n = vectors.mask(fired), builder.load(filled)
                builder.store(fired, builder.gep(mask, [n]))
                builder.store(builder.or_(time, neuron), builder.gep(tag, [n]))
                some = builder.zext(builder.icmp_unsigned("!=", fired, _word(0)), n.type)
                builder.store(builder.add(n, some), filled)
            return builder.load(filled)

        return signature, generate

    return event


_narrow, _wide, _exact = _event(NARROW, False), _event(WIDE, False), _event(NARROW, True)


@intrinsic
def _lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """Number of the lowest bit of a mask, 64 if it is zero."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(types.uint64), generate


@intrinsic
def _bits(typing_context, mask):  # type: ignore[no-untyped-def]
    """How many bits of a mask are set."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.intp(types.uint64), generate


@intrinsic
def _next(typing_context, counter):  # type: ignore[no-untyped-def]
    """counter[0] before it is raised by one, safe between threads."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


@njit(nogil=True, cache=True)
def _draw(random, at):  # type: ignore[no-untyped-def]
    """The next 64 random bits (splitmix64, Steele et al. 2014); ``random[at]`` is the state, uint64."""
    random[at] += np.uint64(0x9E3779B97F4A7C15)
    z = random[at]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def _below(random, at, n):  # type: ignore[no-untyped-def]
    """A random whole number from 0 to n - 1."""
    return np.int64((_draw(random, at) >> np.uint64(32)) * np.uint64(n) >> np.uint64(32))


@njit(nogil=True, cache=True)
def _shuffle(neuron, first, stop, random):  # type: ignore[no-untyped-def]
    for i in range(stop - 1, first, -1):
        j = first + _below(random, 0, i - first + 1)
        neuron[i], neuron[j] = neuron[j], neuron[i]


@njit(nogil=True, cache=True)
def _uniform(random, at):  # type: ignore[no-untyped-def]
    """A random number from [0, 1)."""
    return np.float64(_draw(random, at) >> np.uint64(11)) * 2.0**-53


@njit(nogil=True, cache=True)
def _begin(chance, phase, seed, decimate, identity):  # type: ignore[no-untyped-def]
    """A stream of its own for each die, effect, layer and recording, ``chance[effect * L + layer]``; decimators by
    chance."""
    n_layers = len(phase)
    for k in range(n_layers):
        for effect in range(CHANCES):
            at = effect * n_layers + k
            chance[at] = identity
            chance[at] = _draw(chance, at) ^ np.uint64(seed)
            chance[at] = _draw(chance, at) ^ np.uint64(effect)
            chance[at] = _draw(chance, at) ^ np.uint64(k)
            _draw(chance, at)
        phase[k] = _below(chance, DECIMATE * n_layers + k, decimate[k])


@njit(nogil=True, cache=True)
def _identity(neuron, time, n):  # type: ignore[no-untyped-def]
    """A number made of a recording's events, so that chance does not depend on its place in a batch."""
    h = np.uint64(14695981039346656037)
    for i in range(n):
        h = (h ^ np.uint64(neuron[i])) * np.uint64(1099511628211)
        h = (h ^ np.uint64(time[i])) * np.uint64(1099511628211)
    return h


@njit(nogil=True, cache=True)
def _grown(array, n):  # type: ignore[no-untyped-def]
    """A larger array with the same first ``n`` entries."""
    new = np.empty(2 * len(array), array.dtype)
    new[:n] = array[:n]
    return new


@njit(nogil=True, cache=True)
def _states(size):  # type: ignore[no-untyped-def]
    """States at rest, from a cache line's beginning on, and what the last window may touch behind them."""
    space = np.zeros(size + SLACK + 32, np.int16)
    first = (-space.ctypes.data % 64) // 2
    return space[first : first + size + SLACK]


@njit(nogil=True, cache=True)
def _masks(layers):  # type: ignore[no-untyped-def]
    """Room for the masks of at least one event, and of some hundred small ones."""
    return np.zeros(MASKS + np.max(layers[:, ROWS] * (layers[:, LANES] // NARROW)), np.uint64)


@njit(nogil=True, cache=True)
def _step(  # type: ignore[no-untyped-def]
    neuron_in, time_in, first, stop, edges, e, pixel, layers, weight, v, threshold, state, mask, tag, saturations
):  # fmt: skip
    """Input events ``first`` to ``stop`` of edge ``e``'s layer, or fewer if ``mask`` is full; its membranes and
    thresholds lie from ``state`` on.

    No array is made or bound anew here: numba would count its references, atomically, at every event.

    Returns:
        the next input event, how many words of ``mask`` and ``tag`` are filled, additions.
    """
    table, features, reciprocal = edges[e, TABLE], edges[e, SOURCE_FEATURES], edges[e, RECIPROCAL]
    shift, channels, k = edges[e, SHIFT], edges[e, CHANNELS], edges[e, TARGET]
    row, channel, weights, step = layers[k, ROW], layers[k, CHANNEL], layers[k, WEIGHTS], layers[k, STEP]
    rows, lanes, exact = layers[k, ROWS], layers[k, LANES], layers[k, EXACT]
    low, one, keep = np.int16(layers[k, LOW]), np.int16(layers[k, THRESHOLD]), np.int16(layers[k, KEEP])
    full = len(mask) - rows * (lanes // NARROW)
    adds = m = 0
    for i in range(first, stop):
        if m > full:
            return i, m, adds
        source = np.int64(neuron_in[np.uint64(i)])  # numba looks whether other indices are negative
        place = (source * reciprocal) >> RECIPROCAL_BITS
        c = source - place * features + shift
        p = np.uint64((table + place) * PIXEL_COLUMNS)
        reached = np.int64(pixel[p + _ADDS])
        if reached == 0 or c < 0 or c >= channels:
            continue
        adds += reached
        at, w = np.int64(pixel[p + _FIRST]), weights + c * channel + np.int64(pixel[p + _WEIGHT])
        t = np.int64(time_in[np.uint64(i)]) << 32
        if exact:
            m = _exact(
                v, state, at, row, weight, w, step, rows, lanes, low, threshold, keep, saturations, t, mask, tag, m
            )
        elif lanes == NARROW:  # rows that are written as numbers become straight code
            if rows == 3:
                m = _narrow(v, state, at, row, weight, w, step, 3, 32, low, one, keep, saturations, t, mask, tag, m)
            elif rows == 2:
                m = _narrow(v, state, at, row, weight, w, step, 2, 32, low, one, keep, saturations, t, mask, tag, m)
            else:
                m = _narrow(v, state, at, row, weight, w, step, 1, 32, low, one, keep, saturations, t, mask, tag, m)
        elif lanes == WIDE and rows == 3:
            m = _wide(v, state, at, row, weight, w, step, 3, 64, low, one, keep, saturations, t, mask, tag, m)
        elif lanes == WIDE and rows == 2:
            m = _wide(v, state, at, row, weight, w, step, 2, 64, low, one, keep, saturations, t, mask, tag, m)
        elif lanes == 192 and rows == 3:
            m = _wide(v, state, at, row, weight, w, step, 3, 192, low, one, keep, saturations, t, mask, tag, m)
        elif lanes == 128 and rows == 2:
            m = _wide(v, state, at, row, weight, w, step, 2, 128, low, one, keep, saturations, t, mask, tag, m)
        else:
            m = _wide(v, state, at, row, weight, w, step, rows, lanes, low, one, keep, saturations, t, mask, tag, m)
    return stop, m, adds


@njit(nogil=True, cache=True)
def _emit(mask, tag, m, neuron, time, n):  # type: ignore[no-untyped-def]
    """The neurons of ``m`` masks, in order, appended to ``neuron`` and ``time`` at ``n``; the new ``n``."""
    n = np.uint64(n)
    for k in range(np.uint64(m)):
        fired, first, t = mask[k], tag[k] & 0xFFFFFFFF, tag[k] >> 32
        stop = n + np.uint64(_bits(fired))
        while n < stop:  # two at a time, for the branch predictor; what is too much is overwritten
            neuron[n], time[n] = first + _lowest_bit(fired), t
            fired &= fired - _1
            neuron[n + _1], time[n + _1] = first + _lowest_bit(fired), t
            fired &= fired - _1
            n += _2
        n = stop
    return np.int64(n)


@njit(nogil=True, cache=True)
def _layer(  # type: ignore[no-untyped-def]
    neuron_in, time_in, first, stop, edges, e, pixel, layers, weight, v, threshold, mask, tag, saturations, neuron,
    time, n, shuffle, random,
):  # fmt: skip
    """Input events ``first`` to ``stop`` of edge ``e``'s layer, whose membranes are ``v``; its events are appended to
    ``neuron`` and ``time`` at ``n``.

    Returns:
        ``neuron`` and ``time``, larger ones if room ran out, ``n``, additions, saturations.
    """
    adds = saturations[0] = 0
    while first < stop:
        until = first + 1 if shuffle else stop
        first, m, more = _step(
            neuron_in, time_in, first, until, edges, e, pixel, layers, weight, v, threshold, 0, mask, tag, saturations
        )
        adds += more
        while n + 64 * m + 4 > len(neuron):
            neuron, time = _grown(neuron, n), _grown(time, n)
        before = n
        n = _emit(mask, tag, m, neuron, time, n)
        if shuffle:
            _shuffle(neuron, before, n, random)
    return neuron, time, n, adds, saturations[0]


@njit(nogil=True, cache=True)
def _bin_starts(time, n, edges, starts):  # type: ignore[no-untyped-def]
    """Where each bin's events begin in a sorted list; ``starts`` is [T + 1]."""
    bins = len(starts) - 1
    i = 0
    starts[0] = 0
    for t in range(1, bins):
        while i < n and time[i] < edges[t]:
            i += 1
        starts[t] = i
    starts[bins] = n


@njit(nogil=True, cache=True)
def _sensor(events, first, stop, width, height, channels, neuron, time):  # type: ignore[no-untyped-def]
    """A recording's events as sensor neurons; what lies outside is dropped. -1 if time runs backwards."""
    n = 0
    last = events[first].t if stop > first else 0
    for i in range(first, stop):
        x, y, t = np.int64(events[i].x), np.int64(events[i].y), events[i].t
        p = np.int64(events[i].p) if channels > 1 else 0
        if t < last:
            return -1
        last = t
        if x < 0 or y < 0 or p < 0 or x >= width or y >= height or p >= channels:
            continue
        neuron[n] = (y * width + x) * channels + p
        time[n] = t
        n += 1
    return n


@njit(nogil=True, cache=True)
def _decide(neuron, time, n, class_of, totals, running):  # type: ignore[no-untyped-def]
    """Time from which the class with most events stays the leader; -1 without a strict one."""
    winner = 0
    for k in range(len(totals)):
        if totals[k] > totals[winner]:
            winner = k
    if totals[winner] == 0:
        return np.int64(-1)
    for k in range(len(totals)):
        if k != winner and totals[k] == totals[winner]:
            return np.int64(-1)
    running[:] = 0
    rival = since = np.int64(0)
    leads = False
    for i in range(n):
        k = class_of[neuron[i]]
        if k < 0:
            continue
        running[k] += 1
        if k != winner:
            rival = max(rival, running[k])
        now = running[winner] > rival
        if now and not leads:
            since = np.int64(time[i])
        leads = now
    return since


class EventLists(NamedTuple):
    """What is sent: see :func:`cil_spl.chip.simulator.simulate`."""

    events: np.ndarray
    offsets: np.ndarray
    edges_us: np.ndarray


class Tables(NamedTuple):
    """A network: see :class:`cil_spl.chip.simulator.Program`. ``fan_out`` [L, 2] holds the numbers of the edges behind
    each layer, in order, -1 for none."""

    sensor: np.ndarray
    layers: np.ndarray
    edges: np.ndarray
    fan_out: np.ndarray
    pixel: np.ndarray
    weight: np.ndarray
    threshold: np.ndarray
    class_of: np.ndarray


class Buffers(NamedTuple):
    """What is filled in: see :class:`cil_spl.chip.simulator.ChipAnswer`; a record that was not asked for is empty."""

    counts: np.ndarray
    events_per_layer: np.ndarray
    input_events: np.ndarray
    synops: np.ndarray
    saturations: np.ndarray
    dropped: np.ndarray
    decision_us: np.ndarray
    layer_counts: np.ndarray
    layer_v_mem: np.ndarray
    keep_events: np.ndarray
    event_offsets: np.ndarray
    event_neuron: np.ndarray
    event_time: np.ndarray


class Deviations(NamedTuple):
    """What a die does to events: see :class:`cil_spl.chip.die.Die`. One entry a layer, ``leak`` one a neuron; a rate or
    period of 0 is none, a FIFO of -1 has no end. ``any`` is whether there is anything at all, ``timed`` whether there
    is what moves events or states in time: delays, rates, leaks. Only :func:`depth_first` knows those."""

    any: bool
    timed: bool
    seed: np.uint64
    lost: float
    jitter_ns: float
    reorder_ns: float
    synops_per_second: np.ndarray
    fifo: np.ndarray
    decimate: np.ndarray
    leak: np.ndarray
    period_ns: int


@njit(nogil=True, cache=True)
def _additions(edges, e, pixel, neuron):  # type: ignore[no-untyped-def]
    """How many neurons a source's event reaches over edge ``e``; 0 for one that pooling or the kernel drops."""
    place = (neuron * edges[e, RECIPROCAL]) >> RECIPROCAL_BITS
    c = neuron - place * edges[e, SOURCE_FEATURES] + edges[e, SHIFT]
    if c < 0 or c >= edges[e, CHANNELS]:
        return np.int64(0)
    return np.int64(pixel[(edges[e, TABLE] + place) * PIXEL_COLUMNS + ADDS])


@njit(nogil=True, cache=True)
def _lose(neuron, time, n, edges, e, pixel, lost, chance, at):  # type: ignore[no-untyped-def]
    """Of ``n`` events on their way over edge ``e`` those that are not lost and reach a neuron, in place; how many."""
    kept = 0
    for i in range(n):
        if _additions(edges, e, pixel, np.int64(neuron[i])) > 0 and _uniform(chance, at) >= lost:
            neuron[kept], time[kept] = neuron[i], time[i]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _decimate(neuron, time, n, phase, k, one_in):  # type: ignore[no-untyped-def]
    """Every ``one_in``-th of a layer's events, counted on from ``phase[k]``, in place; how many."""
    passed = 0
    for i in range(n):
        phase[k] += 1
        if phase[k] == one_in:
            phase[k] = 0
            neuron[passed], time[passed] = neuron[i], time[i]
            passed += 1
    return passed


@njit(nogil=True, cache=True)
def chain(counter, recordings, tables, order, answer, die):  # type: ignore[no-untyped-def]
    """Recordings, one after another, until ``counter`` has handed out all; layer by layer.

    In a chain the order of each layer's input is the same layer by layer as depth first, and so is what a die draws
    for it, as long as the die holds nothing up.
    """
    events, offsets, edges_us = recordings.events, recordings.offsets, recordings.edges_us
    sensor, layers, edges, pixel, weight = tables.sensor, tables.layers, tables.edges, tables.pixel, tables.weight
    threshold, class_of = tables.threshold, tables.class_of
    counts, layer_counts, layer_v_mem = answer.counts, answer.layer_counts, answer.layer_v_mem
    n_recordings, bins, n_layers = len(offsets) - 1, edges_us.shape[1] - 1, len(layers)
    with_counts, with_v_mem, shuffle = layer_counts.shape[2] > 0, layer_v_mem.shape[2] > 0, order != 0
    v = _states(np.max(layers[:, SIZE]))
    starts, out_starts = np.zeros(bins + 1, np.int64), np.zeros(bins + 1, np.int64)
    running, random = np.zeros(counts.shape[2], np.int64), np.zeros(1, np.uint64)
    mask, tag, saturations = _masks(layers), _masks(layers).view(np.int64), np.zeros(1, np.int64)
    chance, phase = np.zeros(CHANCES * n_layers, np.uint64), np.zeros(n_layers, np.int64)
    capacity = 4096
    neuron_in, time_in = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    neuron, time = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    while True:
        b = _next(counter)
        if b >= n_recordings:
            return
        while len(neuron_in) < offsets[b + 1] - offsets[b]:
            neuron_in, time_in = _grown(neuron_in, 0), _grown(time_in, 0)
        n_in = _sensor(events, offsets[b], offsets[b + 1], sensor[2], sensor[1], sensor[0], neuron_in, time_in)
        answer.input_events[b] = n_in
        if n_in < 0:
            continue
        random[0] = np.uint64(order)
        if die.any:
            _begin(chance, phase, die.seed, die.decimate, _identity(neuron_in, time_in, n_in))
        _bin_starts(time_in, n_in, edges_us[b], starts)
        for k in range(n_layers):  # edge k leads to layer k
            if die.lost > 0:
                n_in = _lose(neuron_in, time_in, n_in, edges, k, pixel, die.lost, chance, LOST * n_layers + k)
                _bin_starts(time_in, n_in, edges_us[b], starts)
            first, size = layers[k, STATE], layers[k, SIZE]
            v[: size + SLACK] = 0
            n = 0
            parts = bins if with_v_mem else 1
            for t in range(parts):
                begin, end = (starts[t], starts[t + 1]) if with_v_mem else (0, n_in)
                neuron, time, n, adds, saturated = _layer(
                    neuron_in, time_in, begin, end, edges, k, pixel, layers, weight, v, threshold[first:], mask, tag,
                    saturations, neuron, time, n, shuffle, random,
                )  # fmt: skip
                answer.synops[b, k] += adds
                answer.saturations[b, k] += saturated
                if with_v_mem:
                    layer_v_mem[b, t, first : first + size] = v[:size]
            if die.decimate[k] > 1:
                n = _decimate(neuron, time, n, phase, k, die.decimate[k])
            answer.events_per_layer[b, k] = n
            _bin_starts(time, n, edges_us[b], out_starts)
            if with_counts:
                for t in range(bins):
                    for i in range(out_starts[t], out_starts[t + 1]):
                        layer_counts[b, t, first + neuron[i]] += 1
            if answer.keep_events[k]:
                at = answer.event_offsets[b, k]
                answer.event_neuron[at : at + n] = neuron[:n]
                answer.event_time[at : at + n] = time[:n]
            neuron_in, neuron = neuron, neuron_in
            time_in, time = time, time_in
            starts, out_starts = out_starts, starts
            n_in = n
        totals = np.zeros(counts.shape[2], np.int64)
        for t in range(bins):
            for i in range(starts[t], starts[t + 1]):
                if class_of[neuron_in[i]] >= 0:
                    counts[b, t, class_of[neuron_in[i]]] += 1
            totals += counts[b, t]
        answer.decision_us[b] = _decide(neuron_in, time_in, n_in, class_of, totals, running)


@njit(nogil=True, cache=True)
def _put(queue, n, time, number, edge, neuron, stage):  # type: ignore[no-untyped-def]
    """One more event in a queue of ``n``, a binary heap; equal times stay in the order of their numbers."""
    time = min(time, FOREVER - 1)
    at = n
    while at > 0:
        above = (at - 1) // 2
        if queue[above, TIME] < time or (queue[above, TIME] == time and queue[above, NUMBER] < number):
            break
        for c in range(QUEUE_COLUMNS):
            queue[at, c] = queue[above, c]
        at = above
    queue[at, TIME], queue[at, NUMBER], queue[at, EDGE] = time, number, edge
    queue[at, NEURON], queue[at, STAGE] = neuron, stage


@njit(nogil=True, cache=True)
def _take(queue, n):  # type: ignore[no-untyped-def]
    """Close the gap that the first of ``n`` events leaves."""
    last, at = n - 1, 0
    while True:
        below = 2 * at + 1
        if below >= last:
            break
        if below + 1 < last:
            a, b = queue[below, TIME], queue[below + 1, TIME]
            if b < a or (a == b and queue[below + 1, NUMBER] < queue[below, NUMBER]):
                below += 1
        a, b = queue[below, TIME], queue[last, TIME]
        if b < a or (a == b and queue[last, NUMBER] < queue[below, NUMBER]):
            break
        for c in range(QUEUE_COLUMNS):
            queue[at, c] = queue[below, c]
        at = below
    for c in range(QUEUE_COLUMNS):
        queue[at, c] = queue[last, c]


@njit(nogil=True, cache=True)
def _way_ns(lost, jitter_ns, reorder_ns, chance, n_layers, k):  # type: ignore[no-untyped-def]
    """How long an event is on its way into a layer, in nanoseconds; -1 if it never gets there."""
    delay = np.int64(0)
    if lost > 0 and _uniform(chance, LOST * n_layers + k) < lost:
        return np.int64(-1)
    if jitter_ns > 0:
        delay += np.int64(-jitter_ns * math.log(1.0 - _uniform(chance, JITTER * n_layers + k)))
    if reorder_ns > 0:
        delay += np.int64(reorder_ns * _uniform(chance, REORDER * n_layers + k))
    return delay


@njit(nogil=True, cache=True)
def _tick(layers, k, leak, v, threshold, fired):  # type: ignore[no-untyped-def]
    """One tick of the slow clock for a layer: every neuron takes its leak, and may fire.

    Returns:
        events, saturations.
    """
    first, low, keep = layers[k, STATE], layers[k, LOW], layers[k, KEEP]
    n = saturated = 0
    for i in range(first, first + layers[k, SIZE]):
        state = np.int64(v[i]) + np.int64(leak[i])
        if state > TOP or state < BOTTOM:
            saturated += 1
            state = TOP if state > TOP else BOTTOM
        state = max(state, low)
        if max(state, 0) >= threshold[i]:
            fired[n] = i - first
            n += 1
            state = (state - np.int64(threshold[i])) & keep
        v[i] = np.int16(state)
    return n, saturated


@njit(nogil=True, cache=True)
def depth_first(counter, recordings, tables, order, answer, die):  # type: ignore[no-untyped-def]
    """As :func:`chain`, for branches, merges and dies: each event is followed to its last consequence before the next.

    On an ideal chip that is all. On a die that holds events up, one that is under way waits in ``queue`` and is
    followed when its time has come; of what falls on the same time a tick of the slow clock comes first, then what is
    under way, by its turn in the queue, then the sensor.
    """
    # Named here once, and no view of an array is made for an event: numba would count references, atomically.
    events, offsets, edges_us = recordings.events, recordings.offsets, recordings.edges_us
    sensor, layers, edges, pixel, weight = tables.sensor, tables.layers, tables.edges, tables.pixel, tables.weight
    threshold, class_of, fan_out = tables.threshold, tables.class_of, tables.fan_out
    counts, layer_counts, layer_v_mem = answer.counts, answer.layer_counts, answer.layer_v_mem
    events_per_layer, synops, saturations, dropped = (
        answer.events_per_layer, answer.synops, answer.saturations, answer.dropped,
    )  # fmt: skip
    keep_events, event_offsets, event_neuron, event_time = (
        answer.keep_events, answer.event_offsets, answer.event_neuron, answer.event_time,
    )  # fmt: skip
    any_deviation, lost, jitter_ns, reorder_ns = die.any, die.lost, die.jitter_ns, die.reorder_ns
    rate, fifo, decimate, leak, period_ns = die.synops_per_second, die.fifo, die.decimate, die.leak, die.period_ns
    n_recordings, bins, n_layers = len(offsets) - 1, edges_us.shape[1] - 1, len(layers)
    with_counts, with_v_mem, shuffle = layer_counts.shape[2] > 0, layer_v_mem.shape[2] > 0, order != 0
    last = n_layers - 1
    n_states = layers[last, STATE] + layers[last, SIZE]
    v = _states(n_states)
    mask, tag, clipped = _masks(layers), _masks(layers).view(np.int64), np.zeros(1, np.int64)
    running, random = np.zeros(counts.shape[2], np.int64), np.zeros(1, np.uint64)
    one_in, one_time = np.empty(1, np.int32), np.zeros(1, np.int32)
    fires = np.max(layers[:, SIZE]) + 2  # _emit writes one too many
    fired, fired_time = np.empty(fires, np.int32), np.empty(fires, np.int32)
    # What is followed at one time was caused by one event of each layer at most, for two destinations.
    stack_edge, stack_neuron = np.empty(2 * n_states + 2, np.int32), np.empty(2 * n_states + 2, np.int32)
    capacity = 4096
    sensor_neuron, sensor_time = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    out, out_time = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    queue = np.empty((256, QUEUE_COLUMNS), np.int64)
    chance, phase = np.zeros(CHANCES * n_layers, np.uint64), np.zeros(n_layers, np.int64)
    waiting, free_ns = np.zeros(n_layers, np.int64), np.zeros(n_layers, np.int64)
    while True:
        b = _next(counter)
        if b >= n_recordings:
            return
        while len(sensor_neuron) < offsets[b + 1] - offsets[b]:
            sensor_neuron, sensor_time = _grown(sensor_neuron, 0), _grown(sensor_time, 0)
        n_in = _sensor(events, offsets[b], offsets[b + 1], sensor[2], sensor[1], sensor[0], sensor_neuron, sensor_time)
        answer.input_events[b] = n_in
        if n_in < 0:
            continue
        random[0] = np.uint64(order)
        v[:] = 0
        if any_deviation:
            _begin(chance, phase, die.seed, decimate, _identity(sensor_neuron, sensor_time, n_in))
            waiting[:] = 0
            free_ns[:] = -FOREVER
        n_out = bin_now = i = n_queue = height = number = tick_layer = 0
        now, now_us, stage = np.int64(0), np.int32(0), SENT
        tick = end = np.int64(FOREVER)
        if period_ns > 0 and n_in > 0:
            tick = np.int64(sensor_time[0]) * 1000 + period_ns
            end = np.int64(sensor_time[n_in - 1]) * 1000
        while True:
            if height > 0:  # what the last event caused
                height -= 1
                e, neuron = np.int64(stack_edge[height]), stack_neuron[height]
                k = edges[e, TARGET]
                if any_deviation:
                    adds = _additions(edges, e, pixel, np.int64(neuron))
                    if adds == 0:
                        continue
                    at_stage, stage = stage, SENT
                    if n_queue == len(queue):
                        queue = np.concatenate((queue, queue))
                    if at_stage == SENT:
                        delay = _way_ns(lost, jitter_ns, reorder_ns, chance, n_layers, k)
                        if delay != 0:
                            if delay > 0:
                                _put(queue, n_queue, now + delay, number, e, neuron, ARRIVED)
                                n_queue += 1
                                number += 1
                            continue
                    if rate[k] > 0 and at_stage != NEXT:
                        must_wait = waiting[k] > 0 or free_ns[k] > now
                        if must_wait and waiting[k] == fifo[k]:
                            dropped[b, k] += 1
                            continue
                        begin = max(free_ns[k], now)
                        free_ns[k] = min(begin + adds * 1_000_000_000 // rate[k], FOREVER)
                        if must_wait:
                            _put(queue, n_queue, begin, number, e, neuron, NEXT)
                            n_queue += 1
                            number += 1
                            waiting[k] += 1
                            continue
                one_in[0] = neuron
                clipped[0] = 0
                _, m, adds = _step(
                    one_in, one_time, 0, 1, edges, e, pixel, layers, weight, v, threshold, layers[k, STATE], mask, tag,
                    clipped,
                )  # fmt: skip
                synops[b, k] += adds
                saturations[b, k] += clipped[0]
                if m == 0:
                    continue
                n = _emit(mask, tag, m, fired, fired_time, 0)
            else:  # what comes next
                if tick > end:
                    tick = np.int64(FOREVER)
                from_sensor = np.int64(sensor_time[i]) * 1000 if i < n_in else np.int64(FOREVER)
                from_queue = queue[0, TIME] if n_queue > 0 else np.int64(FOREVER)
                now = min(tick, from_queue, from_sensor)
                if now == FOREVER:
                    break
                now_us = np.int32(min(now // 1000, LAST_US))
                while bin_now < bins - 1 and now_us >= edges_us[b, bin_now + 1]:
                    if with_v_mem:
                        layer_v_mem[b, bin_now, :] = v
                    bin_now += 1
                if tick == now:
                    k = tick_layer
                    n = saturated = 0
                    if leak[layers[k, STATE]] != 0:
                        n, saturated = _tick(layers, k, leak, v, threshold, fired)
                    saturations[b, k] += saturated
                    tick_layer += 1
                    if tick_layer == n_layers:
                        tick_layer = 0
                        tick += period_ns
                else:
                    height = 1
                    if from_queue == now:
                        stack_edge[0], stack_neuron[0], stage = queue[0, EDGE], queue[0, NEURON], queue[0, STAGE]
                        if stage == NEXT:
                            waiting[edges[queue[0, EDGE], TARGET]] -= 1
                        _take(queue, n_queue)
                        n_queue -= 1
                    else:
                        stack_edge[0], stack_neuron[0], stage = 0, sensor_neuron[i], SENT
                        i += 1
                    continue
            if shuffle:
                _shuffle(fired, 0, n, random)
            if decimate[k] > 1:
                n = _decimate(fired, fired_time, n, phase, k, decimate[k])
            if keep_events[k]:
                at = event_offsets[b, k] + events_per_layer[b, k]
                for j in range(n):
                    event_neuron[at + j], event_time[at + j] = fired[j], now_us
            if with_counts:
                for j in range(n):
                    layer_counts[b, bin_now, layers[k, STATE] + fired[j]] += 1
            events_per_layer[b, k] += n
            if k == last:
                for j in range(n):
                    if n_out == len(out):
                        out, out_time = _grown(out, n_out), _grown(out_time, n_out)
                    out[n_out], out_time[n_out] = fired[j], now_us
                    n_out += 1
                    if class_of[fired[j]] >= 0:
                        counts[b, bin_now, class_of[fired[j]]] += 1
                continue
            for j in range(n - 1, -1, -1):  # the last in is the first out
                swap = shuffle and _below(random, 0, 2) == 1
                for d in range(2):
                    behind = fan_out[k, d if swap else 1 - d]
                    if behind >= 0:
                        stack_edge[height], stack_neuron[height] = behind, fired[j]
                        height += 1
        if with_v_mem:
            for t in range(bin_now, bins):
                layer_v_mem[b, t, :] = v
        totals = np.zeros(counts.shape[2], np.int64)
        for t in range(bins):
            totals += counts[b, t]
        answer.decision_us[b] = _decide(out, out_time, n_out, class_of, totals, running)
