"""Events that are under way on a die: a binary heap; equal times stay in the order of their numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

from cil_spl.chip.kernels.tables import FOREVER

# When an event has its turn, in nanoseconds; its number in the queue; the edge it takes; the source's neuron; and
# where it is then (a stage of depth_first).
QUEUED = np.dtype([(name, np.int64) for name in ("time", "number", "edge", "neuron", "stage")], align=True)


@njit(nogil=True, forceinline=True)
def move(queue, source, target):  # type: ignore[no-untyped-def]
    """Column by column: numba copies a whole row byte by byte."""
    old, new = queue[source], queue[target]
    new.time, new.number, new.edge, new.neuron, new.stage = old.time, old.number, old.edge, old.neuron, old.stage


@njit(nogil=True, forceinline=True)
def put(queue, n, time, number, edge, neuron, stage):  # type: ignore[no-untyped-def]
    """One more event in a queue of ``n``, which has room for it."""
    time = min(time, FOREVER - 1)
    at = n
    while at > 0:
        above = (at - 1) // 2
        if queue[above].time < time or (queue[above].time == time and queue[above].number < number):
            break
        move(queue, above, at)
        at = above
    new = queue[at]
    new.time, new.number, new.edge, new.neuron, new.stage = time, number, edge, neuron, stage


@njit(nogil=True, forceinline=True)
def remove_first(queue, n):  # type: ignore[no-untyped-def]
    """Close the gap that the first of ``n`` events leaves."""
    last, at = n - 1, 0
    while True:
        below = 2 * at + 1
        if below >= last:
            break
        if below + 1 < last:
            a, b = queue[below].time, queue[below + 1].time
            if b < a or (a == b and queue[below + 1].number < queue[below].number):
                below += 1
        a, b = queue[below].time, queue[last].time
        if b < a or (a == b and queue[last].number < queue[below].number):
            break
        move(queue, below, at)
        at = below
    move(queue, last, at)
