"""The tracking store: runs in MLflow, a copy of what the run folders hold.

MLflow is told things through its client, never through its global state, so that runs may go on side by side in one
process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cil_spl.base import ranks
from cil_spl.base.errors import RequestError
from cil_spl.results.values import LONGEST_TEXT, as_text, is_timing, millis

DEFAULT_URI = "sqlite:///mlflow.db"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
DEFAULT_EXPERIMENT = "cilspl"
MLFLOW_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_log = logging.getLogger(__name__)


def store_uri(uri: str | None = None, base: Path | None = None) -> str:
    """Where runs are tracked: ``MLFLOW_TRACKING_URI``, else ``uri``, else ``mlflow.db``.

    A relative SQLite path is anchored at ``base`` (default: the current folder), so that a later
    change of folder does not move the store.
    """
    return anchor(os.environ.get(URI_VARIABLE) or uri or DEFAULT_URI, base)


_HIDDEN = "***"
_PASSWORD = re.compile(
    r"(?P<before>\b[a-z][\w+.-]*://[^\s/?#:@]*:)(?!\d+(?:/|$))[^\s\"]+(?=@)"  # scheme://user:PASSWORD@
    r"|(?P<option>[?&](?:password|passwd|pwd|token|secret|api_?key|sslpassword)=)[^\s&#]+",
    re.IGNORECASE,
)


def redact(value: Any) -> Any:
    """The same without passwords: in a text, or in every text of a mapping or list, ``***`` stands for that of a URI.

    What is printed or written goes through here; only connecting takes the whole address.
    """
    if isinstance(value, str):
        return _PASSWORD.sub(lambda found: (found["before"] or found["option"]) + _HIDDEN, value)
    if isinstance(value, Mapping):
        return {key: redact(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact(held) for held in value)
    return value


def with_password(uri: str) -> str:
    """An address from a file, which has no password in it: the present store's own where it is the same one."""
    present = store_uri()
    return present if redact(present) == uri else uri


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
    if redact(uri) == uri and _HIDDEN in uri:
        raise RequestError(
            f"tracking.uri={redact(uri)}: passwords are not kept; set {URI_VARIABLE} to the address with its password"
        )
    if uri.startswith(("http://", "https://")):
        _probe(uri)
    elif path is None and not re.match(r"[a-z0-9+]+:", uri):
        raise RequestError(
            f"tracking.uri={redact(uri)}: MLflow does not write to plain folders any more; "
            "use sqlite:///FILE.db, the http address of a server, or tracking.enabled=false"
        )
    elif uri.startswith("file:"):
        raise RequestError(
            f"tracking.uri={redact(uri)}: MLflow does not write to folders any more; "
            "use sqlite:///FILE.db, the http address of a server, or tracking.enabled=false"
        )
    with trouble(uri):
        if path is not None:
            from filelock import FileLock

            if not path.parent.is_dir():
                raise RequestError(f"tracking.uri={redact(uri)}: there is no folder {path.parent}")
            with FileLock(f"{path}.lock", timeout=120):
                _set_up(path)
        client = client_of(uri)
        client.search_experiments(max_results=1)
        return client
    raise AssertionError  # not reached


def check_store(tracking: Mapping[str, Any]) -> None:
    """Refuse a store that cannot be used before any work is done.

    Raises:
        RequestError: as :func:`connect`.
    """
    if tracking.get("enabled", True) and ranks.first():
        connect(store_uri(tracking.get("uri")))


@contextlib.contextmanager
def trouble(uri: str) -> Iterator[None]:
    """Errors of MLflow, SQLAlchemy, requests and the file system: to a person all say the same."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"tracking.uri={redact(uri)}: the tracking store cannot be used: {_first_line(error)}\n"
            "  check MLFLOW_TRACKING_URI and tracking.uri; tracking.enabled=false runs without a store"
        ) from error


def client_of(uri: str) -> Any:
    _quiet()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _quiet() -> None:
    """Settings that MLflow reads when it is imported; those of the person stay."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take minutes
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password in it
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _probe(uri: str) -> None:
    """A dead server is told within seconds; any answer at all is an answer."""
    bare = re.sub(r"://[^/@]*@", "://", redact(uri))  # urllib takes no user and password, and needs none for this
    try:
        urllib.request.urlopen(f"{bare.rstrip('/')}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RequestError(
            f"tracking.uri={redact(uri)}: no tracking server answers there ({reason})\n"
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
        client_of(f"sqlite:///{new}").search_experiments(max_results=1)
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
            f"tracking.uri={redact(uri)}: not a readable SQLite database ({error}); name another file"
        ) from error
    if not known:
        raise RequestError(
            f"tracking.uri={redact(uri)}: a database of something else (no MLflow tables in it); name another file"
        )
    _quiet()
    import mlflow
    from mlflow.store.db import utils

    head = getattr(utils, "_get_latest_schema_revision", lambda: None)()
    if head is not None and found != [head]:
        raise RequestError(
            f"tracking.uri={redact(uri)}: written by another version of MLflow (schema {', '.join(found) or 'none'}, "
            f"MLflow {mlflow.__version__} has {head})\n"
            f"  copy the file, then either `mlflow db upgrade {uri}` (it was written by an older MLflow) or install\n"
            "  the newer MLflow that wrote it; or name another file: tracking.uri=sqlite:///FILE.db"
        )


