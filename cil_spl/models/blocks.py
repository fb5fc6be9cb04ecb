"""Which layers are computed in one pass: a convolution, its neurons, and the pooling that alone reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sinabs.layers as sl
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cil_spl.models import fused, neurons
from cil_spl.models.kinds import POOLS, Pair, pair
from cil_spl.models.layers import over_steps
from cil_spl.models.plan import Plan

# Weights of a convolution, above which torch's own is faster: they no longer stay in a core's cache.
LARGEST = 1 << 18


@dataclass(frozen=True)
class Block:
    """Names of a convolution, its neurons and their pooling, None for none, and the window of that."""

    conv: str
    neuron: str
    pool: str | None = None
    window: Pair = (1, 1)


def blocks(plan: Plan) -> dict[str, Block]:
    """The blocks of a plan, by the name of each of their layers."""
    found: dict[str, Block] = {}
    for layer in plan.layers:
        if layer.kind != "conv":
            continue
        neuron = _only_reader(plan, layer.name)
        if neuron is None or neuron.kind != "neuron":
            continue
        pool = _only_reader(plan, neuron.name)
        if pool is None or pool.kind not in POOLS or plan.reads[neuron.name] > 1:
            block = Block(layer.name, neuron.name)
        else:
            block = Block(layer.name, neuron.name, pool.name, pair(pool.params["kernel_size"]))
        found |= {name: block for name in (block.conv, block.neuron, block.pool) if name is not None}
    return found


def _only_reader(plan: Plan, name: str) -> Any:
    readers = plan.readers[name]
    return plan.layers[readers[0]] if len(readers) == 1 and plan.reads[name] == 1 else None


def reason_against(block: Block, net: nn.Module, x: Tensor) -> str | None:
    """Why a block is computed layer by layer, None if it is not: what its modules are or do is not known here."""
    conv, neuron = net.get_submodule(block.conv), net.get_submodule(block.neuron)
    pool: Any = None if block.pool is None else net.get_submodule(block.pool)
    if not isinstance(conv, nn.Conv2d) or not _is_torchs(conv) or _watched(conv):
        return "its convolution is not torch's own"
    if conv.groups > 1 or conv.dilation != (1, 1) or isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return "its convolution has groups, dilation or another padding than zeros"
    if not _fits(block, conv, x):
        return "its convolution is made for other maps"
    if not neurons.is_spiking(neuron):
        return "its neurons do not spike"
    if _watched(neuron):
        return "its neurons have hooks"
    if x.device.type != "cpu" or x.dtype not in fused.TYPES or conv.weight.dtype != x.dtype:
        return "it is not on a CPU in float32 or float64"
    if pool is not None and (type(pool) not in (nn.AvgPool2d, sl.SumPool2d) or _watched(pool)):
        return "its pooling is neither an average nor a sum"
    return fused.reason_against(neuron)


def pays(conv: Any) -> bool:
    """Whether the one pass is faster than torch's convolution and the neurons after it."""
    return conv.weight.numel() <= LARGEST


def _is_torchs(conv: nn.Conv2d) -> bool:
    kind, put_in = type(conv), vars(conv).keys() & {"forward", "_conv_forward"}
    return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward and not put_in


def _fits(block: Block, conv: Any, x: Tensor) -> bool:
    """Whether maps have the convolution's channels, and are not smaller than its kernel and the pooling's window."""
    size = zip(x.shape[3:], conv.kernel_size, conv.stride, conv.padding, block.window, strict=True)
    return (
        x.dim() == 5 and x.shape[2] == conv.in_channels and all((n + 2 * p - k) // s + 1 >= w for n, k, s, p, w in size)
    )


def _watched(module: nn.Module) -> bool:
    before, after = module._forward_pre_hooks, module._forward_hooks
    return bool(before or after or module._backward_pre_hooks or module._backward_hooks)


def run(
    block: Block,
    net: nn.Module,
    x: Tensor,
    start: Tensor | float,
    observed: Any,
    pooled: bool,
    end: bool,
    recompute: bool,
    total: bool,
    *,
    straight_through: bool,
    through_time: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """A block through all time steps, see :func:`fused.run_block`; its pooling too where ``pooled``."""
    conv: Any = net.get_submodule(block.conv)
    neuron: Any = net.get_submodule(block.neuron)
    weight, bias = conv.weight, conv.bias
    if not isinstance(neuron, sl.IAF) and neuron.norm_input:
        gain = 1 - neuron.alpha_mem_calculated
        weight, bias = weight * gain, None if bias is None else bias * gain
    window = block.window if pooled else (1, 1)
    average = not pooled or block.pool is None or isinstance(net.get_submodule(block.pool), nn.AvgPool2d)
    counts, states = observed or (None, None)
    return fused.run_block(
        neuron, x, weight, bias, start, straight_through, (conv.stride, conv.padding), window, average, counts, states,
        end, recompute, total, through_time,
    )  # fmt: skip


def run_again(
    block: Block,
    net: nn.Module,
    x: Tensor,
    v_mem: Tensor | None,
    observed: Any,
    pooled: bool,
    *,
    straight_through: bool,
    through_time: bool,
) -> tuple[Tensor, Tensor]:
    """What :func:`run` does, by torch, layer by layer; the backward pass computes it again, nothing is kept."""

    def layers(x: Tensor) -> tuple[Tensor, Tensor]:
        module = net.get_submodule(block.neuron)
        current = over_steps(net.get_submodule(block.conv), x)
        spikes, end = neurons.run(block.neuron, module, current, v_mem, observed, straight_through, through_time)
        return over_steps(net.get_submodule(block.pool), spikes) if block.pool and pooled else spikes, end

    return checkpoint(layers, x, use_reentrant=False, preserve_rng_state=False)
