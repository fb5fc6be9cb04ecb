"""The record of a run: a folder, which is the truth, and its copy in MLflow, which can be made again.

The folder holds ``config.yaml`` (resolved), ``run.json`` (written whole or not at all) and ``metrics.jsonl`` (one line
an epoch, written at once); the pipeline adds weights, chip network and figures.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_spl.base import locks, ranks, signals
from cil_spl.base.errors import RequestError
from cil_spl.base.files import file_digest, json_line, reserve, write_json, write_text, write_whole
from cil_spl.base.signals import Terminated
from cil_spl.base.version import __version__
from cil_spl.results import resumption, store
from cil_spl.results.folder import CONFIG_FILE, FORMAT, RUN_FILE, artifacts, check_unclaimed, read_info
from cil_spl.results.metrics import METRICS_FILE, extent, read_metrics, same_but_for_time, write_metrics
from cil_spl.results.mlflow_run import MlflowRun
from cil_spl.results.restore import copy_again, note_id
from cil_spl.results.sweep import parent_of
from cil_spl.results.values import finite, flatten, git_tags, now, plain

RESERVE_FILE = ".reserve"
RESERVE_BYTES = 1 << 18  # what the last word of a run takes in its folder and in a SQLite store, some times over
_log = logging.getLogger(__name__)


def _name_of(config: Mapping[str, Any], group: str) -> str | None:
    part = config.get(group)
    return part.get("name") if isinstance(part, Mapping) else None


def _tags(config: Mapping[str, Any]) -> dict[str, str]:
    tags = {group: _name_of(config, group) for group in ("method", "model", "dataset", "target")}
    target = config.get("target")
    tags["backend"] = target.get("backend") if isinstance(target, Mapping) else None
    tags["test_dataset"] = _name_of(config, "test_dataset")
    tags["seed"] = None if config.get("seed") is None else str(config["seed"])
    tags["version"] = __version__
    return {key: str(value) for key, value in tags.items() if value is not None} | git_tags()


class Record:
    """One run while it goes on.

    Attributes:
        folder: where everything is.
        info: what ``run.json`` holds; of an extension, what it will hold once that has ended.
    """

    def __init__(
        self,
        folder: Path,
        info: dict[str, Any],
        copy: MlflowRun | None,
        silent: bool = False,
        known: Sequence[dict[str, Any]] = (),
        kept: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.info = folder, info
        self._copy, self._silent = copy, silent
        self._sent: set[Path] = set()
        # Lines that the run had logged before it was resumed, and how many of them it has logged again.
        self._known, self._again = list(known), 0
        self._kept = kept  # the record of the finished run that is extended: it counts until the extension has ended
        self._config = ""

    @property
    def place(self) -> Path:
        """Where what the run makes is laid: its folder; for an extension a folder in it, until all is there."""
        return self.folder if self._kept is None else self.folder / resumption.EXTENSION

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None without a store."""
        return self.info["run_id"]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of one epoch, on disk at once and to the store in one call."""
        signals.check()
        if self._silent:
            return
        line = {"step": int(step), "time": now(), **finite(metrics)}
        if self._again < len(self._known) and same_but_for_time(self._known[self._again], line):
            self._again += 1  # a resumed run logs again what it had logged
        else:
            if self._again < len(self._known):
                self._cut()
            with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json_line(line) + "\n")
        if self._copy is not None:
            self._copy.metrics({k: float(v) for k, v in metrics.items()}, step)

    def _cut(self) -> None:
        """Leave out the lines of epochs that no checkpoint knows: they are run again."""
        self._known = self._known[: self._again]
        write_metrics(self.folder, self._known)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config, as the run has it, and the record."""
        from omegaconf import OmegaConf

        reserve(self.folder / RESERVE_FILE, RESERVE_BYTES)
        self._config = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
        if self._kept is None:
            write_text(self.folder / CONFIG_FILE, self._config)
            self.info |= {"files": {CONFIG_FILE: file_digest(self.folder / CONFIG_FILE)}, "logged": None}
        else:
            shutil.rmtree(self.place, ignore_errors=True)  # of an extension that was cut off
            self.place.mkdir()
        self._write()

    def start_copy(self, client: Any, uri: str, experiment: str, *, fresh: bool) -> None:
        """Begin the run's copy in the store, or go on with the one that it has there.

        Raises:
            RequestError: the store cannot be used.
        """
        with store.trouble(uri):
            known = None if fresh else MlflowRun.of(client, self.info, self.folder)
            if self._kept is not None:
                self._copy = copy_again(client, uri, self._kept, self.folder) if known is None else known
                self._copy.recall()
            elif known is None:
                parent = parent_of(self.folder, uri)
                self._copy = MlflowRun.start(client, uri, experiment, self.info, self.folder, parent)
            else:
                self._copy = known
                known.take_up(self.info)
        for info in (self.info, *([] if self._kept is None else [self._kept])):
            note_id(info, self._copy.run_id)
        self._write()

    def tag(self, **tags: object) -> None:
        """What was found out on the way, for example ``backend="simulator"``."""
        told = {key: str(value) for key, value in tags.items()}
        self.info["tags"].update(told)
        self._write()
        if self._copy is not None and self._kept is None:
            self._copy.tags(told)

    def artifact(self, path: Path | str) -> None:
        """Copy a file of the run folder to the store now, not only when the run ends."""
        if self._copy is not None and self._kept is None:
            path = Path(path).resolve()
            self._sent.add(path)
            self._copy.artifact(path)

    def warn(self, text: str) -> None:
        """Tell the user, and keep it with the run; the same words once only."""
        if text not in self.info["warnings"]:
            self.info["warnings"].append(text)
            if not self._silent:
                _log.warning("%s", store.redact(text))

    def finish(self, metrics: Mapping[str, float], row: Mapping[str, Any], warnings: Sequence[str] = ()) -> None:
        """The final figures: ``metrics`` flat, ``row`` as the results table wants it."""
        self.info["metrics"] = finite(metrics)
        self.info["row"] = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v.item() if hasattr(v, "item") else v
            for k, v in row.items()
        }
        for text in warnings:
            self.warn(text)
        self._write()

    def _write(self) -> None:
        if not self._silent:
            write_json(self.folder / RUN_FILE, store.redact(self.info if self._kept is None else self._kept))

    def _end(self, status: str, error: str | None) -> None:
        """The last word in the folder and in the store, the same in both.

        Raises:
            OSError: a finished run could not be written down, not even in the room reserved for it; it has failed.
        """
        failure = self._close(status, error)
        if failure is not None:
            (self.folder / RESERVE_FILE).unlink(missing_ok=True)
            failure = self._close(status, error)
        if failure is not None and status == "finished":
            self._close("failed", describe(failure))
        self._end_copy(full=not (self.folder / RESERVE_FILE).exists())
        if failure is not None and status == "finished":
            raise failure

    def _close(self, status: str, error: str | None) -> OSError | None:
        """Write how the run ended; what kept that from being written."""
        try:
            if self._kept is not None and status != "finished":
                self._kept["extension"] |= {"status": status, "error": error}
                self._write()
                shutil.rmtree(self.place, ignore_errors=True)
                return None
            if self._kept is not None:
                self._settle()
            files = {path.relative_to(self.folder).as_posix(): path for path in artifacts(self.folder)}
            digests = {name: file_digest(path) for name, path in files.items() if path.suffix != ".log"}  # it goes on
            self.info.update(status=status, ended=now(), error=error, files=digests, logged=extent(self.folder))
            self._write()
        except OSError as failure:
            return failure
        return None

    def _end_copy(self, full: bool) -> None:
        """Send the rest to the store, and how the run ended; the room reserved for that is given back before."""
        if self._kept is None and self._copy is not None and not full:
            for path in artifacts(self.folder):
                if path not in self._sent:
                    self.artifact(path)
        (self.folder / RESERVE_FILE).unlink(missing_ok=True)
        if self._kept is not None or self._copy is None:
            return
        if full:
            self._copy.lost = self._copy.lost or "no space was left on the disk"
        self._copy.end(self.info)
        if self._copy.lost is not None:
            self.info["lost"] = self._copy.lost
            self.info["warnings"].append(f"the tracking store was lost: {self._copy.lost}")
            with contextlib.suppress(OSError):
                self._write()

    def _settle(self) -> None:
        """An extension has ended: it takes the place of the run that it extends."""
        self.info.update(status="finished", ended=now())
        resumption.stage(self.folder, self._config, store.redact(self.info))
        if self._copy is not None:
            self._copy.attempt(functools.partial(self._copy.take_up, self.info))
        resumption.settle(self.folder)
        self._kept = None


