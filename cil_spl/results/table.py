"""Rows of a results table from tracked runs: runs that differ in nothing but the seed make one row.

Mean and sample standard deviation (divisor n − 1) are taken over seeds, of the percentages that each
run reported for its test set. Which epoch and which hyperparameters a run took was settled on its
validation split; nothing here chooses between runs.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import close
from cil_spl.results import report
from cil_spl.results.row import COSTS, STAGES, WORSE, Figures
from cil_spl.results.values import as_text

# Parameters that do not tell one configuration from another: what a run is called, where things lie, how many
# threads work at it. What lies there does: the number of test recordings is compared.
IGNORED = (
    "seed",
    "name",
    "extensions",
    "trainer.threads",
    "target.threads",
    "dataset.root",
    "dataset.download",
    "test_dataset.root",
    "test_dataset.download",
)
IGNORED_GROUPS = ("tracking.",)
# The columns that name a row; everything else that differs is listed as a setting.
IDENTITY = ("method", "model", "dataset", "target", "backend", "bins")
NOTE = (
    "mean ± standard deviation (n − 1) over seeds; finished runs only, none left out for its result; "
    "each run chose its epoch on its validation split and was scored once on the test set"
)
# Heads of columns that hold numbers begin so.
NUMBERS = (*STAGES.values(), *WORSE.values(), *COSTS.values(), "8-bit", "Bins", "Seeds", "n")
FORMATS = ("text", "markdown", "csv", "latex")


@dataclass(frozen=True)
class Row:
    """One configuration.

    Attributes:
        identity: method, model, dataset, target, backend, bins.
        settings: what else tells it from the other rows of the same identity.
        values: figure → one value per seed; runs without it are left out.
        seeds: in ascending order.
        n: recordings in the test set.
        commits: of the code that made the runs.
    """

    identity: Mapping[str, str]
    settings: Mapping[str, str]
    values: Mapping[str, tuple[float, ...]]
    seeds: tuple[str, ...]
    n: str
    commits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows, the figures in them, and what a reader has to know about them."""

    rows: tuple[Row, ...]
    figures: Figures
    notes: tuple[str, ...] = field(default=(NOTE,))


def tabulate(runs: Iterable[Mapping[str, Any]], filters: Sequence[str] = ()) -> Table:
    """Group runs into rows.

    Args:
        runs: in the shape of ``run.json``, the newest first.
        filters: ``key=value``; the key is a parameter or a column, several values with commas.

    Raises:
        RequestError: a filter's key is unknown, or no finished run is left.
    """
    finished = [run for run in runs if run["status"] == "finished" and run["row"].get("method")]
    wanted = _checked(filters, finished)
    kept = [run for run in finished if all(_passes(run, text) for text in wanted)]
    if not kept:
        what = f" that fit {' '.join(filters)}" if filters else ""
        raise RequestError(f"no finished runs{what}; `cilspl run` makes one")
    groups: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    repeated = 0
    for run in kept:  # the newest first: it counts where a seed was run twice
        n = run["row"].get("n")
        data = ("" if n is None else f"{float(n):.0f}", run["tags"].get("data", ""))
        key = (tuple(identity(run).items()), tuple(sorted(configuration(run).items())), *data)
        seeds = groups.setdefault(key, {})
        seed = str(run["row"].get("seed", run["params"].get("seed")))
        repeated += seed in seeds
        seeds.setdefault(seed, run)
    figures = Figures(run["row"] for run in kept)
    rows = [
        _row(dict(key[0]), _told_apart(key, groups), key[2], seeds, figures)
        for key, seeds in sorted(groups.items(), key=lambda item: _order(item[0]))
    ]
    return Table(tuple(rows), figures, tuple(_notes(rows, repeated)))


def identity(run: Mapping[str, Any]) -> dict[str, str]:
    """The columns that name a run's row."""
    row, params = run["row"], run["params"]
    named = {key: row.get(key) for key in IDENTITY[:-1]} | {"bins": params.get("frames.bins")}
    return {key: "" if value in (None, "None", "null") else as_text(value) for key, value in named.items()}


def configuration(run: Mapping[str, Any]) -> dict[str, str]:
    """Every parameter that makes a run what it is, as text."""
    return {
        key: as_text(value)
        for key, value in run["params"].items()
        if key not in IGNORED and not key.startswith(IGNORED_GROUPS)
    }


