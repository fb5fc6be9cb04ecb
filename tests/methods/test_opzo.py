"""OPZO: what noise says of a Jacobian, the update written out by hand, and what it is compared with."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cil_spl.methods import opzo, ottt
from cil_spl.models import neurons
from cil_spl.models.build import build, plan_from
from cil_spl.training.context import Frames
from cil_spl.training.options import Trainer
from tests.methods.test_methods import NEURON, accuracy, context
from tests.methods.test_ottt import DEEP, LEAKY, Copy
from tests.methods.test_sltt import OPTIONS, gradients, peak_of_saved_bytes, setting

TWO = plan_from("two", [{"linear": 6}, {"linear": "classes"}], (1, 2, 2), 3)
PLAIN: dict[str, Any] = {"centre": False, "antithetic": False, "momentum": 0.0}


def errors_of(net: Any, **options: Any) -> opzo.Errors:
    return opzo.Errors(net, **options)


def two() -> Any:
    return build(TWO, family="snn", neuron=NEURON).double()


# --- the matrices -----------------------------------------------------------------------------------------------------


def test_all_signs_together_give_the_jacobian() -> None:
    """A linear model, every vector of signs: the mean of z o~^T / sigma is J^T."""
    errors, j = errors_of(two(), noise=0.3, **PLAIN), torch.randn(3, 6, dtype=torch.float64)
    z = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64)[None]
    s = torch.randn(6, dtype=torch.float64)
    errors.learn({"spike1": z}, {"output": (s + 0.3 * z) @ j.T})
    torch.testing.assert_close(errors.matrix("spike1"), j.T, rtol=0, atol=1e-14)


def test_an_antithetic_pair_leaves_nothing_of_the_output_without_noise() -> None:
    net = two()
    errors, j = errors_of(net, noise=0.3, **PLAIN | {"antithetic": True}), torch.randn(3, 6, dtype=torch.float64)
    like = torch.zeros(2, 1, 6, dtype=torch.float64)
    z = errors.draw("spike1", like, 0)
    assert torch.equal(z[1], -z[0])
    errors.learn({"spike1": z}, {"output": (100.0 + 0.3 * z) @ j.T})
    torch.testing.assert_close(errors.matrix("spike1"), z[0].T @ z[0] @ j.T, rtol=0, atol=1e-11)


def test_a_pair_may_stand_in_two_passes() -> None:
    errors = errors_of(two())
    like = torch.zeros(1, 4, 6, dtype=torch.float64)
    first, second, third = (errors.draw("spike1", like, t) for t in (0, 1, 2))
    assert torch.equal(second, -first)
    assert not torch.equal(third.abs(), first.abs())


@pytest.mark.parametrize(("antithetic", "least"), [(False, 0.6), (True, 0.97)])
@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "sphere"])
def test_the_error_that_arrives_points_along_the_right_one(kind: Any, antithetic: bool, least: float) -> None:
    net = two()
    errors = errors_of(net, noise=0.2, noise_kind=kind, momentum=0.999, centre=False, antithetic=antithetic)
    torch.manual_seed(0)
    j = torch.randn(3, 6, dtype=torch.float64)
    for _ in range(500):
        z = errors.draw("spike1", torch.zeros(2, 2, 6, dtype=torch.float64), 0)
        errors.learn({"spike1": z}, {"output": (torch.randn(6, dtype=torch.float64) + 0.2 * z) @ j.T})
    e = torch.randn(50, 3, dtype=torch.float64)
    found, right = e @ errors.matrix("spike1").T, e @ j
    assert torch.cosine_similarity(found, right, dim=1).mean() > least
    z = errors.draw("spike1", torch.zeros(2, 4000, 6, dtype=torch.float64), 0)[0]
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(6, dtype=torch.float64), rtol=0, atol=0.1)


def test_the_running_mean_is_corrected_for_its_start() -> None:
    errors = errors_of(two(), noise=1.0, **PLAIN | {"momentum": 0.9})
    z, out = torch.ones(1, 1, 6, dtype=torch.float64), torch.ones(1, 1, 3, dtype=torch.float64)
    for _ in range(3):
        errors.learn({"spike1": z}, {"output": out})
        torch.testing.assert_close(errors.matrix("spike1"), torch.ones(6, 3, dtype=torch.float64))


def test_centred_outputs_lose_what_they_have_without_noise() -> None:
    errors = errors_of(two(), noise=1.0, momentum=0.5, centre=True, antithetic=False)
    for _ in range(4):
        errors.learn({"spike1": torch.ones(1, 1, 6).double()}, {"output": torch.full((1, 1, 3), 7.0).double()})
        assert errors.matrix("spike1").abs().max() < 1e-14


def test_a_checkpoint_draws_on() -> None:
    errors, again = (errors_of(two(), seed=seed) for seed in (0, 1))
    like = torch.zeros(3, 2, 6, dtype=torch.float64)
    errors.learn({"spike1": errors.draw("spike1", like, 0)}, {"output": torch.randn(3, 2, 3).double()})
    again.load_state_dict(errors.state_dict())
    assert torch.equal(again.draw("spike1", like, 3), errors.draw("spike1", like, 3))
    assert torch.equal(again.matrix("spike1"), errors.matrix("spike1"))
    assert again.learned == 1


# --- the update -------------------------------------------------------------------------------------------------------


def jacobian(net: Any, name: str) -> Tensor:
    """Of the output current by the spikes of the only hidden layer, (K, n)."""
    shape = net.plan.shapes()[name]
    after = [layer.name for layer in net.plan.layers][[la.name for la in net.plan.layers].index(name) + 1 : -1]

    def rest(s: Tensor) -> Tensor:
        x = s.view(1, *shape)
        for layer in after:
            x = net.get_submodule(layer)(x)
        return x[0]

    found: Tensor = torch.autograd.functional.jacobian(rest, torch.zeros(shape, dtype=torch.float64).flatten())  # type: ignore[no-untyped-call, assignment]
    return found


@pytest.mark.parametrize("neuron", [{}, LEAKY], ids=str)
def test_with_the_exact_jacobian_it_is_online_training_through_time(neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 6, neuron=NEURON | neuron)
    errors = errors_of(net, feedback="random")
    j = jacobian(net, "spike1")
    factor = 1.0 if not neuron else 1 - float(net.get_submodule("spike2").alpha_mem_calculated)
    errors.matrices["output"]["spike1"] = factor * j.T
    found = gradients(net, opzo.gradient(net, ctx, errors, **OPTIONS), batch)
    expected = gradients(net, ottt.gradient(net, ctx, **OPTIONS), batch)
    for a, b in zip(found, expected, strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def errors_by_hand(net: Any, ctx: Any, batch: Any, matrix: dict[str, Tensor]) -> list[Tensor]:
    """One time step, chain of layers: delta = (M e) psi(u), each layer with its own input."""
    x, made = batch.frames[0], {}
    pieces: list[tuple[str, Tensor]] = []
    for layer in net.plan.layers:
        module = net.get_submodule(layer.name)
        if layer.kind != "neuron":
            x = module(x.detach())
            continue
        straight = layer.name == net.plan.output
        x = neurons.run(layer.name, module, x[None], straight_through=straight)[0][0]
        made[layer.name] = x
        pieces.append((layer.name, x))
    o = x.detach().requires_grad_()
    (e,) = torch.autograd.grad(ctx.loss(o, batch, OPTIONS["count_scale"]), o)
    value = sum((s * (e if name == net.plan.output else (e @ matrix[name].T).view_as(s))).sum() for name, s in pieces)
    return list(torch.autograd.grad(value, [p for p in net.parameters() if p.requires_grad]))  # type: ignore[arg-type]


def test_direct_feedback_alignment_by_hand(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 1, plan=DEEP)
    errors = errors_of(net, feedback="random")
    found = gradients(net, opzo.gradient(net, ctx, errors, **OPTIONS), batch)
    expected = errors_by_hand(net, ctx, batch, errors.matrices["output"])
    for a, b in zip(found, expected, strict=True):
        assert a.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("feedback", ["aligned", "sign", "backward"])
def test_other_weights_in_the_backward_pass_by_hand(feedback: Any, tmp_path: Path) -> None:
    ctx, net, batch = setting(
        tmp_path, 1, plan=plan_from("three", [{"linear": 9}, {"linear": 7}, {"linear": "classes"}], (2, 8, 8), 3)
    )
    errors = errors_of(net, feedback=feedback)
    found = gradients(net, opzo.gradient(net, ctx, errors, **OPTIONS), batch)
    back = {}
    for name in ("linear1", "linear2", "linear3"):
        weight = net.get_submodule(name).weight.detach()
        back[name] = {"aligned": errors.back.get(name), "backward": weight}.get(
            feedback, weight.sign() * weight.abs().mean()
        )
    x, spikes, inputs = batch.frames[0].flatten(1), [], []
    for k in (1, 2, 3):
        inputs.append(x)
        current = (x.detach() @ net.get_submodule(f"linear{k}").weight.detach().T).requires_grad_()
        s = neurons.run("n", net.get_submodule(f"spike{k}"), current[None], straight_through=k == 3)[0][0]
        spikes.append((current, s))
        x = s.detach()
    o = x.requires_grad_()
    (g,) = torch.autograd.grad(ctx.loss(o, batch, OPTIONS["count_scale"]), o)
    expected = []
    for k in (3, 2, 1):
        current, s = spikes[k - 1]
        (delta,) = torch.autograd.grad(s, current, g)
        expected.insert(0, delta.T @ inputs[k - 1].detach())
        g = delta @ back[f"linear{k}"]  # type: ignore[operator]
    for a, b in zip(found, expected, strict=True):
        assert a.abs().max() > 1e-5
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_the_loss_at_one_point_by_hand(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 1)
    errors, again = (errors_of(net, feedback="single_point", noise=0.3) for _ in range(2))
    found = gradients(net, opzo.gradient(net, ctx, errors, **OPTIONS), batch)
    layer = net.get_submodule("spike1")
    s = neurons.run("spike1", layer, net.get_submodule("conv1")(batch.frames[0])[None])[0]
    z = again.draw("spike1", s, 0)
    x = s.detach() + 0.3 * z
    for name in ("pool1", "flatten", "linear2"):
        x = net.get_submodule(name)(x[0])[None]
    out = neurons.run("spike2", net.get_submodule("spike2"), x)[0][0].detach()
    each = torch.nn.functional.cross_entropy(OPTIONS["count_scale"] * out, batch.target, reduction="none")
    value = (s[0] * z[0] * (each / len(each) / 0.3).view(-1, 1, 1, 1)).sum()
    (expected,) = torch.autograd.grad(value, [net.get_submodule("conv1").weight])
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("feedback", ["estimated", "random", "single_point"])
def test_no_layer_reads_the_weights_above_it(feedback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, net, batch = setting(tmp_path, 4, plan=DEEP)
    errors = errors_of(net, feedback=feedback)

    def nothing(name: str, found: dict[str, Tensor], each: Any, noise: Any) -> Tensor:
        n = len(errors.matrices["output"][name])
        return found["output"].new_zeros(*found["output"].shape[:2], n)

    monkeypatch.setattr(errors, "of", nothing)
    conv, linear, last = gradients(net, opzo.gradient(net, ctx, errors, **OPTIONS), batch)
    assert torch.equal(conv, torch.zeros_like(conv))
    assert torch.equal(linear, torch.zeros_like(linear))
    assert last.abs().max() > 1e-3


def test_noise_on_membranes_is_gone_after_the_spike_test() -> None:
    net = build(TWO, family="snn", neuron=NEURON | LEAKY | {"min_v_mem": None}).double()
    layer = net.get_submodule("spike1")
    current = 0.2 * torch.randn(5, 3, 6, dtype=torch.float64)
    fire = opzo.Noisy(errors_of(net, noise=1e-3, noise_on="membranes"), 0, [], noisy=True)
    plain, end = neurons.run("spike1", layer, current)
    sent, state = fire("spike1", layer, current, None, None)
    assert torch.equal(sent, plain)  # too little to change a spike
    torch.testing.assert_close(state, end, rtol=0, atol=1e-14)
    loud = opzo.Noisy(errors_of(net, noise=5.0, noise_on="membranes"), 0, [], noisy=True)
    assert not torch.equal(loud("spike1", layer, current, None, None)[0], plain)


@pytest.mark.parametrize("at_once", [2, 3])
def test_steps_computed_together_are_what_each_is_alone(at_once: int, tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 5, plan=DEEP, neuron=NEURON | LEAKY)
    alone = gradients(net, opzo.gradient(net, ctx, errors_of(net, feedback="random"), **OPTIONS), batch)
    found = gradients(
        net, opzo.gradient(net, ctx, errors_of(net, feedback="random"), **OPTIONS, at_once=at_once), batch
    )
    for a, b in zip(found, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_a_chip_that_does_what_the_network_does_changes_nothing(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 5, plan=DEEP)
    plain = gradients(net, opzo.gradient(net, ctx, errors_of(net, feedback="random"), **OPTIONS), batch)
    on_chip = replace(ctx, observer=Copy())  # type: ignore[arg-type]
    found = gradients(net, opzo.gradient(net, on_chip, errors_of(net, feedback="random"), **OPTIONS), batch)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_with_a_chip_the_matrices_come_from_the_twin_and_the_error_from_the_chip(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 4, plan=DEEP)
    shapes, size = net.plan.shapes(), batch.frames.shape[:2]
    seen = {f"spike{k}": torch.randint(0, 3, (*size, *shapes[f"spike{k}"])).double() for k in (1, 2, 3)}
    alone, with_chip = errors_of(net), errors_of(net)
    gradients(net, opzo.gradient(net, ctx, alone, **OPTIONS), batch)
    on_chip = replace(ctx, observer=Copy(seen))  # type: ignore[arg-type]
    steps = list(opzo.gradient(net, on_chip, with_chip, **OPTIONS)(batch))
    for name in ("spike1", "spike2"):
        torch.testing.assert_close(with_chip.matrix(name), alone.matrix(name), rtol=0, atol=1e-12)
    assert torch.equal(steps[0].outputs, seen["spike3"].sum(0))


def test_memory_does_not_grow_with_time(tmp_path: Path) -> None:
    peaks = {}
    for bins in (8, 64):
        ctx, net, batch = setting(tmp_path, bins)
        along = opzo.gradient(net, ctx, errors_of(net), **OPTIONS, at_once=4)
        peaks[bins] = peak_of_saved_bytes(ctx, net, along, batch)
    assert 0 < peaks[64] == peaks[8]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise_on": "membranes", "noise_kind": "sphere"},
        {"feedback": "random"},
        {"feedback": "backward"},
        {"feedback": "aligned"},
        {"feedback": "sign"},
        {"local": "local"},
        {"local": "intermediate"},
    ],
    ids=str,
)
def test_it_learns_and_a_seed_repeats(options: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        plan = DEEP if "local" in options else context(tmp_path).plan
        trainer = Trainer(epochs=8, batch_size=10)
        ctx = context(tmp_path / name, plan=plan, frames=Frames(bins=4), trainer=trainer)
        net = opzo.train(ctx, lr=2e-2, momentum=0.9, **options).net
        assert {n.split(".")[0] for n, _ in net.named_parameters()} == {n for n, _ in net.named_children()} - {
            "flatten",
            "pool1",
        }
        found.append([p.clone() for p in net.parameters()])
        assert accuracy(ctx, net) > 0.5  # 1/3 by chance
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_read_out_in_the_middle_feeds_what_is_before_it() -> None:
    plan = plan_from("four", [{"linear": 5}, {"linear": 6}, {"linear": 7}, {"linear": "classes"}], (1, 2, 2), 3)
    net = build(plan, family="snn", neuron=NEURON)
    errors = errors_of(net, local="intermediate")
    assert errors.middle == "spike2"
    assert {head: list(found) for head, found in errors.matrices.items()} == {
        "output": ["spike1", "spike2", "spike3"],
        "spike2": ["spike1"],
    }
    assert set(errors.readouts) == {"spike1", "spike2", "spike3"}
    assert errors_of(net, local="local").middle is None
    assert not errors_of(net).readouts
