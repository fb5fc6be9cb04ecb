"""Fits the saccade simulator's defaults to 300 real training recordings. No network, no accuracy, no test recording.

    python experiments/saccade_realism/fit.py [--data FOLDER] [--n 100]

What is compared, real with simulated recordings of the same digits (``cost``):
 - counts in bins of 10 ms, by polarity and pixel (blurred by 0.7 px): squared distance. Two simulations with
   different seeds, (real - a) * (real - b), so that the simulator's own randomness costs nothing on average;
 - intervals between a pixel's events, by polarities, and events per pixel: distance of the histograms;
 - events per recording, and the ON share.
Then plain searches: the knots of the motion (every fourth at once, since a knot acts on the bins beside it), and
the scalar parameters one by one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from compare import DATA, Set, far_noise_hz, intervals, maps, per_pixel, real_recordings, simulated
from scipy.interpolate import PchipInterpolator

from cil_spl.data.saccade_parameters import Parameters

EDGES_US = np.arange(0, 320_001, 10_000)
GAPS_US = 100.0 * np.concatenate([np.arange(0, 200, 2), np.arange(200, 700, 20), np.arange(700, 4000, 100)])
STEPS = {
    "threshold_on": 0.15,
    "threshold_off": 0.15,
    "dark": 0.3,
    "blur_px": 0.15,
    "threshold_jitter": 0.3,
    "refractory_us": 0.4,
    "pixel_pitch_px": 0.03,
}

# Where the digit lies and how it moves, roughly: read off one regression per 10 ms of (ON - OFF) counts on the
# gradient of the shifted image. Its sign says that ON events lie where a bright digit would leave: it is dark.
ROUGH_MS = (0, 15, 25, 35, 45, 55, 65, 75, 85, 105, 120, 135, 145, 155, 165, 175, 190, 215, 228, 245, 255, 265, 275, 285, 295, 310)  # fmt: skip  # noqa: E501
ROUGH_X = (-2.6, -2.6, -2.6, -2.6, -2.5, -2.1, -1.6, -1.2, -1, -0.9, -0.5, 0.2, 0.9, 1.4, 1.7, 2, 2.3, 2.7, 2.7, 1.6, 0.6, -0.4, -1.2, -1.9, -2.3, -2.5)  # fmt: skip  # noqa: E501
ROUGH_Y = (-2, -1.7, -1, -0.1, 1, 2.1, 3, 3.5, 3.6, 3.6, 3.5, 3, 1.9, 0.7, -0.4, -1.1, -1.5, -1.6, -1.6, -1.6, -1.7, -1.7, -1.8, -1.8, -1.9, -1.9)  # fmt: skip  # noqa: E501
KNOTS_MS = (*range(0, 301, 10), 310)


class Target:
    """The real recordings' side of the comparison."""

    def __init__(self, real: Set) -> None:
        self.real = real
        self.maps = np.stack([maps(real[i], EDGES_US, 0.7) for i in range(len(real))])
        self.norm = float((self.maps**2).sum())
        self.gaps, self.pixels, self.n = gap_histogram(real), per_pixel(real), np.diff(real.offsets)

    def by_bin(self, parameters: Parameters) -> tuple[np.ndarray, Set]:
        """Distance of the maps in each 10 ms, share of the real maps' square, and one simulation."""
        a, b = (simulated(self.real, parameters, seed) for seed in (1, 2))
        left, right = (
            self.maps - np.stack([maps(s[i], EDGES_US, 0.7) for i in range(len(s))]) for s in (a, b)
        )  # N T P H W
        return np.einsum("ntphw,ntphw->t", left, right, dtype=float) / self.norm, a

    def cost(self, parameters: Parameters) -> tuple[float, dict[str, float]]:
        bins, sim = self.by_bin(parameters)
        n = np.diff(sim.offsets)
        parts = {
            "maps": float(bins.sum()),
            "intervals": float(np.abs(gap_histogram(sim) - self.gaps).sum() / self.gaps.sum()),
            "pixels": float(np.abs(per_pixel(sim) - self.pixels)[2:].sum() / self.pixels[2:].sum()),
            "events": float(((n - self.n) ** 2).mean() / self.n.mean() ** 2),
            "on": abs(float(sim.events["p"].mean() - self.real.events["p"].mean())),
        }
        weights = {"maps": 1.0, "intervals": 0.3, "pixels": 0.15, "events": 0.5, "on": 0.5}
        return sum(weights[k] * v for k, v in parts.items()), parts


