"""``cilspl runs``: which runs there are and what they take of the disk; deletes those that failed, and checkpoints."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cil_spl.base.errors import RequestError

if TYPE_CHECKING:
    from cil_spl.results.runs import Run

ENDED_BADLY = ("failed", "killed")
CHECKPOINTS = "checkpoints"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl runs",
        description="The runs below some folders (default: runs), and what each takes of the disk.",
    )
    parser.add_argument(
        "folders", nargs="*", default=["runs"], metavar="FOLDER", help="run folders, or folders of them"
    )
    parser.add_argument(
        "--status", action="append", metavar="STATUS", help="only these: finished, failed, killed, running"
    )
    parser.add_argument(
        "--delete-failed", action="store_true", help="delete the failed and killed runs that are listed"
    )
    parser.add_argument(
        "--drop-checkpoints", action="store_true",
        help="delete the checkpoints of the finished runs that are listed; they get no more epochs then",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do it; without, it is only said what would be deleted")
    given = parser.parse_args(argv)

    from cil_spl.results import runs
    from cil_spl.results.store import MLFLOW_STATUS

    for status in given.status or ():
        if status not in MLFLOW_STATUS:
            raise RequestError(f"--status {status}: allowed are {', '.join(MLFLOW_STATUS)}")
    found: dict[Path, Run] = {}
    for folder in given.folders:
        if not Path(folder).is_dir():
            raise RequestError(f"{folder}: no such folder; `cilspl run` makes runs below runs/")
        found |= {run.folder: run for run in runs.scan(folder)}
    listed = [run for run in found.values() if not given.status or run.status in given.status]
    _list(listed)
    if given.delete_failed:
        bad = [run for run in listed if run.status in ENDED_BADLY]
        _delete([run.folder for run in bad], f"{len(bad)} failed or killed runs", given.yes)
    if given.drop_checkpoints:
        done = [run.folder / CHECKPOINTS for run in listed if run.status == "finished"]
        done = [folder for folder in done if folder.is_dir() and not folder.is_symlink()]
        _delete(done, f"the checkpoints of {len(done)} finished runs", given.yes)
    return 0


def _list(listed: Sequence[Run]) -> None:
    from cil_spl.results import report

    total = kept = 0
    for run in listed:
        size, part = size_of(run.folder), size_of(run.folder / CHECKPOINTS)
        total, kept = total + size, kept + part
        print(f"{run.status:<9} {_amount(size):>9} {_amount(part):>9}  {report.shortened(run.folder)}")
    runs = "1 run" if len(listed) == 1 else f"{len(listed)} runs"
    print(f"{runs}, {_amount(total)}, of it {_amount(kept)} in checkpoints")


def _delete(folders: Sequence[Path], what: str, really: bool) -> None:
    """Delete folders, where it is meant."""
    from cil_spl.base import locks

    size = sum(size_of(folder) for folder in folders)
    if not really or not folders:
        print(f"{what}: {_amount(size)}" + ("; --yes deletes them" if folders else ""))
        return
    gone = 0
    for folder in folders:
        run = folder.parent if folder.name == CHECKPOINTS else folder
        if locks.is_held(run):  # someone went on with it since
            continue
        shutil.rmtree(folder, ignore_errors=True)
        gone += not folder.exists()
    print(f"{what}: {gone} folders deleted, {_amount(size)}")


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    return sum(
        (Path(here) / name).lstat().st_size for here, _, names in os.walk(folder, followlinks=False) for name in names
    )


def _amount(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
