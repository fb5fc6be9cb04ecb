"""Going on with a run of the real pipeline: what its checkpoints must be, and what a finished run keeps meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cil_spl.cli import main
from cil_spl.data.events import EVENT
from cil_spl.results import figures, resumption
from cil_spl.results import record as recording
from cil_spl.results.metrics import read_metrics
from cil_spl.results.values import is_timing
from cil_spl.training.checkpoints import read_checkpoint, write_checkpoint
from tests.cli.conftest import run_in

WORDS = [
    "run",
    "hydra.run.dir=one",
    "model.layers=[{conv:4,kernel:3,pool:4},{linear:classes}]",
    "method=bptt",
    "trainer.limit_batches=2",
    "trainer.threads=1",
    "target.backend=simulator",
    "tracking.enabled=false",
]


def make(place: Path, *words: str) -> Path:
    """A run of two epochs in a place of its own."""
    run_in(place, *WORDS, "trainer.epochs=2", *words)
    return place / "one"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def one(finished, here):
    """A copy of it where the user stands."""
    return Path(shutil.copytree(finished, here / "one"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.log", ".lock")
    }


def info(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def killed(folder: Path) -> None:
    """The record as a SIGKILL leaves it in training."""
    recording.write_json(folder / "run.json", {**info(folder), "status": "running", "row": {}, "metrics": {}})


def outcome(folder: Path) -> tuple:
    """Weights, row and metrics of a run, without times."""
    weights = read_checkpoint(folder / "weights.pt")["weights"]
    lines = [{k: v for k, v in line.items() if k != "time" and not is_timing(k)} for line in read_metrics(folder)]
    return {k: v.tolist() for k, v in weights.items()}, info(folder)["row"], lines


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def older(path: Path) -> None:
    content = read_checkpoint(path)
    write_checkpoint(path, {**content, "epoch": 0})


def lose(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize(
    ("harm", "name", "said"),
    [
        (lose, "checkpoints/train-best.pt", "missing; it holds the run's best epoch so far"),
        (lose, "checkpoints/train-last.pt", "trained 2 epochs (metrics.jsonl), but its checkpoints are not there"),
        (lose, "checkpoints", "trained 2 epochs (metrics.jsonl), but its checkpoints are not there"),
        (cut, "checkpoints/train-last.pt", "damaged"),
        (cut, "checkpoints/train-best.pt", "damaged"),
        (older, "checkpoints/train-best.pt", "it holds epoch 0, but by train-last.pt the best is"),
    ],
)
def test_a_checkpoint_that_is_lost_or_damaged_changes_nothing(harm, name, said, extended, cilspl, one):
    if not extended:
        killed(one)
    harm(one / name)
    before = files(one)
    answer = cilspl("run", "resume=one", *(["trainer.epochs=3"] if extended else []))
    assert answer.code == 2
    assert said in answer.err
    assert str(one / (name if said.startswith(("missing", "damaged", "it holds")) else "checkpoints")) in answer.err
    assert "Traceback" not in answer.err
    assert files(one) == before


def stop(monkeypatch, thing, name: str, calls: int = 1) -> None:
    """Ctrl-C when something is called for the n-th time."""
    left, real = [calls], getattr(thing, name)

    def stopping(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(thing, name, stopping)


@pytest.fixture(scope="module")
def extended(finished, tmp_path_factory):
    """What an extension to four epochs comes to that nobody cuts off."""
    place = tmp_path_factory.mktemp("extended")
    shutil.copytree(finished, place / "one")
    before, argv = Path.cwd(), sys.argv
    os.chdir(place)
    try:
        sys.argv = ["cilspl", "run", "resume=one", "trainer.epochs=4"]
        assert main() == 0
    finally:
        os.chdir(before)
        sys.argv = argv
    return place / "one"


def test_an_extension_takes_the_place_of_the_run(finished, extended):
    assert info(extended)["params"]["trainer.epochs"] == 4
    assert "epochs: 4" in (extended / "config.yaml").read_text()
    assert "extension" not in info(extended)
    assert set(files(extended)) == set(files(finished))
    assert outcome(extended) != outcome(finished)
    assert [line["step"] for line in read_metrics(extended)] == [1, 2, 3, 4]


@pytest.mark.parametrize("moment", ["in training", "in evaluation", "before it takes effect", "while it does"])
def test_an_extension_that_is_cut_off_leaves_the_finished_run(moment, cilspl, one, extended, monkeypatch):
    """Its record, network and row stay; the same words go on with it, to what one that was not cut off comes to."""

    before = files(one)
    with monkeypatch.context() as patched:
        if moment == "in training":
            stop(patched, recording.Record, "log", calls=4)  # two epochs are logged again, one more is trained
        elif moment == "in evaluation":
            stop(patched, figures, "draw")
        else:
            stop(patched, resumption, "settle")
        said = cilspl("run", "resume=one", "trainer.epochs=4")
    assert said.code == 130, said.err
    assert "one stays the finished run that it was; `cilspl run resume=one trainer.epochs=4` goes on" in said.err
    now, kept = info(one), json.loads(before["run.json"])
    assert now.pop("extension")["epochs"] == 4
    assert now | {"sha256": ""} == kept | {"sha256": ""}
    went_on = ("checkpoints/", "metrics.jsonl", "run.json", ".extension/")
    after = files(one)
    assert {name: after[name] for name in before if not name.startswith(went_on)} == {
        name: content for name, content in before.items() if not name.startswith(went_on)
    }
    if moment.startswith("in"):
        assert not (one / ".extension").exists()
        assert "trainer.epochs=4 goes on with its extension, which was cut off" in cilspl("run", "resume=one").out
        refused = cilspl("run", "resume=one", "trainer.epochs=3")
        assert refused.code == 2
        assert "trainer.epochs=3: an extension to 4 epochs was begun and cut off" in refused.err
        np.save("mine.npy", np.array([(1, 1, 5, 1)], EVENT))
        assert cilspl("predict", "one", "mine.npy").code == 0
    if moment == "while it does":
        (one / ".extension" / "weights.pt").replace(one / "weights.pt")
    said = cilspl("run", "resume=one", "trainer.epochs=4")
    assert said.code == 0, said.err
    assert outcome(one) == outcome(extended)
    assert "extension" not in info(one)
    assert not (one / ".extension").exists()


def test_another_number_of_epochs_while_no_epoch_is_trained(cilspl, one, monkeypatch):
    from cil_spl import pipeline

    with monkeypatch.context() as patched:
        stop(patched, pipeline, "context_of")
        assert cilspl("run", "resume=one", "trainer.epochs=400").code == 130
    assert info(one)["extension"]["epochs"] == 400
    assert cilspl("run", "resume=one", "trainer.epochs=3").code == 0
    assert info(one)["params"]["trainer.epochs"] == 3


def test_more_epochs_of_a_run_that_ended_for_good_are_refused(cilspl, here):
    one = make(here, "trainer.max_seconds=1e-9")
    before = files(one)
    said = cilspl("run", "resume=one", "trainer.epochs=9")
    assert said.code == 2
    assert "trainer.epochs=9: the run ended after 1 epochs for good (trainer.max_seconds=1e-09 reached)" in said.err
    assert f"start_from={one}" in said.err
    assert files(one) == before


@pytest.mark.parametrize("lines", [(0,), (1,), (0, 1)])
def test_damaged_metrics_are_logged_again_and_once(lines, cilspl, one, extended):
    path = one / "metrics.jsonl"
    written = path.read_text().splitlines()
    for number in lines:
        written[number] = written[number].replace("train/loss", "train/lots")
    path.write_text("\n".join(written) + "\n")
    said = cilspl("run", "resume=one", "trainer.epochs=4")
    assert said.code == 0, said.err
    assert outcome(one) == outcome(extended)
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_sigkill_leaves_the_finished_run(cilspl, one, extended):
    """In a process of its own, at moments spread over the life of an extension."""
    command = [sys.executable, "-m", "cil_spl.cli", "run", "resume=one", "trainer.epochs=4"]
    row = info(one)["row"]
    for k in range(1, 30):
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5 * k)
        over = started.poll() is not None
        started.send_signal(signal.SIGKILL)
        started.wait()
        if over:
            break
        assert info(one)["status"] == "finished"
        assert info(one)["row"] in (row, info(extended)["row"])
    assert over
    assert outcome(one) == outcome(extended)


def test_a_run_of_several_stages_gets_no_more_epochs(cilspl, here):
    """Of the stages that others have followed nothing is left to go on from; the run stays as it is."""
    words = ["method=ptl", "model.layers=[{conv:2,kernel:3,pool:4},{linear:classes}]", "trainer.epochs=1"]
    words += ["trainer.limit_batches=2", "trainer.threads=1", "method.stage_epochs=1", "tracking.enabled=false"]
    said = cilspl("run", *words, "target.backend=simulator", "hydra.run.dir=one")
    assert said.code == 0, said.err
    before = (here / "one" / "run.json").read_bytes()
    said = cilspl("run", "resume=one", "trainer.epochs=2")
    assert said.code == 2
    assert (
        "trainer.epochs=2: the run has 1, and trained in the stages pretrain, stage01, stage02; only a run" in said.err
    )
    assert (here / "one" / "run.json").read_bytes() == before
    assert cilspl("run", "resume=one").code == 0
