"""A Speck 2e or 2f on its board, driven through samna. Nothing else calls samna, and no real board has been driven yet.

What is assumed of samna (0.4x), from the vendor's public documentation and from how sinabs 3.1 calls it. The tests hold
these calls against a stand-in written from the same documents (``tests/chip/standin_samna.py``); whoever has a board
should check them in this order.

1.  ``samna.device.get_all_devices()`` lists what is connected, with ``device_type_name`` and ``usb_device_address``;
    boards of one kind are numbered by ascending address. ``open_device(info)`` opens one, ``close_device`` closes it.
    A board that another process holds cannot be opened.
2.  ``samna.<chip>.configuration.SpeckConfiguration()`` has ``cnn_layers[0..8]`` and ``dvs_layer.pass_sensor_events``.
    A core that is not written to takes no part. ``samna.<chip>.validate_configuration`` gives ``(valid, message)``.
3.  A core's ``dimensions`` takes a mapping: ``input_shape`` and ``output_shape`` (``size``: ``x``, ``y``;
    ``feature_count``), ``padding`` and ``stride`` (``x``, ``y``), ``kernel_size`` (one number).
4.  ``weights`` are ``[f][c][x][y]`` (ours ``[f, c, y, x]``), ``neurons_initial_value`` is ``[f][x][y]``, ``biases`` is
    ``[f]``; ``threshold_high``, ``threshold_low``, ``return_to_zero``, ``leak_enable`` and ``monitor_enable`` do what
    their names say.
5.  A core has two ``destinations``: ``enable``, ``layer`` (a core number), ``pooling`` (one number), ``feature_shift``.
6.  ``get_model().apply_configuration(config)`` has taken effect before the events that are written after it.
7.  A source node's ``write(list)`` sends, a sink node's ``get_events()`` gives and forgets what came, once a started
    ``samna.graph.EventFilterGraph`` joins them to ``get_model().get_sink_node()`` and ``get_source_node()``.
8.  ``WriteNeuronValue`` and ``ReadNeuronValue`` (``layer`` a core number, ``address``, ``neuron_state``) are carried
    out at once and in the order written; a read is answered by a ``NeuronValue``. A neuron's address is made of bit
    fields for feature, x and y (in which order does not matter here: every address is zeroed).
9.  An input ``Spike`` (``layer`` a core number, ``feature``, ``y``, ``x``) enters when the stop watch
    (``get_stop_watch()``: ``reset``, ``start``, ``stop``) reaches its ``timestamp`` in microseconds, or at once if that
    is past. An output ``Spike`` carries the time at which it left, by the same watch.
10. A monitored core sends each event of its neurons, before pooling. Classes are read from the last core's events, so
    the readout stage and its permutation play no part; a network spread for it (``ChipNetwork.readout``) works as well.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipNetwork, check_network
from cil_spl.chip.placement import CORES, assign, need_of, place_network
from cil_spl.chip.program import Program, program_of
from cil_spl.chip.simulator import EVENT16, ChipAnswer, LayerEvents, Output
from cil_spl.targets.board import NOT_REAL, samna_is_real

# Our name of a kind of board (sinabs uses the same): samna's name, and samna's module of its chip.
BOARDS = {
    "speck2e": ("Speck2eTestBoard", "speck2e"),
    "speck2edevkit": ("Speck2eDevKit", "speck2e"),
    "speck2fmodule": ("Speck2fModuleDevKit", "speck2f"),
    "speck2fdevkit": ("Speck2fDevKit", "speck2f"),
}
NODES = {
    "speck2e": ("BasicSourceNode_speck2e_event_speck2e_input_event", "BasicSinkNode_speck2e_event_output_event"),
    "speck2f": ("BasicSourceNode_speck2f_event_input_event", "BasicSinkNode_speck2f_event_output_event"),
}
MONITORS = ("readout", "all")
POLL_S = 0.001
ANSWER_S = 5.0  # a board that has not answered a read by then is not there


def connected() -> dict[str, Any]:
    """Boards that are there: ``speck2fdevkit:0`` → samna's description.

    Raises:
        RequestError: the real samna is not installed, or cannot be imported.
    """
    infos = sorted(_samna().device.get_all_devices(), key=lambda info: info.usb_device_address)
    found: dict[str, Any] = {}
    for name, (kind, _) in BOARDS.items():
        of_kind = [info for info in infos if info.device_type_name == kind]
        found |= {f"{name}:{i}": info for i, info in enumerate(of_kind)}
    return found


def pick(device: str | None) -> tuple[str, Any]:
    """The board of that name, or the only one that there is.

    Raises:
        RequestError: no such board, none, or more than one to choose from; lists those there are.
    """
    found = connected()
    there = f"connected are {', '.join(found)}" if found else "no Speck 2e or 2f board is connected"
    if device is None:
        if len(found) == 1:
            return next(iter(found.items()))
        remedy = "choose one of them" if found else "connect one, or use target.backend=simulator"
        raise RequestError(f"target.device=null: {there}; {remedy}")
    kind, _, number = device.partition(":")
    if kind not in BOARDS or not re.fullmatch(r"\d*", number):
        raise RequestError(
            f"target.device={device}: needs a kind and a number, as in speck2fdevkit:0; kinds are {', '.join(BOARDS)}"
        )
    key = f"{kind}:{int(number or 0)}"
    if key not in found:
        raise RequestError(f"target.device={device}: {there}; connect it, or name one that is there")
    return key, found[key]


@dataclass(frozen=True)
class Traffic:
    """What went to and fro with B recordings; int64 ``[B]`` each.

    Attributes:
        sent: input events written to the board (those off the input map are not).
        received: events that came back from monitored cores and belong to the recording.
        stray: events that came back and do not: of no neuron, of another core, or too early to be of the recording.
        late: 1 where writing took longer than the start delay, so that the first events entered in a burst.
        unfinished: 1 where events still came when the longest wait was over.
    """

    sent: np.ndarray
    received: np.ndarray
    stray: np.ndarray
    late: np.ndarray
    unfinished: np.ndarray


class Board:
    """A board of one's own, from its making to :meth:`close`; an error in between gives it back.

    Args:
        device: as in :func:`pick`.
        start_delay_us: from the start of the stop watch to a recording's first event; what writing may take.
        quiet_us: silence after which a recording counts as answered.
        max_wait_us: longest wait after a recording's last event.

    Raises:
        RequestError: as :func:`pick`; or another process has the board, named by its pid; or it cannot be opened.
    """

    def __init__(
        self,
        device: str | None = None,
        *,
        start_delay_us: int = 100_000,
        quiet_us: int = 20_000,
        max_wait_us: int = 2_000_000,
    ) -> None:
        self.start_delay_us, self.quiet_us, self.max_wait_us = start_delay_us, quiet_us, max_wait_us
        self.key, info = pick(device)
        self._samna = samna = _samna()
        chip = BOARDS[self.key.partition(":")[0]][1]
        self._module = getattr(samna, chip)
        held = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, held.close)
        try:
            held.enter_context(_lock(self.key, info))
            board = self._board = _opened(samna, self.key, info)
            held.callback(samna.device.close_device, board)
            source, sink = (getattr(samna, name) for name in NODES[chip])
            self._source, self._sink = source(), sink()
            for nodes in (
                [self._source, board.get_model().get_sink_node()],
                [board.get_model().get_source_node(), self._sink],
            ):
                graph = samna.graph.EventFilterGraph()
                graph.sequential(nodes)
                graph.start()
                held.callback(graph.stop)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the board back; a second call does nothing."""
        self._finalizer()

    def load(self, network: ChipNetwork, monitor: str = "readout") -> None:
        """Configure the chip, once.

        Args:
            network: a layer without a core is given one.
            monitor: ``readout``, the last layer alone, or ``all`` layers.

        Raises:
            RequestError: no chip could run it, or samna finds the configuration wrong.
        """
        if not self._finalizer.alive:
            raise RequestError(f"{self.key}: the board was given back; make a new Board")
        if any(layer.core is None for layer in network.layers):
            network = place_network(network)
        config = configuration(self._module, network, monitor)
        valid, message = self._module.validate_configuration(config)
        if not valid:
            raise RequestError(f"{self.key}: samna refuses the configuration: {message}")
        self.network, self._program = network, program_of(network)
        self._layer_of = {layer.core: k for k, layer in enumerate(network.layers)}
        last = len(network.layers) - 1
        self.monitored = tuple(k for k in range(last + 1) if monitor == "all" or k == last)
        try:
            self._board.get_model().apply_configuration(config)
        except BaseException:
            self.close()
            raise
        self._zeroing = self._zero_events()

    def send(
        self, events: np.ndarray, offsets: np.ndarray, edges_us: np.ndarray | None = None, *, record: Sequence[str] = ()
    ) -> tuple[ChipAnswer, Traffic]:
        """Send recordings through the chip in real time, each from zeroed states.

        Args and answer as :func:`cil_spl.chip.simulator.simulate`. What a board cannot tell is NaN: ``saturations`` and
        ``dropped``; ``events_per_layer`` of layers that are not monitored; ``synops`` of the layers after them (these
        are counted from the events and their fan-out). ``v_mem`` cannot be recorded, and more than the output only
        where all layers are monitored.

        Raises:
            RequestError: such a wish; or the board does not answer, or keeps a state.
        """
        known = ("output", "counts", "events") if len(self.monitored) == len(self.network.layers) else ("output",)
        for name in record:
            if name not in known:
                remedy = (
                    "states cannot be recorded (observer.v_mem=false)" if name == "v_mem" else "use target.monitor=all"
                )
                raise RequestError(f"record={name}: a board so monitored tells {', '.join(known)}; {remedy}")
        if edges_us is None:
            edges_us = np.zeros((len(offsets) - 1, 2), np.int64)
        try:
            told = [self._one(events[a:b]) for a, b in pairwise(offsets)]
        except BaseException:
            self.close()
            raise
        traffic = Traffic(*(np.array([flow[i] for _, _, flow in told], np.int64) for i in range(5)))
        return self._answer([(sent, back) for sent, back, _ in told], edges_us, record), traffic

    def _one(self, events: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], tuple[int, ...]]:
        """One recording: what was sent, each monitored layer's events, and the traffic."""
        sent = _on_the_map(events, self.network.input_shape)
        if not len(sent):
            return sent, [np.empty(0, EVENT16) for _ in self.monitored], (0, 0, 0, 0, 0)
        first_us = int(sent["t"][0])
        spikes = self._spikes(sent, self.start_delay_us - first_us)
        self._zero_states()
        watch = self._board.get_stop_watch()
        watch.reset()
        due = time.monotonic() + 1e-6 * self.start_delay_us  # nothing of this recording can come back before
        watch.start()
        self._source.write(spikes)
        late = time.monotonic() > due
        over = due + 1e-6 * (int(sent["t"][-1]) - first_us)
        early: list[Any] = []
        heard: list[Any] = []
        last = over
        while True:
            time.sleep(POLL_S)
            new = self._sink.get_events()
            now = time.monotonic()
            if new:
                (heard if now >= due else early).extend(new)
                last = max(now, over)
            waited = now - over
            if now - last >= 1e-6 * self.quiet_us or waited >= 1e-6 * self.max_wait_us:
                break
        unfinished = now - last < 1e-6 * self.quiet_us
        watch.stop()
        back, stray = self._sorted(heard, first_us - self.start_delay_us, first_us)
        stray += sum(isinstance(event, self._module.event.Spike) for event in early)
        return sent, back, (len(sent), sum(map(len, back)), stray, int(late), int(unfinished))

    def _spikes(self, events: np.ndarray, shift_us: int) -> list[Any]:
        """samna's events of ``events``, for the core of the first layer, ``shift_us`` later."""
        make, core = self._module.event.Spike, self.network.layers[0].core
        spikes = []
        for x, y, t, p in zip(*(events[name].tolist() for name in ("x", "y", "t", "p")), strict=True):
            spike = make()
            spike.layer, spike.feature, spike.y, spike.x, spike.timestamp = core, p, y, x, t + shift_us
            spikes.append(spike)
        return spikes

    def _zero_events(self) -> list[Any]:
        """A write of zero to every address that a neuron could have, and after them a read of each core's last one."""
        writes, reads = [], []
        for layer in self.network.layers:
            assert layer.core is not None
            f, height, width = layer.output_shape
            bits = (f - 1).bit_length() + 2 * max((height - 1).bit_length(), (width - 1).bit_length())
            addresses = min(1 << bits, CORES[layer.core][1])
            for address in range(addresses):
                write = self._module.event.WriteNeuronValue()
                write.layer, write.address, write.neuron_state = layer.core, address, 0
                writes.append(write)
            read = self._module.event.ReadNeuronValue()
            read.layer, read.address = layer.core, addresses - 1
            reads.append(read)
        return writes + reads

    def _zero_states(self) -> None:
        """Zero every state; back when the board answers that it is done. What was still on its way is forgotten."""
        self._source.write(self._zeroing)
        missing, give_up = (
            {layer.core for layer in self.network.layers if layer.core is not None},
            time.monotonic() + ANSWER_S,
        )
        while missing:
            for event in self._sink.get_events():
                if isinstance(event, self._module.event.NeuronValue):
                    missing.discard(event.layer)
                    if event.neuron_state:
                        raise RequestError(
                            f"{self.key}: core {event.layer} keeps the state {event.neuron_state} after it was zeroed; "
                            "press the board's reset button and start again"
                        )
            if missing and time.monotonic() > give_up:
                raise RequestError(
                    f"{self.key}: no answer from core {', '.join(map(str, sorted(missing)))} in {ANSWER_S:g} s; reset "
                    "or reconnect the board and start again"
                )
            if missing:
                time.sleep(POLL_S)

    def _sorted(self, heard: list[Any], shift_us: int, first_us: int) -> tuple[list[np.ndarray], int]:
        """Each monitored layer's events in the recording's time, in order; and how many do not belong to it."""
        spikes = [event for event in heard if isinstance(event, self._module.event.Spike)]
        rows = [(s.x, s.y, s.timestamp + shift_us, s.feature) for s in spikes]
        layer = np.array([self._layer_of.get(s.layer, -1) for s in spikes], np.int64)
        table = np.array(rows, np.int64).reshape(-1, 4)
        back, belong = [], 0
        for k in self.monitored:
            f, height, width = self.network.layers[k].output_shape
            mine = table[layer == k]
            x, y, t, feature = mine.T
            sound = _within(x, width) & _within(y, height) & _within(feature, f) & (t >= first_us)
            mine = mine[sound]
            mine = mine[np.argsort(mine[:, 2], kind="stable")]
            events = np.empty(len(mine), EVENT16)
            events["x"], events["y"], events["t"], events["f"] = mine.T
            back.append(events)
            belong += len(mine)
        return back, len(spikes) - belong

    def _answer(
        self, told: list[tuple[np.ndarray, list[np.ndarray]]], edges_us: np.ndarray, record: Sequence[str]
    ) -> ChipAnswer:
        network, program = self.network, self._program
        n_layers, bins, classes = len(network.layers), edges_us.shape[1] - 1, program.n_classes
        b = len(told)
        counts = np.zeros((b, bins, classes), np.int64)
        events = np.full((b, n_layers), np.nan)
        synops = np.full((b, n_layers), np.nan)
        decision = np.full(b, -1, np.int64)
        outputs = []
        for i, (sent, back) in enumerate(told):
            k, t = _classes(network, back[-1]), back[-1]["t"][_is_class(network, back[-1])]
            np.add.at(counts[i], (_bins(t, edges_us[i]), k), 1)
            decision[i] = decision_us(t, k, classes)
            outputs.append((t, k))
            events[i, list(self.monitored)] = [len(e) for e in back]
            by_source: dict[int, np.ndarray] = {-1: sent} | dict(zip(self.monitored, back, strict=True))
            synops[i] = _synops(program, by_source)
        layer_counts = None
        if "counts" in record:
            layer_counts = [np.zeros((b, bins, *layer.output_shape), np.int32) for layer in network.layers]
            for i, (_, back) in enumerate(told):
                for into, e in zip(layer_counts, back, strict=True):
                    np.add.at(into[i], (_bins(e["t"], edges_us[i]), e["f"], e["y"], e["x"]), 1)
        layer_events = None
        if "events" in record:
            each = [[back[k] for _, back in told] for k in range(n_layers)]
            layer_events = [LayerEvents(np.concatenate(parts), _offsets(parts)) for parts in each]
        output = None
        if "output" in record:
            times, numbers = ([np.asarray(one[j]) for one in outputs] for j in (0, 1))
            output = Output(
                np.concatenate(times).astype(np.int32), np.concatenate(numbers).astype(np.int16), _offsets(times)
            )
        return ChipAnswer(
            counts=counts,
            events_per_layer=events,
            input_events=np.array([len(sent) for sent, _ in told], np.int64),
            synops=synops,
            saturations=np.full((b, n_layers), np.nan),
            dropped=np.full((b, n_layers), np.nan),
            decision_us=decision,
            layer_counts=layer_counts,
            layer_events=layer_events,
            output=output,
        )


