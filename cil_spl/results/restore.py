"""The copy of a run in the store, made again from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import write_json
from cil_spl.results import runs, store
from cil_spl.results.folder import RUN_FILE, artifacts
from cil_spl.results.metrics import METRICS_FILE, read_metrics
from cil_spl.results.mlflow_run import MlflowRun, stored
from cil_spl.results.sweep import parent_of
from cil_spl.results.values import millis


def restore(folder: Path | str, uri: str | None = None) -> str:
    """Make the tracking copy of a run again from its folder.

    The folder may come from someone else, so it is not asked where the copy goes: that is ``uri``, or the present store
    (``MLFLOW_TRACKING_URI``, else ``mlflow.db``) where the folder names none other. Symbolic links are left out.

    A run that the store still has is left alone. Otherwise it gets a new id, which replaces the old
    one in ``run.json``; the old one stays known as a former id.

    Returns:
        MLflow's run id.

    Raises:
        RequestError: no run in the folder, its record is damaged, it still goes on, it names another store than the
            present one, or the store cannot be used.
    """
    folder = Path(folder).resolve()
    path = folder / RUN_FILE
    if not path.exists():
        raise RequestError(f"{folder}: no {RUN_FILE} in it, so no run to restore")
    info = runs.read(folder).info
    if info["status"] == "running" or info.get("refused"):
        raise RequestError(f"{folder}: the run is {'refused' if info.get('refused') else 'running'}; nothing to copy")
    if uri is None:
        uri = store.own_store(folder, info["params"].get("tracking.uri"), f"cilspl restore {folder} --uri ")
    uri = store.anchor(uri)
    client = store.connect(uri)
    known = stored(client, info["run_id"])
    if known is not None and known.info.status == store.MLFLOW_STATUS[info["status"]]:
        return info["run_id"]
    copy = copy_again(client, uri, info, folder)
    if copy.lost is not None:
        raise RequestError(
            f"tracking.uri={store.redact(uri)}: the store was lost while the copy was made ({copy.lost}); try again"
        )
    info["former_run_ids"] = [*info.get("former_run_ids", []), *([info["run_id"]] if info["run_id"] else [])]
    info["run_id"] = copy.run_id
    write_json(path, info)
    return copy.run_id


def copy_again(client: Any, uri: str, info: Mapping[str, Any], folder: Path) -> MlflowRun:
    """A new copy of a run that has ended, made from its folder."""
    experiment = str(info["params"].get("tracking.experiment") or store.DEFAULT_EXPERIMENT)
    copy = MlflowRun.start(client, uri, experiment, info, folder, parent_of(folder, uri))
    for line in read_metrics(folder) if not (folder / METRICS_FILE).is_symlink() else ():
        step, when = line.pop("step"), line.pop("time", info["started"])
        copy.metrics(line, step, millis(when))
    for file in artifacts(folder):
        copy.artifact(file)
    copy.end(info)
    return copy
