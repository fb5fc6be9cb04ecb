"""Rows of a table against each other: the difference from a chosen row, and whether the best is better than chance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cil_spl.base.errors import RequestError
from cil_spl.results import scores
from cil_spl.results.paired import Difference, compared, unpaired
from cil_spl.results.row import STAGES, Figures, value_of
from cil_spl.results.settings import configuration

if TYPE_CHECKING:
    import numpy as np

    from cil_spl.results.table import Row

_SHOWN = 6  # rows that a message lists
PAIRED = (
    "difference of the deployed score from the reference row ({chosen}), with its 95 % interval: paired by recording, "
    "and by seed where both rows have it; recordings are resampled, seeds count as in Student's t; not corrected for "
    "the number of rows"
)
OWN = (
    "difference of the deployed score from the {stage} one of the same runs, with its 95 % interval: paired by "
    "recording and seed; recordings are resampled, seeds count as in Student's t; not corrected for the number of rows"
)
ONE_SEED = "¹ over recordings alone, for want of a second seed: what another seed would change is not in the interval"
SOME_SEEDS = "² over the seeds that both rows have"
BEST = (
    "bold: the best deployed score of its data set, where the 95 % interval of its difference from every other row "
    "(two seeds or more each) leaves out 0"
)
LOOSE = "; not paired here, but from the rows' figures alone, with recordings as if drawn anew: --against pairs them"


def compare(
    rows: Sequence[Row], figures: Figures, against: Sequence[str], fetch: scores.Fetch | None
) -> tuple[list[Row], list[str]]:
    """Fill in differences and mark the best.

    Args:
        rows: those to compare with are ``chosen``.
        figures: of the table.
        against: what chose them, or one of ``STAGES``, for each row against its own network at that stage; nothing for
            neither, then no run's scores are read.
        fetch: asks the store for a file of a run whose folder is gone.

    Returns:
        the rows in the same order, and what a reader has to know.

    Raises:
        RequestError: no row of any set is chosen, or several of one.
    """
    sets: dict[tuple[str, str, str], list[int]] = {}
    for k, row in enumerate(rows):
        sets.setdefault((row.identity["dataset"], row.n, row.score), []).append(k)
    found = list(rows)
    if not against:
        for members in sets.values():
            _mark(found, members, lambda a, b: _loose(a, b, figures))
        return found, [BEST + LOOSE] if any(row.best for row in found) else []
    book = _Book(fetch)
    if own_stage(against):
        found = [replace(row, difference=book.own_difference(row, against[0])) for row in rows]
        for members in sets.values():
            _mark(found, members, book.difference)
        notes = [OWN.format(stage=against[0]), *_told(found, book, f"{against[0]} score")]
        return found, notes + ([BEST] if any(row.best for row in found) else [])
    if not any(row.chosen for row in rows):
        raise RequestError(f"--against {' '.join(against)}: fits no row with all of its runs; rows are {_listed(rows)}")
    for members in sets.values():
        _against(found, members, against, book)
    none = "reference row of the same data set, score and number of recordings"
    notes = [PAIRED.format(chosen=" ".join(against)), *_told(found, book, none)]
    return found, notes + ([BEST] if any(row.best for row in found) else [])


def own_stage(against: Sequence[str]) -> bool:
    """Whether each row is compared with its own network at an earlier stage."""
    return len(against) == 1 and against[0] in STAGES and against[0] != scores.STAGE


def _against(rows: list[Row], members: Sequence[int], against: Sequence[str], book: _Book) -> None:
    """The rows of one test set against the chosen one of them, if any."""
    chosen = [k for k in members if rows[k].chosen]
    if not chosen:
        return
    if len(chosen) > 1:
        raise RequestError(
            f"--against {' '.join(against)}: fits {len(chosen)} rows of {rows[chosen[0]].identity['dataset']}; it "
            f"needs one, add what tells them apart: {_listed([rows[k] for k in chosen])}"
        )
    for k in members:
        if k != chosen[0]:
            rows[k] = replace(rows[k], difference=book.difference(rows[k], rows[chosen[0]]))
    _mark(rows, members, book.difference)


def _mark(rows: list[Row], members: Sequence[int], difference: Callable[[Row, Row], Difference | None]) -> None:
    """Mark the best of some rows where it is clearly better than each other one."""
    able = [k for k in members if len(rows[k].values.get(rows[k].score, ())) > 1]
    if len(members) < 2 or len(able) < len(members):
        return
    means = {k: sum(rows[k].values[rows[k].score]) / len(rows[k].values[rows[k].score]) for k in able}
    sign = -1 if rows[able[0]].less else 1
    best = max(able, key=lambda k: sign * means[k])
    others = (difference(rows[best], rows[k]) for k in able if k != best)
    if all(d is not None and d.seeds > 1 and d.is_clear and sign * d.value > 0 for d in others):
        rows[best] = replace(rows[best], best=True)


def _loose(first: Row, second: Row, figures: Figures) -> Difference | None:
    if first.score not in figures.shares or not first.n.isdecimal():
        return None
    return unpaired(first.values[first.score], second.values[second.score], int(first.n))


@dataclass
class _Book:
    """The scores of the rows that have been asked for; each run's file is read once.

    Attributes:
        fetch: asks the store for a file of a run whose folder is gone.
        read: what was found, by the identity of the row's first run and the stage.
        without: reasons why runs have no scores, one for each such run.
        foreign: rows that were tested on other recordings than the chosen one.
    """

    fetch: scores.Fetch | None
    read: dict[tuple[int, str], dict[str, scores.Scores]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    foreign: set[int] = field(default_factory=set)

    def of(self, row: Row, stage: str = scores.STAGE) -> dict[str, scores.Scores]:
        """By seed; of the row's runs that left scores of a stage."""
        place = id(row.runs[0]), stage
        if place not in self.read:
            found = {}
            for seed, run in zip(row.seeds, row.runs, strict=True):
                value = value_of(run, _at(stage, row))
                one = f"without a {stage} score" if value is None else scores.read(run, value, self.fetch, stage)
                if isinstance(one, str):
                    self.without.append(one)
                else:
                    found[seed] = one
            self.read[place] = found if len(found) == len(row.runs) else {}
        return self.read[place]

    def difference(self, first: Row, second: Row) -> Difference | None:
        """Paired where both rows left scores of the same recordings; else the difference of the means alone."""
        mine, theirs = self.of(first), self.of(second)
        if mine and theirs and _swapped(first, second):
            self.foreign.add(id(first.runs[0]))
        elif mine and theirs:
            order = next(iter(theirs.values()))
            sides: list[dict[str, np.ndarray] | None] = [scores.aligned(one, order) for one in (mine, theirs)]
            if sides[0] is not None and sides[1] is not None:
                return compared(sides[0], sides[1])
            self.foreign.add(id(first.runs[0]))
        return _of_means((first, first.score), (second, second.score))

    def own_difference(self, row: Row, stage: str) -> Difference | None:
        """The deployed network against that of another stage of the same runs."""
        deployed, own = (
            {seed: one.values for seed, one in side.items()} for side in (self.of(row), self.of(row, stage))
        )
        if deployed and own:
            return compared(deployed, own)
        return _of_means((row, row.score), (row, _at(stage, row)))


