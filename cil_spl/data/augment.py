"""Augmentation of training recordings, on events, so that frames and chip see the same recording.

All off by default. Drawn anew from (seed, epoch, recording), so that neither the order of a set nor the number of
processes changes what a recording becomes. Order: rotation and shift together, event drop, time jitter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError


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

    shift: int = 0
    rotate_degrees: float = 0.0
    jitter_us: float = 0.0
    drop: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(getattr(self, field.name), (int, float)):
                raise RequestError(f"dataset.augment.{field.name}={getattr(self, field.name)}: needs a number")
        for name, most in (("shift", 64), ("rotate_degrees", 180), ("jitter_us", 1e6)):
            if not 0 <= getattr(self, name) <= most:
                raise RequestError(f"dataset.augment.{name}={getattr(self, name)}: allowed is 0 to {most:g}")
        if self.shift != int(self.shift):
            raise RequestError(f"dataset.augment.shift={self.shift}: needs a whole number of pixels")
        if not 0 <= self.drop < 1:
            raise RequestError(f"dataset.augment.drop={self.drop}: allowed is 0 <= drop < 1")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | Augment | None) -> Augment | None:
        """From the keys of ``dataset.augment``; None where nothing is changed.

        Raises:
            RequestError: an unknown key or a value out of range.
        """
        if isinstance(config, Augment):
            return None if config == cls() else config
        known = [f.name for f in fields(cls)]
        for key in config or {}:
            if key not in known:
                raise RequestError(f"dataset.augment.{key}: unknown; allowed are {', '.join(known)}")
        augment = cls(**(config or {}))
        return None if augment == cls() else augment


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
    changed = [
        _augment_one(events[offsets[b] : offsets[b + 1]], sensor_size, augment, np.random.default_rng(list(seed)))
        for b, seed in enumerate(seeds)
    ]
    new_offsets = np.zeros(len(offsets), np.int64)
    np.cumsum([len(e) for e in changed], out=new_offsets[1:])
    return np.concatenate(changed), new_offsets


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
