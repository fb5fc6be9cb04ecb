"""A stand-in for samna: the part that drives a Speck 2e or 2f, written from the vendor's public documentation.

It takes what samna takes and nothing else: unknown attributes, lists of the wrong shape and numbers out of range are
refused, as compiled bindings would. The configuration is decoded into a chip network of its own, which our simulator
runs; a wrong order of axes, a wrong destination or a state that was not zeroed therefore gives other events. Time is
virtual: ``Clock`` takes the place of ``time`` in the code under test, and an event can be read once its time has come.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.chip.simulator import simulate
from cil_spl.data.events import EVENT

MEMORY = (*[64 * 1024] * 3, *[32 * 1024] * 2, *[16 * 1024] * 4)  # neuron states of the nine cores
KINDS = {
    "Speck2eTestBoard": "speck2e",
    "Speck2eDevKit": "speck2e",
    "Speck2fModuleDevKit": "speck2f",
    "Speck2fDevKit": "speck2f",
}


class Clock:
    """Time that passes when someone sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Faults:
    """What can go wrong on a board."""

    drop_every: int = 0  # each n-th output event is lost
    latency_us: int = 300  # from an event's time to its arrival
    straggler_us: int = 0  # the last output event of a recording comes that much later
    write_us: float = 0.0  # what writing one event takes
    deaf: bool = False  # no read is answered
    stuck_state: int = 0  # what a read of a state says
    refuses: str = ""  # what validate_configuration says
    noise: list[Any] = field(default_factory=list)  # (core, feature, y, x, timestamp) that come with each recording
    dead_open: bool = False  # the board cannot be opened
    jitter: np.random.Generator | None = None  # loses a tenth of the output events, other ones each time


def _plain(name: str, **defaults: Any) -> type:
    """A class with these attributes and no others."""

    def __init__(self: Any) -> None:
        for key, value in defaults.items():
            setattr(self, key, value)

    return type(name, (), {"__slots__": tuple(defaults), "__init__": __init__})


class CnnLayerConfig:
    """A core's configuration; refuses what the bindings would."""

    __slots__ = (
        "biases", "destinations", "dimensions", "leak_enable", "monitor_enable", "neurons_initial_value",
        "return_to_zero", "threshold_high", "threshold_low", "weights",
    )  # fmt: skip
    BOOL = ("leak_enable", "monitor_enable", "return_to_zero")

    def __init__(self) -> None:
        to = _plain("CnnLayerDestination", enable=False, layer=0, pooling=1, feature_shift=0)
        self.dimensions: Any = {}
        self.destinations = [to(), to()]
        self.weights = self.neurons_initial_value = self.biases = []
        self.threshold_high, self.threshold_low = 1, -1
        self.leak_enable = self.monitor_enable = self.return_to_zero = False

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.BOOL:
            assert type(value) is bool, (key, value)
        elif key in ("weights", "biases", "neurons_initial_value"):
            assert type(value) is list
            array = np.array(value)
            assert array.size == 0 or array.dtype == np.int64, key
            bits = 7 if key == "weights" else 15
            assert np.all((array >= -(1 << bits)) & (array < 1 << bits)), key
        elif key.startswith("threshold"):
            assert type(value) is int
            assert -(1 << 15) <= value < 1 << 15
        object.__setattr__(self, key, value)

    @property
    def used(self) -> bool:
        return len(self.weights) > 0


class SpeckConfiguration:
    def __init__(self) -> None:
        self.cnn_layers = [CnnLayerConfig() for _ in range(9)]
        self.dvs_layer = types.SimpleNamespace(pass_sensor_events=True, monitor_enable=False)


def decode(config: SpeckConfiguration) -> tuple[ChipNetwork, list[int]]:
    """The network that a configuration means, and each layer's core."""
    assert config.dvs_layer.pass_sensor_events is False
    used = [core for core, layer in enumerate(config.cnn_layers) if layer.used]
    feeds = {core: [to for to in config.cnn_layers[core].destinations if to.enable] for core in used}
    order: list[int] = []
    while len(order) < len(used):  # sources first
        order.append(
            next(
                core
                for core in used
                if core not in order
                and all(to.layer != core for other in used if other not in order for to in feeds[other])
            )
        )
    layers = []
    for core in order:
        chip = config.cnn_layers[core]
        size = chip.dimensions
        assert set(size) == {"input_shape", "output_shape", "padding", "stride", "kernel_size"}
        f, c = size["output_shape"]["feature_count"], size["input_shape"]["feature_count"]
        k = size["kernel_size"]
        assert type(k) is int
        weights = np.array(chip.weights)
        assert weights.shape == (f, c, k, k), "[f][c][x][y]"
        out = size["output_shape"]["size"]
        assert np.array(chip.neurons_initial_value).shape == (f, out["x"], out["y"]), "[f][x][y]"
        initial = np.unique(chip.neurons_initial_value)
        assert len(initial) == 1, "a state of its own for each neuron"
        assert len(chip.biases) == f
        assert not np.any(chip.biases)
        assert not chip.leak_enable
        assert np.prod([f, out["x"], out["y"]]) <= MEMORY[core]
        layer = ChipLayer(
            name=f"core{core}",
            weight=weights.transpose(0, 1, 3, 2).astype(np.int8),  # f c x y -> f c y x
            stride=(size["stride"]["y"], size["stride"]["x"]),
            padding=(size["padding"]["y"], size["padding"]["x"]),
            input_shape=(c, size["input_shape"]["size"]["y"], size["input_shape"]["size"]["x"]),
            threshold=chip.threshold_high,
            min_v_mem=chip.threshold_low,
            reset="zero" if chip.return_to_zero else "subtract",
            destinations=tuple(
                Destination(order.index(to.layer), (to.pooling, to.pooling), to.feature_shift) for to in feeds[core]
            ),
            core=core,
            v_init=int(initial[0]),
        )
        assert layer.output_shape == (f, out["y"], out["x"])
        layers.append(layer)
    return ChipNetwork(tuple(layers), layers[0].input_shape), order


