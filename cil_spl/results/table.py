"""Rows of a results table from tracked runs: runs that differ in nothing but the seed make one row.

Mean and sample standard deviation (divisor n − 1) are taken over seeds, of the percentages that each
run reported for its test set. Which epoch and which hyperparameters a run took was settled on its
validation split; nothing here chooses between runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import close
from cil_spl.results import settings
from cil_spl.results.paired import Difference
from cil_spl.results.row import Figures, judged_by, value_of
from cil_spl.results.scores import Fetch
from cil_spl.results.settings import DRAWN_FROM, SOURCES, configuration, told_apart
from cil_spl.results.values import as_text

# The columns that name a row; everything else that differs is listed as a setting.
IDENTITY = ("method", "model", "dataset", "target", "backend", "bins")
NOTE = (
    "mean ± standard deviation (n − 1) over seeds; finished runs only, none left out for its result; "
    "each run chose its epoch on its validation split and was scored once on the test set"
)
WHICH_DATA = ("data", DRAWN_FROM)  # tags: rows of other test recordings, or of other training ones, are other rows
FORMATS = ("text", "markdown", "csv", "latex")
UNFINISHED = ("killed", "failed", "running")


@dataclass(frozen=True)
class Row:
    """One configuration.

    Attributes:
        identity: method, model, dataset, target, backend, bins.
        settings: what else tells it from the other rows.
        values: figure → one value per seed; runs without it are left out.
        seeds: in ascending order.
        n: recordings in the test set.
        commits: of the code that made the runs.
        score: the figure that rows are compared by.
        less: whether less of it is better.
        difference: of the score from the chosen row's; None where none is known.
        chosen: whether the others are compared with this one.
        best: whether its score is the best, and outside the interval of every other row's.
        runs: in the order of ``seeds``.
    """

    identity: Mapping[str, str]
    settings: Mapping[str, str]
    values: Mapping[str, tuple[float, ...]]
    seeds: tuple[str, ...]
    n: str
    commits: tuple[str, ...] = ()
    score: str = ""
    less: bool = False
    difference: Difference | None = None
    chosen: bool = False
    best: bool = False
    runs: tuple[Mapping[str, Any], ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Table:
    """Rows, the figures in them, and what a reader has to know about them."""

    rows: tuple[Row, ...]
    figures: Figures
    notes: tuple[str, ...] = field(default=(NOTE,))

    @property
    def compares(self) -> bool:
        """Whether rows are compared, with one of them or each with a network of its own."""
        return any(row.chosen or row.difference is not None for row in self.rows)


def tabulate(
    runs: Iterable[Mapping[str, Any]],
    filters: Sequence[str] = (),
    against: Sequence[str] = (),
    fetch: Fetch | None = None,
) -> Table:
    """Group runs into rows.

    Args:
        runs: in the shape of ``run.json``, the newest first; ``against`` reads what lies in their ``folder``.
        filters: ``key=value``; the key is a parameter or a column, several values with commas.
        against: likewise; chooses the row of each data set that the others are compared with. Or one of ``STAGES``, for
            each row's deployed network against its own one at that stage. Nothing for neither.
        fetch: asks the store for a file of a run whose folder is gone.

    Raises:
        RequestError: a key of a filter is unknown, no finished run is left, or ``against`` chooses no row or several.
    """
    from cil_spl.results import comparison

    runs = list(runs)
    wanted = _checked("--filter", filters, runs)
    fitting = [run for run in runs if all(_passes(run, text) for text in wanted)]
    kept = [run for run in fitting if _counts(run)]
    if not kept:
        what = f" that fit {' '.join(filters)}" if filters else ""
        raise RequestError(f"no finished runs{what}; `cilspl run` makes one{_others(fitting)}")
    groups: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    repeated = 0
    for run in kept:  # the newest first: it counts where a seed was run twice
        n = value_of(run, "n")
        data = ("" if n is None else f"{n:.0f}", *(run["tags"].get(tag, "") for tag in WHICH_DATA))
        key = (tuple(identity(run).items()), tuple(sorted(configuration(run).items())), *data)
        seeds = groups.setdefault(key, {})
        seed = str(run["row"].get("seed", run["params"].get("seed")))
        repeated += seed in seeds
        seeds.setdefault(seed, run)
    figures = Figures(run["row"] for run in kept)
    ordered = sorted(groups.items(), key=lambda item: _order(item[0]))
    apart = _settings([key for key, _ in ordered])
    rows = [_row(dict(key[0]), told, key[2], seeds, figures) for (key, seeds), told in zip(ordered, apart, strict=True)]
    if against and not comparison.own_stage(against):
        by = _checked("--against", against, kept)
        rows = [replace(row, chosen=all(_passes(run, text) for run in row.runs for text in by)) for row in rows]
    rows, compared = comparison.compare(rows, figures, against, fetch)
    left_out = _left_out(runs, fitting, repeated)
    return Table(tuple(rows), figures, (NOTE, *left_out, *_notes(rows), *compared))


def _counts(run: Mapping[str, Any]) -> bool:
    return run["status"] == "finished" and bool(run["row"].get("method"))


def identity(run: Mapping[str, Any]) -> dict[str, str]:
    """The columns that name a run's row; of a run that left no row, what its parameters say."""
    row, params = run["row"], run["params"]
    named = {key: row.get(key, None if row else params.get(f"{key}.name")) for key in IDENTITY[:-1]}
    named["bins"] = params.get("frames.bins")
    return {key: "" if value in (None, "None", "null") else as_text(value) for key, value in named.items()}


