"""Float network → chip integers, by the chip's rule, and the fake-quantised twin for training.

The rule itself is :mod:`cil_spl.chip.rounding`.

Average pooling does not exist on the chip: it becomes sum pooling, and the weights after it are divided by its area
before they are scaled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.chip.rounding import CHIP, Integers, Precision, to_integers, warnings_of
from cil_spl.models import neurons
from cil_spl.models.fold import fold, norm_as_factor
from cil_spl.models.net import Net
from cil_spl.models.neurons import written
from cil_spl.models.plain import check_rewritable
from cil_spl.models.plan import Plan, pair
from cil_spl.models.stages import Stage, destinations, followers, stages

# A sum of integers is often exactly the threshold; in float32 it may come out a hair below, and a spike is lost.
NUDGE = 1e-6


class FakeQuantize(nn.Module):
    """Weights rounded by the chip's rule; the gradient passes unchanged (straight through).

    The value is ``W_int theta / theta_int``: the rounding of the threshold is carried by the weights, so that the twin
    with its float threshold spikes as the integers do. Factors that become part of the weights on the chip (average
    pooling in front, a normalisation, thresholds of channels) are taken in before rounding, and out again after it.

    Args:
        stage: of the layer.
        neuron: after it; its present threshold and bound are read at each step.
        norms: between the two.
        precision: of the chip.
    """

    def __init__(self, stage: Stage, neuron: nn.Module, norms: Sequence[nn.Module], precision: Precision) -> None:
        super().__init__()
        self.area, self.precision = stage.fold, precision
        self.others = (neuron, *norms)  # a tuple, so that they do not become parts of this module

    def forward(self, weight: Tensor) -> Tensor:
        neuron, *norms = self.others
        with torch.no_grad():
            factor, theta, low = neurons.one_threshold(cast(sl.LIF, neuron))
            assert low is not None  # check_net has seen to it
            for norm in norms:
                gain, _ = norm_as_factor(norm)
                factor = gain if factor is None else factor * gain
            whole = weight if factor is None else weight * factor.view(-1, *[1] * (weight.dim() - 1))
            integers = to_integers(whole / self.area, theta, low, self.precision)
            rounded = integers.weight * (theta / integers.threshold * (1 + NUDGE)) * self.area
            if factor is not None:
                rounded = rounded / factor.view(-1, *[1] * (weight.dim() - 1))
        return neurons.substitute(weight, rounded)


def make_aware(net: Net, neuron: nn.Module, precision: Precision = CHIP) -> None:
    """Let a network compute with fake-quantised weights; the float masters stay what is trained.

    Args:
        net: spiking, or a CNN that is to become so.
        neuron: the neurons that a CNN's rectifiers will be; a spiking network has its own.
        precision: bits of weights and states.
    """
    for stage in stages(net.plan):
        module, own = net.get_submodule(stage.weight.name), net.get_submodule(stage.neuron)
        norms = [net.get_submodule(name) for name in followers(net.plan, stage.weight.name)]
        aware = FakeQuantize(stage, own if neurons.is_spiking(own) else neuron, norms, precision)
        parametrize.register_parametrization(module, "weight", aware)


def bake(net: nn.Module) -> None:
    """Make the fake-quantised weights the weights, so that the network is an ordinary one again."""
    for module in net.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def quantize(net: Net, precision: Precision = CHIP, *, leaky: bool = False) -> tuple[ChipNetwork, list[str]]:
    """The chip network of a float network, and what the user should know about it.

    Args:
        net: the network.
        precision: bits of weights and states.
        leaky: let leaky neurons pass, for a target in time steps; a chip network says nothing of their leak.

    Raises:
        RequestError: a layer that no chip can hold: leaky neurons, or neurons without a lower bound.
    """
    parts = stages(net.plan)
    folded = fold(net)
    layers, warnings = [], []
    for stage in parts:
        neuron = cast(sl.IAF, folded.get_submodule(stage.neuron))
        weighted: Any = folded.get_submodule(stage.weight.name)
        check_neuron(neuron, stage, leaky)
        with torch.no_grad():
            weight = weighted.weight.detach().float().cpu() / stage.fold
            theta, low = neuron.spike_threshold.detach().float().cpu(), neuron.min_v_mem.detach().float().cpu()
            integers = to_integers(weight, theta, low, precision, scaled_by=net.scaled_by)
        warnings += warnings_of(f"layer {stage.weight.name}", integers, precision) + _late_start(neuron, stage)
        c, height, width = stage.input_shape
        linear = stage.weight.kind == "linear"
        shape = (-1, c, height, width) if linear else integers.weight.shape  # F (C H W) -> F C H W
        layers.append(
            ChipLayer(
                name=stage.weight.name,
                weight=integers.weight.reshape(shape).numpy().astype(np.int8),
                stride=(1, 1) if linear else pair(stage.weight.params.get("stride", 1)),
                padding=(0, 0) if linear else pair(stage.weight.params.get("padding", 0)),
                input_shape=stage.input_shape,
                threshold=int(integers.threshold),
                min_v_mem=int(integers.min_v_mem),
                v_init=_below(integers, float(neurons.initial(neuron))),
                reset="zero" if type(neuron.reset_fn).__name__ == "MembraneReset" else "subtract",
                scale=float(integers.scale),
                destinations=tuple(Destination(*one) for one in destinations(parts, stage.weight.name)),
            )
        )
    return ChipNetwork(tuple(layers), net.plan.input_shape), warnings


def _below(integers: Integers, v_init: float) -> int:
    """An initial state in integers, below the threshold: on the chip a neuron fires at an event only."""
    return min(round(v_init * float(integers.scale)), int(integers.threshold) - 1)


def _late_start(neuron: sl.LIF, stage: Stage) -> list[str]:
    """What to say of neurons whose trained threshold has come down to where they start."""
    start, theta = torch.as_tensor(neurons.initial(neuron)), neuron.spike_threshold.detach().cpu()
    if not bool((start.detach().cpu() >= theta).any()):
        return []
    return [
        f"layer {stage.neuron}: v_init={written(start)} is not below the trained spike_threshold={written(theta)}; "
        "rounded, it is one less than the threshold, as on a chip a neuron fires at an event only"
    ]


def check_net(net: Net, leaky: bool = False) -> None:
    """Refuse a user's own network that the chip's rule cannot round.

    Args:
        leaky: see :func:`quantize`.

    Raises:
        RequestError: naming the layer.
    """
    check_rewritable(net)
    for stage in stages(net.plan):
        neuron = net.get_submodule(stage.neuron)
        check_neuron(neuron, stage, leaky)
        start, theta = torch.as_tensor(neurons.initial(cast(sl.LIF, neuron))), cast(sl.LIF, neuron).spike_threshold
        if bool((start >= theta).any()):
            raise RequestError(
                f"layer {stage.neuron}: v_init={written(start)} must be below its spike_threshold={written(theta)}: on "
                "a chip a neuron fires at an event only; lower v_init, or use target=software"
            )


def check_roundable(plan: Plan, net: Net | None, wanted: str, instead: str) -> None:
    """Refuse what the chip's rule cannot round, on a chip or in time steps, before a weight is trained.

    Args:
        net: a user's own network, whose neurons are looked at; None for that of the plan.
        wanted: what asks for rounding, as a word of the command line.
        instead: the word that does not.

    Raises:
        RequestError: names the layer, and both words.
    """
    try:
        if net is not None:
            check_net(net, leaky=True)
        stages(plan)
    except RequestError as error:
        raise RequestError(f"{wanted} rounds by the chip's rule: {error}, with {instead}") from None


def check_neuron(neuron: nn.Module, stage: Stage, leaky: bool = False) -> None:
    """Refuse neurons that the chip does not have.

    Raises:
        RequestError: naming the layer.
    """
    if not neurons.is_spiking(neuron):
        raise RequestError(f"layer {stage.neuron}: {type(neuron).__name__} does not spike; use sinabs' IAF neurons")
    if not isinstance(neuron, sl.IAF) and not leaky:
        raise RequestError(
            f"layer {stage.neuron}: {type(neuron).__name__} cannot be placed on the chip, which has no multiplicative "
            "leak; use model.neuron.kind=iaf"
        )
    if cast(sl.LIF, neuron).min_v_mem is None:
        raise RequestError(
            f"layer {stage.neuron}: min_v_mem=None cannot be quantised: the scale would be spent on the lower bound "
            "and every weight rounded to zero; use model.neuron.min_v_mem=-1"
        )
    low = neurons.lower_bound(cast(sl.LIF, neuron))
    if low is not None and low.numel() > cast(sl.LIF, neuron).spike_threshold.numel():
        raise RequestError(
            f"layer {stage.neuron}: min_v_mem has {low.numel()} values, and a core of the chip has one; use one "
            "number, or target=software"
        )
    _check_finite(cast(sl.LIF, neuron), stage)


def _check_finite(neuron: sl.LIF, stage: Stage) -> None:
    """Thresholds and bounds come from a user's own network or from a file too."""
    low = neurons.lower_bound(neuron)
    assert low is not None  # check_neuron has seen to it
    for key, value, allowed, sound in (
        ("spike_threshold", neuron.spike_threshold, "above 0", neuron.spike_threshold > 0),
        ("min_v_mem", low, "at most 0", low <= 0),
    ):
        if not bool((torch.isfinite(value) & sound).all()):
            raise RequestError(f"layer {stage.neuron}: {key}={written(value)}; needed are finite numbers {allowed}")