def experiment_id(client: Any, uri: str, name: str) -> str:
    """Number of the experiment, made where it is missing."""

    def number() -> str | None:
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise RequestError(
                f"tracking.experiment={name}: deleted in {redact(uri)}; restore it there "
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


class MlflowRun:
    """One MLflow run. A store that is lost on the way costs the copy, never the training."""

    def __init__(self, client: Any, run_id: str, folder: Path) -> None:
        self.client, self.run_id, self.folder = client, run_id, folder
        self.lost: str | None = None
        self.told: dict[tuple[str, int], float] = {}  # by metric and step

    @classmethod
    def start(
        cls,
        client: Any,
        uri: str,
        experiment: str,
        info: Mapping[str, Any],
        folder: Path,
        parent: str | None = None,
    ) -> MlflowRun:
        info = redact(info)
        tags = {**info["tags"], "folder": str(folder)}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(
            experiment_id(client, uri, experiment),
            start_time=millis(info["started"]),
            tags=tags,
            run_name=info["params"].get("name") or folder.name,
        )
        copy = cls(client, run.info.run_id, folder)
        copy._log_params({_safe(key): as_text(value) for key, value in info["params"].items()})
        return copy

    def _log_params(self, texts: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(key, text) for key, text in texts.items()]
        for at in range(0, len(params), 100):  # the most that one batch may hold
            self.client.log_batch(self.run_id, params=params[at : at + 100])

    @classmethod
    def of(cls, client: Any, info: Mapping[str, Any], folder: Path) -> MlflowRun | None:
        """The copy that a run has in the store already; None where the store has none."""
        if info["run_id"] is not None:
            with contextlib.suppress(Exception):  # not there
                found = client.get_run(info["run_id"])
                if found.info.lifecycle_stage == "active":
                    return cls(client, info["run_id"], folder)
            return None
        # Killed between the start of the copy and the note of its id.
        experiments = [e.experiment_id for e in client.search_experiments()]
        where = "tags.folder = '" + str(folder).replace("'", "\\'") + "'"
        found = client.search_runs(experiments, filter_string=where, max_results=1)
        return cls(client, found[0].info.run_id, folder) if found else None

    def take_up(self, info: Mapping[str, Any]) -> None:
        """Go on with a run: it is running again, and what it has been told is not told twice.

        Parameters of a run cannot change in MLflow: those that differ now are tags ``resumed.KEY``.
        """
        info = redact(info)
        self.client.update_run(self.run_id, status=MLFLOW_STATUS["running"])
        data = self.client.get_run(self.run_id).data
        for key in data.metrics:
            for point in self.client.get_metric_history(self.run_id, key):
                self.told[key, point.step] = point.value
        texts = {_safe(key): as_text(value) for key, value in info["params"].items()}
        self._log_params({key: text for key, text in texts.items() if key not in data.params})
        self.tags({f"resumed.{key}": text for key, text in texts.items() if data.params.get(key, text) != text})

    def metrics(self, metrics: Mapping[str, float | None], step: int = 0, when: int | None = None) -> None:
        from mlflow.entities import Metric

        when = int(datetime.now(UTC).timestamp() * 1000) if when is None else when
        points = {_safe(k): float(v) for k, v in metrics.items() if v is not None}
        new = {k: v for k, v in points.items() if self.told.get((k, step)) != v}
        new = {k: v for k, v in new.items() if not (is_timing(k) and (k, step) in self.told)}
        self.told |= {(k, step): v for k, v in new.items()}
        batch = [Metric(k, v, when, step) for k, v in new.items()]
        for at in range(0, len(batch), 1000):
            self.tell("log_batch", metrics=batch[at : at + 1000])

    def tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.tell("log_batch", tags=[RunTag(key, redact(value)) for key, value in tags.items()])

    def artifact(self, path: Path) -> None:
        inside = path.parent.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else "."
        self.tell("log_artifact", str(path), None if inside == "." else inside)

    def end(self, info: Mapping[str, Any]) -> None:
        info = redact(info)
        numbers = {k: v for k, v in info["row"].items() if isinstance(v, int | float) and k != "seed"}
        if info["metrics"] or numbers:
            self.metrics({**numbers, **info["metrics"]}, when=millis(info["ended"]))
        words = {k: str(v) for k, v in info["row"].items() if isinstance(v, str)}
        if info["error"]:
            words["error"] = info["error"][:LONGEST_TEXT]
        if words:
            self.tags(words)
        self.tell("set_terminated", MLFLOW_STATUS[info["status"]], millis(info["ended"]))

    def tell(self, what: str, *args: Any, **kwargs: Any) -> None:
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
    lines = redact(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def stored_runs(uri: str, experiment: str | None = None) -> list[dict[str, Any]]:
    """All runs of a store in the shape of ``run.json``, the newest first; sweeps' parents left out.

    Parameters are text here. Raises RequestError where there is no store or no such experiment.
    """
    path = sqlite_path(uri)
    if path is not None and not path.exists():  # reading must not make one
        raise RequestError(
            f"tracking.uri={redact(uri)}: no tracking store there yet; `cilspl run` makes one where it is started, "
            "`--from FOLDER` reads run folders"
        )
    client = connect(uri)
    known = {e.name: e.experiment_id for e in client.search_experiments()}
    if experiment is not None and experiment not in known:
        raise RequestError(f"--experiment {experiment}: not in {redact(uri)}; there are: {', '.join(sorted(known))}")
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
    changed = {k.removeprefix("resumed."): v for k, v in tags.items() if k.startswith("resumed.")}
    status = {v: k for k, v in MLFLOW_STATUS.items()}.get(run.info.status, "running")
    return {
        "run_id": run.info.run_id,
        "status": status,
        "started": datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="milliseconds"),
        "params": dict(run.data.params) | changed,
        "tags": {k: v for k, v in tags.items() if not k.startswith("mlflow.")},
        "metrics": metrics,
        "row": {**words, **metrics},
        "folder": tags.get("folder"),
    }
