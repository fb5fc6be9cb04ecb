"""Our rules against a real Speck 2f: replay its recordings and compare the first layer's events, neuron by neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.base.npz import MOST_BYTES, check_file, read_arrays
from cil_spl.chip import nirfile
from cil_spl.chip.network import ChipLayer, ChipNetwork
from cil_spl.chip.nirchain import FloatLayer
from cil_spl.chip.simulator import simulate
from cil_spl.data import nmnist
from cil_spl.data.events import check_events

NETWORK, COUNTS = "cnn_sinabs.nir", "layer1_spike_counts.npz"
MOST_EVENTS = 2**40  # of a neuron in a recording


@dataclass(frozen=True)
class Replay:
    """Counts [recording, f, y, x] of the chip and of ours."""

    names: tuple[str, ...]
    chip: np.ndarray
    ours: np.ndarray

    @property
    def difference(self) -> float:
        """Sum of absolute differences over neurons, as a fraction of the chip's events."""
        return float(np.abs(self.ours - self.chip).sum() / self.chip.sum())

    @property
    def exact(self) -> float:
        """Fraction of neurons with exactly the chip's count."""
        return float((self.ours == self.chip).mean())

    def one(self, i: int) -> Replay:
        """Recording ``i`` alone."""
        return Replay(self.names[i : i + 1], self.chip[i : i + 1], self.ours[i : i + 1])

    def table(self) -> list[dict[str, str | int | float]]:
        """A row for each recording and one for all: events of both, difference, neurons exact (fractions)."""
        parts = [self.one(i) for i in range(len(self.names))]
        named = [*zip(self.names, parts, strict=True), ("all", self)]
        return [
            {
                "recording": name,
                "events chip": int(part.chip.sum()),
                "events ours": int(part.ours.sum()),
                "difference": part.difference,
                "neurons exact": part.exact,
            }
            for name, part in named
        ]


@dataclass(frozen=True)
class Silicon:
    """A network, recordings and what the chip answered: counts [recording, f, y, x] of the first layer."""

    layers: list[FloatLayer]
    input_shape: tuple[int, int, int]
    names: tuple[str, ...]
    recordings: list[np.ndarray]
    counts: np.ndarray

    def network(self) -> ChipNetwork:
        """By the rules of the chip, its first layer alone."""
        return nirfile.to_chip(self.layers[:1], self.input_shape)


def load(folder: Path | str, recordings: Path | str) -> Silicon:
    """What a chip answered, from ``folder``, and the recordings it was sent (the official N-MNIST layout).

    Raises:
        RequestError: a file is missing or not what it should be.
    """
    folder, recordings = Path(folder), Path(recordings)
    for path in (folder / NETWORK, folder / COUNTS):
        if not path.is_file():
            raise RequestError(f"{path}: no such file; chip verify needs the network and the counts of a real chip")
    layers, input_shape = nirfile.read_float(folder / NETWORK)
    first = nirfile.to_chip(layers, input_shape).layers[0]  # all of it: a mistake further down is one too
    width, height, polarities = nmnist.SENSOR_SIZE
    if input_shape != (polarities, height, width):
        raise RequestError(
            f"{folder / NETWORK}: its input is {input_shape}; chip verify sends N-MNIST recordings, "
            f"{(polarities, height, width)}"
        )
    names, counts = read_counts(folder / COUNTS)
    if counts.shape[1:] != first.output_shape:
        raise RequestError(
            f"{folder / COUNTS}: counts has the shape {counts.shape}; needed is one map {first.output_shape} per "
            f"recording, as layer {first.name} of {NETWORK} has it"
        )
    return Silicon(layers, input_shape, names, [_recording(recordings / name) for name in names], counts)


