"""The tables that the compiled loops read and fill; each row of a table has named columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TOP, BOTTOM = 32767, -32768
NARROW, WIDE = 32, 64  # lanes of a vector
# Rows and lanes of the windows that have a loop of their own; all others are padded to WIDE lanes.
SHAPES = ((3, 32), (2, 32), (1, 16), (1, 32), (3, 48), (2, 64), (3, 192), (2, 128))
ANY = len(SHAPES)
# As (2, 32), for 16 features on a small map: one vector for each place. There, what an event reads was often written by
# one of the last few, and a processor hands on what is not yet in its cache only to a load of the very same bytes.
CLOSE, SMALL_MAP = ANY + 1, 64
NOWHERE = 1 << 14  # in the exact tables, the weight of a neuron that the kernel does not reach
NEVER = 1 << 15  # a threshold that no state reaches
SLACK = 64  # states after those of a layer: its windows are padded
RECIPROCAL_BITS = 40
FOREVER = 1 << 62
LAST_US = np.int64(2**31 - 1)  # times have 32 bits


def _row(kind: type[np.generic], *names: str) -> np.dtype[np.void]:
    return np.dtype([(name, kind) for name in names], align=True)


LAYER = _row(
    np.int64,
    "state",  # its first membrane
    "size",  # membranes
    "row",  # membranes of a row of its map
    "low",  # the lower bound of a state
    "threshold",
    "init",  # of a state before the first event
    "keep",  # what remains of a state that fired, bit by bit: -1, or 0 for a reset to zero
    "weights",  # its first weight
    "channel",  # weights of an input channel
    "rows",  # rows of its window
    "lanes",  # membranes of a row of its window, padded
    "shape",  # of its window, a number in SHAPES, ANY or CLOSE
    "lead",  # from the weights of a row of the window to those of the next
    "exact",  # whether it takes the exact step
    "resident",  # whether its window is all that it has
)
# What lies between a source's events and the weights of a layer.
EDGE = _row(
    np.int64,
    "target",  # the layer
    "pixels",  # its first row in the table of pixels
    "features",  # of the source
    "reciprocal",  # of features
    "shift",  # of a feature
    "channels",  # of the layer's input
)
# One row for each source pixel of an edge.
PIXEL = _row(
    np.int32,
    "first",  # the first membrane of its window
    "weight",  # the first weight of it
    "adds",  # additions that reach a neuron; 0 where the event is dropped
)


class Tables(NamedTuple):
    """A network: see :class:`cil_spl.chip.program.Program`. ``fan_out`` [L, 2] holds the numbers of the edges that
    leave each layer, in order, -1 for none; ``lane`` [L, 64] the neurons, counted from the first, that the bits of a
    mask stand for."""

    sensor: np.ndarray
    layers: np.ndarray
    edges: np.ndarray
    fan_out: np.ndarray
    pixels: np.ndarray
    lane: np.ndarray
    weight: np.ndarray
    threshold: np.ndarray
    class_of: np.ndarray


class EventLists(NamedTuple):
    """What is sent: see :func:`cil_spl.chip.simulator.simulate`."""

    events: np.ndarray
    offsets: np.ndarray
    edges_us: np.ndarray


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
    """What a die does to events: see :class:`cil_spl.chip.die.Die`. One entry per layer, ``leak`` one per neuron; a
    rate or period of 0 is none, a FIFO of -1 has no end. ``any`` is whether there is anything at all, ``timed`` whether
    there is what moves events or states in time: delays, rates, leaks. Only :mod:`depth_first` knows those."""

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
