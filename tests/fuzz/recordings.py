"""Recordings: single files of the user's, and folders of recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.data import nmnist, recorded
from cil_spl.data.events import EVENT
from cil_spl.data.files import read_recording
from tests.fuzz import damage
from tests.fuzz.kinds import Damage, Files, Kind

SENSOR = (8, 8, 2)


def events(n: int = 40, seed: int = 0, size: int = 8) -> np.ndarray:
    """A recording: its times in order."""
    rng = np.random.default_rng(seed)
    made = np.zeros(n, EVENT)
    made["x"], made["y"], made["p"] = rng.integers(0, size, n), rng.integers(0, size, n), rng.integers(0, 2, n)
    made["t"] = np.sort(rng.integers(0, 10_000, n))
    return made


def packed(of: np.ndarray) -> bytes:
    """As N-MNIST packs events, 40 bits each."""
    rows = [
        (e["x"], e["y"], int(e["p"]) << 7 | int(e["t"]) >> 16, int(e["t"]) >> 8 & 255, int(e["t"]) & 255) for e in of
    ]
    return bytes(int(b) for row in rows for b in row)


def _one(suffix: str, write: Callable[[Path], Any], edits: Sequence[Damage]) -> Kind:
    def make(folder: Path) -> list[Path]:
        path = folder / f"mine.{suffix}"
        write(path)
        return [path]

    def read(folder: Path) -> Any:
        return read_recording(folder / f"mine.{suffix}", SENSOR)

    return Files(suffix, make, read, damage.ANY, edits)


def _csv(path: Path) -> None:
    path.write_text("x,y,t,p\n" + "".join(f"{e['x']},{e['y']},{e['t']},{e['p']}\n" for e in events()))


def _txt(path: Path) -> None:
    np.savetxt(path, np.array(events().tolist()), header="x y t p", fmt="%d")


def _fields(path: Path) -> None:
    made = events()
    np.savez_compressed(path, x=made["x"], y=made["y"], timestamp=made["t"], polarity=made["p"])


def _gestures(folder: Path) -> list[Path]:
    """The IBM gestures' layout, with few events."""
    made = []
    for part in ("ibmGestureTrain", "ibmGestureTest"):
        place = folder / "DVSGesture" / part / "user01_led"
        place.mkdir(parents=True)
        for gesture in range(3):
            of = events(30, gesture, 128)
            columns = [of["x"], of["y"], of["p"], of["t"] // 1000 + 500]
            made.append(place / f"{gesture}.npy")
            np.save(made[-1], np.stack(columns, 1).astype(np.float64))
    return made


def _nmnist(folder: Path) -> list[Path]:
    made = []
    for part in ("Train", "Test"):
        for digit in range(2):
            (folder / part / str(digit)).mkdir(parents=True)
            made.append(folder / part / str(digit) / "00001.bin")
            made[-1].write_bytes(packed(events(20, digit, 34)))
    return made


KINDS: list[tuple[Kind, int]] = [
    (_one("bin", lambda path: path.write_bytes(packed(events())), ()), 1),
    (_one("npy", lambda path: np.save(path, events()), (damage.npy_header, damage.npy_other)), 3),
    (_one("npz", lambda path: np.savez(path, events=events()), (damage.members,)), 3),
    (Files("npz of columns", lambda folder: [_fields(folder / "mine.npz") or folder / "mine.npz"],
           lambda folder: read_recording(folder / "mine.npz", SENSOR), damage.ANY, (damage.members,)), 3),
    (_one("csv", _csv, (damage.lines,)), 3),
    (_one("txt", _txt, (damage.lines,)), 3),
    (Files("nmnist", _nmnist, lambda folder: nmnist.read(nmnist.find(folder) or folder), damage.ANY), 1),
    (Files("dvs_gesture", _gestures, lambda folder: recorded.read_dvs_gesture(folder / "DVSGesture"), damage.ANY,
           (damage.npy_header, damage.npy_other)), 2),
]  # fmt: skip
