"""What a task owns: its columns, what is better, its files; and classification's, class by class."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batches
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.classification import classification, metrics, most_events, per_class
from cil_spl.tasks.columns import CLASSIFICATION, Column, columns_text, read_columns
from cil_spl.tasks.task import Task
from cil_spl.training.context import Frames
from tests.tasks.test_evaluation import answer_of, recordings


def regression(**changed: Any) -> Task:
    """How far the sum of the outputs is from the number of the recording's class."""
    values: dict[str, Any] = {
        "name": "total",
        "monitor": "mae",
        "better": "less",
        "loss": lambda outputs, target: (outputs.sum(1) - target).abs().mean(),
        "metrics": lambda outputs, decision, target: {"mae": np.abs(outputs.sum(1) - target).mean()},
    }
    return Task(**(values | changed))


names = st.text(st.characters(codec="ascii", exclude_characters=" ,%", categories=["L", "N"]), min_size=1)


@given(st.lists(st.builds(Column, names, st.booleans()), min_size=1))
def test_columns_come_back_from_their_text(columns: list[Column]) -> None:
    assert read_columns(columns_text(columns)) == tuple(columns)


def test_what_a_task_leaves_out() -> None:
    task = regression()
    assert task.columns == (Column("mae"),)
    assert task.decide(np.zeros((2, 3)), None) is None
    assert task.outputs((2, 8, 9), 5) == 5
    assert classification().columns == CLASSIFICATION
    assert read_columns("accuracy %") == CLASSIFICATION


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"better": "lower"}, "task=total: better=lower: allowed are more, less"),
        ({"columns": [Column("mean error")]}, "task=total: column 'mean error': needs a metric's name of one word"),
        ({"columns": [Column("a,b")]}, "task=total: column 'a,b'"),
    ],
)
def test_a_task_that_cannot_be(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        regression(**changed)


def test_less_is_better_where_the_task_says_so() -> None:
    for task, best in ((regression(), 0.2), (classification(), 0.9)):
        assert task.best([0.5, 0.2, 0.9]) == best
        assert task.is_better(best, 0.5)
        assert not task.is_better(0.5, best)
        assert not task.is_better(float("nan"), 0.5)


TABLE = [[3, 1, 0], [0, 2, 2], [0, 0, 0], [5, 5, 0], [1, 9, 2], [0, 0, 1], [2, 0, 0]]


def test_a_task_without_decisions_is_evaluated() -> None:
    seen = ev.evaluate(answer_of(TABLE), Batches(recordings(), 3, Frames(1)).epoch(0), regression())
    expected = np.abs(np.array(TABLE).sum(1) - np.array([0, 1, 2, 0, 1, 2, 0])).mean()
    assert seen.decision is None
    assert seen.metrics["mae"] == pytest.approx(expected)
    assert seen.metrics["silent"] == pytest.approx(1 / 7)
    assert "ties" not in seen.metrics


def test_metrics_without_the_one_that_counts_are_refused() -> None:
    with pytest.raises(RequestError, match=r"task=total: monitor=mse: its metrics have no such name; they are mae"):
        ev.evaluate(answer_of(TABLE), Batches(recordings(), 3, Frames(1)).epoch(0), regression(monitor="mse"))


def test_only_allowed_outputs_decide() -> None:
    outputs = np.array([[9, 1, 3], [9, 2, 2], [0, 0, 0]])
    assert most_events(outputs, [1, 2]).tolist() == [2, -1, -1]
    batches = Batches(recordings(), 3, Frames(1))
    seen = ev.evaluate(answer_of(TABLE), batches.epoch(0), classification(), allowed=[1, 2])
    assert seen.decision is not None
    assert seen.decision.tolist() == [1, -1, -1, 1, 1, 2, -1]


def test_every_class_is_counted_and_the_worst_is_a_metric() -> None:
    decision, target = np.array([0, 0, -1, 2, 1]), np.array([0, 0, 2, 2, 0])
    found = metrics(np.zeros((5, 4)), decision, target)
    assert found["accuracy"] == 3 / 5
    assert found["accuracy_worst_class"] == 1 / 2  # class 1 has no recording, so none to be wrong
    matrix = np.zeros((3, 4), int)
    np.add.at(matrix, (target, decision), 1)
    assert per_class({"deployed": matrix}, ("a", "b", "c")) == [
        ["class", "recordings", "deployed"],
        ["a", 3, 2 / 3],
        ["b", 0, ""],
        ["c", 2, 1 / 2],
    ]


def test_the_files_of_a_classification(tmp_path: Path) -> None:
    data = recordings()
    seen = ev.evaluate(answer_of(TABLE), Batches(data, 3, Frames(1)).epoch(0), classification())
    classification().files(tmp_path, {"float": seen, "deployed": seen}, data)
    with (tmp_path / "per_class.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == ["a", "b", "c"]
    assert [int(line["recordings"]) for line in lines] == [3, 2, 2]
    assert [float(line["deployed"]) for line in lines] == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    with (tmp_path / "decisions.csv").open(newline="") as file:
        assert [line["float"] for line in csv.DictReader(file)] == ["a", "none", "none", "none", "b", "c", "a"]
    assert (tmp_path / "confusion.csv").read_text().splitlines()[0] == "class,a,b,c,none"
    assert (tmp_path / "figures" / "confusion.png").stat().st_size > 1000


def test_what_the_log_says_of_a_training_batch() -> None:
    found = classification().train_metrics(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert float(found["accuracy"]) == 0.5


def test_classes_are_needed_where_each_has_an_output():
    with pytest.raises(RequestError, match=r"dataset\.n_classes=null: this task has one output for each class"):
        classification().outputs((1, 2, 2), None)
