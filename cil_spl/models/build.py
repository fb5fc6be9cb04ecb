"""From a config's list of blocks to a plan, and from a plan to a network."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import nearest
from cil_spl.models.kinds import BUILT_IN, KINDS, kind_of
from cil_spl.models.net import Net
from cil_spl.models.options import BLOCKS, check_layers
from cil_spl.models.plan import INPUT, Layer, Plan, pair


def plan_from(
    name: str,
    blocks: Sequence[Mapping[str, Any]],
    input_shape: tuple[int, int, int],
    n_outputs: int,
    width: float = 1.0,
) -> Plan:
    """The plan of a config's ``model.layers``.

    Each block is one layer, ``{conv: features, …}``, ``{linear: features, …}``, another of
    :data:`cil_spl.models.options.BLOCKS` or of a kind that a user has registered, ``{KIND: parameters, …}``, and what
    stands after it: a bias, a normalisation, neurons, pooling.
    ``linear: classes`` means one feature per output of the network. A block reads the one before it, or those that
    ``inputs`` names; several are added.

    Args:
        width: factor on the features of all convolutions and linear layers but those that give the outputs; rounded,
            halves up, and at least 1.

    Raises:
        RequestError: an unknown key, an unknown block or an impossible shape; the message names the block.
    """
    layers: list[Layer] = []
    last_of = {INPUT: INPUT}  # the last layer of each block, which others read
    flat: set[str] = set()  # layers that give a vector
    checked = check_layers(blocks)
    names = [block["name"] or f"{_kind(block)}{i}" for i, block in enumerate(checked, start=1)]
    if width != 1:
        checked = _widened(checked, names, width)
    for i, name_of_block in enumerate(names):
        if name_of_block in ("plan", "training") or hasattr(nn.Module, name_of_block):
            raise RequestError(
                f"model.layers[{i}].name={name_of_block}: torch modules have an attribute of this name; choose "
                f"another, for example {name_of_block}{i + 1}"
            )
    for i, (name_of_block, block) in enumerate(zip(names, checked, strict=True), start=1):
        before = names[i - 2] if i > 1 else INPUT
        new = _block(i, name_of_block, block, before, last_of, flat, n_outputs, names)
        layers += new
        last_of[name_of_block] = layers[-1].name
    wired = _read_ends(layers, dict(zip(names, (last_of[one] for one in names), strict=True)))
    plan = Plan(name, input_shape, tuple(wired))
    output = plan.shapes()[plan.output]
    if output != (n_outputs,):
        raise RequestError(f"model.layers: the last layer gives {output}, but {n_outputs} outputs are needed")
    return plan


def _kind(block: Mapping[str, Any]) -> str:
    return next(kind for kind in (*BLOCKS, *(kind for kind in KINDS if kind not in BUILT_IN)) if kind in block)


def _reads(block: Mapping[str, Any], before: str) -> list[str]:
    """Names of the blocks that a block reads; ``before`` stands above it."""
    kind = _kind(block)
    return block[kind] if kind == "add" else [block[kind]] if kind == "delay" else block["inputs"] or [before]


def _widened(blocks: Sequence[dict[str, Any]], names: Sequence[str], width: float) -> list[dict[str, Any]]:
    """The blocks with ``width`` times the features, but for those whose features are the network's outputs: the last
    ones with weights on every way to its end."""
    outputs: set[str] = set()
    waiting, seen = list(names[-1:]), {INPUT}
    while waiting:
        name = waiting.pop()
        if name in seen or name not in names:  # what there is not is refused where it is read
            continue
        seen.add(name)
        i = names.index(name)
        if kind_of(_kind(blocks[i]), name).weight:
            outputs.add(name)
        else:
            waiting += _reads(blocks[i], names[i - 1] if i else INPUT)
    found = []
    for name, block in zip(names, blocks, strict=True):
        features = block.get("conv", block.get("linear"))
        scaled = isinstance(features, int) and name not in outputs
        more = {_kind(block): max(1, math.floor(width * features + 0.5))} if scaled else {}  # type: ignore[operator]
        found.append(block | more)
    return found


def check_cnn(plan: Plan, converts: bool) -> None:
    """Refuse a plan that no CNN can have: it sees one frame, and no time steps.

    Args:
        converts: whether a spiking network is to be made of it.

    Raises:
        RequestError: naming the layer.
    """
    for layer in plan.layers:
        where = f"model {plan.name}: layer {layer.name} ({layer.kind})"
        if plan.kinds[layer.name].over in ("time", "delay"):
            raise RequestError(f"{where} runs in time steps, and a CNN has none; use a method that trains spikes, such "
                               "as method=bptt")  # fmt: skip
        if converts and layer.kind == "module":
            raise RequestError(f"{where} is of the user's own, and cannot be converted; make the network of layers "
                               "that a plan knows, or use a method that trains spikes: method=bptt")  # fmt: skip


def _block(
    i: int, name: str, block: Mapping[str, Any], before: str, last_of: Mapping[str, str], flat: set[str],
    n_outputs: int, names: Sequence[str],
) -> list[Layer]:  # fmt: skip
    """The layers of block ``i``."""
    kind = _kind(block)
    where = f"model.layers[{i - 1}]"
    reads = _reads(block, before)
    for one in reads:
        if one not in last_of and not (kind == "delay" and one in names):
            later = "; it stands further down: read it through {delay: …}" if one in names else ""
            raise RequestError(f"{where}: it reads {one}, no block above it{later}; {nearest(one, list(last_of))}")
    found: list[Layer] = []

    def put(
        layer_name: str, layer_kind: str, params: Mapping[str, Any] | None = None, inputs: Sequence[str] = ()
    ) -> None:
        default = found[-1].name if found else last_of[before]
        explicit = () if not inputs or list(inputs) == [default] else tuple(inputs)
        found.append(Layer(layer_name, layer_kind, params or {}, explicit))

    sources = [one if kind == "delay" else last_of[one] for one in reads]
    if len(sources) > kind_of(kind, name).inputs[1]:
        put(f"add{i}", "add", inputs=sources)
        sources = [f"add{i}"]
        if any(last_of[one] in flat for one in reads):
            flat.add(f"add{i}")
    is_flat = all(source in flat for source in sources)
    if kind == "linear" and not is_flat:
        put("flatten" if "flatten" not in flat else f"flatten{i}", "flatten", inputs=sources)
        flat.add(found[-1].name)
        sources, is_flat = [found[-1].name], True
    put(name, kind, _params(kind, block, n_outputs), sources)
    if block.get("norm") and block["norm"] != "weight":
        put(f"norm{i}", "norm", {"norm": block["norm"]})
    if block.get("neuron"):
        put(f"spike{i}", "neuron")
    if kind == "linear" or (is_flat and kind != "conv" and kind in BLOCKS):  # of a registered kind nothing is known
        flat.update(layer.name for layer in found)
    if pair(block.get("pool", 1)) != (1, 1):
        put(f"pool{i}", block["pool_kind"], {"kernel_size": pair(block["pool"])})
    return found


def _params(kind: str, block: Mapping[str, Any], n_outputs: int) -> dict[str, Any]:
    features = n_outputs if block[kind] == "classes" else block[kind]
    more: dict[str, Any] = {"bias": True} if block.get("bias") else {}
    if block.get("norm") == "weight":
        more["standardise"] = float(block["scale"])
    if kind == "conv":
        params: dict[str, Any] = {"out_channels": features, "kernel_size": pair(block["kernel"])}
        return params | {"stride": pair(block["stride"]), "padding": pair(block["padding"])} | more
    if kind == "linear":
        return {"out_features": features} | more
    if kind not in BLOCKS:
        return dict(block[kind])
    return {"decay": block["weigh_time"]} if kind == "weigh_time" else {}


def _read_ends(layers: Sequence[Layer], end: Mapping[str, str]) -> list[Layer]:
    """Delays read the ends of blocks, which are known once all of them are there."""
    return [
        Layer(one.name, one.kind, one.params, tuple(end.get(name, name) for name in one.inputs))
        if one.kind == "delay"
        else one
        for one in layers
    ]


def build(plan: Plan, *, family: str, neuron: Mapping[str, Any], output_relu: bool = False) -> Net:
    """Make the network of a plan, with fresh weights.

    Args:
        family: ``snn`` puts sinabs neurons after the weights, ``cnn`` rectifiers.
        neuron: options of :class:`cil_spl.models.options.Neuron`.
        output_relu: whether a CNN's output is rectified. Off while it is trained: a rectified output that
            is never positive gets no gradient, and its class is lost.
    """
    shapes = plan.shapes()
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, layer in enumerate(plan.layers):
        params: Mapping[str, Any] = layer.params
        if layer.kind == "neuron" and family == "cnn":
            modules[layer.name] = nn.Identity() if layer.name == plan.output and not output_relu else nn.ReLU()
            continue
        if layer.kind == "neuron":
            params = {**neuron, **params}
        inputs = [shapes[name] for name in plan.inputs(i)]
        modules[layer.name] = plan.kinds[layer.name].module(layer.name, params, inputs)
    return Net(plan, modules)
