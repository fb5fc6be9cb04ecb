"""Turns between two commits: each side runs its own sources, and what has become slower is marked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import against

WORKER = """import os, sys
from cil_spl import TIMES
from pathlib import Path
from against import answer
turns = Path(sys.argv[1]) / "turns"
turn = len(turns.read_text()) if turns.exists() else 0
turns.write_text("x" * (turn + 1))
assert "NUMBA_CACHE_DIR" not in os.environ and os.environ["OMP_NUM_THREADS"] == "1"
print("chatter")
answer((name, values[turn]) for name, values in TIMES.items())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed project whose figures are those of its sources; its history has the tag ``before``."""
    root = tmp_path / "project"
    (root / "cil_spl").mkdir(parents=True)
    (root / "benchmarks").mkdir()
    (root / "benchmarks" / "worker.py").write_text(WORKER)
    for name in ("against.py", "markdown.py"):
        shutil.copy(against.ROOT / "benchmarks" / name, root / "benchmarks")
    # The first turn compiles; the others are in disorder, with medians of 100 and 10.
    write(root, same=[9999, 100, 300, 1, 99, 101], gone=[1] * 6, slow=[9999, 10, 9, 11, 10, 10])
    for command in (["init"], ["add", "."], ["commit", "-m", "one"], ["tag", "before"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(root), *identity, *command], check=True, capture_output=True)
    return root


def write(root: Path, **times: list[float]) -> None:
    (root / "cil_spl" / "__init__.py").write_text(f"TIMES = {times}\n")


@pytest.mark.parametrize(("now", "code", "mark"), [(10.5, 0, ""), (10.6, 1, "SLOWER")])
def test_more_than_five_percent_is_slower(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, now: float, code: int, mark: str
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/nowhere")
    write(project, same=[0, 1, 1, 100, 200, 200], new=[1] * 6, slow=[0, 99, now, now, now, 0])  # not committed
    assert against.compare("before", project / "benchmarks" / "worker.py", root=project) == code
    lines = [line.strip("| ").split("|") for line in capsys.readouterr().out.strip().splitlines()]
    cells = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines[2:]}
    assert cells == {
        "same": ["100", "100", "1.000"],
        "slow": ["10", f"{now:g}", f"{now / 10:.3f}", *([mark] if mark else [])],
    }


def test_a_commit_that_is_not_there_is_named(project: Path) -> None:
    with pytest.raises(SystemExit, match="--against 123abc: needs a commit of the history"):
        against.compare("123abc", project / "benchmarks" / "worker.py", root=project)


def test_a_side_that_fails_ends_the_comparison(project: Path) -> None:
    (project / "benchmarks" / "worker.py").write_text("raise ValueError")
    with pytest.raises(SystemExit, match=r"worker\.py failed with the sources of"):
        against.compare("before", project / "benchmarks" / "worker.py", root=project)
