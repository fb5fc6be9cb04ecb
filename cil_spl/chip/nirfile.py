"""NIR, the exchange format of neuromorphic tools: a network read as chip integers, and written from them.

NIR's integrate-and-fire has the weights, the threshold and the subtraction. It has no lower bound, no rule for several
spikes at once and no return to zero: the lower bound travels in the node's metadata, which other tools may ignore, and
a layer that returns to zero is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination, check_network
from cil_spl.chip.rounding import to_integers

MIN_V_MEM = "min_v_mem"


@dataclass(frozen=True)
class FloatLayer:
    """A layer before it is made integer: weight float32 [f, c, ky, kx], the rest as in :class:`ChipLayer`."""

    name: str
    weight: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_shape: tuple[int, int, int]
    threshold: float
    min_v_mem: float
    pool: tuple[int, int]


def to_chip(layers: list[FloatLayer], input_shape: tuple[int, int, int]) -> ChipNetwork:
    """Integers by the chip's rule, :mod:`cil_spl.chip.rounding`."""
    found = []
    for k, layer in enumerate(layers):
        integers = to_integers(layer.weight, np.float32(layer.threshold), np.float32(layer.min_v_mem))
        found.append(
            ChipLayer(
                name=layer.name,
                weight=integers.weight.astype(np.int8),
                stride=layer.stride,
                padding=layer.padding,
                input_shape=layer.input_shape,
                threshold=int(integers.threshold),
                min_v_mem=int(integers.min_v_mem),
                scale=float(integers.scale),
                destinations=(Destination(k + 1, layer.pool),) if k + 1 < len(layers) else (),
            )
        )
    return ChipNetwork(tuple(found), input_shape)


def read(path: Path | str, min_v_mem: float = -1.0) -> ChipNetwork:
    """A NIR chain of convolution or affine, integrate-and-fire and sum pooling, as chip integers.

    Args:
        min_v_mem: lower bound where the file names none.

    Raises:
        RequestError: not a NIR file, or a node that the chip does not have; names the node.
    """
    return to_chip(*read_float(path, min_v_mem))


def read_float(path: Path | str, min_v_mem: float = -1.0) -> tuple[list[FloatLayer], tuple[int, int, int]]:
    """As :func:`read`, before the integers: the layers, and the input's (c, y, x)."""
    import nir

    if not Path(path).is_file():
        raise RequestError(f"{path}: no such file")
    try:
        graph: Any = nir.read(str(path))
    except Exception as error:  # h5py and nir raise anything for a foreign file
        raise RequestError(f"{path}: not a NIR file ({error})") from None
    order = _chain(graph, path)
    shape = tuple(int(n) for n in np.ravel(graph.nodes[order[0]].input_type["input"]))
    if len(shape) != 3:
        raise RequestError(f"{path}: the input is {shape}; the chip takes (features, y, x)")
    input_shape = (shape[0], shape[1], shape[2])
    layers: list[FloatLayer] = []
    pending: dict[str, Any] | None = None  # weights that wait for their neurons
    c, height, width = input_shape
    for name in order[1:-1]:
        node = graph.nodes[name]
        kind = type(node).__name__

        def refuse(why: str, name: str = name, kind: str = kind) -> None:
            raise RequestError(f"{path}: node {name} ({kind}): {why}")

        if kind == "Flatten":
            continue
        if kind in ("Conv2d", "Linear", "Affine"):
            if pending is not None:
                refuse("weights after weights; the chip needs neurons between")
            if np.any(getattr(node, "bias", np.zeros(1)) != 0):
                refuse("has a bias; on the chip that is a leak driven by a slow clock. Train without")
            weight = np.asarray(node.weight, np.float32)
            if not np.isfinite(weight).all():
                refuse("a weight is not a finite number")
            if kind == "Conv2d":
                if int(node.groups) != 1 or np.any(np.asarray(node.dilation) != 1):
                    refuse("groups and dilation are not on the chip")
                if isinstance(node.padding, str):
                    refuse(f"padding={node.padding}; give it in pixels")
                stride, padding = _pair(node.stride), _pair(node.padding)
            else:
                if weight.shape[1] != c * height * width:
                    refuse(f"takes {weight.shape[1]} inputs, the map before it has {c * height * width}")
                weight, stride, padding = weight.reshape(-1, c, height, width), (1, 1), (0, 0)
            pending = {"name": name, "weight": weight, "stride": stride, "padding": padding}
        elif kind == "IF":
            if pending is None:
                refuse("neurons without weights in front")
                continue
            threshold, r = np.ravel(node.v_threshold), np.ravel(node.r)
            if np.ptp(threshold) or np.any(r != 1):
                refuse("the chip has one threshold per layer and no resistance; fold them into the weights")
            low = float(np.ravel((node.metadata or {}).get(MIN_V_MEM, min_v_mem))[0])
            layers.append(
                FloatLayer(
                    **pending, input_shape=(c, height, width), threshold=float(threshold[0]), min_v_mem=low, pool=(1, 1)
                )
            )
            c, height, width = _map(layers[-1])
            pending = None
        elif kind == "SumPool2d":
            if not layers or pending is not None or layers[-1].pool != (1, 1):
                refuse("pooling must stand after neurons")
            pool = _pair(node.kernel_size)
            if pool != _pair(node.stride) or np.any(np.asarray(node.padding) != 0):
                refuse("pooling windows must not overlap or reach over the edge")
            layers[-1] = replace(layers[-1], pool=pool)
            height, width = height // pool[0], width // pool[1]
        else:
            refuse("not on the chip, which has convolution, linear layers, integrate-and-fire and sum pooling")
    if pending is not None or not layers:
        raise RequestError(f"{path}: the chain does not end in integrate-and-fire neurons")
    return layers, input_shape


