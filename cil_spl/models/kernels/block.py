"""Convolution, neurons and pooling of one recording through all time steps, and their gradient.

The map of a layer stays in the cache from the currents to the pooled spikes; only the input and the pooled spikes of a
step are in memory. An input that is zero costs nothing. The backward pass computes the membranes of a part of the steps
again, from the state before it, instead of having them kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from cil_spl.models.kernels.conv import (
    add_dense,
    add_events,
    find,
    is_dense,
    outer_dense,
    outer_events,
    sum_back,
    with_margins,
)
from cil_spl.models.kernels.maps import into_map, out_of_map, pool, unpool
from cil_spl.models.kernels.neurons import back, observed_back, observed_step, step
from cil_spl.models.kernels.vectors import copy


@njit(nogil=True, forceinline=True)
def clear(x):  # type: ignore[no-untyped-def]
    """Zeros; an assignment to a slice would have numba compile what shapes it would complain of."""
    for i in range(len(x)):
        x[i] = 0


class Seen(NamedTuple):
    """Counts, and states, of another machine, (T, B, N), in the order of a map; of no steps where there are none."""

    counts: np.ndarray
    states: np.ndarray


class Weights(NamedTuple):
    """Of a convolution, in the orders of :class:`tables.Tables`; ``bias`` may be empty."""

    runs: np.ndarray
    groups: np.ndarray
    dense: np.ndarray
    bias: np.ndarray


class Scratch(NamedTuple):
    """Room for a recording: maps, (size,); of each step of a part ``us`` and ``kept``, (span,), ``masks``, ``many``.

    ``padded`` is a frame with its padding.
    """

    current: np.ndarray
    v: np.ndarray
    spikes: np.ndarray
    states: np.ndarray
    carried: np.ndarray
    grad: np.ndarray
    delta: np.ndarray
    total: np.ndarray
    padded: np.ndarray
    us: np.ndarray
    kept: np.ndarray
    masks: np.ndarray
    many: np.ndarray


@njit(nogil=True, inline="always")
def scratch(like, shape, part, observed, counted):  # type: ignore[no-untyped-def]
    """Room for the backward pass of parts of ``part`` steps; of no steps for the forward pass."""
    n, f, steps = shape.size, like.dtype, max(part, 1)
    m = n if part else 0
    return Scratch(
        np.zeros(n, f), np.zeros(n, f), np.zeros(n, f), np.zeros(n if observed else 0, f), np.zeros(m, f),
        np.zeros(m, f), np.zeros(m, f), np.zeros(n if counted else 0, f), np.zeros(shape.in_size, f),
        np.zeros((steps, shape.span), f),
        np.zeros((steps if observed else 0, shape.span), np.bool_), np.zeros((steps, shape.masks), np.uint64),
        np.zeros(steps, np.int64),
    )  # fmt: skip


@njit(nogil=True, inline="always")
def one_step(x, counts, states, weights, room, k, u, shape, pixels, p):  # type: ignore[no-untyped-def]
    """A time step of a recording: currents, then neurons; what is kept goes to row ``k`` of the room's, and ``u``."""
    g = shape
    current, masks = room.current, room.masks[k]
    room.many[k] = find(x, masks)
    if is_dense(room.many[k], g):
        with_margins(x, room.padded, g)
        add_dense(room.padded, current, weights.dense, g)
    else:
        clear(current)
        add_events(x, masks, current, weights.runs, g, pixels)
    a, b = g.first, g.first + g.span
    if len(weights.bias):
        for i in range(a, b):
            current[i] += weights.bias[(i - a) % g.features]
    if len(counts):
        into_map(counts, room.spikes, g)
        if len(states):
            into_map(states, room.states, g)
        seen = room.states[a:b] if len(states) else room.states[:0]
        observed_step(current[a:b], room.v[a:b], room.spikes[a:b], seen, u, room.kept[k], p)
    else:
        step(current[a:b], room.v[a:b], room.spikes[a:b], u, p)


