"""``cilspl run -m``: jobs are checked before the first, named by what differs, known again, and told as a table."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cil_spl.results import same
from cil_spl.results.store import client_of, store_uri

OFF = "tracking.enabled=false"
SMALL = ("trainer.epochs=1", "trainer.limit_batches=2")


def sweeps(here):
    return sorted(path.parent for path in here.glob("runs/sweeps/*/*/sweep.json"))


def jobs_of(sweep):
    return {path.parent.name: json.loads(path.read_text())["status"] for path in sorted(sweep.glob("*/run.json"))}


def test_runs_are_named_by_what_differs(cilspl, here, pipeline):
    said = cilspl("run", "-m", OFF, "method=bptt,sltt", "method.lr=0.001,0.01", "frames.bins=2", "seed=0,1")
    assert said.code == 0, said.err
    (sweep,) = sweeps(here)
    assert re.fullmatch(r"\d\d-\d\d-\d\d-\d{6}-method_lr_seed", sweep.name)
    expected = {f"{m}_lr-{lr}_s{s}" for m in ("bptt", "sltt") for lr in ("0.001", "0.01") for s in (0, 1)}
    assert set(jobs_of(sweep)) == expected
    assert re.search(r"^bptt on event_digits for speck, seed 0: runs/sweeps/.*/bptt_lr-0\.001_s0$", said.err, re.M)


def test_every_job_is_checked_before_the_first_starts(cilspl, here, pipeline):
    said = cilspl("run", "-m", OFF, "frames.bins=1,0,2", "seed=0,1")
    assert said.code == 2
    assert pipeline.ran == []
    assert said.err.count("frames.bins=0 seed=") == 2
    assert "2 of 6 jobs refused, so none was started; --skip-refused runs the others" in said.err
    assert not (here / "runs").exists() or not list((here / "runs").rglob("*.*"))
    said = cilspl("run", "-m", OFF, "frames.bins=1,0,2", "seed=0,1", "--skip-refused")
    assert said.code == 0, said.err
    assert len(pipeline.ran) == 4
    assert "4 of 4 runs finished" in said.out


def test_data_are_looked_at_before_the_first_starts(cilspl, here, pipeline, monkeypatch):
    from cil_spl.base.errors import RequestError

    def tags(cfg):
        if cfg.seed:
            raise RequestError("dataset.root=data: damaged")
        return {"data": "d", "data_all": "a"}

    monkeypatch.setattr(pipeline, "data_tags", tags)
    said = cilspl("run", "-m", OFF, "seed=0,1")
    assert said.code == 2
    assert "seed=1: dataset.root=data: damaged" in said.err
    assert pipeline.ran == []


def test_a_dry_run_shows_the_jobs_and_runs_none(cilspl, store, pipeline):
    said = cilspl("run", "-m", "--dry-run", "seed=0,1")
    assert said.code == 0
    assert said.out.splitlines() == ["new       s0  seed=0", "new       s1  seed=1"]
    assert pipeline.ran == []
    assert sweeps(store) == []
    assert cilspl("run", "-m", "seed=0").code == 0
    said = cilspl("run", "-m", "seed=0,1", "--dry-run")
    assert re.fullmatch(r"made runs/sweeps/\S+/s0 +s0  seed=0\nnew +s1  seed=1\n", said.out)
    assert cilspl("run", "--dry-run", "seed=1").out.startswith("valid: method=cil_bptt")
    assert len(pipeline.ran) == 1


def test_what_is_finished_is_not_run_again(cilspl, store, pipeline):
    assert cilspl("run", "seed=1").code == 0
    said = cilspl("run", "-m", "seed=0,1,2")
    assert said.code == 0, said.err
    assert [cfg.seed for cfg in pipeline.ran] == [1, 0, 2]
    assert "3 jobs, 1 made already" in said.err
    assert "3 of 3 runs finished" in said.out
    assert re.search(r"^cil_bptt  .*  3  ", said.out, re.MULTILINE)  # one row, of three seeds
    assert "91.00 ± 1.00" in said.out  # the deployed network's accuracy
    (sweep,) = sweeps(store)
    assert len(json.loads((sweep / "rows.json").read_text())["runs"]) == 3
    # The same words again: nothing is left to do, and the same table comes out, in the same folder.
    again = cilspl("run", "-m", "seed=0,1,2")
    assert again.code == 0
    assert again.out == said.out[said.out.index("Method  ") :]
    assert sweeps(store) == [sweep]
    assert len(pipeline.ran) == 3
    assert cilspl("run", "-m", "seed=0,1,2", "--again").code == 0
    assert [cfg.seed for cfg in pipeline.ran[3:]] == [0, 1, 2]
    assert len(sweeps(store)) == 2


@pytest.mark.parametrize(
    "change",
    [
        ("trainer.epochs=7",),
        ("method.lr=0.5",),
        ("dataset.val_fraction=0.2",),
        "data",
        "sources",
    ],
)
def test_another_config_data_or_code_is_another_run(cilspl, here, pipeline, monkeypatch, change):
    assert cilspl("run", "-m", OFF, "seed=0,1").code == 0
    words: tuple[str, ...] = ()
    if change == "data":
        monkeypatch.setattr(pipeline, "data_tags", lambda cfg: {"data": "other", "data_all": "a"})
    elif change == "sources":
        monkeypatch.setattr(same.sources, "deciding", lambda config: "other")
    else:
        words = change
    assert cilspl("run", "-m", OFF, "seed=0,1", *words).code == 0
    assert len(pipeline.ran) == 4
    assert sum(map(len, map(jobs_of, sweeps(here)))) == 4  # nothing is written over


@pytest.mark.parametrize("word", ["name=other", "trainer.threads=1", "tracking.experiment=x", "extensions=[]"])
def test_names_places_and_threads_make_no_other_run(cilspl, store, pipeline, word):
    assert cilspl("run", "-m", "seed=0,1").code == 0
    assert cilspl("run", "-m", "seed=0,1", word).code == 0
    assert len(pipeline.ran) == 2


def test_rows_of_a_checkout_count_without_their_runs(cilspl, here, pipeline):
    file = here / "experiments" / "mine" / "results" / "rows.json"
    assert cilspl("run", "-m", OFF, "seed=0,1", "--rows", str(file)).code == 0
    text = file.read_text()
    assert str(here) not in text
    for path in sorted((here / "runs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    said = cilspl("run", "-m", OFF, "seed=0,1,2", "--rows", str(file))
    assert said.code == 0, said.err
    assert [cfg.seed for cfg in pipeline.ran] == [0, 1, 2]
    assert sorted(run["row"]["seed"] for run in same.read_rows(file)) == [0, 1, 2]
    file.write_text(text.replace('"seed": 1', '"seed": 7'))
    said = cilspl("run", "-m", OFF, "seed=0,1", "--rows", str(file))
    assert said.code == 2
    assert "rows.json: damaged" in said.err
    # One that was not typed, or is something else, stops nothing.
    (file.parent / "other.json").write_text("[1]")
    assert cilspl("run", "-m", OFF, "seed=5,6").code == 0


def test_a_failed_job_leaves_the_others_alone_and_is_tried_again(cilspl, store, pipeline):
    said = cilspl("run", "-m", "seed=0,1,2", "name=odd_seeds_fail")
    assert said.code == 1
    assert "2 of 3 runs finished" in said.out
    (sweep,) = sweeps(store)
    assert jobs_of(sweep) == {"s0": "finished", "s1": "failed", "s2": "finished"}
    assert re.search(r"runs/sweeps/\S+/s1 failed: ZeroDivisionError: odd", said.err)
    assert "91.00 ± 1.41" in said.out  # the table of what did finish
    said = cilspl("run", "-m", "seed=0,1,2", "name=odd_seeds_fail")
    assert [cfg.seed for cfg in pipeline.ran] == [0, 1, 2, 1]
    assert jobs_of(sweep) == {"s0": "finished", "s1": "failed", "s2": "finished"}


def test_the_parent_in_the_store_carries_the_table(cilspl, store, pipeline):
    assert cilspl("run", "-m", "method=bptt,conversion", "seed=0,1").code == 0
    (sweep,) = sweeps(store)
    parent = json.loads((sweep / "sweep.json").read_text())["run_id"]
    client = client_of(store_uri())
    run = client.get_run(parent)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"jobs": 4, "finished": 4}
    assert run.data.tags["mlflow.note.content"] == (sweep / "table.md").read_text()
    assert {a.path for a in client.list_artifacts(parent)} == {"rows.json", "table.csv", "table.md"}
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {child.info.run_name for child in children} == {"bptt_s0", "bptt_s1", "conversion_s0", "conversion_s1"}
    # Going on with it makes no second parent.
    assert cilspl("run", "-m", "method=bptt,conversion", "seed=0,1").code == 0
    assert client.get_run(parent).info.status == "FINISHED"
    assert len(client.search_runs([run.info.experiment_id], "tags.kind = 'sweep'")) == 1


def test_a_warning_is_said_once_in_a_sweep(cilspl, here, pipeline):
    said = cilspl("run", "-m", OFF, "seed=0,1,2")
    assert said.err.count("layer conv2 is silent") <= 1


def sweep_in_process(here, *words, kill=None, after=None):
    """Type a sweep in a process of its own; kill it once ``after`` holds of the sweep's folder."""
    command = [sys.executable, "-m", "cil_spl.cli", "run", "-m", *words]
    process = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while kill is not None and process.poll() is None:
        found = sweeps(here)
        if found and after(found[0]):
            process.send_signal(kill)
            break
        time.sleep(0.02)
    out, _ = process.communicate(timeout=600)
    return process.returncode, out