def write(network: ChipNetwork, path: Path | str) -> list[str]:
    """Write a chain as NIR, in the float network's units; what NIR cannot say is returned as warnings.

    Raises:
        RequestError: branches, a feature shift, or a layer that returns to zero.
    """
    import nir

    check_network(network)
    nodes: dict[str, Any] = {"input": nir.Input(np.array(network.input_shape))}
    edges, last = [], "input"
    if network.branch is not None:
        raise RequestError(f"layer {network.branch.name}: only chains are written as NIR")
    for layer in network.layers:
        if any(d.feature_shift for d in layer.destinations):
            raise RequestError(f"layer {layer.name}: NIR has no feature shift")
        if layer.reset != "subtract":
            raise RequestError(f"layer {layer.name}: NIR's integrate-and-fire subtracts, it cannot return to zero")
        if layer.v_init:
            raise RequestError(f"layer {layer.name}: v_init={layer.v_init}; NIR's neurons start at 0")
        weight = (layer.weight / layer.scale).astype(np.float32)
        # As a convolution throughout: that keeps the map, and needs no flattening in between.
        nodes[layer.name] = nir.Conv2d(
            input_shape=layer.input_shape[1:], weight=weight, stride=layer.stride, padding=layer.padding, dilation=1,
            groups=1, bias=np.zeros(len(weight), np.float32),
        )  # fmt: skip
        ones = np.ones(layer.output_shape, np.float32)
        nodes[f"{layer.name}_neurons"] = nir.IF(
            r=ones,
            v_threshold=ones * np.float32(layer.threshold / layer.scale),
            metadata={MIN_V_MEM: layer.min_v_mem / layer.scale},
        )
        edges += [(last, layer.name), (layer.name, f"{layer.name}_neurons")]
        last = f"{layer.name}_neurons"
        pool = layer.destinations[0].pool if layer.destinations else (1, 1)
        if pool != (1, 1):
            nodes[f"{layer.name}_pool"] = nir.SumPool2d(np.array(pool), np.array(pool), np.array([0, 0]))
            edges.append((last, f"{layer.name}_pool"))
            last = f"{layer.name}_pool"
    nodes["output"] = nir.Output(np.array(network.layers[-1].output_shape))
    edges.append((last, "output"))
    nir.write(str(path), nir.NIRGraph(nodes, edges))
    return [
        "NIR has no lower bound of the membrane: it is kept as metadata, which other tools may ignore",
        "NIR does not say what a neuron does that is still above threshold after a spike; on the chip it waits for its "
        "next input event",
    ]


def _chain(graph: Any, path: Path | str) -> list[str]:
    onward: dict[str, list[str]] = {}
    for a, b in graph.edges:
        onward.setdefault(a, []).append(b)
    starts = [name for name, node in graph.nodes.items() if type(node).__name__ == "Input"]
    if len(starts) != 1 or any(len(b) > 1 for b in onward.values()):
        raise RequestError(f"{path}: only chains of layers with one input can be read")
    order = [starts[0]]
    while order[-1] in onward:
        if len(order) > len(graph.nodes):
            raise RequestError(f"{path}: its connections run in a circle")
        order.append(onward[order[-1]][0])
    return order


def _map(layer: FloatLayer) -> tuple[int, int, int]:
    f, _, ky, kx = layer.weight.shape
    _, height, width = layer.input_shape
    (sy, sx), (py, px) = layer.stride, layer.padding
    return f, (height + 2 * py - ky) // sy + 1, (width + 2 * px - kx) // sx + 1


def _pair(value: Any) -> tuple[int, int]:
    y, x = np.broadcast_to(np.asarray(value), 2)
    return int(y), int(x)
