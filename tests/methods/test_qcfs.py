"""Clip-floor-shift conversion: the activation is a neuron's count, its gradient, and the network that comes of it."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cil_spl.chip.quantize import integer_twin, quantize
from cil_spl.chip.rounding import Precision
from cil_spl.methods import qcfs
from cil_spl.models import answers, neurons
from cil_spl.models.build import build, plan_from
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.neurons import Observation
from cil_spl.models.options import Neuron
from cil_spl.models.plan import Plan
from cil_spl.targets.accelerator import int8_twin
from cil_spl.tasks import evaluation as ev
from cil_spl.training.context import Frames, Trained, TrainingContext
from cil_spl.training.update import Trainer
from tests.methods.test_cil import Given, software
from tests.methods.test_methods import context
from tests.methods.test_tandem import PAPER, gradients, images

CHIP = {"spike_threshold": 1.0, "min_v_mem": -8.0}
POOLED = [
    {"conv": 4, "padding": 1, "norm": "batch", "pool": 2},
    {"conv": 5, "padding": 1, "norm": "batch"},
    {"linear": "classes", "bias": True, "neuron": False},
]
ONE = [{"conv": 4, "bias": True, "pool": 2}, {"linear": "classes", "bias": True, "neuron": False}]


def whole(shape: Any, low: int, high: int, over: float, seed: int = 0) -> Tensor:
    """Numbers of few bits, so that sums of them are exact."""
    return torch.randint(low, high, tuple(shape), generator=torch.Generator().manual_seed(seed)).double() / over


def exact_pair(ctx: TrainingContext, full: dict[str, Any], levels: int) -> tuple[Any, Any]:
    """An ANN whose weights, biases and lambdas are numbers of few bits, and its spiking network; in float64."""
    net = ctx.build("cnn").double()
    single = ctx.neuron.get("spike_fn") == "single"
    qcfs.put_activations(net, dict.fromkeys(full, 1.0), levels, single, ctx.neuron.get("threshold_per") == "channel")
    with torch.no_grad():
        for k, module in enumerate(net.modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.copy_(whole(module.weight.shape, -4, 9, 8.0, k))
                if module.bias is not None:
                    module.bias.copy_(whole(module.bias.shape, -4, 9, 8.0, k))
        for name, one in qcfs.activations(net).items():
            one.full.data = torch.as_tensor(full[name], dtype=torch.float64)
    return net, qcfs.spiking_net(ctx, net).double()


def shown(x: Tensor, bins: int) -> Tensor:
    """A sample at every step. (B, C, H, W) → (T, B, C, H, W)."""
    return x.expand(bins, *x.shape)


# --- the activation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [1.0, 0.5])
@pytest.mark.parametrize("full", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("T", [1, 2, 4, 5, 8, 32])
def test_activation_is_the_count_of_a_neuron_that_starts_at_half_its_threshold(
    T: int, full: float, theta: float
) -> None:
    """Constant current z theta / lambda for T = L steps: lambda / T per spike, to the bit; halves round up."""
    part = torch.arange(-64 * T, 128 * T + 1).double() / (64 * T)  # z / lambda, between and on the steps
    if T == 5:
        part = torch.arange(-64, 129).double() / 64
    neuron = neurons.make(**(PAPER | {"spike_threshold": theta, "v_init": theta / 2})).double()
    counts = neurons.run("n", neuron, (part * theta).expand(T, 1, -1))[0].sum(0)[0]
    a = qcfs.clip_floor(part * full, torch.tensor(full).double(), T)
    assert torch.equal(a, full * (counts / T))
    assert torch.equal(counts, (T * part + 0.5).floor().clamp(0, T))
    assert len(counts.unique()) == T + 1


def test_more_spikes_than_full_activity_have_no_upper_end() -> None:
    z = torch.tensor([-1.0, 0.24, 0.25, 1.0, 3.3])
    assert qcfs.clip_floor(z, torch.tensor(1.0), 2, bounded=False).tolist() == [0.0, 0.0, 0.5, 1.0, 3.5]
    assert qcfs.clip_floor(z, torch.tensor(1.0), 2).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("bounded", [True, False])
def test_gradient_by_hand(bounded: bool) -> None:
    """L = 4, lambda = 2: u = 2 z + 1/2, so it begins at -1/4 and ends at 7/4, half a step before lambda."""
    z = torch.tensor([-1.0, -0.26, -0.24, 0.3, 1.0, 1.74, 1.76, 2.5], dtype=torch.float64, requires_grad=True)
    full = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    a = qcfs.clip_floor(z, full, 4, bounded)
    top = [2.0, 2.5] if not bounded else [2.0, 2.0]
    assert a.tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 1.5, *top]
    each = torch.eye(8, dtype=torch.float64)
    by_z, by_full = zip(*(torch.autograd.grad(a, (z, full), one, retain_graph=True) for one in each), strict=True)
    inside = [0, 0, 1, 1, 1, 1, 0, 0] if bounded else [0, 0, 1, 1, 1, 1, 1, 1]
    assert torch.equal(torch.stack(by_z), torch.diag(torch.tensor(inside).double()))
    # h - z / lambda where it has a slope, h = 0 or 1 elsewhere
    expected = [0.0, 0.0, 0.12, 0.25 - 0.15, 0.0, 0.75 - 0.87, *([1.0, 1.0] if bounded else [0.12, 0.0])]
    torch.testing.assert_close(torch.stack(by_full), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 3, 8])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("by_channel", [False, True])
def test_gradient_is_that_of_the_expression_without_its_floor(
    levels: int, bounded: bool, by_channel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite differences of lambda clip(z / lambda + 1 / 2 L, 0, 1), away from the two ends."""
    monkeypatch.setattr(qcfs, "_part", lambda u, levels, bounded: (u / levels).clamp(0, 1 if bounded else None))
    full = torch.tensor([1.5, 0.7, 2.2] if by_channel else 1.5).double()
    part = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 0.7
    z = part * (full.view(1, 3, 1) if by_channel else full)
    for end in (-0.5 / levels, 1 - 0.5 / levels):
        assert float((part - end).abs().min()) > 1e-4
    module = qcfs.ClipFloor(nn.Parameter(full), levels, bounded)

    def activation(z: Tensor, full: Tensor) -> Any:
        module.full = nn.Parameter(full)  # of the right shape; its values enter below
        return qcfs.clip_floor(z, full.view(1, 3, 1) if by_channel else full, levels, bounded)

    assert torch.autograd.gradcheck(activation, (z.requires_grad_(), full.requires_grad_()), eps=1e-7)


