"""Tandem learning: its gradient is that of the ANN's layers at the spiking network's counts, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cil_spl.data.events import Splits
from cil_spl.data.samples import from_arrays
from cil_spl.methods import cil_conversion, tandem
from cil_spl.models import answers
from cil_spl.models.build import build, plan_from
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.tasks import evaluation as ev
from cil_spl.training.context import Frames, TrainingContext
from cil_spl.training.update import Trainer
from tests.methods.test_cil import Given, software
from tests.methods.test_methods import context

PAPER = {"spike_threshold": 1.0, "min_v_mem": None, "spike_fn": "single"}
BLOCKS = [
    {"conv": 4, "padding": 1, "norm": "batch"},
    {"conv": 4, "padding": 1, "stride": 2, "norm": "batch"},
    {"linear": "classes", "bias": True, "neuron": False},
]


def images(folder: Path, blocks: list[dict[str, Any]] = BLOCKS, **changes: Any) -> TrainingContext:
    """Three classes of small images, told apart by which third of the image is bright."""
    rng = np.random.default_rng(1)
    target = np.arange(150) % 3
    values = rng.random((150, 1, 6, 6)) * 0.5
    for image, k in zip(values, target, strict=True):
        image[0, :, 2 * k : 2 * k + 2] += 0.35
    made = from_arrays(values, target, ("a", "b", "c"))
    data = Splits(made.subset(range(90)), made.subset(range(90, 120)), made.subset(range(120, 150)))
    options: dict[str, Any] = {
        "plan": plan_from("small", blocks, (1, 6, 6), 3),
        "experiences": (data,),
        "neuron": PAPER,
        "frames": Frames(bins=4, encode="once"),
    }
    return context(folder, **(options | changes))


def twins(ctx: TrainingContext) -> tuple[Any, Any, Any]:
    """An ANN and its spiking twin in float64, and a batch."""
    net = ctx.build("cnn").double()
    with torch.no_grad():
        for name, module in net.named_children():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(4.0, 8.0)
                module.bias.uniform_(0.0, 2.0)
            elif name.startswith("linear"):
                module.weight.mul_(2)
    net.eval()
    spiking = build(fold(net).plan, family="snn", neuron=ctx.neuron).double()
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    return net, spiking, replace(batch, frames=batch.frames.double())


def gradients(net: nn.Module, gradient: Any, batch: Any) -> dict[str, Tensor]:
    net.zero_grad(set_to_none=True)
    list(gradient(batch))
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("encode", ["once", "repeat"])
def test_gradient_is_that_of_each_ann_layer_at_the_spike_counts(encode: Any, tmp_path: Path) -> None:
    ctx = images(tmp_path, frames=Frames(bins=4, encode=encode))
    net, spiking, batch = twins(ctx)
    found = gradients(net, tandem.gradient(net, spiking, ctx, count_scale=0.5), batch)
    _, _, spikes = forward(tandem.share(net, spiking, 4), batch.frames, record=("spike1", "spike2"))
    c = {name: one.sum(0) for name, one in spikes.items()}
    assert all(one.max() >= 2 for one in c.values())
    x = batch.frames.sum(0)
    a1 = torch.relu(net.norm1(net.conv1(x)))
    a2 = torch.relu(net.norm2(net.conv2(a1 + (c["spike1"] - a1).detach())))
    out = net.linear3(torch.flatten(a2 + (c["spike2"] - a2).detach(), 1))
    expected = torch.autograd.grad(ctx.loss(0.5 * out, batch), list(net.parameters()))
    for (name, value), other in zip(found.items(), expected, strict=True):
        assert other.abs().max() > 1e-5, name
        torch.testing.assert_close(value, other, rtol=0, atol=1e-12)


def test_free_aggregate_potential_is_the_sum_of_the_currents(tmp_path: Path) -> None:
    """V = W c + b with b / T at each step, in the read-out and in any layer, to 1e-12."""
    ctx = images(tmp_path)
    net, spiking, batch = twins(ctx)
    tandem.share(net, spiking, 4)
    out, _, found = forward(spiking, batch.frames, record=("spike2", "conv2", "spike1"))
    c = found["spike2"].sum(0).flatten(1)
    torch.testing.assert_close(out.sum(0), net.linear3(c), rtol=0, atol=1e-12)
    of_counts = nn.functional.conv2d(found["spike1"].sum(0), spiking.conv2.weight, 4 * spiking.conv2.bias, 2, 1)
    torch.testing.assert_close(found["conv2"].sum(0), of_counts, rtol=0, atol=1e-12)


def test_where_counts_are_the_rectified_values_it_is_the_ann(tmp_path: Path) -> None:
    """Whole weights and inputs, one injection and steps enough: counts are activations, gradients the ANN's own."""
    blocks = [{"conv": 3, "bias": False}, {"conv": 3, "bias": False}, {"linear": "classes", "neuron": False}]
    ctx = images(tmp_path, blocks, frames=Frames(bins=200, encode="once"))
    net, spiking, batch = twins(ctx)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in (net.conv1, net.conv2, net.linear3):  # late inhibition could not take back early spikes
            module.weight.copy_(torch.randint(0, 2, module.weight.shape, generator=rng))
    whole = torch.randint(0, 2, batch.frames[0].shape, generator=rng).double()
    batch = replace(batch, frames=torch.cat([whole[None], torch.zeros(199, *whole.shape).double()]))
    found = gradients(net, tandem.gradient(net, spiking, ctx, count_scale=0.01), batch)
    values = tandem.spike_counts(ctx, tandem.share(net, spiking, 200), batch)
    net.zero_grad(set_to_none=True)
    a1 = torch.relu(net.conv1(whole))
    a2 = torch.relu(net.conv2(a1))
    assert torch.equal(values["spike1"], a1)
    assert torch.equal(values["spike2"], a2)
    assert a2.max() > 10
    ctx.loss(0.01 * net.linear3(a2.flatten(1)), batch).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.grad, rtol=1e-12, atol=1e-13)  # sums in another order


