"""Recordings through a chain of layers, one layer after the other.

In a chain the order of each layer's input is the same layer by layer as depth first, and so is what a die draws for it,
as long as the die holds nothing up.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cil_spl.base.threads import next_of
from cil_spl.chip.kernels.die import CHANCES, CORE, begin, decimate, identity, lose
from cil_spl.chip.kernels.events import grown, neuron_of, no_events, time_of
from cil_spl.chip.kernels.layer import no_masks, states, through
from cil_spl.chip.kernels.sensor import bin_starts, decide, read
from cil_spl.chip.kernels.tables import SLACK
from cil_spl.chip.kernels.vectors import borrowed


@njit(nogil=True)
def run_chain(counter, recordings, tables, order, answer, die):  # type: ignore[no-untyped-def]
    """Recordings, one after another, until ``counter`` has handed out all."""
    recordings, tables, answer, die = borrowed(recordings), borrowed(tables), borrowed(answer), borrowed(die)
    layers, offsets, edges_us = tables.layers, recordings.offsets, recordings.edges_us
    n_layers, bins, n_classes = len(layers), edges_us.shape[1] - 1, answer.counts.shape[2]
    with_v_mem = answer.layer_v_mem.shape[2] > 0
    largest = 0
    for k in range(n_layers):
        largest = max(largest, layers[k].size)
    v, masks = states(largest), no_masks(layers)
    starts, running, random = np.zeros(bins + 1, np.int64), np.zeros(n_classes, np.int64), np.zeros(1, np.uint64)
    chance, cores = np.zeros(CHANCES * n_layers, np.uint64), np.zeros(n_layers, CORE)
    events, out = no_events(4096), no_events(4096)
    while True:
        b = next_of(counter)
        if b >= len(offsets) - 1:
            return
        while len(events) < offsets[b + 1] - offsets[b]:
            events = grown(events, 0)
        n_in = read(recordings, b, tables.sensor, events)
        answer.input_events[b] = n_in
        if n_in < 0:
            continue
        random[0] = np.uint64(order)
        if die.any:
            begin(cores, chance, die, identity(events, n_in))
        bin_starts(events, n_in, edges_us[b], starts)
        for k in range(n_layers):  # edge k leads to layer k
            if die.lost > 0:
                n_in = lose(events, n_in, tables, k, die.lost, chance)
                bin_starts(events, n_in, edges_us[b], starts)
            first, size = layers[k].state, layers[k].size
            v[: size + SLACK] = layers[k].init
            n = 0
            parts = bins if with_v_mem else 1
            for t in range(parts):
                begin_at, end = (starts[t], starts[t + 1]) if with_v_mem else (0, n_in)
                out, n, adds, saturated = through(
                    events, begin_at, end, tables, k, v, masks, out, n, order != 0, random
                )
                answer.synops[b, k] += adds
                answer.saturations[b, k] += saturated
                if with_v_mem:
                    answer.layer_v_mem[b, t, first : first + size] = v[:size]
            if die.decimate[k] > 1:
                n = decimate(out, n, cores, k, die.decimate[k])
            bin_starts(out, n, edges_us[b], starts)
            record(answer, b, k, first, out, n, starts)
            events, out, n_in = out, events, n
        answer.decision_us[b] = count_classes(answer.counts[b], tables.class_of, events, n_in, starts, running)


@njit(nogil=True)
def record(answer, b, k, first, out, n, starts):  # type: ignore[no-untyped-def]
    """Note what layer ``k`` fired in recording ``b``."""
    answer.events_per_layer[b, k] = n
    if answer.layer_counts.shape[2] > 0:
        counts = answer.layer_counts
        for t in range(len(starts) - 1):
            for i in range(starts[t], starts[t + 1]):
                counts[b, t, first + neuron_of(out[i])] += 1
    if answer.keep_events[k]:
        at = answer.event_offsets[b, k]
        for i in range(n):
            answer.event_neuron[at + i], answer.event_time[at + i] = neuron_of(out[i]), time_of(out[i])


@njit(nogil=True)
def count_classes(counts, class_of, events, n, starts, running):  # type: ignore[no-untyped-def]
    """Count the last layer's events by bin and class; the time of the decision."""
    totals = np.zeros(counts.shape[1], np.int64)
    for t in range(len(starts) - 1):
        for i in range(starts[t], starts[t + 1]):
            c = class_of[neuron_of(events[i])]
            if c >= 0:
                counts[t, c] += 1
        totals += counts[t]
    return decide(events, n, class_of, totals, running)