def read_counts(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the recordings, and what a chip counted: int64 [recording, f, y, x].

    Raises:
        RequestError: the file is damaged, or its arrays are not those; names the array.
    """
    check_file(path, MOST_BYTES, "the counts of a real chip")
    try:
        arrays = read_arrays(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: not an .npz archive of counts, or damaged ({error})") from None

    def refuse(what: str) -> RequestError:
        return RequestError(f"{path}: {what}; take it from a copy")

    for name in ("recording", "counts"):
        if name not in arrays:
            raise refuse(f"{name} is missing, it holds {', '.join(arrays) or 'nothing'}")
    names, counts = arrays["recording"], arrays["counts"]
    if names.dtype.kind != "U" or names.ndim != 1 or not len(names):
        raise refuse(f"recording is {names.dtype} {names.shape}, needed is a list of names of recordings")
    if counts.dtype.kind not in "iu" or counts.ndim != 4 or not counts.size:
        raise refuse(f"counts is {counts.dtype} {counts.shape}, needed are whole numbers [recording, f, y, x]")
    if len(names) != len(counts):
        raise refuse(f"recording names {len(names)}, counts has {len(counts)} maps; needed is one map for each name")
    if counts.min() < 0 or counts.max() > MOST_EVENTS:
        value = counts.min() if counts.min() < 0 else counts.max()
        raise refuse(f"counts holds {value}, allowed is 0..{MOST_EVENTS}")
    if not counts.any():
        raise refuse("counts are all 0, so there is nothing to compare with")
    found = tuple(str(name) for name in names)
    for name in found:
        path_of = PurePosixPath(name)
        sound = 0 < len(name.encode(errors="replace")) < 256 and name.isprintable() and found.count(name) == 1
        if not sound or path_of.is_absolute() or ".." in path_of.parts:
            raise refuse(f"recording {name!r}, needed are paths below the folder of recordings, each once")
    return found, counts.astype(np.int64)


def _recording(path: Path) -> np.ndarray:
    if not path.is_file():
        raise RequestError(f"{path}: no such file; chip verify needs the recordings that the chip was sent")
    return check_events(nmnist.decode(path), nmnist.SENSOR_SIZE, str(path))


def replay(network: ChipNetwork, silicon: Silicon) -> Replay:
    """The recordings through ``network``, and the chip's answer beside ours."""
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in silicon.recordings])]).astype(np.int64)
    answer = simulate(network, np.concatenate(silicon.recordings), offsets, record=("counts",))
    assert answer.layer_counts is not None
    return Replay(silicon.names, silicon.counts, answer.layer_counts[0][:, 0].astype(np.int64))


def alternatives(silicon: Silicon) -> dict[str, Replay]:
    """The agreement that each other rule would give.

    All spikes at once gives the same as the rules of the chip where no weight is above the threshold.
    """
    network = silicon.network()
    layer, given = network.layers[0], silicon.layers[0]

    def other(**changes: object) -> Replay:
        return replay(replace(network, layers=(replace(layer, **changes),)), silicon)  # type: ignore[arg-type]

    # The scale with 127 for both ends, and the weights cut off instead of rounded.
    narrow = 127 / float(np.abs(given.weight).max())
    same_ends = other(
        weight=np.round(given.weight * np.float32(narrow)).astype(np.int8),
        threshold=round(given.threshold * narrow),
        min_v_mem=round(given.min_v_mem * narrow),
    )
    return {
        "the rules of the chip": replay(network, silicon),
        "> for >=": _step_by_step(layer, silicon, strict=True),
        "all spikes at once": _step_by_step(layer, silicon, drain=True),
        "threshold + 1": other(threshold=layer.threshold + 1),
        "threshold - 1": other(threshold=layer.threshold - 1),
        "lower bound + 1": other(min_v_mem=layer.min_v_mem + 1),
        "lower bound - 1": other(min_v_mem=layer.min_v_mem - 1),
        "no lower clip": other(min_v_mem=-32768),
        "return to zero": other(reset="zero"),
        "weights cut off, not rounded": other(weight=np.trunc(given.weight * np.float32(layer.scale)).astype(np.int8)),
        "127 for 128 in the scale": same_ends,
    }


def _step_by_step(layer: ChipLayer, silicon: Silicon, *, strict: bool = False, drain: bool = False) -> Replay:
    """A layer in plain numpy, for rules that the simulator does not have."""
    f, height, width = layer.output_shape
    _, _, ky, kx = layer.weight.shape
    (sy, sx), (py, px) = layer.stride, layer.padding
    weight = layer.weight.astype(np.int32)
    fires_at = layer.threshold + int(strict)
    found = np.zeros((len(silicon.recordings), f, height, width), np.int64)
    for counts, events in zip(found, silicon.recordings, strict=True):
        v = np.full((f, height, width), layer.v_init, np.int32)
        for x, y, _, p in events.tolist():
            y0, y1 = max(-(-(y + py - ky + 1) // sy), 0), min((y + py) // sy, height - 1)
            x0, x1 = max(-(-(x + px - kx + 1) // sx), 0), min((x + px) // sx, width - 1)
            if y1 < y0 or x1 < x0:
                continue
            rows, columns = y + py - sy * np.arange(y0, y1 + 1), x + px - sx * np.arange(x0, x1 + 1)
            here = v[:, y0 : y1 + 1, x0 : x1 + 1]
            here += weight[:, p][:, rows[:, None], columns]
            np.maximum(here, layer.min_v_mem, out=here)
            spikes = here // layer.threshold * (here > 0) if drain else (here >= fires_at).astype(np.int32)
            if layer.reset == "zero":
                here[spikes > 0] = 0
            else:
                here -= layer.threshold * spikes
            counts[:, y0 : y1 + 1, x0 : x1 + 1] += spikes
    return Replay(silicon.names, silicon.counts, found)


def rows_of(agreements: dict[str, Replay]) -> Sequence[dict[str, str | float]]:
    """A row for each rule."""
    return [{"rule": name, "difference": a.difference, "neurons exact": a.exact} for name, a in agreements.items()]
