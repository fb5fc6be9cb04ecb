"""DSR: the gradient of the clamps, the identities of spike representation, the ordinary network that comes out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.methods import dsr
from cil_spl.models import neurons
from cil_spl.models.build import plan_from
from cil_spl.models.forward import forward
from cil_spl.models.net import spiking_layers
from cil_spl.models.plan import Layer, Plan
from cil_spl.training.context import Frames
from cil_spl.training.options import Trainer
from tests.methods.test_methods import NEURON, PLAN, accuracy, context
from tests.methods.test_ottt import DEEP, Copy
from tests.methods.test_sltt import gradients, setting

IF = {"spike_fn": "single", "min_v_mem": None, "spike_threshold": 0.75}
LIF = IF | {"kind": "lif", "tau_mem": 3.0}
MULTI = {"spike_fn": "multi", "min_v_mem": None, "spike_threshold": 0.75}
BETA = math.exp(-1 / 3)
OPTIONS: dict[str, Any] = {"firing_level": 0.4, "count_scale": 0.5, "straight_through_output": True}


def trained(net: Any) -> Any:
    for layer in spiking_layers(net).values():
        layer.spike_threshold.requires_grad_(True)
    return net


def by_hand(net: Any, x: Tensor, alpha: float, leaky: bool) -> dict[str, Tensor]:
    """Outputs of all neurons, amplitude and firing level as in the paper. Shapes (T, B, ...)."""
    found: dict[str, Tensor] = {}
    steps = x.shape[0]
    for layer in net.plan.layers:
        module = net.get_submodule(layer.name)
        if layer.kind != "neuron":
            x = module(x.flatten(0, 1)).unflatten(0, (steps, -1))
            continue
        theta = float(module.spike_threshold)
        m, outs = torch.zeros_like(x[0]), []
        for now in x:
            m = BETA * m + (1 - BETA) * now if leaky else m + now
            s = (m >= alpha * theta).double()
            m = m - theta * s
            outs.append(theta * s / (1 - BETA if leaky else 1))
        x = found[layer.name] = torch.stack(outs)
    return found


def weights(steps: int, leaky: bool) -> Tensor:
    w = torch.tensor([BETA ** (steps - 1 - t) if leaky else 1.0 for t in range(steps)], dtype=torch.float64)
    return w / w.sum()


@pytest.mark.parametrize("neuron", [IF, LIF], ids=["if", "lif"])
def test_the_ordinary_network_spikes_as_the_papers(neuron: dict[str, Any], tmp_path: Path) -> None:
    leaky = neuron is LIF
    _, net, batch = setting(tmp_path, 7, plan=DEEP, neuron=NEURON | neuron)
    frames = batch.frames * 0.37
    expected = by_hand(net, frames, 0.4, leaky)
    spiking = dsr.in_spikes(net, 0.4)
    out, _, found = forward(spiking, frames, record=list(expected))
    for name, values in expected.items():
        a = 0.75 / (1 - BETA if leaky else 1)
        assert 0 < values.count_nonzero() < values.numel()
        torch.testing.assert_close(a * found[name], values, rtol=0, atol=1e-12)
    total = (weights(7, leaky).view(-1, 1, 1) * expected["spike3"]).sum(0)
    scale = weights(7, leaky)[-1] * (0.75 / (1 - BETA if leaky else 1))
    torch.testing.assert_close(out.sum(0) * scale, total, rtol=0, atol=1e-12)
    assert all(layer.v_init == pytest.approx(0.45) for layer in spiking_layers(spiking).values())
    assert all(layer.v_init == 0 for layer in spiking_layers(net).values())


def clamp_gradient(net: Any, ctx: Any, batch: Any, outputs: dict[str, Tensor], neuron: dict[str, Any]) -> list[Tensor]:
    """Autograd through min(max(r, 0), a), with the value replaced by the average of the spikes."""
    leaky, single = neuron.get("kind") == "lif", neuron["spike_fn"] == "single"
    w = weights(len(batch.frames), leaky)
    x = torch.tensordot(w, batch.frames, dims=1)
    for layer in net.plan.layers:
        module = net.get_submodule(layer.name)
        if layer.kind != "neuron":
            x = module(x)
            continue
        a = module.spike_threshold / (1 - BETA if leaky else 1)
        value = torch.tensordot(w, outputs[layer.name], dims=1)
        slope = x if layer.name == net.plan.output else torch.clamp(x, min=0)
        slope = torch.minimum(slope, a) if single and layer.name != net.plan.output else slope
        x = value + (slope - slope.detach())
    loss = ctx.loss(len(batch.frames) * x, batch, OPTIONS["count_scale"])
    loss.backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in net.parameters() if p.requires_grad]


@pytest.mark.parametrize("neuron", [IF, LIF, MULTI], ids=["if", "lif", "multi"])
def test_it_is_the_gradient_of_the_clamps(neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 6, plan=DEEP, neuron=NEURON | neuron)
    trained(net)
    gradients(net, dsr.gradient(net, ctx, **OPTIONS), batch)
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters() if p.requires_grad]
    _, _, spikes = forward(dsr.in_spikes(net, 0.4), batch.frames, record=["spike1", "spike2", "spike3"])
    amplitudes = {name: float(dsr.amplitude(layer)) for name, layer in spiking_layers(net).items()}
    net.zero_grad()
    expected = clamp_gradient(net, ctx, batch, {n: amplitudes[n] * s.detach() for n, s in spikes.items()}, neuron)
    assert len(found) == len(expected) == 6
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    thresholds = [g for g in found if g.numel() == 1]
    assert len(thresholds) == 3
    assert any(float(g.abs()) > 1e-4 for g in thresholds) == (neuron is not MULTI)


@pytest.mark.parametrize("neuron", [IF, LIF], ids=["if", "lif"])
def test_averages_give_the_gradient_of_all_steps(neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 6, plan=DEEP, neuron=NEURON | neuron)
    trained(net)
    found = gradients(net, dsr.gradient(net, ctx, **OPTIONS), batch)
    for p in net.parameters():
        p.grad = None
    leak = dsr.leak_in(net)
    fire = dsr.Clamps({}, leak, 0.4, 1.0, [net.plan.output])
    out = dsr.rate(forward(net, batch.frames, fire=fire)[0], leak)
    ctx.loss(6 * out, batch, OPTIONS["count_scale"]).backward()
    expected = [p.grad for p in net.parameters() if p.grad is not None]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_a_constant_input_is_represented_by_its_average(alpha: float) -> None:
    theta, steps = 1.0, 16
    x = torch.arange(0, 65, dtype=torch.float64) / 64
    layer = neurons.make(**IF | {"spike_threshold": theta}).double()
    start, more = dsr.head_start(layer, alpha)
    assert more == 0
    spikes, _ = neurons.run("n", layer, x.expand(steps, 1, 65), torch.full((1, 65), start, dtype=torch.float64))
    counts = spikes.sum(0)[0]
    assert torch.equal(counts, torch.clip(torch.floor(steps * x / theta + 1 - alpha), 0, steps))
    error = (theta * counts / steps - torch.clip(x, 0, theta)).abs().max()
    assert error <= max(alpha, 1 - alpha) * theta / steps + 1e-12


def test_the_leaky_average_of_spikes_is_that_of_the_input_but_for_the_membrane() -> None:
    torch.manual_seed(0)
    steps, n = 20, 50
    x = torch.rand(steps, 1, n, dtype=torch.float64)
    layer = neurons.make(**LIF).double()
    start, more = dsr.head_start(layer, 0.3)
    spikes, end = neurons.run("n", layer, x + more, torch.full((1, n), start, dtype=torch.float64))
    w = weights(steps, True)
    r_in, r_out = (torch.tensordot(w, one, dims=1) for one in (x, float(dsr.amplitude(layer)) * spikes))
    membrane = (end - start) / ((1 - BETA) * sum(BETA**k for k in range(steps)))
    torch.testing.assert_close(r_out, r_in - membrane, rtol=0, atol=1e-13)


def test_thresholds_stay_above_their_bound(tmp_path: Path) -> None:
    net = setting(tmp_path, 4, neuron=NEURON | IF)[1]
    trained(net)
    first = next(layer for layer in spiking_layers(net).values())
    first.spike_threshold.data.fill_(0.001)
    dsr.bound(net, 0.05)
    assert float(first.spike_threshold) == 0.05
    dsr.bound(net, 0.05)
    assert float(first.spike_threshold) == 0.05
    assert [float(layer.spike_threshold) for layer in spiking_layers(net).values()][1] == 0.75


@pytest.mark.parametrize("neuron", [IF, MULTI], ids=["single", "multi"])
def test_a_chip_that_does_what_the_network_does_changes_nothing(neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 5, plan=DEEP, neuron=NEURON | neuron)
    plain = gradients(net, dsr.gradient(net, ctx, **OPTIONS), batch)
    with_chip = gradients(net, dsr.gradient(net, replace(ctx, observer=Copy()), **OPTIONS), batch)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(with_chip, plain, strict=True))


def test_counts_of_the_chip_enter_the_rates(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 5, plan=DEEP, neuron=NEURON | MULTI)
    shapes, size = net.plan.shapes(), batch.frames.shape[:2]
    seen = {name: torch.randint(0, 3, (*size, *shapes[name])).double() for name in spiking_layers(net)}
    found = gradients(net, dsr.gradient(net, replace(ctx, observer=Copy(seen)), **OPTIONS), batch)  # type: ignore[arg-type]
    net.zero_grad()
    expected = clamp_gradient(net, ctx, batch, {name: 0.75 * one for name, one in seen.items()}, MULTI)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("neuron", [IF, LIF, MULTI], ids=["if", "lif", "multi"])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_it_learns_and_a_seed_repeats(neuron: dict[str, Any], norm: str | None, tmp_path: Path) -> None:
    blocks = [{"conv": 4, "kernel": 3, "padding": 1, "pool": 2, "norm": norm}, {"linear": "classes"}]
    found = []
    for name in ("a", "b"):
        plan = plan_from("small", blocks, (2, 8, 8), 3)
        trainer = Trainer(epochs=10, batch_size=10)
        ctx = context(tmp_path / name, plan=plan, neuron=NEURON | neuron, frames=Frames(bins=5), trainer=trainer)
        net = dsr.train(ctx, lr=4e-2).net
        assert not any(layer.kind == "norm" for layer in net.plan.layers)
        found.append([p.clone() for p in net.parameters()])
        assert accuracy(ctx, net) > 0.5  # 1/3 by chance
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_it_cannot_train_is_refused(tmp_path: Path) -> None:
    back = Plan("loop", PLAN.input_shape, (*PLAN.layers[:-1], replace(PLAN.layers[-1]), Layer("d", "delay", {})))
    with pytest.raises(RequestError, match="a network with feedback"):
        dsr.train(context(tmp_path, plan=back))
    ctx, net, _ = setting(tmp_path, 4, plan=DEEP, neuron=NEURON | LIF)
    net.get_submodule("spike1").tau_mem.data.fill_(1.0)
    with pytest.raises(RequestError, match="neurons of several time constants have no common average"):
        dsr.gradient(net, ctx, **OPTIONS)
