"""Measures what fit.py leaves fixed: how much pixels differ, and how much recordings differ in time and place.

    python experiments/saccade_realism/spread.py [--data FOLDER]

Thresholds: standard deviation over pixels of log(real / simulated events), the simulated sensor having none of its
own; a pixel's events go as one over its threshold. Time and place: each saccade of each real recording is shifted
against the mean of three simulated ones of its digit until they fit best; what comes out holds the error of that
estimate too, so it is an upper bound.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from compare import DATA, Set, maps, real_recordings, simulated
from scipy.ndimage import shift

from cil_spl.data.saccade_parameters import Parameters

BIN_US = 5000
EDGES_US = np.arange(0, 320_001, BIN_US)
SACCADE_BINS = ((0, 18), (20, 40), (45, 62))


def pixel_spread(real: Set, sim: Set) -> list[float]:
    """Of OFF and ON, over pixels with at least 3 simulated events per recording."""
    count = np.zeros((2, 2, 34, 34))
    for side, s in enumerate((real, sim)):
        np.add.at(count[side], (s.events["p"], s.events["y"], s.events["x"]), 1)
    enough = (count[1] > 3 * len(real)) & (count[0] > 0)
    return [float(np.log(count[0, p][enough[p]] / count[1, p][enough[p]]).std()) for p in (0, 1)]


def best_shift(real: np.ndarray, sim: np.ndarray, bins: slice) -> list[float]:
    """Shift of ``sim`` [T, 2, H, W] in bins, x and y pixels that comes nearest to ``real``: parabolas, three times."""

    def distance(d: list[float]) -> float:
        return float(((real[bins] - shift(sim, (d[0], 0, d[2], d[1]), order=1)[bins]) ** 2).sum())

    at = [0.0, 0.0, 0.0]
    for _ in range(3):
        for axis, step in enumerate((0.6, 0.4, 0.4)):
            low, middle, high = (
                distance([a + k * step * (axis == other) for other, a in enumerate(at)]) for k in (-1, 0, 1)
            )
            if low + high > 2 * middle:
                at[axis] += float(np.clip(step * (low - high) / (low - 2 * middle + high) / 2, -1, 1))
    return at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--n", type=int, default=60, help="recordings that are shifted")
    args = parser.parse_args()
    real, _ = real_recordings(args.data)
    alike = replace(Parameters(), threshold_spread=0.0)
    print("threshold spread, OFF and ON:", [round(v, 3) for v in pixel_spread(real, simulated(real, alike))])

    still = replace(Parameters(), time_jitter_ms=0.0, path_jitter_px=0.0)
    sims = [simulated(real, still, seed) for seed in range(3)]
    found = np.empty((args.n, 3, 3))  # recording, saccade, (time, x, y)
    for i in range(args.n):
        mean = sum(maps(s[i], EDGES_US, 0.7) for s in sims) / len(sims)
        for k, (first, stop) in enumerate(SACCADE_BINS):
            found[i, k] = best_shift(maps(real[i], EDGES_US, 0.7), mean, slice(first, stop))
    for k in range(3):
        spread = found[:, k].std(0) * (BIN_US / 1000, 1, 1)
        print(f"saccade {k + 1}: sd of time {spread[0]:.2f} ms, x {spread[1]:.2f} px, y {spread[2]:.2f} px")
    print("correlation of time between saccades:", np.corrcoef(found[:, :, 0].T).round(2).tolist())


if __name__ == "__main__":
    main()
