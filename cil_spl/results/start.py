"""What is made of a config before any data is read, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.chip.quantize import check_roundable
from cil_spl.data import datasets, known
from cil_spl.data.batches import check_frames
from cil_spl.data.events import Splits
from cil_spl.models.build import check_cnn
from cil_spl.models.configured import network_of, plan_of
from cil_spl.models.net import Net
from cil_spl.models.neurons import is_spiking
from cil_spl.models.plain import check_hooks
from cil_spl.models.plan import Plan
from cil_spl.results import runs
from cil_spl.targets.target import Asked, Target, released
from cil_spl.tasks.task import Task
from cil_spl.training.checkpoints import check_weights, read_checkpoint
from cil_spl.training.context import Observer, begin, precision_of

StartWeights = dict[str, torch.Tensor]


class Ready(NamedTuple):
    """Task, plan, target and observer of a run, the target's warnings, and the weights that training starts from."""

    task: Task
    plan: Plan
    target: Target
    observer: Observer | None
    warnings: list[str]
    start: StartWeights | None


@contextmanager
def ready(cfg: Any, asked: Asked) -> Iterator[Ready]:
    """All that a run needs beside its data; the target is given back at the end.

    Args:
        cfg: a checked config.
        asked: what it asks of its target.

    Raises:
        RequestError: the target, the weights, the data set's folder or the machine's memory rule the run out.
    """
    task = fence.make(cfg, "task")
    plan = plan_of(cfg, task)
    own = None if cfg.model["_target_"] is None else network_of(cfg, task, plan, cfg.model.family)
    if cfg.model.family == "cnn":
        check_cnn(plan, asked.converts)
        _check_own_cnn(own, asked)
    else:
        asked = replace(asked, net=own)
    _check_aware(cfg, plan, asked)
    for group in ("dataset", "test_dataset"):
        if cfg.get(group) is not None:
            datasets.check_folder(cfg[group], group)
    check_memory(cfg, plan, 1)
    start = starting_weights(cfg, task, plan)
    with released(fence.make(cfg, "target")) as target:
        warnings = [*(own.remarks if own is not None else ()), *target.check(plan, asked)]
        observer = fence.make(cfg, "observer", target, plan, precision_of(cfg))
        yield Ready(task, plan, target, observer, warnings, start)


def _check_own_cnn(own: Net | None, asked: Asked) -> None:
    """Refuse neurons in a user's own CNN, and hooks where a spiking network is made of it or its norm is folded."""
    if own is None:
        return
    folds = any(layer.kind in ("norm", "bias") for layer in own.plan.layers)
    why = f"method={asked.method} makes a spiking network of it" if asked.converts else "its norm is folded"
    for layer in own.plan.layers:
        module = own.get_submodule(layer.name)
        if is_spiking(module):
            raise RequestError(
                f"layer {layer.name}: {type(module).__name__} spikes, and model.family=cnn has rectifiers; use "
                "nn.ReLU, or a method that trains spikes, such as method=bptt model=bptt_snn"
            )
        if layer.kind not in ("module", "stateful") and (asked.converts or folds):
            check_hooks(layer.name, module, why)


def _check_aware(cfg: Any, plan: Plan, asked: Asked) -> None:
    """Training with rounded weights takes what the chip's rule can round, on every target."""
    if not (cfg.quantize.aware or cfg.model.aware):
        return
    key = "quantize.aware" if cfg.quantize.aware else "model.aware"
    check_roundable(plan, asked.net, f"{key}=true", f"{key}=false")


def check_data(cfg: Any, experiences: Sequence[Splits]) -> None:
    """Refuse data without validation recordings, or whose batches are larger than the memory that is free."""
    known.check_validation(cfg.dataset, experiences)
    check_memory(cfg, plan_of(cfg, fence.make(cfg, "task")), max(len(data.train) for data in experiences))


def check_memory(cfg: Any, plan: Plan, n: int) -> None:
    """Refuse training batches of at most ``n`` recordings, or one to evaluate, that are larger than the free memory.

    Evaluation takes smaller batches by itself. A CNN adds the bins of a recording before it computes.
    """
    shape = datasets.input_shape(cfg.dataset)
    largest = 0 if cfg.model.family == "cnn" else plan.largest
    check_frames(cfg.frames.bins, min(n, cfg.trainer.batch_size), shape, "trainer.batch_size", largest)


def starting_weights(cfg: Any, task: Task, plan: Plan) -> StartWeights | None:
    """The weights of ``start_from``, if any, which have to be those of such a network.

    Raises:
        RequestError: there is no such run, the file holds no weights, or those of another model.
    """
    if cfg.start_from is None:
        return None
    try:
        start = _weights_from(cfg.start_from)
        begin(network_of(cfg, task, plan, cfg.model.family), start)
    except RequestError as error:
        reason = str(error).removeprefix("start_from: ")
        raise RequestError(f"start_from={cfg.start_from}: {reason}") from error
    return start


def _weights_from(name: str) -> StartWeights:
    """From a file, a run's folder, or an MLflow run id."""
    path = Path(name)
    if not path.is_file():
        path = runs.find(name).weights()
    content = read_checkpoint(path)
    kept = content.get("keep")
    weights = content.get("weights", kept.get("net") if isinstance(kept, dict) else None)
    if not isinstance(weights, dict):
        raise RequestError(f"{path} holds no weights; name a run, or its weights.pt")
    return check_weights(path, weights)
