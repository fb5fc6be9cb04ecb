"""The chip network: integers, shapes and wiring, ready for a chip. Frozen, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cil_spl.base.errors import RequestError


@dataclass(frozen=True)
class Destination:
    """Where a core sends its events: the layer's number, after a sum pooling of its own."""

    layer: int
    pool: tuple[int, int] = (1, 1)
    feature_shift: int = 0


@dataclass(frozen=True)
class ChipLayer:
    """One core: convolution, integrate-and-fire neurons, sum pooling.

    Attributes:
        name: of the float network's layer.
        weight: int8, ``[f, c, ky, kx]``; a linear layer is a convolution over its whole input map.
        stride, padding: (y, x).
        input_shape: (c, y, x).
        threshold, min_v_mem: 16-bit integers.
        reset: ``subtract`` the threshold or return to ``zero``.
        scale: chip integers per unit of the float network: ``v_mem = state / scale``.
        destinations: at most two; none means that the events are read out.
        core: number of the core it is placed on, or None.
        v_init: every neuron's state before the first event, below the threshold.
    """

    name: str
    weight: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_shape: tuple[int, int, int]
    threshold: int
    min_v_mem: int
    reset: str = "subtract"
    scale: float = 1.0
    destinations: tuple[Destination, ...] = ()
    core: int | None = None
    v_init: int = 0

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(f, y, x) of the neurons, before pooling."""
        f, _, ky, kx = self.weight.shape
        _, height, width = self.input_shape
        return (
            f,
            (height + 2 * self.padding[0] - ky) // self.stride[0] + 1,
            (width + 2 * self.padding[1] - kx) // self.stride[1] + 1,
        )


@dataclass(frozen=True)
class ChipNetwork:
    """Layers in topological order; layer 0 takes the sensor's events, the last one is read out.

    Neuron ``k`` of the last layer (its map is 1 x 1) is class ``k``, unless ``readout`` names the feature of each
    class: the chip's readout stage is wired to every fourth one.
    """

    layers: tuple[ChipLayer, ...]
    input_shape: tuple[int, int, int]
    readout: tuple[int, ...] | None = None

    @property
    def n_classes(self) -> int:
        return int(np.prod(self.layers[-1].output_shape)) if self.readout is None else len(self.readout)

    @property
    def branch(self) -> ChipLayer | None:
        """The first layer that does not send to the next one alone, or, if it is the last one, sends at all."""
        for k, layer in enumerate(self.layers):
            if [d.layer for d in layer.destinations] != [k + 1][: len(self.layers) - 1 - k]:
                return layer
        return None

    @property
    def is_chain(self) -> bool:
        """Whether every layer sends to the next one alone, and the last one nowhere."""
        return self.branch is None


def check_network(network: ChipNetwork) -> None:
    """Refuse what no chip could run: wiring, shapes and number ranges (what fits a core is placement's matter).

    Raises:
        RequestError: names the layer, its value and what is allowed.
    """
    for k, layer in enumerate(network.layers):

        def refuse(what: str, name: str = layer.name) -> None:
            raise RequestError(f"chip network: layer {name}: {what}")

        if layer.weight.dtype != np.int8 or layer.weight.ndim != 4:
            refuse(f"weight is {layer.weight.dtype} {layer.weight.shape}; a chip holds int8 [f, c, ky, kx]")
        if layer.weight.shape[1] != layer.input_shape[0]:
            refuse(f"weight takes {layer.weight.shape[1]} features, input_shape has {layer.input_shape[0]}")
        if min(layer.output_shape) < 1:
            refuse(f"its map would be {layer.output_shape}")
        if not 1 <= layer.threshold <= 32767:
            refuse(f"threshold={layer.threshold}; allowed is 1..32767")
        if not -32768 <= layer.min_v_mem <= 0:
            refuse(f"min_v_mem={layer.min_v_mem}; allowed is -32768..0")
        if not layer.min_v_mem <= layer.v_init < layer.threshold:
            refuse(f"v_init={layer.v_init}; allowed is {layer.min_v_mem}..{layer.threshold - 1}, below the threshold")
        if layer.reset not in ("subtract", "zero"):
            refuse(f"reset={layer.reset}; allowed are subtract and zero")
        if len(layer.destinations) > 2:
            refuse(f"{len(layer.destinations)} destinations; a core feeds at most 2")
        if k == len(network.layers) - 1 and layer.destinations:
            refuse("the last layer is read out and feeds no other")
        for destination in layer.destinations:
            if not k < destination.layer < len(network.layers):
                refuse(f"feeds layer {destination.layer}; allowed is {k + 1}..{len(network.layers) - 1}")
            if not set(destination.pool) <= {1, 2, 4}:
                refuse(f"pool={destination.pool}; allowed are 1, 2 and 4")
            _, height, width = layer.output_shape
            pooled = (height // destination.pool[0], width // destination.pool[1])
            target = network.layers[destination.layer]
            if pooled != target.input_shape[1:]:
                refuse(f"its pooled map is {pooled}, layer {target.name} takes {target.input_shape[1:]}")
    if network.layers[0].input_shape != network.input_shape:
        raise RequestError(
            f"chip network: input {network.input_shape} is not layer 0's {network.layers[0].input_shape}"
        )
