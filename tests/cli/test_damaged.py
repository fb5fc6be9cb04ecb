"""Files of a run that are damaged or of another kind, and what does not fit beside resume=: a message each."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from cil_spl.base.errors import RequestError
from cil_spl.results import runs
from cil_spl.training.checkpoints import read_checkpoint, write_checkpoint

OFF = "tracking.enabled=false"


@pytest.fixture
def killed(cilspl, here, pipeline):
    """The folder of a run that was interrupted."""
    assert cilspl("run", "hydra.run.dir=runs/one", "name=interrupt", OFF).code == 130
    return here / "runs" / "one"


CONFIGS = {
    "bad YAML": (b"a: [1\n", "damaged, it cannot be read"),
    "a byte": (b"seed: \xff\n", "damaged, it cannot be read"),
    "a list": (b"- 1\n", "damaged, it is no config of a run"),
    "a text": (b"text\n", "damaged, it is no config of a run"),
    "a number": (b"5\n", "damaged, it cannot be read"),
    "empty": (b"", "damaged, it is no config of a run"),
    "a group that is a number": (b"model: 5\ndataset: {name: x}\n", "damaged, model=5 has no names and values"),
    "a group that is null": (b"dataset: null\n", "damaged, dataset=null has no names and values"),
    "a folder": (None, "no file, but a folder or a device"),
}
COMMANDS = {
    "resume": ("run", "resume=runs/one"),
    "predict": ("predict", "runs/one", "mine.csv"),
    "mismatch": ("chip", "mismatch", "runs/one"),
    "mismatch with a setting": ("chip", "mismatch", "runs/one", "simulator_seed=1"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", CONFIGS)
def test_a_damaged_config_is_named(cilspl, here, killed, command, damage):
    content, message = CONFIGS[damage]
    path = killed / "config.yaml"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    (here / "mine.csv").write_text("1,2,0,1\n")
    said = cilspl(*COMMANDS[command])
    assert said.code == 2, said.err
    assert "runs/one/config.yaml: " in said.err
    assert message in said.err
    assert said.err.splitlines()[-1].startswith("cilspl: ")
    assert " from a copy of the run" in said.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dataset: {name: x, n_classes: 2, sensor_size: [1, 2]}", "edited since the run wrote it"),
        ("dataset: {name: x, n_classes: 2}", "more; put these values back"),
        ("method: {name: x}", "edited since the run wrote it"),
    ],
)
def test_a_config_without_a_sensor_is_named(cilspl, here, killed, content, message):
    (killed / "config.yaml").write_text(content)
    (here / "mine.csv").write_text("1,2,0,1\n")
    said = cilspl("predict", "runs/one", "mine.csv")
    assert said.code == 2
    assert "runs/one/config.yaml: " in said.err
    assert message in said.err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tracking.uri=5", "tracking.uri=5: MLflow does not write to plain folders"),
        ("tracking.uri.x=9", "tracking.uri.x=9 (the run has no such key): a run goes on as it began"),
        ("tracking.nope=9", "tracking.nope=9 (the run has no such key)"),
        ("extensions.x=1", "extensions.x=1 (the run has no such key): a run goes on as it began"),
        ("frames.bins.x=1", "frames.bins.x=1 (the run has no such key): a run goes on as it began"),
        ("method.gains=[1,2]", "method.gains=[1,2] (the run has no such key)"),
        ("hydra.run.dir=x", "hydra.run.dir=x: beside resume= no setting of Hydra can be typed"),
    ],
)
def test_what_does_not_fit_beside_resume(cilspl, killed, word, message):
    before = (killed / "run.json").read_bytes()
    said = cilspl("run", "resume=runs/one", word, f"tracking.enabled={str('uri=' in word).lower()}")
    assert said.code == 2, said.err
    assert message in said.err
    assert (killed / "run.json").read_bytes() == before


# run.json


def record(folder, **changes):
    """A record as the first version wrote it, without a checksum."""
    folder.mkdir(parents=True)
    info = {"format": 1, "run_id": "abcd1234", "status": "finished", "started": "2026-01-01T00:00:00.000+00:00"}
    row = {"method": "bptt", "model": "bptt_snn", "dataset": "d", "target": "speck", "seed": 0, "n": 3}
    info |= {"params": {}, "tags": {"backend": "simulator"}, "row": row | {"deployed/accuracy": 0.5}} | changes
    (folder / "run.json").write_text(json.dumps({k: v for k, v in info.items() if v is not ...}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": 5}, "run_id=5"),
        ({"status": ["finished"]}, "status=[finished]"),
        ({"status": "done"}, "status=done: not the record of a run, or changed since; allowed are running, finished"),
        ({"started": 5}, "started=5"),
        ({"started": ...}, "started is missing"),
        ({"params": [1]}, "params=[1]"),
        ({"params": None}, "params=null"),
        ({"tags": {"git_commit": 5}}, "tags.git_commit=5"),
        ({"metrics": {"a": "x"}}, "metrics.a=x"),
        ({"row": "x"}, "row=x"),
        ({"row": {"method": "bptt", "float/accuracy": "high"}}, "row.float/accuracy=high"),
        ({"row": {"method": "bptt", "n": [3]}}, "row.n=[3]"),
        ({"warnings": "x"}, "warnings=x"),
        ({"files": {"weights.pt": 5}}, "files.weights.pt=5"),
        ({"former_run_ids": [5]}, "former_run_ids.0=5"),
        ({"refused": 1}, "refused=1"),
    ],
    ids=str,
)
def test_a_wrong_record_does_not_stop_the_others(cilspl, here, changes, message):
    record(here / "runs" / "good")
    record(here / "runs" / "bad", **changes)
    (here / "runs" / "folder" / "run.json").mkdir(parents=True)
    with pytest.raises(RequestError) as caught:
        runs.read("runs/bad")
    assert message in str(caught.value)
    assert "bad/run.json: " in str(caught.value)
    assert [run.folder.name for run in runs.scan("runs")] == ["good"]
    said = cilspl("table", "--from", "runs")
    assert said.code == 0, said.err
    assert "50.00" in said.out
    assert cilspl("predict", "runs/bad", "x.csv").code == 2


def test_a_record_that_is_a_folder_is_named(cilspl, here):
    (here / "runs" / "one" / "run.json").mkdir(parents=True)
    for words in (("predict", "runs/one", "x.csv"), ("run", "resume=runs/one"), ("chip", "show", "runs/one")):
        said = cilspl(*words)
        assert said.code == 2
        assert "runs/one/run.json: cannot be read (Is a directory); take it from a copy of the run" in said.err


# checkpoints


def test_a_checkpoint_of_another_kind_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    write_checkpoint(path, {"keep": {}, "fitted": {}, "weights": [torch.zeros(1)]})
    assert read_checkpoint(path, "keep", "fitted")["keep"] == {}
    with pytest.raises(
        RequestError, match=r"weights\.pt: a checkpoint of another kind: it holds keep, fitted, weights"
    ):
        read_checkpoint(path, "weights")
    write_checkpoint(path, {})
    with pytest.raises(RequestError, match=r"it holds nothing, and keep, fitted are needed; take the file from a copy"):
        read_checkpoint(path, "keep", "fitted")


def test_what_lies_in_place_of_a_file(here, killed):
    run = runs.read(killed)
    (killed / "weights.pt").mkdir()
    with pytest.raises(RequestError, match=r"weights\.pt: no file, but a folder or a device; take weights\.pt from"):
        run.path("weights.pt")
    shutil.rmtree(killed / "weights.pt")
    with pytest.raises(RequestError, match=r"left no weights\.pt"):
        run.path("weights.pt")
