"""Real and simulated recordings of the same digits, compared: prints the table of README.md and draws its figure.

    python experiments/saccade_realism/compare.py [--data FOLDER]

FOLDER holds NMNIST (official layout) and mnist; real recording number i shows MNIST's training image i - 1.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from scipy.ndimage import binary_dilation, gaussian_filter1d

from cil_spl.data.events import EVENT
from cil_spl.data.saccade_parameters import Parameters
from cil_spl.data.saccades import simulate
from cil_spl.data.simulated import read_idx

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data"
SACCADES_US = (0, 95_000, 222_000, 400_000)  # the rate is lowest between
N_FIT = 300


@dataclass(frozen=True)
class Set:
    """Recordings of known images: flat events, offsets, images in 0..1, digits."""

    events: np.ndarray
    offsets: np.ndarray
    image: np.ndarray
    digit: np.ndarray

    def __len__(self) -> int:
        return len(self.digit)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.events[self.offsets[i] : self.offsets[i + 1]]


def real_recordings(data: Path = DATA) -> tuple[Set, Set]:
    """The real training recordings: a fixed sample of 300 on which the simulator was fitted, and the others."""
    files = sorted((data / "NMNIST" / "Train").glob("*/*.bin"), key=lambda f: int(f.stem))
    images = read_idx(data / "mnist" / "train-images-idx3-ubyte.gz")
    order = np.random.default_rng(0).permutation(len(files))

    def read(index: np.ndarray) -> Set:
        parts = []
        for i in index:
            raw = np.fromfile(files[i], np.uint8).reshape(-1, 5).astype(np.int32)
            part = np.empty(len(raw), EVENT)
            part["x"], part["y"], part["p"] = raw[:, 0], raw[:, 1], raw[:, 2] >> 7
            part["t"] = (raw[:, 2] & 127) << 16 | raw[:, 3] << 8 | raw[:, 4]
            parts.append(part)
        picture = images[[int(files[i].stem) - 1 for i in index]] / np.float32(255)
        digit = np.array([int(files[i].parent.name) for i in index])
        return Set(np.concatenate(parts), np.cumsum([0] + [len(p) for p in parts]), picture, digit)

    return read(order[:N_FIT]), read(order[N_FIT:])


def simulated(real: Set, parameters: Parameters, seed: int = 0) -> Set:
    """Simulated recordings of the digits in ``real``."""
    return Set(*simulate(real.image, seed, parameters=parameters), real.image, real.digit)


def maps(events: np.ndarray, edges_us: np.ndarray | tuple[int, ...], sigma_px: float = 0.0) -> np.ndarray:
    """Counts per bin, polarity and pixel, blurred. Shape ``[T, 2, 34, 34]``."""
    out = np.zeros((len(edges_us) - 1, 2, 34, 34), np.float32)
    when = np.clip(np.searchsorted(edges_us, events["t"], side="right") - 1, 0, len(out) - 1)
    np.add.at(out, (when, events["p"], events["y"], events["x"]), 1)
    return gaussian_filter1d(gaussian_filter1d(out, sigma_px, axis=2), sigma_px, axis=3) if sigma_px else out


def intervals(s: Set) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times between a pixel's events, microseconds, with the polarities before and after."""
    recording = np.repeat(np.arange(len(s)), np.diff(s.offsets))
    pixel = (recording * 34 + s.events["y"]) * 34 + s.events["x"]
    order = np.lexsort((s.events["t"], pixel))
    same = pixel[order][1:] == pixel[order][:-1]
    p = s.events["p"][order]
    return np.diff(s.events["t"][order])[same], p[:-1][same], p[1:][same]


def per_pixel(s: Set) -> np.ndarray:
    """How many pixels of a recording have 0, 1, 2 … 39 or more events. Shape ``[40]``."""
    recording = np.repeat(np.arange(len(s)), np.diff(s.offsets))
    pixel = (recording * 34 + s.events["y"]) * 34 + s.events["x"]
    counts = np.bincount(pixel, minlength=len(s) * 34 * 34)
    return np.bincount(np.minimum(counts, 39), minlength=40) / len(s)


@njit
def _isolated(x: np.ndarray, y: np.ndarray, t: np.ndarray, filter_us: int) -> int:
    last = np.full((36, 36), -filter_us - 1)
    n = 0
    for i in range(len(x)):
        u, v = x[i] + 1, y[i] + 1
        n += max(last[v, u - 1], last[v, u + 1], last[v - 1, u], last[v + 1, u]) <= t[i] - filter_us
        last[v, u] = t[i]
    return n


