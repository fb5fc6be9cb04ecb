"""The row that a run ends with: what ran, the task's metrics of each network, what the deployed one costs.

A row is flat and says by itself which of its figures are metrics (``columns``), so that the table reads it without the
task, from a folder or from the store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cil_spl.tasks.columns import CLASSIFICATION as EARLIER  # of rows from before they said it
from cil_spl.tasks.columns import Column, columns_text, read_columns

if TYPE_CHECKING:
    from cil_spl.tasks.task import Task

STAGES = {"float": "Float", "spiking": "Spiking", "quantized": "Quantised", "deployed": "Deployed"}
# How much worse the deployed network is than the float one, by the metric that the task is judged by.
WORSE = {"drop": "Drop", "rise": "Rise"}
COSTS = {"deployed/synops": "Synops", "deployed/macs": "MACs"}


def row_of(cfg: Any, backend: str, task: Task, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The row of a run.

    Args:
        cfg: its config.
        backend: what the target ran on.
        task: its columns and ``monitor``.
        metrics: of the end, by ``stage/quantity``.
    """
    row: dict[str, Any] = {group: cfg[group].name for group in ("method", "model", "dataset", "target")}
    row |= {"backend": backend, "seed": cfg.seed}
    if cfg.get("test_dataset"):
        row["dataset"] += f" → {cfg.test_dataset.name}"
    row |= {"columns": columns_text(task.columns), "score": score_name(task)}
    names = [f"{stage}/{column.metric}" for column in task.columns for stage in STAGES]
    row |= {name: metrics[name] for name in (*names, *COSTS) if name in metrics}
    first, last = (metrics[f"{stage}/{task.monitor}"] for stage in ("float", "deployed"))
    row |= {"rise": last - first} if task.better == "less" else {"drop": first - last}
    row["n"] = int(metrics["deployed/n"])
    return row


def score_name(task: Task) -> str:
    """The metric that settings are compared by: the deployed network's, on the validation recordings."""
    return f"val/deployed_{task.monitor}"


def score_of(info: Mapping[str, Any]) -> float | None:
    """What a sweeper may optimise, of a run's ``run.json``; None where the run left none."""
    value = info["metrics"].get(info["row"].get("score"))
    return None if value is None else float(value)


def judged_by(row: Mapping[str, Any]) -> str:
    """The figure of a row that rows are compared by: the deployed network's, on the test recordings."""
    metric = str(row.get("score") or "").partition("deployed_")[2] or EARLIER[0].metric
    return f"deployed/{metric}"


def value_of(run: Mapping[str, Any], figure: str) -> float | None:
    """A figure of a run; None where it has none, or not a finite one."""
    found = run["row"].get(figure, run["metrics"].get(figure))
    try:
        return None if found is None or not math.isfinite(float(found)) else float(found)
    except OverflowError:  # a whole number beyond all fractions
        return None


class Figures:
    """The figures of some rows: their names in order, their heads, how they are written.

    Args:
        rows: as :func:`row_of` made them, now or in an earlier version.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        found: dict[Column, None] = {}
        worse: dict[str, list[bool]] = {}
        for row in rows:
            columns = read_columns(str(row.get("columns") or "")) or EARLIER
            found |= dict.fromkeys(columns)
            judged = [c for c in columns if str(row.get("score", "")).endswith(f"_{c.metric}")] or columns[:1]
            for name in WORSE:
                worse.setdefault(name, []).extend([judged[0].percent] if row.get(name) is not None else [])
        metrics = {f"{stage}/{column.metric}": column for column in found for stage in STAGES}
        alone = sum(column.percent for column in found) == 1
        self.heads = {
            name: STAGES[name.partition("/")[0]] + ("" if alone and column.percent else f" {column.metric}")
            for name, column in metrics.items()
        }
        self.heads |= WORSE | COSTS
        # Fractions, written in per cent; a drop is one where it is of fractions in all rows.
        self.shares = {name for name, column in metrics.items() if column.percent}
        self.shares |= {name for name, shares in worse.items() if shares and all(shares)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.heads)
