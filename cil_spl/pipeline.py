"""The straight line: config → data → model → train → quantise → deploy → evaluate → track."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cil_spl import schema
from cil_spl.base import fence, options, process, ranks
from cil_spl.base.errors import RequestError
from cil_spl.chip.interchange import save
from cil_spl.chip.quantize import integer_twin
from cil_spl.data import cache, datasets
from cil_spl.data.batches import Batch, Batches, augment_of
from cil_spl.data.events import Data
from cil_spl.data.options import Frames, kind_of
from cil_spl.models import answers
from cil_spl.models.build import plan_from
from cil_spl.models.neurons import weights_of
from cil_spl.models.plan import Plan
from cil_spl.models.presets import PRESETS
from cil_spl.results import figures, runs
from cil_spl.results.metrics import read_metrics
from cil_spl.results.record import Record, open_record
from cil_spl.results.store import check_store
from cil_spl.tasks import evaluation as ev
from cil_spl.training.checkpoints import read_checkpoint, write_checkpoint
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.options import Trainer


def run(cfg: DictConfig, folder: Path | str, *, resume: bool = False, extensions: Sequence[str] = ()) -> dict[str, Any]:
    """Train, quantise, deploy, evaluate and track one run; everything it leaves lies in ``folder``.

    Args:
        cfg: the composed config.
        folder: made where it is missing.
        resume: go on with the run that ``folder`` holds, from its last epoch.
        extensions: modules of the user's own whose functions the config may name.

    Returns:
        the run's row; an empty one on ranks other than the first, which only train.

    Raises:
        RequestError: before any work, if the config, the data or the chip cannot do it.
    """
    folder = Path(folder)
    cfg = schema.check_config(cfg, extensions)
    plan = plan_of(cfg)
    target = make(cfg, "target")
    if ranks.count() > 1 and target.backend == "device":
        raise RequestError(
            f"target.backend={cfg.target.backend}: {ranks.count()} ranks cannot share one board; use one process, or "
            "target.backend=simulator"
        )
    warnings = target.place(plan)
    start = weights_from(cfg.start_from)
    check_store(cfg.tracking)
    threads = prepare(cfg)
    experiences = datasets.load(cfg.dataset, cfg.get("test_dataset"), cfg.seed, cfg.extensions)
    schema.check_experiences(cfg, len(experiences))
    tags = {"backend": target.backend, "data": cache.identity(experiences[-1].test)}
    tags |= {f"threads_{name}": number for name, number in threads.items()}
    with released(target), open_record(cfg, folder, tags=tags, resume=resume) as record:
        for text in warnings:
            record.warn(text)
        ctx = replace(context_of(cfg, plan, experiences, target, record, folder), start=start)
        trained = make(cfg, "method", ctx)
        if not ranks.first():
            return {}
        evaluations, extra = deploy(cfg, ctx, trained, target, record, folder)
        metrics = {
            f"{stage}/{name}": value for stage, seen in evaluations.items() for name, value in seen.metrics.items()
        }
        metrics |= extra | dict(trained.notes or {})
        row = row_of(cfg, target, metrics)
        test = experiences[-1].test
        classes = test.classes or ()
        figures.write_confusion(folder / "confusion.csv", evaluations["deployed"].confusion, classes)
        figures.write_decisions(folder / "decisions.csv", evaluations, test)
        figures.draw(
            folder / "figures",
            read_metrics(folder),
            evaluations,
            classes,
            example_of(target, next(ctx.batches(test.subset([0]), train=False).epoch(0)), test),
        )
        record.finish(metrics, row)
    return row


def validate(cfg: DictConfig, extensions: Sequence[str] = ()) -> tuple[DictConfig, Plan, list[str]]:
    """All that can be known before any work: the checked config, the plan, and warnings of its placement."""
    cfg = schema.check_config(cfg, extensions)
    plan = plan_of(cfg)
    return cfg, plan, make(cfg, "target").place(plan)


def plan_of(cfg: DictConfig) -> Plan:
    """The network's plan; needs no data."""
    blocks = PRESETS[cfg.model.preset] if cfg.model.layers is None else OmegaConf.to_container(cfg.model.layers)
    name = cfg.model.preset if cfg.model.layers is None else cfg.model.name
    shape = datasets.input_shape(cfg.dataset)
    return plan_from(name, blocks, shape, cfg.dataset.n_classes)  # type: ignore[arg-type]


def prepare(cfg: DictConfig) -> dict[str, int]:
    """Make the process ready: memory, threads, seeds; the numbers of threads that are in force."""
    process.keep_memory()
    ranks.start(device_of(cfg.trainer.device).type)
    threads = process.set_threads(cfg.trainer.threads)
    process.seed_everything(cfg.seed)
    return threads


def context_of(
    cfg: DictConfig, plan: Plan, experiences: tuple[Any, ...], target: Any, record: Record, folder: Path
) -> TrainingContext:
    """What the method is handed."""
    ctx = TrainingContext(
        plan=plan,
        experiences=experiences,
        task=make(cfg, "task"),
        neuron=OmegaConf.to_container(cfg.model.neuron),  # type: ignore[arg-type]
        aware=cfg.quantize.aware or cfg.model.aware,
        trainer=Trainer(**cfg.trainer),
        frames=Frames(**cfg.frames),
        seed=cfg.seed,
        device=device_of(cfg.trainer.device),
        folder=folder / "checkpoints",
        log=record.log,
        warn=record.warn,
        augment=augment_of(kind_of(cfg.dataset), cfg.dataset.get("augment")),
    )
    if target.runs != "spikes":
        return ctx
    if cfg.observer is not None:
        ctx = replace(ctx, observer=make(cfg, "observer", target, plan))

    def deployed(net: nn.Sequential, batches: Batches) -> float:
        chip, _ = target.quantize(net, plan)
        target.load(chip, plan, net)
        return ev.evaluate(target.answer, batches.epoch(0), ctx.task).metrics[ctx.task.monitor]

    return replace(ctx, deployed=deployed)


