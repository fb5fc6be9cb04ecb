"""What tells configurations apart: their parameters, and which of them a table has to show.

A parameter is shown in every row that has it as soon as two rows differ in it, so that no row's value reads as the
default beside another's. Rows of another method, model, data set or target often have no such parameter at all: there
it is left out. What the name in a row's first columns says already (a data set's size, a model's layers) is compared
only among rows of that name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cil_spl.results.values import as_text

# What a run is called, where things lie, how many threads work at it, which changes last bits at most. A device is not
# among them: another one sums in another order throughout. What lies there is not either: it is compared by the
# recordings themselves, or their number.
_NO_DIFFERENCE = (
    "name",
    "extensions",
    "trainer.threads",
    "target.threads",
    "dataset.root",
    "dataset.download",
    "test_dataset.root",
    "test_dataset.download",
)
_NO_DIFFERENCE_GROUP = "tracking."
# Tags by which a run is known: its data, what training and validation were drawn from, the code that decides numbers,
# and the epochs of the finished run that was extended, for which its first learning rates were made.
DATA, DRAWN_FROM, SOURCES, EXTENDED = ("data", "data_all"), "data_drawn_from", "sources", "extended_from"
ABSENT = "–"
NOTE = (
    "settings: every parameter that differs between two rows, in each row that has it (– where rows of the same name "
    "have it and this one has not); names, folders, threads and tracking are not compared"
)
# The group of a parameter → the column whose name decides which parameters of the group there are.
CHOSEN_BY = {
    "method": "method",
    "observer": "method",
    "model": "model",
    "dataset": "dataset",
    "test_dataset": "dataset",
    "target": "target",
}
# What a name stands for.
OWN = (
    *(f"{group}.name" for group in ("method", "model", "dataset", "test_dataset", "target")),
    *(f"{group}._target_" for group in ("method", "model", "dataset", "test_dataset", "target")),
    *(f"model.{key}" for key in ("family", "preset", "layers", "args")),
    *(f"{group}.{key}" for group in ("dataset", "test_dataset") for key in ("sensor_size", "input_shape", "n_classes")),
    "target.backend",
)
IN_A_COLUMN = "frames.bins"
_LONGEST, _HEAD, _TAIL = 40, 24, 12


def makes_no_difference(key: str) -> bool:
    """Whether two runs that differ in this parameter alone have the same numbers."""
    return key in _NO_DIFFERENCE or key.startswith(_NO_DIFFERENCE_GROUP)


def configuration(run: Mapping[str, Any]) -> dict[str, str]:
    """Every parameter that makes a run what it is, but for its seed, as text."""
    found = {
        key: as_text(value) for key, value in run["params"].items() if key != "seed" and not makes_no_difference(key)
    }
    return found | ({EXTENDED: run["tags"][EXTENDED]} if EXTENDED in run["tags"] else {})


def told_apart(
    identities: Sequence[Mapping[str, str]], configurations: Sequence[Mapping[str, str]]
) -> list[dict[str, str]]:
    """The parameters that each row has to show.

    Args:
        identities: the columns that name each row.
        configurations: of each row, as :func:`configuration` gives them.

    Returns:
        for each row, parameter → value; ``–`` for a parameter that rows of the same name have and this one has not.
    """
    shown: list[dict[str, str]] = [{} for _ in configurations]
    for key in sorted({key for one in configurations for key in one} - {IN_A_COLUMN}):
        values = [one.get(key) for one in configurations]
        choices = [_choice(key, *row) for row in zip(identities, configurations, strict=True)]
        within: dict[str, set[str | None]] = {}
        for choice, value in zip(choices, values, strict=True):
            within.setdefault(choice, set()).add(value)
        uneven = {choice for choice, found in within.items() if len(found) > 1}
        everywhere = key not in OWN and (bool(uneven) or len(set(values) - {None}) > 1)
        for row, choice, value in zip(shown, choices, values, strict=True):
            if (everywhere or choice in uneven) and within[choice] != {None}:
                row[key] = ABSENT if value is None else value
    return shown


def _choice(key: str, identity: Mapping[str, str], configuration: Mapping[str, str]) -> str:
    """What decides whether a row has a parameter at all; the same for all rows where nothing does."""
    group = key.partition(".")[0]
    if group == "task" and key != "task.name":
        return configuration.get("task.name", "")
    return identity.get(CHOSEN_BY[group], "") if group in CHOSEN_BY else ""


def shortened(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same with long values cut in their middle; values that then read alike end with a digest of the whole."""
    whole: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for key, value in row.items():
            whole.setdefault((key, _cut(value)), set()).add(value)

    def short(key: str, value: str) -> str:
        cut = _cut(value)
        alike = len(whole[key, cut]) > 1
        return f"{cut}#{hashlib.sha256(value.encode()).hexdigest()[:8]}" if alike else cut

    return [{key: short(key, value) for key, value in row.items()} for row in rows]


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[:_HEAD]}…{value[-_TAIL:]}"
