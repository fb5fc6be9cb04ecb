"""Sets in the data cache: a damaged one is made anew, and what is given is always the sound set."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.data import cache
from cil_spl.data.events import Splits, from_list
from cil_spl.data.samples import from_arrays
from tests.fuzz import damage, recordings
from tests.fuzz.kinds import Files, Kind


def _recordings() -> Any:
    made = [recordings.events(20, seed) for seed in range(4)]
    return from_list(made, [0, 1, 0, 1], (8, 8, 2), ("a", "b"))


def _samples() -> Any:
    values = np.random.default_rng(0).integers(0, 255, (4, 1, 3, 3)).astype(np.uint8)
    return from_arrays(values, [0, 1, 0, 1], ("a", "b"), scale=1 / 255)


def _kept(make: Callable[[], Any]) -> Callable[[Path], Splits]:
    """Read as a data set is, in a cache of its own."""

    def read(folder: Path) -> Splits:
        before = os.environ.get("CILSPL_CACHE")
        os.environ["CILSPL_CACHE"] = str(folder)
        cache._verified.clear()
        try:
            return cache.splits({"dataset": "fuzz"}, (), ("events",), lambda: (make(), make()))
        finally:
            if before is None:
                del os.environ["CILSPL_CACHE"]
            else:
                os.environ["CILSPL_CACHE"] = before

    return read


def _kind(name: str, make: Callable[[], Any]) -> Kind:
    read = _kept(make)

    def write(folder: Path) -> list[Path]:
        read(folder)
        return sorted(path for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts)

    return Files(name, write, read, (*damage.ANY, _npy, _about), ours=True)


def _npy(rng: random.Random, path: Path) -> str:
    return (
        rng.choice((damage.npy_header, damage.npy_other))(rng, path)
        if path.suffix == ".npy"
        else damage.flip(rng, path)
    )


def _about(rng: random.Random, path: Path) -> str:
    """Another ``about.json``, without a checksum."""
    edit = damage.json_values(damage.plain_json) if rng.random() < 0.8 else damage.nested_json
    return edit(rng, path) if path.suffix == ".json" else damage.flip(rng, path)


def _sealed_about(rng: random.Random, path: Path) -> str:
    return damage.json_values(damage.sealed_json)(rng, path) if path.suffix == ".json" else damage.cut(rng, path)


KINDS: list[tuple[Kind, int]] = [
    (_kind("cached recordings", _recordings), 2),
    (_kind("cached samples", _samples), 1),
]
for _one, _ in KINDS:
    _one.edits = (_sealed_about,)  # type: ignore[attr-defined]
