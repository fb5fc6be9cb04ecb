"""Spiking neurons on the CPU, alone or with the convolution in front and the pooling after them, in one fused pass.

Step by step in torch, a layer of spiking neurons reads and writes its maps a dozen times a step, and that, not the
convolutions, is what training costs. Here a map stays in the cache (``cil_spl/models/kernels``). The neurons' forward
pass does the same operations in the same order as sinabs, so that spikes are equal to the bit for equal currents.

A map lies there with the features of a pixel together (torch's ``channels_last``), as (T, B, H, W, C), and keeps the
shape (T, B, C, H, W) that torch shows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import sinabs.activation as sina
import sinabs.layers as sl
import torch
from torch import Tensor

from cil_spl.base.sources import say_if_it_compiles
from cil_spl.base.threads import in_threads
from cil_spl.models.kernels import compiled
from cil_spl.models.kernels.block import Seen, Weights
from cil_spl.models.kernels.neurons import PERIODIC, SIGMOID, SINGLE, TRIANGLE, UNIT, Neurons
from cil_spl.models.kernels.tables import Geometry, Tables
from cil_spl.models.surrogates import Sigmoid, Triangle

TYPES = {torch.float32: np.float32, torch.float64: np.float64}
SURROGATES = (sina.PeriodicExponential, sina.SingleExponential, Triangle, Sigmoid)
LAST, FIRST = (0, 1, 3, 4, 2), (0, 1, 4, 2, 3)  # T B C H W -> T B H W C, and back
CHUNKS = 16  # of a batch; the gradient of each is summed by itself
# Membranes of a recording that the backward pass has at a time: what stays in the second-level cache.
PART_BYTES = 1 << 19
REPLACED_BYTES = 1 << 25  # as much, where the forward pass is another machine's and computes no states to go on from
KEEP_FROM = 64  # inputs of a neuron, from which computing its membrane again takes longer than reading it


def supports(layer: sl.LIF, current: Tensor) -> bool:
    """Whether this path does what the layer asks: a CPU, subtraction, one constant threshold, a surrogate it knows."""
    return current.device.type == "cpu" and current.dtype in TYPES and reason_against(layer) is None


def reason_against(layer: sl.LIF) -> str | None:
    """What a layer of neurons asks that this path does not do; None if there is nothing."""
    if type(layer.reset_fn) is not sina.MembraneSubtract or layer.reset_fn.subtract_value is not None:
        return "reset_fn is not subtract"
    if layer.spike_fn not in (sina.MultiSpike, sina.SingleSpike):
        return "spike_fn is neither multi nor single"
    if type(layer.surrogate_grad_fn) not in SURROGATES:
        return f"surrogate_grad_fn is {type(layer.surrogate_grad_fn).__name__}"
    if layer.spike_threshold.numel() > 1:
        return "each channel has a threshold"
    if layer.spike_threshold.requires_grad or layer.alpha_mem_calculated.requires_grad:
        return "threshold or time constant is trained"
    if layer.alpha_mem_calculated.numel() > 1 or (layer.min_v_mem is not None and layer.min_v_mem.numel() > 1):
        return "each channel has a time constant or a lower bound"
    return None


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
    """Spikes of all steps and the last state; arguments as in :func:`cil_spl.models.neurons.run`.

    ``start`` are the states before the first step; ``counts`` and ``states`` are what another machine was observed to
    do, or None.

    Shape:
        current, spikes, counts, states: (T, B, ...); start: (B, ...).
    """
    constants = _constants(layer, straight_through, through_time, TYPES[current.dtype])
    if counts is not None:
        return _Observed.apply(current, start, counts, states, constants)
    return _Fused.apply(current, start, constants)


def run_block(
    layer: sl.LIF,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    start: Tensor | float,
    straight_through: bool,
    conv: tuple[tuple[int, int], tuple[int, int]],
    pool: tuple[int, int] = (1, 1),
    average: bool = True,
    counts: Tensor | None = None,
    states: Tensor | None = None,
    end: bool = True,
    recompute: bool = False,
    total: bool = False,
    through_time: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """A convolution, its neurons and their pooling: pooled spikes of all steps, the last state, and the spikes' sum.

    Args:
        conv: its stride and padding.
        pool, average: window, and whether its sum is divided by its area.
        start: states before the first step, or one for all of them.
        counts, states: what another machine was observed to do, as in :func:`run`.
        end: whether the last state is wanted; an empty tensor otherwise. Where it is not, and the counts are another
            machine's, the forward pass computes nothing.
        total: whether the sum of the spikes over all steps, not pooled, is wanted; an empty tensor otherwise. It has no
            gradient.
        recompute: have the backward pass compute the membranes again, also where keeping them is faster.
        through_time: as in :func:`cil_spl.models.neurons.run`.

    Shape:
        x: (T, B, C, H, W); weight: (F, C, ky, kx); start: (B, F, H', W'); returns (T, B, F, H'', W''),
        (B, F, H', W') and the same.
    """
    kernel: Any = tuple(weight.shape[2:])
    source: Any = tuple(x.shape[2:])
    tables = _tables(source, weight.shape[0], kernel, *conv, pool, average, 64 // x.element_size())
    constants = _constants(layer, straight_through, through_time, TYPES[x.dtype])
    shape = tables.shape
    neurons = (x.shape[1], shape.features, shape.out_height, shape.out_width)
    init = start.to(x.dtype).expand(neurons) if isinstance(start, Tensor) else None
    at_rest = 0.0 if isinstance(start, Tensor) else start
    # The kernels read as many numbers of this type as there are neurons, whatever they are given.
    counts, states = (None if s is None else s.to(x.dtype).expand(len(x), *neurons) for s in (counts, states))
    rest = (constants, tables, at_rest, end, recompute, total, average)
    return _Block.apply(x, weight, bias, init, counts, states, rest)


@lru_cache(maxsize=256)
def _tables(*of: Any) -> Tables:
    return Tables(*of)


def _constants(layer: sl.LIF, straight_through: bool, through_time: bool, f: Any) -> Neurons:
    surrogate: Any = layer.surrogate_grad_fn
    theta = float(layer.spike_threshold)
    if straight_through:
        kind, width, height = UNIT, 1.0, 1.0
    elif isinstance(surrogate, sina.PeriodicExponential):
        kind, width, height = PERIODIC, surrogate.grad_width, surrogate.grad_scale
    elif isinstance(surrogate, Triangle):
        kind, width, height = TRIANGLE, surrogate.grad_width, 1 / surrogate.grad_width
    elif isinstance(surrogate, Sigmoid):
        kind, width, height = SIGMOID, 1 / surrogate.slope, surrogate.slope
    else:
        width = theta * surrogate.grad_width
        kind, height = SINGLE, surrogate.grad_scale / width
    low = -np.inf if layer.min_v_mem is None else float(layer.min_v_mem)
    alpha, single = float(layer.alpha_mem_calculated), layer.spike_fn is sina.SingleSpike
    carry = alpha if through_time else 0.0
    return Neurons(f(alpha), f(theta), f(low), f(width), f(height), kind, single, straight_through, f(carry))


class _Layout:
    """How a tensor (T, B, ...) lies in memory: as rows of T numbers of its neurons."""

    def __init__(self, x: Tensor) -> None:
        self.shape = tuple(x.shape)
        self.channels_last = x.dim() == 5 and not x.is_contiguous() and x.permute(LAST).is_contiguous()

    def rows(self, x: Tensor) -> np.ndarray:
        """A tensor of this shape, or of fewer steps, as (T, N)."""
        x = x.detach().permute(LAST) if self.channels_last else x.detach()  # T B C H W -> T B H W C
        return x.contiguous().view(len(x), -1).numpy()

    def row(self, x: Tensor) -> np.ndarray:
        """A copy of a tensor (B, ...) as (N,)."""
        return self.rows(x[None])[0].copy()

    def tensor(self, rows: np.ndarray) -> Tensor:
        """The reverse of :meth:`rows`."""
        if not self.channels_last:
            return torch.from_numpy(rows).view(len(rows), *self.shape[1:])
        _, batch, c, height, width = self.shape
        return torch.from_numpy(rows).view(len(rows), batch, height, width, c).permute(FIRST)  # T B H W C -> T B C H W


def _spans(neurons: np.ndarray) -> int:
    return -(-len(neurons) // compiled.SPAN)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, start: Tensor, constants: Neurons) -> tuple[Tensor, Tensor]:
        layout = _Layout(current)
        rows, last = layout.rows(current), layout.row(start)
        spikes, u = np.empty_like(rows), np.empty_like(rows)
        in_threads(compiled.run, _spans(last), rows, last, spikes, u, constants)
        ctx.constants, ctx.layout = constants, layout
        ctx.save_for_backward(torch.from_numpy(u))
        return layout.tensor(spikes), layout.tensor(last[None])[0]

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, grad_end: Tensor) -> Any:
        layout, (u,) = ctx.layout, ctx.saved_tensors
        grad, carried = layout.rows(grad_spikes), layout.row(grad_end)
        delta = np.empty_like(grad)
        in_threads(compiled.back, _spans(carried), grad, u.numpy(), carried, delta, ctx.constants)
        return layout.tensor(delta), layout.tensor(carried[None])[0], None


class _Observed(torch.autograd.Function):
    """Counts, and states where given, from another machine; the gradient is this layer's (see neurons.run)."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, start: Tensor, counts: Tensor, v_mem: Tensor | None, constants: Neurons
    ) -> tuple[Tensor, Tensor]:
        layout = _Layout(current)
        rows, last = layout.rows(current), layout.row(start)
        u, kept = np.empty_like(rows), np.empty(rows.shape, np.bool_)
        states = rows[:0] if v_mem is None else layout.rows(v_mem)
        in_threads(compiled.observed_run, _spans(last), rows, last, layout.rows(counts), states, u, kept, constants)
        ctx.constants, ctx.layout = constants, layout
        ctx.save_for_backward(torch.from_numpy(u), torch.from_numpy(kept))
        return counts.clone(), layout.tensor(last[None])[0]

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, grad_end: Tensor) -> Any:
        layout, (u, kept) = ctx.layout, ctx.saved_tensors
        grad, carried = layout.rows(grad_spikes), layout.row(grad_end)
        delta = np.empty_like(grad)
        in_threads(
            compiled.observed_back, _spans(carried), grad, u.numpy(), kept.numpy(), carried, delta, ctx.constants
        )
        return layout.tensor(delta), layout.tensor(carried[None])[0], None, None, None


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, start: Tensor | None, counts: Any, states: Any,
        rest: tuple[Neurons, Tables, float, bool, bool, bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        constants, tables, at_rest, with_end, recompute, counted, average = rest
        shape = tables.shape
        f = TYPES[x.dtype]
        steps, batch = x.shape[:2]
        keep = counts is None and not recompute and shape.channels * shape.kernel_y * shape.kernel_x >= KEEP_FROM
        part = 1 if keep else max(1, min(steps, PART_BYTES // (shape.size * x.element_size())))
        height, width = shape.out_height // shape.pool_y, shape.out_width // shape.pool_x
        out = np.empty((steps, batch, height * width * shape.features), f)
        size = shape.out_height * shape.out_width * shape.features
        end, total = np.empty((batch if with_end else 0, size), f), np.empty((batch if counted else 0, size), f)
        wanted = any(ctx.needs_input_grad[:4])
        if counts is not None and not with_end and steps * shape.size * x.element_size() <= REPLACED_BYTES:
            part = steps
        rows = steps if keep else -(-steps // part) - 1
        saved = np.empty((rows if wanted else 0, batch, shape.span), f)
        say_if_it_compiles(compiled.forward, "the pass through convolutions and neurons")
        chunks, weights = min(batch, CHUNKS), _weights(tables, weight, bias, f)
        in_threads(
            compiled.forward, chunks, chunks, _maps(x), _first(start, batch, shape, at_rest, f),
            Seen(_seen(counts, f), _seen(states, f)), weights, out, end, total, saved, part, shape, tables.pixels,
            constants,
        )  # fmt: skip
        maps = (shape.out_height, shape.out_width, shape.features)
        last, summed = (torch.from_numpy(one).view(len(one), *maps) for one in (end, total))
        last, summed = last.permute(0, 3, 1, 2), summed.permute(0, 3, 1, 2)  # B H W F -> B F H W
        spikes = torch.from_numpy(out).view(steps, batch, height, width, shape.features).permute(FIRST)
        kept = None if average else spikes
        ctx.save_for_backward(x, weight, bias, start, counts, states, torch.from_numpy(saved), kept)
        ctx.rest, ctx.part, ctx.weights = rest, part, weights
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(summed)
        return spikes, last, summed

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_end: Tensor | None, _: Any) -> Any:
        x, weight, bias, start, counts, states, saved, pooled = ctx.saved_tensors
        constants, tables, at_rest, *_ = ctx.rest
        shape = tables.shape
        f = TYPES[x.dtype]
        steps, batch = x.shape[:2]
        neurons = shape.out_height * shape.out_width * shape.features
        if grad_spikes is None:
            grad_spikes = x.new_zeros(1).expand(
                steps, batch, shape.features, shape.out_height // shape.pool_y, shape.out_width // shape.pool_x
            )
        elif pooled is not None:  # sinabs' sum hands no gradient to a window without spikes
            grad_spikes = grad_spikes * (pooled != 0)
        carried = np.zeros((batch, neurons), f) if grad_end is None else _states(grad_end).copy()
        frame = shape.height * shape.width * shape.channels
        weights: Weights = ctx.weights
        if ctx.needs_input_grad[0]:
            weights = weights._replace(groups=tables.groups(weight.detach().numpy()))
        by_x = np.empty((steps if ctx.needs_input_grad[0] else 0, batch, frame), f)
        chunks = min(batch, CHUNKS)
        by_weight, by_bias = tables.empty(chunks, f), np.zeros((chunks, 0 if bias is None else len(bias)), f)
        in_threads(
            compiled.backward, chunks, _maps(x), _first(start, batch, shape, at_rest, f),
            Seen(_seen(counts, f), _seen(states, f)), weights, _maps(grad_spikes), carried,
            saved.numpy(), by_x, by_weight, by_bias, ctx.part, shape, tables.pixels, constants,
        )  # fmt: skip
        back_x = None
        if ctx.needs_input_grad[0]:
            back_x = torch.from_numpy(by_x).view(steps, batch, shape.height, shape.width, shape.channels).permute(FIRST)
        back_start = None
        if start is not None:
            back_start = torch.from_numpy(carried).view(batch, shape.out_height, shape.out_width, shape.features)
            back_start = back_start.permute(0, 3, 1, 2)  # B H W F -> B F H W
        back_bias = None if bias is None else torch.from_numpy(by_bias.sum(0))
        return back_x, torch.from_numpy(tables.weights(by_weight)), back_bias, back_start, None, None, None


def _weights(tables: Tables, weight: Tensor, bias: Tensor | None, f: Any) -> Weights:
    """Those of the forward pass; without ``groups``, which the gradient of the input alone needs."""
    values = weight.detach().numpy()
    biases = np.empty(0, f) if bias is None else bias.detach().numpy()
    return Weights(tables.runs(values), np.empty(0, f), tables.dense(values), biases)


def _maps(x: Tensor) -> np.ndarray:
    """Shapes: (T, B, C, H, W) → (T, B, H W C)."""
    return x.detach().permute(LAST).contiguous().view(*x.shape[:2], -1).numpy()


def _seen(x: Tensor | None, f: Any) -> np.ndarray:
    return np.empty((0, 1, 1), f) if x is None else _maps(x)


def _states(x: Tensor) -> np.ndarray:
    """Shapes: (B, F, H, W) → (B, H W F)."""
    return x.detach().permute(0, 2, 3, 1).contiguous().view(len(x), -1).numpy()


def _first(start: Tensor | None, batch: int, shape: Geometry, at_rest: float, f: Any) -> np.ndarray:
    """States before the first step, (B, N); one row for all recordings where they start alike."""
    if start is not None:
        return _states(start)
    return np.full((1, shape.out_height * shape.out_width * shape.features), at_rest, f)