class Chip:
    """A chip on its board: states since the last zeroing, a stop watch, and events on their way."""

    def __init__(self, standin: Standin, chip: str) -> None:
        self.standin, self.event = standin, standin.modules[chip].event
        self.config: SpeckConfiguration | None = None
        self.configured = 0
        self.history = np.zeros(0, EVENT)  # what has entered since the states were last zero
        self.zeroed: set[tuple[int, int]] = set()
        self.started: float | None = None
        self.arriving: list[tuple[float, Any]] = []
        self.log: list[str] = []

    # device
    def get_model(self) -> Chip:
        return self

    def get_stop_watch(self) -> Chip:
        return self

    # model
    def apply_configuration(self, config: SpeckConfiguration) -> None:
        assert isinstance(config, SpeckConfiguration)
        self.config, self.history = config, np.zeros(0, EVENT)
        self.network, self.cores = decode(config)
        self.configured += 1

    def get_sink_node(self) -> tuple[str, Chip]:
        return "sink", self

    def get_source_node(self) -> tuple[str, Chip]:
        return "source", self

    # stop watch
    def reset(self) -> None:
        self.log.append("reset")

    def start(self) -> None:
        self.log.append("start")
        self.started = self.standin.clock.now

    def stop(self) -> None:
        self.started = None

    # what travels
    def take(self, events: list[Any]) -> None:
        assert self.config is not None, "not configured"
        assert type(events) is list
        clock, faults = self.standin.clock, self.standin.faults
        spikes = []
        for event in events:
            if isinstance(event, self.event.Spike):
                spikes.append((event.x, event.y, event.timestamp, event.feature, event.layer))
            elif isinstance(event, self.event.WriteNeuronValue):
                assert event.neuron_state == 0
                assert event.address < MEMORY[event.layer]
                self.zeroed.add((event.layer, event.address))
                self.log.append("zero")
            elif isinstance(event, self.event.ReadNeuronValue):
                if not faults.deaf:
                    answer = self.event.NeuronValue()
                    answer.layer, answer.address, answer.neuron_state = event.layer, event.address, faults.stuck_state
                    self.arriving.append((clock.now + 0.002, answer))
            else:
                raise TypeError(f"no input event: {event!r}")
        if self.zeroed >= {(layer.core, a) for layer in self.network.layers for a in addresses(layer)}:
            self.history = np.zeros(0, EVENT)
        if spikes:
            self.log.append("spikes")
            self.spike(spikes)

    def spike(self, spikes: list[tuple[int, ...]]) -> None:
        """Run what has entered since the last zeroing, and send what is new of it."""
        clock, faults = self.standin.clock, self.standin.faults
        assert self.started is not None, "the stop watch stands still"
        self.zeroed.clear()
        c, height, width = self.network.input_shape
        new = np.zeros(len(spikes), EVENT)
        for i, (x, y, timestamp, feature, layer) in enumerate(spikes):
            clock.now += 1e-6 * faults.write_us
            assert layer == self.cores[0]
            assert all(type(n) is int for n in spikes[i])
            assert 0 <= x < width
            assert 0 <= y < height
            assert 0 <= feature < c
            here = round((clock.now - self.started) * 1e6)
            new[i] = (x, y, max(timestamp, here), feature)
        assert (np.diff(new["t"]) >= 0).all()
        past = self.history.copy()
        past["t"] -= 1 << 28
        together = np.concatenate([past, new])
        answer = simulate(self.network, together, np.array([0, len(together)]), record=("events",))
        assert answer.layer_events is not None
        self.history = np.concatenate([self.history, new])
        self.history["t"] = 0
        out = []
        for layer, core, told in zip(self.network.layers, self.cores, answer.layer_events, strict=True):
            if not self.config.cnn_layers[core].monitor_enable:  # type: ignore[union-attr]
                continue
            for e in told.events[told.events["t"] >= 0]:
                out.append((int(e["t"]), layer.core, int(e["f"]), int(e["y"]), int(e["x"])))
        out.sort(key=lambda row: row[0])
        kept = [row for i, row in enumerate(out, 1) if not faults.drop_every or i % faults.drop_every]
        if faults.jitter is not None:
            kept = [row for row in kept if faults.jitter.random() > 0.1]
        kept += [(t, core, f, y, x) for core, f, y, x, t in faults.noise]
        for i, (t, core, f, y, x) in enumerate(kept):
            event = self.event.Spike()
            event.timestamp, event.layer, event.feature, event.y, event.x = t, core, f, y, x
            late = faults.straggler_us if i == len(kept) - 1 else 0
            self.arriving.append((self.started + 1e-6 * (t + faults.latency_us + late), event))

    def give(self) -> list[Any]:
        now = self.standin.clock.now
        here = [event for at, event in self.arriving if at <= now]
        self.arriving = [(at, event) for at, event in self.arriving if at > now]
        return here


