"""Find a run by its MLflow id, a unique prefix of it, or its output folder; read what it left."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_spl.base import locks
from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.base.files import file_digest, unchecked, warn_once
from cil_spl.results.checked import load_config
from cil_spl.results.folder import CONFIG_FILE, RUN_FILE, may_differ, read_info
from cil_spl.results.metrics import METRICS_FILE, check_logged, read_metrics
from cil_spl.results.store import first_line, redact, sqlite_path, store_uri, stored_runs
from cil_spl.results.values import flatten, millis

if TYPE_CHECKING:
    from cil_spl.data.preparation import Preparation

DEFAULT_FOLDER = "runs"
GROUPS = ("method", "model", "dataset", "target")  # what makes a run; a config.yaml has names and values in each
GONE = "its process is gone"
_SHORTEST_PREFIX = 4
SHOWN = 8  # differences, or files, that a message lists


@dataclass(frozen=True)
class Run:
    """A run that has been made.

    Attributes:
        folder: where everything of it is.
        info: what its ``run.json`` says.
    """

    folder: Path
    info: dict[str, Any]

    @property
    def run_id(self) -> str | None:
        return self.info["run_id"]

    @property
    def is_gone(self) -> bool:
        """Whether its process ended without a word: killed, though its ``run.json`` says running."""
        return self.info.get("error") == GONE

    @property
    def status(self) -> str:
        return self.info["status"]

    def path(self, name: str) -> Path:
        """A file of the run, for example ``weights.pt`` or ``chip.npz``.

        Raises:
            RequestError: the run did not leave it, or not as it is now.
        """
        path = self._existing(name)
        if self._is_changed(name):
            raise RequestError(
                f"{path}: not as the run left it: changed, damaged, or taken from elsewhere; put the run's own file "
                "back, or make the run again"
            )
        return path

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            raise RequestError(f"{self.folder}: the run ({self.status}) left no {name}")
        if not path.is_file():
            raise RequestError(f"{path}: no file, but a folder or a device; take {name} from a copy of the run")
        return path

    def _is_changed(self, name: str) -> bool:
        digest = self.info.get("files", {}).get(name)
        return digest is not None and digest != file_digest(self.folder / name)

    def weights(self) -> Path:
        """The file with the run's weights; of one that did not end, the best epoch of the last stage that it began.

        Raises:
            RequestError: the run left none.
        """
        if (self.folder / "weights.pt").exists() and self.status == "finished":
            return self.folder / "weights.pt"
        last = sorted((self.folder / "checkpoints").glob("*-last.pt"), key=lambda path: path.stat().st_mtime_ns)
        if not last:
            return self.path("weights.pt")
        best = last[-1].with_name(last[-1].name.replace("-last.pt", "-best.pt"))
        return best if best.exists() else last[-1]

    def config(self) -> Any:
        """The resolved config, as a ``DictConfig`` whose groups are mappings.

        Raises:
            RequestError: there is none, it is damaged, it is not resolved, or not what the run recorded.
        """
        from omegaconf import OmegaConf

        path = self._existing(CONFIG_FILE)
        remedy = f"take it from a copy of the run; the values are in {RUN_FILE} as well"
        try:
            config = load_config(path)
        except (ValueError, OSError) as error:
            raise RequestError(f"{path}: damaged, it cannot be read ({first_line(error)}); {remedy}") from error
        if not (OmegaConf.is_dict(config) and any(group in config for group in GROUPS)):
            raise RequestError(f"{path}: damaged, it is no config of a run; {remedy}")
        plain: Any = OmegaConf.to_container(config, resolve=False)
        for group in GROUPS:
            if group in plain and not (isinstance(plain[group], dict) and plain[group]):
                raise RequestError(f"{path}: damaged, {group}={shown(plain[group])} has no names and values; {remedy}")
        present = flatten(plain)
        _refuse_interpolations(path, present)
        self._refuse_edits(path, present)
        return config

    def _refuse_edits(self, path: Path, present: Mapping[str, Any]) -> None:
        """Refuse a config that does not say what the run recorded; one that only looks different will do."""
        # An earlier version let keys stand that it never read.
        if CONFIG_FILE not in self.info.get("files", {}):
            present = {key: value for key, value in present.items() if key in self.info["params"]}
        elif not self._is_changed(CONFIG_FILE):
            return
        was, now = _as_json(self.info["params"]), _as_json(present)
        keys = [key for key in (was | now) if not may_differ(key) and was.get(key, _NONE) != now.get(key, _NONE)]
        if keys:
            listed = [f"{key}={_said(now, key)} (the run had {_said(was, key)})" for key in keys[:SHOWN]]
            listed += [f"and {len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
            raise RequestError(
                f"{path}: edited since the run wrote it: {', '.join(listed)}; put these values back, or start another "
                "run with the new ones by `cilspl run`"
            )

    def preparations(self) -> tuple[Preparation, ...]:
        """What was done to the run's samples, for each experience; nothing where its data are recordings.

        Raises:
            RequestError: the run kept none, or its file is damaged.
        """
        from cil_spl.data import preparation
        from cil_spl.data.options import kind_of

        if kind_of(self.config().dataset) == "events":
            return ()
        if self.status != "finished":
            raise RequestError(f"{self.folder}: the run is {self.status}; only a finished one has a network to ask")
        if not (self.folder / preparation.SAMPLES_FILE).exists():
            raise RequestError(
                f"{self.folder}: it has no {preparation.SAMPLES_FILE}, which says how its samples were scaled; take it "
                "from a copy of the run, or make the run again where an earlier version made it"
            )
        return preparation.read(self.path(preparation.SAMPLES_FILE))

    def metrics(self) -> list[dict[str, Any]]:
        """One dict an epoch: ``step`` and its metrics."""
        check_logged(self.folder, self.info)
        return read_metrics(self.folder)


_NONE = object()


def _said(values: Mapping[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "nothing"


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As a record keeps them."""
    return json.loads(json.dumps(values, default=str))


