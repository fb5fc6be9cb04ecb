"""The chain of layers that a NIR graph is, in the float network's units, or the reason why the chip cannot have it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cil_spl.base.annotations import shown
from cil_spl.base.files import warn_once
from cil_spl.chip.network import MOST_SIDE
from cil_spl.chip.nirgraph import Graph

MIN_V_MEM = "min_v_mem"  # the key of the lower bound in the metadata of neurons
FIRST_RESET = (1, 0, 5)  # the first version with v_reset; without the key it is 0 from there on
# The values of each node that the chip has: those that must be there, and those that may.
VALUES: dict[str, tuple[set[str], set[str]]] = {
    "Input": ({"shape"}, set()),
    "Output": ({"shape"}, set()),
    "Flatten": ({"start_dim", "end_dim"}, {"input_type"}),
    "Conv2d": ({"weight", "stride", "padding", "dilation", "groups", "bias"}, {"input_shape"}),
    "Linear": ({"weight"}, set()),
    "Affine": ({"weight", "bias"}, set()),
    "IF": ({"r", "v_threshold"}, {"v_reset"}),
    "SumPool2d": ({"kernel_size", "stride", "padding"}, set()),
    "AvgPool2d": ({"kernel_size", "stride", "padding"}, set()),
}


@dataclass(frozen=True)
class FloatLayer:
    """A layer before it is made integer: weight float32 [f, c, ky, kx], the rest as in :class:`ChipLayer`.

    Attributes:
        where: file and node of its neurons, for messages.
    """

    name: str
    weight: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_shape: tuple[int, int, int]
    threshold: float
    min_v_mem: float
    pool: tuple[int, int]
    reset: str = "subtract"
    v_init: float = 0.0
    where: str = "NIR"


class Refused(Exception):
    """What the chip does not have, or NIR does not allow; names the node."""


class Chain:
    """Layers made of nodes, one after the other; ``shape`` is the map (features, y, x) so far."""

    def __init__(self, graph: Graph, path: str, min_v_mem: float) -> None:
        self.graph, self.path, self.min_v_mem = graph, path, min_v_mem
        self.subtracts = _version(graph.version) < FIRST_RESET
        self.layers: list[FloatLayer] = []
        self.input_shape = self.shape = (0, 0, 0)
        self.flat = False  # whether a vector, of what was a map
        self.area = 1  # of average pooling since the last neurons; the weights after it are divided by it
        self.pending: dict[str, Any] | None = None  # weights that wait for their neurons

    def start(self, name: str) -> None:
        shape = _wholes(_At(self.graph, name), "shape", None, 1)
        if len(shape) != 3:
            raise Refused(f"the input is {shape}; the chip takes (features, y, x)")
        self.input_shape = self.shape = (shape[0], shape[1], shape[2])

    def take(self, name: str) -> None:
        at = _At(self.graph, name)
        kinds = {
            "Flatten": self.flatten, "Conv2d": self.convolution, "Linear": self.linear, "Affine": self.linear,
            "IF": self.neurons, "SumPool2d": self.pooling, "AvgPool2d": self.pooling,
        }  # fmt: skip
        if at.kind not in kinds:
            raise at.refused("not on the chip, which has convolution, linear layers, integrate-and-fire and pooling")
        kinds[at.kind](at)

    def end(self, name: str) -> None:
        if self.pending is not None or not self.layers:
            raise Refused("the chain does not end in integrate-and-fire neurons")
        if self.layers[-1].pool != (1, 1):
            raise Refused(f"pooling after the last neurons ({self.layers[-1].where}); the chip reads out the neurons")
        at = _At(self.graph, name)
        shape = _wholes(at, "shape", None, 1)
        if not self.fits(shape):
            raise at.refused(f"shape={shape}; the map before it is {self.shape}")

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape is that of the map, or of the vector that it has become."""
        vector = self.flat or self.shape[1:] == (1, 1)
        return shape == self.shape or (vector and shape == (math.prod(self.shape),))

    def flatten(self, at: _At) -> None:
        first, last = _wholes(at, "start_dim", 1, 0), _wholes(at, "end_dim", 1, -1)
        if first[0] not in (0, 1) or last[0] not in (-1, 2, 3):  # 1 and 3 count a batch axis that the file has not
            raise at.refused(f"start_dim={first[0]}, end_dim={last[0]}; a map is flattened whole, by 0 or 1 and -1")
        if "input_type" in at.values:
            self.check_input(at, "input_type", self.shape)
        self.flat = True

    def check_input(self, at: _At, key: str, expected: tuple[int, ...]) -> None:
        found = _wholes(at, key, None, 1)
        if found != expected and not (key == "input_type" and self.fits(found)):
            raise at.refused(f"{key}={found}; the map before it is {expected}")

    def weights(self, at: _At, axes: int) -> np.ndarray:
        if self.pending is not None:
            raise at.refused("weights after weights; the chip needs neurons between")
        weight = at.numbers("weight")
        if weight.ndim != axes or 0 in weight.shape:
            raise at.refused(f"weight has the shape {weight.shape}; needed are {axes} axes, none of them empty")
        bias = at.numbers("bias") if "bias" in at.values else np.zeros(())
        if bias.shape not in ((), (len(weight),)):
            raise at.refused(f"bias has the shape {bias.shape}; the weights have {len(weight)} features")
        if np.any(bias != 0):
            raise at.refused("has a bias; on the chip that is a leak driven by a slow clock. Train without")
        with np.errstate(under="ignore"):
            return weight.astype(np.float32) / np.float32(self.area)

    def convolution(self, at: _At) -> None:
        weight = self.weights(at, 4)
        (f, c, ky, kx), (features, height, width) = weight.shape, self.shape
        if self.flat:
            raise at.refused("takes a map; what is before it has been flattened")
        if _wholes(at, "groups", 1, 1) != (1,) or _wholes(at, "dilation", 2, 1) != (1, 1):
            raise at.refused("groups and dilation are not on the chip; only 1 is allowed")
        if c != features:
            raise at.refused(f"weight takes {c} features, the map before it has {features}")
        if "input_shape" in at.values:
            self.check_input(at, "input_shape", (height, width))
        stride = _wholes(at, "stride", 2, 1)
        padding = _padding(at, (ky, kx), stride)
        shape = (f, (height + 2 * padding[0] - ky) // stride[0] + 1, (width + 2 * padding[1] - kx) // stride[1] + 1)
        if min(shape) < 1:
            raise at.refused(f"its map would be {shape}; the map before it is only {self.shape}")
        self.pending = {"name": at.name, "weight": weight, "stride": stride, "padding": padding,
                        "input_shape": self.shape}  # fmt: skip
        self.shape = shape

    def linear(self, at: _At) -> None:
        weight = self.weights(at, 2)
        if weight.shape[1] != math.prod(self.shape):
            raise at.refused(f"takes {weight.shape[1]} inputs, the map before it has {math.prod(self.shape)}")
        weight = weight.reshape(-1, *self.shape)
        self.pending = {"name": at.name, "weight": weight, "stride": (1, 1), "padding": (0, 0),
                        "input_shape": self.shape}  # fmt: skip
        self.shape, self.flat = (len(weight), 1, 1), True

    def neurons(self, at: _At) -> None:
        if self.pending is None:
            raise at.refused("neurons without weights in front")
        where = f"{self.path}: {at}"
        threshold, reset, low = self.one(at, "v_threshold"), 0.0, self.low(at)
        if self.one(at, "r") != 1:
            raise at.refused("r: the chip has no resistance; only 1 is allowed. Fold it into the weights")
        subtracts = self.subtracts and "v_reset" not in at.values
        if not subtracts:
            reset = self.one(at, "v_reset") if "v_reset" in at.values else 0.0
        if not threshold > max(0.0, reset):
            raise at.refused(f"v_threshold={threshold:g}; must be above 0 and above v_reset={reset:g}")
        if reset < low:
            raise at.refused(
                f"v_reset={reset:g} lies below the lower bound {low:g}; name a lower one as the node's metadata "
                f"{MIN_V_MEM}"
            )
        if not subtracts:
            warn_once(
                f"{self.path}: neurons return to v_reset after a spike, as NIR defines it from 1.0.5 on; some tools "
                "write v_reset=0 of neurons that subtract their threshold"
            )
        self.layers.append(
            FloatLayer(
                **self.pending, threshold=threshold - reset, min_v_mem=low - reset, pool=(1, 1), v_init=-reset,
                reset="subtract" if subtracts else "zero", where=where,
            )
        )  # fmt: skip
        self.pending, self.area = None, 1

    def one(self, at: _At, key: str) -> float:
        """A value that all neurons of the map share."""
        values = at.numbers(key)
        if values.shape != () and not self.fits(values.shape):
            raise at.refused(f"{key} has the shape {values.shape}; the map before it is {self.shape}")
        if values.min() != values.max():
            raise at.refused(
                f"{key} runs from {values.min():g} to {values.max():g}; the chip has one per layer. Fold it into the "
                "weights"
            )
        return float(values.flat[0])

    def low(self, at: _At) -> float:
        if MIN_V_MEM not in at.node.metadata:
            return self.min_v_mem
        value = at.node.metadata[MIN_V_MEM]
        sound = (
            isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.size and value.min() == value.max()
        )
        if not sound or not -math.inf < float(value.flat[0]) <= 0:
            raise at.refused(
                f"metadata {MIN_V_MEM}={_shown(value)}; needed is a finite number of at most 0, or leave it out"
            )
        return float(value.flat[0])

    def pooling(self, at: _At) -> None:
        if not self.layers or self.pending is not None or self.flat:
            raise at.refused("pooling must stand after neurons, on a map")
        y, x = _wholes(at, "kernel_size", 2, 1)
        if (y, x) != _wholes(at, "stride", 2, 1) or _padding(at, (y, x), (1, 1)) != (0, 0):
            raise at.refused("pooling windows must not overlap or reach over the edge")
        f, height, width = self.shape
        if y > height or x > width:
            raise at.refused(f"kernel_size={(y, x)}; the map before it is only {self.shape}")
        pool = self.layers[-1].pool
        self.layers[-1] = replace(self.layers[-1], pool=(pool[0] * y, pool[1] * x))
        self.shape = (f, height // y, width // x)
        self.area *= y * x if at.kind == "AvgPool2d" else 1


class _At:
    """A node, whose values are taken as they are or refused."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.name, self.node = name, graph.nodes[name]
        self.kind, self.values = self.node.kind, self.node.values
        if MIN_V_MEM in self.node.metadata and self.kind != "IF":
            raise self.refused(f"metadata {MIN_V_MEM} has no effect here; neurons have it (IF)")
        if self.kind in VALUES:
            needs, may = VALUES[self.kind]
            for key in sorted(needs - set(self.values)):
                raise self.refused(f"{key} is missing")
            for key in sorted(set(self.values) - needs - may):
                raise self.refused(f"{key} is not known of it, and may change what it does; allowed are "
                                   f"{', '.join(sorted(needs | may))}")  # fmt: skip

    def __str__(self) -> str:
        return f"node {_shown(self.name)} ({_shown(self.kind)})"

    def refused(self, why: str) -> Refused:
        return Refused(f"{self}: {why}")

    def numbers(self, key: str) -> np.ndarray:
        """Finite numbers, as float64."""
        value = self.values[key]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or not value.size:
            raise self.refused(f"{key}={_shown(value)}; needed are numbers")
        with np.errstate(over="ignore"):
            found = value.astype(np.float64)
        if not np.isfinite(found).all():
            what = "a weight" if key == "weight" else key
            raise self.refused(f"{what} is not a finite number ({found[~np.isfinite(found)][0]})")
        if np.abs(found).max() > np.finfo(np.float32).max:
            raise self.refused(f"{key}: {np.abs(found).max():g} is too large for float32")
        return found


def _shown(value: Any) -> str:
    """A value in one line: a text, a few numbers, or of an array its type and shape."""
    if isinstance(value, np.ndarray) and (value.size > 4 or value.ndim > 1):
        return f"{value.dtype} {value.shape}"
    return shown(repr(value) if isinstance(value, str) and not value.isprintable() else value)


def _wholes(at: _At, key: str, n: int | None, least: int) -> tuple[int, ...]:
    """Whole numbers; one number stands for ``n`` equal ones."""
    values = at.numbers(key)
    flat = values.ravel()
    if n is not None and flat.size == 1:
        flat = flat.repeat(n)
    most = MOST_SIDE**2
    if values.ndim > 1 or n not in (None, flat.size) or flat.size > 8 or np.any(flat != np.round(flat)):
        raise at.refused(f"{key}={_shown(values)}; needed are {n or 'a few'} whole numbers")
    if flat.min() < least or flat.max() > most:
        raise at.refused(f"{key}={_shown(values)}; allowed is {least}..{most}")
    return tuple(int(value) for value in flat)


def _padding(at: _At, kernel: tuple[int, int], stride: tuple[int, ...]) -> tuple[int, ...]:
    """In pixels; ``valid`` is 0, ``same`` is half of an odd kernel."""
    value = at.values["padding"]
    if not isinstance(value, str):
        return _wholes(at, "padding", 2, 0)
    if value == "valid":
        return (0, 0)
    if value != "same" or kernel[0] % 2 == 0 or kernel[1] % 2 == 0 or tuple(stride) != (1, 1):
        raise at.refused(f"padding={value}; allowed are valid, same (odd kernels, stride 1), or pixels")
    return kernel[0] // 2, kernel[1] // 2


def _version(text: str) -> tuple[int, ...]:
    found = re.fullmatch(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?.*", text, re.DOTALL)
    if not found:
        raise Refused(f"version={text[:40]}; needed is that of NIR, as 1.0.4: what a neuron does depends on it")
    return tuple(int(part or 0) for part in found.groups())


def order_of(graph: Graph) -> list[str]:
    """The nodes of a chain, from its input to its output."""
    onward: dict[str, list[str]] = {}
    for a, b in graph.edges:
        for name in (a, b):
            if name not in graph.nodes:
                raise Refused(f"its edge {a} -> {b} names {name}, but there is no such node")
        onward.setdefault(a, []).append(b)
    starts = [name for name, node in graph.nodes.items() if node.kind == "Input"]
    if len(starts) != 1 or any(len(b) > 1 for b in onward.values()):
        raise Refused("only chains of layers with one input can be read")
    order = [starts[0]]
    while order[-1] in onward:
        order.append(onward[order[-1]][0])
        if len(order) > len(graph.nodes):
            raise Refused("its connections run in a circle")
    apart = sorted(set(graph.nodes) - set(order))
    if apart:
        raise Refused(f"node {apart[0]} is not on the way from its input to its output; only chains can be read")
    if len(order) < 3 or graph.nodes[order[-1]].kind != "Output":
        raise Refused(f"the chain ends in node {order[-1]} ({graph.nodes[order[-1]].kind}); needed is an Output node")
    return order
