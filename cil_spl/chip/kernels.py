"""The compiled inner loops of the simulator.

Membranes lie features innermost (y, x, feature), features padded to a multiple of eight with neurons that no weight
reaches. An input pixel's kernel row then is one contiguous run of membranes and one of weights, and a run is a whole
number of vectors: add, clip from below, compare, subtract and store, 16 neurons an instruction, with the mask of the
neurons that fired as the result. numba keeps its wrap-around checks on indexed arrays and finds no mask, so that step
is written in LLVM's vector types, which any processor has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Columns of the table of layers.
STATE, SIZE, ROW, FEATURES, LOW, THRESHOLD, KEEP, WEIGHTS, CHANNEL, FIRES, CAREFUL, LAGS, FAN_OUT = range(13)
LAYER_COLUMNS = 13
# Columns of the table of edges: an edge is what lies between a source's events and the weights of a layer.
TARGET, TABLE, SOURCE_FEATURES, RECIPROCAL, SHIFT, CHANNELS = range(6)
EDGE_COLUMNS = 6
# Columns of the table of pixels, one row for each source pixel of an edge.
FIRST, WEIGHT, ROWS, RUN, STEP, ADDS = range(6)
PIXEL_COLUMNS = 6

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
# A state that one more weight could carry beyond 16 bits; from there on every addition is looked at.
NEARLY = TOP - 128

_0, _1 = np.uint64(0), np.uint64(1)


def _vector_update(*vectors: int) -> Callable[..., Any]:
    """A run of up to 64 neurons as the given vectors, one after another."""

    @intrinsic
    def update(typing_context, v, i, w, j, low, threshold, keep):  # type: ignore[no-untyped-def]
        """v[i : i + lanes] takes w[j : j + lanes]; the mask of the neurons that fired."""
        signature = types.uint64(v, types.intp, w, types.intp, types.int16, types.int16, types.int16)

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            word, half = ir.IntType(64), ir.IntType(16)

            def pointer(array, index, offset, vector):  # type: ignore[no-untyped-def]
                data = context.make_array(signature.args[array])(context, builder, args[array]).data
                at = builder.add(args[index], ir.Constant(args[index].type, offset))
                return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())

            def splat(value, lanes):  # type: ignore[no-untyped-def]
                undefined = ir.Constant(ir.VectorType(half, lanes), ir.Undefined)
                first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                return builder.shuffle_vector(first, undefined, zeros)

            mask, offset = ir.Constant(word, 0), 0
            for lanes in vectors:
                low, threshold, keep = (splat(value, lanes) for value in args[4:])
                at = pointer(0, 1, offset, ir.VectorType(half, lanes))
                weight = builder.load(pointer(2, 3, offset, ir.VectorType(half, lanes)), align=2)
                state = builder.add(builder.load(at, align=2), weight)
                state = builder.select(builder.icmp_signed(">", state, low), state, low)
                fired = builder.icmp_signed(">=", state, threshold)
                state = builder.select(fired, builder.and_(builder.sub(state, threshold), keep), state)
                builder.store(state, at, align=2)
                bits = builder.bitcast(fired, ir.IntType(lanes))
                mask = builder.or_(mask, builder.shl(builder.zext(bits, word), ir.Constant(word, offset)))
                offset += lanes
            return mask

        return signature, generate

    return update


_update8, _update16, _update24, _update32 = (_vector_update(*v) for v in ((8,), (16,), (16, 8), (32,)))
_update40, _update48, _update56, _update64 = (_vector_update(*v) for v in ((32, 8), (32, 16), (32, 16, 8), (32, 32)))


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
def _draw(random):  # type: ignore[no-untyped-def]
    """The next 64 random bits (splitmix64, Steele et al. 2014); ``random`` is the state, uint64 [1]."""
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def _below(random, n):  # type: ignore[no-untyped-def]
    """A random whole number from 0 to n - 1."""
    return np.int64((_draw(random) >> np.uint64(32)) * np.uint64(n) >> np.uint64(32))


@njit(nogil=True, cache=True)
def _shuffle(neuron, first, stop, random):  # type: ignore[no-untyped-def]
    for i in range(stop - 1, first, -1):
        j = first + _below(random, i - first + 1)
        neuron[i], neuron[j] = neuron[j], neuron[i]


@njit(nogil=True, cache=True)
def _uniform(random):  # type: ignore[no-untyped-def]
    """A random number from [0, 1)."""
    return np.float64(_draw(random) >> np.uint64(11)) * 2.0**-53


@njit(nogil=True, cache=True)
def _seed(random, seed, effect, layer, identity):  # type: ignore[no-untyped-def]
    """A stream of its own for each die, effect, layer and recording."""
    random[0] = identity
    random[0] = _draw(random) ^ np.uint64(seed)
    random[0] = _draw(random) ^ np.uint64(effect)
    random[0] = _draw(random) ^ np.uint64(layer)
    _draw(random)


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
def _careful(  # type: ignore[no-untyped-def]
    neuron_in, time_in, first, stop, edge, pixel, layer, weight, v, threshold, neuron, time, n, shuffle, random
):
    """Input events neuron by neuron, with saturations counted and a threshold for each neuron; see ``_vectors``."""
    table, features, reciprocal = edge[TABLE], edge[SOURCE_FEATURES], edge[RECIPROCAL]
    shift, channels = edge[SHIFT], edge[CHANNELS]
    row, channel, weights = layer[ROW], layer[CHANNEL], layer[WEIGHTS]
    low, keep, room = layer[LOW], layer[KEEP], len(neuron) - layer[FIRES]
    adds = saturated = 0
    for i in range(first, stop):
        source = np.int64(neuron_in[i])
        place = (source * reciprocal) >> RECIPROCAL_BITS
        c = source - place * features + shift
        rows = np.int64(pixel[table + place, ROWS])
        if rows == 0 or c < 0 or c >= channels:
            continue
        if n > room:
            return i, n, adds, saturated
        at, run = np.int64(pixel[table + place, FIRST]), np.int64(pixel[table + place, RUN])
        w = weights + c * channel + np.int64(pixel[table + place, WEIGHT])
        adds += pixel[table + place, ADDS]
        before = n
        for _ in range(rows):
            for j in range(run):
                state = np.int64(v[at + j]) + np.int64(weight[w + j])
                if state > TOP or state < BOTTOM:
                    saturated += 1
                    state = TOP if state > TOP else BOTTOM
                state = max(state, low)
                if state >= threshold[at + j]:
                    neuron[n], time[n] = at + j, time_in[i]
                    n += 1
                    state = (state - max(threshold[at + j], 0)) & keep  # a stuck neuron takes nothing off
                v[at + j] = np.int16(state)
            at += row
            w += np.int64(pixel[table + place, STEP])
        if shuffle:
            _shuffle(neuron, before, n, random)
    return stop, n, adds, saturated


@njit(nogil=True, cache=True)
def _vectors(  # type: ignore[no-untyped-def]
    neuron_in, time_in, first, stop, edge, pixel, layer, weight, v, neuron, time, n, shuffle, random
):
    """Input events ``first`` to ``stop`` of one layer; its events are appended to ``neuron`` and ``time`` at ``n``.

    Stops early when the room for events runs out, or behind an event that brought a state near the end of 16 bits.
    No array is made or bound anew here: numba would count its references, atomically, at every event.

    Returns:
        the next input event, ``n``, additions, whether a state is near the end of 16 bits.
    """
    table, features, reciprocal = edge[TABLE], edge[SOURCE_FEATURES], edge[RECIPROCAL]
    shift, channels = edge[SHIFT], edge[CHANNELS]
    row, channel, weights = layer[ROW], layer[CHANNEL], layer[WEIGHTS]
    lags, room = layer[LAGS], len(neuron) - layer[FIRES]
    low, threshold, keep = np.int16(layer[LOW]), np.int16(layer[THRESHOLD]), np.int16(layer[KEEP])
    adds = 0
    for i in range(first, stop):
        source = np.int64(neuron_in[i])
        place = (source * reciprocal) >> RECIPROCAL_BITS
        c = source - place * features + shift
        rows = np.int64(pixel[table + place, ROWS])
        if rows == 0 or c < 0 or c >= channels:
            continue
        if n > room:
            return i, n, adds, False
        at, run = np.int64(pixel[table + place, FIRST]), np.int64(pixel[table + place, RUN])
        w = weights + c * channel + np.int64(pixel[table + place, WEIGHT])
        step = np.int64(pixel[table + place, STEP])
        adds += pixel[table + place, ADDS]
        before = n
        t = time_in[i]
        for _ in range(rows):
            j = 0
            while j < run:  # 64 neurons at a time, their mask in one word
                base, wide = at + j, run - j
                if wide >= 64:
                    fired = _update64(v, base, weight, w + j, low, threshold, keep)
                    wide = 64
                elif wide == 48:
                    fired = _update48(v, base, weight, w + j, low, threshold, keep)
                elif wide == 24:
                    fired = _update24(v, base, weight, w + j, low, threshold, keep)
                elif wide == 32:
                    fired = _update32(v, base, weight, w + j, low, threshold, keep)
                elif wide == 16:
                    fired = _update16(v, base, weight, w + j, low, threshold, keep)
                elif wide == 8:
                    fired = _update8(v, base, weight, w + j, low, threshold, keep)
                elif wide == 40:
                    fired = _update40(v, base, weight, w + j, low, threshold, keep)
                else:
                    fired = _update56(v, base, weight, w + j, low, threshold, keep)
                if fired != _0:
                    stop_at = n + _bits(fired)
                    while n < stop_at:  # four at a time, for the branch predictor; what is too much is overwritten
                        for u in range(4):
                            neuron[n + u] = base + _lowest_bit(fired)
                            time[n + u] = t
                            fired &= fired - _1
                        n += 4
                    n = stop_at
                j += wide
            at += row
            w += step
        if shuffle and n - before > 1:
            _shuffle(neuron, before, n, random)
        if lags:  # only a neuron that has just fired can have come near the end of 16 bits
            for k in range(before, n):
                if v[neuron[k]] > NEARLY:
                    return i + 1, n, adds, True
    return stop, n, adds, False


@njit(nogil=True, cache=True)
def _layer(  # type: ignore[no-untyped-def]
    neuron_in, time_in, first, stop, edge, pixel, layer, weight, v, threshold, careful, neuron, time, n, shuffle, random
):
    """As ``_vectors``, to the end: with more room as it is needed, and carefully where states may saturate."""
    adds = saturated = 0
    while True:
        if careful:
            first, n, more, bad = _careful(
                neuron_in, time_in, first, stop, edge, pixel, layer, weight, v, threshold, neuron, time, n, shuffle,
                random,
            )  # fmt: skip
            adds += more
            saturated += bad
        else:
            first, n, more, near = _vectors(
                neuron_in, time_in, first, stop, edge, pixel, layer, weight, v, neuron, time, n, shuffle, random
            )
            adds += more
            careful = np.int64(near)
        if first >= stop:
            return neuron, time, n, careful, adds, saturated
        if n > len(neuron) - layer[FIRES]:
            neuron, time = _grown(neuron, n), _grown(time, n)


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


class Recordings(NamedTuple):
    """What is sent: see :func:`cil_spl.chip.simulator.run`."""

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
    careful: np.ndarray
    class_of: np.ndarray


class Answer(NamedTuple):
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
    period of 0 is none, a FIFO of -1 has no end. ``any`` is whether there is anything at all."""

    any: bool
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
def chain(counter, recordings, tables, order, answer):  # type: ignore[no-untyped-def]
    """Recordings, one after another, until ``counter`` has handed out all; layer by layer.

    In a chain the order of each layer's input is the same layer by layer as depth first.
    """
    events, offsets, edges_us = recordings.events, recordings.offsets, recordings.edges_us
    sensor, layers, edges, pixel, weight = tables.sensor, tables.layers, tables.edges, tables.pixel, tables.weight
    threshold, careful, class_of = tables.threshold, tables.careful, tables.class_of
    counts, layer_counts, layer_v_mem = answer.counts, answer.layer_counts, answer.layer_v_mem
    n_recordings, bins, n_layers = len(offsets) - 1, edges_us.shape[1] - 1, len(layers)
    with_counts, with_v_mem, shuffle = layer_counts.shape[2] > 0, layer_v_mem.shape[2] > 0, order != 0
    v = np.zeros(np.max(layers[:, SIZE]), np.int16)
    starts, out_starts = np.zeros(bins + 1, np.int64), np.zeros(bins + 1, np.int64)
    running, random = np.zeros(counts.shape[2], np.int64), np.zeros(1, np.uint64)
    capacity = 4096 + np.max(layers[:, FIRES])
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
        _bin_starts(time_in, n_in, edges_us[b], starts)
        for k in range(n_layers):
            layer = layers[k]
            first, size = layer[STATE], layer[SIZE]
            v[:size] = 0
            n = 0
            now_careful = np.int64(careful[k])
            parts = bins if with_v_mem else 1
            for t in range(parts):
                begin, end = (starts[t], starts[t + 1]) if with_v_mem else (0, n_in)
                neuron, time, n, now_careful, adds, saturated = _layer(
                    neuron_in, time_in, begin, end, edges[k], pixel, layer, weight, v,
                    threshold[first : first + size], now_careful, neuron, time, n, shuffle, random,
                )  # fmt: skip
                answer.synops[b, k] += adds
                answer.saturations[b, k] += saturated
                if with_v_mem:
                    layer_v_mem[b, t, first : first + size] = v[:size]
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
    """The queue of ``n`` events, a binary heap, with one more; equal times stay in the order of their numbers."""
    if n == len(queue):
        longer = np.empty((2 * n, QUEUE_COLUMNS), np.int64)
        longer[:n] = queue
        queue = longer
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
    return queue


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
def _way_ns(die, layer, chance):  # type: ignore[no-untyped-def]
    """How long an event is on its way into a layer, in nanoseconds; -1 if it never gets there."""
    delay = np.int64(0)
    if die.lost > 0 and _uniform(chance[LOST, layer]) < die.lost:
        return np.int64(-1)
    if die.jitter_ns > 0:
        delay += np.int64(-die.jitter_ns * math.log(1.0 - _uniform(chance[JITTER, layer])))
    if die.reorder_ns > 0:
        delay += np.int64(die.reorder_ns * _uniform(chance[REORDER, layer]))
    return delay


