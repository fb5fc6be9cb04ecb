"""Networks that are no chains, and a user's own, from config to row, on a few embedded recordings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from cil_spl import cli, load, pipeline
from cil_spl.base.errors import RequestError
from cil_spl.chip import interchange
from cil_spl.chip.simulator import simulate
from cil_spl.data import datasets
from cil_spl.data.events import Splits
from cil_spl.models import kinds
from cil_spl.results import runs
from tests.chip import reference

QUICK = ["trainer.epochs=1", "trainer.limit_batches=3", "trainer.batch_size=8", "frames.bins=2",
         "tracking.enabled=false", "dataset.preprocess.crop=[8, 8, 17, 17]"]  # fmt: skip
RESIDUAL = (
    "model.layers=[{conv: 4, stride: 2, padding: 1, name: stem}, {conv: 4, padding: 1, name: branch}, "
    "{conv: 4, padding: 1, inputs: [stem, branch], name: after}, {linear: classes}]"
)
NORMED = (
    "model.layers=[{conv: 4, padding: 1, pool: 2, norm: NORM}, {conv: 4, padding: 1, norm: NORM}, {linear: classes}]"
)
FEEDBACK = (
    "model.layers=[{conv: 4, stride: 2, padding: 1, neuron: false, name: drive}, {delay: hidden, name: before}, "
    "{conv: 4, padding: 1, neuron: false, inputs: [before], name: back}, "
    "{add: [drive, back], neuron: true, name: hidden}, {linear: classes}]"
)


@pytest.fixture(autouse=True)
def few_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thirty-second recording: the line is tested here, not the accuracy."""
    whole = datasets.load

    def some(*args: Any, **kwargs: Any) -> tuple[Splits, ...]:
        (data,) = whole(*args, **kwargs)
        return (Splits(*(part.subset(np.arange(0, len(part), 32)) for part in (data.train, data.val, data.test))),)

    monkeypatch.setattr(datasets, "load", some)


def config(*overrides: str) -> DictConfig:
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        return compose("config", overrides=[*QUICK, *overrides])


