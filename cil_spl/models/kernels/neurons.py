"""One time step of a row of neurons, and of its gradient; the operations are those of sinabs, in their order.

Equations in ``cil_spl/models/neurons.py``. The gradient of a step, with g what comes from the spikes and c what comes
from the membrane after it:

    kept  = 1 where u - theta s > v_min, else 0      (straight through: 1)
    delta = (g - theta c kept) psi(u) + c kept       dL/du, and so the gradient of the current
    c     = alpha delta                              for the step before; 0 where steps are not linked
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from cil_spl.models.kernels.vectors import power_of_two

UNIT, PERIODIC, SINGLE, TRIANGLE, SIGMOID = range(5)
APPROXIMATELY = {"contract"}  # of gradients alone: spikes keep the arithmetic of sinabs


class Neurons(NamedTuple):
    """Numbers of a layer: floats in the type of its maps.

    ``kind`` is the surrogate: UNIT, PERIODIC, SINGLE, TRIANGLE or SIGMOID, with ``width`` and ``height``; ``low`` is
    -inf for no bound. ``carry`` is alpha in the gradient: 0 where it does not go back through time.
    """

    alpha: np.floating
    theta: np.floating
    low: np.floating
    width: np.floating
    height: np.floating
    kind: int
    single: bool
    straight: bool
    carry: np.floating


@njit(nogil=True, error_model="numpy")
def step(current, v, spikes, u, p):  # type: ignore[no-untyped-def]
    """Membranes ``v`` after a step, its spikes, and ``u``. Shapes (N,)."""
    alpha, theta, low, single = p.alpha, p.theta, p.low, p.single
    zero = theta - theta
    bounded = low > -np.inf
    for i in range(len(v)):
        x = alpha * v[i] + current[i]
        if single:  # noqa: SIM108
            s = theta / theta if x - theta >= zero else zero
        else:
            s = np.trunc(x / theta) if x > zero else zero
        rest = x - s * theta
        if bounded:
            above = rest - low
            rest = (above if above > zero else zero) + low
        v[i] = rest
        spikes[i] = s
        u[i] = x


@njit(nogil=True, error_model="numpy")
def observed_step(current, v, counts, states, u, kept, p):  # type: ignore[no-untyped-def]
    """As :func:`step`, with spikes, and states of another machine. Shapes (N,), states (N,) or (0,)."""
    alpha, theta, low = p.alpha, p.theta, p.low
    zero = theta - theta
    bounded, with_states = low > -np.inf, len(states) > 0
    for i in range(len(v)):
        x = alpha * v[i] + current[i]
        rest = x - counts[i] * theta
        above = rest - low
        if bounded:
            rest = (above if above > zero else zero) + low
        kept[i] = above > zero
        if with_states:
            if states[i] != rest:
                x = states[i] + theta * counts[i]
            rest = states[i]
        u[i] = x
        v[i] = rest


@njit(nogil=True, error_model="numpy")  # whether a neuron was clipped is decided by the forward pass's roundings
def back(grad, u, carried, delta, p):  # type: ignore[no-untyped-def]
    """``delta`` of a step, and ``carried``, c, for the one before. Shapes (N,)."""
    carry, theta, low, single, straight = p.carry, p.theta, p.low, p.single, p.straight
    kind, width, height = p.kind, p.width, p.height
    zero = theta - theta
    if kind == PERIODIC and not straight and low < -theta / 1024:
        # The common case: what has spiked is above the bound, whatever rounding does, so no spike has to be known.
        for i in range(len(u)):
            x = u[i]
            c = carried[i] if x > low else zero
            d = (grad[i] - theta * c) * _psi(x, theta, PERIODIC, width, height) + c
            delta[i] = d
            carried[i] = carry * d
        return
    for i in range(len(u)):
        x = u[i]
        if single:  # noqa: SIM108
            s = theta / theta if x - theta >= zero else zero
        else:
            s = np.trunc(x / theta) if x > zero else zero
        kept = straight or (x - s * theta) - low > zero
        c = carried[i] if kept else zero
        d = (grad[i] - theta * c) * _psi(x, theta, kind, width, height) + c
        delta[i] = d
        carried[i] = carry * d


@njit(nogil=True, error_model="numpy")
def observed_back(grad, u, kept, carried, delta, p):  # type: ignore[no-untyped-def]
    """As :func:`back`, of an observed step. Shapes (N,)."""
    carry, theta, straight = p.carry, p.theta, p.straight
    kind, width, height = p.kind, p.width, p.height
    zero = theta - theta
    if kind == PERIODIC and not straight:
        for i in range(len(u)):
            c = carried[i] if kept[i] else zero
            d = (grad[i] - theta * c) * _psi(u[i], theta, PERIODIC, width, height) + c
            delta[i] = d
            carried[i] = carry * d
        return
    for i in range(len(u)):
        c = carried[i] if straight or kept[i] else zero
        d = (grad[i] - theta * c) * _psi(u[i], theta, kind, width, height) + c
        delta[i] = d
        carried[i] = carry * d


@njit(nogil=True, forceinline=True, error_model="numpy", fastmath=APPROXIMATELY)
def _psi(x, theta, kind, width, height):  # type: ignore[no-untyped-def]
    one = theta / theta
    if kind == UNIT:
        return one
    distance = abs(x - theta)
    if kind == PERIODIC and x >= theta:
        half = one / (one + one)
        phase = x * (one / theta) - half
        distance = theta * abs((one + one) * (phase - np.floor(phase)) - one)
    if kind == TRIANGLE:
        part = one - distance * (one / width)
        return height * (part if part > one - one else one - one)
    e = _decay(distance, width)
    if kind == SIGMOID:
        return height * e / ((one + e) * (one + e))
    return height * e


def _decay(distance, width):  # type: ignore[no-untyped-def]
    """exp(-distance / width), in float32 to 4e-7 of it, less far out. A library call would not run in SIMD."""
    raise NotImplementedError


@overload(_decay, inline="always")
def _decay_of(distance, width):  # type: ignore[no-untyped-def]
    if distance != types.float32:
        return lambda distance, width: np.exp(-distance / width)

    def single(distance, width):  # type: ignore[no-untyped-def]
        f = np.float32
        y = max(distance * (f(-1.4426950408889634) / width), f(-126))
        k = np.floor(y + f(0.5))
        r = y - k
        # 2^r for |r| <= 1/2, the best polynomial of its degree; in pairs, which do not wait for one another.
        low = (f(1.00000007) + f(0.693146967) * r) + (f(0.240221197) + f(0.0555071327) * r) * (r * r)
        high = f(0.00967554133) + f(0.00132764715) * r
        return (low + high * ((r * r) * (r * r))) * power_of_two(np.int32(k))

    return single
