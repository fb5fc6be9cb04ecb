"""What ``cilspl chip mismatch`` leaves: two tables and a picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cil_spl.base import drawing
from cil_spl.base.errors import RequestError
from cil_spl.results.mismatch import Agreement, Mismatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(found: Mismatch, folder: Path) -> list[Path]:
    """``mismatch_bins.csv``, ``mismatch_budget.csv`` (fractions; a row for each layer and one for all) and
    ``mismatch.png``.

    Raises:
        RequestError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = [folder / "mismatch_bins.csv", folder / "mismatch_budget.csv"]
        with made[0].open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["bins", "layer", *COLUMNS])
            for bins, agreement in found.by_bins.items():
                out.writerows([bins, *row] for row in _lines(agreement))
        with made[1].open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["link", "layer", *COLUMNS, "difference_from_link_before"])
            for link in found.budget:
                steps = [link.before.difference(k) if link.before else None for k in _layers_and_all(link.chip)]
                out.writerows([link.name, *row, step] for row, step in zip(_lines(link.chip), steps, strict=True))
            for name, agreement in found.besides.items():
                out.writerows([f"besides: {name}", *row, None] for row in _lines(agreement))
        return [*made, drawing.write(picture(found), folder / "mismatch.png")]
    except OSError as error:
        raise RequestError(f"{folder}: cannot be written to ({error}); name another folder with --out") from error


COLUMNS = ("difference", "signed", "neurons_exact", "same_answers", "right_answers")


def _layers_and_all(agreement: Agreement) -> list[int | None]:
    return [*range(len(agreement.layers)), None]


def _lines(agreement: Agreement) -> list[list[Any]]:
    return [
        [
            "all" if k is None else agreement.layers[k],
            agreement.difference(k),
            agreement.bias(k),
            agreement.exact(k),
            *((agreement.same_answers, agreement.right_answers) if k is None else (None, None)),
        ]
        for k in _layers_and_all(agreement)
    ]


def picture(found: Mismatch) -> Figure:
    """Left: difference of each layer over the number of bins. Right: the budget, down to the chip."""
    figure = drawing.figure(10, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    bins = sorted(found.by_bins)
    layers = found.chip.layers
    for k, name in enumerate(layers):
        shade = 0.2 + 0.7 * k / max(1, len(layers) - 1)
        values = [100 * found.by_bins[b].difference(k) for b in bins]
        left.plot(bins, values, marker=".", color=_colour(shade), label=name)
    left.axvline(found.bins, color="0.6", linestyle=":", linewidth=1)
    left.annotate("the run's bins", (found.bins, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                  textcoords="offset points", fontsize=7, color="0.4")  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="time bins per recording", ylabel="difference from the chip (%)")
    left.set_title("8-bit network in time steps against the chip", fontsize=9)
    left.grid(alpha=0.3, which="both", linewidth=0.5)
    left.legend(frameon=False, fontsize=8)

    shown = found.budget
    at = np.arange(len(shown))
    values = [100 * link.chip.difference() for link in shown]
    right.barh(at, values, color=["#8c8c8c", *["#1f5a99"] * (len(shown) - 2), "#c1440e"])
    for y, link, value in zip(at, shown, values, strict=True):
        text = f"{value:.2f} %, {100 * link.chip.right_answers:.1f} % right"
        right.annotate(text, (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    names = [("" if i == 0 else "+ ") + link.name for i, link in enumerate(shown)]
    right.set_yticks(at, [*names[:-1], f"{names[-1]} = chip"], fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="difference from the chip, all layers (%)", xlim=(0, 1.7 * max(*values, 1e-9)))
    right.set_title(f"from {found.bins} time bins to the chip, one change at a time", fontsize=9)
    right.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        right.spines[side].set_visible(False)
    return figure


def _colour(shade: float) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](shade)
