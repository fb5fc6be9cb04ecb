"""What the config group ``model`` may say: neurons, layers. Without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, MinLen

from cil_spl.base.annotations import Keys, Says, shown
from cil_spl.base.errors import RequestError
from cil_spl.base.options import checked
from cil_spl.models.kinds import BUILT_IN, KINDS
from cil_spl.models.presets import PRESETS

Size = Annotated[
    Annotated[int, Ge(1)] | Annotated[Sequence[Annotated[int, Ge(1)]], Len(2, 2)],
    Says("a whole number, at least 1, or two of them, [y, x]"),
]
Border = Annotated[
    Annotated[int, Ge(0)] | Annotated[Sequence[Annotated[int, Ge(0)]], Len(2, 2)],
    Says("a whole number, at least 0, or two of them, [y, x]"),
]
Features = Annotated[
    Annotated[int, Ge(1)] | Literal["classes"], Says("a whole number of features from 1, or `classes`")
]


@dataclass(frozen=True)
class Neuron:
    """Spiking neurons; the config node ``model.neuron``. ``tau_mem`` is in time steps.

    With ``threshold_per: channel`` the lower bound and the initial state go with each channel's threshold, in the
    proportions min_v_mem / spike_threshold and v_init / spike_threshold.
    """

    kind: Literal["iaf", "lif"] = "iaf"
    spike_fn: Literal["multi", "single"] = "multi"
    reset_fn: Literal["subtract", "zero"] = "subtract"
    surrogate_grad_fn: Literal[
        "periodic_exponential",
        "single_exponential",
        "heaviside",
        "gaussian",
        "multi_gaussian",
        "triangle",
        "sigmoid",
    ] = "periodic_exponential"
    surrogate_args: Mapping[str, float] = field(default_factory=dict)
    spike_threshold: Annotated[float, Gt(0)] = 1.0
    min_v_mem: Annotated[float, Le(0)] | None = -8.0
    tau_mem: Annotated[float, Gt(0)] | None = None
    v_init: Annotated[float, Ge(0)] = 0.0
    trained_threshold: bool = False
    threshold_per: Literal["layer", "channel"] = "layer"


@dataclass(frozen=True)
class Backend:
    """How neurons are computed in time steps; the config group ``neurons``. It changes no result but the last bits."""

    backend: Literal["auto", "sinabs", "fused"] = "auto"
    recompute: bool = False


@dataclass(frozen=True)
class Model:
    """A network's plan; the config group ``model``."""

    name: str = "bptt_snn"
    family: Literal["snn", "cnn"] = "snn"
    aware: bool = False
    preset: Literal[tuple(PRESETS)] = "quickstart"  # type: ignore[valid-type]
    layers: Annotated[
        Annotated[Sequence[Any], MinLen(1)] | None, Says("a list, [{conv: FEATURES}, {linear: classes}], or null")
    ] = None
    width: Annotated[float, Gt(0)] = 1.0
    _target_: Annotated[str, MinLen(1)] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    neuron: Annotated[Mapping[str, Any], Keys(Neuron)] = field(default_factory=dict)


Inputs = Annotated[
    Annotated[Sequence[str], MinLen(1)] | None, Says("a list of the names of blocks above it, [a, b], or null")
]


@dataclass(frozen=True)
class Conv:
    """A block of ``model.layers``: convolution, then normalisation, neurons and pooling where asked for.

    With ``norm: weight`` the weights are standardised and multiplied by ``scale``: 2.74 = 1 / sqrt(p (1 - p)) undoes
    what the spread of single spikes takes, p = P(N(0, 1) >= 1).
    """

    conv: Features
    kernel: Size = 3
    stride: Size = 1
    padding: Border = 0
    bias: bool = False
    norm: Literal["batch", "scale", "weight"] | None = None
    scale: Annotated[float, Gt(0)] = 1.0
    neuron: bool = True
    pool: Size = 1
    pool_kind: Literal["avgpool", "sumpool"] = "avgpool"
    inputs: Inputs = None
    name: str | None = None


