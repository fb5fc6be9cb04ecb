"""A sweep: the file in its folder, in which its runs find their parent run in the store; at its end its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_checked, without_checksum, write_json, write_text
from cil_spl.results import store
from cil_spl.results.mlflow_run import MlflowRun, stored
from cil_spl.results.values import LONGEST_TEXT, git_tags

SWEEP_FILE, ROWS_FILE = "sweep.json", "rows.json"
TABLES = {"table.md": "markdown", "table.csv": "csv"}
FORMAT = 2  # before 1, the file had neither a format nor a checksum; before 2, neither words nor jobs


class Sweep:
    """A sweep while it goes on.

    Attributes:
        folder: that its runs lie in.
        info: what ``sweep.json`` holds.
    """

    def __init__(self, folder: Path, info: dict[str, Any], copy: MlflowRun | None) -> None:
        self.folder, self.info = folder, info
        self._copy = copy

    @classmethod
    def open(cls, tracking: Mapping[str, Any], folder: Path, words: Sequence[str]) -> Sweep:
        """Make a sweep, its parent run in the store first; or go on with the one that the folder holds.

        Raises:
            RequestError: the store cannot be used, or the folder's file is damaged.
        """
        folder = folder.resolve()
        path = folder / SWEEP_FILE
        known = _read(path) if path.exists() else None
        words = [store.redact(word) for word in words]
        info = {"format": FORMAT, "run_id": None, "uri": None, "words": words, "jobs": []} | (known or {})
        copy = None
        if tracking.get("enabled", True):
            uri = store.store_uri(tracking.get("uri"))
            client = store.connect(uri)
            with store.trouble(uri):
                copy = _parent(client, uri, tracking, folder, info)
            info |= {"run_id": copy.run_id, "uri": store.redact(uri)}
        sweep = cls(folder, info | {"format": FORMAT}, copy)
        sweep._write()
        return sweep

    def plan(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Note which jobs there are: ``name``, ``words``, ``state`` and ``where`` of each."""
        self.info["jobs"] = [dict(job) for job in jobs]
        self._write()

    def close(self, status: str, finished: Sequence[Mapping[str, Any]]) -> str:
        """End the sweep: the rows and tables of the runs that finished, in its folder and in the store.

        Args:
            status: ``finished``, ``failed`` or ``killed``.
            finished: what the ``run.json`` of these runs say.

        Returns:
            the table as text; nothing where no run finished.
        """
        from cil_spl.results import report, same, table

        shown, texts = "", {}
        if finished:
            rows = [same.row_of_run(info) for info in finished]
            write_json(self.folder / ROWS_FILE, {"format": same.ROWS_FORMAT, "runs": rows})
            made = table.tabulate(finished)
            shown = table.render(made, "text", *report.terminal())
            texts = {name: table.render(made, form) for name, form in TABLES.items()}
            for name, text in texts.items():
                write_text(self.folder / name, text)
        if self._copy is not None:
            for name in (ROWS_FILE, *TABLES) if finished else ():
                self._copy.artifact(self.folder / name)
            self._copy.metrics({"jobs": len(self.info["jobs"]), "finished": len(finished)})
            if finished:  # what MLflow's page shows of the run
                self._copy.tags({"mlflow.note.content": texts["table.md"][:LONGEST_TEXT]})
            self._copy.tell("set_terminated", store.MLFLOW_STATUS[status])
        return shown

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / SWEEP_FILE, self.info)


def words_of(path: Path) -> list[str] | None:
    """The words with which a sweep was begun, of its file; None where it does not say, or cannot be read."""
    try:
        return _read(path).get("words")
    except (RequestError, OSError):
        return None


def _parent(client: Any, uri: str, tracking: Mapping[str, Any], folder: Path, info: Mapping[str, Any]) -> MlflowRun:
    """The parent run of a sweep in the store: the one that it has, going on, or a new one."""
    if info["run_id"] is not None and info["uri"] == store.redact(uri) and stored(client, info["run_id"]) is not None:
        client.update_run(info["run_id"], status=store.MLFLOW_STATUS["running"])
        return MlflowRun(client, info["run_id"], folder)
    experiment = str(tracking.get("experiment") or store.DEFAULT_EXPERIMENT)
    return MlflowRun(client, _made(client, uri, experiment, folder, info["words"], git_tags()), folder)


def _made(
    client: Any, uri: str, experiment: str, folder: Path, words: Sequence[object], tags: Mapping[str, str]
) -> str:
    """The id of a new parent run in the store."""
    text = store.redact(" ".join(map(str, words)))
    about = {"kind": "sweep", "overrides": text[:LONGEST_TEXT], "folder": str(folder)}
    place = store.experiment_id(client, uri, experiment)
    run = client.create_run(place, tags=about | dict(tags), run_name=f"sweep {text or folder.name}"[:200])
    return str(run.info.run_id)


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
    if sweep["run_id"] is not None and stored(client, sweep["run_id"]) is not None:
        return sweep["run_id"]
    known = [e.experiment_id for e in client.search_experiments()]
    where = "tags.kind = 'sweep' and tags.folder = '" + str(place).replace("'", "\\'") + "'"
    found = client.search_runs(known, filter_string=where, max_results=1) if known else []
    if found:
        return found[0].info.run_id
    made = _made(client, uri, experiment, place, sweep.get("words") or (), {})
    client.set_terminated(made, store.MLFLOW_STATUS["finished"])  # each child says how it ended
    return made


def _read(path: Path) -> dict[str, Any]:
    try:
        sweep, checked = read_checked(path)
        version = sweep.get("format", 0)
        if version not in range(FORMAT + 1):
            raise ValueError(f"format {version}, which this version does not read")
        if any(not isinstance(sweep[key], str | None) for key in ("run_id", "uri")):
            raise ValueError("run_id and uri are no texts")
    except RequestError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{path}: not the record of a sweep ({error}); take it from a copy, or delete it") from error
    if not checked:
        without_checksum(path, version, first=1)
    return sweep
