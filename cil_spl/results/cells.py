"""The cells of a printed results table: words and digits, the same in each form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from cil_spl.results import report
from cil_spl.results.comparison import marks
from cil_spl.results.row import COSTS, STAGES, WORSE, Figures
from cil_spl.results.settings import ABSENT, shortened
from cil_spl.results.table import Row, Table

# Heads of columns that hold numbers begin so.
NUMBERS = (*STAGES.values(), *WORSE.values(), *COSTS.values(), "Bins", "Seeds", "n", "Difference")
CHOSEN = "reference"
SETTINGS, DIFFERENCE = "Settings", "Difference"


@dataclass(frozen=True)
class Grid:
    """Heads and cells of a printed table.

    Attributes:
        heads: of the columns.
        cells: of the rows, in the same order.
        settings: of each row, ``key=value`` each.
        bold: (row, column) of what is printed bold.
    """

    heads: list[str]
    cells: list[list[str]]
    settings: list[list[str]] = field(default_factory=list)
    bold: frozenset[tuple[int, int]] = frozenset()

    def only(self, columns: Sequence[int]) -> Grid:
        """Some of the columns."""
        bold = {(row, columns.index(column)) for row, column in self.bold if column in columns}
        cells = [[row[k] for k in columns] for row in self.cells]
        return Grid([self.heads[k] for k in columns], cells, self.settings, frozenset(bold))

    def with_settings(self) -> Grid:
        """With a last column for them, if there are any."""
        if not any(self.settings):
            return self
        cells = [[*row, " ".join(told)] for row, told in zip(self.cells, self.settings, strict=True)]
        return Grid([*self.heads, SETTINGS], cells, [[] for _ in cells], self.bold)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None of a single value."""
    try:
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    except OverflowError:  # numbers near the largest that there are
        return math.inf, math.inf if len(values) > 1 else None


def written(figure: str, values: Sequence[float], figures: Figures) -> str:
    """``97.50 ± 0.12``: per cent, a count with its unit, or a number as it is."""
    if not values:
        return ABSENT
    mean, deviation = spread(values)
    if figure in COSTS:
        size, letter = report.unit_of(mean)
        scaled = f"{mean / size:.2f}" if letter else f"{mean:.0f}"
        return f"{scaled}{letter}" if deviation is None else f"{scaled}{letter} ± {deviation / size:.2f}{letter}"
    first = report.written(figure, mean, figures)
    return first if deviation is None else f"{first} ± {report.written(figure, deviation, figures)}"


def written_difference(row: Row, table: Table) -> str:
    """``+1.20 (-0.30 to +2.70)``, in points of per cent where the score is a fraction."""
    if row.chosen:
        return CHOSEN
    d = row.difference
    if d is None:
        return ABSENT
    share = row.score in table.figures.shares

    def number(value: float) -> str:
        text = f"{100 * value:+.2f}" if share else f"{value:+.4g}"
        return text.replace("-", "+") if float(text) == 0 else text

    ends = "" if d.low is None or d.high is None else f" ({number(d.low)} to {number(d.high)})"
    unit = " %" if share and not _is_share(table) else ""
    return f"{number(d.value)}{ends}{unit}{marks(row, table.rows)}"


def _is_share(table: Table) -> bool:
    """Whether all differences are points of per cent, so that the head says it."""
    return {row.score for row in table.rows if row.difference is not None} <= table.figures.shares


def cells_of(table: Table) -> Grid:
    """What is printed; columns that no row fills are left out."""
    figures = table.figures
    shown = [f for f in figures.names if any(row.values[f] for row in table.rows)]
    against = table.compares
    heads = ["Method", "Model", "Data set", "Target", "Bins", "Seeds", "n"]
    first = len(heads)
    heads += [f"{figures.heads[f]} (%)" if f in figures.shares else figures.heads[f] for f in shown]
    if against:
        heads.append(f"{DIFFERENCE} (%)" if _is_share(table) else DIFFERENCE)
    cells, bold = [], set()
    for k, row in enumerate(table.rows):
        names = row.identity
        about = [names["method"], names["model"], names["dataset"], report.where(names["target"], names["backend"])]
        about += [names["bins"], str(len(row.seeds)), row.n]
        numbers = [written(f, row.values[f], figures) for f in shown]
        numbers += [written_difference(row, table)] if against else []
        cells.append([one_line(cell) for cell in (*about, *numbers)])
        if row.best and row.score in shown:
            bold.add((k, first + shown.index(row.score)))
    told = [
        [one_line(f"{key}={value}") for key, value in row.items()]
        for row in shortened([row.settings for row in table.rows])
    ]
    return Grid([one_line(head) for head in heads], cells, told, frozenset(bold))


def columns(table: Table) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a printed table, settings in one column."""
    whole = cells_of(table).with_settings()
    return whole.heads, whole.cells


def one_line(text: str) -> str:
    """A name with a line break or another control character in it, which is written as Python writes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_number(head: str) -> bool:
    return head.endswith("(%)") or head.split()[0] in NUMBERS
