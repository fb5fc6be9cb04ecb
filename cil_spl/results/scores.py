"""``scores.csv``: how each network did on each test recording, for paired comparisons between runs.

Its columns are the recording's name and, for each stage, the recording's value of the metric that the task is judged
by; the mean of a column is that metric. Earlier runs left ``decisions.csv`` alone, from which the accuracy of a
recording follows.
"""

from __future__ import annotations

import csv
import hashlib
import io
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.base.files import write_text
from cil_spl.results.folder import read_info

if TYPE_CHECKING:
    from cil_spl.tasks.evaluation import Evaluation
    from cil_spl.tasks.task import Task

SCORES_FILE, DECISIONS_FILE = "scores.csv", "decisions.csv"
STAGE = "deployed"
_NAME, _CLASS = "recording", "class"
_LARGEST = 1 << 28  # bytes; a million recordings take a tenth
_SAME = 1e-6  # between a metric and the mean of its scores

# A file that a run left in the store: the run's record and the file's name → its bytes, None where there is none.
Fetch = Callable[[Mapping[str, Any], str], bytes | None]


@dataclass(frozen=True)
class Scores:
    """A network's score on each test recording.

    Attributes:
        names: of the recordings; None where only their ``digest`` is known, as in a file of rows.
        values: one for each.
        digest: of the names in their order.
    """

    names: tuple[str, ...] | None
    values: np.ndarray
    digest: str

    @classmethod
    def of(cls, names: Sequence[str], values: np.ndarray) -> Scores:
        """Those of recordings with these names."""
        digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return cls(tuple(names), values, digest)


def write(folder: Path, evaluations: Mapping[str, Evaluation], names: Sequence[str] | np.ndarray, task: Task) -> None:
    """Write them, in the order of the test set; nothing where the task's metric is no mean over recordings.

    Args:
        folder: of the run.
        evaluations: by stage.
        names: of the test recordings.
        task: says what a recording's score is.

    Raises:
        RequestError: the task gave another number of scores.
    """
    columns = {}
    for stage, seen in evaluations.items():
        found = task.scores(seen.outputs, seen.decision, seen.target)
        if found is None:
            return
        values = np.asarray(found, np.float64)
        if values.shape != seen.index.shape:
            raise RequestError(
                f"task={task.name}: scores gave an array of shape {values.shape} for {len(seen.index)} inputs; it "
                "needs one number for each"
            )
        columns[stage] = values[np.argsort(seen.index, kind="stable")]
    order = np.sort(next(iter(evaluations.values())).index)
    text = io.StringIO(newline="")
    out = csv.writer(text, lineterminator="\n")
    out.writerow([_NAME, *columns])
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    out.writerows([str(names[k]), *map(_written, row)] for k, row in zip(order.tolist(), rows, strict=True))
    write_text(folder / SCORES_FILE, text.getvalue())


