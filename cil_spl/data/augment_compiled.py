"""Augmentation of a batch of recordings in compiled code: what ``augment.py`` says, without jitter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from cil_spl.base.sources import BASE, text_of
from cil_spl.base.threads import in_threads, next_of
from cil_spl.data import draws
from cil_spl.data.augment import Augment
from cil_spl.data.draws import STATE, integer, random, seeded
from cil_spl.data.events import EVENT


def augment_all(
    events: np.ndarray, offsets: np.ndarray, sensor_size: tuple[int, int, int], augment: Augment, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What ``augment._augment_one`` makes of each recording, without jitter. Shape: seeds (B, numbers)."""
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
