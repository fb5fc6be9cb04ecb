"""Data sets of a user's own: what their function may return, in Python."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.data import events, known, samples
from cil_spl.data.events import Splits, from_list
from tests.fuzz import recordings
from tests.fuzz.damage import ARRAYS, ODD
from tests.fuzz.kinds import Case, Kind, Values

TARGETS: tuple[Any, ...] = (
    [0, 1], [1, 2], [-1, 0], [0.0, 1.0], [0.5, 1], ["0", "1"], [0, None], [True, False], [[0], [1]], [[0, 1], [1, 0]],
    [0], [0, 1, 0], (), None, 5, "01", np.array([0, 1], np.uint8), np.array([0, 1], object), np.array([0, np.nan]),
    {0: 1}, np.array([10**18, 0]), [10**30, 0], np.zeros((2, 0)), np.array(["a", "b"]), np.array([0, 1], "M8[s]"),
    [0, 1j],
)  # fmt: skip


def _odd(rng: random.Random) -> Any:
    return rng.choice(ODD) if rng.random() < 0.5 else rng.choice(ARRAYS)()


def _events(rng: random.Random) -> Any:
    """A recording with a field of another type or value, or no recording."""
    made = recordings.events(10, rng.randrange(5))
    if rng.random() < 0.3:
        return _odd(rng)
    kinds = {"x": "i4", "y": "i4", "t": "i8", "p": "i1"}
    field = rng.choice("xytp")
    kinds[field] = rng.choice(("f2", "f4", "f8", "?", "u1", "u8", "i1", ">i4", "U3", "c8", "M8[us]", "i8", "f16", "O"))
    names = list(kinds.items())
    rng.shuffle(names)
    out = np.zeros(10, names)
    for name in "xytp":
        out[name] = made[name].astype(np.int64) if kinds[name] == "M8[us]" else made[name]
    with np.errstate(all="ignore"), contextlib.suppress(ValueError, OverflowError, TypeError):
        out[field][rng.randrange(10)] = rng.choice((-1, 8, 300, 2**31, 2**62, np.nan, np.inf, 0.5, -1e300, 10**15))
    return out[rng.choice((slice(None), slice(0), slice(None, None, -1), slice(None, None, 2)))]


def _from_list(rng: random.Random, folder: Path) -> Case:
    """One or two arguments of ``from_list`` that are not as they should be."""
    given: dict[str, Any] = {
        "recordings": [recordings.events(10, 0), recordings.events(10, 1)],
        "target": [0, 1],
        "sensor_size": (8, 8, 2),
        "classes": ("a", "b"),
    }
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice((*given, "names", "origins"))
        if key == "recordings" and rng.random() < 0.8:
            given[key] = [_events(rng), recordings.events(10, 1)]
        else:
            given[key] = (
                rng.choice(TARGETS) if key in ("target", "names", "origins") and rng.random() < 0.7 else _odd(rng)
            )
    return Case(_told(given), lambda: from_list(**given))


def _from_arrays(rng: random.Random, folder: Path) -> Case:
    given: dict[str, Any] = {"values": np.zeros((2, 1, 3, 3), np.uint8), "target": [0, 1], "classes": ("a", "b")}
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice((*given, "names", "origins"))
        if key == "values" and rng.random() < 0.7:
            given[key] = np.zeros((2, 1, 3, 3), rng.choice(("f2", "f4", ">f8", "?", "i8", "U2", "c8", "M8[s]", "f16")))
            if given[key].dtype.kind == "f":
                given[key][1, 0, 2, 2] = rng.choice((np.nan, np.inf, 1e30, -1))
        else:
            given[key] = (
                rng.choice(TARGETS) if key in ("target", "names", "origins") and rng.random() < 0.7 else _odd(rng)
            )
    return Case(_told(given), lambda: samples.from_arrays(**given))


def _returned(rng: random.Random, folder: Path) -> Case:
    """What a data set's function returns: parts of a set that do not belong together."""
    import dataclasses

    config: dict[str, Any] = {"_target_": "mine.make", "name": "mine", "n_classes": 2}
    whole: Any
    if rng.random() < 0.5:
        whole = from_list([recordings.events(10, i) for i in range(4)], [0, 1, 0, 1], (8, 8, 2), ("a", "b"))
        config["sensor_size"] = [8, 8, 2]
    else:
        whole = samples.from_arrays(np.zeros((4, 1, 3, 3), np.uint8), [0, 1, 0, 1], ("a", "b"))
        config["input_shape"] = [1, 3, 3]
    field = rng.choice([f.name for f in dataclasses.fields(whole)])
    bad = dataclasses.replace(whole, **{field: rng.choice(TARGETS) if rng.random() < 0.4 else _odd(rng)})
    parts = {"train": whole, "val": whole.subset([]), "test": whole} | {rng.choice(("train", "val", "test")): bad}
    sets: Any = (
        Splits(**parts) if rng.random() < 0.85 else rng.choice((None, bad, (), [Splits(**parts)], (Splits(**parts), 5)))
    )
    return Case(f"{field}={getattr(bad, field)!r:.60}", lambda: known.check_returned(sets, config, "dataset"))


def _check_events(rng: random.Random, folder: Path) -> Case:
    given, size = _events(rng), (8, 8, 2) if rng.random() < 0.8 else rng.choice(ODD)
    return Case(
        f"{getattr(given, 'dtype', given)!r:.80}, sensor_size={size!r:.40}", lambda: events.check_events(given, size)
    )


def _told(given: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r:.60}" for key, value in given.items()).replace("\n", " ")


KINDS: list[tuple[Kind, int]] = [
    (Values("from_list", _from_list), 3),
    (Values("from_arrays", _from_arrays), 2),
    (Values("check_events", _check_events), 2),
    (Values("returned sets", _returned), 2),
]
