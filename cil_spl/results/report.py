"""What the user sees in the terminal; NO_COLOR and the terminal's width are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_spl.results.row import COSTS, Figures

if TYPE_CHECKING:
    from rich.console import Console

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def console(stderr: bool = False, width: int | None = None) -> Console:
    """A console; with NO_COLOR set it sends no control sequence at all."""
    from rich.console import Console

    colors: Any = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, color_system=colors, highlight=False, markup=False, width=width)


def terminal() -> tuple[int | None, bool]:
    """The width of the terminal, and whether it shows bold; no width where output goes to a file or another program."""
    if not sys.stdout.isatty():
        return None, False
    out = console()
    return out.width, out.is_terminal and out.color_system is not None


def percent(value: float | None) -> str:
    """A fraction in percent, two places."""
    return "–" if value is None else f"{100 * value:.2f}"


def unit_of(value: float) -> tuple[float, str]:
    """The divisor and letter that a large number is written with."""
    return next(((size, letter) for size, letter in _UNITS if abs(value) >= size), (1.0, ""))


def amount(value: float | None) -> str:
    """A count in three figures or so: 1234567 → 1.23M."""
    if value is None:
        return "–"
    size, letter = unit_of(value)
    return f"{value / size:.2f}{letter}" if letter else f"{value:.0f}"


def written(name: str, value: float, figures: Figures) -> str:
    """A figure of a row: a fraction in per cent, a count with its unit, any other number in four figures."""
    return percent(value) if name in figures.shares else amount(value) if name in COSTS else f"{value:.4g}"


def where(target: object, backend: object) -> str:
    """``speck (simulator)``; the back end only where there is a choice."""
    return str(target) if backend in (None, "", "None", "null", target) else f"{target} ({backend})"


def shortened(path: Path | str) -> str:
    """A path as it reads from where the user stands."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def show_line(info: Mapping[str, Any], name: str, out: Console | None = None) -> None:
    """The end of a run of a sweep: its figures in a line."""
    row = info["row"]
    figures = Figures([row])
    told = [
        f"{figures.heads[figure].lower()} {written(figure, row[figure], figures)}"
        for figure in figures.names
        if row.get(figure) is not None
    ]
    (out or console()).print(f"{name}: {', '.join(told)}", soft_wrap=True, highlight=False)


def show_row(info: Mapping[str, Any], folder: Path | str, out: Console | None = None) -> None:
    """The end of a run: its row, how many warnings it gave, where it lies."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    out = out or console()
    row = info["row"]
    about = [row.get("method"), row.get("model"), row.get("dataset"), where(row.get("target"), row.get("backend"))]
    out.print()
    out.print(" · ".join(str(part) for part in [*about, f"seed {row.get('seed')}"] if part is not None), style="bold")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    cells = []
    figures = Figures([row])
    for name in figures.names:
        if row.get(name) is not None:
            table.add_column(figures.heads[name] + (" %" if name in figures.shares else ""), justify="right")
            cells.append(written(name, row[name], figures))
    table.add_column("Recordings", justify="right")
    cells.append(str(row.get("n", "–")))
    table.add_row(*cells)
    out.print(table)
    out.print()
    warnings = len(info.get("warnings", []))
    if warnings:
        out.print(f"{warnings} {'warning' if warnings == 1 else 'warnings'} above, kept in run.json", style="yellow")
    name = info["run_id"][:12] if info.get("run_id") else "(not tracked)"
    out.print(f"run {name}  {shortened(folder)}", soft_wrap=True)