@njit(nogil=True, cache=True)
def _additions(edge, pixel, neuron):  # type: ignore[no-untyped-def]
    """How many neurons a source's event reaches over an edge; 0 for one that pooling or the kernel drops."""
    place = (neuron * edge[RECIPROCAL]) >> RECIPROCAL_BITS
    c = neuron - place * edge[SOURCE_FEATURES] + edge[SHIFT]
    return np.int64(pixel[edge[TABLE] + place, ADDS]) if 0 <= c < edge[CHANNELS] else np.int64(0)


@njit(nogil=True, cache=True)
def _tick(layer, leak, v, threshold, fired):  # type: ignore[no-untyped-def]
    """One tick of the slow clock for a layer: every neuron takes its leak, and may fire.

    Returns:
        events, saturations.
    """
    low, keep = layer[LOW], layer[KEEP]
    n = saturated = 0
    for i in range(len(v)):
        state = np.int64(v[i]) + np.int64(leak[i])
        if state > TOP or state < BOTTOM:
            saturated += 1
            state = TOP if state > TOP else BOTTOM
        state = max(state, low)
        if state >= threshold[i]:
            fired[n] = i
            n += 1
            state = (state - max(threshold[i], 0)) & keep
        v[i] = np.int16(state)
    return n, saturated


