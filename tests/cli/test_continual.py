"""A user's own method that learns two experiences of the digits one after another, through the real pipeline."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest

METHOD = '''
"""One experience after another, without anything against forgetting; a loss of the outputs that count."""

from dataclasses import replace

import torch

from cil_spl.models.forward import forward
from cil_spl.training.context import Trained
from cil_spl.training.learn import Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="snn", observer=False, experiences=None)


def train(ctx, *, lr: float = 0.02):
    net = ctx.build("snn")
    ctx.scale(net, 1.0)
    epochs = 0
    for number, experience in enumerate(ctx.experiences):
        one = replace(ctx, experiences=(experience,))
        fitted = learn(one, net, gradient(net, one), lr=lr, stage=f"experience_{number}", first_epoch=epochs)
        epochs += fitted.epochs
    return Trained(ctx.finish(net))


def gradient(net, ctx):
    outputs = ctx.experiences[0].outputs

    def of(batch):
        out, _, _ = forward(net, batch.frames)
        counts = out.sum(0)
        hidden = torch.zeros_like(counts) if outputs is None else torch.full_like(counts, -1e4)
        hidden[:, list(outputs or [])] = 0
        value = ctx.loss(counts + hidden, batch, 0.25)
        value.backward()
        yield Step(value.detach(), counts.detach())

    return of
'''
YAML = """\
# One after another, of my own.
_target_: own_continual.train
name: one_by_one
lr: 0.02
"""
WORDS = (
    "run", "--config-dir", "mine", "method=one_by_one", "extensions=[own_continual]", "dataset=digits",
    "target=software", "model.layers=[{linear: 24}, {linear: classes}]", "frames.bins=2", "trainer.epochs=2",
    "trainer.batch_size=16", "dataset.n_test=200", "tracking.enabled=false", "hydra.run.dir=one",
)  # fmt: skip


@pytest.fixture
def own(here, monkeypatch):
    """The folder of a user who has written a method for several experiences."""
    (here / "own_continual.py").write_text(METHOD)
    (here / "mine" / "method").mkdir(parents=True)
    (here / "mine" / "method" / "one_by_one.yaml").write_text(YAML)
    monkeypatch.setenv("CILSPL_CACHE", str(here / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield here
    sys.modules.pop("own_continual", None)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_decisions_lie_within_the_outputs_of_their_experience(cilspl, own):
    said = cilspl(*WORDS, "dataset.split_classes=[[0,1,2],[3,4]]")
    assert said.code == 0, said.err
    info = json.loads((own / "one" / "run.json").read_text())
    lines = table(own / "one" / "decisions.csv")
    groups = [{"0", "1", "2"}, {"3", "4"}]
    assert len(lines) == info["metrics"]["deployed/n"] > 60
    found = []
    for group in groups:
        part = [line for line in lines if line["class"] in group]
        assert {line["deployed"] for line in part} <= group | {"none"}
        found.append(np.mean([line["deployed"] == line["class"] for line in part]))
    assert lines == [line for group in groups for line in lines if line["class"] in group]  # one after another
    metrics, row = info["metrics"], info["row"]
    assert row["deployed/accuracy"] == pytest.approx(np.mean(found))
    assert [metrics[f"deployed/accuracy/experience_{k}"] for k in (0, 1)] == pytest.approx(found)
    assert min(found) > 0.5
    by = table(own / "one" / "experiences.csv")
    assert [(line["experience"], line["outputs"]) for line in by] == [("0", "0 1 2"), ("1", "3 4")]
    assert [float(line["deployed/accuracy"]) for line in by] == pytest.approx(found)
    assert sum(int(line["n"]) for line in by) == len(lines)


def test_all_outputs_count_where_the_user_says(cilspl, own):
    """Class-incremental: without anything against forgetting, the first classes are answered as the last ones."""
    said = cilspl(*WORDS, "dataset.split_classes=[[0,1,2],[3,4]]", "dataset.outputs=all", "trainer.epochs=4")
    assert said.code == 0, said.err
    first = [line for line in table(own / "one" / "decisions.csv") if line["class"] in "012"]
    assert {"3", "4"} & {line["deployed"] for line in first}
    assert [line["outputs"] for line in table(own / "one" / "experiences.csv")] == ["all", "all"]


def test_predict_asks_of_which_experience_an_image_is(cilspl, own):
    assert cilspl(*WORDS, "dataset.split_classes=[[0,1,2],[3,4]]", "trainer.epochs=1").code == 0
    from sklearn.datasets import load_digits

    np.save("mine.npy", load_digits().images[:20].astype(np.uint8))
    words = ("predict", "one", "mine.npy", "--extensions", "own_continual")
    said = cilspl(*words)
    assert said.code == 2
    assert "the run learnt 2 experiences; say of which the input is, allowed are 0 to 1" in said.err
    assert cilspl(*words, "--experience", "2").code == 2
    for number, allowed in ((0, "012"), (1, "34")):
        said = cilspl(*words, "--experience", str(number))
        assert said.code == 0, said.err
        classes = {line.split()[1] for line in said.out.splitlines() if line.startswith("class ")}
        assert classes <= {*allowed, "none"}
        assert classes & {*allowed}


def test_a_built_in_method_counts_the_outputs_of_its_only_experience(cilspl, own):
    words = [word for word in WORDS if not word.startswith(("--config-dir", "mine", "method=", "extensions"))]
    said = cilspl(*words, "method=bptt", "dataset.split_classes=[[3,4]]", "trainer.epochs=1")
    assert said.code == 0, said.err
    assert {line["deployed"] for line in table(own / "one" / "decisions.csv")} <= {"3", "4", "none"}
    assert not (own / "one" / "experiences.csv").exists()
