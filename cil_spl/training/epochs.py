"""Epochs, early stopping, going on after a kill: what every method shares, as plain functions.

A method brings a ``step(batch)`` and its named stateful things; stages are a loop over :func:`fit`.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cil_spl.base import ranks
from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch, Batches, ahead
from cil_spl.training import generators
from cil_spl.training.checkpoints import Stateful, check_parts, read_checkpoint, write_checkpoint
from cil_spl.training.options import Trainer

ALL_DONE = "all epochs done"
EPOCH_SECONDS = "train/epoch_seconds"
LAST, BEST = "-last.pt", "-best.pt"
OPTIMIZER = "update"  # of what is kept
LEAN = "the stage is over and others have followed it, so that it gets no more epochs; start another run for that"
_NOT_SHOWN = ("synops",)  # in the record alone
_log = logging.getLogger(__name__)

Step = Callable[[Batch], Mapping[str, float | Tensor]]
Log = Callable[[dict[str, float], int], None]


@dataclass
class Fitted:
    """What a fit came to.

    Attributes:
        best_epoch: the chosen epoch, from 1; best_score: its score.
        epochs: how many ran; seconds: how long they took, over all processes that worked at them.
        stopped: why it ended; anything but ``ALL_DONE`` ends it for good, more epochs or not.
        history: the metrics of each epoch, as logged.
    """

    best_epoch: int = 0
    best_score: float = -math.inf
    epochs: int = 0
    seconds: float = 0.0
    stopped: str = ALL_DONE
    history: list[dict[str, float]] = field(default_factory=list)

    def improves(self, score: float, better: str) -> bool:
        """Whether the last epoch is the best so far; it is noted then."""
        best = score < self.best_score if better == "less" else score > self.best_score
        if best:
            self.best_score, self.best_epoch = score, self.epochs
        return best

    def note(self, metrics: dict[str, float]) -> None:
        """Another epoch has run."""
        self.epochs += 1
        self.seconds += metrics[EPOCH_SECONDS]
        self.history.append(metrics)

    @property
    def why(self) -> str:
        """In brackets why it ended early; nothing where it did not."""
        return "" if self.stopped == ALL_DONE else f" ({self.stopped})"

    def is_over(self, trainer: Trainer) -> bool:
        """Whether no epoch is left to run."""
        return self.stopped != ALL_DONE or self.epochs >= trainer.epochs


def fit(
    *,
    step: Step,
    score: Callable[[], Mapping[str, float]],
    batches: Batches,
    keep: Mapping[str, Stateful],
    trainer: Trainer,
    monitor: str,
    better: Literal["more", "less"] = "more",
    folder: Path,
    log: Log,
    stage: str = "train",
    first_epoch: int = 0,
    after: Sequence[tuple[str, int]] = (),
    progress: bool | None = None,
) -> Fitted:
    """Train for some epochs and leave ``keep`` as it was at the best of them.

    Args:
        step: one batch, gradient and update included; returns what to average over the epoch.
        score: the validation metrics by name, after each epoch; ``monitor`` among them. Called on rank 0 alone, whose
            metrics count on every rank.
        better: whether ``more`` or ``less`` of ``monitor`` is better.
        keep: all that training changes; saved after every epoch, and put back from the best.
        folder: where checkpoints lie. A fit that was cut off goes on from there, and logs again what it had logged;
            one that is over is not done again.
        stage: name of this fit within the run.
        first_epoch: number under which the first epoch is logged and shuffled.
        after: the stages before this one and their epochs; a checkpoint that was made after others is left aside.

    Raises:
        RequestError: the loss is not a number any more; a checkpoint of another format.
    """
    last_file, best_file = folder / f"{stage}{LAST}", folder / f"{stage}{BEST}"
    fitted = _go_on(last_file, keep, after, trainer) or Fitted(best_score=math.inf if better == "less" else -math.inf)
    for n, metrics in enumerate(fitted.history):
        log(metrics, first_epoch + n + 1)
    while not fitted.is_over(trainer):
        epoch = first_epoch + fitted.epochs
        began = time.monotonic()
        left = math.inf if trainer.max_seconds is None else trainer.max_seconds - fitted.seconds
        title = f"{stage} {fitted.epochs + 1}/{trainer.epochs}"
        metrics = _train_epoch(step, _bar(ahead(batches.epoch(epoch)), len(batches), title, progress), epoch, left)
        metrics = ranks.agree(metrics | _scored(score) if ranks.first() else None)
        metrics[EPOCH_SECONDS] = ranks.agree(time.monotonic() - began)
        fitted.note(metrics)
        if fitted.improves(metrics[f"val/{monitor}"], better):
            _save(best_file, {"keep": _states(keep), "epoch": fitted.epochs})
        fitted.stopped = _reason_to_stop(fitted, trainer)
        content = {"keep": _states(keep), "generators": generators.state(), "fitted": vars(fitted)}
        _save(last_file, content | {"after": [list(a) for a in after]})
        log(metrics, epoch + 1)  # of an epoch that is kept: a log longer than the checkpoints tells that one is lost
        _log.info("%s", _line(stage, fitted.epochs, trainer.epochs, metrics))
    ranks.gather(None)  # rank 0 has written
    if fitted.best_epoch:
        _put_back_best(keep, best_file)
        _log.info("%s: epoch %d of %d counts%s", stage, fitted.best_epoch, fitted.epochs, fitted.why)
    return fitted


def make_lean(folder: Path, stage: str) -> None:
    """Let go what a stage that others have followed is not asked for again: its last state, and the optimizer's.

    What remains is what it came to, and the weights of its best epoch; no epoch can be added to it.
    """
    last_file, best_file = folder / f"{stage}{LAST}", folder / f"{stage}{BEST}"
    last = read_checkpoint(last_file, "fitted")
    if last.get("lean") or not best_file.exists():
        return
    best = read_checkpoint(best_file, "keep")
    kept = {name: state for name, state in best["keep"].items() if name != OPTIMIZER}
    write_checkpoint(best_file, {**best, "keep": kept, "lean": True})
    write_checkpoint(last_file, {name: value for name, value in last.items() if name != "keep"} | {"lean": True})


def _go_on(
    last_file: Path, keep: Mapping[str, Stateful], after: Sequence[tuple[str, int]], trainer: Trainer
) -> Fitted | None:
    """What an earlier process left of this stage, put back; None where it left nothing to go on with."""
    if not last_file.exists():
        return None
    saved = read_checkpoint(last_file, "fitted")
    if not saved.get("lean"):
        check_parts(last_file, saved, "keep", "fitted")
    if [tuple(a) for a in saved.get("after", after)] != list(after):
        _log.warning("%s: the stages before it were trained on since; the stage begins anew", last_file.stem)
        return None
    generated = saved.get("generators", saved.get("rng"))
    if generated is None:
        raise RequestError(f"{last_file}: {_FOREIGN}")
    fitted = _fitted(saved["fitted"], last_file)
    if not saved.get("lean"):
        _put_back(keep, saved, last_file)
    elif not fitted.is_over(trainer):
        raise RequestError(f"{last_file}: {LEAN}")
    with _foreign(last_file):
        generators.load_state(generated)
    return fitted


@dataclass(frozen=True)
class Stage:
    """What the checkpoints of a fit hold.

    Attributes:
        fitted: what it came to so far.
        reached: the last epoch of which anything is kept: a kill may come after the best of an epoch was written.
        lean: whether others have followed it, so that it cannot go on (:func:`make_lean`).
    """

    fitted: Fitted
    reached: int
    lean: bool = False


def read_stages(folder: Path) -> dict[str, Stage]:
    """What the checkpoints in a folder hold, by the names of their stages; each file is read whole.

    Raises:
        RequestError: one is missing, damaged, older than the other of its stage, or not of a fit.
    """
    stages = {}
    for path in sorted(folder.glob(f"*{LAST}")):
        content = read_checkpoint(path, "fitted")
        fitted = _fitted(content["fitted"], path)
        reached = fitted.epochs
        if fitted.best_epoch:
            best = path.with_name(path.name.removesuffix(LAST) + BEST)
            if not best.exists():
                raise RequestError(
                    f"{best}: missing; it holds the run's best epoch so far, {fitted.best_epoch}. Put it back from a "
                    "copy, or start another run by `cilspl run`"
                )
            epoch = read_checkpoint(best).get("epoch", fitted.best_epoch)
            if type(epoch) is not int:
                raise RequestError(f"{best}: {_FOREIGN}")
            if epoch < fitted.best_epoch:
                raise RequestError(
                    f"{best}: it holds epoch {epoch}, but by {path.name} the best is {fitted.best_epoch}; put the file "
                    "back that belongs to it, or start another run by `cilspl run`"
                )
            reached = max(reached, epoch)
        stages[path.name.removesuffix(LAST)] = Stage(fitted, reached, bool(content.get("lean")))
    return stages


def _train_epoch(step: Step, batches: Iterable[Batch], epoch: int, seconds: float) -> dict[str, float]:
    """One pass over the training batches, or as many as ``seconds`` allow; means of what the steps returned."""
    began = time.monotonic()
    sums: dict[str, float] = {}
    n = 0
    for batch in batches:
        values = ranks.average({name: float(value) for name, value in step(batch).items()})
        if not math.isfinite(values.get("loss", 0.0)):
            raise RequestError(
                f"method.lr: the loss became {values['loss']} in epoch {epoch + 1}; lower the learning rate"
            )
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        n += 1
        if math.isfinite(seconds) and ranks.agree(time.monotonic() - began > seconds):
            break
    return {f"train/{name}": total / n for name, total in sums.items()}


def _scored(score: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    return {f"val/{name}": value for name, value in score().items()}


def _reason_to_stop(fitted: Fitted, trainer: Trainer) -> str:
    if trainer.max_seconds is not None and fitted.seconds >= trainer.max_seconds:
        return f"trainer.max_seconds={trainer.max_seconds:g} reached"
    if trainer.patience is not None and fitted.epochs - fitted.best_epoch >= trainer.patience:
        return f"no better for {trainer.patience} epochs"
    return ALL_DONE


_NUMBERS = ("best_score", "seconds")
_FOREIGN = "a checkpoint of another method or version; take the file from a copy of the run, or begin the run anew"


def _put_back_best(keep: Mapping[str, Stateful], path: Path) -> None:
    best = read_checkpoint(path, "keep")
    gone = (OPTIMIZER,) if best.get("lean") else ()
    _put_back({name: thing for name, thing in keep.items() if name not in gone}, best, path)


def _put_back(keep: Mapping[str, Stateful], saved: Mapping[str, Any], path: Path) -> None:
    if set(keep) - set(saved["keep"]):
        raise RequestError(f"{path}: {_FOREIGN}")
    for name, thing in keep.items():
        with _foreign(path):
            thing.load_state_dict(saved["keep"][name])


@contextmanager
def _foreign(path: Path) -> Iterator[None]:
    """What torch, numpy and Python raise over states that are not theirs, as one message."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        raise RequestError(f"{path}: {_FOREIGN} ({type(error).__name__})") from None


