"""Whether a run has been made already: the same config, data and sources give the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import DIGEST, damaged, digest_of, read_checked, warn_once, write_json
from cil_spl.results import runs, scores, sources
from cil_spl.results.checked import check_info
from cil_spl.results.settings import DATA, DRAWN_FROM, EXTENDED, SOURCES, makes_no_difference
from cil_spl.results.values import flatten, plain

if TYPE_CHECKING:
    from cil_spl.data.events import Splits

ROWS_FORMAT = 1


def tags_of_data(experiences: Sequence[Splits]) -> dict[str, str]:
    """The tags by which data are known again: what a run is tested on, all that it sees, and what its training and
    validation data were drawn from, which is the same for all seeds."""
    from cil_spl.data import cache

    hashes = [cache.contents(part) for data in experiences for part in (data.train, data.val, data.test)]
    whole = {"data_all": "".join(hashes), DRAWN_FROM: "".join(data.drawn_from for data in experiences)}
    return {"data": hashes[-1]} | {tag: hashlib.sha256(text.encode()).hexdigest() for tag, text in whole.items()}


def tags_of(cfg: Any, experiences: Sequence[Splits]) -> dict[str, str]:
    """The tags of a run by which it is known again: its data, and the code that decides its numbers."""
    return tags_of_data(experiences) | {SOURCES: sources.deciding(plain(cfg))}


def key_of(params: Mapping[str, Any], tags: Mapping[str, str]) -> str | None:
    """What equal runs have in common; None where a run does not say on what data and by what code it was made.

    Args:
        params: the flat config.
        tags: with those of :func:`tags_of`.
    """
    if any(name not in tags for name in (*DATA, SOURCES)):
        return None
    told = {key: value for key, value in params.items() if not makes_no_difference(key)}
    told |= {f"tag {name}": tags[name] for name in (*DATA, SOURCES, EXTENDED) if name in tags}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def key_of_config(cfg: Any, data: Mapping[str, str]) -> str | None:
    """The key of a run that has not been made, of its checked config and the tags of its data."""
    config = plain(cfg)
    return key_of(flatten(config), {**data, SOURCES: sources.deciding(config)})


@dataclass(frozen=True)
class Made:
    """A finished run: what its ``run.json`` says, and the folder or file of rows that it was found in."""

    info: dict[str, Any]
    where: Path


def finished(folders: Iterable[Path], files: Iterable[Path]) -> dict[str, Made]:
    """The finished runs below some folders and in some files of rows, by their keys; the newest of each counts.

    Files that are no rows, or damaged, are left out with a warning.
    """
    found: dict[str, Made] = {}
    made = []
    for file in files:
        try:
            made += [Made(info, file) for info in read_rows(file)]
        except RequestError as error:
            warn_once(f"left out: {error}")
    made += [
        Made(run.info | {"folder": str(run.folder)}, run.folder)
        for folder in folders
        if folder.is_dir()
        for run in runs.scan(folder)
    ]
    for one in sorted(made, key=lambda made: made.info["started"]):
        key = key_of(one.info["params"], one.info["tags"]) if one.info["status"] == "finished" else None
        if key is not None:
            found[key] = one
    return found


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The runs in a file of rows, which holds what their ``run.json`` say.

    Raises:
        RequestError: it is damaged, or none.
    """
    try:
        content, checked = read_checked(file)
        held, form = content["runs"], content["format"]
        if isinstance(form, bool) or form != ROWS_FORMAT or not isinstance(held, list):
            raise ValueError(f"format {form}, this version reads {ROWS_FORMAT}; runs has to be a list")
        for number, info in enumerate(held):
            if not isinstance(info, dict):
                raise ValueError(f"runs.{number} is not the record of a run")
            digest = info.pop(DIGEST, None)  # of a run.json that was copied as it is
            if digest is not None and digest != digest_of(info):
                raise damaged(file)
            check_info(info, file)
    except RequestError as error:
        raise RequestError(f"{error}, or delete the file") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(
            f"{file}: no file of rows, or a damaged one ({error}); take it from a copy, or delete it"
        ) from error
    if not checked:
        warn_once(f"{file}: rows without a checksum, which cannot be checked")
    return held


def row_of_run(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of rows keeps of a run's record and, where its ``folder`` is given, of its scores: nothing that
    tells of the machine."""
    params = {key: value for key, value in info["params"].items() if not makes_no_difference(key)}
    kept = {key: info[key] for key in ("format", "status", "started", "ended", "tags", "metrics", "row")}
    told = info.get("scores")
    if told is None and "folder" in info:
        told = scores.packed(Path(info["folder"]))
    kept |= {} if told is None else {"scores": told}
    return {**kept, "run_id": None, "params": params, "warnings": [], "error": None}


def add_row(file: Path, info: Mapping[str, Any]) -> None:
    """Add a finished run to a file of rows, in the place of an equal one; runs side by side may do so.

    Raises:
        RequestError: the file is damaged, or cannot be written.
    """
    import filelock

    row = row_of_run(info)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_name(f".{file.name}.lock")):
            key = key_of(row["params"], row["tags"])
            others = read_rows(file) if file.exists() else []
            kept = [one for one in others if key is None or key_of(one["params"], one["tags"]) != key]
            write_json(file, {"format": ROWS_FORMAT, "runs": [*kept, row]})
    except OSError as error:
        raise RequestError(f"--rows {file}: cannot be written ({error}); the run itself is finished") from error