def integer_twin(chip: ChipNetwork, like: Net) -> Net:
    """The chip's integers in a time-stepped network: whole numbers in float32, sum pooling.

    Exact as long as no state leaves the 24 bits of float32; only time steps set it apart from the chip.
    """
    by_name = {layer.name: layer for layer in chip.layers}
    neuron_of = {stage.neuron: stage.weight.name for stage in stages(like.plan)}
    like = fold(like)
    modules: dict[str, nn.Module] = {}
    for name, module in like.named_children():
        new: nn.Module = module
        if name in by_name:
            weight = torch.from_numpy(by_name[name].weight.astype(np.float32))
            if isinstance(module, nn.Conv2d):
                new = nn.Conv2d(
                    module.in_channels,
                    module.out_channels,
                    cast(Any, module.kernel_size),
                    cast(Any, module.stride),
                    cast(Any, module.padding),
                    bias=False,
                )
            else:
                new = nn.Linear(cast(nn.Linear, module).in_features, cast(nn.Linear, module).out_features, bias=False)
            new.weight = nn.Parameter(weight.reshape(new.weight.shape), requires_grad=False)
        elif name in neuron_of:
            new = _integer_neurons(by_name[neuron_of[name]], module)
        elif isinstance(module, nn.AvgPool2d):
            new = sl.SumPool2d(module.kernel_size)
        modules[name] = new
    return Net(like.plan, modules)


def _integer_neurons(layer: ChipLayer, like: nn.Module) -> nn.Module:
    """The same neurons, their leak and what they take of their input too, at a chip's threshold and lower bound."""
    new: Any = copy.deepcopy(like).cpu()
    new.spike_threshold = nn.Parameter(torch.tensor(float(layer.threshold)))
    new.min_v_mem = nn.Parameter(torch.tensor(float(layer.min_v_mem)))
    new.v_init = float(layer.v_init)
    return cast(nn.Module, new.requires_grad_(False))
