"""The rooms of CONTRIBUTING's table: no import goes upward, and no file or function outgrows its reader."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each may import from itself and from those before it.
ROOMS = ("base", "data", "tasks", "models", "chip", "training", "methods", "targets", "results")
ABOVE = ("schema", "pipeline", "load")  # the modules at the top of cil_spl/, in the same order
ORDER = (*ROOMS, *ABOVE, "cli")

FILE_LINES, FUNCTION_LINES = 400, 60
REASON = f"longer than {FILE_LINES} lines because"  # in the docstring of a file that has one
# Larger than they should be today, and how large: each may only shrink, and goes off the list once it fits.
LONG_FILES = {
    "cil_spl/targets/devkit.py": 560,
}
LONG_FUNCTIONS = {
    "cil_spl/chip/simulator.py::simulate": 72,
}


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module by its dotted name: ``cil_spl.chip.network``; a package by its own."""
    for folder, package in ((root / "cil_spl", "cil_spl"), (root / "cli", "cil_spl.cli")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "cil_spl" and parts[0] in ("cli", "conf"):  # links of a copied tree
                continue
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a module imports, inside functions and for type checking too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            origin = [*parents[: len(parents) - node.level + 1]] if node.level else []
            origin += [node.module] if node.module else []
            yield from ((node.lineno, ".".join((*origin, alias.name))) for alias in node.names)


def height(name: str) -> int:
    """How far up something of cil_spl lies; ``cil_spl`` itself and what stands in no room lie above all."""
    parts = name.split(".")
    return ORDER.index(parts[1]) if len(parts) > 1 and parts[1] in ORDER else len(ORDER)


def upward(root: Path) -> list[str]:
    """Every import of something that lies higher than the module itself; the command line may import all."""
    found = []
    for name, path in modules(root):
        for line, imported in imports(name, path):
            ours = imported.split(".")[0] == "cil_spl"
            if ours and height(name) < ORDER.index("cli") and height(imported) > height(name):
                found.append(f"{path.relative_to(root).as_posix()}:{line} imports {imported}")
    return found


def test_no_import_goes_upward() -> None:
    assert upward(ROOT) == []


def test_the_top_holds_the_line_and_the_rooms() -> None:
    top = ROOT / "cil_spl"
    assert {path.stem for path in top.glob("*.py")} == {*ABOVE, "__init__"}
    folders = {path.name for path in top.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders - {"cli", "conf"} == set(ROOMS)


@pytest.mark.parametrize(
    ("where", "line", "imported"),
    [
        ("cil_spl/base/errors.py", "from cil_spl.data import events", "cil_spl.data.events"),
        ("cil_spl/chip/network.py", "import cil_spl.results.table", "cil_spl.results.table"),
        ("cil_spl/methods/bptt.py", "from cil_spl import targets", "cil_spl.targets"),
        ("cil_spl/results/record.py", "from cil_spl import __version__", "cil_spl.__version__"),
        ("cil_spl/results/record.py", "from ..pipeline import run", "cil_spl.pipeline.run"),
        ("cil_spl/results/record.py", "from .. import cli", "cil_spl.cli"),
        ("cil_spl/models/__init__.py", "from ..chip import network", "cil_spl.chip.network"),
        ("cil_spl/schema.py", "from cil_spl import pipeline", "cil_spl.pipeline"),
        ("cil_spl/load.py", "from cil_spl.cli import main", "cil_spl.cli.main"),
        ("cil_spl/tasks/loss.py", "def f():\n    import cil_spl.models.plan", "cil_spl.models.plan"),
        (
            "cil_spl/data/events.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cil_spl.tasks import evaluation",
            "cil_spl.tasks.evaluation",
        ),
    ],
)
def test_an_import_upward_is_found(where: str, line: str, imported: str, tmp_path: Path) -> None:
    path = tmp_path / where
    path.parent.mkdir(parents=True)
    allowed = "import numpy\nfrom cil_spl.base import errors\n"
    path.write_text(allowed)
    assert upward(tmp_path) == []
    path.write_text(allowed + line)
    assert upward(tmp_path) == [f"{where}:{2 + len(line.splitlines())} imports {imported}"]


def test_downward_and_sideways_are_allowed(tmp_path: Path) -> None:
    for where, text in {
        "cil_spl/results/table.py": "from cil_spl.targets import speck\nfrom . import runs\nfrom ..chip import die\n",
        "cil_spl/load.py": "from cil_spl import pipeline, schema\n",
        "cli/run.py": "from cil_spl import __version__, pipeline\nfrom cil_spl.cli import explain\n",
    }.items():
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / where).write_text(text)
    assert len(list(modules(tmp_path))) == 3
    assert upward(tmp_path) == []


# --- sizes ------------------------------------------------------------------------------------------------------------


def is_kernel(node: ast.AST) -> bool:
    """Whether numba compiles a function: its loops are written out, and are as long as they are."""
    names = (ast.unparse(d).split("(")[0].split(".")[-1] for d in getattr(node, "decorator_list", ()))
    return any(name in ("njit", "intrinsic") for name in names)


def functions(node: ast.AST, within: str = "") -> Iterator[tuple[str, int]]:
    """Name and lines of each function; what numba compiles within it does not count."""
    for child in ast.iter_child_nodes(node):
        if is_kernel(child):
            continue
        name = within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{within}.{child.name}" if within else child.name
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, length(child) - sum(length(inner) for inner in ast.walk(child) if is_kernel(inner))
        yield from functions(child, name)


def length(node: ast.AST) -> int:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def grown(sizes: dict[str, int], limit: int, allowed: dict[str, int]) -> list[str]:
    """What is larger than its limit, and what has left the list without being taken off it."""
    found = [
        f"{name}: {size} lines, at most {allowed.get(name, limit)}"
        for name, size in sizes.items()
        if size > allowed.get(name, limit)
    ]
    fits = [name for name in allowed if sizes.get(name, 0) <= limit]
    return found + [f"{name} fits by now: take it off the list" for name in fits]


def file_sizes(root: Path) -> dict[str, int]:
    """Lines of each module, without those whose docstring gives a reason for being long."""
    sizes = {}
    for _, path in modules(root):
        text = path.read_text(encoding="utf-8")
        header = " ".join((ast.get_docstring(ast.parse(text)) or "").lower().split())
        if REASON not in header:
            sizes[path.relative_to(root).as_posix()] = len(text.splitlines())
    return sizes


def function_sizes(root: Path) -> dict[str, int]:
    return {
        f"{path.relative_to(root).as_posix()}::{name}": size
        for _, path in modules(root)
        for name, size in functions(ast.parse(path.read_text(encoding="utf-8")))
    }


def test_a_long_file_says_why() -> None:
    assert grown(file_sizes(ROOT), FILE_LINES, LONG_FILES) == [], f"split it, or say in its header: {REASON} …"


def test_functions_fit_on_a_page() -> None:
    assert grown(function_sizes(ROOT), FUNCTION_LINES, LONG_FUNCTIONS) == []


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    (tmp_path / "cil_spl").mkdir()
    path = tmp_path / "cil_spl" / "load.py"
    body = "        x = 1\n"
    path.write_text("class A:\n    def page(self):\n" + body * 60 + "@njit(cache=True)\ndef kernel():\n" + body * 90)
    name = "cil_spl/load.py::A.page"
    assert function_sizes(tmp_path) == {name: 61}
    assert grown(function_sizes(tmp_path), 60, {}) == [f"{name}: 61 lines, at most 60"]
    assert grown({name: 70}, 60, {name: 70}) == []
    assert grown({name: 71}, 60, {name: 70}) == [f"{name}: 71 lines, at most 70"]
    assert grown({name: 60}, 60, {name: 70}) == [f"{name} fits by now: take it off the list"]
    path.write_text("def around():\n    @intrinsic\n    def kernel():\n" + body * 90 + "    return kernel\n")
    assert function_sizes(tmp_path) == {"cil_spl/load.py::around": 3}
    path.write_text('"""Title.\n\nLonger than 400 lines\nbecause it is one table.\n"""\n' + "x = 1\n" * 400)
    assert file_sizes(tmp_path) == {}
    path.write_text('"""Title."""\n' + "x = 1\n" * 400)
    assert grown(file_sizes(tmp_path), 400, {}) == ["cil_spl/load.py: 401 lines, at most 400"]
