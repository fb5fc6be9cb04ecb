"""Kinds of layers: the shape that one gives, and the module that computes it.

A layer of a plan names its kind. What a kind is stands in one entry of :data:`KINDS`; a user's own module may add
entries with :func:`register`. Without torch until a module is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cil_spl.base.errors import RequestError

if TYPE_CHECKING:
    from torch import nn

Pair = tuple[int, int]
Shape = tuple[int, ...]

Over = Literal["steps", "time", "neurons", "delay"]
WEIGHTED = ("conv", "linear")
POOLS = ("avgpool", "sumpool")
NORMS = ("batch", "scale")


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        shape: output shape of a layer, from its name, parameters and the shapes of its inputs; without batch and time.
        module: the module of such a layer, from the same.
        over: how a layer runs over the T time steps of a batch. ``steps``: all of them in the batch axis,
            (T B, ...), as the modules of torch take it. ``time``: (T, B, ...) and a state, a tensor or None before the
            first step, and both come back. ``neurons`` and ``delay`` are for the built-in kinds alone.
        inputs: how many it reads, least and most.
        weight: whether a synaptic operation happens here: the weights of the layer times events. Its module has them
            as ``weight``, output features first.
    """

    shape: Callable[[str, Mapping[str, Any], Sequence[Shape]], Shape]
    module: Callable[[str, Mapping[str, Any], Sequence[Shape]], nn.Module]
    over: Over = "steps"
    inputs: tuple[int, float] = (1, 1)
    weight: bool = False


def pair(value: int | Sequence[int]) -> Pair:
    """(y, x) of a size that may be given as one number."""
    if isinstance(value, int):
        return value, value
    y, x = value
    return int(y), int(x)


def register(name: str, kind: Kind) -> None:
    """Add a kind of layer, or put another in the place of one of the user's own.

    Raises:
        RequestError: the name is that of a built-in kind or cannot be one, or the kind asks for the way in which
            built-in ones alone run.
    """
    if name in BUILT_IN or name in RESERVED or not name.isidentifier():
        raise RequestError(
            f"kind {name!r}: a built-in kind or another key of a block has this name, or it is none; choose another"
        )
    if kind.over not in ("steps", "time"):
        raise RequestError(f"kind {name!r}: over={kind.over!r}; allowed are 'steps' and 'time'")
    KINDS[name] = kind


def kind_of(name: str, layer: str) -> Kind:
    """The entry of a layer's kind.

    Raises:
        RequestError: there is no such kind.
    """
    if name not in KINDS:
        raise RequestError(f"model layer {layer}: unknown kind {name!r}; allowed are {', '.join(sorted(KINDS))}")
    return KINDS[name]


def _same(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
    return inputs[0]


def _flat(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
    return (math.prod(inputs[0]),)


def _linear(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
    if len(inputs[0]) != 1:
        raise RequestError(f"model layer {name}: a linear layer needs a flatten in front, got a map {inputs[0]}")
    return (int(p["out_features"]),)


def _conv(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
    _, height, width = _map(name, "conv", inputs[0])
    (ky, kx), (sy, sx) = pair(p["kernel_size"]), pair(p.get("stride", 1))
    py, px = pair(p.get("padding", 0))
    out = (int(p["out_channels"]), (height + 2 * py - ky) // sy + 1, (width + 2 * px - kx) // sx + 1)
    return _existing(name, out, inputs[0])


def _pool(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
    c, height, width = _map(name, "pooling", inputs[0])
    ky, kx = pair(p["kernel_size"])
    return _existing(name, (c, height // ky, width // kx), inputs[0])


def _add(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
    if len(set(inputs)) > 1:
        shapes = " and ".join(str(shape) for shape in inputs)
        raise RequestError(
            f"model layer {name}: what it adds has the shapes {shapes}; they must be equal: give the branches the same "
            "features, strides and pooling"
        )
    return inputs[0]


def _map(name: str, what: str, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise RequestError(f"model layer {name}: {what} needs a map (C, H, W), got {shape}")
    return shape


def _existing(name: str, out: Shape, source: Shape) -> Shape:
    if min(out) < 1:
        raise RequestError(f"model layer {name}: its output would be {out}; the map before it is only {source}")
    return out


def _conv_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    from torch import nn

    conv = nn.Conv2d(
        inputs[0][0], p["out_channels"], p["kernel_size"], p.get("stride", 1), p.get("padding", 0),
        bias=bool(p.get("bias", False)),
    )  # fmt: skip
    return _standardised(conv, p)


def _linear_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    from torch import nn

    return _standardised(nn.Linear(inputs[0][0], p["out_features"], bias=bool(p.get("bias", False))), p)


def _standardised(module: nn.Module, p: Mapping[str, Any]) -> nn.Module:
    """A layer whose weights are standardised, where the plan asks for it."""
    if p.get("standardise") is not None:
        from cil_spl.models.layers import standardise

        standardise(module, p["standardise"])
    return module


def _avgpool_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    from torch import nn

    return nn.AvgPool2d(p["kernel_size"])


def _sumpool_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    import sinabs.layers as sl

    return sl.SumPool2d(p["kernel_size"])


def _flatten_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    from torch import nn

    return nn.Flatten()


def _norm_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    from torch import nn

    from cil_spl.models import layers

    if p["norm"] == "scale":
        return layers.ScaleNorm(inputs[0][0])
    if p["norm"] == "batch":
        return nn.BatchNorm2d(inputs[0][0]) if len(inputs[0]) == 3 else nn.BatchNorm1d(inputs[0][0])
    raise RequestError(f"model layer {name}: norm={p['norm']!r}; allowed are {', '.join(NORMS)}")


def _layer(module: str) -> Callable[[str, Mapping[str, Any], Sequence[Shape]], nn.Module]:
    """A module of :mod:`cil_spl.models.layers`, made of the features and the parameters."""

    def make(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
        from cil_spl.models import layers

        return getattr(layers, module)(inputs[0][0], **p)

    return make


def _neuron_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    from cil_spl.models import neurons

    return neurons.make(**p, features=inputs[0][0], axes=len(inputs[0]))


def _given(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
    return tuple(p["shape"])


def _own_module(name: str, p: Mapping[str, Any], inputs: Sequence[Shape]) -> nn.Module:
    raise RequestError(f"model layer {name}: it is a user's own module, which model._target_ makes")


KINDS: dict[str, Kind] = {
    "conv": Kind(_conv, _conv_module, weight=True),
    "linear": Kind(_linear, _linear_module, weight=True),
    "neuron": Kind(_same, _neuron_module, over="neurons"),
    "norm": Kind(_same, _norm_module),
    "bias": Kind(_same, _layer("Bias")),
    "add": Kind(_add, _layer("Add"), inputs=(2, math.inf)),
    "delay": Kind(_same, _layer("Delay"), over="delay"),
    "weigh_time": Kind(_same, _layer("WeighTime"), over="time"),
    "avgpool": Kind(_pool, _avgpool_module),
    "sumpool": Kind(_pool, _sumpool_module),
    "flatten": Kind(_flat, _flatten_module),
    "module": Kind(_given, _own_module),
    "stateful": Kind(_given, _own_module, over="time"),
}
BUILT_IN = frozenset(KINDS)
RESERVED = ("inputs", "name", "neuron", "pool", "pool_kind", "kernel", "stride", "padding")  # keys of a block
