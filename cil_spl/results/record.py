"""The record of a run: a folder, which is the truth, and its copy in MLflow, which can be made again.

The folder holds ``config.yaml`` (resolved), ``run.json`` (written whole or not at all) and
``metrics.jsonl`` (one line an epoch, written at once); the pipeline adds weights, chip network and
figures. MLflow is told the same things through its client, never through its global state, so that
runs may go on side by side in one process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cil_spl import __version__
from cil_spl.base.errors import RequestError

FORMAT = 1
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.yaml"
SWEEP_FILE = "sweep.json"
DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "cilspl"

_MLFLOW_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_LONGEST_PARAM = 5000  # MLflow takes 6,000 characters, older servers fewer
_log = logging.getLogger(__name__)


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does."""


# --------------------------------------------------------------------------------------------------
# plain values


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"method": {"lr": 1}}`` → ``{"method.lr": 1}``. Lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def as_text(value: Any) -> str:
    """A parameter as MLflow keeps it: the same text from a folder and from the store."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if len(text) > _LONGEST_PARAM:  # told apart by its hash
        text = f"{text[:_LONGEST_PARAM]}… sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return text


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line torn by a kill is left out."""
    path = folder / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import DictConfig, OmegaConf

    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    return dict(config)


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN and no infinity: they become null."""
    return {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _millis(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)


def _git() -> dict[str, str]:
    """Commit of the checkout this package lies in; nothing for an installed copy."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not some other project's repository around us
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(dirty).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}


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
    return {key: str(value) for key, value in tags.items() if value is not None} | _git()


# --------------------------------------------------------------------------------------------------
# the store


def store_uri(uri: str | None = None, base: Path | None = None) -> str:
    """Where runs are tracked: ``MLFLOW_TRACKING_URI``, else ``uri``, else ``mlflow.db``.

    A relative SQLite path is anchored at ``base`` (default: the current folder), so that a later
    change of folder does not move the store.
    """
    return anchor(os.environ.get("MLFLOW_TRACKING_URI") or uri or DEFAULT_URI, base)


def anchor(uri: str, base: Path | None = None) -> str:
    """Make the path of a relative SQLite URI absolute."""
    path = sqlite_path(uri)
    if path is None or path.is_absolute():
        return uri
    return f"sqlite:///{(base or Path.cwd()).resolve() / path}"


def sqlite_path(uri: str) -> Path | None:
    """File of a SQLite URI; None for every other store."""
    if not uri.startswith("sqlite:///") or uri == "sqlite:///:memory:":
        return None
    return Path(uri.removeprefix("sqlite:///"))


def connect(uri: str) -> Any:
    """Open a tracking store and check that it answers and has this MLflow's schema.

    A new SQLite file is set up under a lock and appears whole, since several first runs at once
    would otherwise crash each other.

    Returns:
        An ``MlflowClient``.

    Raises:
        RequestError: unreachable, not a tracking store, or of another version.
    """
    path = sqlite_path(uri)
    if uri.startswith(("http://", "https://")):
        _probe(uri)
    elif path is None and not re.match(r"[a-z0-9+]+:", uri):
        raise RequestError(
            f"tracking.uri={uri}: MLflow does not write to plain folders any more; "
            "use sqlite:///FILE.db, the http address of a server, or tracking.enabled=false"
        )
    elif uri.startswith("file:"):
        raise RequestError(
            f"tracking.uri={uri}: MLflow does not write to folders any more; "
            "use sqlite:///FILE.db, the http address of a server, or tracking.enabled=false"
        )
    with _store_trouble(uri):
        if path is not None:
            from filelock import FileLock

            if not path.parent.is_dir():
                raise RequestError(f"tracking.uri={uri}: there is no folder {path.parent}")
            with FileLock(f"{path}.lock", timeout=120):
                _set_up(path)
        client = _client(uri)
        client.search_experiments(max_results=1)
        return client
    raise AssertionError  # not reached


def check_store(tracking: Mapping[str, Any]) -> None:
    """Refuse a store that cannot be used before any work is done.

    Raises:
        RequestError: as :func:`connect`.
    """
    if tracking.get("enabled", True) and int(os.environ.get("RANK", "0")) == 0:
        connect(store_uri(tracking.get("uri")))


