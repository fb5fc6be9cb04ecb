"""Fresh weights at a scale at which the neurons fire.

With the usual initialisation a deep spiking network is silent or saturated, depending on how many events a frame holds,
and a silent network has almost no gradient. Data sets the scale instead: layer by layer, the weights are multiplied so
that the input current of the neurons, over a batch, has a given spread in thresholds (cf. layer-sequential
unit-variance initialisation, D. Mishkin, J. Matas, ICLR 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cil_spl.models import neurons
from cil_spl.models.layers import over_steps, standardised
from cil_spl.models.net import Net, evaluating, master, walk


@torch.no_grad()
def scale_to_rate(net: Net, frames: Tensor, spread: float = 1.0) -> None:
    """Scale each weight layer so that its output, where it is not zero, has standard deviation ``spread``.

    What comes through a delay counts as zero, so weights that read feedback alone stay as they were made.

    Shape:
        frames: (T, B, C, H, W).
    """
    kinds = net.plan.kinds

    def layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        x = inputs[0]
        if neurons.is_spiking(module):
            return neurons.run(name, module, x)[0]
        if kinds[name].over == "time":
            return module(x)[0]
        out = over_steps(module, *inputs)
        if kinds[name].weight:
            # Neurons that no event reaches say nothing about the scale.
            alive = out[out != 0]
            std = alive.std() if alive.numel() > 1 else out.new_tensor(0.0)
            if std > 0:
                norm = standardised(module)
                (master(module) if norm is None else norm.gain).mul_(spread / std / _gain(net, name))
                out = over_steps(module, x)
        return out

    shapes = net.plan.shapes()
    nothing = {name: frames.new_zeros(*frames.shape[:2], *shapes[name]) for name in net.plan.delays}
    with evaluating(net):  # or normalisation would count what is only tried out
        walk(net, frames, layer, delayed=nothing)


def _gain(net: Net, name: str) -> float:
    """By how much the neurons after a layer weaken their input: sinabs' LIF takes (1 - alpha) of it."""
    for i in net.plan.readers[name]:
        gain = neurons.input_gain(net.get_submodule(net.plan.layers[i].name))
        if gain != 1:
            return gain
    return 1.0