def _refuse_interpolations(path: Path, values: Mapping[str, Any]) -> None:
    """A run writes its config resolved. What is not may read the environment of the user who has it resolved."""
    for key, value in values.items():
        if "${" in json.dumps(value, default=str):
            raise RequestError(f"{path}: {key}={shown(value)}: a run's config holds no ${{…}}; put its value there")


def read(folder: Path | str) -> Run:
    """The run in a folder.

    Raises:
        RequestError: there is none, its file is damaged, or a newer version wrote it.
    """
    run, checked = _read(Path(folder))
    if not checked:
        warn_once(unchecked(run.folder / RUN_FILE))
    return run


def _read(folder: Path) -> tuple[Run, bool]:
    """The run, and whether its record had a checksum."""
    info, checked = read_info(folder)
    if info["status"] == "running" and not locks.is_held(folder):
        info |= {"status": "killed", "error": GONE, "ended": _last_sign(folder)}  # nobody was left to say so
    return Run(folder.resolve(), info), checked


def _last_sign(folder: Path) -> str:
    """When a run whose process is gone was last seen at work."""
    times = [path.stat().st_mtime for name in (RUN_FILE, METRICS_FILE) if (path := folder / name).exists()]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="milliseconds")


def scan(folder: Path | str) -> list[Run]:
    """All runs below a folder, the newest first; damaged records are left out, and a warning says which and why."""
    folder = Path(folder).resolve()
    found, left_out, old = [], [], 0
    for path in sorted(folder.rglob(RUN_FILE)):
        try:
            if not path.stat().st_size:  # that of a run which begins
                continue
            run, checked = _read(path.parent)
        except OSError as error:
            left_out.append(f"{path}: cannot be read ({error.strerror or error})")
        except RequestError as error:
            left_out.append(str(error))
        else:
            found.append(run)
            old += not checked
    for text in left_out[:SHOWN]:
        warn_once(f"left out: {text}")
    if len(left_out) > SHOWN:
        warn_once(f"left out below {folder}: {len(left_out) - SHOWN} more damaged or foreign {RUN_FILE}")
    if old:
        warn_once(f"{folder}: runs of an earlier version, without checksums, which cannot be checked: {old}")
    return sorted(found, key=lambda run: millis(run.info["started"]), reverse=True)


def find(name: str | Path, uri: str | None = None) -> Run:
    """The run that the user names.

    Args:
        name: output folder (or its ``run.json``), MLflow run id, or a unique prefix of the id.
        uri: tracking store to ask after the folders below ``runs/``; default as for a run.

    Raises:
        RequestError: no such run, or a prefix of several.
    """
    path = Path(name)
    if path.name == RUN_FILE:
        path = path.parent
    if path.is_dir():
        return read(path)
    text = str(name)
    if not re.fullmatch(r"[0-9a-f]+", text):
        raise RequestError(f"run {text}: neither a folder nor the beginning of a run id; {_some_runs()}")
    if len(text) < _SHORTEST_PREFIX:
        raise RequestError(f"run {text}: give at least {_SHORTEST_PREFIX} characters of the id")
    here = [run for run in scan(DEFAULT_FOLDER) if any(i.startswith(text) for i in _ids(run.info))]
    folders = {run.folder: run for run in here}
    whole = [run for run in here if run.run_id == text]
    if whole:
        return whole[0]
    store = store_uri(uri)
    stored = []
    place = sqlite_path(store)
    if place is None or place.exists():
        stored = [info for info in stored_runs(store) if info["run_id"].startswith(text)]
    known = {run.run_id for run in here}
    for info in stored:
        if info["run_id"] not in known:
            folders.setdefault(Path(info["folder"] or info["run_id"]), Run(Path(info["folder"] or ""), info))
    if not folders:
        raise RequestError(
            f"run {text}: no run with this id below {DEFAULT_FOLDER}/ or in {redact(store)}; {_some_runs()}"
        )
    if len(folders) > 1:
        listed = "\n".join(f"  {run.run_id}  {run.folder}" for run in folders.values())
        raise RequestError(f"run {text}: the beginning of {len(folders)} run ids; give more of it:\n{listed}")
    folder, run = next(iter(folders.items()))
    if not (folder / RUN_FILE).exists():
        raise RequestError(f"run {run.run_id}: its folder {folder} is gone; name the folder where it is now")
    return read(folder)


def _ids(info: dict[str, Any]) -> list[str]:
    return [i for i in (info["run_id"], *info.get("former_run_ids", [])) if i]


def _some_runs() -> str:
    latest = scan(DEFAULT_FOLDER)[:3]
    if not latest:
        return f"there is no run below {DEFAULT_FOLDER}/ either"
    return "the latest are:\n" + "\n".join(f"  {(run.run_id or '-')[:12]}  {run.folder}" for run in latest)