@contextlib.contextmanager
def _store_trouble(uri: str) -> Iterator[None]:
    """Errors of MLflow, SQLAlchemy, requests and the file system: to a person all say the same."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"tracking.uri={uri}: the tracking store cannot be used: {_first_line(error)}\n"
            "  check MLFLOW_TRACKING_URI and tracking.uri; tracking.enabled=false runs without a store"
        ) from error


def _client(uri: str) -> Any:
    _quiet()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _quiet() -> None:
    """Settings that MLflow reads when it is imported; those of the person stay."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take minutes
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _probe(uri: str) -> None:
    """A dead server is told within seconds; any answer at all is an answer."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RequestError(
            f"tracking.uri={uri}: no tracking server answers there ({reason})\n"
            "  start it, correct MLFLOW_TRACKING_URI or tracking.uri, or run with tracking.enabled=false"
        ) from error


def _set_up(path: Path) -> None:
    """Make a new store, or look at an existing one before MLflow changes anything in it."""
    if path.exists() and path.stat().st_size:
        _check_schema(path)
        return
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"tracking.uri=sqlite:///{path}: the folder {path.parent} cannot be written to")
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        _client(f"sqlite:///{new}").search_experiments(max_results=1)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _check_schema(path: Path) -> None:
    import sqlite3

    uri = f"sqlite:///{path}"
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type='table'")}
            known = {"alembic_version", "experiments", "runs"} <= tables
            found = [v for (v,) in database.execute("select version_num from alembic_version")] if known else []
    except sqlite3.Error as error:
        raise RequestError(
            f"tracking.uri={uri}: not a readable SQLite database ({error}); name another file"
        ) from error
    if not known:
        raise RequestError(
            f"tracking.uri={uri}: a database of something else (no MLflow tables in it); name another file"
        )
    _quiet()
    import mlflow
    from mlflow.store.db import utils

    head = getattr(utils, "_get_latest_schema_revision", lambda: None)()
    if head is not None and found != [head]:
        raise RequestError(
            f"tracking.uri={uri}: written by another version of MLflow (schema {', '.join(found) or 'none'}, "
            f"MLflow {mlflow.__version__} has {head})\n"
            f"  copy the file, then either `mlflow db upgrade {uri}` (it was written by an older MLflow) or install\n"
            "  the newer MLflow that wrote it; or name another file: tracking.uri=sqlite:///FILE.db"
        )


def _experiment(client: Any, uri: str, name: str) -> str:
    """Number of the experiment, made where it is missing."""

    def number() -> str | None:
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise RequestError(
                f"tracking.experiment={name}: deleted in {uri}; restore it there "
                f"(`mlflow experiments restore --experiment-id {found.experiment_id}`) or name another"
            )
        return None if found is None else found.experiment_id

    found = number()
    if found is not None:
        return found
    path = sqlite_path(uri)
    place = None if path is None else (path.parent / "mlartifacts" / re.sub(r"[^\w.-]+", "_", name)).as_uri()
    try:
        return client.create_experiment(name, artifact_location=place)
    except Exception:
        found = number()  # another run was quicker
        if found is None:
            raise
        return found


class _Copy:
    """One MLflow run. A store that is lost on the way costs the copy, never the training."""

    def __init__(self, client: Any, run_id: str, folder: Path) -> None:
        self.client, self.run_id, self.folder = client, run_id, folder
        self.lost: str | None = None

    @classmethod
    def start(
        cls,
        client: Any,
        uri: str,
        experiment: str,
        info: Mapping[str, Any],
        folder: Path,
        parent: str | None = None,
    ) -> _Copy:
        from mlflow.entities import Param

        tags = {**info["tags"], "folder": str(folder)}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(
            _experiment(client, uri, experiment),
            start_time=_millis(info["started"]),
            tags=tags,
            run_name=info["params"].get("name") or folder.name,
        )
        copy = cls(client, run.info.run_id, folder)
        params = [Param(_safe(key), as_text(value)) for key, value in info["params"].items()]
        for at in range(0, len(params), 100):  # the most that one batch may hold
            client.log_batch(copy.run_id, params=params[at : at + 100])
        return copy

    def metrics(self, metrics: Mapping[str, float | None], step: int = 0, when: int | None = None) -> None:
        from mlflow.entities import Metric

        when = int(datetime.now(UTC).timestamp() * 1000) if when is None else when
        batch = [Metric(_safe(k), float(v), when, step) for k, v in metrics.items() if v is not None]
        for at in range(0, len(batch), 1000):
            self._tell("log_batch", metrics=batch[at : at + 1000])

    def tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._tell("log_batch", tags=[RunTag(key, value) for key, value in tags.items()])

    def artifact(self, path: Path) -> None:
        inside = path.parent.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else "."
        self._tell("log_artifact", str(path), None if inside == "." else inside)

    def end(self, info: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in info["row"].items() if isinstance(v, int | float) and k != "seed"}
        if info["metrics"] or numbers:
            self.metrics({**numbers, **info["metrics"]}, when=_millis(info["ended"]))
        words = {k: str(v) for k, v in info["row"].items() if isinstance(v, str)}
        if info["error"]:
            words["error"] = info["error"][:_LONGEST_PARAM]
        if words:
            self.tags(words)
        self._tell("set_terminated", _MLFLOW_STATUS[info["status"]], _millis(info["ended"]))

    def _tell(self, what: str, *args: Any, **kwargs: Any) -> None:
        if self.lost is not None:
            return
        try:
            getattr(self.client, what)(self.run_id, *args, **kwargs)
        except Exception as error:
            self.lost = _first_line(error)
            _log.warning(
                "the tracking store was lost (%s); the run goes on, and `cilspl restore %s` makes the copy again",
                self.lost,
                self.folder,
            )


def _safe(name: str) -> str:
    """A name that MLflow takes; the folder keeps the true one."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# --------------------------------------------------------------------------------------------------
