"""Names that stand in one place: a task's metrics in the tasks, a choice's name in its own file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_rooms import ROOT, modules

METRIC = "accuracy"  # of classification alone; nothing above the tasks may know it


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names and texts of a module, docstrings left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        for field in ("id", "attr", "arg", "name"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value


def without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return tree


def knows_the_metric(root: Path) -> list[str]:
    found = []
    for name, path in modules(root):
        if not name.startswith("cil_spl.tasks"):
            tree = without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
            found += [
                f"{path.relative_to(root).as_posix()}:{line}" for line, text in words(tree) if METRIC in text.lower()
            ]
    return found


def test_only_tasks_know_their_metrics() -> None:
    assert knows_the_metric(ROOT) == []


@pytest.mark.parametrize(
    "line", ["x = row['float/accuracy']", "def accuracy(): ...", "x = a.accuracy", "f(accuracy=1)"]
)
def test_a_metric_elsewhere_is_found(line: str, tmp_path: Path) -> None:
    for where in ("cil_spl/results/row.py", "cil_spl/tasks/own.py"):
        (tmp_path / where).parent.mkdir(parents=True)
        (tmp_path / where).write_text(f'"""Not the accuracy of prose."""\n\n{line}\n')
    assert knows_the_metric(tmp_path) == ["cil_spl/results/row.py:3"]
