"""The tracking store: runs in MLflow, a copy of what the run folders hold.

MLflow is addressed through its client, never through its global state, so that runs may go on side by side in one
process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cil_spl.base import ranks, signals
from cil_spl.base.errors import RequestError

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
_HIDDEN_WORD = re.compile(r"://[^/@]*:\*\*\*@|[?&]\w+=\*\*\*")
_QUERY = re.compile(r"\?\w+=[^/?]*$")  # of an address; any other question mark is one in the name of a folder
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


def own_store(folder: Path, named: Any, command: str) -> str:
    """The user's present store, unless a run's folder names another: that may come from someone else.

    Args:
        folder: of the run.
        named: the address that it names; None for none.
        command: what chooses a store, up to its address.

    Raises:
        RequestError: it names another; the user has to say which.
    """
    present = store_uri()
    here = redact(present)
    if named is None or anchor(str(named)) == here:
        return present
    there = redact(str(named))
    way = f"type `{command}{there}` to write there, or `{command}{here}` for here"
    if _HIDDEN in there:
        way = f"passwords are not kept: set {URI_VARIABLE} to the address with its password, or type `{command}{here}`"
    elif os.environ.get(URI_VARIABLE) and command.endswith("tracking.uri="):  # which the variable overrides
        way = f"set {URI_VARIABLE}={there} to write there, or add tracking.uri={here} for here"
    raise RequestError(f"{folder}: the run names the store {there}, which is not the present one, {here}; {way}")


def anchor(uri: str, base: Path | None = None) -> str:
    """Make the path of a relative SQLite URI absolute."""
    path = sqlite_path(uri)
    if path is None or path.is_absolute():
        return uri
    query = _QUERY.search(uri)
    return f"sqlite:///{(base or Path.cwd()).resolve() / path}{query[0] if query else ''}"


def sqlite_path(uri: str) -> Path | None:
    """File of a SQLite URI; None for every other store."""
    if not uri.startswith("sqlite:///") or uri == "sqlite:///:memory:":
        return None
    return Path(_QUERY.sub("", uri.removeprefix("sqlite:///")))


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
    if redact(uri) == uri and _HIDDEN_WORD.search(uri):
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
    # A query that is cut short would leave a SQLite file locked; a server may be waited for in vain.
    with contextlib.nullcontext(signals.Held()) if path is None else signals.held_back() as held, trouble(uri):
        if path is not None:
            from filelock import FileLock

            _check_folder(path)
            with FileLock(f"{path}.lock", timeout=120):
                _set_up(path)
        client = client_of(uri)
        client.search_experiments(max_results=1)
    held.deliver()
    return client


def check_store(tracking: Mapping[str, Any]) -> None:
    """Refuse a store that cannot be used before any work is done.

    Raises:
        RequestError: as :func:`connect`.
    """
    if tracking.get("enabled", True) and ranks.first():
        connect(store_uri(tracking.get("uri")))


def look_at_store(tracking: Mapping[str, Any]) -> None:
    """Refuse what :func:`check_store` refuses, and leave nothing: a SQLite file that is not there is not made.

    Raises:
        RequestError: as :func:`connect`.
    """
    if not tracking.get("enabled", True):
        return
    uri = store_uri(tracking.get("uri"))
    path = sqlite_path(uri)
    if path is None:
        connect(uri)
        return
    _check_folder(path)
    if path.exists() and (path.is_dir() or path.stat().st_size):
        _check_schema(path)


@contextlib.contextmanager
def trouble(uri: str) -> Iterator[None]:
    """Errors of MLflow, SQLAlchemy, requests and the file system: to the user all say the same."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"tracking.uri={redact(uri)}: the tracking store cannot be used: {first_line(error)}; "
            "check MLFLOW_TRACKING_URI and tracking.uri; tracking.enabled=false runs without a store"
        ) from error


def client_of(uri: str) -> Any:
    _quiet()
    from mlflow.tracking import MlflowClient

    plain = _without_special(uri)
    return MlflowClient(tracking_uri=plain, registry_uri=plain)


@functools.cache
def _without_special(uri: str) -> str:
    """The address of the same SQLite file without signs that mean something else in an address.

    Some versions of SQLAlchemy decode a path in it and others do not, and no version takes a question mark. So the
    folder is reached by a link of this process's own.
    """
    path = sqlite_path(uri)
    if path is None or not re.search(r"[?%#]", str(path)):
        return uri
    if re.search(r"[?%#]", path.name):
        raise RequestError(f"tracking.uri={redact(uri)}: the file's own name holds ?, % or #; name it without")
    place = tempfile.mkdtemp(prefix="cilspl-store-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    link = Path(place) / "store"
    link.symlink_to(path.parent.resolve(), target_is_directory=True)
    query = _QUERY.search(uri)
    return f"sqlite:///{link / path.name}{query[0] if query else ''}"


def _quiet() -> None:
    """Settings that MLflow reads when it is imported; those of the user stay."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take minutes
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password in it
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _probe(uri: str) -> None:
    """A dead server is reported within seconds; any answer at all is an answer."""
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
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        _try_writing(new)
        client_of(f"sqlite:///{new}").search_experiments(max_results=1)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _try_writing(path: Path) -> None:
    """Raise at once where SQLite cannot write: MLflow would try for minutes."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("create table attempt (x)")
    path.unlink()


def _check_folder(path: Path) -> None:
    """Whether a SQLite file is in a folder, or can be made there."""
    if not path.parent.is_dir():
        raise RequestError(f"tracking.uri=sqlite:///{redact(str(path))}: there is no folder {path.parent}")
    if not path.exists() and not os.access(path.parent, os.W_OK):
        raise RequestError(f"tracking.uri=sqlite:///{path}: the folder {path.parent} cannot be written to")


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


def first_line(error: BaseException) -> str:
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


WORDS_OF_A_ROW = ("method", "model", "dataset", "target", "backend", "seed", "columns", "score")


def _as_info(run: Any) -> dict[str, Any]:
    tags, metrics = dict(run.data.tags), dict(run.data.metrics)
    words = {k: tags[k] for k in WORDS_OF_A_ROW if k in tags}
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


def artifacts_of(uri: str) -> Callable[[Mapping[str, Any], str], bytes | None]:
    """A function of a run and a file's name that gives the file which the run left in the store; None for none."""
    client = client_of(uri)

    def fetch(run: Mapping[str, Any], name: str) -> bytes | None:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(RequestError), trouble(uri):
            return Path(client.download_artifacts(run["run_id"], name, folder)).read_bytes()
        return None

    return fetch
