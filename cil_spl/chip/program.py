"""A network, on a die, as the tables that the compiled loops read."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.chip.die import Die
from cil_spl.chip.geometry import Geometry, pixels
from cil_spl.chip.kernels import tables as kt
from cil_spl.chip.kernels.tables import Deviations, Tables
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination, check_network

IDEAL = Die()
MOST_ENTRIES = 2**27  # of packed weights, 256 MiB
PACKED_COST = 16  # memory that finding their order takes for each of a channel, in entries
KEPT = 4  # networks whose tables are kept: one that is trained, one that is evaluated, either on a die too


@dataclass(frozen=True)
class Program:
    """A network, on a die, as the compiled loops take it.

    Attributes:
        padded: features of each layer with those that only pad.
    """

    network: ChipNetwork
    tables: Tables
    deviations: Deviations
    padded: tuple[int, ...]

    @property
    def n_classes(self) -> int:
        return self.network.n_classes

    @property
    def layer_by_layer(self) -> bool:
        """Whether one layer after the other gives the same as depth first."""
        return self.network.is_chain and not self.deviations.timed

    @property
    def n_states(self) -> int:
        return len(self.tables.threshold)

    def by_layer(self, flat: np.ndarray) -> list[np.ndarray]:
        """[B, T, all states] as one [B, T, f, y, x] per layer, without padding: views, features innermost."""
        found = []
        for layer, row, padded in zip(self.network.layers, self.tables.layers, self.padded, strict=True):
            f, height, width = layer.output_shape
            part = flat[:, :, row["state"] : row["state"] + row["size"]]
            part = part.reshape(*flat.shape[:2], height, width, padded)[..., :f]
            found.append(part.transpose(0, 1, 4, 2, 3))  # B T y x f -> B T f y x
        return found


def program_of(network: ChipNetwork, die: Die | None = None) -> Program:
    """The tables of a network, on a die or the ideal chip; those of the last few are kept.

    Raises:
        RequestError: the wiring or a number is not one that a chip could have, or the die names a layer that the
            network does not have; names the layer.
    """
    # Found by all that they hold: arrays can be changed, and the next network may lie where one lay that is gone.
    return _program(pickle.dumps((network, die), protocol=5))


@lru_cache(maxsize=KEPT)
def _program(pickled: bytes) -> Program:
    network, die = pickle.loads(pickled)
    check_network(network)
    die = die or IDEAL
    names = [layer.name for layer in network.layers]
    each = bool(die.threshold_spread or die.dead or die.stuck)
    leaks = die.by_layer("leak", names)
    # Neurons with a threshold of their own, and ticks that can leave 16 bits, need the exact step.
    parts = [_part(layer, each or leak > 0) for layer, leak in zip(network.layers, leaks, strict=True)]
    layers, weight = _joined(parts)
    padded = tuple(part.geometry.features for part in parts)
    edges, fan_out, pixel_table = _wiring(network, padded)
    lane = np.concatenate([*(part.lanes() for part in parts), [0]])  # the compiled loops read one too many
    tables = Tables(
        sensor=np.array(network.input_shape, np.int64), layers=layers, edges=edges, fan_out=fan_out, pixels=pixel_table,
        lane=lane, weight=weight, threshold=_thresholds(network, layers, padded, die if each else None),
        class_of=_class_of(network, padded[-1]),
    )  # fmt: skip
    return Program(network, tables, _deviations(network, tables, padded, die), padded)


@dataclass(frozen=True)
class _Part:
    """What a layer's row and weights are made of."""

    layer: ChipLayer
    geometry: Geometry
    exact: bool
    weight: np.ndarray

    @property
    def shape(self) -> int:
        """The number of its windows' shape."""
        window, (_, height, width) = self.geometry.window, self.layer.output_shape
        if window == (2, 32) and self.geometry.features == 16 and height * width <= kt.SMALL_MAP:
            return kt.CLOSE
        return kt.SHAPES.index(window) if window in kt.SHAPES else kt.ANY

    @property
    def resident(self) -> bool:
        """Whether its states can stay in a register."""
        few = self.layer.output_shape[1:] == (1, 1) and self.geometry.window == (1, 16)
        return few and self.layer.threshold <= kt.TOP + int(self.layer.weight.min(initial=0))

    def lanes(self) -> np.ndarray:
        """The neuron, from the first of a mask on, of each bit: where rows share a mask, the second begins at 32."""
        bit = np.arange(kt.WIDE)
        if self.shape == kt.ANY or self.exact or self.geometry.window[1] > kt.NARROW:
            return bit
        return bit % kt.NARROW + bit // kt.NARROW * self.layer.output_shape[2] * self.geometry.features


def _part(layer: ChipLayer, must_be_exact: bool) -> _Part:
    geometry = Geometry.of(layer)
    entries = geometry.packed * layer.weight.shape[1]
    if max(entries, PACKED_COST * geometry.packed) > MOST_ENTRIES:
        raise RequestError(
            f"chip network: layer {layer.name}: a kernel of {layer.weight.shape[2]} x {layer.weight.shape[3]} over "
            f"{layer.weight.shape[1]} features takes {entries} entries of the simulator; at most {MOST_ENTRIES}. Use a "
            "smaller kernel or fewer features"
        )
    top, bottom = int(layer.weight.max(initial=0)), int(layer.weight.min(initial=0))
    lags = top > layer.threshold and layer.reset == "subtract"  # a state may stay above the threshold
    leaves = layer.threshold - 1 + top > kt.TOP or layer.min_v_mem + bottom < kt.BOTTOM
    exact = lags or leaves or layer.reset == "zero" or must_be_exact
    return _Part(layer, geometry, exact, geometry.pack(layer.weight, kt.NOWHERE if exact else 0))