def configuration(module: Any, network: ChipNetwork, monitor: str) -> Any:
    """samna's configuration of a network whose layers all have a core.

    Args:
        module: ``samna.speck2e`` or ``samna.speck2f``.
        monitor: ``readout`` or ``all``.

    Raises:
        RequestError: the chip cannot hold the network, or a fault of the chip would spoil it.
    """
    if monitor not in MONITORS:
        raise RequestError(f"target.monitor={monitor}: allowed are {', '.join(MONITORS)}")
    check_network(network)
    # Kernels and poolings square, sizes in range.
    assign([need_of(network, k) for k in range(len(network.layers))], "chip network")
    config = module.configuration.SpeckConfiguration()
    config.dvs_layer.pass_sensor_events = False
    for k, layer in enumerate(network.layers):
        if layer.min_v_mem == 0:
            raise RequestError(
                f"chip network: layer {layer.name}: min_v_mem=0 is a known fault of the chip; use -1 or lower (a lower "
                "model.neuron.min_v_mem)"
            )
        f, height, width = layer.output_shape
        c, in_height, in_width = layer.input_shape
        core = config.cnn_layers[layer.core]
        core.dimensions = {
            "input_shape": {"size": {"x": in_width, "y": in_height}, "feature_count": c},
            "output_shape": {"size": {"x": width, "y": height}, "feature_count": f},
            "padding": {"x": layer.padding[1], "y": layer.padding[0]},
            "stride": {"x": layer.stride[1], "y": layer.stride[0]},
            "kernel_size": layer.weight.shape[2],
        }
        core.weights = layer.weight.astype(int).transpose(0, 1, 3, 2).tolist()  # f c y x -> f c x y
        core.biases = [0] * f
        core.leak_enable = False
        core.threshold_high, core.threshold_low = layer.threshold, layer.min_v_mem
        core.return_to_zero = layer.reset == "zero"
        core.neurons_initial_value = np.full((f, width, height), layer.v_init).tolist()
        core.monitor_enable = monitor == "all" or k == len(network.layers) - 1
        for i, destination in enumerate(layer.destinations):
            to = core.destinations[i]
            to.enable, to.layer = True, network.layers[destination.layer].core
            to.pooling, to.feature_shift = destination.pool[0], destination.feature_shift
    return config


