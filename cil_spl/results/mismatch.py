"""The mismatch, taken apart: how far time steps and the chip agree, and which of the chip's rules parts them.

Both work on the same recordings. Compared are spike counts of whole recordings, neuron by neuron (before pooling):

    difference(l)  = sum |n - c| / sum c        signed(l) = sum (n - c) / sum c       over neurons and recordings

n = spikes of neurons in time steps, c = spikes on the chip, l = a layer (or all of them together).

The budget walks from the float network in time steps to the chip and changes one thing at a time (:data:`LINKS`). Its
last link is the chip itself, spike for spike, or an error. What a change is said to cost depends on its place in the
walk: differences do not add up, and a change can make one worse that a later change makes good again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from cil_spl.base.errors import RequestError
from cil_spl.chip import rules
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.quantize import check_neuron, integer_twin
from cil_spl.chip.simulator import simulate as run_chip
from cil_spl.data.batches import check_frames
from cil_spl.data.events import Recordings
from cil_spl.data.frames import bin_edges, check_bins, frames
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.net import Net
from cil_spl.models.stages import stages
from cil_spl.targets.deployed import DeployedNetwork

BINS = (1, 2, 4, 8, 10, 20, 50, 100, 200, 500, 1000)
AT_A_TIME = 32  # recordings
NO_BOUND = -32768

# Each link changes one thing; from "lower clip" on, the events of a bin come in an order drawn at random.
LINKS = {
    "float": "the trained network, in time steps",
    "pooling": "sums after the neurons; an odd map loses its edge, as before",
    "weight rounding": "8-bit weights, whole thresholds",
    "lower clip": "the bound holds at every input event, not at a bin's end",
    "binning": "a neuron may fire at every input event, not at a bin's end",
    "one event out": "one event out for one event in; the rest waits",
    "order": "no order drawn, that in which events were made: the chip",
}


@dataclass(frozen=True)
class Agreement:
    """Spike counts of one network held against another's, over L layers and n recordings.

    Attributes:
        layers: their names.
        absolute: sum of the absolute differences over neurons and recordings. int64 ``[L]``.
        signed: sum of the differences. int64 ``[L]``.
        events: spikes of the other one; what differences are a fraction of. int64 ``[L]``.
        equal, neurons: neurons with exactly the same count, and all; each recording counts anew. int64 ``[L]``.
        same: recordings with the same answer; no answer is one too. NaN where the task has no answers.
        right: recordings that the first network has right, likewise.
        n: recordings.
    """

    layers: tuple[str, ...]
    absolute: np.ndarray
    signed: np.ndarray
    events: np.ndarray
    equal: np.ndarray
    neurons: np.ndarray
    same: float
    right: float
    n: int

    def __add__(self, other: Agreement) -> Agreement:
        """Two sets of recordings as one."""
        sums = (getattr(self, name) + getattr(other, name) for name in list(self.__dataclass_fields__)[1:])
        return Agreement(self.layers, *sums)

    def difference(self, layer: int | None = None) -> float:
        """Sum of absolute differences as a fraction of the other's spikes, in a layer or in all."""
        return self._share(self.absolute, self.events, layer)

    def bias(self, layer: int | None = None) -> float:
        """The same with its sign: negative where the first network spikes less."""
        return self._share(self.signed, self.events, layer)

    def exact(self, layer: int | None = None) -> float:
        """Fraction of neurons with exactly the same count."""
        return self._share(self.equal, self.neurons, layer)

    @property
    def same_answers(self) -> float:
        return self.same / self.n

    @property
    def right_answers(self) -> float:
        return self.right / self.n

    @staticmethod
    def _share(part: np.ndarray, of: np.ndarray, layer: int | None) -> float:
        at = slice(None) if layer is None else slice(layer, layer + 1)
        return float(part[at].sum() / max(1, of[at].sum()))


@dataclass(frozen=True)
class Link:
    """A link of the budget: how far it is from the chip, and from the link before (None for the first)."""

    name: str
    chip: Agreement
    before: Agreement | None


@dataclass(frozen=True)
class Mismatch:
    """What :func:`take_apart` found.

    Attributes:
        by_bins: the integers in time steps against the chip, by number of bins.
        budget: from the float network in time steps to the chip.
        besides: changes that lie on no way between the two, by what they are; against the chip, or, without a lower
            bound, time steps against the chip without one.
        edges: share of a layer's spikes on the chip that lie on the edge of an odd map and are dropped; only layers
            with such an edge.
        bins: of the budget.
    """

    by_bins: Mapping[int, Agreement]
    budget: Sequence[Link]
    besides: Mapping[str, Agreement]
    edges: Mapping[str, float]
    bins: int

    @property
    def chip(self) -> Agreement:
        """The chip against itself: its right answers, its spikes."""
        return self.budget[-1].chip


