"""The copy of a run in the store, made again from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_spl.base import locks
from cil_spl.base.errors import RequestError
from cil_spl.base.files import warn_once, write_json
from cil_spl.results import runs, store
from cil_spl.results.folder import RUN_FILE, artifacts
from cil_spl.results.metrics import METRICS_FILE, check_logged, read_metrics
from cil_spl.results.mlflow_run import MlflowRun, ids_of
from cil_spl.results.sweep import parent_in
from cil_spl.results.values import millis


def restore(folder: Path | str, uri: str | None = None) -> str:
    """Make the tracking copy of a run again from its folder, or bring it up to what the folder says.

    The folder may come from someone else, so it is not asked where the copy goes: that is ``uri``, or the present store
    (``MLFLOW_TRACKING_URI``, else ``mlflow.db``) where the folder names none other. Symbolic links are left out.

    A run that the store has, under its present id or a former one, keeps that id; what the store lacks of it is added.
    Otherwise it gets a new id, which replaces the old one in ``run.json``; the old one stays known as a former id. A
    run of a sweep stays one: its parent is made again where the store has lost it.

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
    run = runs.read(folder)
    info = run.info
    if info["status"] == "running" or info.get("refused"):
        raise RequestError(f"{folder}: the run is {'refused' if info.get('refused') else 'running'}; nothing to copy")
    if uri is None:
        uri = store.own_store(folder, info["params"].get("tracking.uri"), f"cilspl restore {folder} --uri ")
    uri = store.anchor(uri)
    client = store.connect(uri)
    with store.trouble(uri):
        known = MlflowRun.of(client, info, folder)
        if known is not None and _is_whole(client, known, info):
            copy = known
        else:
            copy = copy_again(client, uri, info, folder, known)
    if copy.lost is not None:
        raise RequestError(
            f"tracking.uri={store.redact(uri)}: the store was lost while the copy was made ({copy.lost}); try again"
        )
    assert copy.run_id is not None  # it is not lost
    before = dict(info)
    info.pop("lost", None)
    note_id(info, copy.run_id)
    if info != before or run.is_gone:
        write_json(path, info)
    return copy.run_id


def catch_up(uri: str, stored_infos: Sequence[Mapping[str, Any]]) -> bool:
    """Tell the store how those of its runs ended that it calls running, where their folders on this machine know.

    Their processes were killed, or had lost the store. What cannot be told is left as it is, with a warning.

    Returns:
        whether the store has changed.
    """
    changed = False
    for info in stored_infos:
        place = info.get("folder")
        if info["status"] != "running" or not place or not (Path(place) / RUN_FILE).is_file():
            continue
        try:
            run = runs.read(place)
            ours = info["run_id"] in ids_of(run.info) or run.run_id is None
            if ours and run.status != "running" and not run.info.get("refused") and not locks.is_held(run.folder):
                restore(run.folder, uri)
                changed = True
        except (RequestError, OSError) as error:
            warn_once(f"{place}: the store calls its run running, and cannot be told how it ended: {error}")
    return changed


def note_id(info: dict[str, Any], run_id: str | None) -> None:
    """Make an id the present one of a record; the one before stays known. None, not known yet, changes nothing."""
    if run_id is None:
        return
    if info["run_id"] not in (None, run_id):
        former = [known for known in info.get("former_run_ids", []) if known != run_id]
        info["former_run_ids"] = [*former, info["run_id"]]
    info["run_id"] = run_id


def _is_whole(client: Any, known: MlflowRun, info: Mapping[str, Any]) -> bool:
    """Whether the store has all of a run: it ended there as in its folder, and was not lost on the way."""
    status = client.get_run(known.run_id).info.status
    return status == store.MLFLOW_STATUS[info["status"]] and info.get("lost") is None


def copy_again(
    client: Any, uri: str, info: Mapping[str, Any], folder: Path, known: MlflowRun | None = None
) -> MlflowRun:
    """A copy of a run that has ended, made from its folder: the one that the store has, or a new one."""
    experiment = str(info["params"].get("tracking.experiment") or store.DEFAULT_EXPERIMENT)
    parent = parent_in(client, uri, experiment, folder)
    if known is None:
        copy = MlflowRun.start(client, uri, experiment, info, folder, parent)
    else:
        copy = known
        copy.take_up(info)
        copy.tags({**info["tags"], **({} if parent is None else {"mlflow.parentRunId": parent})})
    if not (folder / METRICS_FILE).is_symlink():
        check_logged(folder, info)
    for line in read_metrics(folder) if not (folder / METRICS_FILE).is_symlink() else ():
        step, when = line.pop("step"), line.pop("time", info["started"])
        copy.metrics(line, step, millis(when))
    for file in artifacts(folder):
        copy.artifact(file)
    copy.end(info)
    return copy
