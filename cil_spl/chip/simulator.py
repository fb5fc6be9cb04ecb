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

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.base.sources import say_if_it_compiles
from cil_spl.chip.die import Die
from cil_spl.chip.kernels.tables import Buffers, EventLists
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.program import Program, program_of
from cil_spl.data.events import EVENT

RECORDS = ("counts", "v_mem", "events", "output")


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
    program = program_of(network, die)
    answer = _Run(program, events, offsets, edges_us, order_seed, threads or _cores())
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
    ) -> None:
        self.program, self.events, self.offsets, self.edges_us = program, events, offsets, edges_us
        self.order = 0 if order_seed is None else 2 * int(order_seed) + 1
        b, self.bins, n_layers = len(offsets) - 1, edges_us.shape[1] - 1, len(program.padded)
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
        program, n_layers = self.program, len(self.program.padded)
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
        return found, Output(found[-1].events["t"].copy(), program.tables.class_of[last].astype(np.int16), offsets)

    def _answer(self) -> Buffers:
        return Buffers(
            counts=self.counts, events_per_layer=self.events_per_layer, input_events=self.input_events,
            synops=self.synops, saturations=self.saturations, dropped=self.dropped, decision_us=self.decision_us,
            layer_counts=self.layer_counts, layer_v_mem=self.layer_v_mem, keep_events=self.keep,
            event_offsets=self.event_offsets, event_neuron=self.event_neuron, event_time=self.event_time,
        )  # fmt: skip

    def _call(self, answer: Buffers) -> None:
        from cil_spl.chip.kernels import compiled

        kernel: Any = compiled.chain if self.program.layer_by_layer else compiled.depth_first
        recordings = EventLists(self.events, self.offsets, self.edges_us)
        args = (np.zeros(1, np.int64), recordings, self.program.tables, self.order, answer, self.program.deviations)
        say_if_it_compiles(kernel, "the chip simulator")
        helpers = [threading.Thread(target=kernel, args=args) for _ in range(self.threads - 1)]
        for helper in helpers:
            helper.start()
        kernel(*args)
        for helper in helpers:
            helper.join()