def _settings(keys: Sequence[tuple[Any, ...]]) -> list[dict[str, str]]:
    """What tells each group from the others; hashes of the data themselves where nothing else does."""
    apart = told_apart([dict(key[0]) for key in keys], [dict(key[1]) for key in keys])
    alike: dict[tuple[Any, ...], list[tuple[str, ...]]] = {}
    for key, told in zip(keys, apart, strict=True):
        alike.setdefault((key[0], tuple(told.items()), key[2]), []).append(key[3:])
    found = []
    for key, told in zip(keys, apart, strict=True):
        values = list(zip(*alike[key[0], tuple(told.items()), key[2]], strict=True))
        found.append(told | {tag: key[3 + k] for k, tag in enumerate(WHICH_DATA) if len(set(values[k])) > 1})
    return found


def _row(
    names: dict[str, str], told: dict[str, str], n: str, seeds: Mapping[str, Mapping[str, Any]], figures: Figures
) -> Row:
    ordered = sorted(seeds, key=lambda seed: (len(seed), seed))
    runs = tuple(seeds[seed] for seed in ordered)
    values = {figure: tuple(v for run in runs if (v := value_of(run, figure)) is not None) for figure in figures.names}
    commits = {
        run["tags"]["git_commit"][:9] + ("+" if run["tags"].get("git_dirty") == "true" else "")
        for run in runs
        if run["tags"].get("git_commit")
    }
    first = runs[0]["row"]
    return Row(
        identity=names,
        settings=told,
        values=values,
        seeds=tuple(ordered),
        n=n,
        commits=tuple(sorted(commits)),
        score=judged_by(first),
        less=first.get("rise") is not None,
        runs=runs,
    )


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    names = dict(key[0])
    bins = names["bins"]
    number = int(bins) if bins.isdecimal() and len(bins) < 10 else 0
    return (names["dataset"], names["target"], names["method"], names["model"], number, key[1:])


# --------------------------------------------------------------------------------------------------
# what a reader has to know


def _left_out(runs: Sequence[Any], fitting: Sequence[Mapping[str, Any]], repeated: int) -> list[str]:
    """How many runs are in no row, and why."""
    states = Counter(run["status"] for run in fitting if not _counts(run))
    counts = {state: states.pop(state, 0) for state in UNFINISHED} | {"finished without a row": states.total()}
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    filtered = len(runs) - len(fitting)
    if filtered:
        parts.append(f"{filtered} that {'does' if filtered == 1 else 'do'} not fit the filter")
    if repeated:
        parts.append(f"{repeated} repeated (of each seed the latest counts)")
    return [f"left out of {len(runs)} runs: {', '.join(parts)}"] if parts else []


def _others(fitting: Sequence[Mapping[str, Any]]) -> str:
    states = Counter(run["status"] for run in fitting)
    parts = [f"{states[state]} {state}" for state in UNFINISHED if states[state]]
    return f" (there are: {', '.join(parts)})" if parts else ""


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(row.settings for row in rows):
        notes.append(settings.NOTE)
    mixed = [row for row in rows if len(row.commits) > 1]
    if mixed:
        commits = sorted({commit for row in mixed for commit in row.commits})
        notes.append(f"{len(mixed)} of the rows mix commits: {', '.join(commits)} (+ marks uncommitted changes)")
    codes = [row for row in rows if len({run["tags"].get(SOURCES) for run in row.runs}) > 1]
    if len(codes) > len(mixed):
        notes.append(
            f"{len(codes)} of the rows mix versions of the code that decides the numbers (tag {SOURCES}): their "
            "seeds are not those of one network or method"
        )
    uneven = [row for row in rows if any(0 < len(v) < len(row.seeds) for v in row.values.values())]
    if uneven:
        notes.append(f"in {len(uneven)} of the rows not every seed has every figure")
    return notes


# --------------------------------------------------------------------------------------------------
# filters


def _checked(option: str, filters: Sequence[str], runs: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    if not filters:
        return filters
    known = sorted({key for run in runs for key in (*run["params"], *run["tags"], *IDENTITY)})
    for text in filters:
        key, equals, _ = text.partition("=")
        if not equals:
            own = ", or for each row's own network one of float, spiking, quantized" if option == "--against" else ""
            raise RequestError(f"{option} {text}: needs key=value, for example {option} method=bptt{own}")
        if runs and key not in known:
            meant = close(key, known)
            raise RequestError(
                f"{option} {text}: no run has {key}; "
                + (f"did you mean {meant}?" if meant else f"columns are {', '.join(IDENTITY)}, and every parameter")
            )
    return filters


def _passes(run: Mapping[str, Any], text: str) -> bool:
    key, _, wanted = text.partition("=")
    known = {**run["params"], **run["tags"], **identity(run)}
    if key not in known and any(other.startswith(f"{key}.") for other in known):
        return False  # a group that is there, whose keys are parameters: observer=null is no run that has one
    found = as_text(known.get(key))
    return _same(found, wanted) or any(_same(found, value) for value in wanted.split(","))


def _same(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    try:
        return float(found) == float(wanted)  # 1e-3 is 0.001
    except ValueError:
        return False


def render(table: Table, form: str = "text", width: int | None = None, styled: bool = False) -> str:
    """The table as ``text``, ``markdown``, ``csv`` or ``latex``.

    Args:
        table: its rows and notes.
        form: one of ``FORMATS``.
        width: columns of the terminal that text has to fit; None for as many as it takes.
        styled: whether text may hold a terminal's control sequences, for bold.
    """
    from cil_spl.results import layout

    return layout.render(table, form, width, styled)
