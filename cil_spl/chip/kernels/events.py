"""An event of a layer or the sensor, one int64: its time in microseconds in the upper half, its neuron in the lower."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, forceinline=True)
def event(neuron, time):  # type: ignore[no-untyped-def]
    return (np.int64(time) << 32) | np.int64(neuron)


@njit(nogil=True, forceinline=True)
def neuron_of(word):  # type: ignore[no-untyped-def]
    return word & 0xFFFFFFFF


@njit(nogil=True, forceinline=True)
def time_of(word):  # type: ignore[no-untyped-def]
    return word >> 32


@njit(nogil=True, forceinline=True)
def no_events(room):  # type: ignore[no-untyped-def]
    """Room for so many events."""
    return np.empty(room, np.int64)


@njit(nogil=True, forceinline=True)
def grown(array, n):  # type: ignore[no-untyped-def]
    """A larger array with the same first ``n`` entries."""
    new = np.empty(2 * len(array), array.dtype)
    new[:n] = array[:n]
    return new
