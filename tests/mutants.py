"""Seeded defects: each is put into a copy of the tree, and the tests named for it must turn red.

    python tests/mutants.py              all of tests/mutants.toml
    python tests/mutants.py clip plan    those with one of these words in their name

Exit code 1 if a defect survives, its place is no longer found exactly once, or its tests are red, skipped
or missing without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "mutants.toml"
LEFT_OUT = ("__pycache__", "*.egg-info", ".*_cache", ".git", ".venv", ".hypothesis", "build", "dist", "runs")
TIMEOUT_S = 900
PASSED, FAILED = 0, 1  # pytest's exit codes


@dataclass(frozen=True)
class Mutant:
    """A defect: in ``file``, the text ``old``, found once, becomes ``new``, and one of ``tests`` must fail.

    Where the package that ``needs`` names is not installed, it is left out.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    needs: str = ""

    def found(self, root: Path = ROOT) -> int:
        """How often ``old`` stands in the file."""
        path = root / self.file
        return path.read_text(encoding="utf-8").count(self.old) if path.is_file() else 0

    def seed(self, root: Path) -> None:
        path = root / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")


def read(path: Path = LIST) -> list[Mutant]:
    """The list of seeded defects."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def copy_tree(folder: Path) -> Path:
    """The tree in ``folder``, importable from there, with the reference data beside it as here."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    # An editable install would answer for these two with the original.
    for name in ("cli", "conf"):
        (tree / "cil_spl" / name).symlink_to(tree / name, target_is_directory=True)
    if (ROOT.parent / "shared").exists():
        (folder / "shared").symlink_to(ROOT.parent / "shared", target_is_directory=True)
    return tree


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of pytest on some tests of a copy; nothing compiled is shared with the original."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--hypothesis-seed=0", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment.pop("NUMBA_CACHE_DIR", None)
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return FAILED, f"no end after {TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr


def sound(tests: Sequence[str]) -> tuple[bool, str]:
    """Whether tests pass, and none is skipped, without any defect."""
    with tempfile.TemporaryDirectory(prefix="cilspl-mutant-") as folder:
        code, output = run_tests(copy_tree(Path(folder)), tests)
    closing = output.strip().splitlines()[-1] if output.strip() else ""
    return code == PASSED and "skipped" not in closing, output


def judge(mutant: Mutant) -> tuple[str, str]:
    """``caught``, ``SURVIVED``, ``STALE`` or ``NO TEST``, and what pytest said."""
    times = mutant.found()
    if times != 1:
        return "STALE", f"{mutant.file} holds the old text {times} times"
    with tempfile.TemporaryDirectory(prefix="cilspl-mutant-") as folder:
        tree = copy_tree(Path(folder))
        mutant.seed(tree)
        code, output = run_tests(tree, mutant.tests)
    # A defect in a compiled loop may write where it must not, and kill the process: that is red, too.
    word = "caught" if code < 0 else {PASSED: "SURVIVED", FAILED: "caught"}.get(code, "NO TEST")
    return word, output


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only defects with one of these in their name or file")
    parser.add_argument("--list", type=Path, default=LIST, help="the defects (default: tests/mutants.toml)")
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time")
    asked = parser.parse_args(argv)
    mutants = [m for m in read(asked.list) if not asked.words or any(w in m.name or w in m.file for w in asked.words)]
    if not mutants:
        parser.error(f"no defect is named {' or '.join(asked.words)}")
    for left_out in (m for m in mutants if m.needs and importlib.util.find_spec(m.needs) is None):
        print(f"left out  {left_out.name:<44} needs {left_out.needs}", flush=True)
        mutants = [m for m in mutants if m is not left_out]
    started = time.monotonic()
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with ThreadPoolExecutor(max(1, asked.jobs)) as pool:
        clean = pool.submit(sound, tests)
        verdicts = []
        for mutant, (word, output) in zip(mutants, pool.map(judge, mutants), strict=True):
            verdicts.append(word)
            print(f"{word:<9} {mutant.name:<44} {mutant.file}", flush=True)
            if word != "caught":
                print("\n".join(f"    {line}" for line in output.strip().splitlines()[-12:]), flush=True)
        fine, output = clean.result()
    if not fine:
        print("The named tests do not all pass without a defect, so that nothing above counts:")
        print("\n".join(f"    {line}" for line in output.strip().splitlines()[-30:]))
    caught = verdicts.count("caught")
    print(f"{caught} of {len(mutants)} seeded defects caught in {time.monotonic() - started:.0f} s")
    return 0 if fine and caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
