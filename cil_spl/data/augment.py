"""Augmentation of training recordings, on events, so that frames and chip see the same recording.

All off by default. Drawn anew from (seed, epoch, recording), so that neither the order of a set nor the number of
processes changes what a recording becomes. Order: rotation and shift together, event drop, time jitter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, Lt
from numba import njit

from cil_spl.base.options import check_fields, unless_default
from cil_spl.base.sources import BASE, text_of
from cil_spl.base.threads import in_threads, next_of
from cil_spl.data import draws
from cil_spl.data.draws import STATE, integer, random, seeded
from cil_spl.data.events import EVENT


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
    return _augment_all(events, np.asarray(offsets, np.int64), sensor_size, augment, np.array(seeds, np.uint64))


def _augment_all(
    events: np.ndarray, offsets: np.ndarray, sensor_size: tuple[int, int, int], augment: Augment, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`_augment_one` makes of each recording, without jitter, compiled. Shape: seeds (B, numbers)."""
    width, height, _ = sensor_size
    shift, turn = draws_of_place(seeds, augment.shift)
    angle = np.deg2rad(turn * augment.rotate_degrees)
    moved = bool(augment.rotate_degrees or augment.shift)
    out, kept = np.empty_like(events), np.zeros(len(seeds), np.int64)
    in_threads(
        _change, len(seeds), events, offsets, width, height, moved, shift, np.cos(angle), np.sin(angle), augment.drop,
        seeds, out, kept,
    )  # fmt: skip
    new_offsets = np.zeros(len(offsets), np.int64)
    np.cumsum(kept, out=new_offsets[1:])
    opaque = np.dtype((np.void, EVENT.itemsize))  # copied in one go, not field by field
    packed, source = np.empty(new_offsets[-1], opaque), out.view(opaque)
    for b, n in enumerate(kept):
        packed[new_offsets[b] : new_offsets[b + 1]] = source[offsets[b] : offsets[b] + n]
    return packed.view(EVENT), new_offsets


def _kept(sources: str) -> tuple[Any, Any]:
    @njit(nogil=True, cache=True)
    def place(seeds, most):  # type: ignore[no-untyped-def]
        """Of each recording, shifts in x and y and a number from [-1, 1) for the angle. Shapes: (B, 2), (B,)."""
        _ = sources
        state, shift, turn = np.zeros(STATE, np.uint64), np.zeros((len(seeds), 2), np.int64), np.zeros(len(seeds))
        for b in range(len(seeds)):
            seeded(seeds[b], state)
            shift[b, 0], shift[b, 1] = integer(state, -most, most), integer(state, -most, most)
            turn[b] = -1.0 + 2.0 * random(state)
        return shift, turn

    @njit(nogil=True, cache=True)
    def change(counter, events, offsets, width, height, moved, shift, cos, sin, drop, seeds, out, kept):  # type: ignore[no-untyped-def]
        _ = sources
        mid_x, mid_y = (width - 1) / 2, (height - 1) / 2
        state, numbers = np.zeros(STATE, np.uint64), seeds.shape[1]
        words = np.zeros(max(numbers, 4) + 1, np.uint64)  # of the generator's first child, whose number is 0
        while True:
            b = next_of(counter)
            if b >= len(seeds):
                return
            words[:numbers] = seeds[b]
            seeded(words, state)
            n = offsets[b]
            for i in range(offsets[b], offsets[b + 1]):
                x, y = np.int64(events[i].x), np.int64(events[i].y)
                if moved:
                    dx, dy = x - mid_x, y - mid_y
                    x = np.int64(np.rint(mid_x + cos[b] * dx - sin[b] * dy)) + shift[b, 0]
                    y = np.int64(np.rint(mid_y + sin[b] * dx + cos[b] * dy)) + shift[b, 1]
                    if not (0 <= x < width and 0 <= y < height):
                        continue
                if drop > 0 and random(state) < drop:
                    continue
                out[n].x, out[n].y, out[n].t, out[n].p = x, y, events[i].t, events[i].p
                n += 1
            kept[b] = n - offsets[b]

    return place, change


draws_of_place, _change = _kept(text_of(Path(draws.__file__), BASE / "threads.py"))


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