def test_output_neurons_pass_the_gradient_unchanged() -> None:
    z = torch.tensor([-3.0, 0.4, 9.0], requires_grad=True)
    qcfs.ClipFloor(nn.Parameter(torch.tensor(1.0)), 4, straight_through=True)(z).backward(torch.tensor([1.0, 2.0, 3.0]))
    assert z.grad is not None
    assert z.grad.tolist() == [1.0, 2.0, 3.0]


def test_lambda_stays_positive(tmp_path: Path) -> None:
    """Steps as large as lambda itself, which without a bound would take it below zero."""
    least: list[float] = []
    plain = qcfs.ClipFloor.keep_positive

    def keep(self: qcfs.ClipFloor) -> None:
        least.append(float(self.full.detach().min()))
        plain(self)
        assert float(self.full.detach().min()) >= qcfs.LEAST * 0.1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qcfs.ClipFloor, "keep_positive", keep)
        trained = qcfs.train(images(tmp_path, POOLED, trainer=Trainer(epochs=3, batch_size=10)), lr=2.0)
    assert min(least) < 0
    assert trained.notes is not None
    assert all(value > 0 for value in trained.notes.values())


def test_lambda_starts_at_the_percentile_of_the_fresh_networks_activations(tmp_path: Path) -> None:
    ctx = images(tmp_path, ONE, trainer=Trainer(epochs=1, batch_size=10, limit_batches=1))
    net = ctx.build("cnn")
    ctx.scale(net, 1.0, bins=1)
    starts = qcfs._starts(ctx, net, 90.0, 8)
    x = torch.cat([batch.frames[0] for batch in ctx.calibration(ctx.experiences[0].train, bins=1).epoch(0)])
    z = net.conv1(x).detach().numpy()  # type: ignore[operator]
    assert starts == {"spike1": pytest.approx(float(np.percentile(z[z > 0], 90)), rel=1e-2)}