def addresses(layer: ChipLayer) -> set[int]:
    """Addresses of a layer's neurons: feature, then x, then y, in bit fields (sinabs' ``calculate_neuron_address``)."""
    f, height, width = layer.output_shape
    feature_bits, y_bits = (f - 1).bit_length(), (height - 1).bit_length()
    return {
        y << (feature_bits + y_bits) | x << feature_bits | k
        for k in range(f)
        for y in range(height)
        for x in range(width)
    }


class Graph:
    def __init__(self) -> None:
        self.running, self.nodes = False, []

    def sequential(self, nodes: list[Any]) -> None:
        self.nodes = nodes
        first, second = nodes
        if isinstance(first, Source):
            assert second[0] == "sink"
            first.graph, first.chip = self, second[1]
        else:
            assert first[0] == "source"
            second.graph, second.chip = self, first[1]

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False


class Source:
    graph: Graph
    chip: Chip

    def write(self, events: list[Any]) -> None:
        assert self.graph.running
        assert self.chip in self.chip.standin.open.values(), "the board is closed"
        self.chip.take(events)


class Sink:
    graph: Graph
    chip: Chip

    def get_events(self) -> list[Any]:
        assert self.graph.running
        return self.chip.give()


class Standin:
    """samna with these boards connected: pairs of samna's name and a USB address."""

    def __init__(self, boards: list[tuple[str, int]]) -> None:
        self.clock, self.faults = Clock(), Faults()
        self.infos = [
            types.SimpleNamespace(device_type_name=kind, usb_bus_number=1, usb_device_address=address, serial_number="")
            for kind, address in boards
        ]
        self.open: dict[int, Chip] = {}
        self.modules = {
            chip: types.SimpleNamespace(
                configuration=types.SimpleNamespace(SpeckConfiguration=SpeckConfiguration),
                validate_configuration=lambda _: (not self.faults.refuses, self.faults.refuses),
                event=types.SimpleNamespace(
                    Spike=_plain("Spike", layer=0, feature=0, x=0, y=0, timestamp=0),
                    WriteNeuronValue=_plain("WriteNeuronValue", layer=0, address=0, neuron_state=0),
                    ReadNeuronValue=_plain("ReadNeuronValue", layer=0, address=0),
                    NeuronValue=_plain("NeuronValue", layer=0, address=0, neuron_state=0),
                ),
            )
            for chip in ("speck2e", "speck2f")
        }

    @property
    def chip(self) -> Chip:
        """The one that is open."""
        (chip,) = self.open.values()
        return chip

    def open_device(self, info: Any) -> Chip:
        if self.faults.dead_open or info.usb_device_address in self.open:
            raise RuntimeError("device busy")
        self.open[info.usb_device_address] = Chip(self, KINDS[info.device_type_name])
        return self.open[info.usb_device_address]

    def close_device(self, chip: Chip) -> None:
        self.open = {address: other for address, other in self.open.items() if other is not chip}

    def module(self) -> types.ModuleType:
        samna: Any = types.ModuleType("samna")
        samna.device = types.SimpleNamespace(
            get_all_devices=lambda: list(self.infos), open_device=self.open_device, close_device=self.close_device
        )
        samna.graph = types.SimpleNamespace(EventFilterGraph=Graph)
        samna.speck2e, samna.speck2f = self.modules["speck2e"], self.modules["speck2f"]
        samna.BasicSourceNode_speck2e_event_speck2e_input_event = samna.BasicSourceNode_speck2f_event_input_event = (
            Source
        )
        samna.BasicSinkNode_speck2e_event_output_event = samna.BasicSinkNode_speck2f_event_output_event = Sink
        return samna  # type: ignore[no-any-return]


def install(monkeypatch: pytest.MonkeyPatch, *boards: tuple[str, int]) -> Standin:
    """Put the stand-in where samna would be, with these boards connected, and its clock where time would be."""
    from cil_spl.targets import board, devkit

    standin = Standin(list(boards))
    monkeypatch.setitem(sys.modules, "samna", standin.module())
    monkeypatch.setattr(board, "samna_is_real", lambda: True)
    monkeypatch.setattr(devkit, "samna_is_real", lambda: True)
    monkeypatch.setattr(devkit, "time", standin.clock)
    return standin
