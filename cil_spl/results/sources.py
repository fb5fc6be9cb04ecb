"""The sources that decide a run's numbers, as one hash: two runs with the same hash, config and data are the same run.

They are the modules of this package that the pipeline and the config's ``_target_`` lead to by their imports, without
``results`` and the command line, which only keep and show; a user's own modules that the config names; and the versions
of the libraries that compute. Comments, docstrings and the layout of the text do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "cil_spl"
SHOWING = ("cil_spl.results", "cil_spl.cli", "cil_spl.conf", "cil_spl.base.version")
LIBRARIES = ("torch", "numpy", "numba", "sinabs", "tonic")
LENGTH = 16  # hexadecimal digits


def deciding(config: Mapping[str, Any]) -> str:
    """The hash for a run with this config, plain values."""
    modules = {target.rpartition(".")[0] for target in _targets(config)}
    return _hash(frozenset(modules | set(config.get("extensions") or ())))


@functools.cache
def _hash(modules: frozenset[str]) -> str:
    digest = hashlib.sha256()
    for library in LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    for module, file in sorted(reached({"cil_spl.pipeline", *modules}).items()):
        digest.update(f"{module} {_read(file)[1]}\n".encode())
    return digest.hexdigest()[:LENGTH]


def reached(modules: Iterable[str]) -> dict[str, Path]:
    """The files of modules and of all that they import, directly or not, from this package."""
    found: dict[str, Path] = {}
    left = [module for module in modules if not module.startswith(SHOWING)]
    while left:
        module = left.pop()
        file = None if module in found else _file(module)
        if file is None:
            continue
        found[module] = file
        left += [name for name in _read(file)[0] if name not in found and not name.startswith(SHOWING)]
    return found


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for held in value:
            yield from _targets(held)


@functools.cache
def _file(module: str) -> Path | None:
    """The file of a module; None where there is none of that name. Nothing is imported but packages above it."""
    if module.partition(".")[0] == PACKAGE:
        at = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
        return next((file for file in (at.with_suffix(".py"), at / "__init__.py") if file.is_file()), None)
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).suffix == ".py" else None


@functools.cache
def _read(file: Path) -> tuple[tuple[str, ...], str]:
    """Names from this package that a file imports, at its top or within a function; a hash of what it says to the
    interpreter."""
    tree = ast.parse(file.read_bytes())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    mine = {name for name in names if name.partition(".")[0] == PACKAGE}
    mine |= {name.rpartition(".")[0] for name in mine} - {""}  # and the packages they lie in
    return tuple(sorted(mine)), hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