@dataclass(frozen=True)
class Linear:
    """A block of ``model.layers``: all to all, then normalisation and neurons; without neurons a linear read-out."""

    linear: Features
    bias: bool = False
    norm: Literal["batch", "scale", "weight"] | None = None
    scale: Annotated[float, Gt(0)] = 1.0
    neuron: bool = True
    inputs: Inputs = None
    name: str | None = None


@dataclass(frozen=True)
class Add:
    """A block of ``model.layers``: the sum of blocks, for a branch that merges; neurons only where asked for."""

    add: Annotated[Annotated[Sequence[str], MinLen(2)], Says("a list of the names of two or more blocks, [a, b]")]
    norm: Literal["batch", "scale"] | None = None
    neuron: bool = False
    pool: Size = 1
    pool_kind: Literal["avgpool", "sumpool"] = "avgpool"
    name: str | None = None


@dataclass(frozen=True)
class Delay:
    """A block of ``model.layers``: what a block, above or below it, gave one time step before; for feedback."""

    delay: Annotated[str, MinLen(1)]
    name: str | None = None


@dataclass(frozen=True)
class WeighTime:
    """A block of ``model.layers``: its sum over time is the leaky sum, each step ``weigh_time`` times the next."""

    weigh_time: Annotated[float, Gt(0), Le(1)]
    inputs: Inputs = None
    name: str | None = None


@dataclass(frozen=True)
class Own:
    """A block of ``model.layers`` of a kind that a user's module has registered; its key holds its parameters."""

    params: Mapping[str, Any]
    norm: Literal["batch", "scale"] | None = None
    neuron: bool = False
    pool: Size = 1
    pool_kind: Literal["avgpool", "sumpool"] = "avgpool"
    inputs: Inputs = None
    name: str | None = None


BLOCKS: dict[str, type] = {"conv": Conv, "linear": Linear, "add": Add, "delay": Delay, "weigh_time": WeighTime}


NAME = "[A-Za-z_][A-Za-z0-9_]*"


def _own(kind: str, block: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A block of a registered kind, its parameters under the name of the kind."""
    rest = {key: value for key, value in block.items() if key != kind}
    if "params" in rest:
        raise RequestError(
            f"{where}.params: no such key; the parameters stand under {kind}, {{{kind}: {{KEY: VALUE}}}}"
        )
    params = {} if block[kind] is None else block[kind]
    if not isinstance(params, Mapping):
        raise RequestError(f"{where}.{kind}={shown(params)}: needs its parameters, {{KEY: VALUE}}, or null for none")
    found = checked(Own, {"params": params, **rest}, where)
    return {kind: found.pop("params"), **found}


def check_layers(blocks: Sequence[Any]) -> list[dict[str, Any]]:
    """The blocks of ``model.layers``, each with its kind's keys, and defaults where it has none.

    Raises:
        RequestError: an unknown key, a value that is not allowed, or a name twice; the message names the block.
    """
    found: list[dict[str, Any]] = []
    for i, block in enumerate(blocks):
        where = f"model.layers[{i}]"
        own = [kind for kind in KINDS if kind not in BUILT_IN]
        kind = next((kind for kind in (*BLOCKS, *own) if isinstance(block, Mapping) and kind in block), None)
        if kind is None:
            known = ", ".join(f"`{kind}: …`" for kind in (*BLOCKS, *own) if kind not in ("conv", "linear"))
            raise RequestError(
                f"{where}={shown(block)}: needs `conv: FEATURES`, `linear: FEATURES`, or one of {known}; a kind of "
                "your own needs the module that registers it among `extensions`"
            )
        found.append(checked(BLOCKS[kind], block, where) if kind in BLOCKS else _own(kind, block, where))
        if found[-1].get("scale", 1.0) != 1 and found[-1]["norm"] != "weight":
            raise RequestError(
                f"{where}.scale={found[-1]['scale']:g}: it goes with norm: weight alone, which multiplies the "
                "standardised weights; leave it out"
            )
        name = found[-1]["name"]
        if name is not None and not re.fullmatch(NAME, name):
            raise RequestError(
                f"{where}.name={name}: needs letters, digits and _, and no digit first; for example stem"
            )
        if name is not None and (name == "input" or name in [other["name"] for other in found[:-1]]):
            raise RequestError(f"{where}.name={name}: this name is taken; names must differ")
    return found
