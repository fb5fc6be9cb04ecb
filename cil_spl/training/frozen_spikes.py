"""Spikes of layers that no longer learn, made once and kept: what trains after them need not run them again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cil_spl.base import memory
from cil_spl.data.batches import Batch, Batches
from cil_spl.models.forward import forward
from cil_spl.models.net import Net, evaluating
from cil_spl.models.parts import Part, after, upto
from cil_spl.training.context import TrainingContext

BITS = {torch.uint8: 8, torch.int16: 16, torch.int32: 32, torch.int64: 64}
SHARE = 4  # of free memory, at most one part in so many


class FrozenSpikes:
    """The spikes that the last layer of a network makes of each recording or sample of a set, a bit per time step.

    Args:
        net: its output are neurons that spike at most once per step.
        batches: of the whole set, unchanged from epoch to epoch.
        bins: time steps.
        device: where the network runs.
        before: spikes that enter the network, where they are kept already; None for those of the batches.
    """

    def __init__(
        self, net: Net, batches: Batches, bins: int, device: torch.device, before: FrozenSpikes | None = None
    ) -> None:
        shape = net.plan.shapes()[net.plan.output]
        self.bins, self.device = bins, device
        # Features of a pixel together in memory, as a forward pass has them: sums come in the same order then.
        self.last = (0, *range(2, 1 + len(shape)), 1)  # B C H W -> B H W C
        self.packed = torch.zeros(len(batches.data), *shape[1:], shape[0], dtype=_type(bins))
        with torch.no_grad(), evaluating(net):
            for batch in batches.epoch(0):
                given = batch.frames.to(device) if before is None else before.take(torch.from_numpy(batch.index))
                spikes, _, _ = forward(net, given, ends=False)
                bits = spikes.to("cpu", self.packed.dtype)
                for t in range(1, bins):
                    bits[0] |= bits[t] << t
                self.packed[torch.from_numpy(batch.index)] = bits[0].permute(self.last)

    def take(self, index: Tensor) -> Tensor:
        """Spikes of some of the set, none where the index is -1. Shapes: (B,) → (T, B, ...)."""
        packed = self.packed[index.clamp(min=0)].to(self.device)
        place = torch.arange(self.bins, dtype=packed.dtype, device=self.device).view(-1, *[1] * packed.dim())
        spikes = ((packed >> place) & 1).float()  # B H W C -> T B H W C
        spikes[:, index < 0] = 0
        return spikes.movedim(-1, 2)  # T B H W C -> T B C H W


@dataclass(frozen=True)
class Kept:
    """What a part of a network reads, kept for all epochs in which it trains.

    Attributes:
        rest: the part alone.
        train, val: spikes that enter it, of both sets.
    """

    rest: Net
    train: FrozenSpikes
    val: FrozenSpikes

    def take(self, batch: Batch, train: bool) -> Tensor:
        """Spikes of a batch of the training set, or of the validation set. Shape (T, B, ...)."""
        return (self.train if train else self.val).take(torch.from_numpy(batch.index))


def keep(ctx: TrainingContext, net: Net, start: str, part: Part, before: Kept | None = None) -> Kept | None:
    """The spikes that a layer gives to a part after it; None where they cannot be kept.

    Args:
        ctx: the run; its data are not augmented.
        net: the spiking network.
        start: the layer of neurons that the part reads.
        part: which trains.
        before: what was kept for the part before this one; None for nothing.
    """
    data, bins = ctx.experiences[0], ctx.frames.bins
    front, rest = upto(net, start), after(net, start, part)
    once = ctx.neuron.get("spike_fn") == "single"
    if rest is None or not once or not fits(front, len(data.train) + len(data.val), bins):
        return None
    known: list[FrozenSpikes | None] = [None, None]
    if before is not None and before.rest.plan.output == start:
        front, known = before.rest, [before.train, before.val]
    made = [
        FrozenSpikes(front, ctx.batches(one, train=False), bins, ctx.device, there)
        for one, there in zip((data.train, data.val), known, strict=True)
    ]
    return Kept(rest, *made)


def fits(net: Net, n: int, bins: int) -> bool:
    """Whether the spikes of ``n`` recordings or samples may be kept: bits enough, and memory."""
    if bins > max(BITS.values()):
        return False
    need = n * math.prod(net.plan.shapes()[net.plan.output]) * torch.empty((), dtype=_type(bins)).element_size()
    free = memory.free_bytes()
    return free is not None and need <= free // SHARE


def _type(bins: int) -> torch.dtype:
    """The smallest whole number with a bit for each step; the last may be its sign."""
    return next(kind for kind, bits in BITS.items() if bins <= bits)
