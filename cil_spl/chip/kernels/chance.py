"""Random numbers of the compiled loops: streams of splitmix64 (Steele et al. 2014), whose states lie in an array."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, forceinline=True)
def draw(random, at):  # type: ignore[no-untyped-def]
    """The next 64 random bits; ``random[at]`` is the state, uint64."""
    random[at] += np.uint64(0x9E3779B97F4A7C15)
    z = random[at]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, forceinline=True)
def below(random, at, n):  # type: ignore[no-untyped-def]
    """A random whole number from 0 to n - 1."""
    return np.int64((draw(random, at) >> np.uint64(32)) * np.uint64(n) >> np.uint64(32))


@njit(nogil=True, forceinline=True)
def uniform(random, at):  # type: ignore[no-untyped-def]
    """A random number from [0, 1)."""
    return np.float64(draw(random, at) >> np.uint64(11)) * 2.0**-53


@njit(nogil=True, forceinline=True)
def shuffle(events, first, stop, random):  # type: ignore[no-untyped-def]
    """Put ``events[first:stop]`` in a random order."""
    for i in range(stop - 1, first, -1):
        j = first + below(random, 0, i - first + 1)
        events[i], events[j] = events[j], events[i]
