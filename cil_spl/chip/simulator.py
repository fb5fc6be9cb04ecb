"""The event-driven simulator of the chip: events one by one through integer neurons.

    on an input event, every neuron under the kernel:  v ← clip(v + w, 16 bits);  v ← max(v, v_min)
    if v >= theta:  one event out;  v ← v - theta  (or 0)

One event in, at most one event out of a neuron: a state that is still above the threshold stays there, silent, until
the next input event reaches the neuron. Events leave through sum pooling, which drops those of the edge of an odd map.
Everything an event causes happens at its time and before the next event of the sensor (depth first); neurons fired by
one event follow in ascending (y, x, feature), destinations by core number.

What real silicon adds (parallel cores, jitter, losses) is left to :mod:`cil_spl.chip.die`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.data.events import EVENT

if TYPE_CHECKING:
    from cil_spl.chip.die import Die
    from cil_spl.chip.kernels import Buffers, Deviations

RECORDS = ("counts", "v_mem", "events", "output")
LANES = 8  # features are padded to a multiple of this


@dataclass(frozen=True)
class Output:
    """Events of the last layer: time in microseconds int32, class int16; recording ``b`` is
    ``[offsets[b]:offsets[b + 1]]``."""

    t: np.ndarray
    k: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class LayerEvents:
    """Events of one layer before pooling, dtype ``EVENT16`` (x, y, t in microseconds, feature); recording ``b`` is
    ``[offsets[b]:offsets[b + 1]]``."""

    events: np.ndarray
    offsets: np.ndarray


EVENT16 = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int32), ("f", np.int16)])


@dataclass(frozen=True)
class ChipAnswer:
    """What the chip did with B recordings in T bins; L layers, K classes.

    Attributes:
        counts: output events. int64 ``[B, T, K]``.
        events_per_layer: events of each layer, before pooling. int64 ``[B, L]``.
        input_events: events of the sensor that lay on the input map. int64 ``[B]``.
        synops: additions that reached an existing neuron. int64 ``[B, L]``.
        saturations: additions whose sum left 16 bits. int64 ``[B, L]``.
        dropped: events that a die's congestion balancer dropped at a layer's input. int64 ``[B, L]``.
        decision_us: time from which the class that has most events in the end leads and stays the leader; -1 where
            no class has more than every other. int64 ``[B]``.
        layer_counts: with ``record="counts"``, each layer's events by neuron. int32 ``[B, T, f, y, x]``.
        layer_v_mem: with ``"v_mem"``, each layer's states at the ends of the bins. int16 ``[B, T, f, y, x]``.
        layer_events: with ``"events"``, each layer's events in order.
        output: with ``"output"``, the events of the last layer as classes.

    A board answers with the same, where what it cannot tell is NaN (see :mod:`cil_spl.targets.devkit`).
    """

    counts: np.ndarray
    events_per_layer: np.ndarray
    input_events: np.ndarray
    synops: np.ndarray
    saturations: np.ndarray
    dropped: np.ndarray
    decision_us: np.ndarray
    layer_counts: list[np.ndarray] | None = None
    layer_v_mem: list[np.ndarray] | None = None
    layer_events: list[LayerEvents] | None = None
    output: Output | None = None


def simulate(
    network: ChipNetwork,
    events: np.ndarray,
    offsets: np.ndarray,
    edges_us: np.ndarray | None = None,
    *,
    record: Sequence[str] = (),
    die: Die | None = None,
    threads: int | None = None,
    order_seed: int | None = None,
) -> ChipAnswer:
    """Send recordings through the chip, each from zeroed states.

    Args:
        network: integers and wiring.
        events: flat array of dtype ``EVENT``, sorted by time within a recording; p is the input feature, and is
            ignored by a network with one input feature. Events outside the input map are dropped. Shape ``[N]``.
        offsets: recording ``b`` is ``events[offsets[b]:offsets[b + 1]]``. Shape ``[B + 1]``.
        edges_us: bin ``t`` holds ``edges[t] <= time < edges[t + 1]``; what is earlier belongs to the first bin, what
            is later to the last. Bins never change what the chip does. int64 ``[B, T + 1]``, None for one bin.
        record: any of ``counts``, ``v_mem``, ``events``, ``output``.
        die: deviations from the ideal chip.
        threads: recordings at a time; None for one a processor core.
        order_seed: draw another order where the hardware leaves it open: among the neurons that one event fired, and
            among two destinations.

    Raises:
        RequestError: the network is not one a chip could run, time runs backwards, or an argument makes no sense.
    """
    unknown = [name for name in record if name not in RECORDS]
    if unknown:
        raise RequestError(f"record={unknown[0]}: allowed are {', '.join(RECORDS)}")
    if threads is not None and threads < 1:
        raise RequestError(f"threads={threads}: needs at least 1, or none for one a processor core")
    if events.dtype != EVENT:
        raise RequestError(
            f"events have the fields {events.dtype}; the chip takes {EVENT} (see data.events.check_events)"
        )
    if not (events.flags.c_contiguous and events.flags.writeable and events.flags.aligned):
        events = np.array(events)  # one compiled version serves all
    offsets = np.ascontiguousarray(offsets, np.int64)
    n_recordings = len(offsets) - 1
    if edges_us is None:
        edges_us = np.zeros((n_recordings, 2), np.int64)
    edges_us = np.ascontiguousarray(edges_us, np.int64)
    if edges_us.ndim != 2 or len(edges_us) != n_recordings or edges_us.shape[1] < 2:
        raise RequestError(f"edges_us has the shape {edges_us.shape}; {n_recordings} recordings need [B, T + 1]")
    program = compiled(network)
    if die is not None:
        program = apply_die(program, die)
    answer = _Run(program, events, offsets, edges_us, order_seed, threads or _cores(), deviations(program, die))
    answer.go(counts="counts" in record, v_mem="v_mem" in record)
    backwards = np.flatnonzero(answer.input_events < 0)
    if len(backwards):
        raise RequestError(f"recording {backwards[0]} of the batch: time runs backwards; sort its events by t")
    layer_counts = program.by_layer(answer.layer_counts) if "counts" in record else None
    layer_v_mem = program.by_layer(answer.layer_v_mem) if "v_mem" in record else None
    layer_events, output = None, None
    if "events" in record or "output" in record:
        first = 0 if "events" in record else len(network.layers) - 1
        layer_events, output = answer.again_with_events(first)
    return ChipAnswer(
        counts=answer.counts,
        events_per_layer=answer.events_per_layer,
        input_events=answer.input_events,
        synops=answer.synops,
        saturations=answer.saturations,
        dropped=answer.dropped,
        decision_us=answer.decision_us,
        layer_counts=layer_counts,
        layer_v_mem=layer_v_mem,
        layer_events=layer_events if "events" in record else None,
        output=output if "output" in record else None,
    )


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Run:
    """One call: the arrays that the compiled loops fill."""

    def __init__(
        self,
        program: Program,
        events: np.ndarray,
        offsets: np.ndarray,
        edges_us: np.ndarray,
        order_seed: int | None,
        threads: int,
        deviations: Deviations,
    ) -> None:
        self.deviations = deviations
        self.program, self.events, self.offsets, self.edges_us = program, events, offsets, edges_us
        self.order = 0 if order_seed is None else 2 * int(order_seed) + 1
        b, self.bins, n_layers = len(offsets) - 1, edges_us.shape[1] - 1, len(program.layers)
        self.threads = min(threads, b)
        self.counts = np.zeros((b, self.bins, program.n_classes), np.int64)
        self.events_per_layer = np.zeros((b, n_layers), np.int64)
        self.input_events = np.zeros(b, np.int64)
        self.synops = np.zeros((b, n_layers), np.int64)
        self.saturations = np.zeros((b, n_layers), np.int64)
        self.dropped = np.zeros((b, n_layers), np.int64)
        self.decision_us = np.full(b, -1, np.int64)
        self.layer_counts = np.zeros((b, self.bins, 0), np.int32)
        self.layer_v_mem = np.zeros((b, self.bins, 0), np.int16)
        self.event_offsets = np.zeros((b, n_layers), np.int64)
        self.keep = np.zeros(n_layers, np.bool_)
        self.event_neuron, self.event_time = np.zeros(0, np.int32), np.zeros(0, np.int32)

    def go(self, *, counts: bool, v_mem: bool) -> None:
        b, n = len(self.offsets) - 1, self.program.n_states
        if counts:
            self.layer_counts = np.zeros((b, self.bins, n), np.int32)
        if v_mem:
            self.layer_v_mem = np.zeros((b, self.bins, n), np.int16)
        self._call(self._answer())

    def again_with_events(self, first: int) -> tuple[list[LayerEvents], Output]:
        """Once more, now that the number of each layer's events is known, with those from layer ``first`` on kept."""
        program, n_layers = self.program, len(self.program.layers)
        per_layer = self.events_per_layer.copy()
        per_layer[:, :first] = 0
        ends = np.cumsum(per_layer.T.ravel()).reshape(n_layers, -1).T  # layer by layer, recordings within
        self.event_offsets = np.ascontiguousarray(ends - per_layer)
        self.keep[first:] = True
        total = int(per_layer.sum())
        self.event_neuron, self.event_time = np.zeros(total, np.int32), np.zeros(total, np.int32)
        self.layer_counts, self.layer_v_mem = self.layer_counts[:, :, :0].copy(), self.layer_v_mem[:, :, :0].copy()
        counters = ("counts", "events_per_layer", "synops", "saturations", "dropped")
        self._call(self._answer()._replace(**{name: np.zeros_like(getattr(self, name)) for name in counters}))
        found = []
        offsets = np.zeros(len(self.offsets), np.int64)
        for k in range(first, n_layers):
            offsets = np.concatenate([[0], np.cumsum(per_layer[:, k])]).astype(np.int64)
            begin = int(self.event_offsets[0, k]) if len(per_layer) else 0
            neuron = self.event_neuron[begin : begin + int(offsets[-1])]
            out = np.empty(len(neuron), EVENT16)
            _, _, width = program.network.layers[k].output_shape
            place, out["f"] = np.divmod(neuron, program.padded[k])
            out["y"], out["x"] = np.divmod(place, width)
            out["t"] = self.event_time[begin : begin + len(neuron)]
            found.append(LayerEvents(out, offsets))
        last = neuron
        return found, Output(found[-1].events["t"].copy(), program.class_of[last].astype(np.int16), offsets)

    def _answer(self) -> Buffers:
        from cil_spl.chip.kernels import Buffers

        return Buffers(
            counts=self.counts, events_per_layer=self.events_per_layer, input_events=self.input_events,
            synops=self.synops, saturations=self.saturations, dropped=self.dropped, decision_us=self.decision_us,
            layer_counts=self.layer_counts, layer_v_mem=self.layer_v_mem, keep_events=self.keep,
            event_offsets=self.event_offsets, event_neuron=self.event_neuron, event_time=self.event_time,
        )  # fmt: skip

    def _call(self, answer: Buffers) -> None:
        from cil_spl.chip import kernels

        p = self.program
        tables = kernels.Tables(
            sensor=p.sensor, layers=p.layers, edges=p.edges, fan_out=p.fan_out, pixel=p.pixel, weight=p.weight,
            threshold=p.threshold, class_of=p.class_of,
        )  # fmt: skip
        recordings = kernels.EventLists(self.events, self.offsets, self.edges_us)
        kernel: Any = kernels.chain
        if not p.is_chain or self.deviations.timed:
            kernel = kernels.depth_first
        args = (np.zeros(1, np.int64), recordings, tables, self.order, answer, self.deviations)
        _say_if_it_compiles(kernel)
        helpers = [threading.Thread(target=kernel, args=args) for _ in range(self.threads - 1)]
        for helper in helpers:
            helper.start()
        kernel(*args)
        for helper in helpers:
            helper.join()