# the record of one run


class Record:
    """One run while it goes on.

    Attributes:
        folder: where everything is.
        info: what ``run.json`` holds.
    """

    def __init__(self, folder: Path, info: dict[str, Any], copy: _Copy | None, silent: bool = False) -> None:
        self.folder, self.info = folder, info
        self._copy, self._silent = copy, silent
        self._sent: set[Path] = set()

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None without a store."""
        return self.info["run_id"]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of one epoch, on disk at once and to the store in one call."""
        if self._silent:
            return
        line = json.dumps({"step": int(step), "time": _now(), **_finite(metrics)})
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._copy is not None:
            self._copy.metrics({k: float(v) for k, v in metrics.items()}, step)

    def tag(self, **tags: object) -> None:
        """What was found out on the way, for example ``backend="simulator"``."""
        told = {key: str(value) for key, value in tags.items()}
        self.info["tags"].update(told)
        self._write()
        if self._copy is not None:
            self._copy.tags(told)

    def artifact(self, path: Path | str) -> None:
        """Copy a file of the run folder to the store now, not only when the run ends."""
        if self._copy is not None:
            path = Path(path).resolve()
            self._sent.add(path)
            self._copy.artifact(path)

    def warn(self, text: str) -> None:
        """Tell the person, and keep it with the run; the same words once only."""
        if text not in self.info["warnings"]:
            self.info["warnings"].append(text)
            if not self._silent:
                _log.warning("%s", text)

    def finish(self, metrics: Mapping[str, float], row: Mapping[str, Any], warnings: Sequence[str] = ()) -> None:
        """The final figures: ``metrics`` flat, ``row`` as the results table wants it."""
        self.info["metrics"] = _finite(metrics)
        self.info["row"] = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v.item() if hasattr(v, "item") else v
            for k, v in row.items()
        }
        for text in warnings:
            self.warn(text)
        self._write()

    def _write(self) -> None:
        if not self._silent:
            write_json(self.folder / RUN_FILE, self.info)

    def _end(self, status: str, error: str | None) -> None:
        self.info.update(status=status, ended=_now(), error=error)
        self._write()
        if self._copy is not None:
            for path in _artifacts(self.folder):
                if path not in self._sent:
                    self.artifact(path)
            self._copy.end(self.info)
            if self._copy.lost is not None:
                self.info["warnings"].append(f"the tracking store was lost: {self._copy.lost}")
                self._write()


