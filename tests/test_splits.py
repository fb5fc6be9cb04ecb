"""Which recordings each number of a run is of, and which ones a choice may see: in whole runs of every method.

The three sets have 31, 13 and 17 recordings: an accuracy k / n that is neither 0 nor 1 tells by its n what it is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from cil_spl import pipeline
from cil_spl.data import datasets
from cil_spl.data.batches import Batch, Batches
from cil_spl.data.events import Splits
from cil_spl.training import epochs
from cil_spl.training.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"train": 31, "val": 13, "test": 17}
EPOCHS = 4
QUICK = [
    f"trainer.epochs={EPOCHS}",
    "trainer.batch_size=31",
    "frames.bins=2",
    "tracking.enabled=false",
    "dataset.augment=null",
]
METHODS = {
    "bptt": [],
    "bptt on software": ["target=software"],
    "cil_bptt": ["method.plain=0.25"],
    "sltt": [],
    "sltt_k": [],
    "ottt": [],
    "dsr": [],
    "opzo": [],
    "ottt online": ["method.update=online"],
    "conversion": ["method.gains=[2,8]"],
    "tandem": [],
    "qcfs": [],
    "ptl": ["method.stage_epochs=2", "method.levels=8"],
    "conversion, accelerator": ["target=accelerator"],
    "cil_conversion": [],
}


def of_two_classes(part: Any, name: str, n: int) -> Any:
    """``n`` recordings with answers that nothing but chance gets half right."""
    some = part.subset(np.arange(n))
    names = np.array([f"{name}/{i}" for i in range(n)])
    target = np.random.default_rng(len(name)).permutation(np.arange(n) % 2) if name != "train" else some.target % 2
    return replace(some, name=names, target=target.astype(some.target.dtype))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was made batches of, in order, as (part of the run, set)."""
    load = datasets.load

    def some(*args: Any, **kwargs: Any) -> tuple[Splits, ...]:
        (data,) = load(*args, **kwargs)
        return (Splits(**{name: of_two_classes(getattr(data, name), name, n) for name, n in SIZES.items()}),)

    found: list[tuple[str, str]] = []
    now = ["training"]
    epoch, deploy, ahead = Batches.epoch, pipeline.deploy, epochs.ahead

    def noted(self: Batches, n: int = 0) -> Iterator[Batch]:
        found.extend((now[0], str(name).partition("/")[0]) for name in self.data.name)
        return epoch(self, n)

    def deployed(*args: Any) -> Any:
        now[0] = "deploying"
        return deploy(*args)

    def stepped(batches: Iterator[Batch]) -> Iterator[Batch]:
        before = now[0]
        now[0] = "steps"
        try:
            yield from ahead(batches)
        finally:
            now[0] = before

    monkeypatch.setattr(datasets, "load", some)
    monkeypatch.setattr(Batches, "epoch", noted)
    monkeypatch.setattr(pipeline, "deploy", deployed)
    monkeypatch.setattr(epochs, "ahead", stepped)
    return found


def run(folder: Path, method: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    words = [f"method={method.partition(',')[0].partition(' ')[0]}", *METHODS[method]]
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        cfg = compose("config", overrides=[*QUICK, *words])
    pipeline.run(cfg, folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "run.json").read_text()), lines


def of(accuracy: float) -> str | None:
    """The set that an accuracy is of; None where it does not say."""
    if accuracy in (0, 1):
        return None
    n = Fraction(accuracy).limit_denominator(99).denominator
    return next((name for name, size in SIZES.items() if size == n), f"none of them: {accuracy}")


def test_every_method_is_here() -> None:
    assert {name.partition(",")[0].partition(" ")[0] for name in METHODS} == {
        path.stem for path in ROOT.glob("conf/method/*.yaml")
    }


@pytest.mark.parametrize("method", METHODS)
def test_no_choice_sees_the_test_set_and_each_number_is_of_its_own(
    method: str, tmp_path: Path, seen: list[tuple[str, str]]
) -> None:
    info, lines = run(tmp_path, method)
    parts = set(seen)
    assert ("training", "test") not in parts
    assert {name for part, name in parts if part == "steps"} <= {"train"}
    assert {name for part, name in parts if part == "deploying"} >= {"val", "test"}
    told = 0
    for line in lines:
        for name, value in line.items():
            if name.endswith("accuracy"):
                assert of(value) in (name.partition("/")[0], None), (name, value)
                told += of(value) is not None
    for name, value in info["metrics"].items():
        if name.endswith("/accuracy") or name == info["row"]["score"]:
            expected = "val" if name.startswith("val/") else "test"
            assert of(value) in (expected, None), (name, value)
            told += of(value) is not None
    assert told >= 4
    assert {info["metrics"][f"{stage}/n"] for stage in ("float", "deployed")} == {SIZES["test"]}
    assert info["row"]["n"] == SIZES["test"]
    check_best_epochs(tmp_path)
    if method == "bptt":  # its network is that of the epoch as it was
        kept = read_checkpoint(tmp_path / "checkpoints" / "train-best.pt")["keep"]["net"]
        left = read_checkpoint(tmp_path / "weights.pt")["weights"]
        assert all(torch.equal(left[name], kept[name]) for name in kept)


def check_best_epochs(folder: Path) -> None:
    """The epoch that counts is the first of the best on the validation recordings."""
    for best in (folder / "checkpoints").glob("*-best.pt"):
        stage = read_checkpoint(best.with_name(best.name.replace("best", "last")))["fitted"]
        names = ("val/loss", "val/deployed_accuracy", "val/accuracy")
        name = next(name for name in names if name in stage["history"][0])
        scores = [line[name] for line in stage["history"]]
        first = min(scores) if name == "val/loss" else max(scores)
        assert stage["best_score"] == first
        assert stage["best_epoch"] == 1 + scores.index(first)
        assert read_checkpoint(best)["epoch"] == stage["best_epoch"]
