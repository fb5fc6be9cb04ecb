"""The script of experiments/table1: its statistics on made-up runs, and its whole path on a few batches."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cil_spl.results import scores

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "table1" / "run.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("table1", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(folder: Path, method: str, seed: int, software: np.ndarray, chip: np.ndarray) -> dict[str, Any]:
    """A run's row, with the scores that its folder held."""
    folder.mkdir(parents=True)
    lines = [f"r{i},{int(a)},{int(b)}" for i, (a, b) in enumerate(zip(software, chip, strict=True))]
    (folder / scores.SCORES_FILE).write_text("\n".join(["recording,float,deployed", *lines]) + "\n")
    told = {"recordings": "r", "n": len(chip), "stages": {}}
    for stage, values in (("float", software), ("deployed", chip)):
        told["stages"][stage] = scores._packed(values.astype(float))
    params = {"method.name": method, "frames.bins": 2, "quantize.aware": False}
    return {"params": params, "row": {"seed": seed}, "scores": told}


def test_the_share_of_the_drop_and_its_interval(script: Any, tmp_path: Path) -> None:
    """BPTT 90 → 80 %, CIL 89 % on the chip: nine tenths of the drop are removed."""
    n = np.arange(1000)
    made = [
        row(tmp_path / f"{method}{seed}", method, seed, n < software, n < chip)
        for seed in (0, 1)
        for method, software, chip in (("bptt", 900, 800), ("cil_bptt", 850, 890))
    ]
    assert script.share_text(made, 2).startswith("Share of BPTT's drop that CIL-SPL removes: 90% (")
    assert "seeds [0, 1]" in script.share_text(made, 2)
    assert script.share_text(made, 4) == ""
    assert script.share_text(made[:1], 2) == ""


def test_the_bootstrap_is_paired(script: Any) -> None:
    """Two methods right on the same half of the recordings: each is uncertain, their difference is not."""
    same = (np.arange(400) < 200).astype(float)[None]
    assert script.bootstrap(lambda d: d[0] - d[1], [same, same]) == (0, 0, 0)
    value, low, high = script.bootstrap(lambda d: d[0], [same])
    assert value == 0.5
    sd = 0.5 / 400**0.5
    assert low == pytest.approx(0.5 - 1.96 * sd, abs=0.15 * sd)
    assert high == pytest.approx(0.5 + 1.96 * sd, abs=0.15 * sd)


def test_the_bootstrap_draws_seeds_too(script: Any) -> None:
    parts = [np.stack([np.zeros(50), np.ones(50)])]
    assert script.bootstrap(lambda d: d[0], parts) == pytest.approx((0.5, 0.0, 1.0), abs=1e-9)


@pytest.mark.slow
def test_the_whole_path_and_going_on(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--bins", "1", "2", "--seeds", "0", "1"]
    command += ["--", "trainer.epochs=1", "trainer.limit_batches=3", "tracking.enabled=false"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.count("cilspl run -m") == 4
    assert len(list(tmp_path.glob("runs/sweeps/*/*/*/run.json"))) == 2 * (3 * 2 + 3)
    assert done.stdout.count("Share of BPTT's drop") == 2
    again = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert len(list(tmp_path.glob("runs/sweeps/*/*/*/run.json"))) == 2 * (3 * 2 + 3)
    assert again.stdout.split("cilspl table")[1:] == done.stdout.split("cilspl table")[1:]
