"""Whether this tree still computes what a commit computed: weights, chip network and metrics, to the last bit.

    python tests/same_as.py COMMIT                           all cases, about ten minutes on two cores
    python tests/same_as.py COMMIT --cases bptt nmnist8/cil  those with one of these in their name

A case is a data set and a method, two epochs each: the embedded digits, and the real recordings of ../shared/data. Both
sides run with one thread for torch and numba, because before ``cil_spl.base.process`` the numbers depended on what had
been compiled before. Left out are timings, and the loss averages (which are reported where they differ).
What this tree has and COMMIT has not is no difference; what it lacks is one.

Exit code 0 if all is equal, 1 if anything differs or a run fails, 2 if the comparison cannot be made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
METHODS = ("bptt", "conversion", "cil_bptt", "cil_conversion")
DATA = {
    "event_digits": ["dataset=event_digits"],
    "nmnist8": ["dataset=nmnist", "dataset.download=false", "trainer.batch_size=32"],
}
CASES = tuple(f"{data}/{method}" for data in DATA for method in METHODS)
COMMON = (
    "trainer.epochs=2",
    "trainer.threads=1",
    "target=speck",
    "target.backend=simulator",
    "target.threads=2",  # a recording's answer does not depend on them
    "tracking.enabled=false",
)
# Overrides of both sides that restore a default which has been mended since, each with its reason. By case, or `*`.
RESTORED: dict[str, dict[str, str]] = {"*": {}}
# Metrics that have had another name since, by the method of the case: what stood under the one stands under the other.
RENAMED = {method: {"float/synops": "float/macs"} for method in ("conversion", "cil_conversion")}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
APART = "train/loss"  # averaged, so that the order of the additions may change
ABOUT_THE_FILE = ("kind", "format", "checksum", "version")  # of a chip.npz header
ABOUT_THE_LINE = ("time", "crc")  # of metrics.jsonl
LISTED = 12  # differences of a case that are printed


class NoComparison(Exception):
    """The comparison cannot be made; the message says why."""


@dataclass(frozen=True)
class Side:
    """One of the two trees, importable from ``tree``, with the caches of its own."""

    name: str
    tree: Path
    work: Path

    def environment(self) -> dict[str, str]:
        own = ("CILSPL_", "MLFLOW_", "NUMBA_", "HYDRA_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        path = os.pathsep.join(p for p in (str(self.tree), inherited.get("PYTHONPATH")) if p)
        caches = {"NUMBA_CACHE_DIR": str(self.work / "numba"), "CILSPL_CACHE": str(self.work / "data")}
        quiet = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
        return inherited | quiet | caches | ONE_THREAD

    def check(self) -> None:
        """An installed copy must not answer in place of the tree."""
        program = "import cil_spl, cil_spl.cli, cil_spl.conf as conf; print(cil_spl.__file__, conf.__file__, sep='\\n')"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=self.work, env=self.environment(), capture_output=True, text=True
        )
        found = [Path(line) for line in done.stdout.splitlines()]
        if len(found) != 2 or not all(self.tree in path.parents for path in found):
            raise NoComparison(f"{self.name}: cannot be imported from {self.tree}\n{done.stdout}{done.stderr}")

    def run(self, case: str, digits: Path) -> str:
        """Run one case; what went wrong, or nothing."""
        folder = self.folder(case)
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "cil_spl.cli", "run", *overrides_of(case, digits)],
            cwd=self.work,
            env=self.environment() | {"CILSPL_RUN_DIR": str(folder)},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return ""
        closing = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        return f"{self.name}: the run ended with exit code {done.returncode}\n{closing}"

    def folder(self, case: str) -> Path:
        return self.work / "runs" / case


@dataclass
class Compared:
    """What came out of one case."""

    case: str
    counts: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def overrides_of(case: str, digits: Path) -> list[str]:
    """What both sides are given for a case."""
    data, method = case.split("/")
    root = [f"dataset.root={digits}"] if data == "nmnist8" else []
    restored = [override for where in ("*", case) for override in RESTORED.get(where, {})]
    return [*DATA[data], *root, f"method={method}", *COMMON, *restored]


# --- the two sides ----------------------------------------------------------------------------------------------------


def side_of_commit(commit: str, folder: Path) -> Side:
    """A clone of ``commit``."""
    tree = folder / "tree"
    for command in (
        ["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(tree)],
        ["git", "-C", str(tree), "checkout", "--quiet", "--detach", commit],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NoComparison(f"{commit}: no such commit in the history of {ROOT}\n{done.stderr.strip()}")
    return importable(commit, tree, folder)


def side_of_tree(folder: Path) -> Side:
    """A copy of this tree as it stands, without the user's own settings."""
    tree = folder / "tree"
    for name in ("cil_spl", "cli", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    return importable("this tree", tree, folder)


def importable(name: str, tree: Path, work: Path) -> Side:
    for part in ("cli", "conf"):  # an editable install would answer for these two with this tree's
        (tree / "cil_spl" / part).symlink_to(tree / part, target_is_directory=True)
    side = Side(name, tree, work)
    side.check()
    return side


def real_digits(folder: Path) -> Path:
    """Lay the real recordings of eight digits out as the official data set does."""
    unpack = SHARED / "tools" / "unpack_nmnist.py"
    if not unpack.is_file():
        raise NoComparison(f"the cases nmnist8 need the reference data in {SHARED}; leave them out with --cases")
    subprocess.run([sys.executable, unpack, folder], check=True, stdout=subprocess.DEVNULL)
    return folder


# --- reading and comparing: nothing here is the tree's own ------------------------------------------------------------


def weights_in(path: Path) -> dict[str, Any]:
    """The tensors of ``weights.pt`` by their names in the network, wherever in the file they lie."""

    def tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from tensors(inner, str(key))

    found = list(tensors(torch.load(path, weights_only=True, map_location="cpu"), ""))
    if len(dict(found)) != len(found):
        raise ValueError(f"{path.name} holds two tensors of one name")
    return {name: tensor.detach().contiguous().numpy() for name, tensor in found}


def chip_in(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of ``chip.npz``, and each value of its header by its place there."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "header"}
        header = json.loads(str(file["header"]))
    return arrays, {k: v for k, v in leaves(header) if k.split(".")[0] not in ABOUT_THE_FILE}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield name, value
    else:
        for key, item in inner:
            yield from leaves(item, f"{name}.{key}" if name else str(key))


def metrics_in(folder: Path) -> dict[str, Any]:
    """Every metric of every epoch and of the end; timings left out."""
    found: dict[str, Any] = {}
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        found |= {
            f"line {number} {name}": value for name, value in json.loads(line).items() if name not in ABOUT_THE_LINE
        }
    final = json.loads((folder / "run.json").read_text(encoding="utf-8"))["metrics"]
    found |= {f"final {name}": value for name, value in final.items()}
    return {name: value for name, value in found.items() if not name.endswith("_seconds")}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    arrays, header = chip_in(folder / "chip.npz")
    return {
        "weights.pt": weights_in(folder / "weights.pt"),
        "chip.npz": arrays,
        "chip.npz header": header,
        "metrics": metrics_in(folder),
    }


def renamed(case: str, name: str) -> str:
    """What a metric of a case is called now."""
    for old, new in RENAMED.get(case.rpartition("/")[2], {}).items():
        name = name.replace(old, new)
    return name


def difference(before: Any, now: Any) -> str | None:
    """In words; None where the two are the same to the last bit."""
    if not isinstance(before, np.ndarray):
        return None if before == now and isinstance(before, str) == isinstance(now, str) else f"{before!r} → {now!r}"
    if (before.dtype, before.shape) != (now.dtype, now.shape):
        return f"{before.dtype} {before.shape} → {now.dtype} {now.shape}"
    if before.tobytes() == now.tobytes():
        return None
    other = before != now
    largest = np.abs(before.astype(np.float64) - now.astype(np.float64)).max()
    return f"{int(other.sum())} of {other.size} values differ, by up to {largest:.3g}"


def compare(case: str, before: Path, now: Path) -> Compared:
    """All that two runs of one case left."""
    result = Compared(case)
    try:
        old, new = read(before), read(now)
    except (OSError, KeyError, ValueError) as error:
        result.differences.append(f"cannot be read: {error!r}")
        return result
    for kind, values in old.items():
        result.counts[kind] = len(values)
        if not values:
            result.differences.append(f"{kind}: nothing to compare")
        for name, value in values.items():
            now_called = renamed(case, name)
            if now_called not in new[kind]:
                result.differences.append(f"{kind}: {name} is missing")
            elif words := difference(value, new[kind][now_called]):
                found = result.notes if name.endswith(APART) else result.differences
                found.append(f"{kind}: {name}: {words}")
        if more := sorted(new[kind].keys() - {renamed(case, name) for name in values}):
            result.notes.append(f"{kind}: new: {', '.join(more)}")
    return result


# --- the command ------------------------------------------------------------------------------------------------------


def same_as(commit: str, cases: Sequence[str] = CASES, jobs: int = 2) -> list[Compared]:
    """Run the cases on both sides, and compare.

    Raises:
        NoComparison: no such commit, no reference data, or a tree that cannot be imported.
    """
    with tempfile.TemporaryDirectory(prefix="cilspl-same-as-") as name:
        work = Path(name).resolve()
        digits = work / "digits"
        (work / "before").mkdir()
        (work / "now").mkdir()
        sides = [side_of_commit(commit, work / "before"), side_of_tree(work / "now")]
        if any(case.startswith("nmnist8/") for case in cases):
            real_digits(digits)
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            running = {case: [pool.submit(side.run, case, digits) for side in sides] for case in cases}
            results = []
            for case, runs in running.items():
                failed = [words for run in runs if (words := run.result())]
                result = compare(case, *(side.folder(case) for side in sides)) if not failed else Compared(case)
                result.differences += failed
                results.append(result)
                print(line_of(result), flush=True)
    return results


def line_of(result: Compared) -> str:
    word = "DIFFERENT" if result.differences else "equal"
    what = ", ".join(f"{number} {kind}" for kind, number in result.counts.items())
    return f"{result.case:<28} {word:<10} {what}"


def details(results: Sequence[Compared]) -> Iterator[str]:
    for result in results:
        for words in result.differences[:LISTED]:
            yield f"{result.case}: {words}"
        if len(result.differences) > LISTED:
            yield f"{result.case}: … and {len(result.differences) - LISTED} more"
        yield from (f"{result.case}: no difference, but: {words}" for words in result.notes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT", help="what to compare this tree with")
    parser.add_argument("--cases", nargs="+", default=[""], metavar="WORD", help=f"of {', '.join(CASES)}")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    asked = parser.parse_args(argv)
    cases = [case for case in CASES if any(word in case for word in asked.cases)]
    if not cases:
        parser.error(f"no case is named {' or '.join(asked.cases)}; there are {', '.join(CASES)}")
    began = time.monotonic()
    try:
        results = same_as(asked.commit, cases, asked.jobs)
    except NoComparison as error:
        print(f"no comparison: {error}", file=sys.stderr)
        return 2
    for words in details(results):
        print(words)
    different = sum(bool(result.differences) for result in results)
    verdict = f"{different} of {len(results)} cases differ" if different else f"all {len(results)} cases equal"
    print(f"{asked.commit} and this tree: {verdict}, in {time.monotonic() - began:.0f} s")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
