"""Names that stand in one place: a task's metrics in the tasks, a choice's name in its own file."""

from __future__ import annotations

import ast
import re
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


# --- choices ----------------------------------------------------------------------------------------------------------

CHOSEN = ("method", "task", "target")  # groups whose choices are functions or classes of their own


def choices(root: Path) -> dict[str, str]:
    """Names of methods, tasks and targets, and the module that each lies in."""
    found = {}
    for group in CHOSEN:
        for path in sorted((root / "conf" / group).glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            called = dict(re.findall(r"^(_target_|name): *([\w.]+)", text, re.MULTILINE))
            found[called["name"]] = called["_target_"].rpartition(".")[0]
    return found


def compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts that a module compares something with: by operators, in lists, by ``match``, as keys to choose by."""
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
            parts = [key for key in node.value.keys if key is not None]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("startswith", "endswith", "__eq__"):
                parts = list(node.args)
            elif node.func.attr == "get" and isinstance(node.func.value, ast.Dict):
                parts = [key for key in node.func.value.keys if key is not None]
        for part in parts:
            for inner in ast.walk(part):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.lineno, inner.value


def asks_which(root: Path) -> list[str]:
    """Each place where a module asks whether a run has a certain method, task or target, its own apart."""
    home, found = choices(root), []
    for name, path in modules(root):
        for line, text in compared(ast.parse(path.read_text(encoding="utf-8"))):
            if text in home and home[text] != name:
                found.append(f"{path.relative_to(root).as_posix()}:{line}: {text}")
    return found


def test_the_choices_are_found() -> None:
    home = choices(ROOT)
    assert {"bptt", "sltt_k", "classification", "reconstruction", "speck", "software", "accelerator"} <= set(home)
    assert home["cil_bptt"] == "cil_spl.methods.cil_bptt"
    assert set(home.values()) <= {name for name, _ in modules(ROOT)}


def test_nothing_asks_which_method_task_or_target_it_runs() -> None:
    assert asks_which(ROOT) == [], "what a choice can do or needs stands beside it: REQUIRES, Task, Target.check"


@pytest.mark.parametrize(
    "line",
    [
        "if cfg.target.name == 'speck': ...",
        "ok = 'speck' != name",
        "ok = name in ('none', 'speck')",
        "match name:\n    case 'speck': ...",
        "f = {'speck': 1, 'other': 2}[name]",
        "f = {'speck': 1}.get(name)",
        "ok = name.startswith('speck')",
    ],
)
def test_a_question_for_a_name_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "conf" / "target").mkdir(parents=True)
    yaml = "# A chip.\n_target_: cil_spl.targets.speck.Speck\nname: speck\n"
    (tmp_path / "conf" / "target" / "speck.yaml").write_text(yaml)
    for where in ("cil_spl/schema.py", "cil_spl/targets/speck.py", "cli/run.py"):
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / where).write_text(line + "\nsaid = f'use target=speck'\n")
    assert {text.partition(":")[0] for text in asks_which(tmp_path)} == {"cil_spl/schema.py", "cli/run.py"}
