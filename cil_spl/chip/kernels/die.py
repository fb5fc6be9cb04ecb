"""What a die does to events and states: see :mod:`cil_spl.chip.die`, which says what and in which order."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cil_spl.chip.kernels.chance import below, draw, uniform
from cil_spl.chip.kernels.events import neuron_of, time_of
from cil_spl.chip.kernels.layer import additions
from cil_spl.chip.kernels.tables import BOTTOM, FOREVER, TOP

# What is drawn by chance for each recording and layer: CHANCES streams per layer.
LOST, JITTER, REORDER, DECIMATE = range(4)
CHANCES = 4
# Of each layer's core: events that wait at its input, when it is free again, where its decimator stands.
CORE = np.dtype([(name, np.int64) for name in ("waiting", "free_ns", "phase")], align=True)


@njit(nogil=True, forceinline=True)
def begin(cores, chance, die, identity):  # type: ignore[no-untyped-def]
    """Cores at rest, and a stream of its own for each die, effect, layer and recording, ``chance[CHANCES * layer +
    effect]``; decimators by chance."""
    for k in range(len(cores)):
        for effect in range(CHANCES):
            at = CHANCES * k + effect
            chance[at] = identity
            chance[at] = draw(chance, at) ^ np.uint64(die.seed)
            chance[at] = draw(chance, at) ^ np.uint64(effect)
            chance[at] = draw(chance, at) ^ np.uint64(k)
            draw(chance, at)
        cores[k].waiting, cores[k].free_ns = 0, -FOREVER
        cores[k].phase = below(chance, CHANCES * k + DECIMATE, die.decimate[k])


@njit(nogil=True, forceinline=True)
def identity(events, n):  # type: ignore[no-untyped-def]
    """A number made of a recording's events, so that chance does not depend on its place in a batch."""
    h = np.uint64(14695981039346656037)
    for i in range(n):
        h = (h ^ np.uint64(neuron_of(events[i]))) * np.uint64(1099511628211)
        h = (h ^ np.uint64(time_of(events[i]))) * np.uint64(1099511628211)
    return h


@njit(nogil=True, forceinline=True)
def lose(events, n, tables, e, lost, chance):  # type: ignore[no-untyped-def]
    """Of ``n`` events on their way over edge ``e`` those that are not lost and reach a neuron, in place; how many."""
    at = CHANCES * tables.edges[e].target + LOST
    kept = 0
    for i in range(n):
        if additions(tables, e, neuron_of(events[i])) > 0 and uniform(chance, at) >= lost:
            events[kept] = events[i]
            kept += 1
    return kept


@njit(nogil=True, forceinline=True)
def decimate(events, n, cores, k, one_in):  # type: ignore[no-untyped-def]
    """Every ``one_in``-th of a layer's events, counted on from its core's phase, in place; how many."""
    core = cores[k]
    passed = 0
    for i in range(n):
        core.phase += 1
        if core.phase == one_in:
            core.phase = 0
            events[passed] = events[i]
            passed += 1
    return passed


@njit(nogil=True, forceinline=True)
def way_ns(die, chance, k):  # type: ignore[no-untyped-def]
    """How long an event is on its way into a layer, in nanoseconds; -1 if it never gets there."""
    delay = np.int64(0)
    if die.lost > 0 and uniform(chance, CHANCES * k + LOST) < die.lost:
        return np.int64(-1)
    if die.jitter_ns > 0:
        delay += np.int64(-die.jitter_ns * math.log(1.0 - uniform(chance, CHANCES * k + JITTER)))
    if die.reorder_ns > 0:
        delay += np.int64(die.reorder_ns * uniform(chance, CHANCES * k + REORDER))
    return delay


@njit(nogil=True, forceinline=True)
def tick(tables, k, leak, v, fired):  # type: ignore[no-untyped-def]
    """One tick of the slow clock for a layer: every neuron takes its leak, and may fire.

    Returns:
        events, saturations.
    """
    layer = tables.layers[k]
    first, low, keep = layer.state, layer.low, layer.keep
    n = saturated = 0
    for i in range(first, first + layer.size):
        state = np.int64(v[i]) + np.int64(leak[i])
        if state > TOP or state < BOTTOM:
            saturated += 1
            state = TOP if state > TOP else BOTTOM
        state = max(state, low)
        if max(state, 0) >= tables.threshold[i]:
            fired[n] = i - first
            n += 1
            state = (state - np.int64(tables.threshold[i])) & keep
        v[i] = np.int16(state)
    return n, saturated
