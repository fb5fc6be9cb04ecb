"""Lists of events at both ends of a network: the sensor's recordings, bins of time, and the decision."""

from __future__ import annotations

import numpy as np
from numba import njit

from cil_spl.chip.kernels.events import event, neuron_of, time_of
from cil_spl.chip.kernels.vectors import apart


@njit(nogil=True)
def read(recordings, b, shape, out):  # type: ignore[no-untyped-def]
    """A recording's events as sensor neurons; what lies outside is dropped. -1 if time runs backwards."""
    apart()
    events, first, stop = recordings.events, recordings.offsets[b], recordings.offsets[b + 1]
    channels, height, width = np.uint64(shape[0]), np.uint64(shape[1]), np.uint64(shape[2])
    n = 0
    last = events[first].t if stop > first else 0
    for i in range(np.uint64(first), np.uint64(stop)):
        # As unsigned numbers, negative ones are larger than any map.
        x, y, t = np.uint64(np.int64(events[i].x)), np.uint64(np.int64(events[i].y)), events[i].t
        p = np.uint64(np.int64(events[i].p)) if channels > 1 else np.uint64(0)
        if t < last:
            return -1
        last = t
        if x >= width or y >= height or p >= channels:
            continue
        out[np.uint64(n)] = event((y * width + x) * channels + p, t)
        n += 1
    return n


@njit(nogil=True)
def bin_starts(events, n, edges, starts):  # type: ignore[no-untyped-def]
    """Where each bin's events begin in a sorted list; ``starts`` is [T + 1]."""
    bins = len(starts) - 1
    i = 0
    starts[0] = 0
    for t in range(1, bins):
        while i < n and time_of(events[i]) < edges[t]:
            i += 1
        starts[t] = i
    starts[bins] = n


@njit(nogil=True)
def decide(events, n, class_of, totals, running):  # type: ignore[no-untyped-def]
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
        k = class_of[neuron_of(events[i])]
        if k < 0:
            continue
        running[k] += 1
        if k != winner:
            rival = max(rival, running[k])
        now = running[winner] > rival
        if now and not leads:
            since = time_of(events[i])
        leads = now
    return since
