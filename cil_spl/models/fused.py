"""Spiking neurons on the CPU, all time steps of a layer in one fused pass: spikes, reset, surrogate derivative.

Step by step in torch, a layer of spiking neurons reads and writes its maps a dozen times a step, and that, not the
convolutions, is what training costs. Here the state of a block of neurons stays in the cache through all steps; forward
reads the current and writes spikes and ``u``, backward reads ``u`` and the gradient and writes the gradient.

The forward pass does the same float32 operations in the same order as sinabs, so that spikes are equal to the bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import sinabs.activation as sina
import sinabs.layers as sl
import torch
from torch import Tensor

BLOCK = 2048  # neurons whose state stays in the first-level cache
UNIT, PERIODIC, SINGLE = 0, 1, 2


def supports(layer: sl.LIF, current: Tensor) -> bool:
    """Whether this path does what the layer asks: CPU, float32, subtraction, an exponential surrogate."""
    return (
        current.device.type == "cpu"
        and current.dtype == torch.float32
        and type(layer.reset_fn) is sina.MembraneSubtract
        and layer.reset_fn.subtract_value is None
        and layer.spike_fn in (sina.MultiSpike, sina.SingleSpike)
        and type(layer.surrogate_grad_fn) in (sina.PeriodicExponential, sina.SingleExponential)
        and not layer.alpha_mem_calculated.requires_grad
        and layer.spike_threshold.numel() == 1
        and not layer.spike_threshold.requires_grad
    )


def run(
    layer: sl.LIF,
    current: Tensor,
    start: Tensor,
    straight_through: bool,
    counts: Tensor | None = None,
    states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Spikes of all steps and the last state; arguments as in :func:`cil_spl.models.neurons.run`.

    ``start`` are the states before the first step; ``counts`` and ``states`` are what another machine was observed to
    do, or None.

    Shape:
        current, spikes, counts, states: (T, B, ...); start: (B, ...).
    """
    surrogate = layer.surrogate_grad_fn
    theta = float(layer.spike_threshold)
    if straight_through:
        kind, width, height = UNIT, 1.0, 1.0
    elif isinstance(surrogate, sina.PeriodicExponential):
        kind, width, height = PERIODIC, surrogate.grad_width, surrogate.grad_scale
    else:
        width = theta * surrogate.grad_width
        kind, height = SINGLE, surrogate.grad_scale / width
    alpha = float(layer.alpha_mem_calculated)
    low = -np.inf if layer.min_v_mem is None else float(layer.min_v_mem)
    single = layer.spike_fn is sina.SingleSpike
    constants = (alpha, theta, low, single, kind, width, height, straight_through)
    if counts is not None:
        return _Observed.apply(current, start, counts, states, constants)
    return _Fused.apply(current, start, constants)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, start: Tensor, constants: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        alpha, theta, low, single, *_ = constants
        flat = _flat(current)
        spikes, u = np.empty_like(flat), np.empty_like(flat)
        end = start.detach().contiguous().view(-1).numpy().copy()
        f = np.float32
        _forward(flat, end, spikes, u, f(alpha), f(theta), f(low), single)
        ctx.constants, ctx.shape = constants, current.shape
        ctx.save_for_backward(torch.from_numpy(u))
        return torch.from_numpy(spikes).view(current.shape), torch.from_numpy(end).view(start.shape)

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, grad_end: Tensor) -> Any:
        alpha, theta, low, single, kind, width, height, straight = ctx.constants
        (u,) = ctx.saved_tensors
        grad = _flat(grad_spikes)
        carried = grad_end.detach().contiguous().view(-1).numpy().copy()
        out = np.empty_like(grad)
        f = np.float32
        _backward(
            grad, u.numpy(), carried, out, f(alpha), f(theta), f(low), single, kind, f(width), f(height), straight
        )
        return torch.from_numpy(out).view(ctx.shape), torch.from_numpy(carried).view(ctx.shape[1:]), None


