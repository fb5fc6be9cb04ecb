"""NIR, the exchange format of neuromorphic tools: a network read as chip integers, and written from them.

What NIR's integrate-and-fire (IF) does after a spike depends on the version of NIR:

    before 1.0.5   v <- v - v_threshold    the chip's ``subtract``
    from 1.0.5 on  v <- v_reset            the chip's ``zero``, with every potential counted from v_reset:
                   threshold = v_threshold - v_reset,  v_min = min_v_mem - v_reset,  v_init = -v_reset

The shift is exact, as neurons without a leak only add. NIR has no lower bound and no rule for several spikes at once:
the bound travels in the node's metadata (``min_v_mem``), which other tools may ignore. NIR fires above the threshold,
the chip at it as well, which sets them apart where a sum is exactly the threshold.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.base.files import warn_once
from cil_spl.chip import nirgraph
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination, check_network
from cil_spl.chip.nirchain import MIN_V_MEM, Chain, FloatLayer, Refused, order_of
from cil_spl.chip.nirgraph import Node
from cil_spl.chip.rounding import to_integers, warnings_of

SUBTRACTS, RESETS = "1.0.4", "1.0.8"  # versions whose IF subtracts, and returns to v_reset


def to_chip(layers: list[FloatLayer], input_shape: tuple[int, int, int]) -> ChipNetwork:
    """Integers by the chip's rule, :mod:`cil_spl.chip.rounding`; what the user should know is logged once.

    Raises:
        RequestError: a threshold, or every weight of a layer, rounds to 0; or no chip could run the network.
    """
    found = []
    for k, layer in enumerate(layers):
        keys = (f"{layer.where}: v_threshold", f"{layer.where}: {MIN_V_MEM}")
        integers = to_integers(layer.weight, np.float32(layer.threshold), np.float32(layer.min_v_mem), keys=keys)
        if layer.weight.any() and not integers.weight.any():
            largest, bound = np.abs(layer.weight).max(), max(layer.threshold, -layer.min_v_mem)
            raise RequestError(
                f"{layer.where}: every weight of {layer.name} rounds to 0: the largest is {largest:g}, and v_threshold "
                f"or {MIN_V_MEM} lies {bound:g} away; it may be 65534 times as much at most. Lower it"
            )
        for warning in warnings_of(f"{layer.where}: weights {layer.name}", integers):
            warn_once(warning)
        threshold = int(integers.threshold)
        found.append(
            ChipLayer(
                name=layer.name,
                weight=integers.weight.astype(np.int8),
                stride=layer.stride,
                padding=layer.padding,
                input_shape=layer.input_shape,
                threshold=threshold,
                min_v_mem=int(integers.min_v_mem),
                reset=layer.reset,
                scale=float(integers.scale),
                destinations=(Destination(k + 1, layer.pool),) if k + 1 < len(layers) else (),
                v_init=max(min(round(layer.v_init * float(integers.scale)), threshold - 1), int(integers.min_v_mem)),
            )
        )
    network = ChipNetwork(tuple(found), input_shape)
    check_network(network)
    return network


def read(path: Path | str, min_v_mem: float = -1.0) -> ChipNetwork:
    """A NIR chain of convolution or affine, integrate-and-fire and pooling, as chip integers.

    Args:
        min_v_mem: lower bound where the file names none.

    Raises:
        RequestError: not a NIR file, or a node that the chip does not have; names the file, the node, its value and
            what is allowed.
    """
    layers, input_shape = read_float(path, min_v_mem)
    try:
        return to_chip(layers, input_shape)
    except RequestError as error:
        text = str(error)
        raise RequestError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


def read_float(path: Path | str, min_v_mem: float = -1.0) -> tuple[list[FloatLayer], tuple[int, int, int]]:
    """As :func:`read`, before the integers: the layers, and the input's (c, y, x)."""
    if not (math.isfinite(min_v_mem) and min_v_mem <= 0):
        raise RequestError(f"{MIN_V_MEM}={min_v_mem}: needed is a finite number of at most 0")
    graph = nirgraph.read(Path(path))
    try:
        chain = Chain(graph, str(path), min_v_mem)
        first, *between, last = order_of(graph)
        chain.start(first)
        for name in between:
            chain.take(name)
        chain.end(last)
    except Refused as error:
        raise RequestError(f"{path}: {error}") from None
    return chain.layers, chain.input_shape


