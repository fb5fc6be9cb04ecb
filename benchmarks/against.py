"""Two commits in turn: what has become slower.

Each side is a copy of its tree in a temporary folder. In a turn, a process of each side measures with that tree's own
sources, both figure by figure by turns, so that what else the machine does meets both alike. The compiled code of a
side lies in its copy, and is made in a turn that is not counted. A figure is the median of five turns.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from markdown import table

ROOT = Path(__file__).resolve().parents[1]
TURNS = 5
SLOWER = 1.05  # from this ratio on a figure is marked
LEFT_OUT = ("__pycache__", "*.egg-info", ".*_cache", ".git", ".venv", ".hypothesis", "build", "dist", "runs")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def compare(commit: str, worker: Path, arguments: Sequence[str] = (), root: Path = ROOT) -> int:
    """Measure ``commit`` and the tree at ``root``, uncommitted changes included; print the table.

    Args:
        worker: the script that measures, called with the folder of a side and ``arguments``. It is the one of ``root``
            for both sides.

    Returns:
        1 if a figure is more than 5 % slower than at ``commit``, else 0.
    """
    with tempfile.TemporaryDirectory(prefix="cilspl-against-") as folder:
        sides = {"other": clone(root, commit, Path(folder) / "other"), "this": copy(root, Path(folder) / "this")}
        script = sides["this"] / worker.resolve().relative_to(root)
        times: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
        for turn in range(TURNS + 1):  # the first one compiles
            for name, figure, value in in_turn(sides, script, arguments):
                if turn > 0:
                    times[name].setdefault(figure, []).append(value)
            print(f"turn {turn} of {TURNS}" if turn else "compiled", file=sys.stderr, flush=True)
    rows, slower = judge(times["other"], times["this"])
    print(table(f"this tree against {commit}", rows))
    return 1 if slower else 0


def judge(other: dict[str, list[float]], this: dict[str, list[float]]) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each figure that both sides have, and the names of those that are more than 5 % slower."""
    rows, slower = [], []
    for name in [name for name in this if name in other]:
        before, now = statistics.median(other[name]), statistics.median(this[name])
        if now / before > SLOWER:
            slower.append(name)
        rows.append(
            {
                "figure": name,
                "other commit": f"{before:.4g}",
                "this tree": f"{now:.4g}",
                "ratio": f"{now / before:.3f}",
                "": "SLOWER" if now / before > SLOWER else "",
            }
        )
    return rows, slower


def clone(root: Path, commit: str, folder: Path) -> Path:
    """The tree of a commit in ``folder``.

    Raises:
        SystemExit: the history has no such commit, or there is none.
    """
    for command in (
        ["git", "clone", "--quiet", "--no-checkout", str(root), str(folder)],
        ["git", "-C", str(folder), "checkout", "--quiet", "--detach", commit],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"--against {commit}: needs a commit of the history of {root} ({done.stderr.strip()})")
    return importable(folder)


def copy(root: Path, folder: Path) -> Path:
    """The tree as it is now in ``folder``."""
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    return importable(folder)


def importable(tree: Path) -> Path:
    """An editable install would answer for these two packages with the original."""
    for name in ("cli", "conf"):
        if (tree / name).is_dir():
            (tree / "cil_spl" / name).symlink_to(tree / name, target_is_directory=True)
    return tree


def in_turn(sides: dict[str, Path], script: Path, arguments: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """Side, figure and value, as one process of each side finds them, on one thread.

    Raises:
        SystemExit: one failed.
    """
    with ExitStack() as stack:
        running = {name: stack.enter_context(started(tree, script, arguments)) for name, tree in sides.items()}
        while running:
            for name, process in list(running.items()):
                line = asked(process)
                if line:
                    yield name, *json.loads(line)
                elif process.wait():
                    sys.exit(f"{script.name} failed with the sources of {sides[name]}")
                else:
                    del running[name]


def started(tree: Path, script: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), **dict.fromkeys(THREADS, "1")}
    for shared in ("NUMBA_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(shared, None)
    command = [sys.executable, str(script), str(tree), *arguments]
    pipes: Any = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=tree, env=environment, text=True, **pipes)


def asked(process: subprocess.Popen[str]) -> str:
    """The next figure's line; empty at the end. Lines that are no figure are left out."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write("next\n")
        process.stdin.flush()
    return next((line for line in process.stdout if line.startswith("[")), "")


def answer(figures: Iterable[tuple[str, float]]) -> None:
    """In a worker: measure each figure (a name and a time) when asked for it."""
    found = iter(figures)
    for _ in sys.stdin:
        figure = next(found, None)
        if figure is None:
            return
        print(json.dumps(figure), flush=True)
