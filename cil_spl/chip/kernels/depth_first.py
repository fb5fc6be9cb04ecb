"""Recordings through branches and merges, or on a die that holds events up: each event is followed to its last
consequence before the next.

On an ideal chip that is all. On a die that holds events up, one that is under way waits in ``queue`` and is followed
when its time has come; of what falls on the same time a tick of the slow clock comes first, then what is under way, by
its turn in the queue, then the sensor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from cil_spl.base.threads import next_of
from cil_spl.chip.kernels.chance import below, shuffle
from cil_spl.chip.kernels.die import CHANCES, CORE, begin, decimate, identity, tick, way_ns
from cil_spl.chip.kernels.events import event, grown, neuron_of, no_events, time_of
from cil_spl.chip.kernels.layer import additions, emit, no_masks, states, step
from cil_spl.chip.kernels.queue import QUEUED, put, remove_first
from cil_spl.chip.kernels.sensor import decide, read
from cil_spl.chip.kernels.tables import FOREVER, LAST_US, SLACK
from cil_spl.chip.kernels.vectors import Masks, borrowed

# Where an event is: sent by its source, at the core's input, or next in the core.
SENT, ARRIVED, NEXT = range(3)
# Where the next thing to happen comes from.
NOWHERE, CLOCK, UNDER_WAY, SENSOR = range(4)

# Where a recording stands.
NOW = np.dtype(
    [
        ("ns", np.int64),
        ("us", np.int64),
        ("bin", np.int64),
        ("sensor", np.int64),  # the sensor's next event
        ("queued", np.int64),  # events under way
        ("number", np.int64),  # of the next one to be queued
        ("stage", np.int64),  # of the event that is followed first
        ("tick_ns", np.int64),  # the next tick
        ("tick_layer", np.int64),  # whose turn it is at this tick
        ("end_ns", np.int64),  # no tick after this
    ],
    align=True,
)
# Events that are still to be followed at this time.
FOLLOWED = np.dtype([("edge", np.int32), ("neuron", np.int32)], align=True)


class Work(NamedTuple):
    """What one thread works on: states of all layers and masks of neurons that fired; where the recording stands
    (``NOW``); the events to be followed (``FOLLOWED``), the one that is, and what it fired; the die's cores and streams
    of chance; the stream that draws another order; counts of the classes."""

    v: np.ndarray
    masks: Masks
    now: np.ndarray
    stack: np.ndarray
    one: np.ndarray
    fired: np.ndarray
    cores: np.ndarray
    chance: np.ndarray
    random: np.ndarray
    running: np.ndarray


@njit(nogil=True)
def new_work(tables, n_classes):  # type: ignore[no-untyped-def]
    n_layers = len(tables.layers)
    n_states = tables.layers[n_layers - 1].state + tables.layers[n_layers - 1].size
    one = no_events(1)
    return Work(
        states(n_states),
        no_masks(tables.layers),
        np.zeros(1, NOW),
        # What is followed at one time was caused by one event of each layer at most, for two destinations.
        np.zeros(2 * n_states + 2, FOLLOWED),
        one,
        no_events(n_states + 4),  # emit writes some too many
        np.zeros(n_layers, CORE),
        np.zeros(CHANCES * n_layers, np.uint64),
        np.zeros(1, np.uint64),
        np.zeros(n_classes, np.int64),
    )


@njit(nogil=True)
def run_depth_first(counter, recordings, tables, order, answer, die):  # type: ignore[no-untyped-def]
    """Recordings, one after another, until ``counter`` has handed out all."""
    # A function of its own: it holds the work that the other borrows.
    follow_all(counter, recordings, tables, order, answer, die, new_work(tables, answer.counts.shape[2]))


@njit(nogil=True)
def follow_all(counter, recordings, tables, order, answer, die, work):  # type: ignore[no-untyped-def]
    recordings, tables, answer = borrowed(recordings), borrowed(tables), borrowed(answer)
    die, work = borrowed(die), borrowed(work)
    offsets, fired, n_layers = recordings.offsets, work.fired, len(tables.layers)
    queue, sensor, out = np.zeros(256, QUEUED), no_events(4096), no_events(4096)
    while True:
        b = next_of(counter)
        if b >= len(offsets) - 1:
            return
        while len(sensor) < offsets[b + 1] - offsets[b]:
            sensor = grown(sensor, 0)
        n_in = read(recordings, b, tables.sensor, sensor)
        answer.input_events[b] = n_in
        if n_in < 0:
            continue
        start(tables, work, order, die, sensor, n_in)
        height = n_out = 0
        while True:
            if height > 0:
                height -= 1
                e, neuron = np.int64(work.stack[height].edge), work.stack[height].neuron
                k = tables.edges[e].target
                if die.any:
                    if work.now[0].queued == len(queue):
                        queue = grown(queue, len(queue))
                    if not taken_up(e, neuron, tables, die, work, borrowed(queue), answer, b):
                        continue
                n = handle(e, neuron, tables, work, answer, b)
            else:
                source = go_on(work, borrowed(queue), borrowed(sensor), n_in, recordings, answer, b)
                if source == NOWHERE:
                    break
                if source != CLOCK:
                    follow(source, work, borrowed(queue), borrowed(sensor))
                    height = 1
                    continue
                k = work.now[0].tick_layer
                n = tick_of(k, tables, die, work, answer, b)
            if n == 0:
                continue
            if order != 0:
                shuffle(fired, 0, n, work.random)
            if die.decimate[k] > 1:
                n = decimate(fired, n, work.cores, k, die.decimate[k])
            record(k, n, tables, work, answer, b)
            if k == n_layers - 1:
                while n_out + n > len(out):
                    out = grown(out, n_out)
                read_out(n, tables, work, answer, b, out, n_out)
                n_out += n
            else:
                height = send_on(k, n, tables, work, order, height)
        answer.decision_us[b] = finish(tables, work, answer, b, out, n_out)


@njit(nogil=True, forceinline=True)
def start(tables, work, order, die, sensor, n_in):  # type: ignore[no-untyped-def]
    """Everything at rest before a recording."""
    work.random[0] = np.uint64(order)
    for layer in tables.layers:
        work.v[layer.state : layer.state + layer.size + SLACK] = layer.init
    if die.any:
        begin(work.cores, work.chance, die, identity(sensor, n_in))
    at = work.now[0]
    at.ns, at.us, at.bin, at.sensor, at.queued, at.number, at.stage = 0, 0, 0, 0, 0, 0, SENT
    at.tick_ns, at.tick_layer, at.end_ns = FOREVER, 0, FOREVER
    if die.period_ns > 0 and n_in > 0:
        at.tick_ns = time_of(sensor[0]) * 1000 + die.period_ns
        at.end_ns = time_of(sensor[n_in - 1]) * 1000


@njit(nogil=True, forceinline=True)
def go_on(work, queue, sensor, n_in, recordings, answer, b):  # type: ignore[no-untyped-def]
    """Go on to the time of what comes next, states being recorded at the ends of the bins between.

    Returns:
        where it comes from.
    """
    at = work.now[0]
    if at.tick_ns > at.end_ns:
        at.tick_ns = FOREVER
    from_sensor = time_of(sensor[at.sensor]) * 1000 if at.sensor < n_in else np.int64(FOREVER)
    under_way = queue[0].time if at.queued > 0 else np.int64(FOREVER)
    at.ns = min(at.tick_ns, under_way, from_sensor)
    if at.ns == FOREVER:
        return NOWHERE
    at.us = min(at.ns // 1000, LAST_US)
    while at.bin < recordings.edges_us.shape[1] - 2 and at.us >= recordings.edges_us[b, at.bin + 1]:
        if answer.layer_v_mem.shape[2] > 0:
            answer.layer_v_mem[b, at.bin, :] = work.v
        at.bin += 1
    if at.tick_ns == at.ns:
        return CLOCK
    return UNDER_WAY if under_way == at.ns else SENSOR


@njit(nogil=True, forceinline=True)
def follow(source, work, queue, sensor):  # type: ignore[no-untyped-def]
    """Put the next event, of the sensor or under way, onto the empty stack."""
    at, first = work.now[0], work.stack[0]
    if source == SENSOR:
        first.edge, first.neuron, at.stage = 0, neuron_of(sensor[at.sensor]), SENT
        at.sensor += 1
        return
    first.edge, first.neuron, at.stage = queue[0].edge, queue[0].neuron, queue[0].stage
    remove_first(queue, at.queued)
    at.queued -= 1


@njit(nogil=True, forceinline=True)
def taken_up(e, neuron, tables, die, work, queue, answer, b):  # type: ignore[no-untyped-def]
    """Whether the core takes an event up now. If not, it reaches no neuron, is lost or dropped, or waits in ``queue``,
    which has room for one more."""
    k = tables.edges[e].target
    at, core = work.now[0], work.cores[k]
    stage, at.stage = at.stage, SENT
    if stage == NEXT:
        core.waiting -= 1
    adds = additions(tables, e, np.int64(neuron))
    if adds == 0:
        return False
    if stage == SENT:
        delay = way_ns(die, work.chance, k)
        if delay != 0:
            if delay > 0:
                put(queue, at.queued, at.ns + delay, at.number, e, neuron, ARRIVED)
                at.queued += 1
                at.number += 1
            return False
    if die.synops_per_second[k] > 0 and stage != NEXT:
        must_wait = core.waiting > 0 or core.free_ns > at.ns
        if must_wait and core.waiting == die.fifo[k]:
            answer.dropped[b, k] += 1
            return False
        begin_ns = max(core.free_ns, at.ns)
        core.free_ns = min(begin_ns + adds * 1_000_000_000 // die.synops_per_second[k], FOREVER)
        if must_wait:
            put(queue, at.queued, begin_ns, at.number, e, neuron, NEXT)
            at.queued += 1
            at.number += 1
            core.waiting += 1
            return False
    return True


@njit(nogil=True, forceinline=True)
def handle(e, neuron, tables, work, answer, b):  # type: ignore[no-untyped-def]
    """One event through the neurons of its layer; how many fired."""
    k = tables.edges[e].target
    work.one[0] = neuron
    work.masks.saturations[0] = 0
    _, m, adds = step(work.one, 0, 1, tables, e, work.v, tables.layers[k].state, work.masks, False)
    answer.synops[b, k] += adds
    answer.saturations[b, k] += work.masks.saturations[0]
    return emit(work.masks, m, tables, k, work.fired, 0) if m > 0 else np.int64(0)


@njit(nogil=True, forceinline=True)
def tick_of(k, tables, die, work, answer, b):  # type: ignore[no-untyped-def]
    """The slow clock's tick for layer ``k``; how many neurons ``fired``."""
    n = saturated = 0
    if die.leak[tables.layers[k].state] != 0:
        n, saturated = tick(tables, k, die.leak, work.v, work.fired)
    answer.saturations[b, k] += saturated
    at = work.now[0]
    at.tick_layer += 1
    if at.tick_layer == len(tables.layers):
        at.tick_layer = 0
        at.tick_ns += die.period_ns
    return n