# --- the converted network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", ["repeat", "once"])
@pytest.mark.parametrize("T", [1, 2, 4, 16])
def test_one_layer_at_as_many_steps_as_levels_is_the_ann(T: int, encode: Any, tmp_path: Path) -> None:
    """Weights, biases, pooling and read-out: each count is the activation's step, to the bit."""
    ctx = images(tmp_path, ONE, frames=Frames(T, encode=encode))
    net, spiking = exact_pair(ctx, {"spike1": 2.0}, T)
    x = whole((60, 1, 6, 6), 0, 17, 16.0)
    frames = shown(x, T).clone()
    if encode == "once":
        frames[1:] = 0
        with torch.no_grad():
            net.conv1.bias.zero_()  # a bias comes at every step, so late ones follow early spikes
    qcfs.share(net, spiking, T, ctx)
    out, _, found = forward(spiking, frames, record=("spike1",))
    a = net.spike1(net.conv1(x))
    assert torch.equal(found["spike1"].sum(0) * (2.0 / T), a)
    assert len(a.unique()) == T + 1
    torch.testing.assert_close(out.sum(0), net(x), rtol=0, atol=1e-12)


def test_each_channel_may_have_its_own_lambda(tmp_path: Path) -> None:
    """They stand in the next layer's weights, through pooling and flattening."""
    ctx = images(tmp_path, ONE, neuron=PAPER | {"threshold_per": "channel"}, frames=Frames(4, encode="repeat"))
    net, spiking = exact_pair(ctx, {"spike1": [0.5, 1.0, 2.0, 4.0]}, 4)
    x = whole((60, 1, 6, 6), 0, 17, 16.0)
    out, _, found = forward(qcfs.share(net, spiking, 4, ctx), shown(x, 4), record=("spike1",))
    per_spike = torch.tensor([0.5, 1.0, 2.0, 4.0]).double().view(1, 4, 1, 1) / 4
    a = net.spike1(net.conv1(x))
    assert torch.equal(found["spike1"].sum(0) * per_spike, a)
    torch.testing.assert_close(out.sum(0), net(x), rtol=0, atol=1e-12)
    assert spiking.spike1.spike_threshold.numel() == 1


def test_deeper_layers_come_close(tmp_path: Path) -> None:
    """At T = L one neuron in eight or so is a spike off, as spikes come unevenly; over T it tends to the clip alone."""
    blocks = [{"conv": 8}, {"conv": 8}, {"linear": "classes", "neuron": False}]
    off, errors, first = [], [], []
    x = torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    for T in (4, 16, 64, 256):
        ctx = images(tmp_path, blocks, frames=Frames(T, encode="repeat"))
        torch.manual_seed(0)
        net = ctx.build("cnn").double()
        starts = {"spike1": float(net.conv1(x).detach().max()) / 2, "spike2": 0.1}  # type: ignore[operator]
        qcfs.put_activations(net, starts, T, True)
        spiking = qcfs.spiking_net(ctx, net).double()
        _, _, found = forward(qcfs.share(net, spiking, T, ctx), shown(x, T), record=("spike1", "spike2"))
        full = {name: one.full.detach() for name, one in qcfs.activations(net).items()}
        rates = {name: full[name] * one.sum(0) / T for name, one in found.items()}
        a = net.spike2(net.conv2(net.spike1(net.conv1(x))))  # type: ignore[operator]
        off.append(float((rates["spike2"] - a).abs().gt(full["spike2"] / T / 2).float().mean().detach()))
        z1 = net.conv1(x).clamp(min=torch.zeros(()), max=full["spike1"])  # type: ignore[operator]
        z2 = net.conv2(z1).clamp(min=torch.zeros(()), max=full["spike2"])  # type: ignore[operator]
        first.append(float((rates["spike1"] - z1).abs().mean().detach()))
        errors.append(float((rates["spike2"] - z2).abs().mean().detach()))
    assert all(3.6 < big / small < 4.4 for big, small in pairwise(first)), first
    assert all(big / small > 2.5 for big, small in pairwise(errors)), errors
    assert all(0.05 < part < 0.2 for part in off), off


