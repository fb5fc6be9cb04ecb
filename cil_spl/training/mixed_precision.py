"""Mixed precision: the products of weights in bfloat16, all else in float32.

torch.autocast computes convolutions and matrix products in bfloat16. What a layer hands on is made float32 at once, so
that neurons, normalisation and loss compute as without it. Weights stay float32, and so do their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Step = TypeVar("Step")


def mixed(along: Iterator[Step], net: nn.Module, precision: str, device: torch.device) -> Iterator[Step]:
    """What an iterator gives, computed in a precision of ``trainer.precision``; what happens between, is not.

    Args:
        along: computes with ``net``, its backward pass included.
        net: its layers hand on float32.
        precision: ``float32`` changes nothing.
        device: where it computes.
    """
    if precision == "float32":
        yield from along
        return
    while True:
        with bfloat16(net, device):
            one = next(along, None)
        if one is None:
            return
        yield one


@contextmanager
def bfloat16(net: nn.Module, device: torch.device) -> Iterator[None]:
    """The products of weights in bfloat16; each layer of ``net`` hands on float32."""
    hooks = [module.register_forward_hook(_hand_on) for module in net.modules()]
    try:
        # Without the cache: earlier versions of torch take a weight that a step without gradients has cast for the next
        # step too, where it then has no gradient.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _hand_on(module: nn.Module, inputs: Any, output: Any) -> Any:
    return tuple(map(_single, output)) if type(output) is tuple else _single(output)


def _single(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x