def isolated_share(s: Set) -> float:
    """Share of events without one in a neighbouring pixel within the 10 ms before, as tonic's Denoise counts."""
    lonely = sum(
        _isolated(*(np.ascontiguousarray(e[f], np.int64) for f in "xyt"), 10_000) for e in (s[i] for i in range(len(s)))
    )
    return lonely / len(s.events)


def far_noise_hz(s: Set) -> np.ndarray:
    """Rate of OFF and ON events in pixels more than 8 from the digit (first row left out), per pixel."""
    counts, pixels = np.zeros(2), 0
    for i in range(len(s)):
        canvas = np.pad(s.image[i] > 0, 3)
        far = ~binary_dilation(canvas, iterations=8)
        far[0] = False
        e = s[i]
        counts += np.bincount(e["p"][far[e["y"], e["x"]]], minlength=2)
        pixels += far.sum()
    return counts / pixels / 0.306


def correlation(a: Set, b: Set, edges_us: tuple[int, ...], merge_polarity: bool = False) -> np.ndarray:
    """Correlation of the count maps of each pair of recordings. Shape ``[N]``."""
    out = np.empty(len(a))
    for i in range(len(a)):
        x, y = maps(a[i], edges_us), maps(b[i], edges_us)
        if merge_polarity:
            x, y = x.sum(1), y.sum(1)
        out[i] = np.corrcoef(x.ravel(), y.ravel())[0, 1]
    return out


def of_another(s: Set) -> Set:
    """Each recording exchanged for another one of its digit: what correlates by being the same digit."""
    swap = np.arange(len(s))
    for k in range(10):
        swap[s.digit == k] = np.roll(swap[s.digit == k], 1)
    parts = [s[i] for i in swap]
    return Set(np.concatenate(parts), np.cumsum([0] + [len(p) for p in parts]), s.image[swap], s.digit[swap])


def describe(s: Set) -> dict[str, str]:
    """One column of the table."""
    n = np.diff(s.offsets)
    t_ms, p = s.events["t"] / 1000, s.events["p"]
    rate = np.convolve(np.histogram(t_ms, np.arange(0, 341))[0] / len(s), np.ones(5) / 5, "same")
    row = {
        "events per recording, mean ± sd": f"{n.mean():.0f} ± {n.std():.0f}",
        "fewest and most": f"{n.min()}, {n.max()}",
    }
    for k in range(10):
        row[f"mean of digit {k}"] = f"{n[s.digit == k].mean():.0f}"
    row["ON share"] = f"{p.mean():.3f}"
    edges_ms = [e / 1000 for e in SACCADES_US]
    for k in range(3):
        window = slice(int(edges_ms[k]), min(int(edges_ms[k + 1]), 340))
        top = window.start + int(np.argmax(rate[window]))
        wide = np.count_nonzero(rate[window] > rate[top] / 2)
        share = rate[window].sum() / rate.sum()
        on = p[(t_ms >= edges_ms[k]) & (t_ms < edges_ms[k + 1])].mean()
        mean_ms = t_ms[(t_ms >= edges_ms[k]) & (t_ms < edges_ms[k + 1])].mean()
        row[f"burst {k + 1}: mean time, peak, full width at half (ms)"] = f"{mean_ms:.1f}, {top}, {wide}"
        row[f"burst {k + 1}: events a ms at the peak, share of events, ON share"] = (
            f"{rate[top]:.1f}, {share:.3f}, {on:.3f}"
        )
    last = np.array([s[i]["t"][-1] for i in range(len(s))]) / 1000
    row["last event, percentiles 1, 50, 99 (ms)"] = ", ".join(f"{v:.0f}" for v in np.percentile(last, [1, 50, 99]))
    pixels = per_pixel(s)
    at = np.arange(40)
    row["pixels with events, with 3 or more"] = f"{pixels[1:].sum():.0f}, {pixels[3:].sum():.0f}"
    row["events in a pixel that has 3 or more, mean"] = f"{(pixels * at)[3:].sum() / pixels[3:].sum():.1f}"
    gap, before, after = intervals(s)
    for name, chosen in (
        ("ON to ON", (before == 1) & (after == 1)),
        ("OFF to OFF", (before == 0) & (after == 0)),
        ("OFF to ON", (before == 0) & (after == 1)),
        ("ON to OFF", (before == 1) & (after == 0)),
    ):
        row[f"{name} in a pixel: share, interval percentiles 5, 50, 95 (ms)"] = f"{chosen.mean():.3f}; " + ", ".join(
            f"{v / 1000:.1f}" for v in np.percentile(gap[chosen], [5, 50, 95])
        )
    row["isolated events"] = f"{isolated_share(s):.3f}"
    off_hz, on_hz = far_noise_hz(s)
    row["noise far from the digit, ON and OFF (Hz a pixel)"] = f"{on_hz:.2f}, {off_hz:.3f}"
    return row