def _swapped(first: Row, second: Row) -> bool:
    """Whether equal names are of other recordings: the same settings of the data set, and yet not the same data."""
    runs = first.runs[0], second.runs[0]
    data = {run["tags"].get("data") for run in runs} - {None}
    asked = [
        {key: value for key, value in configuration(run).items() if key.startswith(("dataset.", "test_dataset."))}
        for run in runs
    ]
    return len(data) > 1 and asked[0] == asked[1]


def _at(stage: str, row: Row) -> str:
    """The figure that a row is judged by, of another stage."""
    return f"{stage}/{row.score.partition('/')[2]}"


def _of_means(*sides: tuple[Row, str]) -> Difference | None:
    """The difference of two rows' figures, without an interval; None where one of them has none."""
    values = [[v for run in row.runs if (v := value_of(run, figure)) is not None] for row, figure in sides]
    if not all(values):
        return None
    means = [sum(one) / len(one) for one in values]
    return Difference(means[0] - means[1], seeds=min(map(len, values)))


def _told(rows: Sequence[Row], book: _Book, none: str) -> list[str]:
    notes = []
    shown = [row.difference for row in rows if row.difference is not None and row.difference.low is not None]
    if any(d.seeds == 1 for d in shown):
        notes.append(ONE_SEED)
    if any(marks(row, rows) == "²" for row in rows):
        notes.append(SOME_SEEDS)
    counts = {reason: book.without.count(reason) for reason in sorted(set(book.without))}
    if counts:
        parts = [f"{count} {'run' if count == 1 else 'runs'} {reason}" for reason, count in counts.items()]
        notes.append(f"differences without an interval: {', '.join(parts)}")
    if book.foreign:
        notes.append(f"{len(book.foreign)} of the rows were tested on other recordings: no interval there")
    alone = sum(row.difference is None and not row.chosen for row in rows)
    if alone:
        notes.append(f"{alone} of the rows have no {none}")
    return notes


def marks(row: Row, rows: Sequence[Row]) -> str:
    """What follows a difference: ``¹`` for one seed, ``²`` for fewer seeds than the row has."""
    d = row.difference
    if d is None or d.low is None:
        return ""
    if d.seeds == 1:
        return "¹"
    reference = [one for one in rows if one.chosen and _set(one) == _set(row)]
    fewer = d.common and any(d.seeds < max(len(row.seeds), len(one.seeds)) for one in reference)
    return "²" if fewer else ""


def _set(row: Row) -> tuple[str, str, str]:
    return row.identity["dataset"], row.n, row.score


def _listed(rows: Iterable[Row]) -> str:
    """Rows by what would choose them."""
    texts = []
    for row in rows:
        names = [f"{key}={value}" for key, value in row.identity.items() if value and key != "backend"]
        texts.append(" ".join([*names, *(f"{key}={value}" for key, value in row.settings.items())]))
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return "; ".join(texts[:_SHOWN] + more)
