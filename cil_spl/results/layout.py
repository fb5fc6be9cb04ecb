"""A results table as text, Markdown, CSV or LaTeX, with the same words and digits in each.

Text that has to fit a terminal gives up its width step by step: settings go under their row, columns in which all
rows agree above the table, deviations under their means, names above their figures, and at last each figure has a line
of its own. No name is ever cut or broken; one that is wider than the terminal stands out of it.
"""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cil_spl.results import report
from cil_spl.results.comparison import marks
from cil_spl.results.row import COSTS, STAGES, WORSE, Figures
from cil_spl.results.settings import ABSENT, shortened
from cil_spl.results.table import IDENTITY, Row, Table

# Heads of columns that hold numbers begin so.
NUMBERS = (*STAGES.values(), *WORSE.values(), *COSTS.values(), "Bins", "Seeds", "n", "Difference")
AGREED = ("Data set", "Target", "Bins", "Seeds", "n")  # may stand above the table
CHOSEN = "reference"
SETTINGS, DIFFERENCE = "Settings", "Difference"
_GAP = 2


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


def render(table: Table, form: str = "text", width: int | None = None, styled: bool = False) -> str:
    """As :func:`cil_spl.results.table.render`."""
    if form == "text":
        return _text(table, width, styled)
    return {"markdown": _markdown, "csv": _csv, "latex": _latex}[form](table)


# --------------------------------------------------------------------------------------------------
# numbers and cells


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
        return f"{scaled}{letter}" if deviation is None else f"{scaled} ± {deviation / size:.2f} {letter}".rstrip()
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


def grid(table: Table) -> Grid:
    """What is printed; columns that no row fills are left out."""
    figures = table.figures
    shown = [f for f in figures.names if any(row.values[f] for row in table.rows)]
    against = any(row.chosen for row in table.rows)
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
        cells.append([_one_line(cell) for cell in (*about, *numbers)])
        if row.best and row.score in shown:
            bold.add((k, first + shown.index(row.score)))
    told = [
        [_one_line(f"{key}={value}") for key, value in row.items()]
        for row in shortened([row.settings for row in table.rows])
    ]
    return Grid(heads, cells, told, frozenset(bold))


def columns(table: Table) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a printed table, settings in one column."""
    whole = grid(table).with_settings()
    return whole.heads, whole.cells


def _one_line(text: str) -> str:
    """A name with a line break or another control character in it, which is written as Python writes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_number(head: str) -> bool:
    return head.endswith("(%)") or head.split()[0] in NUMBERS


# --------------------------------------------------------------------------------------------------
# text


def _text(table: Table, width: int | None, styled: bool) -> str:
    whole = grid(table)
    lines = list(_fitted(whole, width, styled))
    notes = [line for note in table.notes for line in _wrapped([_one_line(note)], width, "")]
    return "\n".join([*lines, "", *notes]) + "\n"


def _fitted(whole: Grid, width: int | None, styled: bool) -> Iterator[str]:
    """The lines of the widest form that fits."""
    one_line = whole.with_settings()
    if width is None or _width(one_line) <= width:
        yield from _lines(one_line, None, styled)
        return
    above, rest = ([], whole) if _width(whole) <= width else _agreed(whole)
    if above:
        yield from _items(above, width, "")
        yield ""
    if _width(rest) <= width or _width(_folded(rest)) <= width:
        yield from _lines(rest if _width(rest) <= width else _folded(rest), width, styled)
        return
    numbers = [k for k, head in enumerate(rest.heads) if _is_number(head)]
    names = [k for k in range(len(rest.heads)) if k not in numbers]
    titles = [[row[k] for k in names if row[k]] for row in rest.cells]
    figures = _folded(rest.only(numbers))
    if _width(figures) <= width:
        yield from _lines(figures, width, styled, titles)
        return
    for k, title in enumerate(titles):
        if k:
            yield ""
        yield from _items(title, width, "")
        yield from _items(rest.settings[k], width, "  ", breakable=True)
        for column in numbers:
            yield f"  {rest.heads[column]}: {_bold(rest.cells[k][column], styled and (k, column) in rest.bold)}"


def _agreed(whole: Grid) -> tuple[list[str], Grid]:
    """What stands above the table since all rows agree in it, and the rest."""
    same = [k for k, head in enumerate(whole.heads) if head in AGREED and len({row[k] for row in whole.cells}) == 1]
    above = [f"{whole.heads[k]}: {whole.cells[0][k]}" for k in same]
    return above, whole.only([k for k in range(len(whole.heads)) if k not in same])


def _folded(whole: Grid) -> Grid:
    """Deviations and intervals under their means, units under their heads."""
    heads = [head.replace(" (%)", "\n(%)") for head in whole.heads]
    numbers = [_is_number(head) for head in whole.heads]
    cells = [
        [_on_lines(cell) if number else cell for cell, number in zip(row, numbers, strict=True)] for row in whole.cells
    ]
    return Grid(heads, cells, whole.settings, whole.bold)


def _on_lines(cell: str) -> str:
    return cell.replace(" ± ", "\n± ").replace(" (", "\n(")


