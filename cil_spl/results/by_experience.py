"""``experiences.csv``: how good each network is on each experience of a run that learnt several."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cil_spl.base.files import write_text

if TYPE_CHECKING:
    from cil_spl.data.events import Splits
    from cil_spl.tasks.evaluation import Evaluation
    from cil_spl.tasks.task import Task


def write(
    folder: Path, by_experience: Mapping[str, Sequence[Evaluation]], experiences: Sequence[Splits], task: Task
) -> None:
    """A line for each experience: its outputs (``all`` for all), its test inputs, the task's columns by stage.

    Args:
        folder: of the run.
        by_experience: evaluations by stage, one for each experience; nothing is written where there are none.
        experiences: in the same order.
        task: says which metrics are shown.
    """
    if not by_experience:
        return
    names = [column.metric for column in task.columns]
    lines: list[list[object]] = [["experience", "outputs", "n", *(f"{s}/{n}" for s in by_experience for n in names)]]
    for k, one in enumerate(experiences):
        outputs = "all" if one.outputs is None else " ".join(map(str, one.outputs))
        figures = [each[k].metrics.get(name, "") for each in by_experience.values() for name in names]
        lines.append([k, outputs, len(one.test), *figures])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(folder / "experiences.csv", text.getvalue())
