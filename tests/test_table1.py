"""The script of experiments/table1: its statistics on made-up runs, and its whole path on a few batches."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "table1" / "run.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("table1", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, right: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    with (folder / "decisions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["recording", "class", *right])
        for i in range(len(next(iter(right.values())))):
            writer.writerow([f"r{i}", "a", *("a" if r[i] else "b" for r in right.values())])


def test_the_share_of_the_drop_and_its_interval(script: Any, tmp_path: Path) -> None:
    """BPTT 90 → 80 %, CIL 89 % on the chip: nine tenths of the drop are removed."""
    n = np.arange(1000)
    for seed in (0, 1):
        for row, software, chip in (("BPTT", 900, 800), ("BPTT, aware", 900, 800), ("CIL-SPL (BPTT)", 850, 890)):
            stages = {"float": n < software, "quantized": n < software, "deployed": n < chip}
            write(script.folder(tmp_path, "event_digits", row, 2, seed), stages)
    text = script.table(tmp_path, "event_digits", 2, [0, 1])
    assert "| BPTT | 90.00 ± 0.00 | 90.00 ± 0.00 | 80.00 ± 0.00 | 10.00 |" in text
    assert "| CIL-SPL (BPTT) | 85.00 ± 0.00 | 85.00 ± 0.00 | 89.00 ± 0.00 | -4.00 |" in text
    assert "CIL-SPL (BPTT) - BPTT: +9.00" in text
    assert "removes: 90% (" in text
    assert "| CNN" not in text  # its runs are not there


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
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "runs"), "--bins", "1", "2"]
    command += ["--", "trainer.epochs=1", "trainer.limit_batches=3", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("cilspl run") == 9  # three of six rows have no windows
    assert done.stdout.count("| CIL-SPL (conversion) |") == 2
    broken = tmp_path / "runs" / "event_digits" / "bptt-2-s0" / "run.json"
    broken.write_text(broken.read_text().replace('"finished"', '"killed"'))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.count("cilspl run") == 1
    assert [x for x in again.stdout.splitlines() if not x.startswith("cilspl run")] == [
        x for x in done.stdout.splitlines() if not x.startswith("cilspl run")
    ]
