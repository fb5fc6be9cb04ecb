"""Batches: of recordings, the same events, after augmentation, as a flat list for a chip and as frames for a network;
of samples, their values at each time step.

The only place where data meets torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from cil_spl.base import memory
from cil_spl.base.errors import RequestError
from cil_spl.data.augment import Augment, augment_events
from cil_spl.data.augment_images import AugmentImages
from cil_spl.data.events import Data, Recordings
from cil_spl.data.frames import bin_edges, check_bins, frames
from cil_spl.data.options import Kind, encoding
from cil_spl.data.samples import Samples

_COPIES = 4  # of a layer in an evaluation by sinabs: currents, spikes, states, and what the next layer makes of them


def check_frames(bins: int, n: int, input_shape: tuple[int, int, int], key: str, layer_values: int = 0) -> None:
    """Refuse a batch whose frames, and the network's largest layer, are larger than the memory that is free.

    Args:
        n: recordings of the batch.
        input_shape: (C, H, W) of what a network gets.
        key: of the config that sets the size of the batch.
        layer_values: of the largest layer, for one recording in one bin.

    Raises:
        RequestError: says how much it would be, and what would fit.
    """
    free = memory.free_bytes()
    one = (math.prod(input_shape) + layer_values) * n * 4  # bytes of a bin, float32
    if free is not None and bins * one > free:
        channels, height, width = input_shape
        most = f"at most {free // one} bins fit" if free >= one else "not even one bin fits"
        layer = f" and {layer_values} values of the network's largest layer" if layer_values else ""
        raise RequestError(
            f"frames.bins={bins}: the frames of {n} recording{'s' if n > 1 else ''} ({width} x {height} x {channels} "
            f"values in each bin){layer} would take {bins * one / 1e9:.3g} GB, and {free / 1e9:.3g} GB of memory are "
            f"free; {most}" + (f", or lower {key}" if n > 1 else "")
        )


def most_at_once(batch_size: int, bins: int, input_shape: tuple[int, int, int], layer_values: int) -> int:
    """How many recordings of a batch are evaluated at once: all of them, or as many as half of the free memory holds.

    Args:
        layer_values: of the network's largest layer, for one recording in one bin.

    Returns:
        from 1 to ``batch_size``.
    """
    free = memory.free_bytes()
    if free is None:
        return batch_size
    one = 4 * bins * (math.prod(input_shape) + _COPIES * layer_values)  # bytes of a recording, float32
    return max(1, min(batch_size, free // 2 // one))


class FramesConfig(Protocol):
    """What ``conf/config.yaml`` keeps under ``frames``."""

    @property
    def bins(self) -> int: ...
    @property
    def by(self) -> str: ...
    @property
    def duration_us(self) -> int | None: ...
    @property
    def encode(self) -> str | None: ...


@dataclass(frozen=True)
class Batch:
    """B recordings, or B samples.

    Attributes:
        events: flat array of dtype ``EVENT``, after augmentation; None for samples. Shape ``[N]``.
        offsets: recording ``b`` is ``events[offsets[b]:offsets[b + 1]]``; None for samples. int64 ``[B + 1]``.
        edges_us: bin edges in microseconds; None for samples, which have no time. int64 ``[B, T + 1]``.
        frames: counts of these events and no others, or the samples' values at each time step; to be read only, since
            steps may share their memory. float32 ``[T, B, C, H, W]``.
        target: class numbers, int64 ``[B]``, or float32 of any shape ``[B, ...]``; 0 where padded.
        mask: False marks padding, which is empty and does not count. bool ``[B]``.
        index: place of each in the set, -1 where padded. int64 ``[B]``.
        share: by what a mean over this batch is multiplied so that the mean over ranks is that over all that the ranks
            have; 1 where every rank has as many.
    """

    events: np.ndarray | None
    offsets: np.ndarray | None
    edges_us: np.ndarray | None
    frames: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    index: np.ndarray
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.index)

    def recorded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Events, offsets and bin edges, for what takes recordings and nothing else.

        Raises:
            TypeError: these are samples.
        """
        if self.events is None or self.offsets is None or self.edges_us is None:
            raise TypeError("a batch of samples has no events")
        return self.events, self.offsets, self.edges_us


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each of them made while the one before is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as maker:
        coming = maker.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = maker.submit(next, batches, None)
            yield batch


def augment_of(kind: Kind, augment: Any) -> Augment | AugmentImages | None:
    """The changes that the keys of ``dataset.augment`` ask for, of data of this kind."""
    return AugmentImages.from_config(augment) if kind == "values" else Augment.from_config(augment)