def _joined(parts: Sequence[_Part]) -> tuple[np.ndarray, np.ndarray]:
    """The table of layers, and the weights of all."""
    rows = []
    state = weights = 0
    for part in parts:
        layer, features = part.layer, part.geometry.features
        _, height, width = layer.output_shape
        window_rows, lanes = part.geometry.window
        size = height * width * features
        row = {
            "state": state, "size": size, "row": width * features, "low": layer.min_v_mem,
            "threshold": layer.threshold, "init": layer.v_init,
            "keep": -1 if layer.reset == "subtract" else 0, "weights": weights,
            "channel": part.weight[0].size, "rows": window_rows, "lanes": lanes, "shape": part.shape,
            "lead": -layer.stride[0] * lanes, "exact": part.exact, "resident": part.resident,
        }  # fmt: skip
        rows.append(tuple(row[name] for name in kt.LAYER.names or ()))
        state, weights = state + size + kt.SLACK, weights + part.weight.size
    return np.array(rows, kt.LAYER), _aligned(np.concatenate([part.weight.ravel() for part in parts]))


def _wiring(network: ChipNetwork, padded: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tables of edges, of the edges that leave each layer, and of pixels."""
    edges, tables, at = [], [], 0
    fan_out = np.full((len(network.layers), 2), -1, np.int64)

    def connect(source: int, shape: tuple[int, int, int], features: int, destination: Destination) -> None:
        nonlocal at
        layer = network.layers[destination.layer]
        table = pixels(shape[1:], destination.pool, Geometry.of(layer))
        reciprocal = -(-(1 << kt.RECIPROCAL_BITS) // features)
        edges.append((destination.layer, at, features, reciprocal, destination.feature_shift, layer.input_shape[0]))
        if source >= 0:
            fan_out[source, int(fan_out[source, 0] >= 0)] = len(edges) - 1
        tables.append(table)
        at += len(table)

    connect(-1, network.input_shape, network.input_shape[0], Destination(0))
    for k, layer in enumerate(network.layers):
        for destination in sorted(layer.destinations, key=lambda d: _order(network, d)):
            connect(k, layer.output_shape, padded[k], destination)
    plain = np.concatenate([table.view(np.int32) for table in tables])  # numpy is slow with named columns
    return np.array(edges, kt.EDGE), fan_out, plain.view(kt.PIXEL)


def _thresholds(network: ChipNetwork, layers: np.ndarray, padded: Sequence[int], die: Die | None) -> np.ndarray:
    """Every neuron's threshold, uint16, a layer's own or as a die has them."""
    threshold = np.concatenate([np.full(row["size"] + kt.SLACK, row["threshold"], np.uint16) for row in layers])
    if die is not None:
        for k, (layer, row) in enumerate(zip(network.layers, layers, strict=True)):
            f, height, width = layer.output_shape
            part = threshold[row["state"] : row["state"] + row["size"]].reshape(height, width, padded[k])
            part[..., :f] = np.clip(die.thresholds(k, layer.threshold, (height, width, f)), 0, kt.NEVER)
    return threshold


def _class_of(network: ChipNetwork, padded: int) -> np.ndarray:
    """The class of each neuron of the last layer, -1 for none."""
    f, height, width = network.layers[-1].output_shape
    class_of = np.full((height, width, padded), -1, np.int32)
    if network.readout is None:
        class_of[:, :, :f] = np.arange(network.n_classes).reshape(f, height, width).transpose(1, 2, 0)
    else:
        class_of[:, :, list(network.readout)] = np.arange(len(network.readout))
    return class_of.ravel()


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins with a cache line: an access across two lines takes twice as long."""
    space = np.empty(array.nbytes + 64, np.uint8)
    found = space[-space.ctypes.data % 64 :][: array.nbytes].view(array.dtype)
    found[:] = array
    return found


def _deviations(network: ChipNetwork, tables: Tables, padded: Sequence[int], die: Die) -> Deviations:
    """What a die does to events."""
    names = [layer.name for layer in network.layers]
    rates = [0 if r is None or r > kt.FOREVER else int(r) for r in die.by_layer("synops_per_second", names)]
    fifo = [-1 if n is None else int(n) for n in die.by_layer("fifo", names)]
    decimate = [int(n) for n in die.by_layer("decimate", names)]
    leaks = [int(n) for n in die.by_layer("leak", names)]
    leak = np.zeros(len(tables.threshold) if any(leaks) else 0, np.int32)
    for layer, row, features, n in zip(network.layers, tables.layers, padded, leaks, strict=True):
        if any(leaks):
            part = leak[row["state"] : row["state"] + row["size"]].reshape(-1, features)
            part[:, : layer.output_shape[0]] = n  # neurons that only pad take none, and never fire
    timed = bool(die.jitter_us or die.reorder_us or any(rates) or any(leaks))
    return Deviations(
        any=timed or die.lost > 0 or max(decimate) > 1,
        timed=timed,
        seed=np.uint64(die.seed),
        lost=float(die.lost),
        jitter_ns=die.jitter_us * 1000.0,
        reorder_ns=die.reorder_us * 1000.0,
        synops_per_second=np.array(rates, np.int64),
        fifo=np.array(fifo, np.int64),
        decimate=np.array(decimate, np.int64),
        leak=leak,
        period_ns=round(die.leak_period_us * 1000) if any(leaks) and die.leak_period_us else 0,
    )


def _order(network: ChipNetwork, destination: Destination) -> int:
    core = network.layers[destination.layer].core
    return destination.layer if core is None else core