def gap_histogram(s: Set) -> np.ndarray:
    gap, before, after = intervals(s)
    return np.stack([np.histogram(gap[2 * after + before == k], GAPS_US)[0] for k in range(4)]) / len(s)


def fit_path(target: Target, par: Parameters, step: float, rounds: int) -> Parameters:
    """Move the knots as long as the maps come nearer."""
    n = len(par.path_ms)
    steps = np.full((2, n), step)
    best, _ = target.by_bin(par)
    for _ in range(rounds):
        for axis, field in enumerate(("path_x_px", "path_y_px")):
            for phase in range(4):
                knots = np.arange(phase, n, 4)
                moved: dict[int, float] = {}
                start = np.array(getattr(par, field))
                for sign in (1, -1):
                    left = [k for k in knots if k not in moved]
                    tried = start.copy()
                    tried[left] += sign * steps[axis, left]
                    bins, _ = target.by_bin(replace(par, **{field: tuple(tried.tolist())}))
                    for k in left:
                        near = slice(max(k - 2, 0), k + 2)
                        if bins[near].sum() < best[near].sum():
                            moved[k] = sign * steps[axis, k]
                tried = start.copy()
                for k in knots:
                    tried[k] += moved.get(k, 0)
                    steps[axis, k] = 1.3 * moved[k] if k in moved else steps[axis, k] / 2
                together = replace(par, **{field: tuple(tried.tolist())})
                bins, _ = target.by_bin(together)
                if bins.sum() < best.sum():
                    par, best = together, bins
                else:
                    steps[axis, knots] *= 0.7
        print(f"path: maps {best.sum():.4f}", flush=True)
    return par


def fit_scalars(target: Target, par: Parameters, rounds: int) -> Parameters:
    """One parameter after the other, up or down by a factor, as long as the cost falls."""
    steps = dict(STEPS)
    best, parts = target.cost(par)
    for _ in range(rounds):
        for name in steps:
            for sign in (1, -1):
                tried = replace(par, **{name: getattr(par, name) * float(np.exp(sign * steps[name]))})
                cost, tried_parts = target.cost(tried)
                if cost < best:
                    par, best, parts = tried, cost, tried_parts
                    steps[name] *= 1.5 * sign
                    break
            else:
                steps[name] /= 2
        print(f"scalars: cost {best:.4f}", {k: round(v, 4) for k, v in parts.items()}, flush=True)
    return par


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--n", type=int, default=100, help="how many of the 300 the searches look at")
    parser.add_argument(
        "--positive", action="store_true", help="try the other reading: bright digit, ON and OFF swapped"
    )
    args = parser.parse_args()
    real, _ = real_recordings(args.data)
    off_hz, on_hz = far_noise_hz(real)
    print(f"noise: ON {on_hz:.3f} Hz, OFF {off_hz:.4f} Hz")
    few = Set(
        real.events[: real.offsets[args.n]], real.offsets[: args.n + 1], real.image[: args.n], real.digit[: args.n]
    )
    if args.positive:
        few.events["p"] = 1 - few.events["p"]
    knots = {f: PchipInterpolator(ROUGH_MS, k)(KNOTS_MS) for f, k in (("path_x_px", ROUGH_X), ("path_y_px", ROUGH_Y))}
    par = Parameters(
        path_ms=tuple(float(t) for t in KNOTS_MS),
        **{f: tuple(k.tolist()) for f, k in knots.items()},
        pixel_pitch_px=1.0,
        blur_px=0.6,
        dark=0.2,
        threshold_on=0.23,
        threshold_off=0.23,
        threshold_jitter=0.25,
        refractory_us=700.0,
        noise_on_hz=round(float(on_hz), 2),
        noise_off_hz=round(float(off_hz), 3),
        negative=not args.positive,
    )
    target = Target(few)
    par = fit_scalars(target, par, rounds=3)
    par = fit_path(target, par, step=0.15, rounds=4)
    par = fit_scalars(target, par, rounds=6)
    print(json.dumps(asdict(par)))


if __name__ == "__main__":
    main()
