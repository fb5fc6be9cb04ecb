"""What a target says of itself, and a die that is not ideal."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cil_spl.base.errors import RequestError
from cil_spl.chip.quantize import integer_twin, quantize
from cil_spl.cli import doctor
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, from_list
from cil_spl.methods import bptt, conversion, tandem
from cil_spl.models.answers import stepped_answer
from cil_spl.models.build import build, plan_from
from cil_spl.targets import board
from cil_spl.targets.accelerator import Accelerator, int8_twin
from cil_spl.targets.deploy import deploy, with_target
from cil_spl.targets.software import Software
from cil_spl.targets.speck import Speck
from cil_spl.targets.target import Asked, Target, TargetNetwork
from cil_spl.tasks.classification import classification
from cil_spl.tasks.evaluation import evaluate
from cil_spl.training.context import Frames
from cil_spl.training.options import Trainer
from tests.methods.test_methods import context
from tests.methods.test_tandem import images

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


def asked(**changed: Any) -> Asked:
    neuron = {"kind": "iaf", "min_v_mem": -1.0, "spike_threshold": 1.0, **changed.pop("neuron", {})}
    return replace(Asked("bptt", "snn", neuron), **changed)


def on(target: Speck | Software) -> TargetNetwork:
    target.check(PLAN, asked())
    return target.quantize(network())


@pytest.mark.parametrize(
    "target",
    [Speck(backend="simulator"), Software(), Software(precision="int8")],
    ids=["speck", "software", "software int8"],
)
def test_output_events_are_the_counts(target: Speck | Software) -> None:
    held = on(target)
    batch = next(batches(1).epoch(0))
    t, k = target.output_events(held, batch)
    counts = target.answer(held)(batch).counts
    assert counts.sum() > 0
    assert np.bincount(k, minlength=3).tolist() == counts[0].sum(0).tolist()
    if isinstance(target, Speck):
        assert (np.diff(t) >= 0).all()


def test_memory_and_cores_are_reported() -> None:
    speck = Speck(backend="simulator")
    figures = speck.figures(on(speck))
    assert figures["parameters"] == 4 * 2 * 9 + 3 * 64
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
        target.answer(on(target))(batch).counts
        for target in (
            Speck(backend="simulator", die=die)
            for die in (None, {"seed": 1, "dead": 0.3}, {"seed": 1, "dead": 0.3}, {"seed": 2, "dead": 0.3})
        )
    )
    assert np.array_equal(a, again)
    assert not np.array_equal(a, ideal)
    assert not np.array_equal(a, b)


def test_what_congestion_dropped_is_told() -> None:
    """Metrics are there only where something was dropped, and then a warning names the layer."""
    task, quiet = classification(), Speck(backend="simulator", die={"synops_per_second": 1e9, "fifo": 100})
    found = evaluate(quiet.answer(on(quiet)), batches().epoch(0), task).metrics
    assert not [name for name in found if "dropped" in name]
    speck = Speck(backend="simulator", die={"synops_per_second": {"conv1": 5e5}, "fifo": 3})
    of = speck.answer(on(speck))
    answer, metrics = of(next(batches().epoch(0))), evaluate(of, batches().epoch(0), task).metrics
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
    held = Accelerator().quantize(net, calibration=batches())
    assert Accelerator().figures(held)["weight_bytes"] == 4 * parameters
    small = Accelerator(precision="int8").figures(held)
    assert (small["parameters"], small["weight_bytes"]) == (parameters, parameters)
    assert small["map_bytes"] == 2 * 4 * 64  # the first layer before and after its neurons


# What a target cannot do is refused by itself, before any work.

BOARD = "a board"  # in place of a back end: a Speck whose board is not there to be asked


@pytest.mark.parametrize(
    ("target", "changed", "message"),
    [
        (Speck, {"neuron": {"kind": "lif"}}, r"model\.neuron\.kind=lif: target=speck .*kind=iaf, or target=software"),
        (Speck, {"neuron": {"min_v_mem": None}}, r"model\.neuron\.min_v_mem=null: quantising needs a lower bound"),
        (
            Speck,
            {"neuron": {"spike_threshold": 1e9}},
            r"model\.neuron\.spike_threshold=1e\+09: must be at most 65534; .* rounds to 0",
        ),
        (
            Speck,
            {"neuron": {"min_v_mem": -1e9}},
            r"model\.neuron\.min_v_mem=-1e\+09: must be at least -65534; .* rounds to 0",
        ),
        (
            Speck,
            {"neuron": {"spike_threshold": 7000}, "init_rate": 0.1},
            r"spike_threshold=7000: must be at most 6553\.4",
        ),
        (
            Speck,
            {"neuron": {"spike_threshold": 0.01, "min_v_mem": -700}},
            r"min_v_mem=-700: must be at least -655\.34",
        ),
        (BOARD, {"observer": {"name": "chip", "v_mem": True, "layers": "all"}}, r"observer\.v_mem=true: a board"),
        (
            BOARD,
            {"observer": {"name": "chip", "v_mem": False, "layers": "all"}},
            r"target\.monitor=readout: .*use target\.monitor=all",
        ),
        (Software, {"observer": {"name": "chip"}}, r"target=software: observer=chip .*target=speck, .*method=bptt"),
        (
            lambda: Software(precision="int8"),
            {"neuron": {"min_v_mem": None}},
            r"model\.neuron\.min_v_mem=null: quantising needs a lower bound",
        ),
        (Accelerator, {}, r"target=accelerator: .*method=bptt trains spikes; use method=conversion"),
        (Accelerator, {"family": "cnn", "spikes": True}, r"target=accelerator: .*trains spikes; use method=conversion"),
        (Accelerator, {"family": "cnn", "observer": {"name": "chip"}}, r"target=accelerator: observer=chip"),
    ],
)
def test_what_a_target_cannot_do_is_refused(target: Any, changed: dict[str, Any], message: str) -> None:
    made = Speck(backend="simulator") if target in (Speck, BOARD) else target()
    if target is BOARD:
        made.backend = "device"
    with pytest.raises(RequestError, match=message):
        made.check(PLAN, asked(**changed))


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        (Software(), {"neuron": {"kind": "lif", "tau_mem": 4.0, "min_v_mem": None}}),  # no chip will hold it
        (Software(), {"neuron": {"min_v_mem": -1e9}}),
        (Software(precision="int8"), {"neuron": {"kind": "lif", "tau_mem": 4.0}}),
        (Accelerator(), {"family": "cnn", "neuron": {"min_v_mem": None}}),
        (Speck(backend="simulator"), {"observer": {"name": "chip", "v_mem": True, "layers": "all"}}),
    ],
)
def test_what_a_target_can_do_is_not_refused(target: Target, changed: dict[str, Any]) -> None:
    assert target.check(PLAN, asked(**changed)) == []


def test_ranks_do_not_share_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    speck = Speck(backend="simulator")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert speck.check(PLAN, asked()) == []
    speck.backend = "device"
    with pytest.raises(RequestError, match=r"target\.backend=device: 2 ranks cannot share one board"):
        speck.check(PLAN, asked())


def test_software_runs_the_trained_network_unless_it_shall_be_rounded() -> None:
    """A network without a lower bound, which no chip rounds, is evaluated as it is."""
    batch, net = next(batches().epoch(0)), build(PLAN, family="snn", neuron={"min_v_mem": None})
    held = Software().quantize(net)
    assert held.chip is None
    assert held.quantized() is None
    ours = Software().answer(held)(batch).counts
    assert np.array_equal(ours, stepped_answer(net)(batch).counts)
    bounded = network()
    with torch.no_grad():
        bounded.conv1.weight[0, 0, 0, 0] = -100.0  # one weight so large that most others round to 0
    rounded = Software(precision="int8").quantize(bounded)
    assert rounded.chip is not None
    found = [Software().answer(one)(batch).counts for one in (rounded, Software().quantize(bounded))]
    assert not np.array_equal(*found)
    chip, _ = quantize(bounded)
    assert np.array_equal(found[0], stepped_answer(integer_twin(chip, bounded))(batch).counts)


def test_without_a_chip_network_there_is_nothing_to_run_on_the_chip() -> None:
    with pytest.raises(RequestError, match=r"target=speck: there is no chip network to run"):
        Speck(backend="simulator").answer(TargetNetwork(network()))


@pytest.mark.parametrize(("precision", "times"), [("float32", 0), ("int8", 1)])
def test_what_runs_as_it_was_trained_is_evaluated_once(precision: Any, times: int, tmp_path: Path) -> None:
    target = Software(precision=precision)
    ctx = with_target(context(tmp_path), target)
    asked = []
    once = replace(ctx, deployed=lambda *given: asked.append(given) or ctx.deployed(*given))  # type: ignore[misc,func-returns-value]
    net = ctx.build("snn")
    ctx.scale(net, 1.0)
    found = once.score(net)
    assert len(asked) == times
    val = ctx.batches(ctx.experiences[0].val, train=False)
    assert ctx.deployed is not None
    assert found["deployed_accuracy"] == ctx.deployed(net, val)


@pytest.mark.parametrize("method", [bptt, conversion])
def test_choices_are_made_on_validation_and_results_taken_on_the_test_set(method: Any, tmp_path: Path) -> None:
    """The labels of the test set are all wrong here, so that whoever looks at it sees hardly a right answer."""
    logged: list[dict[str, float]] = []
    ctx = context(tmp_path, log=lambda metrics, _: logged.append(metrics), trainer=Trainer(epochs=8, batch_size=10))
    (data,) = ctx.experiences
    wrong = replace(data.test, target=(data.test.target + 1) % 3)
    target = Software(precision="int8")
    ctx = with_target(replace(ctx, experiences=(replace(data, test=wrong),)), target)
    trained = method.train(ctx, lr=2e-2)
    result = deploy(target, trained, ctx, tmp_path)
    assert max(metrics["val/accuracy"] for metrics in logged) > 0.6
    assert max(metrics["val/deployed_accuracy"] for metrics in logged) > 0.6
    assert all(value > 0.3 for name, value in (trained.notes or {}).items() if name == "val/gain_64")
    assert result.chosen_by.metrics["accuracy"] > 0.6
    assert all(seen.metrics["accuracy"] < 0.4 for seen in result.evaluations.values())
    metrics = result.metrics("val/deployed_accuracy", ctx.task)
    if method is conversion:  # accumulates of the spikes over multiply-accumulates of the CNN
        events = {stage: metrics[f"{stage}/synops"] for stage in ("spiking", "quantized", "deployed")}
        assert all(metrics[f"{s}/synops_ratio"] == n / metrics["float/macs"] > 0 for s, n in events.items())
    assert ("deployed/synops_ratio" in metrics) == (method is conversion)


def test_operations_of_a_network_that_reads_an_image_are_of_both_kinds(tmp_path: Path) -> None:
    """The layer that gets the image's values multiplies, once; the ones after it add spikes."""
    ctx = images(tmp_path, trainer=Trainer(epochs=1, batch_size=10))
    trained = tandem.train(ctx)
    metrics = deploy(Software(), trained, ctx, tmp_path).metrics("val/deployed_accuracy", ctx.task)
    first, second, last = 16 * 16 * 4, 8 * 8 * 4 * 4, 36 * 3  # taps on the map, in y times in x, times features
    assert metrics["float/macs/conv1"] == metrics["spiking/macs"] == metrics["spiking/macs/conv1"] == first
    assert metrics["float/macs"] == first + second + last
    whole = metrics["spiking/synops"] + metrics["spiking/macs"]
    assert metrics["spiking/synops"] == metrics["spiking/synops/conv2"] + metrics["spiking/synops/linear3"] > 0
    assert metrics["deployed/synops_ratio"] == pytest.approx(whole / metrics["float/macs"])
