"""One run in the tracking store, while it goes on or when it is made again from its folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cil_spl.results.names import without_time
from cil_spl.results.store import MLFLOW_STATUS, experiment_id, first_line, redact
from cil_spl.results.values import LONGEST_TEXT, as_text, is_timing, millis

LONGEST_NAME = 250  # of a run; the databases of servers hold no more
_log = logging.getLogger(__name__)


class MlflowRun:
    """One MLflow run. A store that is lost on the way costs the copy, never the training.

    Without a ``run_id`` nothing is known but that the store was asked for one when it was lost: it may have the run.
    """

    def __init__(self, client: Any, run_id: str | None, folder: Path) -> None:
        self.client, self.run_id, self.folder = client, run_id, folder
        self.lost: str | None = None
        self._warned = False
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
        """A new run in the store.

        Raises:
            Exception: of MLflow, where the store answers that it makes none.
        """
        info = redact(info)
        tags = {**info["tags"], "folder": str(folder)}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        number = experiment_id(client, uri, experiment)
        name = (info["params"].get("name") or without_time(folder.name))[:LONGEST_NAME]
        try:
            run = client.create_run(number, start_time=millis(info["started"]), tags=tags, run_name=name)
        except Exception as error:
            if not _unanswered(error, uri):
                raise
            copy = cls(client, None, folder)
            copy.lose(error)  # the store may have begun the run before it was lost; `of` finds it then
            return copy
        copy = cls(client, run.info.run_id, folder)
        texts = {_safe(key): as_text(value) for key, value in info["params"].items()}
        copy.attempt(lambda: copy._log_params(texts))
        return copy

    def _log_params(self, texts: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(key, text) for key, text in texts.items()]
        for at in range(0, len(params), 100):  # the most that one batch may hold
            self.client.log_batch(self.run_id, params=params[at : at + 100])

    @classmethod
    def of(cls, client: Any, info: Mapping[str, Any], folder: Path) -> MlflowRun | None:
        """The copy that a run has in the store already, under its present id or a former one; None for none."""
        for run_id in ids_of(info):
            if stored(client, run_id) is not None:
                return cls(client, run_id, folder)
        # Killed between the start of the copy and the note of its id; or the note was lost.
        experiments = [e.experiment_id for e in client.search_experiments()]
        where = "tags.folder = '" + str(folder).replace("'", "\\'") + "'"
        found = client.search_runs(experiments, filter_string=where) if experiments else []
        # Another run may have been in a folder of this name before.
        same = [run.info.run_id for run in found if run.info.start_time == millis(info["started"])]
        return cls(client, same[0], folder) if same else None

    def take_up(self, info: Mapping[str, Any]) -> None:
        """Go on with a run: it is running again, and what the store has is not sent twice.

        Parameters of a run cannot change in MLflow: those that differ now are tags ``resumed.KEY``.
        """
        info = redact(info)
        self.client.update_run(self.run_id, status=MLFLOW_STATUS["running"])
        data = self.recall()
        texts = {_safe(key): as_text(value) for key, value in info["params"].items()}
        self._log_params({key: text for key, text in texts.items() if key not in data.params})
        tags = {key: value for key, value in info["tags"].items() if data.tags.get(key) != value}
        self.tags(tags | {f"resumed.{key}": text for key, text in texts.items() if data.params.get(key, text) != text})

    def recall(self) -> Any:
        """What the store has of the run; its metrics are not sent twice."""
        data = self.client.get_run(self.run_id).data
        for key in data.metrics:
            for point in self.client.get_metric_history(self.run_id, key):
                self.told[key, point.step] = point.value
        return data

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
        if self.run_id is None:
            return
        # A store that was lost may be there again, and would call the run running for ever.
        before, self.lost = self.lost, None
        self.tell("set_terminated", MLFLOW_STATUS[info["status"]], millis(info["ended"]))
        self.lost = before or self.lost

    def tell(self, what: str, *args: Any, **kwargs: Any) -> None:
        self.attempt(lambda: getattr(self.client, what)(self.run_id, *args, **kwargs))

    def attempt(self, act: Callable[[], object]) -> None:
        """Do something with the store; one that fails is lost, and left alone from then on."""
        if self.lost is not None:
            return
        try:
            act()
        except Exception as error:
            self.lose(error)

    def lose(self, error: Exception) -> None:
        """Leave the store alone from now on, and say so once."""
        self.lost = first_line(error)
        if not self._warned:
            self._warned = True
            _log.warning(
                "the tracking store was lost (%s); the run goes on, and `cilspl restore %s` makes the copy again",
                self.lost,
                self.folder,
            )


def _unanswered(error: Exception, uri: str) -> bool:
    """Whether a server was lost while it was asked, so that nobody knows what it has done."""
    from mlflow.exceptions import RestException

    return uri.startswith(("http://", "https://")) and not isinstance(error, RestException)


def ids_of(info: Mapping[str, Any]) -> list[str]:
    """MLflow's ids of a run, the present one first."""
    return [i for i in (info["run_id"], *reversed(info.get("former_run_ids", []))) if i]


def stored(client: Any, run_id: str | None) -> Any:
    """A run that the store has and has not deleted; None for none.

    Raises:
        Exception: of MLflow, where the store does not answer: what it has is then not known.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = None if run_id is None else client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no run, no id of one
            raise
        return None
    return found if found is not None and found.info.lifecycle_stage == "active" else None


def _safe(name: str) -> str:
    """A name that MLflow takes; the folder keeps the true one."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]