@contextlib.contextmanager
def open_record(
    config: Any, folder: Path | str, tags: Mapping[str, object] | None = None, *, resume: bool = False
) -> Iterator[Record]:
    """Open the record of one run; the store is checked here, before any work.

    An exception ends the run as failed, Ctrl-C and SIGTERM as killed. While it is open, a lock tells that its process
    is there. Of several ranks only rank 0 writes.

    Args:
        config: the composed config, a ``DictConfig`` or a plain dict.
        folder: the run folder; made where it is missing.
        tags: besides those read from the config.
        resume: go on with the run that the folder holds, in its MLflow run. A finished one keeps its record, files and
            row until this one has ended as well.

    Raises:
        RequestError: the folder holds a run already, or none to go on with; another process works in it; the store
            cannot be used.
    """
    config, folder = plain(config), Path(folder).resolve()
    if not ranks.first():
        yield Record(folder, _fresh(config), None, silent=True)
        return
    if not resume:
        check_unclaimed(folder)
    tracking = config.get("tracking") or {}
    uri = store.store_uri(tracking.get("uri")) if tracking.get("enabled", True) else None
    client = None if uri is None else store.connect(uri)
    config = store.redact(config)  # only connecting takes a password
    folder.mkdir(parents=True, exist_ok=True)
    lock = locks.hold(folder)
    if lock is None:
        raise RequestError(f"the folder {folder}: another process works at the run in it; wait until it has ended")
    try:
        if not resume:
            check_unclaimed(folder)  # another process may have been quicker
        with signals.terminable():
            with signals.held_back() as held:  # no run that is in the store and not in the folder
                record = _begun(config, folder, tags or {}, client, uri, resume=resume)
            yield from _until_the_end(record, held)
    finally:
        lock.release()


