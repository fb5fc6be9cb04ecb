"""From the weights of a CNN to those of a spiking network of the same layers.

An integrate-and-fire neuron that gets the input of a rectifier makes as many events as the activation has thresholds.
So weights carry over when each layer's are scaled by the events that stand for a unit of its output, and of its input:

    W <- theta W n_l / n_{l-1},   b <- theta b n_l / T       n_l = events per unit of layer l, theta = spike_threshold
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cil_spl.models import neurons
from cil_spl.models.build import build
from cil_spl.models.fold import fold
from cil_spl.models.net import Net, copy_weights
from cil_spl.models.plan import INPUT, Plan

Scale = float | Tensor
Rounding = Callable[[Tensor], Tensor]


def as_is(values: Tensor) -> Tensor:
    """Values that are not rounded."""
    return values


def spiking_twin(net: Net, neuron: Mapping[str, Any], **own: Any) -> Net:
    """The spiking network of an ANN's layers, without its weights.

    Args:
        net: the ANN.
        neuron: options of :class:`cil_spl.models.options.Neuron`.
        own: those that it has whatever a config says; they stand in its plan, and so in its file.
    """
    plan = fold(net).plan
    if own:
        layers = (replace(one, params={**one.params, **own}) if one.kind == "neuron" else one for one in plan.layers)
        plan = replace(plan, layers=tuple(layers))
    return build(plan, family="snn", neuron=neuron).compute_by(net.backend)


@torch.no_grad()
def carry_over(
    ann: Net, net: Net, events: Mapping[str, Scale], into: Mapping[str, Scale], bins: int, quantize: Rounding = as_is
) -> Net:
    """The spiking network with the CNN's weights, in the events that :func:`events_per_unit` has for it.

    Args:
        ann: a CNN whose normalisation is folded; or a part of it.
        net: the spiking network, which may have other layers besides.
        events: of each weight layer, events per unit of its output; into: of its input.
        bins: over which a bias is spread.
        quantize: of the CNN's weights, and of its biases, before they are scaled.
    """
    spiking = thresholds(net)

    def weight(name: str, w: Tensor) -> Tensor:
        rows = torch.as_tensor(spiking.get(name, 1.0) * events[name], dtype=w.dtype, device=w.device)
        columns = torch.as_tensor(into[name], dtype=w.dtype, device=w.device)
        if columns.dim():  # of each channel, which a linear layer sees pixel by pixel: C -> (C H W)
            columns = columns.repeat_interleave(w.shape[1] // len(columns)).view(1, -1, *[1] * (w.dim() - 2))
        return quantize(w) * rows.view(-1, *[1] * (w.dim() - 1)) / columns  # F -> F 1 ...

    def bias(name: str, b: Tensor) -> Tensor:
        return (
            quantize(b) * torch.as_tensor(spiking.get(name, 1.0) * events[name], dtype=b.dtype, device=b.device) / bins
        )

    return copy_weights(ann, net, weight, bias)


def thresholds(net: Net) -> dict[str, float]:
    """The threshold of the neurons that each weight layer feeds; no entry of one whose output no neuron takes."""
    found: dict[str, float] = {}
    for layer in net.plan.layers:
        module: Any = net.get_submodule(layer.name)
        if neurons.is_spiking(module):
            found |= dict.fromkeys(net.plan.weights_before(layer.name), float(module.spike_threshold.max()))
    return found


def events_per_unit(
    plan: Plan, activation: Mapping[str, Scale], gain: float, shown: float = 1.0
) -> tuple[dict[str, Scale], dict[str, Scale]]:
    """Events that stand for one unit of the CNN: of each weight layer's output, and of its input.

    Branches that are added have the same, that of the most active of them; where the input is one of them, its own.
    What no neurons take, such as a linear read-out, stays in the CNN's units.

    Args:
        plan: of the CNN.
        activation: of each weight layer, full activity; one number, or one for each channel, (C,).
        gain: events of a fully active neuron.
        shown: what the spiking network gets, in all steps together, for one unit of the CNN's input.
    """
    fed = {source for layer in plan.layers if layer.kind == "neuron" for source in plan.weights_before(layer.name)}
    events: dict[str, Scale] = {name: gain / value if name in fed else 1.0 for name, value in activation.items()}
    events[INPUT] = shown
    for group in added(plan):
        common = shown if INPUT in group else _least([events[name] for name in group if name in events])
        events |= dict.fromkeys(group, common)
    return events, {name: events[plan.weights_before(name)[0]] for name in activation}


def added(plan: Plan) -> list[set[str]]:
    """The weight layers, and the input, whose outputs are added somewhere, joined where they share one."""
    groups: list[set[str]] = []
    for together in (set(plan.weights_before(layer.name)) for layer in plan.layers if layer.kind == "add"):
        joined = [group for group in groups if group & together]
        groups = [group for group in groups if group not in joined] + [together.union(*joined)]
    return groups


def _least(values: Sequence[Scale]) -> Scale:
    if not any(isinstance(value, Tensor) for value in values):
        return min(values)
    return functools.reduce(torch.minimum, [torch.as_tensor(value) for value in values])


def to_bits(bits: int) -> Rounding:
    """Rounding to whole multiples of a step, so that the largest value is the largest whole number of so many bits."""
    most = 2 ** (bits - 1) - 1

    def rounded(x: Tensor) -> Tensor:
        step = x.abs().max() / most
        return (x / step).round() * step if step > 0 else x

    return rounded


def full_activity(values: np.ndarray, percentile: float, by_channel: bool = False) -> Scale | None:
    """A percentile of activations, zeros too, as numpy interpolates it; None where it is not above zero.

    Args:
        values: rectified activations. Shape (B, C, ...).
        by_channel: whether of each channel, (C,); one that has none above zero gets that of all.
    """
    whole = float(np.percentile(values, percentile)) if values.size else 0.0
    if not by_channel:
        return whole if whole > 0 else None
    of_channel = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)  # B C ... -> C (B ...)
    found = np.percentile(of_channel, percentile, axis=1)
    rest = whole or float(found.max())
    return torch.from_numpy(np.where(found > 0, found, rest)) if rest > 0 else None


def largest(weight: Tensor, n: int) -> Tensor:
    """1 at the ``n`` largest weights of each output unit, by amount, and 0 elsewhere. Shape (F, ...) → the same."""
    rows = weight.abs().flatten(1)  # F ... -> F n
    if n >= rows.shape[1]:
        return torch.ones_like(weight)
    return torch.zeros_like(rows).scatter_(1, rows.topk(n, dim=1).indices, 1.0).view_as(weight)
