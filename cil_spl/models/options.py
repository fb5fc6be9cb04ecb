"""What the config group ``model`` may say: neurons, layers. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, MinLen

from cil_spl.base.annotations import Keys, Says, shown
from cil_spl.base.errors import RequestError
from cil_spl.base.options import checked
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
    """Spiking neurons; the config node ``model.neuron``. ``tau_mem`` is in time steps."""

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
    neuron: Annotated[Mapping[str, Any], Keys(Neuron)] = field(default_factory=dict)


@dataclass(frozen=True)
class Conv:
    """A block of ``model.layers``: convolution, neurons, pooling."""

    conv: Features
    kernel: Size = 3
    stride: Size = 1
    padding: Border = 0
    pool: Size = 1
    pool_kind: Literal["avgpool", "sumpool"] = "avgpool"
    name: str | None = None


@dataclass(frozen=True)
class Linear:
    """A block of ``model.layers``: all to all, neurons."""

    linear: Features
    name: str | None = None


BLOCKS: dict[str, type] = {"conv": Conv, "linear": Linear}


def check_layers(blocks: Sequence[Any]) -> list[dict[str, Any]]:
    """The blocks of ``model.layers``, each with its kind's keys, and defaults where it has none.

    Raises:
        RequestError: an unknown key or a value that is not allowed; the message names the block.
    """
    found = []
    for i, block in enumerate(blocks):
        where = f"model.layers[{i}]"
        kind = next((kind for kind in BLOCKS if isinstance(block, Mapping) and kind in block), None)
        if kind is None:
            raise RequestError(f"{where}={shown(block)}: needs `conv: FEATURES` or `linear: FEATURES`")
        found.append(checked(BLOCKS[kind], block, where))
    return found