def pair(real: Set, sim: Set) -> dict[str, str]:
    """What compares the two recordings of one digit."""
    a, b = np.diff(real.offsets), np.diff(sim.offsets)
    row = {"correlation of events per recording": f"{np.corrcoef(a, b)[0, 1]:.3f}"}
    other = of_another(sim)
    for name, edges, merge in (
        ("count map", (0, 400_000), True),
        ("count maps by saccade and polarity", SACCADES_US, False),
        ("count maps by 10 ms and polarity", tuple(range(0, 320_001, 10_000)), False),
    ):
        same, another = (correlation(real, x, edges, merge) for x in (sim, other))
        row[f"correlation of {name}: mean, 5th percentile"] = f"{same.mean():.3f}, {np.percentile(same, 5):.3f}"
        row[f"— {name} against another digit of the class: mean"] = f"{another.mean():.3f}"
    return row


def figure(real: Set, sim: Set, file: Path) -> None:
    """Real above simulated: ON (red) and OFF (blue) counts of each saccade, and the rates in time."""
    import matplotlib
    from PIL import Image

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(7, 8, figsize=(10, 9), dpi=90, gridspec_kw={"height_ratios": [1] * 6 + [1.6]})
    chosen = [int(np.flatnonzero(real.digit == d)[1]) for d in (2, 3, 4, 5, 6, 7, 8, 9)]
    for column, i in enumerate(chosen):
        for saccade in range(3):
            for below, s in enumerate((real, sim)):
                off, on = maps(s[i], SACCADES_US)[saccade]
                top = 9
                colour = np.clip(1 - np.stack([off, off + on, on], axis=-1) / top, 0, 1)
                ax = axes[2 * saccade + below, column]
                ax.imshow(colour)
                ax.set_xticks([])
                ax.set_yticks([])
                if column == 0:
                    ax.set_ylabel(f"{('real', 'simulated')[below]}\nsaccade {saccade + 1}", fontsize=7)
    for ax in axes[6]:
        ax.remove()
    grid = axes[6, 0].get_subplotspec().get_gridspec()
    ax = fig.add_subplot(grid[6, :4])
    edges = np.arange(0, 330, 3)
    for s, line in ((real, "-"), (sim, "--")):
        for p, colour in ((1, "tab:red"), (0, "tab:blue")):
            rate = np.histogram(s.events["t"][s.events["p"] == p] / 1000, edges)[0] / len(s) / 3
            label = f"{'real' if s is real else 'simulated'} {'ON' if p else 'OFF'}"
            ax.plot(edges[:-1], rate, line, color=colour, lw=1, label=label)
    ax.set_xlabel("time (ms)", fontsize=7)
    ax.set_ylabel("events a ms", fontsize=7)
    ax.legend(fontsize=5)
    ax.tick_params(labelsize=6)
    ax = fig.add_subplot(grid[6, 5:])
    bins = np.geomspace(300, 3e5, 80)
    for s, line in ((real, "-"), (sim, "--")):
        gap, before, after = intervals(s)
        for name, chosen_gaps, colour in (
            ("same polarity", before == after, "tab:green"),
            ("other polarity", before != after, "tab:orange"),
        ):
            label = f"{'real' if s is real else 'simulated'}, {name}"
            ax.plot(
                bins[:-1] / 1000,
                np.histogram(gap[chosen_gaps], bins)[0] / len(s),
                line,
                color=colour,
                lw=1,
                label=label,
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("interval between a pixel's events (ms)", fontsize=7)
    ax.legend(fontsize=5)
    ax.tick_params(labelsize=6)
    fig.tight_layout(pad=0.6)
    fig.canvas.draw()
    # 64 colours are enough and make a small file.
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3]
    Image.fromarray(np.ascontiguousarray(pixels)).quantize(64).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--figure", type=Path, default=HERE / "side_by_side.png")
    args = parser.parse_args()
    columns = []
    for real in real_recordings(args.data):
        sim = simulated(real, Parameters())
        # What compares a pair stands in the simulated column.
        columns += [describe(real), {**describe(sim), **pair(real, sim)}]
    figure(real, sim, args.figure)
    print("| | real, fitted on | simulated | real, others | simulated |")
    print("| --- | --- | --- | --- | --- |")
    for name in columns[1]:
        print(f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |")


if __name__ == "__main__":
    main()