def write(network: ChipNetwork, path: Path | str) -> list[str]:
    """Write a chain as NIR, in the float network's units; what NIR cannot say is returned as warnings.

    Layers that subtract are written as NIR defines them up to 1.0.4, those that return to zero as from 1.0.5 on.

    Raises:
        RequestError: branches, a feature shift, layers of both kinds, or ones that subtract and do not start at 0.
    """
    check_network(network)
    if network.branch is not None:
        raise RequestError(f"layer {network.branch.name}: only chains are written as NIR")
    if network.readout is not None:
        raise RequestError(f"readout={list(network.readout)}: NIR has none; write the network before it is spread")
    zero = [layer.name for layer in network.layers if layer.reset == "zero"]
    if 0 < len(zero) < len(network.layers):
        other = next(layer.name for layer in network.layers if layer.name not in zero)
        raise RequestError(
            f"layer {zero[0]}: NIR's integrate-and-fire subtracts up to 1.0.4 and returns to a value from 1.0.5 on, in "
            f"all of a file; layer {other} does the other"
        )
    nodes = {"input": Node("Input", {"shape": np.array(network.input_shape)})}
    for layer in network.layers:
        if any(d.feature_shift for d in layer.destinations):
            raise RequestError(f"layer {layer.name}: NIR has no feature shift")
        if layer.reset == "subtract" and layer.v_init:
            raise RequestError(f"layer {layer.name}: v_init={layer.v_init}; NIR's neurons start at 0")
        nodes |= _nodes_of(layer, set(nodes))
    nodes["output"] = Node("Output", {"shape": np.array(network.layers[-1].output_shape)})
    names = list(nodes)
    nirgraph.write(Path(path), RESETS if zero else SUBTRACTS, nodes, list(itertools.pairwise(names)))
    after = "" if zero else "; with nir 1.0.5 or later it returns to 0, where here it subtracts"
    return [
        "NIR has no lower bound of the membrane: it is kept as metadata, which other tools may ignore",
        "NIR does not say what a neuron does that is still above threshold after a spike; on the chip it waits for its "
        f"next input event{after}",
    ]


def _nodes_of(layer: ChipLayer, taken: set[str]) -> dict[str, Node]:
    """Weights, neurons and pooling. As a convolution throughout: that keeps the map, without flattening in between."""
    if "/" in layer.name or layer.name in (".", "..", "output") or layer.name in taken:
        raise RequestError(f"layer {layer.name}: NIR cannot have a node of this name beside the others; choose another")
    ones = np.ones(layer.output_shape, np.float32)
    pair = {"stride": np.array(layer.stride), "padding": np.array(layer.padding), "dilation": np.array([1, 1])}
    weight = (layer.weight / layer.scale).astype(np.float32)
    bias = np.zeros(len(weight), np.float32)
    found = {layer.name: Node("Conv2d", {"weight": weight, "bias": bias, "groups": np.array(1),
                                         "input_shape": np.array(layer.input_shape[1:])} | pair)}  # fmt: skip
    neurons = {"r": ones, "v_threshold": ones * np.float32((layer.threshold - layer.v_init) / layer.scale)}
    if layer.reset == "zero":  # counted from where the neurons start, which is 0 in NIR
        neurons["v_reset"] = ones * np.float32(-layer.v_init / layer.scale)
    low = np.array((layer.min_v_mem - layer.v_init) / layer.scale)
    found[f"{layer.name}_neurons"] = Node("IF", neurons, {MIN_V_MEM: low})
    pool = layer.destinations[0].pool if layer.destinations else (1, 1)
    if pool != (1, 1):
        sizes = {"kernel_size": np.array(pool), "stride": np.array(pool), "padding": np.array([0, 0])}
        found[f"{layer.name}_pool"] = Node("SumPool2d", sizes)
    return found