class _Observed(torch.autograd.Function):
    """Counts, and states where given, from another machine; the gradient is this layer's (see neurons.run)."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, start: Tensor, counts: Tensor, v_mem: Tensor | None, constants: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        alpha, theta, low, *_ = constants
        flat = _flat(current)
        seen, kept = np.empty_like(flat), np.empty(flat.shape, np.bool_)
        end = start.detach().contiguous().view(-1).numpy().copy()
        states = flat[:0] if v_mem is None else _flat(v_mem)
        f = np.float32
        _observed_forward(flat, end, _flat(counts), states, seen, kept, f(alpha), f(theta), f(low))
        ctx.constants, ctx.shape = constants, current.shape
        ctx.save_for_backward(torch.from_numpy(seen), torch.from_numpy(kept))
        return counts.clone(), torch.from_numpy(end).view(start.shape)

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, grad_end: Tensor) -> Any:
        alpha, theta, _, _, kind, width, height, straight = ctx.constants
        seen, kept = ctx.saved_tensors
        grad = _flat(grad_spikes)
        carried = grad_end.detach().contiguous().view(-1).numpy().copy()
        out = np.empty_like(grad)
        f = np.float32
        _observed_backward(
            grad, seen.numpy(), kept.numpy(), carried, out, f(alpha), f(theta), kind, f(width), f(height), straight
        )
        return torch.from_numpy(out).view(ctx.shape), torch.from_numpy(carried).view(ctx.shape[1:]), None, None, None


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().view(x.shape[0], -1).numpy()  # T B ... -> T N


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _forward(current, v, spikes, u, alpha, theta, low, single):  # type: ignore[no-untyped-def]
    steps, n = current.shape
    zero = np.float32(0)
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        a, b = block * BLOCK, min(n, (block + 1) * BLOCK)
        for t in range(steps):
            row, s_row, u_row, state = current[t, a:b], spikes[t, a:b], u[t, a:b], v[a:b]
            for i in range(b - a):
                x = alpha * state[i] + row[i]
                if single:
                    s = np.float32(1) if x - theta >= zero else zero
                else:
                    s = np.trunc(x / theta) if x > zero else zero
                rest = x - s * theta
                if low > -np.inf:
                    above = rest - low
                    rest = (above if above > zero else zero) + low
                state[i] = rest
                s_row[i] = s
                u_row[i] = x


@numba.njit(inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    """exp(x) for x <= 0 to 1e-5, as polynomial and squarings: unlike a library call it runs in SIMD."""
    r = max(x, np.float32(-40)) * np.float32(1 / 64)
    p = np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1)
    p = p * r + np.float32(1)
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    return p * p


@numba.njit(inline="always")
def _psi(x, theta, kind, width, height):  # type: ignore[no-untyped-def]
    if kind == 0:
        return np.float32(1)
    distance = abs(x - theta)
    if kind == 1 and x >= theta:
        phase = x / theta - np.float32(0.5)
        distance = theta * abs(np.float32(2) * (phase - np.floor(phase)) - np.float32(1))
    return height * _exp(-distance / width)


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _backward(grad, u, carried, out, alpha, theta, low, single, kind, width, height, straight):  # type: ignore[no-untyped-def]
    steps, n = grad.shape
    zero = np.float32(0)
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        a, b = block * BLOCK, min(n, (block + 1) * BLOCK)
        for back in range(steps):
            t = steps - 1 - back
            g_row, u_row, o_row, state = grad[t, a:b], u[t, a:b], out[t, a:b], carried[a:b]
            for i in range(b - a):
                x = u_row[i]
                if single:
                    s = np.float32(1) if x - theta >= zero else zero
                else:
                    s = np.trunc(x / theta) if x > zero else zero
                kept = straight or (x - s * theta) - low > zero
                g = state[i] if kept else zero
                psi = _psi(x, theta, kind, width, height)
                delta = (g_row[i] - theta * g) * psi + g
                o_row[i] = delta
                state[i] = alpha * delta


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _observed_forward(current, v, counts, states, seen, kept, alpha, theta, low):  # type: ignore[no-untyped-def]
    steps, n = current.shape
    zero = np.float32(0)
    with_states = len(states) > 0
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        a, b = block * BLOCK, min(n, (block + 1) * BLOCK)
        for t in range(steps):
            row, c_row, s_row, k_row, state = current[t, a:b], counts[t, a:b], seen[t, a:b], kept[t, a:b], v[a:b]
            o_row = states[t, a:b] if with_states else c_row
            for i in range(b - a):
                x = alpha * state[i] + row[i]
                rest = x - c_row[i] * theta
                above = rest - low
                if low > -np.inf:
                    rest = (above if above > zero else zero) + low
                k_row[i] = above > zero
                if with_states:
                    if o_row[i] != rest:
                        x = o_row[i] + theta * c_row[i]
                    rest = o_row[i]
                s_row[i] = x
                state[i] = rest


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _observed_backward(grad, seen, kept, carried, out, alpha, theta, kind, width, height, straight):  # type: ignore[no-untyped-def]
    steps, n = grad.shape
    zero = np.float32(0)
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        a, b = block * BLOCK, min(n, (block + 1) * BLOCK)
        for back in range(steps):
            t = steps - 1 - back
            g_row, s_row, k_row, o_row, state = grad[t, a:b], seen[t, a:b], kept[t, a:b], out[t, a:b], carried[a:b]
            for i in range(b - a):
                g = state[i] if straight or k_row[i] else zero
                delta = (g_row[i] - theta * g) * _psi(s_row[i], theta, kind, width, height) + g
                o_row[i] = delta
                state[i] = alpha * delta