def weights_from(name: str | None) -> dict[str, torch.Tensor] | None:
    """The weights that training starts from: a file, a run's folder, or an MLflow run id.

    Raises:
        RequestError: there is no such run, or the file holds no weights.
    """
    if name is None:
        return None
    path = Path(name)
    if not path.is_file():
        path = runs.find(name).weights()
    content = read_checkpoint(path)
    weights = content.get("weights", content.get("keep", {}).get("net"))
    if weights is None:
        raise RequestError(f"start_from={name}: this file holds no weights; name a run, or its weights.pt")
    return weights


def deploy(
    cfg: DictConfig, ctx: TrainingContext, trained: Trained, target: Any, record: Record, folder: Path
) -> tuple[dict[str, ev.Evaluation], dict[str, float]]:
    """Quantise, load and evaluate, each network on the same test recordings."""
    plan, task = ctx.plan, ctx.task
    test = ctx.experiences[-1].test

    def judge(answer: ev.Answer, bins: int | None = None) -> ev.Evaluation:
        return ev.evaluate(answer, ctx.batches(test, train=False, bins=bins).epoch(0), task)

    write_checkpoint(folder / "weights.pt", {"weights": weights_of(trained.net)})
    if target.runs == "cnn":
        ann = trained.ann if trained.ann is not None else trained.net
        float32, int8 = target.load_cnn(ann.cpu(), plan, ctx.calibration(ctx.experiences[-1].train, bins=1))
        found = {"float": judge(float32, 1), "quantized": judge(int8, 1)}
        found["deployed"] = found["float"] if target.precision == "float32" else found["quantized"]
        return found, {f"deployed/{k}": v for k, v in target.storage(plan, ann).items()}
    chip, warnings = target.quantize(trained.net, plan)
    for text in warnings:
        record.warn(text)
    save(chip, folder / "chip.npz")
    found = {}
    if trained.ann is not None:
        found["float"] = judge(answers.cnn_answer(trained.ann, plan, ctx.device), 1)
        found["spiking"] = judge(answers.stepped_answer(trained.net, plan, ctx.device))
    else:
        found["float"] = judge(answers.stepped_answer(trained.net, plan, ctx.device))
    found["quantized"] = judge(answers.stepped_answer(integer_twin(chip, plan, trained.net), plan))
    target.load(chip, plan, trained.net)
    found["deployed"] = judge(target.answer)
    for text in target.judge(found["deployed"].metrics):
        record.warn(text)
    on_val = ctx.batches(ctx.experiences[-1].val, train=False)
    chosen_by = ev.evaluate(target.answer, on_val.epoch(0), task).metrics  # what settings are compared by
    figures_of_target = {"parameters": float(sum(layer.weight.size for layer in chip.layers))} | target.figures()
    extra = {f"deployed/{name}": value for name, value in figures_of_target.items()}
    return found, extra | {f"val/deployed_{task.monitor}": chosen_by[task.monitor]}


def row_of(cfg: DictConfig, target: Any, metrics: dict[str, float]) -> dict[str, Any]:
    """The line that a run ends with."""
    row: dict[str, Any] = {
        "method": cfg.method.name,
        "model": cfg.model.name,
        "dataset": cfg.dataset.name,
        "target": cfg.target.name,
        "backend": target.backend,
        "seed": cfg.seed,
    }
    if cfg.get("test_dataset"):
        row["dataset"] += f" → {cfg.test_dataset.name}"
    for key in ("float/accuracy", "spiking/accuracy", "quantized/accuracy", "deployed/accuracy", "deployed/synops"):
        if key in metrics:
            row[key] = metrics[key]
    row["drop"] = metrics["float/accuracy"] - metrics["deployed/accuracy"]
    row["n"] = int(metrics["deployed/n"])
    return row


def example_of(target: Any, batch: Batch, recordings: Data) -> dict[str, Any] | None:
    """One recording and the output events that it caused, for the picture; None where nothing spikes, or of samples."""
    if target.runs != "spikes" or batch.events is None or recordings.classes is None:
        return None
    output_us, output_class = target.output_events(batch)
    title = f"{recordings.name[0]}: class {recordings.classes[int(recordings.target[0])]}"
    return {"events": batch.events, "output_us": output_us, "output_class": output_class, "title": title}


@contextmanager
def released(target: Any) -> Iterator[None]:
    """A target that holds a board gives it back at the end, whatever happens."""
    try:
        yield
    finally:
        getattr(target, "close", lambda: None)()
        ranks.stop()


def keywords(node: DictConfig, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a config node hands to the function that its ``_target_`` names."""
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in ("_target_", *without)}


def make(cfg: DictConfig, group: str, *given: Any) -> Any:
    """Call what a group of a checked config names, its keys as keywords; with its ``name`` where it takes one."""
    node = cfg[group]
    function = fence.locate(group, node._target_, cfg.extensions)
    return function(*given, **keywords(node, without=() if options.takes(function, "name") else ("name",)))


def device_of(name: str) -> torch.device:
    """The device to train on; whether there is such a one has been checked with the config."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.count() > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return torch.device(name)
