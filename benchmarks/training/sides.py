"""What is compared: one step of BPTT, forward and backward, by this project, by bare convolutions, and by its peers.

A side is made of a ``Problem`` (a network with its weights, and a batch) and gives a step: a function that goes forward
and backward once, and leaves no gradient behind. All sides have the same layers, weights, frames and kind of loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil_spl.chip.rounding import CHIP
from cil_spl.data.batches import Batch, Batches
from cil_spl.data.events import EVENT, from_list
from cil_spl.data.options import Frames
from cil_spl.methods import bptt
from cil_spl.models import neurons
from cil_spl.models.build import build, plan_from
from cil_spl.models.forward import forward
from cil_spl.models.init import scale_to_rate
from cil_spl.models.net import Net
from cil_spl.models.options import Backend
from cil_spl.models.presets import PRESETS
from cil_spl.tasks.classification import classification
from cil_spl.training.context import TrainingContext
from cil_spl.training.options import Trainer

Step = Callable[[], float]
DENSITY = 0.02  # of random frames: the share of pixels with an event
CLASSES = 10
SCALE = 0.25  # of the counts before the softmax, as method=bptt has it
OURS, LEAN, FLOOR, FLOOR_NCHW = "ours", "ours, lean", "floor, channels last", "floor, NCHW"


@dataclass(frozen=True)
class Problem:
    """A network and a batch; frames as the project's own batches lay them."""

    net: Net
    batch: Batch

    @cached_property
    def channels_last(self) -> Tensor:
        """The frames with the channels last in memory. Shape (T, B, C, H, W)."""
        return relaid(self.batch.frames, torch.channels_last)

    @cached_property
    def ctx(self) -> TrainingContext:
        """As much of a run as a loss needs."""
        return TrainingContext(
            plan=self.net.plan,
            experiences=(),
            task=classification(),
            neuron={},
            precision=CHIP,
            trainer=Trainer(),
            frames=Frames(bins=len(self.batch.frames)),
            seed=0,
            device=torch.device("cpu"),
            folder=Path(),
            log=lambda *_: None,
            warn=lambda _: None,
        )

    def layers(self, spiking: Callable[[], nn.Module]) -> list[nn.Module]:
        """Copies of the network's layers, ``spiking`` in place of its neurons."""
        return [spiking() if neurons.is_spiking(m) else copy.deepcopy(m) for m in self.net.children()]

    def loss(self, counts: Tensor) -> Tensor:
        """Shape: counts (B, K), summed over the steps."""
        return F.cross_entropy(SCALE * counts, self.batch.target)


def random_problem(bins: int, batch: int = 32, width: float = 1.0, size: int = 34, seed: int = 0) -> Problem:
    """The quickstart layers, their features times ``width``, on random frames of ``size`` x ``size`` pixels."""
    generator = torch.Generator().manual_seed(seed)
    frames = (torch.rand(bins, batch, 2, size, size, generator=generator) < DENSITY).float()
    target = torch.randint(0, CLASSES, (batch,), generator=generator)
    every = np.arange(batch)
    one = Batch(None, None, None, as_batches_lay(frames), target, torch.ones(batch, dtype=torch.bool), every)
    return Problem(network(one.frames, width, size, seed), one)


def network(frames: Tensor, width: float = 1.0, size: int = 34, seed: int = 0) -> Net:
    """Fresh quickstart layers, scaled so that they fire on such frames."""
    torch.manual_seed(seed)
    plan = plan_from("quickstart", widened(PRESETS["quickstart"], width), (2, size, size), CLASSES)
    net = build(plan, family="snn", neuron={})
    scale_to_rate(net, frames[:10])
    return net


def widened(blocks: Sequence[Mapping[str, Any]], factor: float) -> list[dict[str, Any]]:
    """The blocks with so many times the features."""
    return [{**b, "conv": max(1, round(factor * b["conv"]))} if "conv" in b else dict(b) for b in blocks]


def as_batches_lay(frames: Tensor) -> Tensor:
    """The frames in the order in memory in which :class:`Batches` gives its own."""
    events = np.zeros(1, EVENT)
    tiny = Batches(from_list([events], [0], (8, 8, 2), ["0"]), 1, Frames(bins=2))
    made = next(tiny.epoch(0)).frames
    return frames if made.is_contiguous() else relaid(frames, torch.channels_last)


def relaid(frames: Tensor, order: torch.memory_format) -> Tensor:
    """Shape: (T, B, C, H, W)."""
    return frames.flatten(0, 1).contiguous(memory_format=order).unflatten(0, frames.shape[:2])  # T B -> (T B) -> T B


def ours(problem: Problem, lean: bool = False) -> Step:
    """The project's own step, as ``method=bptt`` takes it."""
    net = copy.deepcopy(problem.net).compute_by(Backend(recompute=lean))
    fire = bptt.output_neurons(net, True)

    def step() -> float:
        torch.use_deterministic_algorithms(True, warn_only=True)  # as a run has it
        out, _, _ = forward(net, problem.batch.frames, fire=fire, ends=False)
        loss = bptt.loss_of(problem.ctx, out, problem.batch, "counts", SCALE)
        loss.backward()
        net.zero_grad(set_to_none=True)
        return loss.item()

    return step


def floor(problem: Problem, order: torch.memory_format) -> Step:
    """The same layers with rectifiers in place of neurons, all steps in the batch axis."""
    net = nn.Sequential(*problem.layers(nn.ReLU)).to(memory_format=order)  # type: ignore[call-overload]
    frames = relaid(problem.batch.frames, order).flatten(0, 1)
    steps = problem.batch.frames.shape[:2]
    return _step(net, lambda: net(frames).unflatten(0, steps).sum(0), problem)  # (T B) K -> T B K -> B K


def peer(problem: Problem, make: peers.Make, compiled: bool = False) -> Step:
    """A step of another library; ``compiled`` by torch, one time for these shapes."""
    net, reset = make(problem)
    run: Any = torch.compile(net, dynamic=False) if compiled else net
    frames = problem.channels_last

    def counts() -> Tensor:
        reset()
        return run(frames)

    return _step(net, counts, problem)


def _step(net: nn.Module, counts: Callable[[], Tensor], problem: Problem) -> Step:
    def step() -> float:
        torch.use_deterministic_algorithms(False)  # torch's own default
        loss = problem.loss(counts())
        loss.backward()
        net.zero_grad(set_to_none=True)
        return loss.item()

    return step


def make_side(name: str, problem: Problem) -> Step:
    """The side of that name; ``NAME, compiled`` of a peer."""
    if name in (OURS, LEAN):
        return ours(problem, lean=name == LEAN)
    if name in (FLOOR, FLOOR_NCHW):
        return floor(problem, torch.channels_last if name == FLOOR else torch.contiguous_format)
    plain = name.removesuffix(", compiled")
    return peer(problem, peers.PEERS[plain], compiled=name != plain)


def all_sides(compiled: bool = False) -> list[str]:
    """Ours, the floors, and the peers that are installed."""
    found = peers.installed()
    return [OURS, FLOOR, FLOOR_NCHW, *found, *(f"{name}, compiled" for name in found if compiled)]


def with_batch(problem: Problem, batch: Batch) -> Problem:
    """The same network on another batch."""
    return replace(problem, batch=batch)
