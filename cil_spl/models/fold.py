"""Exact rewriting of a network: what stands between weights and neurons becomes part of the weights.

    norm, per channel     W <- g W,  b <- g b + h         g = gamma / sqrt(var + eps), h = beta - g mean
    standardised weights  W <- What                       (layers.Standardised)
    bias                  b <- b + c
    thresholds            W_c <- W_c theta / theta_c      one theta for all channels; bounds go with the thresholds
    amplitudes            W <- W a                        spikes of amplitude a become spikes of amplitude 1
    time                  b <- b / T                      a bias of the whole recording becomes one of each time step

Exact but for rounding (1e-12 in float64); the network that is given stays as it is.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cil_spl.base.errors import RequestError
from cil_spl.models import neurons
from cil_spl.models.kinds import POOLS
from cil_spl.models.layers import Bias, ScaleNorm
from cil_spl.models.net import Net
from cil_spl.models.plan import INPUT, Layer, Plan
from cil_spl.models.stages import foldable, followers

LINEAR = ("flatten", "add", "delay", "weigh_time", *POOLS)  # what an amplitude passes through
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def fold(net: Net, *, T: int = 1, amplitudes: Mapping[str, float] | None = None) -> Net:
    """The same network without normalisation, bias layers, thresholds of channels and amplitudes.

    Args:
        net: in whichever of these coordinates it was trained.
        T: time steps over which its biases are spread; 1 where they are those of a step already.
        amplitudes: of the spikes of neuron layers, by name; 1 where absent.

    Returns:
        ``net`` itself where there is nothing to fold. A normalisation that follows no weights stays.

    Raises:
        RequestError: amplitudes that do not agree where branches are added, or that reach what scales no amplitude
            out; with ``T``, a shift that follows no weights.
    """
    plan = net.plan
    if T != 1:
        for reason in foldable(plan, chip=False):
            raise RequestError(reason)
    between = {layer.name: followers(plan, layer.name) for layer in plan.layers if plan.kinds[layer.name].weight}
    gone = {name for names in between.values() for name in names}
    scaled = any(value != 1 for value in (amplitudes or {}).values())
    channels = any(neurons.is_spiking(m) and m.spike_threshold.numel() > 1 for m in net.modules())  # type: ignore[operator]
    biased = any(getattr(net.get_submodule(name), "bias", None) is not None for name in between)
    computed = any(plan.named(name).params.get("standardise") is not None for name in between)
    if not (gone or scaled or channels or computed or (T != 1 and biased)):
        return net
    old: dict[str, nn.Module] = dict(copy.deepcopy(net).named_children())
    incoming = _amplitudes(plan, amplitudes or {})
    layers: list[Layer] = []
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    stands_for = {name: weight for weight, names in between.items() for name in names}
    after = {plan.layers[k].name for name, names in between.items() for k in plan.readers[(names or [name])[-1]]}
    for i, layer in enumerate(plan.layers):
        if layer.name in gone:
            continue
        inputs = tuple(stands_for.get(name, name) for name in plan.inputs(i))
        module = old[layer.name]
        if layer.name in between:
            bias = _weights(module, [old[name] for name in between[layer.name]], _thresholds(net, layer.name, between))
            if scaled:
                module.weight.mul_(incoming[plan.inputs(i)[0]])  # type: ignore[operator]
            if bias is not None:
                module.bias = nn.Parameter(bias / T)
            kept = {key: value for key, value in layer.params.items() if key != "standardise"}
            layer = replace(layer, params={**kept, "bias": module.bias is not None})
        elif neurons.is_spiking(module) and layer.name in after:
            _one_threshold(module)
        before = layers[-1].name if layers else INPUT
        layers.append(replace(layer, inputs=() if inputs == (before,) else inputs))
        modules[layer.name] = module
    return Net(Plan(plan.name, plan.input_shape, tuple(layers)), modules)


def _weights(module: Any, after: list[nn.Module], factor: Tensor | None) -> Tensor | None:
    """Fold what stands after weights into them; the bias that they come to have."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    weight, bias = module.weight, module.bias
    for one in after:
        if isinstance(one, Bias):
            bias = one.bias if bias is None else bias + one.bias
            continue
        gain, shift = norm_as_factor(one)
        weight = weight * _rows(gain, weight)
        bias = None if bias is None else bias * gain
        if shift is not None:
            bias = shift if bias is None else bias + shift
    if factor is not None:
        weight = weight * _rows(factor, weight)
        bias = None if bias is None else bias * factor
    module.weight = nn.Parameter(weight.clone())
    return None if bias is None else bias.clone()


def norm_as_factor(norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Factor and shift of each feature that a normalisation is in evaluation; no shift where it has none."""
    if isinstance(norm, ScaleNorm):
        return norm.weight / (norm.running_square + norm.eps).sqrt(), None
    if isinstance(norm, BATCH_NORMS):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        return gain, norm.bias - norm.running_mean * gain
    raise RequestError(f"{type(norm).__name__}: no normalisation that can be folded; use norm: batch or norm: scale")


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    return values.view(-1, *[1] * (weight.dim() - 1))  # F -> F 1 ...


def _thresholds(net: Net, name: str, between: Mapping[str, list[str]]) -> Tensor | None:
    """The factor with which the channels of the neurons after a weight layer come to have one threshold."""
    last = (between[name] or [name])[-1]
    factors = [
        neurons.one_threshold(module)[0]
        for k in net.plan.readers[last]
        if neurons.is_spiking(module := net.get_submodule(net.plan.layers[k].name))
    ]
    if len(net.plan.readers[last]) > 1 and any(factor is not None for factor in factors):
        raise RequestError(f"model layer {name}: neurons with a threshold of each channel read it beside others, so "
                           "it cannot take them in; use model.neuron.threshold_per=layer")  # fmt: skip
    return factors[0] if factors else None


def _one_threshold(module: Any) -> None:
    factor, theta, low = neurons.one_threshold(module)
    if factor is None:
        return
    module.spike_threshold = nn.Parameter(theta.clone(), requires_grad=False)
    if low is not None:
        module.min_v_mem = nn.Parameter(low.clone(), requires_grad=False)
        del module.bound_ratio
    if hasattr(module, "init_ratio"):
        module.v_init = float(module.init_ratio * theta)
        del module.init_ratio


def _amplitudes(plan: Plan, given: Mapping[str, float]) -> dict[str, float]:
    """The amplitude of every layer's output, carried through pooling, flattening, adding and delays."""
    found = {INPUT: 1.0}
    for _ in range(1 + len(plan.delays)):  # a delay reads what comes after it
        for i, layer in enumerate(plan.layers):
            sources = {found[name] for name in plan.inputs(i) if name in found}
            if layer.kind == "neuron" or plan.kinds[layer.name].weight:
                found[layer.name] = given.get(layer.name, 1.0)
            elif len(sources) > 1:
                shown = " and ".join(f"{a:g}" for a in sorted(sources))
                raise RequestError(
                    f"model layer {layer.name}: it adds spikes of amplitudes {shown}; "
                    "on a chip all have the amplitude 1: give these branches one threshold"
                )
            elif sources:
                found[layer.name] = sources.pop()
                if found[layer.name] != 1 and layer.kind not in LINEAR:
                    raise RequestError(
                        f"model layer {layer.name} ({layer.kind}): spikes of amplitude {found[layer.name]:g} reach it "
                        "before any weights, which could take the amplitude in; put it after conv or linear"
                    )
    return found
