"""The straight line from config to row, on a few recordings of the embedded data."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from cil_spl import pipeline
from cil_spl.base.errors import RequestError
from cil_spl.data import datasets
from cil_spl.data.events import Splits
from cil_spl.results import table

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
        (["method=bptt"], ["float", "quantized", "deployed"]),
        (["method=cil_conversion", "model=qat_cnn"], ["float", "spiking", "quantized", "deployed"]),
        (
            [
                "method=bptt",
                "target=software",
                "target.precision=int8",
                "model.neuron.kind=lif",
                "model.neuron.tau_mem=4",
            ],
            ["float", "quantized", "deployed"],
        ),
        (["method=bptt", "target=software", "model.neuron.min_v_mem=null"], ["float", "deployed"]),
        (["method=conversion", "model=qat_cnn", "method.gains=[4,16]"], ["float", "spiking", "quantized", "deployed"]),
        (["method=conversion", "target=accelerator"], ["float", "quantized", "deployed"]),
        (["method=bptt", "dataset=digits", "target=software"], ["float", "deployed"]),
        (
            ["method=conversion", "method.gains=[4,16]", "dataset=digits", "target=software", "frames.encode=once"],
            ["float", "spiking", "deployed"],
        ),
        (["method=conversion", "dataset=digits", "target=accelerator"], ["float", "quantized", "deployed"]),
        (
            ["method=bptt", "target=software", "quantize.aware=true", "model.preset=scnn6"],
            ["float", "deployed"],
        ),
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
    cost, other = ("macs", "synops") if "target=accelerator" in overrides else ("synops", "macs")
    assert row[f"deployed/{cost}"] > 0
    # Of images the first layer multiplies, and the others add events.
    both = "dataset=digits" in overrides and "target=software" in overrides
    assert (f"deployed/{other}" in done["metrics"]) == both
    for name in ("config.yaml", "weights.pt", "metrics.jsonl", "confusion.csv", "figures/confusion.png"):
        assert (tmp_path / name).stat().st_size > 0
    rounded_as_on_chip = "quantized" in stages and "target=accelerator" not in overrides
    assert (tmp_path / "chip.npz").exists() == rounded_as_on_chip
    assert ("quantized/n" in done["metrics"]) == ("quantized" in stages)
    if "target=software" in overrides and not rounded_as_on_chip and "spiking" not in stages:
        assert row["drop"] == 0
    assert done["metrics"][row["score"]] == done["metrics"]["val/deployed_accuracy"]
    table = np.loadtxt(tmp_path / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 12))
    assert table.sum() == 23
    with (tmp_path / "decisions.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 23
    for stage in stages:
        right = sum(line[stage] == line["class"] for line in answers)
        assert done["metrics"][f"{stage}/accuracy"] == pytest.approx(right / 23)
    with (tmp_path / "scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert sorted(line["recording"] for line in scores) == sorted(line["recording"] for line in answers)
    for stage in stages:
        mean = np.mean([float(line[stage]) for line in scores])
        assert done["metrics"][f"{stage}/accuracy"] == pytest.approx(mean)


def test_a_run_starts_from_another(tmp_path: Path) -> None:
    """By folder and by file; a method that does nothing to the weights then ends where the other did."""
    first = pipeline.run(config(), tmp_path / "first")
    still = ["trainer.optimizer=sgd", "trainer.momentum=0", "method.lr=1e-30"]
    for name in (tmp_path / "first", tmp_path / "first" / "weights.pt"):
        again = pipeline.run(config(f"start_from={name}", *still), tmp_path / f"from_{name.name}")
        assert again["deployed/accuracy"] == first["deployed/accuracy"]
    chip = pipeline.run(config(f"start_from={tmp_path / 'first'}", "method=cil_bptt", *still), tmp_path / "chip")
    assert chip["deployed/accuracy"] == first["deployed/accuracy"]
    with pytest.raises(RequestError, match=r"start_from.*another model"):
        pipeline.run(
            config(f"start_from={tmp_path / 'first'}", "model.layers=[{conv:4,kernel:3,pool:4},{linear:classes}]"),
            tmp_path / "other",
        )
    for wrong in (tmp_path / "nowhere", tmp_path / "first" / "chip.npz"):
        with pytest.raises(RequestError, match=wrong.name):
            pipeline.run(config(f"start_from={wrong}"), tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "run.json").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=cil_bptt", "observer=none"], "observer=none"),
        (["method=bptt", "observer=chip"], "observer=chip: method=bptt"),
        (["method=cil_bptt", "target=software"], "target=software: observer=chip"),
        (["target=accelerator"], "use method=conversion"),
        (["model.neuron.kind=lif", "model.neuron.tau_mem=5"], "model.neuron.kind=lif: target=speck"),
        (["model.neuron.min_v_mem=null"], "quantising needs a lower bound"),
        (["model.neuron.spike_threshold=7000", "method.init_rate=0.1"], "spike_threshold=7000: must be at most 6553.4"),
        (["method=cil_bptt", "observer.layers=some"], "observer.layers=some"),
        (["method=cil_bptt", "observer.die={dread: 1}"], "observer.die.dread"),
        (["method=cil_bptt", "method.plain=1.5"], "method.plain=1.5"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(overrides: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as told:
        pipeline.run(config(*overrides), tmp_path / "run")
    assert words in str(told.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(RequestError, match=re.escape(str(told.value))):
        pipeline.validate(config(*overrides))


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
    # The same run under two names: what tells them apart is compared, and every recording was answered alike.
    one, two = ({**runs[0], "folder": str(tmp_path / "a"), "params": runs[0]["params"] | {"x": x}} for x in (1, 2))
    reference, same = table.tabulate([one, two], against=["x=1"]).rows
    assert reference.chosen
    assert (same.difference.low, same.difference.high) == (0, 0)


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
        pipeline.run(config("target.backend=device", "target.monitor=all"), tmp_path)
