"""Every key that a message names exists: in a config that can be composed, or in a signature."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

import cil_spl.cli.run  # noqa: F401  (registers the resolvers that conf/hydra uses)
from cil_spl import schema
from cil_spl.base import options
from cil_spl.chip.die import Die
from cil_spl.data.saccade_parameters import Parameters

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
GROUPS = (*schema.GROUPS, *schema.CALLED)
NAMED = re.compile(rf"(?<![\w./])({'|'.join(GROUPS)})((?:\.\w+)+)")
FILES = sorted([*(ROOT / "cil_spl").rglob("*.py"), *(ROOT / "cli").glob("*.py")])


def keys(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in map(str, node):
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from keys(child, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """All keys of all choices of all groups, and what dictionaries among them take."""
    found: set[str] = set()
    with initialize_config_module("cil_spl.conf", version_base="1.3", job_name="cilspl"):
        for group in GROUPS:
            folder, package = ("dataset", "@test_dataset") if group == "test_dataset" else (group, "")
            for path in sorted((CONF / folder).glob("*.yaml")):
                found |= set(keys(compose("config", overrides=[f"{folder}{package}={path.stem}"]), ""))
    takes = {"target.die": Die, "observer.die": Die, "dataset.simulator": Parameters}
    return found | {f"{node}.{name}" for node, kind in takes.items() for name in options.names(kind)}


def test_the_keys_are_found(known):
    assert {"method.init_rate", "dataset.root", "test_dataset.root", "target.die.fifo", "observer.v_mem"} <= known
    assert "model.init_gain" not in known  # what the message of a silent layer once named


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_key_that_a_message_names_exists(file, known):
    unknown = [f"line {line}: {key}" for line, key in named(ast.parse(file.read_text())) if key not in known]
    assert not unknown


def named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Keys in the strings of a module; its docstrings, and what stands in braces in an f-string, left out."""
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if node in docstrings or node in inside:
            continue
        text = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        for match in NAMED.finditer(text):
            yield node.lineno, match[0]


def test_keys_are_read_from_messages():
    code = 'def f():\n    """model.a"""\n    warn(f"raise model.b.{x} or method.c" "=3; see {}.model.d" + "task.e")\n'
    assert [key for _, key in named(ast.parse(code))] == ["model.b", "method.c", "task.e"]
