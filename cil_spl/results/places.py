"""Where a table's runs come from: run folders, and files of rows that an experiment committed.

A file of rows is ``rows.json``, or any ``.json`` file in a folder ``results``: ``{"format": 1, "runs": […]}``, each
run what its ``run.json`` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import DIGEST, damaged, digest_of, read_checked, unchecked, warn_once, write_json
from cil_spl.results import runs
from cil_spl.results.store import redact

ROWS_FILE, RESULTS_FOLDER = "rows.json", "results"
FORMAT = 1


def write_rows(path: Path, infos: Iterable[Mapping[str, Any]]) -> None:
    """Write runs, in the shape of ``run.json``, as a file of rows."""
    content = {"format": FORMAT, "runs": [{k: v for k, v in info.items() if k != DIGEST} for info in infos]}
    write_json(path, redact(content))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The runs of a file of rows.

    Raises:
        RequestError: it is no such file, it is damaged, or a newer version wrote it.
    """
    try:
        content, checked = read_checked(path)
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: no file of rows ({error}); name a run's folder, or a {ROWS_FILE}") from error
    found = content.get("runs")
    if not isinstance(found, list) or "format" not in content:
        raise RequestError(f'{path}: no file of rows: it needs {{"format": {FORMAT}, "runs": [...]}}')
    if content["format"] != FORMAT or isinstance(content["format"], bool):
        raise RequestError(f"{path}: format {content['format']}; this version reads {FORMAT}")
    for number, info in enumerate(found):
        if not isinstance(info, dict):
            raise RequestError(f"{path}: runs.{number}: not the record of a run; it needs names and values there")
        digest = info.pop(DIGEST, None)  # of a run.json that was copied as it is
        if digest is not None and digest != digest_of(info):
            raise damaged(path)
        runs.check_info(info, path)
        if info.get("folder") is not None:
            info["folder"] = str(path.parent / str(info["folder"]))
    if not checked:
        warn_once(unchecked(path))
    return found


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
            found += read_rows(place)
        else:
            raise RequestError(f"--from {text}: no such folder or file; it needs run folders or a {ROWS_FILE}")
    once: dict[str, dict[str, Any]] = {}
    for info in found:
        name = info["run_id"] or digest_of({key: info[key] for key in ("started", "params", "row")})
        known = once.setdefault(name, info)
        if "folder" not in known and "folder" in info:
            once[name] = info  # the folder has what rows leave out
    return sorted(once.values(), key=lambda info: str(info["started"]), reverse=True)


def _names_runs(path: Path) -> bool:
    with suppress(OSError):
        return b'"runs"' in path.read_bytes()
    return True


def _below(folder: Path) -> list[dict[str, Any]]:
    """Of all files of rows below a folder; damaged ones are left out, and a warning says how many."""
    found, left_out = [], []
    for path in sorted({*folder.rglob(ROWS_FILE), *folder.rglob(f"{RESULTS_FOLDER}/*.json")}):
        try:
            found += read_rows(path)
        except RequestError:
            if path.name == ROWS_FILE or _names_runs(path):  # results may be of another kind
                left_out.append(path)
    if left_out:
        warn_once(f"{folder}: left out {len(left_out)} damaged or foreign files of rows, the first is {left_out[0]}")
    return found
