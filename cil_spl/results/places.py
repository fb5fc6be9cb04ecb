"""Where a table's runs come from: run folders, and files of rows that a sweep or an experiment keeps.

A file of rows is ``rows.json``, or any ``.json`` file in a folder ``results``: ``{"format": 1, "runs": […]}``, each
run what its ``run.json`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import digest_of, warn_once
from cil_spl.results import runs
from cil_spl.results.same import read_rows
from cil_spl.results.settings import configuration
from cil_spl.results.sweep import ROWS_FILE

RESULTS_FOLDER = "results"


def gather(places: Sequence[str]) -> list[dict[str, Any]]:
    """The runs of all places, the newest first, each once.

    Args:
        places: folders, with run folders and files of rows below them, and files of rows.

    Raises:
        RequestError: there is no such place, or a file that was named is damaged.
    """
    found: list[dict[str, Any]] = []
    for text in places:
        place = Path(text)
        if place.is_dir():
            found += [run.info | {"folder": str(run.folder)} for run in runs.scan(place)]
            found += _below(place)
        elif place.is_file():
            found += _rows(place)
        else:
            raise RequestError(f"--from {text}: no such folder or file; it needs run folders or a {ROWS_FILE}")
    once: dict[str, dict[str, Any]] = {}
    for info in found:
        name = digest_of({"params": configuration(info), "started": info["started"], "row": info["row"]})
        known = once.setdefault(name, info)
        if "folder" not in known and "folder" in info:
            once[name] = info  # the folder has what rows leave out
    return sorted(once.values(), key=lambda info: str(info["started"]), reverse=True)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The runs of a file, without the folders that they lay in where it was written."""
    return [{key: value for key, value in info.items() if key != "folder"} for info in read_rows(path)]


def _names_runs(path: Path) -> bool:
    with suppress(OSError):
        return b'"runs"' in path.read_bytes()
    return True


def _below(folder: Path) -> list[dict[str, Any]]:
    """Of all files of rows below a folder; damaged ones are left out, and a warning says how many."""
    found, left_out = [], []
    for path in sorted({*folder.rglob(ROWS_FILE), *folder.rglob(f"{RESULTS_FOLDER}/*.json")}):
        try:
            found += _rows(path)
        except RequestError:
            if path.name == ROWS_FILE or _names_runs(path):  # results may be of another kind
                left_out.append(path)
    if left_out:
        warn_once(f"{folder}: left out {len(left_out)} damaged or foreign files of rows, the first is {left_out[0]}")
    return found
