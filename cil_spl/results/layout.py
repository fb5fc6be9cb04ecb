"""A results table as text, Markdown, CSV or LaTeX, with the same words and digits in each."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from cil_spl.results.cells import cells_of, is_number, one_line, spread
from cil_spl.results.row import STAGES
from cil_spl.results.settings import ABSENT
from cil_spl.results.table import IDENTITY, Table
from cil_spl.results.text import as_lines


def render(table: Table, form: str = "text", width: int | None = None, styled: bool = False) -> str:
    """As :func:`cil_spl.results.table.render`."""
    if form == "text":
        return as_lines(table, width, styled)
    return {"markdown": _markdown, "csv": _csv, "latex": _latex}[form](table)


# What Markdown would read as something else; an underscore inside a word is none of it.
_MARKUP = re.compile(r"[\\|*`<\[\]~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


def _markdown(table: Table) -> str:
    whole = cells_of(table).with_settings()
    lines = [whole.heads, ["---:" if is_number(head) else "---" for head in whole.heads]]
    for k, row in enumerate(whole.cells):
        marked = [_plain(cell) for cell in row]
        lines.append([f"**{cell}**" if (k, at) in whole.bold else cell for at, cell in enumerate(marked)])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return body + "\n\n" + "\n".join(f"{_plain(one_line(note))}  " for note in table.notes) + "\n"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\g<0>", text)


def _csv(table: Table) -> str:
    """Every figure in full, mean, standard deviation (empty for one seed); then as the other forms print it."""
    settings = sorted({key for row in table.rows for key in row.settings})
    printed = cells_of(table)
    numbers = [k for k, head in enumerate(printed.heads) if k >= len(IDENTITY) + 1]
    against = table.compares
    heads = [*IDENTITY, *map(one_line, settings), "seeds", "n"]
    for figure in _in_csv(table):
        heads += [one_line(f"{figure} mean"), one_line(f"{figure} sd")]
    heads += ["difference", "difference low", "difference high"] if against else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*heads, "best", *(printed.heads[k] for k in numbers)])
    for row, cells in zip(table.rows, printed.cells, strict=True):
        line: list[Any] = [one_line(row.identity[key]) for key in IDENTITY]
        line += [one_line(row.settings.get(key, ABSENT)) for key in settings]
        line += [one_line(" ".join(row.seeds)), row.n]
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
    whole = cells_of(table).with_settings()
    form = "".join("r" if is_number(head) else "l" for head in whole.heads)
    rows = [[_tex(head) for head in whole.heads]]
    for k, row in enumerate(whole.cells):
        cells = [_tex(cell) for cell in row]
        rows.append([rf"\textbf{{{cell}}}" if (k, at) in whole.bold else cell for at, cell in enumerate(cells)])
    # A row that begins with a bracket would be read as an argument of the line break before it.
    lines = [" & ".join("{}" + c if c[:1] == "[" else c for c in row) + r" \\" for row in rows]
    body = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
    notes = "\n".join(f"% {one_line(note)}" for note in table.notes)
    return f"{notes}\n% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{form}}}\n{body}\n\\end{{tabular}}\n"