def finished(folder: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((folder / "run.json").read_text())
    assert info["status"] == "finished"
    return info


def held_against_reference(folder: Path, n: int = 3) -> None:
    """``chip.npz`` on test recordings of the run: the compiled simulator and the plain one, neuron by neuron."""
    chip = interchange.load(folder / "chip.npz")
    cfg = config()
    test = datasets.load(cfg.dataset, None, cfg.seed, ())[-1].test
    events, offsets = test.take(np.arange(n))
    answer = simulate(chip, events, offsets, np.array([[0, 1 << 30]] * n), record=("counts", "v_mem"))
    assert answer.layer_counts is not None
    for b in range(n):
        expected = reference.run(chip, events[offsets[b] : offsets[b + 1]], (0, 1 << 30))
        for k in range(len(chip.layers)):
            assert np.array_equal(answer.layer_counts[k][b], expected.layer_counts[k])
            assert answer.synops[b, k] == expected.synops[k]
    assert sum(int(counts.sum()) for counts in answer.layer_counts[:2]) > 0


@pytest.mark.parametrize("method", [["method=bptt"], ["method=cil_bptt", "observer=chip", "observer.layers=all"]])
def test_a_residual_network_on_the_chip(method: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = pipeline.run(config(*method, RESIDUAL), tmp_path)
    finished(tmp_path)
    chip = interchange.load(tmp_path / "chip.npz")
    assert [[d.layer for d in layer.destinations] for layer in chip.layers] == [[1, 2], [2], [3], []]
    assert {layer.core for layer in chip.layers} <= set(range(9))
    assert row["deployed/synops"] > 0
    held_against_reference(tmp_path)
    capsys.readouterr()
    assert cli.main(["chip", "show", str(tmp_path)]) == 0
    by_run = capsys.readouterr().out
    assert cli.main(["chip", "show", str(tmp_path / "chip.npz")]) == 0
    assert capsys.readouterr().out == by_run
    assert [line.split()[-1] for line in by_run.splitlines()[1:]] == ["branch", "after", "after", "linear4", "out)"]
    assert max(map(len, by_run.splitlines())) <= 80


def test_batch_norm_is_refused_for_the_chip_and_runs_in_software(tmp_path: Path) -> None:
    layers = NORMED.replace("NORM", "batch")
    with pytest.raises(RequestError, match=r"layer norm1 \(norm\) adds a current.*norm: scale.*target=software"):
        pipeline.run(config("method=bptt", layers), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    pipeline.run(config("method=bptt", "target=software", layers), tmp_path / "run")
    finished(tmp_path / "run")
    network = load.load(runs.find(str(tmp_path / "run")))
    assert float(network.net.get_submodule("norm1").num_batches_tracked) == 3  # a batch each, none in evaluation


def test_a_norm_without_shift_is_part_of_the_chips_weights(tmp_path: Path) -> None:
    pipeline.run(config("method=cil_bptt", "observer=chip", NORMED.replace("NORM", "scale")), tmp_path)
    finished(tmp_path)
    held_against_reference(tmp_path)
    network = load.load(runs.find(str(tmp_path)))
    assert [layer.kind for layer in network.plan.layers].count("norm") == 2
    again = network.target.quantize(network.net).chip
    left = interchange.load(tmp_path / "chip.npz")
    assert again is not None
    for a, b in zip(again.layers, left.layers, strict=True):
        assert np.array_equal(a.weight, b.weight)
        assert (a.threshold, a.min_v_mem) == (b.threshold, b.min_v_mem)


def test_feedback_in_software_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    words = ["method=bptt", "target=software", FEEDBACK]
    whole = pipeline.run(config(*words, "trainer.epochs=2", "trainer.schedule=constant"), tmp_path / "whole")
    pipeline.run(config(*words, "trainer.schedule=constant"), tmp_path / "short")
    longer = config(*words, "trainer.epochs=2", "trainer.schedule=constant")
    again = pipeline.run(longer, tmp_path / "short", resume=True)
    for name, value in whole.items():
        if isinstance(value, float) and "second" not in name:
            assert again[name] == pytest.approx(value, nan_ok=True, abs=0), name


def test_trained_thresholds_of_channels_on_the_chip(tmp_path: Path) -> None:
    neuron = ["model.neuron.trained_threshold=true", "model.neuron.threshold_per=channel", "model.neuron.v_init=0.25"]
    in_loop = ["method=cil_bptt", "observer=chip", "observer.layers=all", "observer.v_mem=true"]
    pipeline.run(config(*in_loop, RESIDUAL, *neuron), tmp_path)
    finished(tmp_path)
    network = load.load(runs.find(str(tmp_path)))
    learned = network.net.get_submodule("spike1").spike_threshold
    assert learned.shape == (4, 1, 1)  # type: ignore[union-attr]
    assert len(set(learned.flatten().tolist())) > 1  # type: ignore[operator,union-attr]
    assert all(layer.v_init > 0 for layer in interchange.load(tmp_path / "chip.npz").layers)
    held_against_reference(tmp_path)


def test_a_residual_network_rounded_in_software(tmp_path: Path) -> None:
    pipeline.run(config("method=bptt", "target=software", "target.precision=int8", RESIDUAL), tmp_path)
    done = finished(tmp_path)
    assert done["metrics"]["quantized/accuracy"] == done["metrics"]["deployed/accuracy"]


@pytest.mark.parametrize("method", ["conversion", "cil_conversion"])
def test_conversions_of_a_residual_network(method: str, tmp_path: Path) -> None:
    words = ["method.gains=[4,16]"] if method == "conversion" else []
    pipeline.run(config(f"method={method}", RESIDUAL, *words), tmp_path)
    metrics = finished(tmp_path)["metrics"]
    assert {"float/macs", "spiking/synops", "deployed/synops"} <= set(metrics)
    held_against_reference(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=bptt", "target=software", "target.precision=int8", FEEDBACK],
         r"target.precision=int8 rounds by the chip's rule: .*layer before \(delay\).*target.precision=float32"),
        (["method=bptt", "target=software", "quantize.aware=true", NORMED.replace("NORM", "batch")],
         r"quantize.aware=true rounds by the chip's rule: .*norm1.*with quantize.aware=false"),
        (["method=conversion", "target=software", FEEDBACK], r"layer before \(delay\) runs in time steps, and a CNN"),
        (["method=bptt", "model.neuron.v_init=1"], "v_init=1: must be below model.neuron.spike_threshold=1"),
        (["method=bptt", FEEDBACK], r"layer before \(delay\): a chip has no delays, so no feedback; use target"),
        (["method=bptt", RESIDUAL.replace("{linear: classes}", "{conv: 4, padding: 1, inputs: [stem], name: x}, "
          "{linear: classes, inputs: [after, x]}")], "layer stem: number of destinations is 3; the chip allows"),
    ],
)  # fmt: skip
def test_refused_before_any_work(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        pipeline.validate(config(*words))


OWN = """
import sinabs.layers as sl
import torch
from torch import nn

from cil_spl.models.kinds import Kind, register


def chain(input_shape, n_outputs, width=4):
    c, height, width_px = input_shape
    return nn.Sequential(
        nn.Conv2d(c, width, 3, stride=2, padding=1, bias=False), sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0),
        nn.Flatten(), nn.LazyLinear(n_outputs, bias=False), sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0),
    )


def unbounded(input_shape, n_outputs):
    net = chain(input_shape, n_outputs)
    net[1] = sl.IAFSqueeze(batch_size=1)
    return net


class Recurrent(nn.Module):
    over_time = True

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.rnn = nn.GRU(input_shape[0] * (input_shape[1] // 4) * (input_shape[2] // 4), n_outputs)

    def forward(self, x):
        steps, batch = x.shape[:2]
        return self.rnn(self.pool(x.flatten(0, 1)).flatten(1).unflatten(0, (steps, batch)))[0]


class Gain(nn.Module):
    def __init__(self, features, start):
        super().__init__()
        self.gain = nn.Parameter(torch.full((features, 1, 1), float(start)))

    def forward(self, x):
        return self.gain * x


def shape(name, p, inputs):
    return inputs[0]


def module(name, p, inputs):
    return Gain(inputs[0][0], p["start"])


register("gain", Kind(shape=shape, module=module))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's, in a folder of theirs."""
    (tmp_path / "own_graphs.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(kinds, "KINDS", kinds.KINDS)
    yield ["own_graphs"]
    sys.modules.pop("own_graphs", None)
    kinds.KINDS.pop("gain", None)


@pytest.mark.parametrize(
    ("name", "target", "args"),
    [("chain", "speck", ["+model.args.width=3"]), ("Recurrent", "software", [])],
)
def test_a_network_of_the_users_own(name: str, target: str, args: list[str], own: list[str], tmp_path: Path) -> None:
    words = ["method=bptt", f"target={target}", f"model._target_=own_graphs.{name}", *args]
    row = pipeline.run(config(*words), tmp_path / "run", extensions=own)
    finished(tmp_path / "run")
    network = load.load(runs.find(str(tmp_path / "run")), extensions=own)
    cfg = config("dataset.preprocess.crop=null")  # recordings as the sensor gave them: predict does what the run did
    test = datasets.load(cfg.dataset, None, cfg.seed, ())[-1].test
    decided = []
    for i in range(len(test)):
        events, _ = test.take(np.array([i]))
        decided.append(network.predict(events).decision)
    right = np.mean(np.array(decided) == test.target)
    assert right == pytest.approx(row["deployed/accuracy"])
    if target == "speck":
        assert interchange.load(tmp_path / "run" / "chip.npz").layers[0].weight.shape[0] == 3
    with pytest.raises(RequestError, match="own_graphs"):
        load.load(runs.find(str(tmp_path / "run")))


def test_own_neurons_that_no_chip_rounds_are_refused_before_training(own: list[str]) -> None:
    words = ["method=bptt", "model._target_=own_graphs.unbounded"]
    with pytest.raises(RequestError, match="layer layer1: min_v_mem=None cannot be quantised"):
        pipeline.validate(config(*words), extensions=own)
    pipeline.validate(config(*words, "target=software"), extensions=own)


def test_a_kind_of_layer_of_the_users_own(own: list[str], tmp_path: Path) -> None:
    layers = ("model.layers=[{conv: 4, stride: 2, padding: 1, neuron: false}, "
              "{gain: {start: 2}, neuron: true, pool: 2}, {linear: classes}]")  # fmt: skip
    words = ["method=bptt", "target=software", layers]
    with pytest.raises(RequestError, match=r"model.layers\[1\].*a kind of your own needs the module that registers it"):
        pipeline.validate(config(*words))
    pipeline.run(config(*words), tmp_path / "run", extensions=own)
    finished(tmp_path / "run")
    network = load.load(runs.find(str(tmp_path / "run")), extensions=own)
    assert [layer.kind for layer in network.plan.layers[:4]] == ["conv", "gain", "neuron", "avgpool"]
    assert set(network.net.get_parameter("gain2.gain").flatten().tolist()) != {2.0}  # it has learned
    with pytest.raises(RequestError, match=r"layer gain2 \(gain\): on a chip every core is weights"):
        pipeline.validate(config("method=bptt", layers), extensions=own)
    for wrong, message in (
        ("{gain: 3}", r"model.layers\[1\].gain=3: needs its parameters"),
        ("{gain: {start: 2}, nueron: true}", r"model.layers\[1\].nueron=.*no such key.*neuron"),
    ):
        changed = layers.replace("{gain: {start: 2}, neuron: true, pool: 2}", wrong)
        with pytest.raises(RequestError, match=message):
            pipeline.validate(config(*words[:2], changed), extensions=own)
