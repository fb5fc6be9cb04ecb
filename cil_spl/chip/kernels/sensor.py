"""Lists of events at both ends of a network: the sensor's recordings, bins of time, and the decision."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True)
def read(recordings, b, shape, out):  # type: ignore[no-untyped-def]
    """A recording's events as sensor neurons; what lies outside is dropped. -1 if time runs backwards."""
    events, first, stop = recordings.events, recordings.offsets[b], recordings.offsets[b + 1]
    neuron, time = out.neuron, out.time
    channels, height, width = shape[0], shape[1], shape[2]
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


@njit(nogil=True)
def bin_starts(time, n, edges, starts):  # type: ignore[no-untyped-def]
    """Where each bin's events begin in a sorted list; ``starts`` is [T + 1]."""
    bins = len(starts) - 1
    i = 0
    starts[0] = 0
    for t in range(1, bins):
        while i < n and time[i] < edges[t]:
            i += 1
        starts[t] = i
    starts[bins] = n


@njit(nogil=True)
def decide(neuron, time, n, class_of, totals, running):  # type: ignore[no-untyped-def]
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