def test_error_falls_over_the_steps_and_ends_at_the_levels_it_was_trained_with(tmp_path: Path) -> None:
    """T is not L: the spiking network tends to its ANN without the floor, and parts from it as the floor does."""
    ctx = images(tmp_path, POOLED, frames=Frames(4, encode="repeat"), trainer=Trainer(epochs=8, batch_size=10))
    ann = qcfs.train(ctx, lr=1e-2).ann
    assert ann is not None
    x = next(ctx.batches(ctx.experiences[0].test, train=False, bins=1).epoch(0)).frames[0]
    smooth = copy.deepcopy(ann.eval())
    for one in qcfs.activations(smooth).values():
        one.levels = 1 << 16
    with torch.no_grad():
        floored, expected = ann(x), smooth(x)
        errors, to_ann = [], []
        for T in (1, 4, 16, 64):
            run = replace(ctx, frames=Frames(T, encode="repeat"))
            out = forward(qcfs.share(ann, qcfs.spiking_net(run, ann), T, run), shown(x, T))[0].sum(0)
            errors.append(float((out - expected).abs().mean()))
            to_ann.append(float((out - floored).abs().mean()))
    assert all(big > 1.8 * small for big, small in pairwise(errors)), errors
    assert to_ann[0] > 2 * to_ann[1], to_ann
    assert to_ann[-1] == pytest.approx(float((floored - expected).abs().mean()), rel=0.2)


def test_branches_that_are_added_share_a_lambda(tmp_path: Path) -> None:
    """So that their spikes stand for the same; copies and stored weights keep it one."""
    blocks = [
        {"conv": 3, "padding": 1, "name": "a"},
        {"conv": 3, "padding": 1, "name": "b"},
        {"conv": 3, "padding": 1, "inputs": ["a", "b"], "name": "c"},
        {"linear": "classes", "neuron": False, "name": "out"},
    ]
    ctx = images(tmp_path, blocks, frames=Frames(4, encode="repeat"))
    net, spiking = exact_pair(ctx, {"spike1": 2.0, "spike2": 4.0, "spike3": 1.0}, 4)
    for one in (net, copy.deepcopy(net), fold(copy.deepcopy(net))):
        assert one.spike1.full is one.spike2.full
        assert one.spike1.full is not one.spike3.full
    assert [name for name, _ in net.named_parameters() if name.endswith("full")] == ["spike1.full", "spike3.full"]
    x = whole((20, 1, 6, 6), 0, 17, 16.0)
    qcfs.share(net, spiking, 4, ctx)
    found = forward(spiking, shown(x, 4), record=("spike1", "spike2"))[2]
    assert torch.equal(found["spike1"].sum(0), net.spike1(net.a(x)))  # lambda 4 in 4 spikes: one is a unit
    with torch.no_grad():
        summed = spiking.c(found["spike1"].sum(0) + found["spike2"].sum(0))
        torch.testing.assert_close(summed, 4 * net.c(found["spike1"].sum(0) + found["spike2"].sum(0)))


@pytest.mark.parametrize("neuron", [{}, {"v_init": 0.3}, {"spike_threshold": 2.0, "min_v_mem": -16.0}], ids=str)
def test_neurons_start_at_half_their_threshold_on_the_chip_and_from_a_file(
    neuron: dict[str, Any], tmp_path: Path
) -> None:
    ctx = context(tmp_path, neuron=CHIP | neuron, trainer=Trainer(epochs=1, batch_size=10))
    net = qcfs.train(ctx).net
    chip, _ = quantize(net)
    twin = integer_twin(chip, net)
    for layer, name in zip(chip.layers, ("spike1", "spike2"), strict=True):
        assert layer.threshold > 40
        assert abs(2 * layer.v_init - layer.threshold) <= 1
        assert float(neurons.initial(twin.get_submodule(name))) == layer.v_init  # type: ignore[arg-type]
    again = build(Plan.from_dict(net.plan.as_dict()), family="snn", neuron=ctx.neuron)
    for one in (net, again):
        for name in ("spike1", "spike2"):
            half = ctx.neuron["spike_threshold"] / 2
            assert float(neurons.initial(one.get_submodule(name))) == half  # type: ignore[arg-type]
    assert qcfs.check(OmegaConf.create({"model": {"neuron": asdict(Neuron(**ctx.neuron))}})) == (
        ["model.neuron.v_init=0.3: method=qcfs starts neurons at half their threshold, 0.5, so it has no effect"]
        if "v_init" in neuron
        else []
    )


