"""A network's plan: a graph of layers, before any weight exists.

The plan is what training, quantisation and placement on a chip all read. A layer is a name, a kind
(:data:`cil_spl.models.kinds.KINDS`) and its parameters; its input is the layer before it unless ``inputs`` says
otherwise. Layers stand in the order in which they are computed. Only a ``delay``, which gives what its input was one
time step before, may read a layer further down: that is feedback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import nearest
from cil_spl.models.kinds import POOLS, WEIGHTED, Kind, Pair, Shape, kind_of, pair
from cil_spl.models.stored import check_stored

__all__ = ["INPUT", "POOLS", "WEIGHTED", "Layer", "Pair", "Plan", "Shape", "pair"]

INPUT = "input"


@dataclass(frozen=True)
class Layer:
    """One layer of a plan; sizes are (y, x)."""

    name: str
    kind: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Layers in the order in which they are computed. ``input_shape`` is (C, H, W)."""

    name: str
    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]

    def as_dict(self) -> dict[str, Any]:
        """The plan in numbers, text and lists, for a file."""
        layers = [
            {"name": one.name, "kind": one.kind, "params": dict(one.params), "inputs": list(one.inputs)}
            for one in self.layers
        ]
        return {"name": self.name, "input_shape": list(self.input_shape), "layers": layers}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Plan:
        """The plan of :meth:`as_dict`.

        Raises:
            RequestError: it is not as that writes it; names the layer, the key and its value.
        """
        check_stored(found)
        c, height, width = found["input_shape"]
        layers = (Layer(one["name"], one["kind"], one["params"], tuple(one["inputs"])) for one in found["layers"])
        return cls(found["name"], (c, height, width), tuple(layers))

    def inputs(self, i: int) -> tuple[str, ...]:
        """Names of what layer ``i`` reads."""
        if self.layers[i].inputs:
            return self.layers[i].inputs
        return (self.layers[i - 1].name,) if i else (INPUT,)

    def inputs_of(self, name: str) -> tuple[str, ...]:
        """Names of what the layer of this name reads."""
        return self._inputs[name]

    @cached_property
    def _inputs(self) -> dict[str, tuple[str, ...]]:
        return {layer.name: self.inputs(i) for i, layer in enumerate(self.layers)}

    @property
    def output(self) -> str:
        """Name of the layer whose sum over time is the network's output."""
        return self.layers[-1].name if self.layers else INPUT

    def is_chain(self) -> bool:
        """Whether every layer reads only the one before it."""
        names = [INPUT, *(layer.name for layer in self.layers)]
        return all(self.inputs(i) == (names[i],) for i in range(len(self.layers)))

    def has_feedback(self) -> bool:
        """Whether time steps must be computed one after the other: a layer reads what another was a step before."""
        return bool(self.delays)

    def weights_before(self, name: str) -> tuple[str, ...]:
        """The weight layers whose activity a layer reads, ``input`` for the input itself."""
        found: list[str] = []
        waiting = list(self.inputs_of(name))
        seen: set[str] = set()
        while waiting:
            source = waiting.pop(0)
            if source == INPUT or self.kinds[source].weight:
                found += [source] if source not in found else []
            elif source not in seen:
                seen.add(source)
                waiting += self.inputs_of(source)
        return tuple(found)

    def named(self, name: str) -> Layer:
        """The layer of this name."""
        return next(layer for layer in self.layers if layer.name == name)

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the layers that read each layer's output, and the input's."""
        found: dict[str, list[int]] = {name: [] for name in (INPUT, *(layer.name for layer in self.layers))}
        for i in range(len(self.layers)):
            for name in self.inputs(i):
                found.setdefault(name, []).append(i)
        return {name: tuple(readers) for name, readers in found.items()}

    @cached_property
    def reads(self) -> dict[str, int]:
        """How often each layer's output is read, by other layers and by who asks for the network's."""
        counts = {name: len(readers) for name, readers in self.readers.items()}
        return counts | {self.output: counts.get(self.output, 0) + 1}

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each layer."""
        return {layer.name: kind_of(layer.kind, layer.name) for layer in self.layers}

    @cached_property
    def delays(self) -> dict[str, str]:
        """The delays, and what each of them reads."""
        return {layer.name: self.inputs_of(layer.name)[0] for layer in self.layers if layer.kind == "delay"}

    @cached_property
    def largest(self) -> int:
        """Values of its largest layer, for one sample at one time step."""
        return max(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> dict[str, Shape]:
        """Output shape of every layer, without batch and time, the input's under ``input``.

        Raises:
            RequestError: a layer cannot take what it is given, or reads one that there is not.
        """
        self._check_wiring()
        shapes: dict[str, Shape] = {INPUT: self.input_shape}
        for _ in range(1 + len(self.delays)):  # round a loop until all are known
            for i, layer in enumerate(self.layers):
                known = [shapes[name] for name in self.inputs(i) if name in shapes]
                if len(known) < len(self.inputs(i)) and not (layer.kind == "add" and known):
                    continue
                shapes[layer.name] = self.kinds[layer.name].shape(layer.name, layer.params, known)
        for layer in self.layers:
            if layer.name not in shapes:
                raise RequestError(
                    f"model layer {layer.name}: its shape follows from itself alone; let the loop that it is in add "
                    "something that comes from the input"
                )
        return shapes

    def _check_wiring(self) -> None:
        seen = {INPUT}
        names = [layer.name for layer in self.layers]
        for i, layer in enumerate(self.layers):
            least, most = self.kinds[layer.name].inputs
            inputs = self.inputs(i)
            if layer.name in seen:
                raise RequestError(f"model layer {layer.name}: two layers have this name; names must differ")
            if not least <= len(inputs) <= most:
                allowed = f"{least}" if least == most else f"at least {least}"
                raise RequestError(
                    f"model layer {layer.name}: {layer.kind} reads {len(inputs)} layers; allowed is {allowed}"
                )
            for name in inputs:
                if name not in seen and name not in names:
                    raise RequestError(
                        f"model layer {layer.name}: it reads {name}, but there is no such layer; "
                        f"{nearest(name, [INPUT, *names])}"
                    )
                if name not in seen and layer.kind != "delay":
                    raise RequestError(
                        f"model layer {layer.name}: it reads {name}, which is computed after it; read it through a "
                        "`delay`, or put it after"
                    )
            seen.add(layer.name)
