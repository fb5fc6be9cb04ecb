"""What `cilspl run` refuses before it reads data, `cilspl validate` refuses as well, in the same words."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from cil_spl.base import memory
from cil_spl.targets import board
from cil_spl.training.checkpoints import write_checkpoint

OFF = "tracking.enabled=false"


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    """Reading a data set would be too late."""
    from cil_spl.data import datasets

    def load(*_args, **_keywords):
        raise AssertionError("the data set was read")

    monkeypatch.setattr(datasets, "load", load)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start_from=nope"], "start_from=nope: run nope: neither a folder nor the beginning of a run id"),
        (["start_from=5"], "start_from=5: run 5: give at least 4 characters of the id"),
        (["start_from=."], "start_from=.: .: no run in this folder"),
        (["start_from=other.pt"], "start_from=other.pt: weights: conv1.weight should have shape (8, 2, 3, 3)"),
        (["start_from=odd.pt"], "start_from=odd.pt: odd.pt holds no weights; name a run, or its weights.pt"),
        (["tracking=[1]"], "tracking=[1]: needs the name of a choice; `cilspl ls` and"),
        (["+method.count_scale=2"], "+method.count_scale=2: there is a key method.count_scale already; it is set"),
        (["=5"], "=5: names no key; needs KEY=VALUE"),
        ([f"model={'x' * 9999}"], f"model={'x' * 54}…: no such choice (File name too long)"),
        (["dataset.root=\\${seed}", "dataset=nmnist"], "dataset.root=${seed}: text with ${ is not allowed"),
        (["~seed"], "~seed: the run's folder is named by it, or another value is; it cannot be left out"),
        (["name=../../x"], "name=../../x: needs text without / and \\, such as my-run, or null"),
        (["dataset.n_classes=11"], "dataset.n_classes=11: event_digits has 10 classes"),
        (["dataset.sensor_size=[34,34,1]"], "dataset.sensor_size=[34,34,1]: those of event_digits are of"),
        (["dataset.val_fraction=0"], "dataset.val_fraction=0: event_digits has no validation recordings of its own"),
        (
            ["dataset=image_folder", "dataset.resize=100"],
            "dataset.resize=100: less than the 224 pixels of dataset.input",
        ),
        (
            ["dataset=image_folder", "dataset.input_shape=[2,9,9]"],
            "dataset.input_shape=[2,9,9]: pictures have 1 chan",
        ),
        (["dataset=nmnist", "dataset.root=nmnits"], "dataset.root=nmnits does not exist; set dataset.root to"),
        (["dataset@test_dataset=nmnist", "test_dataset.root=nmnits"], "test_dataset.root=nmnits does not exist"),
        (["frames.bins=100000000"], "frames.bins=100000000: the frames of 1 recording (34 x 34 x 2 values in each"),
        (
            ["trainer.threads=999999"],
            "trainer.threads=999999: must be at least 1 and at most 1024, or null; each thread",
        ),
        (["target.threads=999999"], "target.threads=999999: must be at least 1 and at most 1024, or null; each thread"),
        (
            ["target.device=speck2fdevkit:0"],
            "target.device=speck2fdevkit:0: target.backend=auto, and no board was found",
        ),
        (
            ["target.backend=simulator", "target.device=a"],
            "target.device=a: target.backend=simulator, and the simulator",
        ),
        (["trainer.device=cuda"], "trainer.device=cuda: torch finds no CUDA device here"),
        (["trainer.device=cuda:1"], "trainer.device=cuda:1: torch finds no CUDA device here"),
        (["observer.die={leak:{conv9:1},leak_period_us:9}"], "observer.die.leak.conv9=1: no such layer"),
        (["tracking.uri=ftp://x"], "tracking.uri=ftp://x: the tracking store cannot be used"),
        (["tracking.uri=5"], "tracking.uri=5: MLflow does not write to plain folders"),
        (["+tracking.uri.x=9"], "tracking.uri"),
        (["+extensions.x=1"], "extensions"),
        (["tracking.uri=sqlite:////no/x.db"], "tracking.uri=sqlite:////no/x.db: there is no folder /no"),
        (["tracking.uri=sqlite:///text.db"], "text.db: not a readable SQLite database"),
        (["tracking.uri=http://127.0.0.1:9"], "tracking.uri=http://127.0.0.1:9: no tracking server answers there"),
        (["+hydra.callbacks.x._target_=os.nope"], "+hydra.callbacks.x._target_=os.nope: Hydra cannot make it (Error"),
        (["+hydra.callbacks.x=5"], "+hydra.callbacks.x=5: Hydra cannot make it (Cannot instantiate config of type int"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_refused_alike(cilspl, here, monkeypatch, words, message):
    monkeypatch.setattr(board, "samna_is_real", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(memory, "free_bytes", lambda: 8 << 30)  # or both would see another number
    write_checkpoint(here / "other.pt", {"weights": {"conv1.weight": torch.zeros(1)}})
    write_checkpoint(here / "odd.pt", {"weights": [1], "keep": 5})
    (here / "text.db").write_text("no database")
    before = sorted(here.iterdir())
    words = words if any("tracking" in word for word in words) else [*words, OFF]
    said = cilspl("validate", *words)
    assert said.code == 2, said.out
    assert message in said.err
    assert "Traceback" not in said.err
    assert sorted(here.iterdir()) == before  # looking leaves nothing
    ran = cilspl("run", *words)
    assert ran.code == 2, ran.err
    assert ran.err.splitlines()[-1] == said.err.splitlines()[-1]


@pytest.mark.parametrize("key", ["run", "sweep"])
def test_a_folder_that_cannot_be_made(cilspl, here, key):
    (here / "file").touch()
    (here / "claimed").mkdir()
    (here / "claimed" / "run.json").write_text(json.dumps({}))
    sweep = ["-m"] if key == "sweep" else []
    said = cilspl("validate", *sweep, OFF, f"hydra.{key}.dir={here}/file/x")
    assert said.code == 2
    assert f"hydra.{key}.dir={here}/file/x: no folder can be made there, {here}/file is a file" in said.err
    said = cilspl("validate", *sweep, OFF, f"hydra.{key}.dir=claimed")
    assert said.code == 2
    assert f"hydra.{key}.dir=claimed: the folder holds a run already" in said.err
    ran = cilspl("run", OFF, f"hydra.run.dir={here}/file")
    assert ran.code == 2
    assert ran.err.startswith(f"cilspl: {here}/file: the run's folder cannot be made or written (File exists); name")
    assert cilspl("validate", OFF, "hydra.run.dir=new/one").code == 0
    assert not (here / "new").exists()


def test_a_store_is_looked_at_and_left_as_it_is(cilspl, here, template):
    assert cilspl("validate").code == 0  # none yet: a run makes it
    assert not list(here.iterdir())
    shutil.copy(template, "mlflow.db")
    assert cilspl("validate").code == 0
    assert os.listdir() == ["mlflow.db"]


def test_frames_are_held_against_the_memory(cilspl, here, monkeypatch):
    layer = 8 * 34 * 34  # of the preset's largest layer
    monkeypatch.setattr(memory, "free_bytes", lambda: (34 * 34 * 2 + layer) * 4 * 30)
    said = cilspl("validate", OFF, "frames.bins=31")
    assert said.code == 2
    assert "frames.bins=31: the frames of 1 recording" in said.err
    assert "at most 30 bins fit" in said.err
    assert cilspl("validate", OFF, "frames.bins=30").code == 0
    monkeypatch.setattr(memory, "free_bytes", lambda: None)  # a system that does not say
    assert cilspl("validate", OFF, "frames.bins=100000000").code == 0