def decision_us(t: np.ndarray, k: np.ndarray, n_classes: int) -> int:
    """Time from which the class with most output events leads for good; -1 without a strict one.

    Args:
        t, k: time and class of each output event, in order. Shape (n,).
    """
    totals = np.bincount(k, minlength=n_classes)
    winner = int(totals.argmax())
    if (totals >= totals[winner]).sum() != 1:
        return -1
    one_hot = k[:, None] == np.arange(n_classes)
    so_far = np.cumsum(one_hot, axis=0)
    rivals = np.delete(so_far, winner, axis=1).max(axis=1, initial=0)
    behind = np.flatnonzero(so_far[:, winner] <= rivals)
    return int(t[behind[-1] + 1 if len(behind) else 0])


def _on_the_map(events: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The events that the chip's first core has an address for, with p as its input feature."""
    c, height, width = shape
    x, y, p = (events[name].astype(np.int64) for name in ("x", "y", "p"))
    feature = np.zeros_like(p) if c == 1 else p
    sound = _within(x, width) & _within(y, height) & _within(feature, c)
    kept = events[sound]
    kept["p"] = feature[sound]
    return kept


def _within(values: np.ndarray, size: int) -> np.ndarray:
    return (values >= 0) & (values < size)


def _synops(program: Program, by_source: dict[int, np.ndarray]) -> np.ndarray:
    """Additions in each layer, from the events of the sensor (-1) and the layers; NaN where a source is not known."""
    layers, tables = program.network.layers, program.tables
    synops = np.zeros(len(layers))
    sources = [(-1, 0)] + [(k, int(e)) for k, edges in enumerate(tables.fan_out) for e in edges if e >= 0]
    for source, edge in sources:
        wiring = tables.edges[edge]
        target = wiring["target"]
        if source not in by_source:
            synops[target] = np.nan
            continue
        events = by_source[source]
        _, _, width = program.network.input_shape if source < 0 else layers[source].output_shape
        reaches = events["p" if source < 0 else "f"].astype(np.int64) + wiring["shift"] < wiring["channels"]
        pixel = wiring["pixels"] + events["y"].astype(np.int64) * width + events["x"]
        synops[target] += tables.pixels["adds"][pixel[reaches]].sum()
    return synops


def _is_class(network: ChipNetwork, events: np.ndarray) -> np.ndarray:
    if network.readout is None:
        return np.ones(len(events), bool)
    return np.isin(events["f"], network.readout)


def _classes(network: ChipNetwork, events: np.ndarray) -> np.ndarray:
    """Class of each event of the last layer that has one."""
    if network.readout is None:
        _, height, width = network.layers[-1].output_shape
        return (events["f"].astype(np.int64) * height + events["y"]) * width + events["x"]
    class_of = {f: k for k, f in enumerate(network.readout)}
    return np.array([class_of[f] for f in events["f"][_is_class(network, events)].tolist()], np.int64)


def _bins(t: np.ndarray, edges_us: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges_us, t, side="right") - 1, 0, len(edges_us) - 2)


