"""Threads: the same from a run's first step to its last, whatever numba has compiled before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

MOST = 4  # numba's threads; torch's would become so many at the first parallel function


def environment(**more: str) -> dict[str, str]:
    """Nothing but numba's largest number of threads comes from outside."""
    ours = ("OMP_", "MKL_", "NUMBA_", "CILSPL_RUN")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"NUMBA_NUM_THREADS": str(MOST)} | more


def python(*words: str, cwd: Path, **more: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment(**more), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


IN_FORCE = """
import json, sys
import numba, torch
from cil_spl.base import process

@numba.njit(parallel=True)
def parallel(n):
    total = 0
    for i in numba.prange(n):
        total += i
    return total

def in_force():
    return [torch.get_num_threads(), numba.get_num_threads()]

# torch takes its number when it first asks for it; only one taken before numba starts shows whether it stays
torch.get_num_threads()
for asked in json.loads(sys.argv[1]):
    said = process.set_threads(asked)
    before = in_force()
    assert parallel(100) == 4950
    print(json.dumps([list(said.items()), before, in_force()]))
"""


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [
        ([1, 3, MOST + 1, 1], None, [(1, 1), (3, 3), (MOST + 1, MOST), (1, 1)]),
        ([None], "2", [(2, 2)]),
    ],
)
def test_threads_stay_as_they_were_asked_for(
    asked: list[int | None], own: str | None, expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    """numba never has more than it was started with; without a number, torch's own holds for both."""
    more = {} if own is None else {"OMP_NUM_THREADS": own}
    lines = python("-c", IN_FORCE, json.dumps(asked), cwd=tmp_path, **more).splitlines()
    for line, (torchs, numbas) in zip(lines, expected, strict=True):
        said, before, after = json.loads(line)
        assert said == [["torch", torchs], ["numba", numbas]]
        assert before == after == [torchs, numbas]


def run(
    folder: Path, numba_cache: Path, overrides: Sequence[str], **more: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A short run in a process of its own: its weights, and what its record says."""
    short = ["trainer.epochs=1", "trainer.limit_batches=6", "frames.bins=2", "tracking.enabled=false"]
    words = ["-m", "cil_spl.cli", "run", "method=bptt", "target=software", *short, *overrides]
    python(*words, cwd=folder.parent, NUMBA_CACHE_DIR=str(numba_cache), CILSPL_RUN_DIR=str(folder), **more)
    weights = torch.load(folder / "weights.pt", weights_only=True)["weights"]
    return weights, json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_a_cold_and_a_warm_numba_cache_give_the_same_numbers(tmp_path: Path) -> None:
    """Compiled in the run, or read from numba's cache: weights and final metrics, to the last bit."""
    cache = tmp_path / "numba"
    cold, first = run(tmp_path / "cold", cache, ["trainer.threads=2"])
    compiled = {path.relative_to(cache): path.stat().st_mtime_ns for path in cache.rglob("*.nbc")}
    assert any("_backward" in path.name for path in compiled)
    warm, second = run(tmp_path / "warm", cache, ["trainer.threads=2"])
    assert {path.relative_to(cache): path.stat().st_mtime_ns for path in cache.rglob("*.nbc")} == compiled
    assert cold.keys() == warm.keys()
    assert [name for name in cold if cold[name].numpy().tobytes() != warm[name].numpy().tobytes()] == []
    assert first["metrics"] == second["metrics"]
    _, alone = run(tmp_path / "alone", cache, ["trainer.threads=1"])
    _, own = run(tmp_path / "own", cache, ["trainer.threads=null"], OMP_NUM_THREADS="1")
    for record, threads in ((first, "2"), (second, "2"), (alone, "1"), (own, "1")):
        assert (record["tags"]["threads_torch"], record["tags"]["threads_numba"]) == (threads, threads)