@contextlib.contextmanager
def open(config: Any, folder: Path | str, tags: Mapping[str, object] | None = None) -> Iterator[Record]:
    """Open the record of one run; the store is checked here, before any work.

    An exception ends the run as failed, Ctrl-C and SIGTERM as killed. Of several ranks only rank 0
    writes.

    Args:
        config: the composed config, a ``DictConfig`` or a plain dict.
        folder: the run folder; made where it is missing.
        tags: besides those read from the config.

    Raises:
        RequestError: the folder holds a run already, or the store cannot be used.
    """
    config = _plain(config)
    folder = Path(folder).resolve()
    info: dict[str, Any] = {
        "format": FORMAT,
        "run_id": None,
        "status": "running",
        "started": _now(),
        "ended": None,
        "params": flatten(config),
        "tags": {},
        "metrics": {},
        "row": {},
        "warnings": [],
        "error": None,
    }
    if int(os.environ.get("RANK", "0")) != 0:
        yield Record(folder, info, None, silent=True)
        return
    _unclaimed(folder)
    tracking = config.get("tracking") or {}
    client, uri = None, ""
    if tracking.get("enabled", True):
        uri = store_uri(tracking.get("uri"))
        client = connect(uri)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder)
    info["tags"] = _tags(config) | {key: str(value) for key, value in (tags or {}).items()}
    from omegaconf import OmegaConf

    OmegaConf.save(OmegaConf.create(config), folder / CONFIG_FILE)
    copy = None
    if client is not None:
        experiment = str(tracking.get("experiment") or DEFAULT_EXPERIMENT)
        try:
            with _store_trouble(uri):
                copy = _Copy.start(client, uri, experiment, info, folder, _parent(folder, uri))
        except BaseException:
            (folder / RUN_FILE).unlink()
            raise
        info["run_id"] = copy.run_id
    record = Record(folder, info, copy)
    record._write()
    record.artifact(folder / CONFIG_FILE)
    with _terminable():
        try:
            yield record
        except (KeyboardInterrupt, SystemExit) as error:
            record._end("killed", "terminated" if isinstance(error, Terminated) else "interrupted")
            raise
        except BaseException as error:
            with contextlib.suppress(OSError):  # a full disk: the first error is the one that counts
                record._end("failed", describe(error))
            raise
        else:
            record._end("finished", None)


def _unclaimed(folder: Path) -> None:
    if (folder / RUN_FILE).exists():
        raise RequestError(f"the folder {folder} holds a run already; choose another hydra.run.dir, or delete it")


def _claim(folder: Path) -> None:
    """Of two runs that want one folder, one gets it."""
    try:
        (folder / RUN_FILE).touch(exist_ok=False)
    except FileExistsError:
        _unclaimed(folder)


def describe(error: BaseException) -> str:
    """An error in words; that of a person without the name of the class."""
    return str(error) if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises, as Ctrl-C does, so that a killed run is marked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, _frame: object) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a forked worker ends as it would without us
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def refuse(config: Any, folder: Path | str, error: BaseException) -> None:
    """Leave word in a sweep's folder that its run was refused before it began."""
    folder = Path(folder)
    if not (folder / RUN_FILE).exists():
        params: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            params = flatten(_plain(config))
        info = {"format": FORMAT, "run_id": None, "status": "failed", "refused": True, "started": _now()}
        rest = {"ended": _now(), "params": params, "tags": {}, "metrics": {}, "row": {}, "warnings": []}
        write_json(folder / RUN_FILE, {**info, **rest, "error": describe(error)})


# --------------------------------------------------------------------------------------------------
# sweeps


def open_sweep(config: Any, folder: Path | str, overrides: list[str]) -> None:
    """Make the parent run of a sweep and leave its id in the sweep's folder for the children.

    Raises:
        RequestError: the store cannot be used.
    """
    folder = Path(folder).resolve()
    tracking = _plain(config).get("tracking") or {}
    if not tracking.get("enabled", True):
        return
    uri = store_uri(tracking.get("uri"))
    client = connect(uri)
    folder.mkdir(parents=True, exist_ok=True)
    tags = {"kind": "sweep", "overrides": " ".join(overrides)[:_LONGEST_PARAM], "folder": str(folder)}
    with _store_trouble(uri):
        experiment = _experiment(client, uri, str(tracking.get("experiment") or DEFAULT_EXPERIMENT))
        run = client.create_run(experiment, tags=tags | _git(), run_name=f"sweep {' '.join(overrides)}"[:200])
    write_json(folder / SWEEP_FILE, {"run_id": run.info.run_id, "uri": uri})


def close_sweep(folder: Path | str, status: str) -> None:
    """End the parent run: ``finished``, ``failed`` or ``killed``."""
    path = Path(folder) / SWEEP_FILE
    if path.exists():
        sweep = json.loads(path.read_text(encoding="utf-8"))
        _Copy(_client(sweep["uri"]), sweep["run_id"], Path(folder))._tell("set_terminated", _MLFLOW_STATUS[status])


