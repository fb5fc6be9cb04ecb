"""From a plan to a network, and the plan from a config's list of layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import sinabs.layers as sl
from torch import nn

from cil_spl.base.errors import RequestError
from cil_spl.models import neurons
from cil_spl.models.options import check_layers
from cil_spl.models.plan import Layer, Plan, pair


def plan_from(
    name: str, blocks: Sequence[Mapping[str, Any]], input_shape: tuple[int, int, int], n_classes: int
) -> Plan:
    """The plan of a config's ``model.layers``.

    Each block is ``{conv: features, kernel, stride, padding, pool}`` or ``{linear: features}``; after each
    stand neurons, then the pooling. ``linear: classes`` means one output per class.

    Raises:
        RequestError: an unknown key or an impossible shape; the message names the block.
    """
    layers: list[Layer] = []
    flat = False
    for i, block in enumerate(check_layers(blocks), start=1):
        kind = "conv" if "conv" in block else "linear"
        features = n_classes if block[kind] == "classes" else block[kind]
        if kind == "conv":
            params: dict[str, Any] = {"out_channels": features, "kernel_size": pair(block["kernel"])}
            params |= {"stride": pair(block["stride"]), "padding": pair(block["padding"])}
        else:
            params = {"out_features": features}
            if not flat:
                layers.append(Layer("flatten", "flatten"))
                flat = True
        layers += [Layer(block["name"] or f"{kind}{i}", kind, params), Layer(f"spike{i}", "neuron")]
        pool = pair(block.get("pool", 1))
        if pool != (1, 1):
            layers.append(Layer(f"pool{i}", block["pool_kind"], {"kernel_size": pool}))
    plan = Plan(name, input_shape, tuple(layers))
    output = plan.shapes()[layers[-1].name] if layers else ()
    if output != (n_classes,):
        raise RequestError(f"model.layers: the last layer gives {output}, but {n_classes} outputs are needed")
    return plan


def build(plan: Plan, *, family: str, neuron: Mapping[str, Any], output_relu: bool = False) -> nn.Sequential:
    """Make the network of a chain, with fresh weights and no biases.

    Args:
        family: ``snn`` puts sinabs neurons after the weights, ``cnn`` rectifiers.
        neuron: options of :class:`cil_spl.models.options.Neuron`.
        output_relu: whether a CNN's output is rectified. Off while it is trained: a rectified output that
            is never positive gets no gradient, and its class is lost.
    """
    if not plan.is_chain():
        raise RequestError(f"model {plan.name}: only chains of layers can be built so far")
    shapes = plan.shapes()
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    last_neuron = max((i for i, layer in enumerate(plan.layers) if layer.kind == "neuron"), default=-1)
    for i, layer in enumerate(plan.layers):
        source = shapes[plan.inputs(i)[0]]
        if layer.kind == "neuron":
            if family == "snn":
                modules[layer.name] = neurons.make(**neuron)
            else:
                modules[layer.name] = nn.ReLU() if i != last_neuron or output_relu else nn.Identity()
        else:
            modules[layer.name] = _module(layer, source)
    return nn.Sequential(modules)


def _module(layer: Layer, source: tuple[int, ...]) -> nn.Module:
    p = layer.params
    if layer.kind == "conv":
        return nn.Conv2d(source[0], p["out_channels"], p["kernel_size"], p["stride"], p["padding"], bias=False)
    if layer.kind == "linear":
        return nn.Linear(source[0], p["out_features"], bias=False)
    if layer.kind == "avgpool":
        return nn.AvgPool2d(p["kernel_size"])
    if layer.kind == "sumpool":
        return sl.SumPool2d(p["kernel_size"])
    if layer.kind == "flatten":
        return nn.Flatten()
    raise RequestError(f"model layer {layer.name}: kind {layer.kind!r} cannot be built")
