"""``cilspl runs``: what there is, what it takes, and what may go."""

from __future__ import annotations

import os

OFF = "tracking.enabled=false"


def made(cilspl):
    assert cilspl("run", OFF, "seed=1", "hydra.run.dir=runs/good").code == 0
    assert cilspl("run", OFF, "name=bug", "hydra.run.dir=runs/bad").code == 1


def test_runs_are_listed_with_their_size(cilspl, here, pipeline):
    made(cilspl)
    (here / "runs/good/checkpoints").mkdir(exist_ok=True)
    (here / "runs/good/checkpoints/train-last.pt").write_bytes(bytes(123_456))
    (here / "runs/good/link").symlink_to(here / "runs/bad")
    said = cilspl("runs")
    assert said.code == 0
    lines = {line.split()[-1]: line.split() for line in said.out.splitlines()[:-1]}
    assert lines["runs/good"][0] == "finished"
    assert lines["runs/good"][3:5] == ["123.5", "kB"]
    assert lines["runs/bad"][0] == "failed"
    assert said.out.splitlines()[-1].startswith("2 runs, ")
    assert "failed" not in cilspl("runs", "--status", "finished").out


def test_failed_runs_go_only_when_it_is_meant(cilspl, here, pipeline):
    made(cilspl)
    said = cilspl("runs", "--delete-failed")
    assert "1 failed or killed runs: " in said.out
    assert "--yes deletes them" in said.out
    assert (here / "runs/bad").is_dir()
    assert cilspl("runs", "--delete-failed", "--yes").code == 0
    assert not (here / "runs/bad").exists()
    assert (here / "runs/good/run.json").exists()


def test_checkpoints_of_finished_runs_go_and_the_run_stays(cilspl, here, pipeline):
    made(cilspl)
    for name in ("good", "bad"):
        (here / "runs" / name / "checkpoints").mkdir(exist_ok=True)
        (here / "runs" / name / "checkpoints" / "train-last.pt").write_bytes(b"x")
    assert cilspl("runs", "--drop-checkpoints", "--yes").code == 0
    assert not (here / "runs/good/checkpoints").exists()
    assert (here / "runs/bad/checkpoints/train-last.pt").exists()
    assert cilspl("table", "--from", "runs").code == 0


def test_a_run_that_someone_works_at_stays(cilspl, here, pipeline):
    from cil_spl.base import locks

    made(cilspl)
    lock = locks.hold(here / "runs" / "bad")
    try:
        cilspl("runs", "--delete-failed", "--yes")
    finally:
        lock.release()
    assert (here / "runs/bad/run.json").exists()


def test_what_is_not_there_is_named(cilspl, here):
    said = cilspl("runs")
    assert said.code == 2
    assert "runs: no such folder" in said.err
    os.mkdir("runs")
    assert cilspl("runs").out == "0 runs, 0 B, of it 0 B in checkpoints\n"
    assert "--status gone: allowed are" in cilspl("runs", "--status", "gone").err
