"""A sweep: the parent run in the store, and its id in the sweep's folder, where the runs of the sweep find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_checked, without_checksum, write_json
from cil_spl.results import store
from cil_spl.results.mlflow_run import MlflowRun, stored
from cil_spl.results.values import LONGEST_TEXT, git_tags, plain

SWEEP_FILE = "sweep.json"
FORMAT = 1  # before it, the file had neither a format nor a checksum


def open_sweep(config: Any, folder: Path | str, overrides: list[str]) -> None:
    """Make the parent run of a sweep and leave its id in the sweep's folder for the children.

    Raises:
        RequestError: the store cannot be used.
    """
    folder = Path(folder).resolve()
    tracking = plain(config).get("tracking") or {}
    if not tracking.get("enabled", True):
        return
    uri = store.store_uri(tracking.get("uri"))
    client = store.connect(uri)
    folder.mkdir(parents=True, exist_ok=True)
    words = store.redact(" ".join(overrides))
    tags = {"kind": "sweep", "overrides": words[:LONGEST_TEXT], "folder": str(folder)}
    with store.trouble(uri):
        experiment = store.experiment_id(client, uri, str(tracking.get("experiment") or store.DEFAULT_EXPERIMENT))
        run = client.create_run(experiment, tags=tags | git_tags(), run_name=f"sweep {words}"[:200])
    kept = {"format": FORMAT, "run_id": run.info.run_id, "uri": store.redact(uri), "overrides": words}
    write_json(folder / SWEEP_FILE, kept)


def close_sweep(folder: Path | str, status: str) -> None:
    """End the parent run: ``finished``, ``failed`` or ``killed``.

    Raises:
        RequestError: the sweep's file is damaged.
    """
    path = Path(folder) / SWEEP_FILE
    if path.exists():
        sweep = _read(path)
        MlflowRun(store.client_of(store.with_password(sweep["uri"])), sweep["run_id"], Path(folder)).tell(
            "set_terminated", store.MLFLOW_STATUS[status]
        )


def parent_of(folder: Path, uri: str) -> str | None:
    """The id of the parent that was made in this store for the sweep of the run in ``folder``; None for none."""
    place = _place_of(folder)
    if place is None:
        return None
    sweep = _read(place / SWEEP_FILE)
    return sweep["run_id"] if sweep["uri"] == store.redact(uri) else None


def _place_of(folder: Path) -> Path | None:
    """The folder of the sweep that a run's folder lies in; a sweep's subdir may be nested."""
    return next((above for above in list(folder.parents)[:4] if (above / SWEEP_FILE).exists()), None)


def parent_in(client: Any, uri: str, experiment: str, folder: Path) -> str | None:
    """The id in this store of the parent of the run in ``folder``; None of a run that is in no sweep.

    A store that has lost the parent, or never had it, gets it again; the folders of a sweep are the truth.
    """
    place = _place_of(folder)
    if place is None:
        return None
    sweep = _read(place / SWEEP_FILE)
    if stored(client, sweep["run_id"]) is not None:
        return sweep["run_id"]
    known = [e.experiment_id for e in client.search_experiments()]
    where = "tags.kind = 'sweep' and tags.folder = '" + str(place).replace("'", "\\'") + "'"
    found = client.search_runs(known, filter_string=where, max_results=1) if known else []
    if found:
        return found[0].info.run_id
    words = store.redact(str(sweep.get("overrides", "")))
    tags = {"kind": "sweep", "overrides": words[:LONGEST_TEXT], "folder": str(place)}
    run = client.create_run(
        store.experiment_id(client, uri, experiment), tags=tags, run_name=f"sweep {words or place.name}"[:200]
    )
    client.set_terminated(run.info.run_id, store.MLFLOW_STATUS["finished"])  # each child says how it ended
    return run.info.run_id


def _read(path: Path) -> dict[str, Any]:
    try:
        sweep, checked = read_checked(path)
        version = sweep.get("format", 0)
        if not isinstance(sweep["run_id"], str) or not isinstance(sweep["uri"], str) or version not in (0, FORMAT):
            raise ValueError(f"format {version}, which this version does not read")
    except RequestError:
        raise
    except (ValueError, KeyError) as error:
        raise RequestError(f"{path}: not the record of a sweep ({error}); take it from a copy, or delete it") from error
    if not checked:
        without_checksum(path, version, first=FORMAT)
    return sweep
