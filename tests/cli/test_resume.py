"""Going on with a run: what is found, what may be typed beside it, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from cil_spl.base import locks
from cil_spl.base.files import file_digest, write_json
from cil_spl.results import runs
from cil_spl.results.store import client_of, store_uri
from cil_spl.results.values import flatten

OFF = "tracking.enabled=false"


@pytest.fixture
def run(cilspl, here, pipeline):
    """Make a run that ends as its name says; its folder."""

    def make(*words: str):
        before = set(here.glob("runs/**/run.json"))
        cilspl("run", *words)
        (made,) = set(here.glob("runs/**/run.json")) - before
        return made.parent

    return make


def info(folder):
    return json.loads((folder / "run.json").read_text())


def become(folder, name):
    """Give a run another name, which says how it ends, in all that it has recorded."""
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("name: interrupt", f"name: {name}"))
    was = info(folder)
    changed = {"params": {**was["params"], "name": name}, "files": {"config.yaml": file_digest(path)}}
    write_json(folder / "run.json", {**was, **changed})


def test_a_killed_run_goes_on_with_its_own_config(cilspl, here, pipeline, run):
    folder = run(OFF, "name=interrupt", "method.lr=0.25", "seed=3")
    assert info(folder)["status"] == "killed"
    began = pipeline.ran[-1]
    said = cilspl("run", f"resume={folder}", "trainer.threads=2")
    assert pipeline.ran[-1].trainer.threads == 2
    pipeline.ran[-1].trainer.threads = None
    assert flatten(pipeline.ran[-1]) == flatten(began)
    assert said.code == 130  # its name makes it end so again
    assert "runs/" in said.err
    assert "goes on with it" in said.err
    assert len(info(folder)["resumed"]) == 1


def test_ctrl_c_says_how_to_go_on(cilspl, here, pipeline):
    said = cilspl("run", OFF, "name=interrupt")
    (folder,) = (path.parent.relative_to(here) for path in here.glob("runs/**/run.json"))
    assert f"`cilspl run resume={folder}` goes on with it" in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("method.lr=0.5",), "method.lr=0.5 (the run has 0.005)"),
        (("method=conversion",), "method=conversion (the run has bptt)"),
        (("trainer.epochs=4",), "trainer.epochs=4 (the run has 25)"),
        (("seed=0,1",), "seed=0,1: beside resume= only key=value"),
        (("~method.lr",), "~method.lr: beside resume= only key=value"),
        (("foo=null",), "foo=null (the run has no such key)"),
        (("dataset@test_dataset=event_digits",), "dataset@test_dataset=event_digits (the run has no such key)"),
        (("trainer.threads=abc",), "trainer.threads=abc: needs a whole number"),
        (("trainer.epochs=true",), "trainer.epochs=true (the run has 25)"),
        (("-m",), "a sweep cannot be resumed"),
        (("--cfg", "job"), "--cfg: beside resume= only key=value"),
    ],
)
def test_what_would_make_it_another_run_is_refused(words, sentence, cilspl, pipeline, run):
    folder = run(OFF, "method=bptt", "name=interrupt")
    ran = len(pipeline.ran)
    said = cilspl("run", f"resume={folder}", *words)
    assert said.code == 2
    assert sentence in said.err
    assert len(pipeline.ran) == ran


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trainer.threads=abc",), "trainer.threads=abc: needs a whole number"),
        (("tracking.foo=1",), "tracking.foo=1 (the run has no such key)"),
        (("foo=null",), "foo=null (the run has no such key)"),
        (("seed=1",), "seed=1 (the run has 0)"),
    ],
)
def test_what_is_typed_beside_a_finished_run_is_checked(words, sentence, cilspl, pipeline, run):
    folder = run(OFF)
    before = (folder / "run.json").read_bytes()
    said = cilspl("run", f"resume={folder}", *words)
    assert said.code == 2
    assert sentence in said.err
    assert "is finished" not in said.out
    assert (folder / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["interrupt", None])
def test_an_edited_config_is_refused_with_the_keys_that_differ(name, cilspl, pipeline, run):
    """A killed run and a finished one that is to be extended; what changes no result may differ."""
    folder = run(OFF, "method=bptt", *([f"name={name}"] if name else []))
    words = (f"resume={folder}", *([] if name else ["trainer.epochs=26"]))
    path, ran = folder / "config.yaml", len(pipeline.ran)
    text, record = path.read_text(), (folder / "run.json").read_bytes()
    assert "threads: null" in text
    path.write_text(text.replace("lr: 0.005", "lr: 0.5").replace("seed: 0", "seed: 1") + "foo: 3\n")
    said = cilspl("run", *words)
    assert said.code == 2
    for word in ("method.lr=0.5 (the run had 0.005)", "seed=1 (the run had 0)", "foo=3 (the run had nothing)"):
        assert word in said.err
    assert "put these values back" in said.err
    path.write_text("a: [")
    assert f"{path}: damaged, it cannot be read" in cilspl("run", *words).err
    assert len(pipeline.ran) == ran
    assert (folder / "run.json").read_bytes() == record
    path.write_text("# mine\n" + text.replace("threads: null", "threads: 2"))
    assert cilspl("run", *words).code == (130 if name else 0)


def test_the_same_value_typed_again_is_no_change(cilspl, pipeline, run):
    folder = run(OFF, "method=bptt", "name=bug")
    assert cilspl("run", f"resume={folder}", "method=bptt", "seed=0", "frames.bins=4").code == 1  # the bug again


def test_a_finished_run_is_extended_by_more_epochs_only(cilspl, pipeline, run):
    folder = run(OFF)
    ran = len(pipeline.ran)
    said = cilspl("run", f"resume={folder}")
    assert said.code == 0
    assert "is finished; trainer.epochs=N with more than 25 epochs extends it" in said.out
    assert len(pipeline.ran) == ran
    assert cilspl("run", f"resume={folder}", "trainer.epochs=24").code == 2
    assert cilspl("run", f"resume={folder}", "trainer.epochs=26").code == 0
    assert pipeline.ran[-1].trainer.epochs == 26
    assert info(folder)["params"]["trainer.epochs"] == 26
    assert "epochs: 26" in (folder / "config.yaml").read_text()


def test_what_cannot_go_on_is_named(cilspl, here, pipeline, run):
    folder = run(OFF, "name=interrupt")
    lock = locks.hold(folder)
    path = folder / "run.json"
    write_json(path, {**info(folder), "status": "running"})
    assert "a process is still working at the run; wait until it has ended" in cilspl("run", f"resume={folder}").err
    lock.release()
    write_json(path, {**info(folder), "refused": True})
    assert "refused before it began" in cilspl("run", f"resume={folder}").err
    assert "no run in this folder" in cilspl("run", f"resume={here}").err
    assert "resume=null: name a run" in cilspl("run", "resume=null").err


def test_it_goes_on_in_the_same_mlflow_run(cilspl, store, pipeline, run):
    folder = run("name=interrupt")
    first = info(folder)
    path = folder / "run.json"
    write_json(path, {**first, "status": "running"})  # as a SIGKILL leaves it
    become(folder, "done")
    assert cilspl("run", f"resume={folder}", "trainer.threads=1").code == 0
    client = client_of(store_uri())
    (known,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert known.info.run_id == first["run_id"] == info(folder)["run_id"]
    assert known.info.status == "FINISHED"
    assert known.data.tags["resumed.trainer.threads"] == "1"
    for name in ("val/accuracy",):
        points = [(p.step, p.value) for p in client.get_metric_history(first["run_id"], name)]
        assert points == [(0, 0.5), (1, 0.75), (2, 0.625)]  # none twice
    assert [line["step"] for line in runs.read(folder).metrics()] == [0, 1, 2]


def test_a_copy_that_the_store_has_lost_is_made_anew(cilspl, store, template, pipeline, run):
    folder = run("name=interrupt")
    become(folder, "done")
    before = info(folder)
    shutil.copy(template, store / "mlflow.db")
    assert cilspl("run", f"resume={folder}").code == 0
    after = info(folder)
    assert after["former_run_ids"] == [before["run_id"]]
    assert client_of(store_uri()).get_run(after["run_id"]).data.metrics["val/accuracy"] == 0.625


@pytest.mark.parametrize("lost", [False, True])
def test_the_store_keeps_a_finished_run_until_its_extension_has_ended(lost, cilspl, store, template, pipeline, run):
    folder = run("name=no_more")
    first = info(folder)
    if lost:
        shutil.copy(template, store / "mlflow.db")

    def known():
        client = client_of(store_uri())
        (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        return found

    said = cilspl("run", f"resume={folder}", "trainer.epochs=50")
    assert said.code == 130
    assert "trainer.epochs=50` goes on" in said.err
    for value, epochs in ((0.9, None), (0.935, "60")):
        assert known().info.status == "FINISHED"
        assert known().info.run_id == info(folder)["run_id"]
        assert (known().info.run_id == first["run_id"]) == (not lost)
        assert known().data.metrics["deployed/accuracy"] == pytest.approx(value)
        assert known().data.params["trainer.epochs"] == "25"
        assert known().data.tags.get("resumed.trainer.epochs") == epochs
        assert known().data.tags.get("extended_from") == info(folder)["tags"].get("extended_from")
        assert info(folder)["tags"].get("extended_from") == (epochs and "25")
        assert info(folder)["row"]["deployed/accuracy"] == pytest.approx(value)
        assert info(folder)["status"] == "finished"
        if epochs is None:
            assert cilspl("run", f"resume={folder}", "trainer.epochs=60").code == 0
    assert "extension" not in info(folder)
    assert info(folder).get("former_run_ids", []) == ([first["run_id"]] if lost else [])


def test_a_run_whose_process_is_gone_is_killed(here):
    """Killed with SIGKILL it could not say so itself; while it lived it was running."""
    code = """
import os, signal, sys
from pathlib import Path
from cil_spl.results import runs
from cil_spl.results.record import open_record
with open_record({"tracking": {"enabled": False}}, "run"):
    assert runs.read("run").status == "running"
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert info(here / "run")["status"] == "running"
    found = runs.read(here / "run")
    assert found.status == "killed"
    assert found.info["error"] == "its process is gone"


def test_only_one_process_works_in_a_folder(cilspl, pipeline, run, monkeypatch):
    folder = run(OFF, "name=interrupt")
    monkeypatch.setattr(locks, "WAIT_S", 0.05)
    lock = locks.hold(folder)
    said = cilspl("run", f"resume={folder}")
    lock.release()
    assert said.code == 2
    assert "another process works at the run in it" in said.err
