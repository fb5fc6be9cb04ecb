"""Runs that are killed with SIGKILL at random moments and go on: they end as if nothing had been.

    python -m pytest -m slow tests/test_kills.py          CILSPL_KILLS=30 by default, spread over the four methods

The moments are drawn (seed 0) over the whole life of a run: start, data preparation, training, evaluation, the record's
end. After each kill `resume=RUN` follows, or the same command where no run had been recorded yet. Weights, chip network
and the set of (metric, step, value), in the folder and in MLflow, must be those of a run that was not killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cil_spl.results.store import client_of, connect
from cil_spl.results.values import is_timing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

METHODS = ("bptt", "conversion", "cil_bptt", "cil_conversion", "ptl")
KILLS = int(os.environ.get("CILSPL_KILLS", "30"))
WORDS = [
    "run",
    "model.layers=[{conv:4,kernel:3,pool:4},{linear:classes}]",
    "trainer.epochs=4",
    "trainer.limit_batches=3",
    "trainer.threads=1",
    "target.backend=simulator",
]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cil_spl.cli", *words]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "CILSPL_CACHE": str(cache), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def finish(words: list[str], cwd: Path, cache: Path) -> None:
    done = subprocess.run(command(*words), cwd=cwd, env=environment(cache), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def kill_after(seconds: float, words: list[str], cwd: Path, cache: Path) -> bool:
    """Start a command and kill it; whether it was still at work."""
    with (cwd / "killed.log").open("w") as log:
        started = subprocess.Popen(command(*words), cwd=cwd, env=environment(cache), stdout=log, stderr=log)
        try:
            started.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            started.send_signal(signal.SIGKILL)
            started.wait()
            return True
    return False


def kill_all_in(cwd: Path) -> None:
    """SIGKILL to every process that stands in a folder: torchrun's ranks have sessions of their own."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").resolve() == cwd.resolve() and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


def recorded(cwd: Path) -> Path | None:
    """The folder of the run that was recorded, if any was."""
    found = list(cwd.glob("runs/**/run.json"))
    return found[0].parent if found else None


def outcome(folder: Path) -> dict[str, Any]:
    """What a run came to: numbers of its weights and chip network, and its metrics, in the folder and in MLflow."""
    info = json.loads((folder / "run.json").read_text())
    assert info["status"] == "finished"
    weights = torch.load(folder / "weights.pt", weights_only=True)["weights"]
    chip = np.load(folder / "chip.npz")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    client = client_of(f"sqlite:///{folder.parents[2] / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    ids = [run.info.run_id for run in runs]
    assert ids == [info["run_id"]]  # one run in the store, not one for each attempt
    assert runs[0].info.status == "FINISHED"
    stored = {
        (key, point.step, point.value)
        for key in runs[0].data.metrics
        for point in client.get_metric_history(ids[0], key)
        if not is_timing(key)
    }
    return {
        "weights": {name: value.tolist() for name, value in weights.items()},
        "chip": {name: chip[name].tolist() for name in chip.files if name.startswith("weight")},
        "final": info["metrics"],
        "row": info["row"],
        "folder": [{k: v for k, v in line.items() if k not in ("time", "crc") and not is_timing(k)} for line in lines],
        "store": stored,
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders to stand in, each with a tracking store of its own, or without one."""
    template = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{template}")

    def make(name: str, *, with_store: bool = True) -> Path:
        place = tmp_path_factory.mktemp(name)
        if with_store:
            shutil.copy(template, place / "mlflow.db")
        return place

    return make


@pytest.mark.parametrize("method", METHODS)
def test_killed_runs_end_as_if_nothing_had_been(method: str, places: Any, tmp_path: Path) -> None:
    words, cache = [*WORDS, f"method={method}"], tmp_path / "cache"
    first = places("first")
    finish(words, first, cache)  # compiles and makes the data set
    whole = places("whole")
    began = time.monotonic()
    finish(words, whole, cache)
    life = time.monotonic() - began
    expected = outcome(recorded(whole) or whole)
    assert outcome(recorded(first) or first) == expected
    draw = random.Random(METHODS.index(method))
    kills = KILLS // len(METHODS) + (METHODS.index(method) < KILLS % len(METHODS))
    for k in range(kills):
        fresh = k % 4 == 0  # without the data set and without a store, which take time of their own
        moment = draw.uniform(0.05, 1.0) * life * (1.7 if fresh else 1.0)
        while True:  # a kill that comes after the run's end is none
            place = places(f"{method}{k}", with_store=not fresh)
            own_cache = place / "cache" if fresh else cache
            if kill_after(moment, words, place, own_cache):
                break
            moment *= 0.7
        folder = recorded(place)
        finish(words if folder is None else ["run", f"resume={folder}"], place, own_cache)
        assert outcome(recorded(place) or place) == expected, f"kill {k}"


def test_two_ranks_are_killed_and_go_on(places: Any, tmp_path: Path) -> None:
    """Rank 1's process too; resumed by torchrun, the run ends as the one that was not killed."""
    ranks = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "cil_spl.cli",
    ]
    words = [*WORDS, "method=cil_bptt", "method.plain=0.25", "trainer.batch_size=8"]
    options: dict[str, Any] = {"env": environment(tmp_path / "cache"), "stdout": subprocess.DEVNULL}
    whole, cut = places("whole"), places("cut")
    subprocess.run([*ranks, *words], cwd=whole, check=True, timeout=600, **options)
    with (cut / "killed.log").open("w") as log:
        started = subprocess.Popen([*ranks, *words], cwd=cut, stderr=log, start_new_session=True, **options)
        deadline = time.monotonic() + 300
        while not list(cut.glob("runs/**/checkpoints/train-last.pt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        kill_all_in(cut)
        started.wait()
    folder = recorded(cut)
    assert folder is not None
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    subprocess.run([*ranks, "run", f"resume={folder}"], cwd=cut, check=True, timeout=600, **options)
    assert outcome(folder) == outcome(recorded(whole) or whole)
