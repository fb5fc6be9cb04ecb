"""API.md names what there is, and what the files to copy from import."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from cil_spl.training.context import TrainingContext

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "API.md").read_text(encoding="utf-8")
EXAMPLES = ["methods/bptt.py", "methods/cil_bptt.py", "methods/sltt.py", "tasks/reconstruction.py"]


def listed(text: str = TEXT) -> list[tuple[str, str]]:
    """Modules and the names under them, as the text has them."""
    found, module = [], ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"### `([\w.]+)`", line):
            module = heading[1]
        elif item := re.match(r"- `([\w.]+)`: \S", line):
            found.append((module, item[1]))
    return found


def has(owner: object, name: str) -> bool:
    return hasattr(owner, name) or name in getattr(owner, "__dataclass_fields__", {})


@pytest.mark.parametrize("module", sorted({module for module, _ in listed()}))
def test_every_name_can_be_imported(module: str) -> None:
    there = importlib.import_module(module)
    for _, name in [one for one in listed() if one[0] == module]:
        owner: object = there
        for part in name.split("."):
            assert has(owner, part), f"API.md: {module} has no {name}"
            owner = getattr(owner, part, None)


def test_a_line_of_another_form_is_not_passed_over() -> None:
    items = [line for line in TEXT.splitlines() if line.startswith("-")]
    assert len(items) == len(listed())
    assert len(set(listed())) == len(listed())
    assert listed("### `a.b`\n\n- `C`: it\n- `C.d`: it") == [("a.b", "C"), ("a.b", "C.d")]


def test_all_that_a_method_is_handed_is_listed() -> None:
    public = {name for name, _ in inspect.getmembers(TrainingContext) if not name.startswith("_")}
    public |= set(TrainingContext.__dataclass_fields__)
    assert public == {name.partition(".")[2] for _, name in listed() if name.startswith("TrainingContext.")}


def imports(source: str) -> set[tuple[str, str]]:
    """What Python source takes from cil_spl."""
    return {
        (node.module or "", alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cil_spl")
        for alias in node.names
    }


@pytest.mark.parametrize("example", [*EXAMPLES, "README.md"])
def test_what_examples_import_is_listed(example: str) -> None:
    if example.endswith(".md"):
        text = (ROOT / example).read_text(encoding="utf-8")
        blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "import" in block]
        found = set().union(*(imports("\n".join(re.findall(r"^from .*$", block, re.M))) for block in blocks))
    else:
        found = imports((ROOT / "cil_spl" / example).read_text(encoding="utf-8"))
    assert found
    modules = {module for module, _ in listed()}
    missing = {one for one in found if one not in listed() and ".".join(one) not in modules}
    assert not {one for one in missing if not one[0].startswith("cil_spl.methods")}