def _size(text: str) -> int:
    """How many columns of a terminal a text takes; some letters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _widths(whole: Grid) -> list[int]:
    every = [whole.heads, *whole.cells]
    return [max(_size(part) for row in every for part in row[k].split("\n")) for k in range(len(whole.heads))]


def _width(whole: Grid) -> int:
    widths = _widths(whole)
    return sum(widths) + _GAP * (len(widths) - 1)


def _lines(
    whole: Grid, width: int | None, styled: bool, titles: Sequence[Sequence[str]] | None = None
) -> Iterator[str]:
    """Heads, a rule, and the rows; what stands above and under a row in lines of their own."""
    widths = _widths(whole)
    right = [_is_number(head.replace("\n", " ")) for head in whole.heads]
    yield from _row(whole.heads, widths, right)
    yield "─" * (sum(widths) + _GAP * (len(widths) - 1))
    for k, row in enumerate(whole.cells):
        tall = titles is not None or any("\n" in cell for one in whole.cells for cell in one)
        if k and (tall or any(whole.settings)):
            yield ""
        if titles is not None:
            yield from _items(titles[k], width, "")
        bold = [styled and (k, column) in whole.bold for column in range(len(row))]
        yield from _row(row, widths, right, bold)
        yield from _items(whole.settings[k], width, "  ", breakable=True)


def _row(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], bold: Sequence[bool] | None = None
) -> Iterator[str]:
    parts = [cell.split("\n") for cell in cells]
    for line in range(max(map(len, parts))):
        shown = []
        for k, part in enumerate(parts):
            text = part[line] if line < len(part) else ""
            space = " " * (widths[k] - _size(text))
            text = _bold(text, bold is not None and bold[k])
            shown.append(space + text if right[k] else text + space)
        yield (" " * _GAP).join(shown).rstrip()


def _bold(text: str, wanted: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if wanted and text else text


def _items(items: Sequence[str], width: int | None, indent: str, breakable: bool = False) -> Iterator[str]:
    """As many in a line as fit; one that is too long by itself is broken between its words, and in one if it may be."""
    line = ""
    for item in items:
        if line and width is not None and _size(indent + line) + 3 + _size(item) > width:
            yield from _wrapped([line], width, indent, breakable)
            line = ""
        line = f"{line}   {item}" if line else item
    if line:
        yield from _wrapped([line], width, indent, breakable)


def _wrapped(lines: Sequence[str], width: int | None, indent: str, breakable: bool = False) -> Iterator[str]:
    for line in lines:
        if width is None or _size(indent + line) <= width:
            yield indent + line
            continue
        yield from textwrap.wrap(
            line,
            max(width, len(indent) + 1),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=breakable,
            break_on_hyphens=False,
            drop_whitespace=True,
            replace_whitespace=False,
        )


# --------------------------------------------------------------------------------------------------
# Markdown, CSV, LaTeX

# What Markdown would read as something else; an underscore inside a word is none of it.
_MARKUP = re.compile(r"[\\|*`<\[\]~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


def _markdown(table: Table) -> str:
    whole = grid(table).with_settings()
    lines = [whole.heads, ["---:" if _is_number(head) else "---" for head in whole.heads]]
    for k, row in enumerate(whole.cells):
        marked = [_plain(cell) for cell in row]
        lines.append([f"**{cell}**" if (k, at) in whole.bold else cell for at, cell in enumerate(marked)])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return body + "\n\n" + "\n".join(f"{_plain(_one_line(note))}  " for note in table.notes) + "\n"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\g<0>", text)


def _csv(table: Table) -> str:
    """Every figure in full, mean, standard deviation (empty for one seed); then as the other forms print it."""
    settings = sorted({key for row in table.rows for key in row.settings})
    printed = grid(table)
    numbers = [k for k, head in enumerate(printed.heads) if k >= len(IDENTITY) + 1]
    against = any(row.chosen for row in table.rows)
    heads = [*IDENTITY, *map(_one_line, settings), "seeds", "n"]
    for figure in _in_csv(table):
        heads += [f"{figure} mean", f"{figure} sd"]
    heads += ["difference", "difference low", "difference high"] if against else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*heads, "best", *(printed.heads[k] for k in numbers)])
    for row, cells in zip(table.rows, printed.cells, strict=True):
        line: list[Any] = [_one_line(row.identity[key]) for key in IDENTITY]
        line += [_one_line(row.settings.get(key, ABSENT)) for key in settings]
        line += [" ".join(row.seeds), row.n]
        values: list[float | None] = []
        for figure in _in_csv(table):
            values += spread(row.values[figure]) if row.values[figure] else (None, None)
        d = row.difference
        values += ([None] * 3 if d is None else [d.value, d.low, d.high]) if against else []
        line += ["" if value is None else f"{value:.10g}" for value in values]
        writer.writerow([*line, "yes" if row.best else "", *(cells[k] for k in numbers)])
    return out.getvalue()


def _in_csv(table: Table) -> list[str]:
    """The metrics of every network, and of the other figures those that a row has."""
    filled = {name for row in table.rows for name, values in row.values.items() if values}
    return [name for name in table.figures.names if name in filled or name.partition("/")[0] in STAGES]


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": r"$-$",
        "–": "--",
        "→": r"$\to$",
        "…": r"\ldots{}",
        "¹": r"$^1$",
        "²": r"$^2$",
        "\0": "-{}",
    }
)


def _tex(text: str) -> str:
    """A text that LaTeX shows as it is: two hyphens are no dash."""
    return re.sub("-(?=-)", "\0", text).translate(_LATEX)


def _latex(table: Table) -> str:
    whole = grid(table).with_settings()
    form = "".join("r" if _is_number(head) else "l" for head in whole.heads)
    rows = [[_tex(head) for head in whole.heads]]
    for k, row in enumerate(whole.cells):
        cells = [_tex(cell) for cell in row]
        rows.append([rf"\textbf{{{cell}}}" if (k, at) in whole.bold else cell for at, cell in enumerate(cells)])
    # A row that begins with a bracket would be read as an argument of the line break before it.
    lines = [" & ".join("{}" + c if c[:1] == "[" else c for c in row) + r" \\" for row in rows]
    body = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
    notes = "\n".join(f"% {_one_line(note)}" for note in table.notes)
    return f"{notes}\n% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{form}}}\n{body}\n\\end{{tabular}}\n"