@njit(nogil=True, cache=True)
def depth_first(counter, recordings, tables, order, answer, die):  # type: ignore[no-untyped-def]
    """As :func:`chain`, for branches, merges and dies: each event is followed to its last consequence before the next.

    On an ideal chip that is all. On a die that holds events up, one that is under way waits in ``queue`` and is
    followed when its time has come; of what falls on the same time a tick of the slow clock comes first, then what is
    under way, by its turn in the queue, then the sensor.
    """
    events, offsets, edges_us = recordings.events, recordings.offsets, recordings.edges_us
    sensor, layers, edges, pixel, weight = tables.sensor, tables.layers, tables.edges, tables.pixel, tables.weight
    threshold, class_of, fan_out = tables.threshold, tables.class_of, tables.fan_out
    counts, layer_counts, layer_v_mem = answer.counts, answer.layer_counts, answer.layer_v_mem
    n_recordings, bins, n_layers = len(offsets) - 1, edges_us.shape[1] - 1, len(layers)
    with_counts, with_v_mem, shuffle = layer_counts.shape[2] > 0, layer_v_mem.shape[2] > 0, order != 0
    last = n_layers - 1
    v = np.zeros(layers[last, STATE] + layers[last, SIZE], np.int16)
    running, random = np.zeros(counts.shape[2], np.int64), np.zeros(1, np.uint64)
    fires = max(np.max(layers[:, FIRES]), np.max(layers[:, SIZE])) + 4
    one_in, one_time = np.empty(1, np.int32), np.zeros(1, np.int32)
    fired, fired_time = np.empty(fires, np.int32), np.empty(fires, np.int32)
    stack_edge, stack_neuron = np.empty(4096 + 2 * fires, np.int32), np.empty(4096 + 2 * fires, np.int32)
    capacity = 4096
    sensor_neuron, sensor_time = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    out, out_time = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    now_careful = np.zeros(n_layers, np.int64)
    queue = np.empty((256, QUEUE_COLUMNS), np.int64)
    chance, phase = np.zeros((CHANCES, n_layers, 1), np.uint64), np.zeros(n_layers, np.int64)
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
        now_careful[:] = tables.careful
        if die.any:
            identity = _identity(sensor_neuron, sensor_time, n_in)
            for k in range(n_layers):
                for effect in range(CHANCES):
                    _seed(chance[effect, k], die.seed, effect, k, identity)
                phase[k] = _below(chance[DECIMATE, k], die.decimate[k])
                waiting[k] = 0
                free_ns[k] = -FOREVER
        n_out = bin_now = i = n_queue = height = number = tick_layer = 0
        now, now_us, stage = np.int64(0), np.int32(0), SENT
        tick = end = np.int64(FOREVER)
        if die.period_ns > 0 and n_in > 0:
            tick = np.int64(sensor_time[0]) * 1000 + die.period_ns
            end = np.int64(sensor_time[n_in - 1]) * 1000
        while True:
            if height > 0:  # what the last event caused
                height -= 1
                e = np.int64(stack_edge[height])
                one_in[0] = stack_neuron[height]
                k = edges[e, TARGET]
                if die.any:
                    adds = _additions(edges[e], pixel, np.int64(one_in[0]))
                    if adds == 0:
                        continue
                    at_stage, stage = stage, SENT
                    if at_stage == SENT:
                        delay = _way_ns(die, k, chance)
                        if delay != 0:
                            if delay > 0:
                                queue = _put(queue, n_queue, now + delay, number, e, one_in[0], ARRIVED)
                                n_queue += 1
                                number += 1
                            continue
                    if die.synops_per_second[k] > 0 and at_stage != NEXT:
                        must_wait = waiting[k] > 0 or free_ns[k] > now
                        if must_wait and waiting[k] == die.fifo[k]:
                            answer.dropped[b, k] += 1
                            continue
                        begin = max(free_ns[k], now)
                        free_ns[k] = min(begin + adds * 1_000_000_000 // die.synops_per_second[k], FOREVER)
                        if must_wait:
                            queue = _put(queue, n_queue, begin, number, e, one_in[0], NEXT)
                            n_queue += 1
                            number += 1
                            waiting[k] += 1
                            continue
                layer = layers[k]
                first, size = layer[STATE], layer[SIZE]
                fired, fired_time, n, now_careful[k], adds, saturated = _layer(
                    one_in, one_time, 0, 1, edges[e], pixel, layer, weight, v[first : first + size],
                    threshold[first : first + size], now_careful[k], fired, fired_time, 0, shuffle, random,
                )  # fmt: skip
                answer.synops[b, k] += adds
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
                    first, size = layers[k, STATE], layers[k, SIZE]
                    n = saturated = 0
                    if die.leak[first] != 0:
                        n, saturated = _tick(
                            layers[k], die.leak[first : first + size], v[first : first + size],
                            threshold[first : first + size], fired,
                        )  # fmt: skip
                    if shuffle:
                        _shuffle(fired, 0, n, random)
                    tick_layer += 1
                    if tick_layer == n_layers:
                        tick_layer = 0
                        tick += die.period_ns
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
            answer.saturations[b, k] += saturated
            if die.any and die.decimate[k] > 1:
                passed = 0
                for j in range(n):
                    phase[k] += 1
                    if phase[k] == die.decimate[k]:
                        phase[k] = 0
                        fired[passed] = fired[j]
                        passed += 1
                n = passed
            for j in range(n):
                if answer.keep_events[k]:
                    at = answer.event_offsets[b, k] + answer.events_per_layer[b, k] + j
                    answer.event_neuron[at], answer.event_time[at] = fired[j], now_us
                if with_counts:
                    layer_counts[b, bin_now, first + fired[j]] += 1
            answer.events_per_layer[b, k] += n
            if k == last:
                for j in range(n):
                    if n_out == len(out):
                        out, out_time = _grown(out, n_out), _grown(out_time, n_out)
                    out[n_out], out_time[n_out] = fired[j], now_us
                    n_out += 1
                    if class_of[fired[j]] >= 0:
                        counts[b, bin_now, class_of[fired[j]]] += 1
            while height + 2 * n > len(stack_edge):
                stack_edge, stack_neuron = _grown(stack_edge, height), _grown(stack_neuron, height)
            for j in range(n - 1, -1, -1):  # the last in is the first out
                swap = shuffle and _below(random, 2) == 1
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
