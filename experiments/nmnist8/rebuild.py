"""Rebuild the 8-digit set from the official N-MNIST download.

    python experiments/nmnist8/rebuild.py OFFICIAL OUT

OFFICIAL holds the official ``Train/<digit>/<number>.bin``; OUT gets ``Train`` and ``Test`` in the same layout. Both
parts come from the official training recordings, named in ``train.txt`` and ``test.txt`` beside this file. Each
recording passes through two tonic transforms, ``Denoise(filter_time=10_000)`` and ``ToFrame(time_window=1_000)``, so
its times are exact to 1 ms; where in its millisecond an event lies is drawn with a fixed seed.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
from tonic.io import read_mnist_file
from tonic.transforms import Denoise, ToFrame
from tqdm import tqdm

HERE = Path(__file__).parent
DTYPE = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])


def rebuild(source: Path, rng: np.random.Generator) -> bytes:
    """One recording, 5 bytes per event: x, y, polarity bit and 23-bit time in microseconds."""
    events = Denoise(filter_time=10_000)(read_mnist_file(str(source), dtype=DTYPE))
    frames = ToFrame(sensor_size=(34, 34, 2), time_window=1_000)(events)  # T P Y X
    ms, p, y, x = np.nonzero(frames)
    counts = frames[ms, p, y, x]
    ms, p, y, x = (np.repeat(field, counts) for field in (ms, p, y, x))
    t = ms * 1000 + rng.integers(0, 1000, len(ms))
    order = np.argsort(t, kind="stable")
    return b"".join(struct.pack(">BBBH", x[i], y[i], (p[i] << 7) | (t[i] >> 16), t[i] & 0xFFFF) for i in order.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for split in ("Train", "Test"):
        rng = np.random.default_rng(0)
        for name in tqdm((HERE / f"{split.lower()}.txt").read_text().split(), desc=split):
            target = args.out / split / f"{name}.bin"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(rebuild(args.official / "Train" / f"{name}.bin", rng))


if __name__ == "__main__":
    main()
