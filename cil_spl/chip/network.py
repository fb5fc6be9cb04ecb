"""The chip network: integers, shapes and wiring, ready for a chip. Frozen, without torch."""

from __future__ import annotations

import math
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


# Bounds of what is computed at all, far beyond the chip's own (which are placement's matter): from a file, a size is
# known to be possible before memory is taken for it.
MOST_SIDE, MOST_FEATURES, MOST_NEURONS = 4096, 65536, 2**24
CORES = 9  # of a Speck 2e/2f


def check_network(network: ChipNetwork) -> None:
    """Refuse what no chip could run: wiring, shapes and number ranges (what fits a core is placement's matter).

    Raises:
        RequestError: names the layer, its value and what is allowed.
    """
    if not network.layers:
        raise RequestError("chip network: it has no layers; needed is at least 1")
    for layer in network.layers:
        try:
            if not isinstance(layer.name, str) or not layer.name:
                raise RequestError(f"name={layer.name}; needed is a text")
            _check_shapes(layer)
            _check_neurons(layer)
        except RequestError as error:
            raise RequestError(f"chip network: layer {layer.name}: {error}") from None
    for k, layer in enumerate(network.layers):
        try:
            _check_destinations(network, k)
        except RequestError as error:
            raise RequestError(f"chip network: layer {layer.name}: {error}") from None
    if network.layers[0].input_shape != network.input_shape:
        raise RequestError(
            f"chip network: input {network.input_shape} is not layer 0's {network.layers[0].input_shape}"
        )
    neurons = sum(math.prod(layer.output_shape) for layer in network.layers)
    if neurons > MOST_NEURONS:
        raise RequestError(f"chip network: it has {neurons} neurons; allowed are at most {MOST_NEURONS}")
    _check_fed(network)
    _check_readout(network)


def _check_shapes(layer: ChipLayer) -> None:
    weight = layer.weight
    if not isinstance(weight, np.ndarray) or weight.dtype != np.int8 or weight.ndim != 4 or 0 in weight.shape:
        found = f"{weight.dtype} {weight.shape}" if isinstance(weight, np.ndarray) else type(weight).__name__
        raise RequestError(f"weight is {found}; a chip holds int8 [f, c, ky, kx]")
    _check_wholes("stride", layer.stride, 2, 1, MOST_SIDE)
    _check_wholes("padding", layer.padding, 2, 0, MOST_SIDE)
    _check_wholes("input_shape", layer.input_shape, 3, 1, MOST_FEATURES)
    if weight.shape[1] != layer.input_shape[0]:
        raise RequestError(f"weight takes {weight.shape[1]} features, input_shape has {layer.input_shape[0]}")
    sides = (*layer.input_shape[1:], *weight.shape[2:])
    if max(sides) > MOST_SIDE or weight.shape[0] > MOST_FEATURES:
        raise RequestError(
            f"weight is {weight.shape}, input_shape={layer.input_shape}; allowed are at most {MOST_FEATURES} features "
            f"and sides of {MOST_SIDE}"
        )
    if min(layer.output_shape) < 1:
        raise RequestError(f"its map would be {layer.output_shape}")
    for what, shape in (("inputs", layer.input_shape), ("neurons", layer.output_shape)):
        if math.prod(shape) > MOST_NEURONS:
            raise RequestError(f"{shape} are {math.prod(shape)} {what}; allowed are at most {MOST_NEURONS}")


def _check_neurons(layer: ChipLayer) -> None:
    _check_whole("threshold", layer.threshold, 1, 32767)
    _check_whole("min_v_mem", layer.min_v_mem, -32768, 0)
    _check_whole("v_init", layer.v_init, layer.min_v_mem, layer.threshold - 1, ", below the threshold")
    if layer.reset not in ("subtract", "zero"):
        raise RequestError(f"reset={layer.reset}; allowed are subtract and zero")
    if not isinstance(layer.scale, float | int) or not 0 < layer.scale < math.inf:
        raise RequestError(f"scale={layer.scale}; needed is a finite number above 0")
    if layer.core is not None:
        _check_whole("core", layer.core, 0, CORES - 1)


def _check_destinations(network: ChipNetwork, k: int) -> None:
    layer, last = network.layers[k], len(network.layers) - 1
    f, height, width = layer.output_shape
    if len(layer.destinations) > 2:
        raise RequestError(f"{len(layer.destinations)} destinations; a core feeds at most 2")
    if k == last and layer.destinations:
        raise RequestError("the last layer is read out and feeds no other")
    for destination in layer.destinations:
        if not _is_whole(destination.layer) or not k < destination.layer <= last:
            raise RequestError(f"feeds layer {destination.layer}; allowed is {k + 1}..{last}")
        if not all(map(_is_whole, destination.pool)) or not set(destination.pool) <= {1, 2, 4}:
            raise RequestError(f"pool={destination.pool}; allowed are 1, 2 and 4")
        pooled = (height // destination.pool[0], width // destination.pool[1])
        target = network.layers[destination.layer]
        if pooled != target.input_shape[1:]:
            raise RequestError(f"its pooled map is {pooled}, layer {target.name} takes {target.input_shape[1:]}")
        takes = target.input_shape[0]
        if not _is_whole(destination.feature_shift) or not 0 <= destination.feature_shift <= takes - f:
            raise RequestError(
                f"its {f} features, shifted by {destination.feature_shift}, are not among the {takes} that layer "
                f"{target.name} takes"
            )


def _check_fed(network: ChipNetwork) -> None:
    """Every layer but the first is fed, and where one layer alone feeds it, up to its last feature."""
    feeders: dict[int, list[int]] = {k: [] for k in range(len(network.layers))}
    for layer in network.layers:
        for d in layer.destinations:
            feeders[d.layer].append(layer.output_shape[0] + d.feature_shift)
    for k, layer in enumerate(network.layers[1:], start=1):
        if not feeders[k]:
            raise RequestError(
                f"chip network: layer {layer.name}: no layer feeds it; the first one alone has the sensor"
            )
        takes, fed = layer.input_shape[0], feeders[k]
        if len(fed) == 1 and fed[0] != takes:
            raise RequestError(f"chip network: layer {layer.name}: it takes {takes} features, but is fed {fed[0]}")


def _check_readout(network: ChipNetwork) -> None:
    readout, last = network.readout, network.layers[-1]
    if readout is None:
        return
    f, height, width = last.output_shape
    if (height, width) != (1, 1):
        raise RequestError(
            f"chip network: readout={list(readout)}: layer {last.name} ends in a map {last.output_shape}; needed is "
            "1 x 1"
        )
    sound = all(_is_whole(k) and 0 <= k < f for k in readout)
    if not readout or not sound or len(set(readout)) < len(readout):
        raise RequestError(
            f"chip network: readout={list(readout)}: needed is a feature of layer {last.name} for each class, whole "
            f"numbers from 0 to {f - 1}, each once"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_whole(key: str, value: object, least: int, most: int, besides: str = "") -> None:
    if not _is_whole(value) or not least <= value <= most:  # type: ignore[operator]
        raise RequestError(f"{key}={value}; allowed is {least}..{most}{besides}, whole numbers")


def _check_wholes(key: str, values: object, n: int, least: int, most: int) -> None:
    sound = isinstance(values, tuple) and len(values) == n and all(map(_is_whole, values))
    if not sound or not all(least <= value <= most for value in values):  # type: ignore[attr-defined]
        raise RequestError(f"{key}={values}; needed are {n} whole numbers, each {least}..{most}")
