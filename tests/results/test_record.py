"""The record of a run: the folder, its copy in MLflow, and what happens when something goes wrong."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException, RestException

from cil_spl.base.errors import RequestError
from cil_spl.base.files import write_json
from cil_spl.results import mlflow_run, store
from cil_spl.results.metrics import read_metrics
from cil_spl.results.record import Terminated, open_record
from cil_spl.results.restore import restore
from cil_spl.results.store import client_of, connect, store_uri, stored_runs
from cil_spl.results.sweep import Sweep, parent_of
from cil_spl.results.values import as_text, flatten, git_tags

CONFIG = {
    "seed": 3,
    "name": None,
    "method": {"name": "bptt", "lr": 1e-3},
    "model": {"name": "quickstart", "layers": [{"kind": "conv"}]},
    "dataset": {"name": "event_digits", "exclude_indices": None},
    "target": {"name": "speck", "backend": "auto"},
    "frames": {"bins": 10},
    "tracking": {"enabled": True, "uri": None, "experiment": "trial"},
}
ROW = {
    "method": "bptt",
    "model": "quickstart",
    "dataset": "event_digits",
    "target": "speck",
    "backend": "simulator",
    "seed": 3,
    "float/accuracy": 0.975,
    "deployed/accuracy": 0.96,
    "drop": 0.015,
    "deployed/synops": 123456.0,
    "n": 360,
}


def untracked(**changes):
    return {**CONFIG, "tracking": {"enabled": False}, **changes}


def info_of(folder):
    return json.loads((Path(folder) / "run.json").read_text())


def client(here):
    return client_of(f"sqlite:///{here / 'mlflow.db'}")


# plain values

names = st.text("abc", min_size=1)
trees = st.recursive(
    st.none() | st.integers() | names | st.lists(st.integers()),
    lambda inner: st.dictionaries(names, inner, min_size=1),
    max_leaves=8,
)


@given(st.dictionaries(names, trees))
@settings(deadline=None, max_examples=50)
def test_flat_and_back(tree):
    rebuilt = {}
    for key, value in flatten(tree).items():
        *path, leaf = key.split(".")
        node = rebuilt
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    assert rebuilt == tree


@given(st.lists(st.integers()))
@settings(deadline=None, max_examples=30)
def test_long_parameters_are_told_apart(values):
    long = [*range(5000), *values]
    assert len(as_text(long)) < 6000
    assert (as_text(long) == as_text(list(range(5000)))) == (not values)


def test_parameters_read_the_same_from_folder_and_store():
    assert [as_text(v) for v in (1e-3, True, None, "adam", [1, 2])] == ["0.001", "true", "null", "adam", "[1, 2]"]


def test_a_relative_store_is_anchored_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert store_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert store_uri("sqlite:///sub/x.db", Path("/base")) == "sqlite:////base/sub/x.db"
    assert store_uri("sqlite:////abs/x.db") == "sqlite:////abs/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert store_uri("sqlite:///x.db") == "http://localhost:5000"


# the folder


def test_the_folder_is_the_truth(tmp_path):
    with open_record(untracked(), tmp_path / "run") as record:
        assert info_of(record.folder)["status"] == "running"
        record.log({"train/loss": 0.5, "val/accuracy": math.nan}, step=1)
        lines = (record.folder / "metrics.jsonl").read_text().splitlines()  # there at once
        assert json.loads(lines[0])["train/loss"] == 0.5
        assert json.loads(lines[0])["val/accuracy"] is None
        record.tag(backend="simulator")
        record.warn("layer 2 is silent")
        record.warn("layer 2 is silent")
        record.finish({"float/accuracy": 0.975}, ROW)
    info = info_of(tmp_path / "run")
    assert (info["status"], info["error"], info["format"], info["run_id"]) == ("finished", None, 2, None)
    assert info["row"] == ROW
    assert info["params"]["method.lr"] == 1e-3
    assert info["tags"]["backend"] == "simulator"
    assert info["tags"]["method"] == "bptt"
    assert info["warnings"] == ["layer 2 is silent"]
    assert info["ended"] >= info["started"]
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".lock"]


def test_config_is_resolved(tmp_path):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({**untracked(), "copy": "${seed}"})
    with open_record(cfg, tmp_path / "run"):
        pass
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "run" / "config.yaml"), resolve=False)["copy"] == 3


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (RequestError("seed=-1: too small"), "failed", "seed=-1: too small"),
        (KeyboardInterrupt(), "killed", "interrupted"),
        (SystemExit(1), "killed", "interrupted"),
    ],
)
def test_how_a_run_ends(tmp_path, error, status, text):
    with pytest.raises(type(error)), open_record(untracked(), tmp_path / "run"):
        raise error
    assert (info_of(tmp_path / "run")["status"], info_of(tmp_path / "run")["error"]) == (status, text)


def test_sigterm_marks_the_run_killed_and_the_handler_goes_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), open_record(untracked(), tmp_path / "run"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert info_of(tmp_path / "run")["status"] == "killed"
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_there_are_no_signals_to_take(tmp_path):
    def work():
        with open_record(untracked(), tmp_path / "run") as record:
            record.finish({}, ROW)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert info_of(tmp_path / "run")["status"] == "finished"


def test_a_folder_holds_one_run(tmp_path):
    with open_record(untracked(), tmp_path / "run"):
        pass
    with pytest.raises(RequestError, match="holds a run already"), open_record(untracked(), tmp_path / "run"):
        pass
    assert info_of(tmp_path / "run")["status"] == "finished"


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "x": 1}\n{"step": 1, "x"')
    assert read_metrics(tmp_path) == [{"step": 0, "x": 1}]


def test_a_damaged_line_is_left_out_with_a_warning(tmp_path, caplog):
    with open_record(untracked(), tmp_path / "run") as record:
        for step in range(4):
            record.log({"train/loss": step / 4, "val/accuracy": float("nan")}, step)
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_bytes()
    lines = read_metrics(tmp_path / "run")
    assert [(line["step"], line["train/loss"]) for line in lines] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert list(lines[0]) == ["step", "time", "train/loss", "val/accuracy"]
    assert not caplog.records
    path.write_bytes(whole.replace(b"0.25", b"0.26"))
    assert read_metrics(tmp_path / "run") == [lines[0], lines[2], lines[3]]
    assert [r.getMessage() for r in caplog.records] == [f"{path}: damaged lines are left out: 2"]
    for place in range(len(whole)):  # one bit of each byte
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert all(line in lines for line in read_metrics(tmp_path / "run")), place


def test_metrics_without_checksums_are_read_with_a_warning(tmp_path, caplog):
    line = {"step": 0, "time": "2026-01-01T00:00:00.000+00:00", "train/loss": 0.5, "val/accuracy": None}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert read_metrics(tmp_path) == [line]
    assert "without a checksum" in caplog.text


def test_a_damaged_sweep_is_refused_by_name(tmp_path, caplog):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"run_id": "1", "uri": "u"}))
    assert parent_of(tmp_path / "0", "u") == "1"
    assert "without a checksum" in caplog.text
    write_json(path, {"format": 1, "run_id": "1", "uri": "u"})
    assert parent_of(tmp_path / "0", "u") == "1"
    assert parent_of(tmp_path / "0", "another") is None
    for old, new in (('"1"', '"2"'), ("run_id", "run_ie"), ("sha256", "sha257"), ("}", "")):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(RequestError, match=r"sweep\.json: (damaged or changed|not the record of a sweep)"):
            parent_of(tmp_path / "0", "u")
        path.write_text(text)


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with open_record(CONFIG, tmp_path / "run") as record:
        record.log({"x": 1.0}, 0)
        record.warn("once")
        record.finish({}, ROW)
    assert not (tmp_path / "run").exists()


def test_git_is_asked_about_our_own_checkout_only():
    found = git_tags()
    assert not found or (len(found["git_commit"]) == 40 and found["git_dirty"] in ("true", "false"))


# the copy


def test_the_copy_says_what_the_folder_says(here):
    with open_record(CONFIG, here / "run", tags={"backend": "simulator"}) as record:
        record.log({"train/loss": 0.5, "odd (name) %": 1.0}, step=0)
        record.log({"train/loss": 0.25}, step=1)
        (record.folder / "figures").mkdir()
        (record.folder / "figures" / "a.png").write_bytes(b"png")
        (record.folder / "weights.pt").write_bytes(b"weights")
        (record.folder / "checkpoints").mkdir()
        (record.folder / "checkpoints" / "epoch.pt").write_bytes(b"big")
        record.finish({"float/accuracy": 0.975, "deployed/synops/conv1": 5.0}, ROW)
        run_id = record.run_id
    run = client(here).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["method.lr"] == "0.001"
    assert run.data.params["model.layers"] == '[{"kind": "conv"}]'
    assert {k: run.data.tags[k] for k in ("method", "model", "dataset", "target", "backend", "seed")} == {
        "method": "bptt",
        "model": "quickstart",
        "dataset": "event_digits",
        "target": "speck",
        "backend": "simulator",
        "seed": "3",
    }
    assert run.data.tags["folder"] == str(here / "run")
    assert run.data.metrics["train/loss"] == 0.25
    assert run.data.metrics["odd _name_ _"] == 1.0
    assert run.data.metrics["deployed/accuracy"] == 0.96
    assert run.data.metrics["deployed/synops/conv1"] == 5.0
    assert [m.value for m in client(here).get_metric_history(run_id, "train/loss")] == [0.5, 0.25]
    kept = {p.relative_to(here / "mlartifacts").as_posix() for p in (here / "mlartifacts").rglob("*") if p.is_file()}
    assert kept == {f"trial/{run_id}/artifacts/{name}" for name in ("config.yaml", "weights.pt", "figures/a.png")}
    assert stored_runs(store_uri(), "trial")[0]["row"]["n"] == 360


@pytest.mark.parametrize(("error", "status"), [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_the_copy_knows_how_it_ended(here, error, status):
    with pytest.raises(type(error)), open_record(CONFIG, here / "run") as record:
        raise error
    assert client(here).get_run(record.run_id).info.status == status


class Dying:
    """A client whose server is gone as soon as it has done one thing, so that its answer never comes."""

    def __init__(self, client, after):
        self.client, self.after, self.gone = client, after, False

    def __getattr__(self, name):
        def ask(*args, **kwargs):
            if self.gone:
                raise MlflowException("API request failed with exception: connection refused")
            answer = getattr(self.client, name)(*args, **kwargs)
            self.gone = name == self.after
            if self.gone:
                raise MlflowException("API request failed with exception: connection reset")
            return answer

        return ask


@pytest.mark.parametrize("after", ["create_run", "log_batch"])
def test_a_server_lost_while_the_run_begins_costs_the_copy_only(here, caplog, monkeypatch, after):
    """It has the run, but nobody was answered: the run goes on, and `restore` finds the one that there is."""
    real = client(here)
    monkeypatch.setattr(mlflow_run, "_unanswered", lambda error, uri: type(error) is MlflowException)
    with monkeypatch.context() as patch:
        patch.setattr(store, "connect", lambda uri: Dying(real, after))
        with open_record(CONFIG, here / "run") as record:
            record.log({"train/loss": 1.0}, 1)
            record.finish({}, ROW)
    info = info_of(here / "run")
    assert info["status"] == "finished"
    assert "was lost" in caplog.text
    assert (info["run_id"] is None) == (after == "create_run")
    (begun,) = real.search_runs([e.experiment_id for e in real.search_experiments()])
    assert begun.info.status == "RUNNING"
    assert restore(here / "run") == begun.info.run_id
    assert info_of(here / "run")["run_id"] == begun.info.run_id
    (ended,) = real.search_runs([e.experiment_id for e in real.search_experiments()])
    assert ended.info.status == "FINISHED"
    assert ended.data.metrics["train/loss"] == 1.0
    assert ended.data.params["method.name"] == "bptt"


def test_a_server_that_refuses_a_run_is_no_lost_one(here, monkeypatch):
    class Refusing(Dying):
        def __getattr__(self, name):
            if name == "create_run":
                raise RestException({"error_code": "PERMISSION_DENIED", "message": "no"})
            return getattr(self.client, name)

    monkeypatch.setattr(store, "connect", lambda uri: Refusing(client(here), ""))
    with pytest.raises(RequestError), open_record(CONFIG, here / "run"):
        pass
    assert not (here / "run" / "run.json").exists()
    assert mlflow_run._unanswered(MlflowException("reset"), "http://127.0.0.1:5000")
    assert not mlflow_run._unanswered(MlflowException("locked"), "sqlite:///mlflow.db")
    assert not mlflow_run._unanswered(RestException({"error_code": "X", "message": "no"}), "https://x")


def test_a_store_lost_on_the_way_costs_the_copy_only(here, caplog):
    with open_record(CONFIG, here / "run") as record:

        class Gone:
            def __getattr__(self, name):
                raise ConnectionError("server gone")

        record._copy.client = Gone()
        record.log({"x": 1.0}, 0)
        record.finish({}, ROW)
    info = info_of(here / "run")
    assert info["status"] == "finished"
    assert info["warnings"] == ["the tracking store was lost: server gone"]
    assert "cilspl restore" in caplog.text


def test_restore_makes_the_copy_again(here, template):
    with open_record(CONFIG, here / "run") as record:
        record.log({"train/loss": 0.5}, step=0)
        record.log({"train/loss": 0.25}, step=1)
        record.finish({"float/accuracy": 0.975}, ROW)
        old = record.run_id
    before = stored_runs(store_uri())[0]
    assert restore(here / "run") == old  # still there: left alone
    shutil.copy(template, here / "mlflow.db")
    new = restore(here / "run")
    after = stored_runs(store_uri())[0]
    assert new != old
    assert after["run_id"] == new
    for key in ("status", "started", "params", "tags", "metrics", "row"):
        assert after[key] == before[key], key
    assert info_of(here / "run")["run_id"] == new
    assert info_of(here / "run")["former_run_ids"] == [old]
    assert [m.step for m in client(here).get_metric_history(new, "train/loss")] == [0, 1]


def test_a_sweep_is_a_parent_with_children(here):
    sweep = Sweep.open(CONFIG["tracking"], here / "sweep", ["seed=0,1"])
    for number in ("0", "1"):
        with open_record(CONFIG, here / "sweep" / number) as record:
            record.finish({}, ROW)
    sweep.close("finished", [])
    parent = json.loads((here / "sweep" / "sweep.json").read_text())["run_id"]
    runs = client(here).search_runs([client(here).get_experiment_by_name("trial").experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]
    assert len(runs) == 3
    assert len(children) == 2
    assert client(here).get_run(parent).info.status == "FINISHED"
    assert len(stored_runs(store_uri())) == 2  # the parent is no run of its own


# a store that cannot be used is reported at the start


def refused(uri):
    with pytest.raises(RequestError) as caught:
        connect(uri)
    return str(caught.value)


def test_no_server():
    text = refused("http://127.0.0.1:9")
    assert "http://127.0.0.1:9" in text
    assert "no tracking server" in text
    assert "tracking.enabled=false" in text


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "./mlruns"])
def test_a_folder_is_no_store(uri):
    assert "sqlite:///FILE.db" in refused(uri)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "x.db").write_text("hello, this is a text file and not a database")
    assert "not a readable SQLite database" in refused(f"sqlite:///{tmp_path / 'x.db'}")


def test_a_foreign_database_is_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute("create table mine (a)")
    assert "something else" in refused(f"sqlite:///{tmp_path / 'x.db'}")
    with sqlite3.connect(tmp_path / "x.db") as database:
        assert [n for (n,) in database.execute("select name from sqlite_master")] == ["mine"]


def test_a_store_of_another_version(here):
    with sqlite3.connect(here / "mlflow.db") as database:
        database.execute("update alembic_version set version_num='abc'")
    with pytest.raises(RequestError) as caught, open_record(CONFIG, here / "run"):
        pytest.fail("the work began")
    assert "another version of MLflow (schema abc" in str(caught.value)
    assert "mlflow db upgrade" in str(caught.value)
    assert not (here / "run").exists()


def test_no_such_folder(tmp_path):
    assert f"no folder {tmp_path / 'a'}" in refused(f"sqlite:///{tmp_path}/a/x.db")


def test_set_up_is_locked_and_appears_whole(tmp_path, monkeypatch):
    from filelock import FileLock, Timeout

    path = tmp_path / "mlflow.db"

    class Slow:
        def search_experiments(self, max_results):
            with pytest.raises(Timeout):
                FileLock(f"{path}.lock", timeout=0, is_singleton=False).acquire()
            assert not path.exists()
            (tmp_path / "mlflow.db.new").write_text("made")
            raise KeyboardInterrupt

    monkeypatch.setattr(store, "client_of", lambda uri: Slow())
    with pytest.raises(KeyboardInterrupt):
        connect(f"sqlite:///{path}")
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_reading_makes_no_store(tmp_path):
    with pytest.raises(RequestError, match="no tracking store there yet"):
        stored_runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.iterdir())


def test_an_unknown_experiment_names_the_known(here):
    with pytest.raises(RequestError, match=r"--experiment nope.*Default"):
        stored_runs(store_uri(), "nope")


@pytest.mark.slow
def test_four_first_runs_at_once(tmp_path):
    code = "import sys; from cil_spl import track; connect(sys.argv[1]).create_experiment(sys.argv[2])"
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    jobs = [subprocess.Popen([sys.executable, "-c", code, uri, f"e{i}"]) for i in range(4)]
    assert [job.wait(120) for job in jobs] == [0, 0, 0, 0]
    assert {e.name for e in connect(uri).search_experiments()} == {"Default", "e0", "e1", "e2", "e3"}