def _written(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def read(run: Mapping[str, Any], value: float, fetch: Fetch | None = None, stage: str = STAGE) -> Scores | str:
    """What a run left of its network at a stage.

    Args:
        run: in the shape of ``run.json``, with its ``folder``.
        value: the metric that the scores are of, of the whole set.
        fetch: asks the store for a file where the folder is gone.
        stage: the network.

    Returns:
        the scores, or why there are none to compare.
    """
    reason = "without the scores of single recordings"
    told = unpacked(run["scores"], stage) if "scores" in run else None
    if told is not None and fits(told, value):
        return told
    for name in (SCORES_FILE, DECISIONS_FILE):
        try:
            content = _content(run, name, fetch)
            found = None if content is None else _parsed(content, name, stage)
        except (RequestError, ValueError, OSError):
            reason = f"with a damaged {SCORES_FILE} or {DECISIONS_FILE}"
            continue
        if found is not None:
            return found if fits(found, value) else "whose score is not the mean over single recordings"
    return reason


def fits(found: Scores, value: float) -> bool:
    """Whether a metric of the whole set is the mean of these scores."""
    if not len(found.values) or not np.isfinite(found.values).all():
        return False
    return bool(abs(found.values.mean() - value) <= _SAME * max(1.0, abs(value)))


def packed(folder: Path) -> dict[str, Any] | None:
    """What a file of rows keeps of a run's scores: a bit for each recording where they are 0 or 1; None without any."""
    try:
        content = _content({"folder": str(folder)}, SCORES_FILE, None)
        if content is None:
            return None
        heads = content.split(b"\n", 1)[0].decode().strip().split(",")[1:]
        found = {stage: _parsed(content, SCORES_FILE, stage) for stage in heads}
    except (RequestError, ValueError, OSError):
        return None
    one = next(iter(found.values()))
    stages = {stage: _packed(scores.values) for stage, scores in found.items()}
    return {"recordings": one.digest, "n": len(one.values), "stages": stages}


def _packed(values: np.ndarray) -> str:
    if np.isin(values, (0, 1)).all():
        return "bits " + b64encode(np.packbits(values.astype(bool)).tobytes()).decode()
    return "float32 " + b64encode(values.astype("<f4").tobytes()).decode()


def unpacked(told: Any, stage: str = STAGE) -> Scores | None:
    """What :func:`packed` made, of one stage; None where it is no such thing."""
    try:
        n, digest = int(told["n"]), str(told["recordings"])
        kind, _, text = told["stages"][stage].partition(" ")
        content = b64decode(text, validate=True)
        if kind == "bits":
            values = np.unpackbits(np.frombuffer(content, np.uint8), count=n).astype(np.float64)
        else:
            values = np.frombuffer(content, "<f4").astype(np.float64)
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
        return None
    return Scores(None, values, digest) if 0 < n == len(values) else None


def _content(run: Mapping[str, Any], name: str, fetch: Fetch | None) -> bytes | None:
    """The bytes of a file as the run left it; None where it left none.

    Raises:
        ValueError: it was changed since.
        RequestError: the folder's record is damaged.
        OSError: it cannot be read.
    """
    folder = Path(run["folder"]) if isinstance(run.get("folder"), str) else None
    if folder is not None and (folder / name).is_file():
        path = folder / name
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path}: too large")
        content = path.read_bytes()
        files = run.get("files") or read_info(folder)[0].get("files") or {}
        if files.get(name) not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError(f"{path}: changed since the run left it")
        return content
    return None if fetch is None or not run.get("run_id") else fetch(run, name)


def _parsed(content: bytes, name: str, stage: str = STAGE) -> Scores:
    """Raises ValueError where the content is not that of such a file."""
    try:
        heads, *rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        at = {head: place for place, head in enumerate(heads)}
        names = tuple(row[at[_NAME]] for row in rows)
        if name == DECISIONS_FILE:
            values = np.array([row[at[stage]] == row[at[_CLASS]] for row in rows], np.float64)
        else:
            values = np.array([float(row[at[stage]]) for row in rows], np.float64)
    except (KeyError, IndexError, csv.Error) as error:
        raise ValueError(f"no {name}: {error}") from error
    if not rows or any(len(row) != len(heads) for row in rows):
        raise ValueError(f"no {name}: lines of different lengths, or none")
    return Scores.of(names, values)


def aligned(found: Mapping[str, Scores], order: Scores) -> dict[str, np.ndarray] | None:
    """The scores of several runs in the order of another's; None where a run was tested on other recordings.

    Args:
        found: by seed.
        order: its recordings count; names may repeat, and then count by their place.
    """
    values = {}
    for seed, scores in found.items():
        if order.digest == scores.digest and len(order.values) == len(scores.values):
            values[seed] = scores.values
            continue
        names = order.names
        if names is None or scores.names is None:
            return None
        place = {name: k for k, name in enumerate(scores.names)}
        if len(place) != len(scores.names) or sorted(place) != sorted(names):
            return None
        values[seed] = scores.values[[place[name] for name in names]]
    return values