def compare(
    layers: Sequence[str],
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    decisions: tuple[np.ndarray | None, np.ndarray | None],
    target: np.ndarray,
) -> Agreement:
    """Hold spike counts against each other.

    Args:
        ours, theirs: for each layer ``[B, f, y, x]``.
        decisions: of both. Shape ``[B]`` each; None where the task has none.
    """

    def sums(of: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
        return np.array([int(of(a, b)) for a, b in zip(ours, theirs, strict=True)], np.int64)

    return Agreement(
        layers=tuple(layers),
        absolute=sums(lambda a, b: np.abs(a - b).sum()),
        signed=sums(lambda a, b: (a - b).sum()),
        events=sums(lambda a, b: b.sum()),
        equal=sums(lambda a, b: (a == b).sum()),
        neurons=sums(lambda a, b: a.size),
        same=_equal(decisions[0], decisions[1]),
        right=_equal(decisions[0], target),
        n=len(target),
    )


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> float:
    return math.nan if a is None or b is None else int((a == b).sum())


def take_apart(
    network: DeployedNetwork, chip: ChipNetwork, recordings: Recordings, bins: Sequence[int] = BINS, seed: int = 0
) -> Mismatch:
    """Run the recordings in time steps, on the chip, and by the rules in between.

    Args:
        network: of a run, see :func:`cil_spl.load.load`; its frames say how bins are cut, and how many the budget
            has.
        chip: its chip network.
        bins: numbers of bins at which time steps and chip are compared.
        seed: of the orders that are drawn.

    Raises:
        RequestError: no recordings, a number of bins that makes no sense, or neurons that no chip has.
        RuntimeError: the last link is not the chip: a defect.
    """
    cut = network.config.frames
    for number in (*bins, cut.bins):
        check_bins(number, cut.by, cut.duration_us)
        at_once = min(AT_A_TIME, len(recordings))
        check_frames(number, at_once, recordings.input_shape, "--recordings", network.plan.largest)
    for stage in stages(network.plan):
        check_neuron(network.net.get_submodule(stage.neuron), stage)
    if not len(recordings):
        raise RequestError("the split has no recordings")
    work = _Work(network, chip, seed)
    by_bins: dict[int, Agreement] = {}
    to_chip: dict[str, Agreement] = {}
    to_before: dict[str, Agreement] = {}
    besides: dict[str, Agreement] = {}
    at_edges = np.zeros((2, len(chip.layers)))
    for first in range(0, len(recordings), AT_A_TIME):
        work.take(recordings, np.arange(first, min(first + AT_A_TIME, len(recordings))))
        for number in bins:
            _add(by_bins, number, work.against(work.rule(work.steps, number), work.truth))
        before: list[np.ndarray] | None = None
        for name in LINKS:
            counts = work.link(name)
            _add(to_chip, name, work.against(counts, work.truth))
            if before is not None:
                _add(to_before, name, work.against(counts, before))
            before = counts
        for name, (counts, reference) in work.others().items():
            _add(besides, name, work.against(counts, reference))
        at_edges += work.at_edges()
    return Mismatch(
        by_bins=by_bins,
        budget=[Link(name, to_chip[name], to_before.get(name)) for name in LINKS],
        besides=besides,
        edges={
            layer.name: float(lost / max(1, all_of_them))
            for layer, lost, all_of_them in zip(chip.layers, *at_edges, strict=True)
            if any(n % p for d in layer.destinations for n, p in zip(layer.output_shape[1:], d.pool, strict=True))
        },
        bins=int(cut.bins),
    )


def _add(found: dict[Any, Agreement], key: Any, more: Agreement) -> None:
    found[key] = found[key] + more if key in found else more


class _Work:
    """A batch of recordings at a time, through every network of the analysis."""

    def __init__(self, network: DeployedNetwork, chip: ChipNetwork, seed: int) -> None:
        self.chip, self.plan, self.net, self.task = chip, network.plan, network.net, network.task
        self.frames, self.seed, self.die = network.config.frames, seed, getattr(network.target, "die", None)
        single = network.config.model.neuron.spike_fn == "single"
        self.steps = replace(rules.STEPS, most=1) if single else rules.STEPS
        self.summed = integer_twin(_in_float(self.net, chip), self.net)
        self.unbounded = replace(chip, layers=tuple(replace(layer, min_v_mem=NO_BOUND) for layer in chip.layers))

    def take(self, recordings: Recordings, index: np.ndarray) -> None:
        self.first, self.target = int(index[0]), recordings.target[index]
        self.events, self.offsets = recordings.take(index)
        self.sensor_size = recordings.sensor_size
        self.truth = self.on_chip(self.chip)

    def edges(self, bins: int) -> np.ndarray:
        return bin_edges(self.events, self.offsets, bins, self.frames.by, self.frames.duration_us)

    def rule(self, rule: rules.Rule, bins: int | None = None, chip: ChipNetwork | None = None) -> list[np.ndarray]:
        edges = self.edges(bins or self.frames.bins)
        return rules.counts(chip or self.chip, self.events, self.offsets, edges, rule, (self.seed, self.first))

    def on_chip(self, chip: ChipNetwork, **options: Any) -> list[np.ndarray]:
        answer = run_chip(chip, self.events, self.offsets, record=("counts",), **options)
        assert answer.layer_counts is not None
        return [counts[:, 0].astype(np.int64) for counts in answer.layer_counts]

    def link(self, name: str) -> list[np.ndarray]:
        clip = replace(self.steps, clip_each=True)
        fire = replace(clip, fire_each=True)
        if name in ("float", "pooling"):
            return self.in_steps(self.net if name == "float" else self.summed)
        if name != "order":
            by_name = {"weight rounding": self.steps, "lower clip": clip, "binning": fire}
            return self.rule(by_name.get(name, replace(fire, most=1)))
        counts = self.rule(rules.CHIP)
        for layer, ours, chips in zip(self.chip.layers, counts, self.truth, strict=True):
            if not np.array_equal(ours, chips):
                raise RuntimeError(f"layer {layer.name}: the budget's last link is not the chip")
        return counts

    @torch.no_grad()
    def in_steps(self, net: Net) -> list[np.ndarray]:
        pictures = frames(self.events, self.offsets, self.edges(self.frames.bins), self.sensor_size)
        names = [stage.neuron for stage in stages(self.plan)]
        _, _, spikes = forward(net, torch.from_numpy(pictures), record=names)
        summed = (spikes[name].double().sum(dim=0).numpy() for name in names)  # T B ... -> B ...
        return [
            np.rint(counts).astype(np.int64).reshape(len(counts), *layer.output_shape)
            for counts, layer in zip(summed, self.chip.layers, strict=True)
        ]

    def others(self) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
        found = {
            "another order of the neurons that one event fires": (
                self.on_chip(self.chip, order_seed=self.seed),
                self.truth,
            ),
            "events of odd maps' edges kept": (self.rule(replace(rules.CHIP, keep_edges=True)), self.truth),
            "no lower bound: time steps against the chip": (
                self.rule(self.steps, chip=self.unbounded),
                self.on_chip(self.unbounded),
            ),
        }
        if self.die is not None:
            found["the run's die"] = (self.on_chip(self.chip, die=self.die), self.truth)
        return found

    def against(self, ours: list[np.ndarray], theirs: list[np.ndarray]) -> Agreement:
        decisions = [self.task.decide(rules.output_counts(self.chip, counts[-1]), None) for counts in (ours, theirs)]
        names = [layer.name for layer in self.chip.layers]
        return compare(names, ours, theirs, (decisions[0], decisions[1]), self.target)

    def at_edges(self) -> np.ndarray:
        """Spikes that pooling drops, and all of them, by layer. Shape (2, L)."""
        found = np.zeros((2, len(self.chip.layers)))
        for k, (layer, counts) in enumerate(zip(self.chip.layers, self.truth, strict=True)):
            found[1, k] = counts.sum()
            for destination in layer.destinations:
                _, height, width = layer.output_shape
                py, px = destination.pool
                found[0, k] = counts.sum() - counts[:, :, : height // py * py, : width // px * px].sum()
        return found


def _in_float(net: Net, chip: ChipNetwork) -> ChipNetwork:
    """The chip's wiring with the float network's numbers, not to be run on a chip."""
    layers, plan, net = [], net.plan, fold(net)
    for stage, layer in zip(stages(plan), chip.layers, strict=True):
        weighted, neuron = cast(Any, net.get_submodule(stage.weight.name)), cast(Any, net.get_submodule(stage.neuron))
        weight = weighted.weight.detach().float().numpy().reshape(layer.weight.shape) / stage.fold
        threshold, low, init = (float(x) for x in (neuron.spike_threshold, neuron.min_v_mem, neuron.v_init))
        layers.append(replace(layer, weight=weight, threshold=threshold, min_v_mem=low, v_init=init))  # type: ignore[arg-type]
    return replace(chip, layers=tuple(layers))