def _parent(folder: Path, uri: str) -> str | None:
    for above in list(folder.parents)[:4]:  # a sweep's subdir may be nested
        path = above / SWEEP_FILE
        if path.exists():
            sweep = json.loads(path.read_text(encoding="utf-8"))
            return sweep["run_id"] if sweep["uri"] == uri else None
    return None


# --------------------------------------------------------------------------------------------------
# from the folder to the store, and back


def _artifacts(folder: Path) -> list[Path]:
    """What the store gets of a folder: config, weights, chip network, figures; no checkpoints, nothing hidden."""
    own = {folder / RUN_FILE, folder / METRICS_FILE}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in own and not path.relative_to(folder).parts[0].startswith((".", "checkpoints"))
    ]


def restore(folder: Path | str, uri: str | None = None) -> str:
    """Make the tracking copy of a run again from its folder.

    A run that the store still has is left alone. Otherwise it gets a new id, which replaces the old
    one in ``run.json``; the old one stays known as a former id.

    Returns:
        MLflow's run id.

    Raises:
        RequestError: no run in the folder, it still goes on, or the store cannot be used.
    """
    folder = Path(folder).resolve()
    path = folder / RUN_FILE
    if not path.exists():
        raise RequestError(f"{folder}: no {RUN_FILE} in it, so no run to restore")
    info = json.loads(path.read_text(encoding="utf-8"))
    if info["status"] == "running" or info.get("refused"):
        raise RequestError(f"{folder}: the run is {'refused' if info.get('refused') else 'running'}; nothing to copy")
    uri = store_uri(uri or info["params"].get("tracking.uri"))
    client = connect(uri)
    if info["run_id"] is not None:
        with contextlib.suppress(Exception):  # not there
            known = client.get_run(info["run_id"])
            if known.info.lifecycle_stage == "active" and known.info.status == _MLFLOW_STATUS[info["status"]]:
                return info["run_id"]
    experiment = str(info["params"].get("tracking.experiment") or DEFAULT_EXPERIMENT)
    copy = _Copy.start(client, uri, experiment, info, folder, _parent(folder, uri))
    for line in read_metrics(folder):
        step, when = line.pop("step"), line.pop("time", info["started"])
        copy.metrics(line, step, _millis(when))
    for file in _artifacts(folder):
        copy.artifact(file)
    copy.end(info)
    if copy.lost is not None:
        raise RequestError(f"tracking.uri={uri}: the store was lost while the copy was made ({copy.lost}); try again")
    info["former_run_ids"] = [*info.get("former_run_ids", []), *([info["run_id"]] if info["run_id"] else [])]
    info["run_id"] = copy.run_id
    write_json(path, info)
    return copy.run_id


def stored_runs(uri: str, experiment: str | None = None) -> list[dict[str, Any]]:
    """All runs of a store in the shape of ``run.json``, the newest first; sweeps' parents left out.

    Parameters are text here. Raises RequestError where there is no store or no such experiment.
    """
    path = sqlite_path(uri)
    if path is not None and not path.exists():  # reading must not make one
        raise RequestError(
            f"tracking.uri={uri}: no tracking store there yet; `cilspl run` makes one where it is started, "
            "`--from FOLDER` reads run folders"
        )
    client = connect(uri)
    known = {e.name: e.experiment_id for e in client.search_experiments()}
    if experiment is not None and experiment not in known:
        raise RequestError(f"--experiment {experiment}: not in {uri}; there are: {', '.join(sorted(known))}")
    wanted = list(known.values()) if experiment is None else [known[experiment]]
    found: list[dict[str, Any]] = []
    token = None
    while True:
        page = client.search_runs(wanted, max_results=1000, page_token=token, order_by=["attributes.start_time DESC"])
        found += [_as_info(run) for run in page if run.data.tags.get("kind") != "sweep"]
        token = page.token
        if not token:
            return found


def _as_info(run: Any) -> dict[str, Any]:
    tags, metrics = dict(run.data.tags), dict(run.data.metrics)
    words = {k: tags[k] for k in ("method", "model", "dataset", "target", "backend", "seed") if k in tags}
    status = {v: k for k, v in _MLFLOW_STATUS.items()}.get(run.info.status, "running")
    return {
        "run_id": run.info.run_id,
        "status": status,
        "started": datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="milliseconds"),
        "params": dict(run.data.params),
        "tags": {k: v for k, v in tags.items() if not k.startswith("mlflow.")},
        "metrics": metrics,
        "row": {**words, **metrics},
        "folder": tags.get("folder"),
    }
