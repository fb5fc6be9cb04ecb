"""A method, a data set, a task and a model from a user's folder: a file and a YAML each, and nothing else."""

from __future__ import annotations

import json
import sys

import pytest

from cil_spl.base import memory

METHOD = '''
"""Least squares on the output counts, by plain gradient steps."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Le, MinLen

from cil_spl.models.forward import forward
from cil_spl.training.checkpoints import Weights
from cil_spl.training.context import Trained
from cil_spl.training.options import Requires
from cil_spl.training.update import Update

REQUIRES = Requires(family="snn", observer=False)


def train(
    ctx,
    *,
    lr: Annotated[float, Gt(0)] = 1e-2,
    goals: Annotated[Sequence[Annotated[float, Gt(0)]], MinLen(1)] = (4.0,),
    loss: Literal["counts", "steps"] = "counts",
    share: Annotated[float, Gt(0), Le(1)] | None = None,
):
    (data,) = ctx.experiences
    net = ctx.build("snn")
    ctx.scale(net, 1.0)
    batches = ctx.batches(data.train, train=True)
    update = Update(net.parameters(), ctx.trainer, lr=lr, total_steps=ctx.trainer.epochs * len(batches))

    def step(batch):
        out, _, _ = forward(net, batch.frames)
        value = ctx.loss(out.sum(0) / goals[0], batch)
        value.backward()
        update()
        return {"loss": value.detach()}

    keep = {"net": Weights(net), "update": update}
    ctx.fit(step=step, score=lambda: ctx.score(net), batches=batches, keep=keep, monitor=ctx.monitor)
    return Trained(ctx.finish(net))
'''
METHOD_YAML = """\
# Least squares, of my own.
_target_: own_method.train
name: squares
# Learning rate.
lr: 0.01
goals: [4]
"""
DATA = '''
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from cil_spl.data.events import EVENT, Splits, from_list


def bars(*, n: Annotated[int, Ge(4), Le(1000)] = 24, noise: Annotated[float, Ge(0), Le(1)] = 0.1) -> Splits:
    """A bar on the left or on the right."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        events = np.zeros(60, EVENT)
        wrong = rng.random(60) < noise
        events["x"] = np.where(wrong, rng.integers(0, 8, 60), 4 * (i % 2) + rng.integers(0, 4, 60))
        events["y"], events["t"] = rng.integers(0, 8, 60), np.sort(rng.integers(0, 10_000, 60))
        made.append(events)
    data = from_list(made, [i % 2 for i in range(n)], (8, 8, 2), ("left", "right"))
    return Splits(data.subset(range(n // 2)), data.subset([]), data.subset(range(n // 2, n)))
'''
DATA_YAML = """\
# Bars, of my own.
defaults:
  - common/recordings@_here_
  - _self_

_target_: own_data.bars
name: bars
n: 24
sensor_size: [8, 8, 2]
n_classes: 2
"""
TASK = '''
from typing import Annotated

import numpy as np
from annotated_types import Gt

from cil_spl.tasks.task import Column, Task


def share(*, scale: Annotated[float, Gt(0)] = 0.1) -> Task:
    """Which share of the events lies on the right: a number, not a class."""
    return Task(
        name="share",
        monitor="error",
        better="less",
        columns=(Column("error"), Column("close", percent=True)),
        loss=lambda outputs, target: (scale * outputs - target).square().mean(),
        metrics=lambda outputs, decision, target: {
            "error": np.abs(scale * outputs - target).mean(),
            "close": (np.abs(scale * outputs - target) < 0.25).mean(),
        },
        target=lambda batch: right_of(batch.frames),
        outputs=lambda input_shape, n_classes: 1,
        files=lambda folder, evaluations, data: (folder / "share.txt").write_text(" ".join(evaluations)) and None,
    )


def right_of(frames):
    by_column = frames.sum(dim=(0, 2, 3))  # T B C H W -> B W
    return (by_column[:, 4:].sum(1) / by_column.sum(1).clamp(min=1))[:, None]
'''
TASK_YAML = """\
# Shares, of my own.
_target_: own_task.share
name: share
scale: 0.1
"""
MODEL_YAML = """\
# Two small layers, of my own.
defaults:
  - bptt_snn
  - _self_

name: small
layers: [{conv: 4, kernel: 3, padding: 1, pool: 2}, {linear: classes}]
"""
WORDS = (
    "--config-dir", "mine", "method=squares", "dataset=bars", "model=small", "observer=none",
    "extensions=[own_method,own_data]", "trainer.epochs=1", "frames.bins=2", "trainer.batch_size=4",
    "tracking.enabled=false",
)  # fmt: skip


