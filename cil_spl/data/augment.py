"""Augmentation of training recordings, on events, so that frames and chip see the same recording.

All off by default. Drawn anew from (seed, epoch, recording), so that neither the order of a set nor the number of
processes changes what a recording becomes. Order: rotation and shift together, event drop, time jitter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, Lt

from cil_spl.base.options import check_fields, unless_default


@dataclass(frozen=True)
class Augment:
    """How far a recording may be changed; pixels are those after ``preprocess``.

    Attributes:
        shift: whole pixels, drawn from -shift..shift in x and in y; what leaves the sensor is dropped.
        rotate_degrees: drawn from -rotate_degrees..rotate_degrees, about the middle of the sensor.
        jitter_us: standard deviation of a normal time jitter of each event; the order of the events follows,
            times stay within the recording's own span.
        drop: share of the events left out, each by chance, 0 <= drop < 1.

    Raises:
        RequestError: a value is out of range.
    """

    shift: Annotated[int, Ge(0), Le(64)] = 0
    rotate_degrees: Annotated[float, Ge(0), Le(180)] = 0.0
    jitter_us: Annotated[float, Ge(0), Le(1_000_000)] = 0.0
    drop: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "dataset.augment")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | Augment | None) -> Augment | None:
        """From the keys of ``dataset.augment``; None where nothing is changed.

        Raises:
            RequestError: an unknown key or a value out of range.
        """
        return unless_default(cls, config, "dataset.augment")


def augment_events(
    events: np.ndarray,
    offsets: np.ndarray,
    sensor_size: tuple[int, int, int],
    augment: Augment,
    seeds: Sequence[Sequence[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Change each recording of a batch by its own draw.

    Args:
        events: flat array of dtype ``EVENT``. Shape ``[N]``; not written to.
        offsets: recording ``b`` is ``events[offsets[b]:offsets[b + 1]]``. Shape ``[B + 1]``.
        sensor_size: (width, height, polarities).
        augment: how far.
        seeds: what each recording's draw starts from. Length B.

    Returns:
        The changed events, time-sorted within a recording, and their offsets.
    """
    if augment.jitter_us or any(not 0 <= int(number) < 2**32 for seed in seeds for number in seed):
        changed = [
            _augment_one(events[offsets[b] : offsets[b + 1]], sensor_size, augment, np.random.default_rng(list(seed)))
            for b, seed in enumerate(seeds)
        ]
        new_offsets = np.zeros(len(offsets), np.int64)
        np.cumsum([len(e) for e in changed], out=new_offsets[1:])
        return np.concatenate(changed), new_offsets
    from cil_spl.data.augment_compiled import augment_all  # numba, which options have no need of

    return augment_all(events, np.asarray(offsets, np.int64), sensor_size, augment, np.array(seeds, np.uint64))


def _augment_one(
    events: np.ndarray, sensor_size: tuple[int, int, int], augment: Augment, rng: np.random.Generator
) -> np.ndarray:
    width, height, _ = sensor_size
    out = events.copy()
    # Every draw is made whether used or not: turning one augmentation on leaves the others' draws as they were.
    shift_x, shift_y = rng.integers(-augment.shift, augment.shift + 1, 2)
    angle = np.deg2rad(rng.uniform(-1, 1) * augment.rotate_degrees)
    drop_rng, jitter_rng = rng.spawn(2)
    if augment.rotate_degrees or augment.shift:
        mid_x, mid_y = (width - 1) / 2, (height - 1) / 2
        dx, dy = out["x"] - mid_x, out["y"] - mid_y
        x = np.rint(mid_x + np.cos(angle) * dx - np.sin(angle) * dy).astype(np.int64) + shift_x
        y = np.rint(mid_y + np.sin(angle) * dx + np.cos(angle) * dy).astype(np.int64) + shift_y
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        out = out[inside]
        out["x"], out["y"] = x[inside], y[inside]
    if augment.drop:
        out = out[drop_rng.random(len(out)) >= augment.drop]
    if augment.jitter_us and len(out):
        t = np.rint(out["t"] + jitter_rng.normal(0, augment.jitter_us, len(out)))
        out["t"] = np.clip(t, 0, int(events["t"][-1]))
        out = out[np.argsort(out["t"], kind="stable")]
    return out