@njit(nogil=True, forceinline=True)
def record(k, n, tables, work, answer, b):  # type: ignore[no-untyped-def]
    """Note what layer ``k`` fired."""
    at = work.now[0]
    if answer.keep_events[k]:
        first = answer.event_offsets[b, k] + answer.events_per_layer[b, k]
        for j in range(n):
            answer.event_neuron[first + j], answer.event_time[first + j] = work.fired[j], at.us
    if answer.layer_counts.shape[2] > 0:
        for j in range(n):
            answer.layer_counts[b, at.bin, tables.layers[k].state + work.fired[j]] += 1
    answer.events_per_layer[b, k] += n


@njit(nogil=True, forceinline=True)
def read_out(n, tables, work, answer, b, out, n_out):  # type: ignore[no-untyped-def]
    """Append the last layer's events to ``out``, and count them by class."""
    at = work.now[0]
    for j in range(n):
        out[n_out + j] = event(work.fired[j], at.us)
        if tables.class_of[work.fired[j]] >= 0:
            answer.counts[b, at.bin, tables.class_of[work.fired[j]]] += 1


@njit(nogil=True, forceinline=True)
def send_on(k, n, tables, work, order, height):  # type: ignore[no-untyped-def]
    """Put a layer's events onto the stack of ``height``, for each destination; the new height."""
    for j in range(n - 1, -1, -1):  # the last in is the first out
        swap = order != 0 and below(work.random, 0, 2) == 1
        for d in range(2):
            edge = tables.fan_out[k, d if swap else 1 - d]
            if edge >= 0:
                work.stack[height].edge, work.stack[height].neuron = edge, work.fired[j]
                height += 1
    return height


@njit(nogil=True, forceinline=True)
def finish(tables, work, answer, b, out, n_out):  # type: ignore[no-untyped-def]
    """States at the ends of the bins that no event reached; the time of the decision."""
    bins = answer.counts.shape[1]
    if answer.layer_v_mem.shape[2] > 0:
        for t in range(work.now[0].bin, bins):
            answer.layer_v_mem[b, t, :] = work.v
    totals = np.zeros(answer.counts.shape[2], np.int64)
    for t in range(bins):
        totals += answer.counts[b, t]
    return decide(out, n_out, tables.class_of, totals, work.running)