@njit(nogil=True, inline="always")
def forward(x, b, start, seen, weights, out, end, total, saved, room, part, shape, pixels, p):  # type: ignore[no-untyped-def]
    """Recording ``b`` through all time steps.

    Shapes: x (T, B, H W C), start (B, N) or (1, N), out (T, B, N'); end and total, the spikes of all steps, (B, N) or
    (0, N). saved: the membranes u of all steps, (T, B, span); or the states before each part of ``part`` steps but the
    first, (parts - 1, B, span); or none.
    """
    a = shape.first
    clear(room.v)
    into_map(start[b if len(start) > 1 else 0], room.v, shape)
    observed, with_states = len(seen.counts) > 0, len(seen.states) > 0
    clear(room.total)
    replaced = observed and len(end) == 0 and part >= len(x)  # nobody asks what these neurons did
    for t in range(len(x)):
        if t and t % part == 0 and 0 < len(saved) < len(x):
            copy(saved[t // part - 1, b], 0, room.v, a, shape.span)
        counts = seen.counts[t, b] if observed else weights.bias[:0]
        states = seen.states[t, b] if with_states else weights.bias[:0]
        if replaced:
            into_map(counts, room.spikes, shape)
        else:
            u = saved[t, b] if len(saved) == len(x) else room.us[0]
            one_step(x[t, b], counts, states, weights, room, 0, u, shape, pixels, p)
        pool(room.spikes, out[t, b], shape)
        for i in range(len(room.total)):
            room.total[i] += room.spikes[i]
    if len(end):
        out_of_map(room.v, end[b], shape)
    if len(total):
        out_of_map(room.total, total[b], shape)


@njit(nogil=True, inline="always")
def backward(  # type: ignore[no-untyped-def]
    x, b, start, seen, weights, grad, carried, saved, by_x, runs, dense, by_bias, room, part, shape, pixels, p,
):  # fmt: skip
    """The gradient of recording ``b``; that of the weights and biases is added to ``runs``, ``dense`` and ``by_bias``.

    Shapes: as in :func:`forward`; grad (T, B, N'), carried (B, N): from the states after the last step, and then of
    those before the first; by_x (T, B, H W C), or of no steps.
    """
    g = shape
    a, z = g.first, g.first + g.span
    steps = len(x)
    clear(room.carried)
    into_map(carried[b], room.carried, g)
    observed, with_states = len(seen.counts) > 0, len(seen.states) > 0
    all_kept = len(saved) == steps
    for back_part in range((steps + part - 1) // part):
        first = ((steps - 1) // part - back_part) * part
        last = min(first + part, steps)
        if first == 0:
            clear(room.v)
            into_map(start[b if len(start) > 1 else 0], room.v, g)
        elif not all_kept:
            copy(room.v, a, saved[first // part - 1, b], 0, g.span)
        for t in range(first, first if all_kept else last):
            counts = seen.counts[t, b] if observed else weights.bias[:0]
            states = seen.states[t, b] if with_states else weights.bias[:0]
            one_step(x[t, b], counts, states, weights, room, t - first, room.us[t - first], g, pixels, p)
        for before in range(last - first):
            t, k = last - 1 - before, last - 1 - before - first
            unpool(grad[t, b], room.grad, g)
            if all_kept:
                room.many[k] = find(x[t, b], room.masks[k])
            u = saved[t, b] if all_kept else room.us[k]
            if observed:
                observed_back(room.grad[a:z], u, room.kept[k], room.carried[a:z], room.delta[a:z], p)
            else:
                back(room.grad[a:z], u, room.carried[a:z], room.delta[a:z], p)
            if is_dense(room.many[k], g):
                with_margins(x[t, b], room.padded, g)
                outer_dense(room.padded, room.delta, dense, g)
            else:
                outer_events(x[t, b], room.masks[k], room.delta, runs, g, pixels)
            for i in range(len(by_bias)):
                for at in range(a + i, z, g.features):
                    by_bias[i] += room.delta[at]
            if len(by_x):
                sum_back(room.delta, weights.groups, by_x[t, b], g, pixels)
    out_of_map(room.carried, carried[b], g)