@pytest.mark.parametrize(
    ("neuron", "spikes", "expected"),
    [({}, None, 16), ({}, 5, 5), ({"spike_fn": "single"}, None, 3), ({"spike_fn": "single"}, 2, 2)],
)
def test_spikes_of_a_fully_active_neuron(
    neuron: dict[str, Any], spikes: int | None, expected: int, tmp_path: Path
) -> None:
    """T where there is one per step at most, 4 L elsewhere; the first layer's weights are W theta S / lambda."""
    ctx = context(tmp_path, neuron=CHIP | neuron, trainer=Trainer(epochs=1, batch_size=10))
    trained = qcfs.train(ctx, levels=4, spikes=spikes)
    assert trained.ann is not None
    assert trained.notes is not None
    assert trained.notes["chosen/spikes"] == expected
    bounded = neuron.get("spike_fn") == "single"
    assert all(one.bounded == bounded for one in qcfs.activations(trained.ann).values())
    scale = expected / trained.notes["chosen/lambda_spike1"]
    torch.testing.assert_close(trained.net.conv1.weight, scale * trained.ann.conv1.weight)


# --- training ---------------------------------------------------------------------------------------------------------


def learnt(ctx: TrainingContext, **options: Any) -> Trained:
    return qcfs.train(ctx, lr=1e-2, **options)


@pytest.mark.parametrize("what", ["images", "recordings", "rounded weights", "with a chip"])
def test_it_learns_and_the_spiking_network_alone_answers(what: str, tmp_path: Path) -> None:
    trainer = Trainer(epochs=10, batch_size=10)
    if what == "images":
        ctx = images(tmp_path, POOLED, trainer=trainer, frames=Frames(4, encode="repeat"))
    else:
        chip = software(["spike1", "spike2"], False) if what == "with a chip" else None
        precision = Precision(aware=what == "rounded weights")
        ctx = context(tmp_path, trainer=trainer, observer=chip, neuron=CHIP, precision=precision)
    trained = learnt(ctx)
    test = ctx.experiences[0].test
    seen = ev.evaluate(answers.stepped_answer(trained.net), ctx.batches(test, train=False).epoch(0), ctx.task)
    assert seen.metrics["accuracy"] > 0.8  # 1/3 by chance
    assert trained.ann is not None
    ann = ev.evaluate(answers.cnn_answer(trained.ann), ctx.batches(test, train=False, bins=1).epoch(0), ctx.task)
    assert ann.metrics["accuracy"] > 0.6


def test_with_a_chip_its_counts_are_the_activations(tmp_path: Path) -> None:
    """lambda c / S for the value of each activation, its own gradient, for weights and lambdas."""
    generator = torch.Generator().manual_seed(0)
    counts = {
        "spike1": torch.randint(0, 9, (1, 10, 4, 8, 8), generator=generator).float(),
        "spike2": torch.randint(0, 20, (1, 10, 3), generator=generator).float(),
    }
    chip = Given(lambda net, batch: {name: Observation(one) for name, one in counts.items()})
    ctx = context(tmp_path, neuron=CHIP, observer=chip)
    net = ctx.build("cnn")
    ctx.scale(net, 1.0, bins=1)
    qcfs.put_activations(net, {"spike1": 2.0, "spike2": 4.0}, 4, False)
    batch = next(ctx.batches(ctx.experiences[0].train, train=True, bins=1).epoch(0))
    found = gradients(net, qcfs.on_chip(net, qcfs.spiking_net(ctx, net), 8, ctx, count_scale=0.5), batch)
    one: Any = net
    a1 = one.spike1(one.conv1(batch.frames[0]))
    x1 = a1 + (2.0 * counts["spike1"][0] / 8 - a1).detach()
    a2 = one.spike2(one.linear2(torch.flatten(one.pool1(x1), 1)))
    x2 = a2 + (4.0 * counts["spike2"][0] / 8 - a2).detach()
    expected = torch.autograd.grad(ctx.loss(0.5 * x2, batch), list(net.parameters()))
    for (name, value), other in zip(found.items(), expected, strict=True):
        assert float(other.abs().max()) > 0, name
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-7)


