"""What a target says of itself, and a die that is not ideal."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cil_spl.base.errors import RequestError
from cil_spl.cli import doctor
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, from_list
from cil_spl.models.build import build, plan_from
from cil_spl.targets import board
from cil_spl.targets.accelerator import Accelerator, int8_twin
from cil_spl.targets.software import Software
from cil_spl.targets.speck import Speck
from cil_spl.tasks.classification import classification
from cil_spl.tasks.evaluation import evaluate
from cil_spl.training.context import Frames

PLAN = plan_from("p", [{"conv": 4, "kernel": 3, "padding": 1, "pool": 2}, {"linear": "classes"}], (2, 8, 8), 3)


def batches(n: int = 6) -> Batches:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        events = np.zeros(80, EVENT)
        events["x"], events["y"], events["p"] = rng.integers(0, 8, 80), rng.integers(0, 8, 80), rng.integers(0, 2, 80)
        events["t"] = np.sort(rng.integers(0, 1000, 80))
        made.append(events)
    return Batches(from_list(made, [0] * n, (8, 8, 2), ("a", "b", "c")), n, Frames(4))


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    net = build(PLAN, family="snn", neuron={"min_v_mem": -1.0})
    with torch.no_grad():
        net.conv1.weight.mul_(2)
        net.linear2.weight.abs_().mul_(8)
    return net


def loaded(target: Speck | Software) -> Speck | Software:
    net = network()
    target.place(PLAN)
    chip, _ = target.quantize(net, PLAN)
    target.load(chip, PLAN, net)
    return target


@pytest.mark.parametrize("target", [Speck(backend="simulator"), Software()], ids=["speck", "software"])
def test_output_events_are_the_counts(target: Speck | Software) -> None:
    loaded(target)
    batch = next(batches(1).epoch(0))
    t, k = target.output_events(batch)
    counts = target.answer(batch).counts
    assert counts.sum() > 0
    assert np.bincount(k, minlength=3).tolist() == counts[0].sum(0).tolist()
    if isinstance(target, Speck):
        assert (np.diff(t) >= 0).all()


def test_memory_and_cores_are_reported() -> None:
    speck = loaded(Speck(backend="simulator"))
    figures = speck.figures()
    assert figures["kernel_entries/conv1"] == 2 * 2 ** (4 + 2)
    assert figures["neuron_entries/conv1"] == 4 * 64
    assert figures["kernel_entries"] == figures["kernel_entries/conv1"] + figures["kernel_entries/linear2"]
    assert figures["core/conv1"] != figures["core/linear2"]


def test_a_core_above_its_rate_is_told() -> None:
    speck = Speck(backend="simulator", max_synops_per_second=1e6)
    warnings = speck.judge({"synops_per_second/conv1": 2e6, "synops_per_second/conv2": 9e5, "synops": 5e6})
    assert len(warnings) == 1
    assert "layer conv1: 2e+06" in warnings[0]
    assert Speck(backend="simulator").judge({"synops_per_second/conv1": 2e9}) == []


def test_a_die_changes_the_answer_and_the_same_die_gives_it_again() -> None:
    batch = next(batches().epoch(0))
    ideal, a, again, b = (
        loaded(Speck(backend="simulator", die=die)).answer(batch).counts
        for die in (None, {"seed": 1, "dead": 0.3}, {"seed": 1, "dead": 0.3}, {"seed": 2, "dead": 0.3})
    )
    assert np.array_equal(a, again)
    assert not np.array_equal(a, ideal)
    assert not np.array_equal(a, b)


def test_what_congestion_dropped_is_told() -> None:
    """Metrics are there only where something was dropped, and then a warning names the layer."""
    task, quiet = classification(), loaded(Speck(backend="simulator", die={"synops_per_second": 1e9, "fifo": 100}))
    assert not [name for name in evaluate(quiet.answer, batches().epoch(0), task).metrics if "dropped" in name]
    speck = loaded(Speck(backend="simulator", die={"synops_per_second": {"conv1": 5e5}, "fifo": 3}))
    answer, metrics = speck.answer(next(batches().epoch(0))), evaluate(speck.answer, batches().epoch(0), task).metrics
    assert answer.dropped is not None
    assert answer.dropped["conv1"].min() > 0
    assert metrics["dropped"] == metrics["dropped/conv1"] == answer.dropped["conv1"].mean()
    assert metrics["dropped/linear2"] == 0
    assert [w for w in speck.judge(metrics) if w.startswith("layer conv1: the congestion balancer dropped")]
    assert not [w for w in speck.judge(metrics) if "linear2" in w]


def test_a_die_that_cannot_be_is_refused() -> None:
    with pytest.raises(RequestError, match=r"target\.die\.deaf=0\.1: no such key; did you mean dead"):
        Speck(die={"deaf": 0.1})
    with pytest.raises(RequestError, match=r"target\.die\.dead=2"):
        Speck(die={"dead": 2})
    with pytest.raises(RequestError, match=r"target\.die\.decimate\.conv7=2: no such layer; .* are conv1, linear2"):
        Speck(backend="simulator", die={"decimate": {"conv7": 2}}).place(PLAN)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (None, "absent"),
        (["samna/__init__.py", "samna-0.48.dist-info/RECORD"], "stub"),
        ([f"samna/_samna{EXTENSION_SUFFIXES[0]}"], "real"),
        (["samna/_samna.abi3.so"], "real"),
        (["samna/_samna.cpython-39-x86_64-linux-gnu.so"], "foreign"),
        (["samna/_samna.cp39-win_amd64.pyd"], "foreign"),
        (["samna.libs/libusb-1.so.0", "samna.libs/libsamna.so", "samna/__init__.py"], "foreign"),
    ],
)
def test_which_samna(monkeypatch: pytest.MonkeyPatch, files: list[str] | None, kind: str) -> None:
    """One answer for all who ask; nothing is imported."""

    def distribution(name: str) -> SimpleNamespace:
        if files is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version="0.48", files=[PurePosixPath(name) for name in files])

    monkeypatch.setitem(sys.modules, "samna", None)  # an import would raise
    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert board.samna_kind() == doctor.samna()[0] == kind
    assert board.samna_is_real() == (kind == "real")
    assert doctor.samna()[1].startswith("not installed" if kind == "absent" else "0.48, ")
    if kind != "real":
        assert board.choose("auto") == "simulator"
        with pytest.raises(RequestError, match="the real samna is not installed for this Python"):
            board.choose("device")


def test_int8_is_close_to_float_and_on_a_grid() -> None:
    torch.manual_seed(0)
    net = build(PLAN, family="cnn", neuron={})
    calibration = batches()
    twin = int8_twin(net, calibration)
    weight = twin.conv1.layer.weight / twin.conv1.layer.weight.abs().max() * 127
    assert torch.allclose(weight, weight.round(), atol=1e-3)
    frames = next(calibration.epoch(0)).frames.sum(0)
    with torch.no_grad():
        exact, rounded = net(frames), twin(frames)
    assert 0 < float((exact - rounded).abs().max()) < 0.1 * float(exact.abs().max())


def test_accelerator_counts_its_storage() -> None:
    net = build(PLAN, family="cnn", neuron={})
    parameters = 4 * 2 * 9 + 3 * 64
    assert Accelerator().storage(PLAN, net)["weight_bytes"] == 4 * parameters
    small = Accelerator(precision="int8").storage(PLAN, net)
    assert (small["parameters"], small["weight_bytes"]) == (parameters, parameters)
    assert small["map_bytes"] == 2 * 4 * 64  # the first layer before and after its neurons