@pytest.fixture
def own(here, monkeypatch):
    """The folder of a user who has written a method, a data set and a model."""
    (here / "own_method.py").write_text(METHOD)
    (here / "own_data.py").write_text(DATA)
    (here / "own_task.py").write_text(TASK)
    for group, name, text in (
        ("method", "squares", METHOD_YAML),
        ("dataset", "bars", DATA_YAML),
        ("model", "small", MODEL_YAML),
        ("task", "share", TASK_YAML),
    ):
        (here / "mine" / group).mkdir(parents=True)
        (here / "mine" / group / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("CILSPL_CACHE", str(here / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield here
    for name in ("own_method", "own_data", "own_task"):
        sys.modules.pop(name, None)


def test_they_run_as_the_built_in_ones_do(cilspl, own):
    said = cilspl("run", *WORDS, "hydra.run.dir=runs/one")
    assert said.code == 0, said.err
    assert "squares · small · bars · speck (simulator) · seed 0" in said.out
    info = json.loads((own / "runs" / "one" / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["metrics"]["deployed/n"] == 12
    assert info["params"]["method.goals"] == [4.0]
    assert info["params"]["method.loss"] == "counts"  # what the YAML leaves out, as the signature says


def test_a_task_that_is_no_classification_runs_as_well(cilspl, own, monkeypatch):
    """Its metric chooses the epoch and heads the row and the table; a recording is answered by a number."""
    monkeypatch.setenv("COLUMNS", "160")
    words = [word for word in WORDS if not word.startswith(("extensions", "trainer.epochs"))]
    words += ["task=share", "extensions=[own_method,own_data,own_task]", "trainer.epochs=3", "hydra.run.dir=runs/share"]
    said = cilspl("run", *words)
    assert said.code == 0, said.err
    head = next(line for line in said.out.splitlines() if "Recordings" in line)
    for title in ("Float error", "Deployed error", "Deployed %", "Rise"):
        assert title in head
    info = json.loads((own / "runs" / "share" / "run.json").read_text())
    row, metrics = info["row"], info["metrics"]
    assert row["rise"] == pytest.approx(row["deployed/error"] - row["float/error"])
    assert metrics[row["score"]] == metrics["val/deployed_error"]
    lines = [json.loads(line) for line in (own / "runs" / "share" / "metrics.jsonl").read_text().splitlines()]
    assert metrics["val/deployed_error"] == pytest.approx(min(line["val/deployed_error"] for line in lines))
    assert (own / "runs" / "share" / "share.txt").read_text() == "float quantized deployed"
    assert not (own / "runs" / "share" / "confusion.csv").exists()
    table = cilspl("table", "--from", "runs", "--format", "markdown")
    assert "Deployed error" in table.out
    (own / "one.csv").write_text("x,y,t,p\n" + "".join(f"6,{n % 8},{n},1\n" for n in range(60)))
    modules = [word for name in ("own_method", "own_data", "own_task") for word in ("--extensions", name)]
    said = cilspl("predict", "runs/share", "one.csv", *modules)
    assert said.code == 0, said.err
    assert said.out.startswith("output events  0: ")


def test_they_are_listed_and_valid(cilspl, own):
    out = cilspl("ls", "--config-dir", "mine").out
    for line in ("squares  ", "bars  ", "small  "):
        assert line in out
    said = cilspl("validate", *WORDS)
    assert said.code == 0, said.err
    assert "valid: method=squares model=small dataset=bars target=speck seed=0" in said.out


def test_a_set_that_is_left_without_validation_recordings(cilspl, own):
    assert cilspl("validate", *WORDS, "dataset.val_fraction=0").code == 0  # it may bring its own
    said = cilspl("run", *WORDS, "dataset.val_fraction=0", "hydra.run.dir=runs/one")
    assert said.code == 2
    assert "\ncilspl: dataset.val_fraction=0: dataset=bars is left without validation recordings" in said.err
    assert not (own / "runs" / "one").exists()


def test_the_whole_batch_is_held_against_the_memory(cilspl, own, monkeypatch):
    values = 8 * 8 * 2 + 256  # of the frames and of the largest layer
    monkeypatch.setattr(memory, "free_bytes", lambda: values * 4 * 2 * 3)  # three recordings in two bins
    said = cilspl("run", *WORDS)
    assert said.code == 2
    assert "frames.bins=2: the frames of 4 recordings (8 x 8 x 2 values in each bin) and 256 values" in said.err
    assert "at most 1 bins fit, or lower trainer.batch_size" in said.err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.lr=-1", "method.lr=-1: must be more than 0"),
        ("method.lr=abc", "method.lr=abc: needs a number, more than 0"),
        ("method.lr=true", "method.lr=true: needs a number, more than 0"),
        ("method.lr=1e400", "method.lr=inf: needs a finite number"),
        ("method.goals=[]", "method.goals=[]: needs a list, [value], of at least 1 value"),
        ("method.goals=[0]", "method.goals=[0]: each value must be more than 0"),
        ("+method.loss=count", "method.loss=count: did you mean counts? allowed are counts, steps"),
        ("+method.share=2", "method.share=2: must be more than 0 and at most 1, or null"),
        ("+method.los=counts", "method.los=counts: no such key; did you mean loss? allowed are lr, goals, loss, share"),
        ("method.lrr=1", "method.lrr=1: no such key; did you mean method.lr?"),
        ("dataset.n=3", "dataset.n=3: must be at least 4 and at most 1000"),
        ("dataset.n=many", "dataset.n=many: needs a whole number, at least 4 and at most 1000"),
        ("+dataset.noise=2", "dataset.noise=2: must be at least 0 and at most 1"),
        ("+dataset.nois=0", "dataset.nois=0: no such key; did you mean noise?"),
        ("dataset.val_fraction=1", "dataset.val_fraction=1: must be at least 0 and less than 1"),
        ("dataset.augment.drop=1", "dataset.augment.drop=1: must be at least 0 and less than 1"),
        ("model.layers=[{conv: 4, kernle: 3}, {linear: classes}]", "model.layers[0].kernle=3: no such key"),
        ("model.family=cnn", "model=small: method=squares trains a snn"),
        ("task.scale=0", "task.scale=0: must be more than 0"),
        ("observer=chip", "observer=chip: method=squares does not learn from it"),
    ],
)
def test_their_mistakes_are_answered_as_well(cilspl, own, word, message):
    task = ("task=share", "extensions=[own_method,own_data,own_task]") if word.startswith("task") else ()
    words = [w for w in WORDS if w != "observer=none" or not word.startswith("observer")]
    said = cilspl("validate", *words, *task, word)
    assert said.code == 2, said.out
    assert said.err.startswith(f"cilspl: {message}"), said.err
    assert said.err.count("\n") == 1


MODEL = """
import sinabs.layers as sl
from torch import nn
from torch.nn.utils import parametrizations


def small(shape, n, *, kind="plain"):
    rectified = kind.endswith("cnn")
    neurons = [nn.ReLU() if rectified else sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0) for _ in range(2)]
    conv = nn.Conv2d(shape[0], 4, 3, padding=1, bias=False)
    if kind == "normed":
        conv = parametrizations.weight_norm(conv)
    if kind.startswith("hooked"):
        conv.register_forward_hook(lambda module, given, out: 2 * out)
    if kind == "late":
        neurons[0].v_init = 1.5
    net = nn.Sequential(conv, neurons[0], nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, n, bias=False), neurons[1])
    return net.double() if kind == "double" else net


CNN = False
"""


@pytest.fixture
def own_model(own):
    (own / "own_model.py").write_text(MODEL)
    yield [
        *(word for word in WORDS if not word.startswith(("model", "method", "extensions"))),
        "method=bptt", "model=bptt_snn", "model._target_=own_model.small", "extensions=[own_model,own_data]",
    ]  # fmt: skip
    sys.modules.pop("own_model", None)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("hooked", "layer layer0: Conv2d has a forward hook, which is lost where a chip has its weights alone"),
        ("late", "layer layer1: v_init=1.5 must be below its spike_threshold=1"),
    ],
)
def test_what_a_chip_would_lose_of_a_network_is_refused_before_training(cilspl, own, own_model, kind, message):
    for target in ("speck", "software"):
        words = [*own_model, f"target={target}", *(["target.precision=int8"] if target == "software" else [])]
        said = cilspl("run", *words, f"+model.args.kind={kind}", "hydra.run.dir=runs/one")
        assert said.code == 2
        assert message in said.err
        assert not (own / "runs" / "one").exists()
    assert cilspl("validate", *own_model, "target=software", f"+model.args.kind={kind}").code == 0


def test_a_cnn_loses_no_hook_and_does_not_spike(cilspl, own, own_model):
    words = [word for word in own_model if not word.startswith(("method", "model="))]
    words += ["model=cnn", "method=conversion"]
    said = cilspl("validate", *words, "+model.args.kind=hooked_cnn")
    assert said.code == 2
    assert "layer layer0: Conv2d has a forward hook, which is lost where method=conversion makes a spiking" in said.err
    assert cilspl("validate", *words, "+model.args.kind=cnn").code == 0
    said = cilspl("validate", *words)
    assert said.code == 2
    assert "layer layer1: IAFSqueeze spikes, and model.family=cnn has rectifiers; use nn.ReLU, or" in said.err


def test_a_network_whose_weights_are_computed_is_left_as_an_ordinary_one(cilspl, own, own_model):
    said = cilspl("run", *own_model, "+model.args.kind=normed", "hydra.run.dir=runs/normed")
    assert said.code == 0, said.err
    (own / "one.csv").write_text("x,y,t,p\n" + "".join(f"6,{n % 8},{n},1\n" for n in range(60)))
    modules = [word for name in ("own_model", "own_data") for word in ("--extensions", name)]
    said = cilspl("predict", "runs/normed", "one.csv", *modules)
    assert said.code == 0, said.err


def test_a_network_in_double_precision_is_trained_and_that_is_said(cilspl, own, own_model):
    said = cilspl("validate", *own_model, "+model.args.kind=double")
    assert said.code == 0, said.err
    assert "its float64 numbers become float32, in which networks are trained" in said.out + said.err
