"""Part ``growth``: how a step's time grows with bins, batch, width of the layers and size of the image; growth.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sides
import turns
from turns import Options, told

from cil_spl.base import process

FILE = Path(__file__).with_name("growth.png")
AXES: dict[str, tuple[float, ...]] = {
    "bins": (1, 2, 5, 10, 20, 50, 100, 200),
    "batch": (8, 16, 32, 64, 128),
    "width": (0.5, 1, 2, 4),
    "size": (17, 34, 64, 96, 128),
}
QUICK: dict[str, tuple[float, ...]] = {"bins": (1, 4), "batch": (8, 16), "width": (0.5, 1), "size": (17, 34)}
LABELS = {"bins": "time bins", "batch": "recordings of a batch", "width": "features, times those of the quickstart",
          "size": "pixels of a side"}  # fmt: skip
BASE = {"bins": 10, "batch": 32, "width": 1.0, "size": 34}
REPEATS = 3


def part(options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
    """A table for each axis; one thread, random frames."""
    process.set_threads(1)
    names = [name for name in sides.all_sides() if not (options.quick and name in sides.peers.PEERS)]
    return [
        (f"ms over {axis}", [at(axis, value, names, options) for value in values])
        for axis, values in (QUICK if options.quick else AXES).items()
    ]


def at(axis: str, value: float, names: list[str], options: Options) -> dict[str, Any]:
    """Shortest times of the sides at one point."""
    told(f"growth: {axis} {value:g}")
    base = {**BASE, "bins": 2} if options.quick else BASE
    chosen = {**base, axis: value if axis == "width" else int(value)}
    problem = sides.random_problem(**chosen)  # type: ignore[arg-type]
    times = turns.taken(
        {name: sides.make_side(name, problem) for name in names}, min(REPEATS, options.repeats), turns.clock_of(1)
    )
    return {axis: value} | {name: float(f"{1e3 * min(values):.4g}") for name, values in times.items()}


def draw(tables: list[tuple[str, list[dict[str, Any]]]], file: Path = FILE) -> None:
    """Four panels, a line for each side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for (_, rows), panel in zip(tables, axes.flat, strict=True):
        axis, *names = rows[0]
        for name in names:
            style = "--" if "floor" in name else "-"
            width = 2.5 if name == sides.OURS else 1.5
            panel.plot([r[axis] for r in rows], [r[name] for r in rows], f".{style}", label=name, linewidth=width)
        panel.set(xscale="log", yscale="log", xlabel=LABELS[axis], ylabel="ms")
        panel.set_xticks(values := [row[axis] for row in rows], [f"{value:g}" for value in values], minor=False)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(file, dpi=100)
    plt.close(figure)
