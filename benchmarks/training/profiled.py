"""Part ``profile``: where the time goes: of a default run, by what it does; of a step, by operation and layer."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import recorded
import sides
import torch
from hydra import compose, initialize_config_module
from torch.profiler import ProfilerActivity, profile
from turns import Options, told

from cil_spl import pipeline
from cil_spl.base import process

# What the time of a function, or of a class's method, counts as: that of the innermost one that is running. Inside
# those of WHOLE nothing counts apart. A name that a later version does not have is left out.
ROWS: dict[str, Sequence[str]] = {
    "configuration": ["schema.check_config"],
    "data set": ["data.datasets.load"],
    "recordings of a batch": ["data.events.Recordings.take"],
    "augmentation": ["data.augment.augment_events"],
    "binning": ["data.frames.frames", "data.frames.bin_edges"],
    "chip: rounding and loading": ["chip.observer.ChipObserver.load"],
    "chip: running a batch": ["chip.observer.ChipObserver.open"],
    "forward pass": ["models.forward.forward", "methods.bptt.loss_of"],
    "backward pass": ["torch.Tensor.backward"],
    "optimizer": ["training.update.Update.__call__"],
    "scaling of fresh weights": ["models.init.scale_to_rate"],
    "evaluation": ["tasks.evaluation.evaluate", "tasks.evaluation.evaluate_experiences"],
    "checkpoints": ["training.checkpoints.write_checkpoint", "training.checkpoints.read_checkpoint"],
    "record and log": [f"results.record.Record.{name}" for name in ("log", "tag", "warn", "begin", "finish", "_end")],
    "MLflow": [
        "results.store.connect",
        "results.record.Record.start_copy",
        *(f"results.mlflow_run.MlflowRun.{name}" for name in ("metrics", "tags", "artifact", "end")),
    ],
    "files and figures": ["results.outputs.leave_files"],
}
WHOLE = ("configuration", "data set", "evaluation", "scaling of fresh weights", "optimizer", "files and figures")
REST = "everything else"
SHOWN = 14  # operations of a step


def part(options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
    """Both tables; one thread."""
    told("profile: a run")
    run = table(run_times(options), "what")
    told("profile: a step")
    process.set_threads(1)
    step = step_times(sides.random_problem(4 if options.quick else 10, options.batch))
    return [("a default run", run), ("a step of the default path, random frames", step)]


def table(seconds: dict[str, float], head: str) -> list[dict[str, Any]]:
    """Rows with their shares, the largest first."""
    total = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return [{head: name, "ms": f"{1e3 * s:.4g}", "share": f"{s / total:.1%}"} for name, s in ordered]


def run_times(options: Options) -> dict[str, float]:
    """Seconds of a run of the default method, by rows; what is compiled has been compiled by a run before it."""
    limit = 2 if options.quick else 60
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *recorded.overrides_of(options),
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            "method=cil_bptt",
            "trainer.epochs=2",
            "trainer.threads=1",
            "target.threads=1",
            f"trainer.limit_batches={limit}",
        ]
        with initialize_config_module("cil_spl.conf", version_base="1.3"):
            configs = [compose("config", overrides=[*words, *more]) for more in (["trainer.limit_batches=2"], [])]
        for number, cfg in enumerate(configs):
            watch = Watch()
            with watch.watching():
                pipeline.run(cfg, Path(folder) / str(number))
    return dict(watch.seconds)


class Watch:
    """Seconds by row while it is entered: each belongs to the innermost function of ROWS that is running."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.open: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put watched functions in the place of all those of ROWS, wherever a module of ours holds them."""
        self.last = time.perf_counter()
        with ExitStack() as stack:
            for row, names in ROWS.items():
                for name in names:
                    for holder, key, function in held(name):
                        stack.enter_context(mock.patch.object(holder, key, self.watched(row, function)))
            yield
        self._count()

    def watched(self, row: str, function: Any) -> Any:
        """The function, whose time counts as that row."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.open and self.open[-1] in WHOLE:
                return function(*args, **kwargs)
            self._count()
            self.open.append(row)
            try:
                return function(*args, **kwargs)
            finally:
                self._count()
                self.open.pop()

        return run

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self.open[-1] if self.open else REST] += now - self.last
        self.last = now


def held(name: str) -> Iterator[tuple[Any, str, Any]]:
    """Where a function is to be found: its class, or each module that imported it; nowhere if there is none."""
    path, _, last = name.rpartition(".")
    outer, _, inner = path.rpartition(".")
    with suppress(ImportError, AttributeError):
        if inner[:1].isupper():
            module = torch if outer == "torch" else import_module(f"cil_spl.{outer}")
            yield getattr(module, inner), last, vars(getattr(module, inner))[last]
            return
        function = getattr(import_module(f"cil_spl.{path}"), last)
        for key, module in list(sys.modules.items()):
            if key.startswith("cil_spl") and vars(module).get(last) is function:
                yield module, last, function


def step_times(problem: sides.Problem, steps: int = 5) -> list[dict[str, Any]]:
    """Milliseconds of a step by operation and the layer that its shapes belong to, the largest first."""
    step = sides.make_side(sides.OURS, problem)
    step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        for _ in range(steps):
            step()
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in seen.key_averages(group_by_input_shape=True):
        if not event.key.startswith("autograd::engine"):
            layer = layer_of(event.input_shapes, problem)
            seconds[f"{event.key}{layer}"] += event.self_cpu_time_total * 1e-6 / steps
    ordered = sorted(seconds, key=lambda name: -seconds[name])
    kept = {name: seconds[name] for name in ordered[:SHOWN]} | {REST: sum(seconds[name] for name in ordered[SHOWN:])}
    return table(kept, "operation")


def layer_of(shapes: Sequence[Sequence[int]], problem: sides.Problem) -> str:
    """The layer whose weights are among the shapes, or else whose output has one of them."""
    weights = {tuple(p.shape): name.rpartition(".")[0] for name, p in problem.net.named_parameters() if p.ndim > 1}
    for shape in shapes:
        if tuple(shape) in weights:
            return f", {weights[tuple(shape)]}"
    for shape in shapes:
        for name, size in problem.net.plan.shapes().items():
            if len(shape) > len(size) and tuple(shape[-len(size) :]) == tuple(size):
                return f", size of {name}"
    return ""