def test_the_chip_enters_after_the_plain_part(tmp_path: Path) -> None:
    asked: list[int] = []
    chip = software(["spike1", "spike2"], False)
    answer = chip.answer
    chip.answer = lambda net, batch: asked.append(1) or answer(net, batch)  # type: ignore[func-returns-value]
    ctx = context(tmp_path, neuron=CHIP, observer=chip)  # 4 epochs of 6 updates
    qcfs.train(ctx, plain=0.75)
    assert len(asked) == 6


def test_a_seed_repeats(tmp_path: Path) -> None:
    trainer = Trainer(epochs=2, batch_size=10)
    nets = [qcfs.train(context(tmp_path / str(k), neuron=CHIP, trainer=trainer)).net for k in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(net.state_dict().values() for net in nets), strict=True))


def test_going_on_after_a_kill_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in the middle of an epoch without the chip, then of one with it."""
    ctx = context(tmp_path / "whole", neuron=CHIP, observer=software(["spike1", "spike2"], False))
    expected = qcfs.train(ctx)
    plain = qcfs.keep_positive
    for updates in (8, 14):  # the second begins again with the seventh of 24; the chip enters with the thirteenth
        left = iter(range(updates))

        def keep(net: Any, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            plain(net)

        monkeypatch.setattr(qcfs, "keep_positive", keep)
        torch.manual_seed(updates - 8)  # what is drawn after the first weights comes from the checkpoints
        with pytest.raises(KeyboardInterrupt):
            qcfs.train(replace(ctx, folder=tmp_path / "cut", stages=[]))
    monkeypatch.setattr(qcfs, "keep_positive", plain)
    torch.manual_seed(7)
    again = qcfs.train(replace(ctx, folder=tmp_path / "cut", stages=[]))
    assert again.notes == expected.notes
    for (name, a), b in zip(expected.net.state_dict().items(), again.net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_where_the_ann_is_deployed_it_is_judged_by_itself(tmp_path: Path) -> None:
    """As on an accelerator: no target runs spikes, and its 8-bit twin keeps the activations."""
    logged: list[dict[str, float]] = []
    ctx = context(tmp_path, neuron=CHIP, log=lambda metrics, _: logged.append(metrics))
    trained = learnt(ctx)
    assert trained.ann is not None
    assert not [name for name in logged[-1] if "ann_" in name]
    val = ctx.batches(ctx.experiences[0].val, train=False, bins=1)
    seen = ev.evaluate(answers.cnn_answer(trained.ann), val.epoch(0), ctx.task)
    assert seen.metrics["accuracy"] == max(metrics["val/accuracy"] for metrics in logged)
    twin = int8_twin(trained.ann, ctx.calibration(ctx.experiences[0].train, bins=1))
    found = twin(next(val.epoch(0)).frames[0])
    steps = found / trained.ann.spike2.full * 4  # type: ignore[operator,union-attr]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)


def test_a_network_with_sums_learns_and_converts(tmp_path: Path) -> None:
    blocks = [
        {"conv": 4, "padding": 1, "norm": "batch", "name": "stem"},
        {"conv": 4, "padding": 1, "norm": "batch", "neuron": False, "name": "left"},
        {"add": ["left", "stem"], "neuron": True, "name": "sum"},
        {"linear": "classes", "bias": True, "neuron": False, "name": "out"},
    ]
    plan = plan_from("residual", blocks, (1, 6, 6), 3)
    assert qcfs._sharing(plan) == [["spike1", "spike3"]]
    ctx = images(tmp_path, blocks, frames=Frames(8, encode="repeat"), trainer=Trainer(epochs=8, batch_size=10))
    trained = learnt(ctx)
    seen = ev.evaluate(
        answers.stepped_answer(trained.net), ctx.batches(ctx.experiences[0].test, train=False).epoch(0), ctx.task
    )
    assert seen.metrics["accuracy"] > 0.8