def _told_apart(key: tuple[Any, ...], groups: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """What differs between this group and the others that bear the same name."""
    named_alike = [dict(other[1]) for other in groups if other[0] == key[0]]
    mine = dict(key[1])
    names = sorted({name for other in named_alike for name in {**other, **mine}})
    absent = "(none)"
    return {n: mine.get(n, absent) for n in names if any(o.get(n, absent) != mine.get(n, absent) for o in named_alike)}


def _row(
    names: dict[str, str], settings: dict[str, str], n: str, seeds: Mapping[str, Mapping[str, Any]], figures: Figures
) -> Row:
    values = {}
    ordered = sorted(seeds, key=lambda seed: (len(seed), seed))
    for figure in figures.names:
        found = [seeds[seed]["row"].get(figure) for seed in ordered]
        values[figure] = tuple(float(v) for v in found if v is not None and not math.isnan(float(v)))
    commits = {
        run["tags"]["git_commit"][:9] + ("+" if run["tags"].get("git_dirty") == "true" else "")
        for run in seeds.values()
        if run["tags"].get("git_commit")
    }
    return Row(names, settings, values, tuple(ordered), n, tuple(sorted(commits)))


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    names = dict(key[0])
    bins = names["bins"]
    number = int(bins) if bins.isdigit() else 0
    return (names["dataset"], names["target"], names["method"], names["model"], number, key[1])


def _notes(rows: Sequence[Row], repeated: int) -> list[str]:
    notes = [NOTE]
    if repeated:
        notes.append(f"{repeated} repeated {'run' if repeated == 1 else 'runs'} left out: of each seed the latest")
    mixed = [row for row in rows if len(row.commits) > 1]
    if mixed:
        commits = sorted({commit for row in mixed for commit in row.commits})
        notes.append(f"{len(mixed)} of the rows mix commits: {', '.join(commits)} (+ marks uncommitted changes)")
    uneven = [row for row in rows if any(0 < len(v) < len(row.seeds) for v in row.values.values())]
    if uneven:
        notes.append(f"in {len(uneven)} of the rows not every seed has every figure")
    return notes


# --------------------------------------------------------------------------------------------------
# filters


def _checked(filters: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    if not filters:
        return filters
    known = sorted({key for run in runs for key in (*run["params"], *run["tags"], *IDENTITY)})
    for text in filters:
        key, equals, _ = text.partition("=")
        if not equals:
            raise RequestError(f"--filter {text}: needs key=value, for example --filter method=bptt")
        if runs and key not in known:
            meant = close(key, known)
            raise RequestError(
                f"--filter {text}: no run has {key}; "
                + (f"did you mean {meant}?" if meant else f"columns are {', '.join(IDENTITY)}, and every parameter")
            )
    return filters


def _passes(run: Mapping[str, Any], text: str) -> bool:
    key, _, wanted = text.partition("=")
    found = {**run["params"], **run["tags"], **identity(run)}.get(key)
    return any(_same(as_text(found), value) for value in wanted.split(","))


def _same(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    try:
        return float(found) == float(wanted)  # 1e-3 is 0.001
    except ValueError:
        return False


# --------------------------------------------------------------------------------------------------
# numbers and formats


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def written(figure: str, values: Sequence[float], figures: Figures) -> str:
    """``97.50 ± 0.12``: per cent, a count with its unit, or a number as it is."""
    if not values:
        return "–"
    mean, deviation = spread(values)
    if figure in COSTS:
        size, letter = report.unit_of(mean)
        scaled = f"{mean / size:.2f}" if letter else f"{mean:.0f}"
        return f"{scaled}{letter}" if deviation is None else f"{scaled} ± {deviation / size:.2f} {letter}".rstrip()
    first = report.written(figure, mean, figures)
    return first if deviation is None else f"{first} ± {report.written(figure, deviation, figures)}"


def columns(table: Table) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a printed table; columns that no row fills are left out."""
    figures = table.figures
    shown = [f for f in figures.names if any(row.values[f] for row in table.rows)]
    settings = any(row.settings for row in table.rows)
    heads = ["Method", "Model", "Data set", "Target", "Bins", *(["Settings"] if settings else []), "Seeds", "n"]
    heads += [f"{figures.heads[f]} (%)" if f in figures.shares else figures.heads[f] for f in shown]
    cells = []
    for row in table.rows:
        names = row.identity
        about = [names["method"], names["model"], names["dataset"], report.where(names["target"], names["backend"])]
        about.append(names["bins"])
        if settings:
            about.append(" ".join(f"{key}={_short(value)}" for key, value in row.settings.items()))
        cells.append([*about, str(len(row.seeds)), row.n, *(written(f, row.values[f], figures) for f in shown)])
    return heads, cells


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:24]}…{value[-12:]}"


def render(table: Table, form: str = "text", width: int | None = None) -> str:
    """The table as ``text``, ``markdown``, ``csv`` or ``latex``."""
    return {"text": _text, "markdown": _markdown, "csv": _csv, "latex": _latex}[form](table, width)


def _text(table: Table, width: int | None) -> str:
    """Columns where all rows agree move above the table when it would not fit; what is still too wide wraps."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Rich

    heads, cells = columns(table)
    out = report.console(width=width)
    above = []
    if _natural_width(heads, cells) > out.width:
        agreed = [
            i for i, head in enumerate(heads) if head not in ("Method", "Model") and len({row[i] for row in cells}) == 1
        ]
        agreed = [i for i in agreed if heads[i] in ("Data set", "Target", "Bins", "Settings", "Seeds", "n")]
        above = [f"{heads[i]}: {cells[0][i]}" for i in agreed]
        heads = [head for i, head in enumerate(heads) if i not in agreed]
        cells = [[cell for i, cell in enumerate(row) if i not in agreed] for row in cells]
    narrow = _natural_width(heads, cells) > out.width
    if narrow:
        heads = [head.replace(" (%)", "\n(%)").replace("Quantised", "8-bit") for head in heads]
        cells = [[cell.replace(" ± ", "\n± ").replace(" (", "\n(") for cell in row] for row in cells]
    grid = Rich(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0 if narrow else 1, 0, 0))
    for head in heads:
        number = _is_number(head)
        grid.add_column(head, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in cells:
        grid.add_row(*row)
    with out.capture() as capture:
        if above:
            out.print("   ".join(above))
            out.print()
        out.print(grid)
        out.print()
        for note in table.notes:
            out.print(note, style="dim")
    return capture.get()


def _is_number(head: str) -> bool:
    return head.endswith("(%)") or head.split()[0] in NUMBERS


def _natural_width(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    return sum(max(len(head), *(len(row[i]) for row in cells)) + 2 for i, head in enumerate(heads))


def _markdown(table: Table, _width: int | None) -> str:
    heads, cells = columns(table)
    rule = ["---:" if _is_number(head) else "---" for head in heads]
    lines = [heads, rule, *([cell.replace("|", "\\|") for cell in row] for row in cells)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return body + "\n\n" + "\n".join(f"{note}  " for note in table.notes) + "\n"


def _csv(table: Table, _width: int | None) -> str:
    """Every figure as numbers: mean, standard deviation (empty for one seed) and count of its own."""
    settings = sorted({key for row in table.rows for key in row.settings})
    heads = [*IDENTITY, *settings, "seeds", "n"]
    for figure in _in_csv(table):
        heads += [f"{figure} mean", f"{figure} sd"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    for row in table.rows:
        cells: list[Any] = [row.identity[key] for key in IDENTITY]
        cells += [row.settings.get(key, "") for key in settings]
        cells += [" ".join(row.seeds), row.n]
        for figure in _in_csv(table):
            mean, deviation = spread(row.values[figure]) if row.values[figure] else (None, None)
            cells += ["" if value is None else f"{value:.10g}" for value in (mean, deviation)]
        writer.writerow(cells)
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
        "±": r"$\pm$",
        "−": r"$-$",
        "–": "--",
        "→": r"$\to$",
        "…": r"\ldots{}",
    }
)


def _latex(table: Table, _width: int | None) -> str:
    heads, cells = columns(table)
    form = "".join("r" if _is_number(head) else "l" for head in heads)
    lines = [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in (heads, *cells)]
    body = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
    notes = "\n".join(f"% {note}" for note in table.notes)
    return f"{notes}\n% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{form}}}\n{body}\n\\end{{tabular}}\n"
