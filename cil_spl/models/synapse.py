"""A layer with weights whose gradient is taken at other values than those it computes with.

value      y = W x
weights    dL/dW = dL/dy pre^T        pre = x unless given: a trace (OTTT), what a projection leaves (HLOP)
input      dL/dx = back^T dL/dy       back = W unless given: random weights (feedback alignment); or CUT, none
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

CUT: Final = "cut"


def synapse(module: nn.Module, x: Tensor, *, pre: Tensor | None = None, back: Tensor | str | None = None) -> Tensor:
    """What a convolution or a linear layer makes of its input, with another gradient.

    Args:
        module: ``nn.Conv2d`` or ``nn.Linear``.
        x: input.
        pre: takes the place of the input in the gradient of the weights; a constant. Of the shape of ``x``.
        back: takes the place of the weights in the gradient of the input, of their shape; ``CUT`` for no gradient.

    Shape:
        x: (N, C, ...). Returns (N, F, ...).
    """
    layer: Any = module
    if back is CUT or isinstance(back, str):
        x, back = x.detach(), None
    kind = x.device.type
    if torch.is_autocast_enabled(kind):  # torch casts what it computes in forward, not what backward then needs
        values = (x, layer.weight, layer.bias, pre, back)
        cast = [None if one is None else one.to(torch.get_autocast_dtype(kind)) for one in values]
        with torch.autocast(kind, enabled=False):
            return _Synapse.apply(*cast, _conv(module)).to(x.dtype)
    return _Synapse.apply(x, layer.weight, layer.bias, pre, back, _conv(module))


def _conv(module: nn.Module) -> tuple[Any, ...] | None:
    if isinstance(module, nn.Conv2d):
        return list(module.stride), list(module.padding), list(module.dilation), module.groups
    return None


class _Synapse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pre: Any, back: Any, conv: Any) -> Tensor:
        ctx.save_for_backward(x if pre is None else pre, weight if back is None else back)
        ctx.conv, ctx.biased = conv, bias is not None
        if conv is None:
            return torch.nn.functional.linear(x, weight, bias)
        stride, padding, dilation, groups = conv
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        pre, back = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2]]
        if ctx.conv is None:
            flat = grad.flatten(0, -2)
            by_x = grad @ back if wanted[0] else None
            by_weight = flat.T @ pre.flatten(0, -2) if wanted[1] else None
            return by_x, by_weight, flat.sum(0) if wanted[2] else None, None, None, None
        stride, padding, dilation, groups = ctx.conv
        by_x, by_weight, by_bias = torch.ops.aten.convolution_backward(
            grad, pre, back, [back.shape[0]] if ctx.biased else None, stride, padding, dilation, False, [0, 0], groups,
            wanted,
        )  # fmt: skip
        return by_x, by_weight, by_bias, None, None, None
