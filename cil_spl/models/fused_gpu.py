"""Spiking neurons on a GPU, all time steps of a layer in one kernel: what :mod:`cil_spl.models.fused` is on the CPU.

Same arithmetic in the same order: for equal currents the spikes are equal to the bit. Step by step in torch a layer is
a dozen kernels a step, each of them through the GPU's memory. The kernels are Triton's, which torch's CUDA builds bring
along (``pip install cilspl[gpu]`` elsewhere); it is imported when a tensor on a GPU arrives, and not before. Where it
is missing, neurons go step by step.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import sinabs.activation as sina
import sinabs.layers as sl
import torch
from torch import Tensor

from cil_spl.models import fused
from cil_spl.models.kernels.neurons import PERIODIC, SINGLE, UNIT


class Constants(NamedTuple):
    """Of a layer; ``theta``, ``alpha`` and ``low`` stay on the device. See :mod:`cil_spl.models.fused_gpu_kernels`."""

    theta: Tensor
    alpha: Tensor
    low: Tensor | None
    single: bool
    kind: int
    width: float
    height: float
    straight: bool
    through_time: bool


def supports(layer: sl.LIF, current: Tensor) -> bool:
    """Whether this path does what the layer asks: a GPU, and else as :func:`cil_spl.models.fused.supports`."""
    return current.is_cuda and importlib.util.find_spec("triton") is not None and takes(layer, current)


def takes(layer: sl.LIF, current: Tensor) -> bool:
    """Whether the kernels compute such neurons: float32, an exponential surrogate, and what those of the CPU know."""
    surrogate = type(layer.surrogate_grad_fn)
    known = surrogate in (sina.PeriodicExponential, sina.SingleExponential)
    return current.dtype == torch.float32 and known and fused.reason_against(layer) is None


def run(
    layer: sl.LIF,
    current: Tensor,
    start: Tensor,
    straight_through: bool,
    counts: Tensor | None = None,
    states: Tensor | None = None,
    *,
    through_time: bool = True,
) -> tuple[Tensor, Tensor]:
    """Spikes of all steps and the last state; arguments as in :func:`cil_spl.models.fused.run`.

    Both have the memory layout of ``current``: what came channels last stays so.

    Shape:
        current, spikes, counts, states: (T, B, ...); start: (B, ...).
    """
    surrogate = layer.surrogate_grad_fn
    kind = PERIODIC if isinstance(surrogate, sina.PeriodicExponential) else SINGLE
    constants = Constants(
        theta=layer.spike_threshold.detach().to(current),
        alpha=layer.alpha_mem_calculated.detach().to(current),
        low=None if layer.min_v_mem is None else layer.min_v_mem.detach().to(current),
        single=layer.spike_fn is sina.SingleSpike,
        kind=UNIT if straight_through else kind,
        width=float(surrogate.grad_width),
        height=float(surrogate.grad_scale),
        straight=straight_through,
        through_time=through_time,
    )
    return _Fused.apply(current, start, counts, states, constants)


class _Fused(torch.autograd.Function):
    """Spikes or observed counts, with the gradient of the layer (see neurons.run)."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, start: Tensor, counts: Any, states: Any, constants: Constants
    ) -> tuple[Tensor, Tensor]:
        order = memory_order(current)
        flat, end = rows(current, order), torch.empty_like(rows(start[None], order))
        spikes = torch.empty_like(flat)
        learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        u = torch.empty_like(flat) if learns else None
        # Whether a neuron was clipped follows from u, but not from an observed one.
        noted = learns and counts is not None and constants.low is not None and not constants.straight
        kept = torch.empty_like(flat, dtype=torch.bool) if noted else None
        seen = [None if x is None else rows(x, order) for x in (counts, states)]
        fixed = constants[:3]
        _launch("forward", flat, flat, rows(start[None], order), *seen, *fixed, spikes, u, kept, end, *flat.shape,
                ONE=constants.single)  # fmt: skip
        ctx.order, ctx.shape, ctx.constants = order, current.shape, constants
        ctx.save_for_backward(u, kept)
        return maps(spikes, current.shape, order), maps(end, (1, *start.shape), order)[0]

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, grad_end: Tensor) -> Any:
        u, kept = ctx.saved_tensors
        one: Constants = ctx.constants
        grad, carried = rows(grad_spikes, ctx.order), rows(grad_end[None], ctx.order)
        out, first = torch.empty_like(grad), torch.empty_like(carried)
        carry = one.alpha if one.through_time else torch.zeros_like(one.alpha)
        steps, n = grad.shape
        _launch(
            "backward", grad, grad, u, kept, carried, one.theta, carry, one.low, out, first, steps, n, (steps - 1) * n,
            ONE=one.single, KIND=one.kind, WIDTH=one.width, HEIGHT=one.height, STRAIGHT=one.straight,
        )  # fmt: skip
        return maps(out, ctx.shape, ctx.order), maps(first, (1, *ctx.shape[1:]), ctx.order)[0], None, None, None


def _launch(name: str, like: Tensor, *args: Any, **fixed: Any) -> None:
    """Start a kernel for the neurons of ``like`` (T, N), on the device that it lies on."""
    from cil_spl.models import fused_gpu_kernels as kernels

    n = like.shape[1]
    if n == 0:
        return
    with torch.cuda.device_of(like):  # triton takes the present device, whatever device its arguments are on
        grid = (-(-n // kernels.BLOCK),)
        getattr(kernels, name)[grid](*args, **fixed, BLOCK=kernels.BLOCK, enable_fp_fusion=False)


def memory_order(x: Tensor) -> list[int]:
    """The axes of (T, B, ...) after the first, as they lie in memory, the one with the largest steps first."""
    strides = x.stride()
    return sorted(range(1, x.dim()), key=lambda axis: -strides[axis])


def rows(x: Tensor, order: Sequence[int]) -> Tensor:
    """A row of each time step, its axes in the given order; no copy where they lie so. (T, B, ...) -> (T, N)."""
    return x.detach().permute(0, *order).contiguous().view(len(x), math.prod(x.shape[1:]))


def maps(flat: Tensor, shape: Sequence[int], order: Sequence[int]) -> Tensor:
    """What :func:`rows` was made of: axes of ``shape`` again. (T, N) -> (T, B, ...)."""
    back = sorted(range(len(order)), key=lambda i: order[i])
    return flat.view(shape[0], *(shape[axis] for axis in order)).permute(0, *(1 + i for i in back))