def epochs_of(sweep, name):
    path = sweep / name / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_a_sweep_killed_twice_ends_with_the_table_of_one_that_was_not(tmp_path):
    words = ("method=bptt", "seed=0,1,2", "trainer.epochs=4", "trainer.limit_batches=3", "trainer.threads=1", OFF)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    code, _ = sweep_in_process(tmp_path / "whole", *words)
    assert code == 0
    here = tmp_path / "killed"
    code, _ = sweep_in_process(here, *words, kill=signal.SIGKILL, after=lambda s: epochs_of(s, "s0") >= 1)
    assert code == -signal.SIGKILL
    code, out = sweep_in_process(here, *words, kill=signal.SIGTERM, after=lambda s: epochs_of(s, "s1") >= 1)
    assert code == 143, out
    assert "the same words go on" in out
    code, out = sweep_in_process(here, *words)
    assert code == 0, out
    assert len(sweeps(here)) == 1
    table = [(folder / "table.csv").read_text() for folder in (sweeps(here)[0], sweeps(tmp_path / "whole")[0])]
    assert table[0] == table[1]


def test_jobs_side_by_side_share_the_cores(here, cilspl):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher")
    words = ("method=bptt", "seed=0,1", *SMALL, OFF, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    code, out = sweep_in_process(here, *words)
    assert code == 0, out
    assert "2 of 2 runs finished" in out
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    for path in here.glob("runs/sweeps/*/*/*/run.json"):
        assert json.loads(path.read_text())["params"]["trainer.threads"] == share


@pytest.mark.parametrize(
    "more", [["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"], ["hydra.verbose=false"]], ids=" ".join
)
def test_the_same_words_with_options_are_the_same_sweep(cilspl, here, pipeline, more):
    (here / "own").mkdir()
    assert cilspl("run", "-m", *more, OFF, "seed=0,1").code == 0
    (sweep,) = sweeps(here)
    assert sweep.name.endswith("-seed")
    (sweep / "s1" / "run.json").unlink()
    said = cilspl("run", *more, "-m", OFF, "seed=0,1")
    assert said.code == 0, said.err
    assert sweeps(here) == [sweep]
    assert "2 jobs, 1 made already" in said.err


def test_real_runs_are_known_again(here, cilspl):
    words = ("method=bptt", "seed=0,1", *SMALL, OFF)
    said = cilspl("run", "-m", *words)
    assert said.code == 0, said.err
    again = cilspl("run", "-m", *words)
    assert "2 jobs, 2 made already" in again.err
    assert again.out == said.out[said.out.index("Method  ") :]


def test_a_damaged_record_is_left_alone(cilspl, here, pipeline):
    assert cilspl("run", "-m", OFF, "seed=0,1").code == 0
    (sweep,) = sweeps(here)
    (sweep / "s1" / "run.json").write_text("{")
    said = cilspl("run", "-m", OFF, "seed=0,1")
    assert said.code == 0, said.err
    assert [cfg.seed for cfg in pipeline.ran] == [0, 1, 1]
    assert (sweep / "s1" / "run.json").read_text() == "{"
    assert jobs_of_sound(sweep) == {"s0", "s1~2"}


def jobs_of_sound(sweep):
    return {path.parent.name for path in sweep.glob("*/run.json") if path.read_text() != "{"}


def test_a_killed_job_goes_on_only_as_it_began(cilspl, here, pipeline):
    """The name makes the first end as interrupted; with another learning rate it is another run."""
    assert cilspl("run", "-m", OFF, "seed=0,1", "name=interrupt", "hydra.sweep.dir=mine").code == 130
    assert json.loads((here / "mine/s0/run.json").read_text())["status"] == "killed"
    said = cilspl("run", "-m", "--dry-run", OFF, "seed=0,1", "name=interrupt", "hydra.sweep.dir=mine")
    assert said.out.splitlines()[0].split()[:3] == ["goes", "on", "s0"]
    said = cilspl("run", "-m", "--dry-run", OFF, "seed=0,1", "name=interrupt", "method.lr=0.5", "hydra.sweep.dir=mine")
    assert said.out.splitlines()[0].split()[:2] == ["new", "s0~2"]