_told: set[str] = set()


def _say_if_it_compiles(kernel: Any) -> None:
    from pathlib import Path

    name = kernel.py_func.__name__
    if name in _told or kernel.signatures:
        return
    _told.add(name)
    if not any(Path(kernel.stats.cache_path).glob(f"kernels.{name}-*.nbi")):
        print("compiling the chip simulator (once; some 20 seconds)", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Program:
    """A network as the tables that the compiled loops read (columns in :mod:`cil_spl.chip.kernels`)."""

    network: ChipNetwork
    sensor: np.ndarray
    layers: np.ndarray
    edges: np.ndarray
    fan_out: np.ndarray
    pixel: np.ndarray
    weight: np.ndarray
    threshold: np.ndarray
    class_of: np.ndarray
    padded: tuple[int, ...]
    is_chain: bool

    @property
    def n_classes(self) -> int:
        return self.network.n_classes

    @property
    def n_states(self) -> int:
        return len(self.threshold)

    def by_layer(self, flat: np.ndarray) -> list[np.ndarray]:
        """[B, T, all states] as one [B, T, f, y, x] a layer, padding left out."""
        from cil_spl.chip.kernels import SIZE, STATE

        found = []
        for layer, row, padded in zip(self.network.layers, self.layers, self.padded, strict=True):
            f, height, width = layer.output_shape
            part = flat[:, :, row[STATE] : row[STATE] + row[SIZE]].reshape(*flat.shape[:2], height, width, padded)
            found.append(np.ascontiguousarray(part[..., :f].transpose(0, 1, 4, 2, 3)))  # B T y x f -> B T f y x
        return found


def compiled(network: ChipNetwork, must_be_exact: Sequence[bool] = ()) -> Program:
    """Tables of a network; on a die, some layers may need the exact step whatever their numbers.

    Raises:
        RequestError: the wiring or a number is not one that a chip could have; names the layer.
    """
    from cil_spl.chip import kernels as kn

    check_network(network)
    c, height, width = network.input_shape
    layers = np.zeros((len(network.layers), kn.LAYER_COLUMNS), np.int64)
    weights, thresholds, padded = [], [], []
    state = weight_at = 0
    for k, layer in enumerate(network.layers):
        f, out_height, out_width = layer.output_shape
        features = -(-f // LANES) * LANES
        geometry = _Geometry.of(layer)
        top, bottom = int(layer.weight.max(initial=0)), int(layer.weight.min(initial=0))
        lags = top > layer.threshold and layer.reset == "subtract"  # a state may stay above the threshold
        leaves = layer.threshold - 1 + top > kn.TOP or layer.min_v_mem + bottom < kn.BOTTOM
        exact = lags or leaves or layer.reset == "zero" or any(must_be_exact[k : k + 1])
        packed = geometry.pack(layer.weight, kn.NOWHERE if exact else 0)
        size = out_height * out_width * features
        row = layers[k]
        row[[kn.STATE, kn.SIZE, kn.ROW, kn.EXACT]] = state, size, out_width * features, exact
        row[[kn.LOW, kn.THRESHOLD, kn.KEEP]] = layer.min_v_mem, layer.threshold, -1 if layer.reset == "subtract" else 0
        row[[kn.WEIGHTS, kn.CHANNEL]] = weight_at, packed[0].size
        row[[kn.ROWS, kn.LANES]] = geometry.window
        row[kn.STEP] = -geometry.stride[0] * row[kn.LANES]
        weights.append(packed)
        thresholds.append(np.full(size + kn.SLACK, layer.threshold, np.uint16))
        padded.append(features)
        state, weight_at = state + size + kn.SLACK, weight_at + packed.size
    edges, pixel, at = [], [], 0
    fan_out = np.full((len(network.layers), 2), -1, np.int64)

    def connect(source: int, shape: tuple[int, int, int], features: int, destination: Destination) -> None:
        nonlocal at
        layer = network.layers[destination.layer]
        table = _pixels(shape[1:], destination.pool, _Geometry.of(layer))
        reciprocal = -(-(1 << kn.RECIPROCAL_BITS) // features)
        edges.append((destination.layer, at, features, reciprocal, destination.feature_shift, layer.input_shape[0]))
        if source >= 0:
            fan_out[source, int(fan_out[source, 0] >= 0)] = len(edges) - 1
        pixel.append(table)
        at += len(table)

    connect(-1, network.input_shape, c, Destination(0))
    for k, layer in enumerate(network.layers):
        for destination in sorted(layer.destinations, key=lambda d: _order(network, d)):
            connect(k, layer.output_shape, padded[k], destination)
    f, out_height, out_width = network.layers[-1].output_shape
    class_of = np.full((out_height, out_width, padded[-1]), -1, np.int32)
    if network.readout is None:
        class_of[:, :, :f] = np.arange(network.n_classes).reshape(f, out_height, out_width).transpose(1, 2, 0)
    else:
        class_of[:, :, list(network.readout)] = np.arange(len(network.readout))
    return Program(
        network=network,
        sensor=np.array([c, height, width], np.int64),
        layers=layers,
        edges=np.array(edges, np.int64),
        fan_out=fan_out,
        pixel=np.concatenate(pixel).ravel(),
        weight=_aligned(np.concatenate([w.ravel() for w in weights])),
        threshold=np.concatenate(thresholds),
        class_of=class_of.ravel(),
        padded=tuple(padded),
        is_chain=network.is_chain,
    )


def apply_die(program: Program, die: Die) -> Program:
    """The tables of a network on a given die: each neuron with a threshold of its own."""
    from cil_spl.chip import kernels as kn

    names = [layer.name for layer in program.network.layers]
    each = bool(die.threshold_spread or die.dead or die.stuck)
    exact = [each or leak > 0 for leak in die.by_layer("leak", names)]  # ticks can leave 16 bits
    if not any(exact):
        return program
    program = compiled(program.network, exact)
    if not each:
        return program
    threshold = program.threshold.copy()
    for k, (layer, row) in enumerate(zip(program.network.layers, program.layers, strict=True)):
        f, height, width = layer.output_shape
        part = threshold[row[kn.STATE] : row[kn.STATE] + row[kn.SIZE]].reshape(height, width, program.padded[k])
        part[..., :f] = np.clip(die.thresholds(k, layer.threshold, (height, width, f)), 0, kn.NEVER)
    return replace(program, threshold=threshold)


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins with a cache line: an access across two lines takes twice as long."""
    space = np.empty(array.nbytes + 64, np.uint8)
    found = space[-space.ctypes.data % 64 :][: array.nbytes].view(array.dtype)
    found[:] = array
    return found


def deviations(program: Program, die: Die | None) -> Deviations:
    """What a die does to events, as the compiled loops read it; None for the ideal chip.

    Raises:
        RequestError: the die names a layer that the network does not have.
    """
    from cil_spl.chip import kernels as kn
    from cil_spl.chip.die import Die

    die = die or Die()
    layers = program.network.layers
    names = [layer.name for layer in layers]
    rates = [0 if r is None or r > kn.FOREVER else int(r) for r in die.by_layer("synops_per_second", names)]
    fifo = [-1 if n is None else int(n) for n in die.by_layer("fifo", names)]
    decimate = [int(n) for n in die.by_layer("decimate", names)]
    leaks = [int(n) for n in die.by_layer("leak", names)]
    leak = np.zeros(program.n_states if any(leaks) else 0, np.int32)
    for layer, row, padded, n in zip(layers, program.layers, program.padded, leaks, strict=True):
        if any(leaks):
            part = leak[row[kn.STATE] : row[kn.STATE] + row[kn.SIZE]].reshape(-1, padded)
            part[:, : layer.output_shape[0]] = n  # neurons that only pad take none, and never fire
    timed = bool(die.jitter_us or die.reorder_us or any(rates) or any(leaks))
    return kn.Deviations(
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


@dataclass(frozen=True)
class _Geometry:
    """Which membranes and weights belong to an input pixel of a layer; no weights in it."""

    features: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_map: tuple[int, int]
    output: tuple[int, int, int]

    @staticmethod
    def of(layer: ChipLayer) -> _Geometry:
        f, height, width = layer.output_shape
        kernel = (layer.weight.shape[2], layer.weight.shape[3])
        return _Geometry(
            -(-f // LANES) * LANES, kernel, layer.stride, layer.padding, layer.input_shape[1:], (f, height, width)
        )

    @property
    def window(self) -> tuple[int, int]:
        """Rows and lanes of what one event may reach; lanes in the widths that :mod:`cil_spl.chip.kernels` takes."""
        rows, lanes = _reach(self, 0).window, _reach(self, 1).window * self.features
        return rows, 32 if lanes <= 32 and rows <= 3 else -(-lanes // 64) * 64

    def pack(self, weight: np.ndarray, nowhere: int) -> np.ndarray:
        """Weights in the order in which windows take them, int16 [c, first kernel column, kernel row, lane]."""
        f, c, ky, kx = weight.shape
        by_place = np.full((c, ky * kx * f + 1), nowhere, np.int16)  # the last one is what lies beside the kernel
        by_place[:, :-1] = weight.transpose(1, 2, 3, 0).reshape(c, -1)  # f c ky kx -> c (ky kx f)
        return by_place.take(_order_of_weights(self), axis=1)


class _Reach(NamedTuple):
    """Along one axis, what each input row (column) reaches."""

    many: np.ndarray  # output rows
    window: int  # the most of them
    first: np.ndarray  # first output row of its window, which ends with the map
    kernel: np.ndarray  # the kernel row that falls there, or a number beyond the kernel; one stride less a row further


@lru_cache(maxsize=256)
def _reach(geometry: _Geometry, axis: int) -> _Reach:
    k, s, p, n = geometry.kernel[axis], geometry.stride[axis], geometry.padding[axis], geometry.output[1 + axis]
    at = np.arange(geometry.input_map[axis]) + p
    first = np.maximum(-(-(at - k + 1) // s), 0)
    many = np.maximum(np.minimum(at // s, n - 1) - first + 1, 0)
    window = max(int(many.max()), 1)
    first = np.minimum(first, n - window)
    return _Reach(many, window, first, at - first * s)


@lru_cache(maxsize=256)
def _kernel_places(geometry: _Geometry) -> tuple[np.ndarray, np.ndarray]:
    """The kernel columns with which a window can begin, and the kernel rows that they take, some beyond it."""
    rows, columns = (_reach(geometry, axis) for axis in (0, 1))
    y, x = rows.kernel[rows.many > 0], columns.kernel[columns.many > 0]
    first = y.min(initial=0) - (rows.window - 1) * geometry.stride[0]
    return np.unique(x), np.arange(first, y.max(initial=0) + 1)


@lru_cache(maxsize=256)
def _order_of_weights(geometry: _Geometry) -> np.ndarray:
    """For each packed weight of a channel its place in (ky, kx, f); one past the end for what does not exist."""
    f, (ky, kx), (_, lanes) = geometry.output[0], geometry.kernel, geometry.window
    first, rows = _kernel_places(geometry)
    window = _reach(geometry, 1).window
    x = first[:, None] - geometry.stride[1] * np.arange(window)  # [first kernel column, column of the window]
    y, x = rows[None, :, None, None], x[:, None, :, None]
    place = (y * kx + x) * f + np.arange(f)
    exists = (y >= 0) & (y < ky) & (x >= 0) & (x < kx)
    places = np.full((len(first), len(rows), window, geometry.features), ky * kx * f, np.int64)
    places[..., :f] = np.where(exists, place, ky * kx * f)
    order = np.full((len(first), len(rows), lanes), ky * kx * f, np.int64)
    order[..., : window * geometry.features] = places.reshape(*order.shape[:2], window * geometry.features)
    return order


@lru_cache(maxsize=256)
def _pixels(source_map: tuple[int, int], pool: tuple[int, int], geometry: _Geometry) -> np.ndarray:
    """A row for each pixel of a source map (before pooling): where its window lies; ADDS is 0 for a dropped event."""
    from cil_spl.chip import kernels as kn

    rows, columns = (_reach(geometry, axis) for axis in (0, 1))
    first, kernel_rows = _kernel_places(geometry)
    f, _, width = geometry.output
    table = np.zeros((*geometry.input_map, kn.PIXEL_COLUMNS), np.int32)
    table[..., kn.FIRST] = (rows.first[:, None] * width + columns.first) * geometry.features
    place = np.searchsorted(first, columns.kernel) * len(kernel_rows) + (
        rows.kernel[:, None] - kernel_rows.min(initial=0)
    )
    table[..., kn.WEIGHT] = place * geometry.window[1]
    table[..., kn.ADDS] = rows.many[:, None] * columns.many * f
    found = np.zeros((*source_map, kn.PIXEL_COLUMNS), np.int32)
    pooled = table.repeat(pool[0], axis=0).repeat(pool[1], axis=1)[: source_map[0], : source_map[1]]
    found[: len(pooled), : pooled.shape[1]] = pooled
    return found.reshape(-1, kn.PIXEL_COLUMNS)