def _fitted(about: dict[str, Any], path: Path) -> Fitted:
    """What a file says that a fit came to."""
    default = vars(Fitted())
    for name, value in about.items():
        known = name in default and type(value) in ({float, int} if name in _NUMBERS else {type(default[name])})
        if not known or (name in ("best_epoch", "epochs") and value < 0) or (name == "seconds" and not value >= 0):
            raise RequestError(f"{path}: {_FOREIGN} (fitted.{name}={shown(value)})")
    history = about.get("history", [])
    if not all(isinstance(one, dict) and all(type(v) in (int, float) for v in one.values()) for one in history):
        raise RequestError(f"{path}: {_FOREIGN} (fitted.history={shown(history)})")
    return Fitted(**about)


def _states(keep: Mapping[str, Stateful]) -> dict[str, object]:
    return {name: thing.state_dict() for name, thing in keep.items()}


def _save(path: Path, content: dict[str, object]) -> None:
    if ranks.first():
        write_checkpoint(path, content)


def _line(stage: str, epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """What an epoch came to, in one line: ``train 3/20  loss 0.31  accuracy 0.9; val …``."""
    groups: dict[str, list[str]] = {}
    for name, value in metrics.items():
        group, _, rest = name.partition("/")
        if name != EPOCH_SECONDS and rest not in _NOT_SHOWN and not (rest == "silent" and value == 0):
            again = rest.startswith("deployed_") and f"{group}/{rest.removeprefix('deployed_')}" in metrics
            groups.setdefault(group, []).append(f"{'deployed' if again else rest} {value:.4g}")
    told = [", ".join(parts) if group == "train" else f"{group} {', '.join(parts)}" for group, parts in groups.items()]
    return f"{stage} {epoch}/{epochs}: {'; '.join([*told, f'{metrics[EPOCH_SECONDS]:.1f} s'])}"


def _bar(batches: Iterable[Batch], total: int, title: str, progress: bool | None) -> Iterable[Batch]:
    from tqdm import tqdm

    # A pipe or a log file gets no bar.
    disable = not (sys.stderr.isatty() and ranks.first()) if progress is None else not progress
    return tqdm(batches, total=total, desc=title, leave=False, disable=disable, dynamic_ncols=True)