def _offsets(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)


def _samna() -> Any:
    """The real samna; a stub is never imported, since that would start pip."""
    if not samna_is_real():
        raise RequestError(NOT_REAL)
    try:
        import samna
    except ImportError as error:
        raise RequestError(f"target.backend=device: samna cannot be imported ({error}); install it anew") from None
    return samna


def _opened(samna: Any, key: str, info: Any) -> Any:
    try:
        board = samna.device.open_device(info)
    except Exception as error:  # samna raises RuntimeError, and what its bindings raise is not documented
        raise RequestError(f"{key}: cannot be opened ({error}); does another program have it?") from None
    if board is None:
        raise RequestError(f"{key}: cannot be opened; does another program have it?")
    return board


@contextlib.contextmanager
def _lock(key: str, info: Any) -> Any:
    """Hold a board against other processes, and other boards of this one; the system lets go when the process ends."""
    place = f"{getattr(info, 'usb_bus_number', 0)}-{info.usb_device_address}"
    path = Path(tempfile.gettempdir()) / f"cilspl-{key.partition(':')[0]}-{place}.lock"
    holder = path.with_suffix(".pid")
    lock = filelock.FileLock(path, timeout=0, mode=0o666, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        with contextlib.suppress(OSError):
            pid = holder.read_text()
            raise RequestError(
                f"{key}: process {pid} is using the board; wait for it to end, choose another with target.device, or "
                "use target.backend=simulator"
            ) from None
        raise RequestError(f"{key}: another process is using the board; wait for it to end") from None
    except OSError as error:
        raise RequestError(
            f"{path}: the board's lock cannot be had ({error.strerror}); is it another user's?"
        ) from None
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()
