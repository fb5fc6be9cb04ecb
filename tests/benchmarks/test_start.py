"""The harness of benchmarks/start: its store is one that the table reads, its run ends with the first step."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cil_spl.results import runs, table

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "start"
STAGES = [
    "Python",
    "command line, Hydra, config",
    "imports: torch and the pipeline",
    "config: plan, target",
    "MLflow: import, store",
    "threads, seeds",
    "data set",
    "record, its run in MLflow",
    "network, scaling of its weights",
    "first step",
]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Loaded by its file: other folders have a bench.py as well."""
    monkeypatch.syspath_prepend(str(HERE))
    spec = importlib.util.spec_from_file_location("start_bench", HERE / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_seconds_are_judged(bench: ModuleType) -> None:
    rows = [bench.judged("it", seconds, 1.0, 8.0) for seconds in (8.0, 8.004, 8.1)]
    assert [(row["s"], row["aim"], row["reached"]) for row in rows] == [
        ("8.00", "8 s", "yes"), ("8.00", "8 s", "no"), ("8.10", "8 s", "no"),
    ]  # fmt: skip


def test_a_command_that_fails_is_named(bench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"code 3\nwhy"):
        bench.timed([sys.executable, "-c", "import sys; sys.stderr.write('why'); sys.exit(3)"], tmp_path)


@pytest.mark.slow
def test_fabricated_runs_make_a_table(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fabricate

    monkeypatch.setattr(fabricate, "METHODS", ("bptt",))
    monkeypatch.setattr(fabricate, "EPOCHS", 1)
    fabricate.fabricate(tmp_path, 6)
    found = table.tabulate([run.info for run in runs.scan(tmp_path / "runs")])
    assert [(row.identity["method"], row.identity["bins"], len(row.seeds)) for row in found.rows] == [
        ("bptt", "4", 5), ("bptt", "10", 1),
    ]  # fmt: skip
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_a_run_is_followed_to_its_first_step(bench: ModuleType, tmp_path: Path) -> None:
    (_, stages), (_, aims) = bench.first_step(tmp_path, argparse.Namespace(repeats=1))
    assert [row["what"] for row in stages] == STAGES
    assert float(aims[0]["s"]) >= float(aims[0]["user + sys, s"]) / 2 > 0


@pytest.mark.slow
def test_the_table_is_timed_from_store_and_folders(bench: ModuleType, tmp_path: Path) -> None:
    ((_, rows),) = bench.of_many(tmp_path, argparse.Namespace(repeats=1, runs=3))
    assert [row["what"].split(", ")[1] for row in rows] == ["from the store", "from their folders"]
