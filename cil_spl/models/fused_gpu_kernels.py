"""The two kernels of :mod:`cil_spl.models.fused_gpu`; importing them needs triton.

A program takes a block of neurons through all time steps, their states in registers. Every operation is a float32 one,
in the order of the CPU pass and none contracted with the next, so that both give the same bits: ``div_rn``, since a
plain ``/`` is an approximation there, and no fused multiply-add (``enable_fp_fusion=False`` at the launch).

    n          neurons, all of a batch; a step is a row of n values, the next follows at once
    theta, alpha, low   one value each, in the device's memory: to fetch them would be to wait for the device
    None       as counts, states, low, u or kept: there is none, and what depends on it is not compiled
"""

import triton
import triton.language as tl

from cil_spl.models.kernels.neurons import PERIODIC, UNIT

BLOCK = 256  # neurons of a program
_UNIT, _PERIODIC = tl.constexpr(UNIT), tl.constexpr(PERIODIC)  # a kernel reads no other globals


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    current, start, counts, states, theta, alpha, low, spikes, u, kept, end, steps, n,
    ONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spikes, the membrane u that the derivative is taken at, which neurons were not clipped, and the last states."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    theta, alpha = tl.load(theta), tl.load(alpha)
    if low is not None:
        bound = tl.load(low)
    v = tl.load(start + at, inside, other=0.0)
    here = at
    for _ in range(steps):
        x = alpha * v + tl.load(current + here, inside, other=0.0)
        s = tl.load(counts + here, inside, other=0.0) if counts is not None else _spikes(x, theta, ONE)
        v = x - s * theta
        if low is not None:
            above = v - bound
            v = tl.where(above > 0.0, above, 0.0) + bound
            if kept is not None:
                tl.store(kept + here, above > 0.0, inside)
        if states is not None:
            seen = tl.load(states + here, inside, other=0.0)
            x = tl.where(seen != v, seen + theta * s, x)
            v = seen
        tl.store(spikes + here, s, inside)
        if u is not None:
            tl.store(u + here, x, inside)
        here += n
    tl.store(end + at, v, inside)


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    grad, u, kept, grad_end, theta, alpha, low, out, grad_start, steps, n, last,
    ONE: tl.constexpr, KIND: tl.constexpr, WIDTH: tl.constexpr, HEIGHT: tl.constexpr, STRAIGHT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of the currents and of the states before the first step; ``last`` is where the last step begins."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    theta, alpha = tl.load(theta), tl.load(alpha)
    if low is not None:
        bound = tl.load(low)
    carried = tl.load(grad_end + at, inside, other=0.0)
    here = at + last
    for _ in range(steps):
        x = tl.load(u + here, inside, other=0.0)
        by_v = carried
        if not STRAIGHT and low is not None:
            if kept is not None:
                free = tl.load(kept + here, inside, other=0) != 0
            else:
                free = (x - _spikes(x, theta, ONE) * theta) - bound > 0.0
            by_v = tl.where(free, carried, 0.0)
        by_s = tl.load(grad + here, inside, other=0.0) - theta * by_v
        by_u = by_s * _psi(x, theta, KIND, WIDTH, HEIGHT) + by_v
        tl.store(out + here, by_u, inside)
        carried = alpha * by_u
        here -= n
    tl.store(grad_start + at, carried, inside)


@triton.jit
def _spikes(x, theta, ONE: tl.constexpr):  # type: ignore[no-untyped-def]
    single = tl.where(x - theta >= 0.0, 1.0, 0.0)
    return single if ONE else tl.where(x > 0.0, tl.floor(tl.math.div_rn(x, theta)), 0.0)


@triton.jit
def _psi(x, theta, KIND: tl.constexpr, WIDTH: tl.constexpr, HEIGHT: tl.constexpr):  # type: ignore[no-untyped-def]
    if KIND == _UNIT:
        psi = tl.full(x.shape, 1.0, tl.float32)
    else:
        distance = tl.abs(x - theta)
        if KIND == _PERIODIC:
            phase = tl.math.div_rn(x, theta + tl.zeros_like(x)) - 0.5
            distance = tl.where(x >= theta, theta * tl.abs(2.0 * (phase - tl.floor(phase)) - 1.0), distance)
            psi = HEIGHT * _exp(tl.math.div_rn(-distance, tl.full(x.shape, WIDTH, tl.float32)))
        else:  # both factors are rounded once, from float64, as on the CPU
            width = theta.to(tl.float64) * WIDTH
            height = (HEIGHT / width).to(tl.float32)
            psi = height * _exp(tl.math.div_rn(-distance, width.to(tl.float32)))
    return psi


@triton.jit
def _exp(x):  # type: ignore[no-untyped-def]
    """exp(x) for x <= 0 as the kernels of the CPU have it; a device's own differs from one device to the next."""
    y = tl.maximum(x * 1.4426950408889634, -126.0)
    k = tl.floor(y + 0.5)
    r = y - k
    low = (1.00000007 + 0.693146967 * r) + (0.240221197 + 0.0555071327 * r) * (r * r)
    high = 0.00967554133 + 0.00132764715 * r
    power = ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)  # 2 to the power of k
    return (low + high * ((r * r) * (r * r))) * power
