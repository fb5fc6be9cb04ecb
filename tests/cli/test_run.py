"""``cilspl run``: Hydra's command line, exit codes, folders, sweeps; messages instead of tracebacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from cil_spl.results.store import client_of, store_uri, stored_runs

OFF = "tracking.enabled=false"


def run_files(here):
    return sorted(here.glob("runs/**/run.json"))


def only_run(here):
    (path,) = run_files(here)
    return path.parent, json.loads(path.read_text())


def test_a_run_ends_with_its_row(cilspl, store, pipeline):
    said = cilspl("run", "seed=2")
    assert said.code == 0, said.err
    folder, info = only_run(store)
    assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{6}-cil_bptt_s2", str(folder.relative_to(store)))
    assert info["status"] == "finished"
    for piece in ("cil_bptt · bptt_snn · event_digits · speck (simulator) · seed 2", "93.50", "93.00", "92.00", "1.50"):
        assert piece in said.out
    assert "1.23M" in said.out
    assert f"run {info['run_id'][:12]}  {folder.relative_to(store)}" in said.out
    assert "layer conv2 is silent" in said.err
    assert "1 warning above, kept in run.json" in said.out
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert "\x1b" not in said.out
    assert stored_runs(store_uri())[0]["run_id"] == info["run_id"]


def test_the_config_asks_for_itself(cilspl, here, pipeline):
    assert "epochs:" in cilspl("run", "--cfg", "job").out
    assert cilspl("run", "--cfg", "job", "-p", "frames", "frames.bins=7").out.count("bins: 7") == 1
    assert "CILSPL_RUN_DIR" in cilspl("run", "--cfg", "hydra").out
    said = cilspl("run", "--help")
    assert said.out.startswith("Train, quantise")
    for piece in (
        "method: bptt, cil_bptt, cil_conversion, conversion",
        "target: accelerator, software, speck",
        "cilspl run -m",
    ):
        assert piece in said.out
    assert not list(here.iterdir())  # looking leaves nothing


def test_a_person_adds_groups_of_their_own(cilspl, here, pipeline):
    (here / "mine" / "method").mkdir(parents=True)
    (here / "mine" / "method" / "own.yaml").write_text("_target_: own_method.train\nname: own\nlr: 1.0\n")
    (here / "own_method.py").write_text("def train(setting, *, name, lr): pass\n")
    words = ("--config-dir", "mine", "method=own", OFF)
    assert "name: own" in cilspl("run", *words, "--cfg", "job", "-p", "method").out
    refused = cilspl("run", *words)
    assert refused.code == 2
    assert "extensions=[own_method]" in refused.err
    assert cilspl("run", *words, "extensions=[own_method]").code == 0
    assert cilspl("run", *words, "extensions=[own_method]", "method.lrr=1").code == 2


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["seedd=1"], ["seedd=1", "did you mean seed?"]),
        (["method.learning_rate=3"], ["method.learning_rate=3: no such key", "did you mean method.lr?"]),
        (["learning_rate=3"], ["learning_rate=3: no such key", "did you mean method.lr?"]),
        (["frames.T=3"], ["did you mean frames.bins?"]),
        (["model.args.width=6"], ["model.args.width=6: keys are added there with a +, as in +model.args.width=6"]),
        (["method.lrr=3"], ["method.lrr=3: no such key", "did you mean method.lr?", "allowed are"]),
        (["method=conversion", "method.percentil=3"], ["did you mean method.percentile?"]),
        (
            ["method=bppt"],
            ["method=bppt: no such choice", "did you mean bptt?", "bptt, cil_bptt, cil_conversion, conversion"],
        ),
        (
            ["model=scnn6"],
            ["model=scnn6: no such choice", "did you mean model.preset=scnn6?", "allowed are bptt_snn, cnn, "],
        ),
        (["metod=bptt"], ["metod=bptt", "did you mean method?"]),
        (["frames.bins=abc"], ["frames.bins=abc", "whole number"]),
        (["frames.bins=0"], ["frames.bins=0", "at least 1"]),
        (["seed=["], ["seed=[", "cannot be read"]),
        (["seed=0,1"], ["seed=0,1", "--multirun"]),
        (["seed=1", "model=1.5"], ["model=1.5: needs the name of a choice"]),
        (["dataset@test_dataset=5"], ["dataset@test_dataset=5: needs the name of a choice"]),
        (["test_dataset=5"], ["test_dataset=5: choose one with dataset@test_dataset=NAME"]),
        (["dataset.simulator={dark: 1}"], ["keys are added to it with a +, as in '+dataset.simulator={dark: 1}'"]),
        (["trainer=[1]"], ["trainer=[1]: needs the name of a choice"]),
        (["seed=${nope}"], ["seed=${nope}", "no key nope"]),
        (["name=refuse"], ["dataset.root=/nope: no such folder"]),
        (["--foo"], ["--foo"]),
        (["--config-dir", "nope"], ["nope"]),
        (["--config-name", "nope"], ["nope"]),
        (["-m", "seed=0,1", "method=bptt,bppt"], ["method=bppt", "did you mean bptt?"]),
    ],
)
def test_a_wrong_request_is_one_message_and_2(cilspl, here, pipeline, words, pieces):
    said = cilspl("run", *words, OFF)
    assert said.code == 2, said.err
    assert "Traceback" not in said.err
    for piece in pieces:
        assert piece in said.err
    assert not run_files(here)
    assert not [p for p in here.glob("runs/*") if p.name != "sweeps"]  # no empty folder is left


def test_a_refused_run_leaves_the_folders_of_others(cilspl, here, pipeline):
    kept = cilspl("run", OFF)
    assert kept.code == 0
    (made,) = here.glob("runs/*/*")
    assert cilspl("run", "frames.bins=0", OFF).code == 2
    assert list(here.glob("runs/*/*")) == [made]
    (here / "mine").mkdir()
    assert cilspl("run", "frames.bins=0", OFF, "hydra.run.dir=mine/one").code == 2
    assert list(here.glob("mine*")) == [here / "mine"]


def test_an_unreachable_store_is_told_before_any_work(cilspl, here, pipeline, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for words in (("seed=1",), ("-m", "seed=1,2")):
        said = cilspl("run", *words)
        assert said.code == 2
        assert said.err.count("no tracking server answers") == 1
        assert "Traceback" not in said.err
        assert not [path for path in here.rglob("*") if re.match(r"\d{4}-", path.name)]


@pytest.mark.parametrize(
    ("name", "code", "status", "text"),
    [
        ("bug", 1, "failed", "the run failed: ZeroDivisionError: by zero"),
        ("full", 1, "failed", "the run failed: [Errno 28] No space left on device"),
        ("wrapped", 2, "failed", "method.x=1: not with this"),
        ("interrupt", 130, "killed", "marked killed"),
        ("terminate", 143, "killed", "marked killed"),
    ],
)
def test_how_runs_end(cilspl, here, pipeline, name, code, status, text):
    said = cilspl("run", f"name={name}", OFF)
    assert said.code == code
    assert text in said.err
    assert ("Traceback" in said.err) == (name == "bug")
    assert only_run(here)[1]["status"] == status


def test_runs_of_one_second_get_folders_of_their_own(cilspl, here, pipeline):
    for _ in range(3):
        assert cilspl("run", OFF).code == 0
    assert len(run_files(here)) == 3


def test_one_variable_fixes_the_folder_for_all_ranks(cilspl, here, pipeline, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = cilspl("run", OFF)
    assert refused.code == 2
    assert "--rdzv-id NAME, or set CILSPL_RUN_DIR=" in refused.err
    monkeypatch.setenv("CILSPL_RUN_DIR", "runs/two")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        said = cilspl("run", OFF)
        assert said.code == 0, said.err
        assert ("bptt" in said.out) == (rank == "0")
    assert [p.parent.name for p in run_files(here)] == ["two"]


def test_torchruns_id_names_the_folder_of_all_ranks(cilspl, here, pipeline, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "5f3c")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.delenv("CILSPL_RUN_DIR", raising=False)
        assert cilspl("run", OFF).code == 0
        assert (here / "runs/ranks/5f3c/.hydra").exists() == (rank == "0")  # the first rank alone writes
    assert [p.parent for p in run_files(here)] == [here / "runs/ranks/5f3c"]
    said = cilspl("run", "-m", OFF, "seed=0,1")
    assert said.code == 2
    assert "-m: a sweep cannot be run on several ranks" in said.err


def test_the_store_stays_where_one_stands_under_chdir(cilspl, store, pipeline):
    for words in (("hydra.job.chdir=true",), ("hydra.job.chdir=true", "tracking.uri=sqlite:///mlflow.db")):
        assert cilspl("run", *words).code == 0
    assert not list(store.glob("runs/**/*.db"))
    assert len(stored_runs(store_uri())) == 2


def test_an_interrupted_sweep_stops_and_is_marked(cilspl, store, pipeline):
    said = cilspl("run", "-m", "seed=0,1", "name=interrupt")
    assert said.code == 130
    assert len(pipeline.ran) == 1
    client = client_of(store_uri())
    runs = client.search_runs([client.get_experiment_by_name("cilspl").experiment_id])
    assert [run.info.status for run in runs] == ["KILLED", "KILLED"]


def test_a_sweeper_gets_the_validation_score_never_the_test(here, pipeline, cilspl, monkeypatch):
    from cil_spl.cli import run

    scores = []
    task = run.task
    monkeypatch.setattr(run, "task", lambda cfg: scores.append(task(cfg)))
    assert cilspl("run", OFF).code == 0
    assert scores == [0.75]


def test_as_a_module_in_a_process_of_its_own(here):
    words = [sys.executable, "-m", "cil_spl.cli", "run", "method.lrr=3"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert done.returncode == 2
    assert done.stderr.startswith("cilspl: method.lrr=3: no such key; did you mean method.lr?")
    assert len(done.stderr.splitlines()) == 1
