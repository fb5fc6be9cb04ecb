"""Several ranks through torchrun: one run, on the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "model.layers=[{conv:4,kernel:3,pool:4},{linear:classes}]",
    "trainer.epochs=2",
    "trainer.limit_batches=3",
    "trainer.threads=1",
    "target.backend=simulator",
    "tracking.enabled=false",
]
# Run once per rank: one step of the run that the words ask for, and its gradients, before any is averaged away.
ONE_STEP = """
import sys, torch
from cil_spl import pipeline
from cil_spl.base import ranks
from cil_spl.cli.compose import composed
from cil_spl.training.update import Update

class Stop(Exception): pass
def keep(params):
    if ranks.first():
        torch.save([p.grad.clone() for p in params], sys.argv[1])
    raise Stop
init = Update.__init__
Update.__init__ = lambda self, *args, **kwargs: init(self, *args, **kwargs | {"transform": keep})
try:
    pipeline.run(composed(sys.argv[3:]), sys.argv[2])
except Stop:
    pass
"""


def torchrun(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=250, check=False)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bptt", "cil_bptt"])
def test_two_ranks_are_one_run(method: str, tmp_path: Path) -> None:
    """The folder is named by torchrun's id and written by rank 0; killed and resumed, it ends the same."""
    words = [*SMALL, f"method={method}", "trainer.batch_size=8"]
    if method == "cil_bptt":
        words.append("method.plain=0")
    done = torchrun("-m", "cil_spl.cli", "run", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "runs" / "ranks").iterdir()
    whole = result(folder)
    assert whole["status"] == "finished"
    assert done.stdout.count("Deployed %") == 1
    assert done.stderr.count("train 2/2") == 1
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


@pytest.mark.slow
def test_the_first_steps_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    script = tmp_path / "one_step.py"
    script.write_text(ONE_STEP)
    words = [*SMALL, "method=bptt"]
    done = torchrun(str(script), "two.pt", "two", *words, "trainer.batch_size=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one = [sys.executable, str(script), "one.pt", "one", *words, "trainer.batch_size=16"]
    subprocess.run(one, cwd=tmp_path, env=environment(), check=True, timeout=250, capture_output=True)
    two_ranks, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("two", "one"))
    assert len(alone) == 2
    for a, b in zip(two_ranks, alone, strict=True):
        assert float(b.abs().max()) > 0
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def result(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run.json").read_text())
