"""A sweep: the parent run in the store, and its id in the sweep's folder, where the runs of the sweep find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_checked, without_checksum, write_json
from cil_spl.results import store
from cil_spl.results.mlflow_run import MlflowRun
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
    write_json(folder / SWEEP_FILE, {"format": FORMAT, "run_id": run.info.run_id, "uri": store.redact(uri)})


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
    for above in list(folder.parents)[:4]:  # a sweep's subdir may be nested
        path = above / SWEEP_FILE
        if path.exists():
            sweep = _read(path)
            return sweep["run_id"] if sweep["uri"] == store.redact(uri) else None
    return None


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