def _begun(
    config: Mapping[str, Any], folder: Path, tags: Mapping[str, object], client: Any, uri: str | None, *, resume: bool
) -> Record:
    """The record of a run that begins or goes on, in the folder and in the store; where it cannot, no trace of it."""
    info, kept = _taken_up(folder, config) if resume else (_fresh(config), None)
    told, warning = {key: str(value) for key, value in tags.items()}, None
    if resume:
        extended = None if kept is None else kept["params"].get(resumption.EPOCHS)
        told, warning = resumption.taken_over(folder, info["tags"], told, extended)
    info["tags"] |= _tags(config) | told
    known = read_metrics(folder) if resume else []
    record = Record(folder, info, None, known=known, kept=kept)
    before = {name: path.read_bytes() for name in (RUN_FILE, CONFIG_FILE) if (path := folder / name).exists()}
    try:
        if resume:
            write_metrics(folder, known)  # without lines that are torn or damaged: they are logged again
        record.begin(config)
        if client is not None and uri is not None:
            experiment = str((config.get("tracking") or {}).get("experiment") or store.DEFAULT_EXPERIMENT)
            record.start_copy(client, uri, experiment, fresh=not resume)
    except BaseException:
        for name in (RESERVE_FILE, RUN_FILE, CONFIG_FILE):
            if name not in before:
                (folder / name).unlink(missing_ok=True)
        for name, content in before.items():  # a run that could not go on is as it was
            with contextlib.suppress(OSError), write_whole(folder / name) as file:
                file.write(content)
        raise
    record.artifact(folder / CONFIG_FILE)
    if warning is not None:
        record.warn(warning)
    return record


def _until_the_end(record: Record, held: signals.Held) -> Iterator[Record]:
    """Hand out the record and note how the run ends; a signal does not cut that short, but counts after it."""
    try:
        held.deliver()
        yield record
        signals.check()
    except (KeyboardInterrupt, SystemExit) as error:
        with signals.held_back():
            record._end("killed", "terminated" if isinstance(error, Terminated) else "interrupted")
        raise
    except BaseException as error:
        with signals.held_back():
            record._end("failed", describe(error))
        raise
    else:
        with signals.held_back() as late:
            record._end("finished", None)
        late.deliver()


def _fresh(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "run_id": None,
        "status": "running",
        "started": now(),
        "ended": None,
        "params": flatten(config),
        "tags": {},
        "metrics": {},
        "row": {},
        "warnings": [],
        "error": None,
    }


def _taken_up(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The record of a run that goes on: as it was, but running, with the present parameters.

    And, where it is an extension, the record of the finished run, which counts until that has ended.
    """
    path = folder / RUN_FILE
    if not path.exists():
        raise RequestError(f"{folder}: no run in this folder (no {RUN_FILE}), so none to go on with")
    info, _ = read_info(folder)
    kept = None
    if info["status"] == "finished":
        epochs = flatten(config).get(resumption.EPOCHS)
        kept = copy.deepcopy(info) | {"extension": {"epochs": epochs, "began": now()}}
    info.pop("extension", None)
    info.pop("lost", None)
    again = {
        "format": FORMAT,
        "status": "running",
        "ended": None,
        "error": None,
        "params": flatten(config),
        "metrics": {},
        "row": {},
    }
    return {**info, **again, "resumed": [*info.get("resumed", []), now()]}, kept


def describe(error: BaseException) -> str:
    """An error in words; a user's mistake without the name of the class."""
    return str(error) if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"


def refuse(config: Any, folder: Path | str, error: BaseException) -> None:
    """Leave word in a sweep's folder that its run was refused before it began."""
    folder = Path(folder)
    if not (folder / RUN_FILE).exists():
        params: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            params = flatten(plain(config))
        ended = {"status": "failed", "refused": True, "ended": now(), "params": params, "error": describe(error)}
        with contextlib.suppress(OSError):  # the message is on the screen
            write_json(folder / RUN_FILE, store.redact(_fresh({}) | ended))