class Batches:
    """A set of recordings or samples, batch by batch, the same for the same seed and epoch.

    Args:
        data: the set.
        batch_size: recordings or samples per batch, on each rank.
        frames: bins, and for recordings by and duration_us of ``bin_edges``, for samples how they are encoded:
            ``repeat`` gives the values at every time step, ``once`` at the first, and zeros after it.
        shuffle: draw a new order each epoch, from (seed, epoch); otherwise the order of the set.
        seed: of the order and of the augmentation.
        augment: changes to the events or images, or the keys of ``dataset.augment``, drawn from (seed, epoch, place in
            the set); None for none.
        drop_last: leave out a last batch that is not full.
        pad: fill the last batch up to ``batch_size`` with padding.
        rank, world: this process takes every ``world``-th of the order from ``rank``. All ranks make the same number
            of equally large batches, so some may end with one that is padded, whatever ``pad``.
        limit: at most so many batches per epoch; None for all.
        layer_values: of the largest layer of a network that is evaluated, for one recording in one bin. Batches are
            then smaller where the memory asks for it; what each recording gives is the same. None for training, whose
            steps depend on the size.

    Raises:
        RequestError: the set is empty, a size makes no sense, or the frames are not for such data.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        frames: FramesConfig,
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: Augment | AugmentImages | Mapping[str, Any] | None = None,
        drop_last: bool = False,
        pad: bool = False,
        rank: int = 0,
        world: int = 1,
        limit: int | None = None,
        layer_values: int | None = None,
    ) -> None:
        check_bins(frames.bins, frames.by, frames.duration_us, frames.encode)
        kind: Kind = "values" if isinstance(data, Samples) else "events"
        self.encode = encoding(kind, frames.encode, frames.by, frames.duration_us)
        if len(data) == 0:
            raise RequestError("the set is empty, so there are no batches to make of it")
        if batch_size < 1:
            raise RequestError(f"trainer.batch_size={batch_size}: needs at least 1")
        if limit is not None and limit < 1:
            raise RequestError(f"trainer.limit_batches={limit}: needs at least 1, or null for all")
        if not 0 <= rank < world:
            raise RequestError(f"rank {rank} of {world}: allowed is 0..{world - 1}")
        if layer_values is not None:
            batch_size = most_at_once(batch_size, frames.bins, data.input_shape, layer_values)
        self.data, self.batch_size, self.frames = data, batch_size, frames
        self.shuffle, self.seed, self.augment = shuffle, seed, augment_of(kind, augment)
        self.drop_last, self.pad, self.rank, self.world, self.limit = drop_last, pad, rank, world, limit
        if len(self) == 0:
            raise RequestError(
                f"trainer.batch_size={batch_size} on {world} rank(s) is more than the {len(data)} recordings or "
                "samples of the set, and an unfilled last batch is left out: choose a smaller one"
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        if self.drop_last:
            n = len(self.data) // self.world // self.batch_size
        else:
            n = -(-len(self.data) // (self.world * self.batch_size))
        return n if self.limit is None else min(n, self.limit)

    def epoch(self, n: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``n``."""
        order = np.arange(len(self.data))
        if self.shuffle:
            order = np.random.default_rng([self.seed, n]).permutation(len(order))
        order = np.concatenate([order, np.full(-len(order) % self.world, -1)])
        for i in range(len(self)):
            of_all_ranks = order[i * self.batch_size * self.world : (i + 1) * self.batch_size * self.world]
            index = of_all_ranks[self.rank :: self.world]
            share = self.world * int((index >= 0).sum()) / max(1, int((of_all_ranks >= 0).sum()))
            if self.pad:
                index = np.concatenate([index, np.full(self.batch_size - len(index), -1)])
            yield self._batch(index, n, share)

    def _batch(self, index: np.ndarray, epoch: int, share: float) -> Batch:
        real = index >= 0
        seeds = [(self.seed, epoch, int(i)) for i in np.maximum(index, 0)]
        target = self.data.target[index]
        target[~real] = 0
        events = offsets = edges_us = None
        if isinstance(self.data, Samples):
            shown = self._steps(self.data, index, seeds)
        else:
            events, offsets, edges_us = self._events(self.data, index, seeds)
            shown = torch.from_numpy(frames(events, offsets, edges_us, self.data.sensor_size))
        return Batch(
            events=events,
            offsets=offsets,
            edges_us=edges_us,
            frames=shown,
            target=torch.from_numpy(target),
            mask=torch.from_numpy(real),
            index=index.astype(np.int64),
            share=share,
        )

    def _events(
        self, recordings: Recordings, index: np.ndarray, seeds: list[tuple[int, int, int]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        events, offsets = recordings.take(index)
        if isinstance(self.augment, Augment):
            events, offsets = augment_events(events, offsets, recordings.sensor_size, self.augment, seeds)
        return events, offsets, bin_edges(events, offsets, self.frames.bins, self.frames.by, self.frames.duration_us)

    def _steps(self, samples: Samples, index: np.ndarray, seeds: list[tuple[int, int, int]]) -> torch.Tensor:
        augment = self.augment if isinstance(self.augment, AugmentImages) else None
        values = torch.from_numpy(samples.take(index, augment, seeds))  # B C H W
        values = values.contiguous(memory_format=torch.channels_last)
        if self.encode == "repeat":  # a view: one copy in memory, whatever T is
            return values.expand(self.frames.bins, *values.shape)  # T B C H W
        n, c, height, width = values.shape
        steps = torch.zeros(self.frames.bins, n, height, width, c).permute(0, 1, 4, 2, 3)  # T B H W C -> T B C H W
        steps[0] = values
        return steps