def test_a_chip_that_does_what_the_software_does_gives_the_same_gradient(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    net = ctx.build("cnn")
    ctx.scale(net, 1.0, bins=1)
    spiking = build(net.plan, family="snn", neuron=ctx.neuron)
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    plain = gradients(net, tandem.gradient(net, spiking, ctx, count_scale=0.25), batch)
    on_chip = replace(ctx, observer=software(["spike1", "spike2"], False))
    same = gradients(net, tandem.gradient(net, spiking, on_chip, count_scale=0.25), batch)
    assert all(torch.equal(plain[name], same[name]) and plain[name].abs().max() > 0 for name in plain)


def test_with_a_chip_it_is_chip_in_loop_learning_with_all_layers_observed(tmp_path: Path) -> None:
    """What the header says: cil_conversion from the first step on has this gradient, to the bit."""
    ctx = context(tmp_path)
    net = ctx.build("cnn")
    ctx.scale(net, 1.0, bins=1)
    spiking = build(net.plan, family="snn", neuron=ctx.neuron)
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    whole = next(ctx.batches(ctx.experiences[0].train, train=True, bins=1).epoch(0))
    seen = software(["spike1", "spike2"], False).answer(tandem.share(net, spiking, 3), batch)
    ours = replace(ctx, observer=Given(lambda net, batch: seen))
    summed = {name: one._replace(counts=one.counts.sum(0, keepdim=True)) for name, one in seen.items()}
    theirs = replace(ctx, observer=Given(lambda net, batch: summed))
    a = gradients(net, tandem.gradient(net, spiking, ours, count_scale=0.25), batch)
    b = gradients(net, cil_conversion.gradient(net, spiking, theirs, count_scale=0.25), whole)
    assert all(torch.equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize("what", ["images", "recordings"])
def test_it_learns_and_the_spiking_network_alone_answers(what: str, tmp_path: Path) -> None:
    trainer = Trainer(epochs=10, batch_size=10)
    ctx = images(tmp_path, trainer=trainer) if what == "images" else context(tmp_path, trainer=trainer)
    trained = tandem.train(ctx, lr=1e-2, count_scale=1.0 if what == "images" else 0.25)
    test = ctx.batches(ctx.experiences[0].test, train=False)
    seen = ev.evaluate(answers.stepped_answer(trained.net), test.epoch(0), ctx.task)
    assert seen.metrics["accuracy"] > 0.8  # 1/3 by chance
    assert trained.ann is not None


def test_a_seed_repeats(tmp_path: Path) -> None:
    nets = [tandem.train(images(tmp_path / str(k), trainer=Trainer(epochs=2, batch_size=10))).net for k in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(net.state_dict().values() for net in nets), strict=True))
