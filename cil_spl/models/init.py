"""Fresh weights at a scale at which the neurons fire.

With the usual initialisation a deep spiking network is silent or saturated, depending on how many events a frame holds,
and a silent network has almost no gradient. Data sets the scale instead: layer by layer, the weights are multiplied so
that the input current of the neurons, over a batch, has a given spread in thresholds (cf. layer-sequential
unit-variance initialisation, D. Mishkin, J. Matas, ICLR 2016).
"""

from __future__ import annotations

from typing import Any

import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cil_spl.models import neurons


@torch.no_grad()
def scale_to_rate(net: nn.Sequential, frames: Tensor, spread: float = 1.0) -> None:
    """Scale each weight layer so that its output, where it is not zero, has standard deviation ``spread``.

    Shape:
        frames: (T, B, C, H, W).
    """
    steps, batch = frames.shape[:2]
    x = frames
    modules = list(net.children())
    for module, following in zip(modules, [*modules[1:], None], strict=True):
        if neurons.is_spiking(module):
            x, _ = neurons.step(module, x)
            continue
        out = module(x.flatten(0, 1)).unflatten(0, (steps, batch))  # T B ... -> (T B) ... -> T B ...
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # Neurons that no event reaches say nothing about the scale.
            alive = out[out != 0]
            std = alive.std() if alive.numel() > 1 else out.new_tensor(0.0)
            if std > 0:
                weighted: Any = module
                aware = parametrize.is_parametrized(module, "weight")
                weight = weighted.parametrizations.weight.original if aware else weighted.weight
                weight.mul_(spread / std / _gain(following))
                out = module(x.flatten(0, 1)).unflatten(0, (steps, batch))
        x = out


def _gain(module: nn.Module | None) -> float:
    """By how much neurons weaken their input: sinabs' LIF takes (1 - alpha) of it."""
    if isinstance(module, sl.LIF) and not isinstance(module, sl.IAF) and module.norm_input:
        return 1 - float(module.alpha_mem_calculated)
    return 1.0
