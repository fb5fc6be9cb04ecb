"""The straight line from config to row, on a few recordings of the embedded data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from cil_spl import pipeline, table
from cil_spl.data import datasets
from cil_spl.data.events import Splits
from cil_spl.errors import RequestError

QUICK = [
    "trainer.epochs=1",
    "trainer.limit_batches=4",
    "trainer.batch_size=16",
    "frames.bins=3",
    "tracking.enabled=false",
]


@pytest.fixture(autouse=True)
def few_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sixteenth recording: the line is tested here, not the accuracy."""
    load = datasets.load

    def some(*args: Any, **kwargs: Any) -> tuple[Splits, ...]:
        (data,) = load(*args, **kwargs)
        parts = (part.subset(np.arange(0, len(part), 16)) for part in (data.train, data.val, data.test))
        return (Splits(*parts),)

    monkeypatch.setattr(datasets, "load", some)


def config(*overrides: str) -> DictConfig:
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        return compose("config", overrides=[*QUICK, *overrides])


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ([], ["float", "quantized", "deployed"]),
        (["target=software", "model.neuron.kind=lif", "model.neuron.tau_mem=4"], ["float", "quantized", "deployed"]),
        (["method=conversion", "model=qat_cnn", "method.gains=[4,16]"], ["float", "spiking", "quantized", "deployed"]),
        (["method=conversion", "target=accelerator"], ["float", "quantized", "deployed"]),
        (["target=software", "quantize.aware=true", "model.preset=scnn6"], ["float", "quantized", "deployed"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_run_leaves_its_row_and_files(overrides: list[str], stages: list[str], tmp_path: Path) -> None:
    row = pipeline.run(config(*overrides), tmp_path)
    done = result(tmp_path)
    assert done["status"] == "finished"
    for stage in stages:
        assert 0 <= row[f"{stage}/accuracy"] <= 1
        assert done["metrics"][f"{stage}/n"] == 23
    assert row["drop"] == pytest.approx(row["float/accuracy"] - row["deployed/accuracy"])
    assert row["deployed/synops"] > 0
    for name in ("config.yaml", "weights.pt", "metrics.jsonl", "confusion.csv", "figures/confusion.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert (tmp_path / "chip.npz").exists() == ("target=accelerator" not in overrides)
    table = np.loadtxt(tmp_path / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 12))
    assert table.sum() == 23


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    first, again, other = (
        pipeline.run(config(f"seed={seed}"), tmp_path / name) and result(tmp_path / name)["metrics"]
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    )
    assert first == again
    assert first != other
    runs = [result(tmp_path / name) for name in "ac"]
    (row,) = table.tabulate(runs).rows  # two seeds of one configuration are one row
    assert len(row.seeds) == 2


def test_a_network_too_large_is_refused_before_the_data_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("data was loaded")

    monkeypatch.setattr(datasets, "load", never)
    cfg = config("model.layers=[{conv:512,kernel:3,padding:1},{linear:classes}]")
    with pytest.raises(RequestError, match="conv1"):
        pipeline.run(cfg, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_data_set_that_is_not_there_leaves_no_run(tmp_path: Path) -> None:
    cfg = config("dataset=nmnist", f"dataset.root={tmp_path / 'nowhere'}", "dataset.download=false")
    with pytest.raises(RequestError, match="nowhere"):
        pipeline.run(cfg, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_cuda_without_a_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RequestError, match=r"trainer\.device=cuda"):
        pipeline.run(config("trainer.device=cuda"), tmp_path)


def test_device_without_real_samna_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"target\.backend=device: .*samna"):
        pipeline.run(config("target.backend=device"), tmp_path)
