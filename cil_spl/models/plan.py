"""A network's plan: what its layers are and how they are wired, before any weight exists.

The plan is what training, quantisation and placement on a chip all read. A layer is a name, a kind
and its parameters; its input is the previous layer unless ``inputs`` says otherwise.

Kinds: ``conv`` (out_channels, kernel_size, stride, padding), ``linear`` (out_features), ``neuron``,
``avgpool`` and ``sumpool`` (kernel_size), ``flatten``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cil_spl.base.errors import RequestError

Pair = tuple[int, int]
Shape = tuple[int, ...]

INPUT = "input"
WEIGHTED = ("conv", "linear")
POOLS = ("avgpool", "sumpool")


@dataclass(frozen=True)
class Layer:
    """One layer of a plan; sizes are (y, x)."""

    name: str
    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Layers in topological order. ``input_shape`` is (C, H, W)."""

    name: str
    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]

    def inputs(self, i: int) -> tuple[str, ...]:
        """Names of what layer ``i`` reads."""
        if self.layers[i].inputs:
            return self.layers[i].inputs
        return (self.layers[i - 1].name,) if i else (INPUT,)

    def is_chain(self) -> bool:
        """Whether every layer reads only the one before it."""
        names = [INPUT, *(layer.name for layer in self.layers)]
        return all(self.inputs(i) == (names[i],) for i in range(len(self.layers)))

    def shapes(self) -> dict[str, Shape]:
        """Output shape of every layer, without batch and time, the input's under ``input``.

        Raises:
            RequestError: a layer cannot take what it is given.
        """
        shapes: dict[str, Shape] = {INPUT: self.input_shape}
        for i, layer in enumerate(self.layers):
            shapes[layer.name] = _output_shape(layer, [shapes[name] for name in self.inputs(i)])
        return shapes


@dataclass(frozen=True)
class Stage:
    """What one core of the chip would hold: weights, the neurons after them, the pooling.

    Attributes:
        weight: the conv or linear layer.
        neuron: name of the neuron layer after it.
        pool: (y, x) of the pooling after the neurons; (1, 1) where there is none.
        fold: area of the average pooling in front, by which the weights are divided on a chip.
        input_shape, output_shape: (C, H, W) into the weights and out of the neurons.
        sources: names of the weight layers that feed it; empty for the sensor.
    """

    weight: Layer
    neuron: str
    pool: Pair
    fold: int
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    sources: tuple[str, ...]


def pair(value: int | Sequence[int]) -> Pair:
    """(y, x) of a size that may be given as one number."""
    if isinstance(value, int):
        return value, value
    y, x = value
    return int(y), int(x)


def stages(plan: Plan) -> tuple[Stage, ...]:
    """Group a chain into weights → neurons → pooling.

    Raises:
        RequestError: the plan does not have this form; the message names the layer.
    """
    if not plan.is_chain():
        raise RequestError(f"model {plan.name}: only chains of layers can be placed on a chip so far")
    shapes = plan.shapes()
    found: list[Stage] = []
    shape: Shape = plan.input_shape
    fold = 1
    i = 0
    while i < len(plan.layers):
        layer = plan.layers[i]
        i += 1
        if layer.kind == "flatten":
            continue
        if layer.kind not in WEIGHTED:
            raise RequestError(
                f"model {plan.name}: layer {layer.name} ({layer.kind}) stands where a chip needs conv or linear: "
                "on a chip every core is weights, then neurons, then pooling"
            )
        if i == len(plan.layers) or plan.layers[i].kind != "neuron":
            raise RequestError(f"model {plan.name}: layer {layer.name} has no neurons after it; add a neuron layer")
        neuron = plan.layers[i].name
        i += 1
        out = _map3(shapes[layer.name])
        pool, next_fold = (1, 1), 1
        if i < len(plan.layers) and plan.layers[i].kind in POOLS:
            pool = pair(plan.layers[i].params["kernel_size"])
            next_fold = pool[0] * pool[1] if plan.layers[i].kind == "avgpool" else 1
            i += 1
        sources = (found[-1].weight.name,) if found else ()
        found.append(Stage(layer, neuron, pool, fold, _map3(shape), out, sources))
        fold = next_fold
        f, height, width = out
        shape = (f, height // pool[0], width // pool[1])
    return tuple(found)


def _map3(shape: Shape) -> tuple[int, int, int]:
    if len(shape) == 1:
        return shape[0], 1, 1
    c, height, width = shape
    return c, height, width


def _output_shape(layer: Layer, inputs: list[Shape]) -> Shape:
    shape = inputs[0]
    if layer.kind == "neuron":
        return shape
    if layer.kind == "flatten":
        size = 1
        for n in shape:
            size *= n
        return (size,)
    if layer.kind == "linear":
        if len(shape) != 1:
            raise RequestError(f"model layer {layer.name}: a linear layer needs a flatten in front, got a map {shape}")
        return (int(layer.params["out_features"]),)
    if len(shape) != 3:
        raise RequestError(f"model layer {layer.name}: {layer.kind} needs a map (C, H, W), got {shape}")
    c, height, width = shape
    ky, kx = pair(layer.params["kernel_size"])
    if layer.kind in POOLS:
        out: Shape = (c, height // ky, width // kx)
    elif layer.kind == "conv":
        sy, sx = pair(layer.params.get("stride", 1))
        py, px = pair(layer.params.get("padding", 0))
        out = (int(layer.params["out_channels"]), (height + 2 * py - ky) // sy + 1, (width + 2 * px - kx) // sx + 1)
    else:
        raise RequestError(f"model layer {layer.name}: unknown kind {layer.kind!r}")
    if min(out) < 1:
        raise RequestError(f"model layer {layer.name}: its output would be {out}; the map before it is only {shape}")
    return out
