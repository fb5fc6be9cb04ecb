"""OTTT: its update written out by hand, the cases in which it is BPTT or SLTT, memory, a chip in the loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.methods import bptt, ottt, sltt
from cil_spl.models import neurons
from cil_spl.models.build import plan_from
from cil_spl.models.forward import forward
from cil_spl.models.neurons import Observation
from cil_spl.models.plan import Layer
from cil_spl.training.context import Frames
from cil_spl.training.epochs import Fitted
from cil_spl.training.learn import Step
from cil_spl.training.options import Trainer
from tests.methods.test_methods import NEURON, PLAN, accuracy, context
from tests.methods.test_sltt import OPTIONS, assert_same, gradients, peak_of_saved_bytes, setting

LEAKY = {"kind": "lif", "tau_mem": 3.0}
DEEP = plan_from("deep", [{"conv": 3, "pool": 2}, {"linear": 7}, {"linear": "classes"}], (2, 8, 8), 3)
ONE = plan_from("one", [{"linear": "classes"}], (2, 8, 8), 3)


def by_hand(net: Any, ctx: Any, batch: Any, seen: dict[str, Tensor] | None = None, trace_input: bool = True) -> Any:
    """dL/dW = sum over t of delta[t] a[t]^T, each trace as the explicit sum over the steps before.

    Deltas are found step by step, with the membrane before as a constant; ``seen`` are counts of another machine.
    """
    weights = [layer.name for layer in net.plan.layers if net.plan.kinds[layer.name].weight]
    last = weights[-1]
    state: dict[str, Tensor] = {}
    inputs: dict[str, list[Tensor]] = {name: [] for name in weights}
    found = {name: torch.zeros_like(net.get_submodule(name).weight) for name in weights}
    for t, frame in enumerate(batch.frames):
        currents: dict[str, Tensor] = {}

        def weigh(name: str, module: Any, x: Tensor, currents: dict[str, Tensor] = currents) -> Tensor:
            inputs[name].append(x[0].detach())
            currents[name] = module(x[0])[None]
            currents[name].retain_grad()
            return currents[name]

        at = {name: Observation(counts[t : t + 1]) for name, counts in (seen or {}).items()}
        state = {name: v.detach() for name, v in state.items()}
        out, state, _ = forward(net, frame[None], state, at, weigh=weigh, fire=bptt.output_neurons(net, True))
        (ctx.loss(OPTIONS["count_scale"] * out[0], batch) / len(batch.frames)).backward()
        for name in weights:
            leak = float(net.get_submodule("spike" + name[-1]).alpha_mem_calculated)
            trace = sum(leak ** (t - k) * inputs[name][k] for k in range(t + 1))
            if name == weights[0] and not trace_input:
                trace = inputs[name][t]
            delta = currents[name].grad[0]  # type: ignore[index]
            if name == last or delta.dim() == 2:
                found[name] += delta.T @ trace.flatten(1)
            else:
                layer = net.get_submodule(name)
                found[name] += torch.nn.grad.conv2d_weight(
                    trace, layer.weight.shape, delta, layer.stride, layer.padding
                )
    return list(found.values())


@pytest.mark.parametrize("trace_input", [True, False])
@pytest.mark.parametrize("neuron", [{}, LEAKY, LEAKY | {"surrogate_grad_fn": "sigmoid", "spike_fn": "single"}], ids=str)
def test_it_is_the_update_written_out_by_hand(neuron: dict[str, Any], trace_input: bool, tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 6, plan=DEEP, neuron=NEURON | neuron)
    found = gradients(net, ottt.gradient(net, ctx, **OPTIONS, trace_input=trace_input), batch)
    expected = by_hand(net, ctx, batch, trace_input=trace_input)
    assert len(found) == len(expected) == 3
    for a, b in zip(found, expected, strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


class reset_is_constant:
    """Neurons through time, without the gradient that goes through the reset."""

    def __init__(self, straight: str) -> None:
        self.straight = straight

    def __call__(self, name: str, layer: Any, current: Tensor, v_mem: Any, observed: Any) -> tuple[Tensor, Tensor]:
        v = torch.zeros_like(current[0])
        if layer.norm_input:
            current = current * (1 - layer.alpha_mem_calculated)
        psi = neurons._one if name == self.straight else layer.surrogate_grad_fn
        spikes = []
        for now in current:
            u = layer.alpha_mem_calculated * v + now
            s = neurons._Spike.apply(u, None, None, layer.spike_fn, layer.spike_threshold, psi)
            v = u - layer.spike_threshold * s.detach()
            spikes.append(s)
        return torch.stack(spikes), v


@pytest.mark.parametrize("neuron", [{}, LEAKY], ids=str)
@pytest.mark.parametrize("plan", [ONE, DEEP], ids=lambda plan: plan.name)
def test_the_last_layer_learns_as_by_bptt_without_the_reset(plan: Any, neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 6, plan=plan, neuron=NEURON | {"min_v_mem": None} | neuron)
    out, _, _ = forward(net, batch.frames, fire=reset_is_constant(net.plan.output))
    value = bptt.loss_of(ctx, out, batch, "steps", OPTIONS["count_scale"])
    expected = torch.autograd.grad(value, [p for p in net.parameters() if p.requires_grad])
    found = gradients(net, ottt.gradient(net, ctx, **OPTIONS), batch)
    torch.testing.assert_close(found[-1], expected[-1], rtol=0, atol=1e-13)
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        assert (a - b).abs().max() > 1e-3  # deeper weights differ, as they should


def test_without_a_memory_it_is_sltt(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 6, neuron=NEURON | {"kind": "lif", "tau_mem": 0.01})
    found = gradients(net, ottt.gradient(net, ctx, **OPTIONS), batch)
    assert_same(found, gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch), 1e-14)


@pytest.mark.parametrize("update", ["accumulate", "online"])
def test_of_one_step_it_is_sltt_and_bptt(update: Any, tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 1)
    found = gradients(net, ottt.gradient(net, ctx, **OPTIONS, update=update), batch)
    assert_same(found, gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch), 1e-14)
    assert_same(found, gradients(net, bptt.gradient(net, ctx, loss="steps", **OPTIONS), batch), 1e-14)


@pytest.mark.parametrize("at_once", [2, 4, 9])
def test_steps_computed_together_are_what_each_is_alone(at_once: int, tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 7, neuron=NEURON | LEAKY)
    alone = gradients(net, ottt.gradient(net, ctx, **OPTIONS), batch)
    assert_same(gradients(net, ottt.gradient(net, ctx, **OPTIONS, at_once=at_once), batch), alone, 1e-13)


def test_online_updates_tend_to_the_accumulated_one(tmp_path: Path) -> None:
    """First order in the learning rate: half of it, half of the difference."""
    ctx, net, batch = setting(tmp_path, 5)
    start = [p.detach().clone() for p in net.parameters()]
    whole = gradients(net, ottt.gradient(net, ctx, **OPTIONS), batch)
    apart = []
    for lr in (1e-4, 5e-5, 2.5e-5):
        for p, value in zip(net.parameters(), start, strict=True):
            p.data.copy_(value)
        steps = 0
        for _ in ottt.gradient(net, ctx, **OPTIONS, update="online")(batch):
            steps += 1
            for p in net.parameters():
                if p.grad is not None:
                    p.data -= lr * p.grad
                    p.grad = None
        assert steps == 5
        moved = [(a - b) / lr for a, b in zip(start, net.parameters(), strict=True)]
        learned = [one for one in moved if one.abs().max() > 0]
        apart.append(max(float((a - b).detach().abs().max()) for a, b in zip(learned, whole, strict=True)))
    assert apart[0] > 1e-7
    assert apart[1] < 0.7 * apart[0]
    assert apart[2] < 0.7 * apart[1]


def test_a_trace_is_the_leaky_sum() -> None:
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    whole, last = ottt.traced(x, None, 0.6)
    expected = torch.stack([sum(0.6 ** (t - k) * x[k] for k in range(t + 1)) for t in range(7)])  # type: ignore[misc]
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-14)
    first, kept = ottt.traced(x[:3], None, 0.6)
    rest, end = ottt.traced(x[3:], kept, 0.6)
    assert torch.equal(torch.cat([first, rest]), whole)
    assert torch.equal(end, last)


def test_memory_does_not_grow_with_time(tmp_path: Path) -> None:
    peaks = {}
    for bins in (8, 64):
        ctx, net, batch = setting(tmp_path, bins)
        for update in ("accumulate", "online"):
            along = ottt.gradient(net, ctx, **OPTIONS, update=update, at_once=4)  # type: ignore[arg-type]
            peaks[update, bins] = peak_of_saved_bytes(ctx, net, along, batch)
    for update in ("accumulate", "online"):
        assert peaks[update, 8] > 0
        assert peaks[update, 64] == peaks[update, 8]


class Copy:
    """A machine that saw what the network itself did, or what it is given."""

    def __init__(self, counts: dict[str, Tensor] | None = None) -> None:
        self.counts, self.net = counts, None

    def load(self, net: Any) -> None:
        self.net = net

    def open(self, batch: Any) -> None:
        if self.counts is None:
            names = [layer.name for layer in self.net.plan.layers if layer.kind == "neuron"]  # type: ignore[attr-defined]
            _, _, found = forward(self.net, batch.frames, record=names)  # type: ignore[arg-type]
            self.counts = {name: one.detach() for name, one in found.items()}

    def windows(self) -> dict[str, Observation]:
        return {name: Observation(counts) for name, counts in (self.counts or {}).items()}

    def window(self, t: int) -> dict[str, Observation]:
        raise NotImplementedError


@pytest.mark.parametrize("neuron", [{}, LEAKY], ids=str)
def test_a_chip_that_does_what_the_network_does_changes_nothing(neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 5, plan=DEEP, neuron=NEURON | neuron)
    plain = gradients(net, ottt.gradient(net, ctx, **OPTIONS), batch)
    with_chip = gradients(net, ottt.gradient(net, replace(ctx, observer=Copy()), **OPTIONS), batch)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(with_chip, plain, strict=True))


def test_counts_of_the_chip_enter_the_traces(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 5, plan=DEEP, neuron=NEURON | LEAKY)
    shapes, size = net.plan.shapes(), batch.frames.shape[:2]
    names = [layer.name for layer in net.plan.layers if layer.kind == "neuron"]
    seen = {name: torch.randint(0, 3, (*size, *shapes[name])).double() for name in names}
    found = gradients(net, ottt.gradient(net, replace(ctx, observer=Copy(seen)), **OPTIONS), batch)  # type: ignore[arg-type]
    expected = by_hand(net, ctx, batch, seen)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("update", ["accumulate", "online"])
def test_it_learns_and_a_seed_repeats(update: Any, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        ctx = context(tmp_path / name)
        net = ottt.train(ctx, update=update, lr=2e-2).net
        found.append([p.clone() for p in net.parameters()])
        assert accuracy(ctx, net) > 0.7  # 1/3 by chance
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_learning_rate_falls_over_all_online_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ottt, "learn", lambda *_, **options: asked.update(options))
    ottt.train(context(tmp_path, frames=Frames(bins=5)), update="online")
    assert asked["updates"] == 5
    ottt.train(context(tmp_path, frames=Frames(bins=5)))
    assert asked["updates"] == 1


def test_online_updates_end_with_a_learning_rate_of_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = context(tmp_path, frames=Frames(bins=5), trainer=Trainer(epochs=1, batch_size=10))
    kept: dict[str, Any] = {}

    def fit(self: Any, **options: Any) -> Fitted:
        kept.update(options)
        for batch in options["batches"].epoch(0):
            options["step"](batch)
        return Fitted()

    monkeypatch.setattr(type(ctx), "fit", fit)
    ottt.train(ctx, update="online")
    update = kept["keep"]["update"]
    assert update.steps == 5 * len(kept["batches"])
    assert update.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_online_updates_with_a_chip_in_the_loop_are_refused() -> None:
    online, chip = {"update": "online"}, {"layers": "all"}
    with pytest.raises(RequestError, match=r"method\.update=online: .* use method\.update=accumulate"):
        ottt.check(OmegaConf.create({"method": online, "observer": chip}))
    assert ottt.check(OmegaConf.create({"method": online, "observer": None})) == []
    assert ottt.check(OmegaConf.create({"method": {"update": "accumulate"}, "observer": chip})) == []


def test_layers_with_several_leaks_have_no_trace(tmp_path: Path) -> None:
    ctx = context(tmp_path, neuron=NEURON | LEAKY)
    net = ctx.build("snn")
    assert ottt.leak_after(net, "conv1") == pytest.approx(0.7165313)
    net.get_submodule("spike1").tau_mem.data.fill_(1.0)
    assert ottt.leak_after(net, "conv1") == pytest.approx(0.3678794)
    assert ottt.leak_after(net, "linear2") == pytest.approx(0.7165313)
    net.get_submodule("spike1").tau_mem.data = torch.tensor([1.0, 3.0]).view(2, 1, 1)
    with pytest.raises(RequestError, match="model layer conv1: it feeds neurons of several time constants"):
        ottt.leak_after(net, "conv1")
    net.get_submodule("spike1").tau_mem.data = torch.tensor(1.0)
    conv, spike, pool, *rest = PLAN.layers
    two = (conv, replace(spike, inputs=("conv1",)), Layer("other", "neuron", {}, ("conv1",)))
    both = (Layer("both", "add", {}, ("spike1", "other")), replace(pool, inputs=("both",)))
    ctx = replace(ctx, plan=replace(PLAN, layers=(*two, *both, *rest)))
    net = ctx.build("snn")
    assert ottt.leak_after(net, "conv1") == pytest.approx(0.7165313)
    net.get_submodule("other").tau_mem.data.fill_(1.0)
    with pytest.raises(RequestError, match=r"model layer conv1: it feeds neurons of several time constants"):
        ottt.leak_after(net, "conv1")


def test_a_step_is_one_update() -> None:
    steps = [Step(torch.tensor(1.0), torch.ones(2, 3)), Step(torch.tensor(2.0), torch.ones(2, 3))]
    assert sltt.total(steps).loss == 3
    assert torch.equal(sltt.total(steps).outputs, torch.full((2, 3), 2.0))
