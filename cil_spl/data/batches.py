"""Batches of recordings: the same events, after augmentation, as a flat list for a chip and as frames for a network.

The only place where data meets torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from cil_spl.base import process
from cil_spl.base.errors import RequestError
from cil_spl.data.augment import Augment, augment_events
from cil_spl.data.events import Recordings
from cil_spl.data.frames import bin_edges, check_bins, frames


def check_frames(bins: int, n: int, sensor_size: tuple[int, int, int], key: str) -> None:
    """Refuse a batch whose frames are larger than this machine's memory.

    Args:
        n: recordings of the batch.
        sensor_size: (width, height, polarities) of what a network gets.
        key: of the config that sets the size of the batch.

    Raises:
        RequestError: says how much it would be, and what would fit.
    """
    has = process.memory_bytes()
    one = math.prod(sensor_size) * n * 4  # bytes of a bin, float32
    if has is not None and bins * one > has:
        width, height, polarities = sensor_size
        most = f"at most {has // one} bins fit" if has >= one else "not even one bin fits"
        raise RequestError(
            f"frames.bins={bins}: the frames of {n} recording{'s' if n > 1 else ''} ({width} x {height} x {polarities} "
            f"values in each bin) would take {bins * one / 1e9:.3g} GB, and this machine has {has / 1e9:.3g} GB of "
            f"memory; {most}" + (f", or lower {key}" if n > 1 else "")
        )


class FramesConfig(Protocol):
    """What ``conf/config.yaml`` keeps under ``frames``."""

    @property
    def bins(self) -> int: ...
    @property
    def by(self) -> str: ...
    @property
    def duration_us(self) -> int | None: ...


@dataclass(frozen=True)
class Batch:
    """B recordings.

    Attributes:
        events: flat array of dtype ``EVENT``, after augmentation. Shape ``[N]``.
        offsets: recording ``b`` is ``events[offsets[b]:offsets[b + 1]]``. int64 ``[B + 1]``.
        edges_us: bin edges in microseconds. int64 ``[B, T + 1]``.
        frames: counts of these events and no others. float32 ``[T, B, C, H, W]``.
        target: class numbers, 0 where padded. int64 ``[B]``.
        mask: False marks padding, a recording without events that does not count. bool ``[B]``.
        index: place of each recording in the set, -1 where padded. int64 ``[B]``.
        share: by what a mean over this batch is multiplied so that the mean over ranks is that over all of the ranks'
            recordings; 1 where every rank has as many.
    """

    events: np.ndarray
    offsets: np.ndarray
    edges_us: np.ndarray
    frames: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    index: np.ndarray
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.index)


class Batches:
    """A set of recordings, batch by batch, the same for the same seed and epoch.

    Args:
        recordings: the set.
        batch_size: recordings per batch, on each rank.
        frames: bins, by and duration_us of ``bin_edges``.
        shuffle: draw a new order each epoch, from (seed, epoch); otherwise the order of the set.
        seed: of the order and of the augmentation.
        augment: changes to the events, or the keys of ``dataset.augment``, drawn from (seed, epoch, recording); None
            for none.
        drop_last: leave out a last batch that is not full.
        pad: fill the last batch up to ``batch_size`` with padding.
        rank, world: this process takes every ``world``-th recording of the order from ``rank``. All ranks make
            the same number of equally large batches, so some may end with one padded recording, whatever ``pad``.
        limit: at most so many batches per epoch; None for all.

    Raises:
        RequestError: the set is empty, or a size makes no sense.
    """

    def __init__(
        self,
        recordings: Recordings,
        batch_size: int,
        frames: FramesConfig,
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: Augment | Mapping[str, Any] | None = None,
        drop_last: bool = False,
        pad: bool = False,
        rank: int = 0,
        world: int = 1,
        limit: int | None = None,
    ) -> None:
        check_bins(frames.bins, frames.by, frames.duration_us)
        if len(recordings) == 0:
            raise RequestError("the set has no recordings, so there are no batches to make of it")
        if batch_size < 1:
            raise RequestError(f"trainer.batch_size={batch_size}: needs at least 1")
        if limit is not None and limit < 1:
            raise RequestError(f"trainer.limit_batches={limit}: needs at least 1, or null for all")
        if not 0 <= rank < world:
            raise RequestError(f"rank {rank} of {world}: allowed is 0..{world - 1}")
        self.recordings, self.batch_size, self.frames = recordings, batch_size, frames
        self.shuffle, self.seed, self.augment = shuffle, seed, Augment.from_config(augment)
        self.drop_last, self.pad, self.rank, self.world, self.limit = drop_last, pad, rank, world, limit
        if len(self) == 0:
            raise RequestError(
                f"trainer.batch_size={batch_size} on {world} rank(s) is more than the {len(recordings)} recordings "
                "of the set, and an unfilled last batch is left out: choose a smaller one"
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        if self.drop_last:
            n = len(self.recordings) // self.world // self.batch_size
        else:
            n = -(-len(self.recordings) // (self.world * self.batch_size))
        return n if self.limit is None else min(n, self.limit)

    def epoch(self, n: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``n``."""
        order = np.arange(len(self.recordings))
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
        events, offsets = self.recordings.gather(index)
        sensor_size = self.recordings.sensor_size
        if self.augment is not None:
            seeds = [(self.seed, epoch, int(i)) for i in np.maximum(index, 0)]
            events, offsets = augment_events(events, offsets, sensor_size, self.augment, seeds)
        edges_us = bin_edges(events, offsets, self.frames.bins, self.frames.by, self.frames.duration_us)
        target = np.where(real, self.recordings.target[index], 0)
        return Batch(
            events=events,
            offsets=offsets,
            edges_us=edges_us,
            frames=torch.from_numpy(frames(events, offsets, edges_us, sensor_size)),
            target=torch.from_numpy(target.astype(np.int64)),
            mask=torch.from_numpy(real),
            index=index.astype(np.int64),
            share=share,
        )
