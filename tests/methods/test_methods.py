"""BPTT and conversion: exact identities of their sections in the literature, on small networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cil_spl.chip.rounding import Precision
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, Splits, from_list
from cil_spl.methods import bptt, conversion
from cil_spl.models import answers
from cil_spl.models.build import build, plan_from
from cil_spl.models.carry import events_per_unit
from cil_spl.models.forward import forward
from cil_spl.models.init import scale_to_rate
from cil_spl.models.net import Net
from cil_spl.models.options import Backend
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.classification import classification
from cil_spl.training.context import Frames, TrainingContext
from cil_spl.training.update import Trainer

NEURON = {"spike_threshold": 1.0, "min_v_mem": -1.0}
BLOCKS = [{"conv": 4, "kernel": 3, "padding": 1, "pool": 2}, {"linear": "classes"}]
PLAN = plan_from("small", BLOCKS, (2, 8, 8), 3)


def context(folder: Path, **changes: Any) -> TrainingContext:
    """Three classes, told apart by which third of the map is busy."""
    rng = np.random.default_rng(1)
    recordings, target = [], []
    for i in range(90):
        events = np.zeros(50, EVENT)
        far = rng.random(50) < 0.2
        events["x"] = np.where(far, rng.integers(0, 8, 50), np.minimum(7, 3 * (i % 3) + rng.integers(0, 3, 50)))
        events["y"], events["p"] = rng.integers(0, 8, 50), rng.integers(0, 2, 50)
        events["t"] = np.sort(rng.integers(0, 9000, 50))
        recordings.append(events)
        target.append(i % 3)
    made = from_list(recordings, target, (8, 8, 2), ("a", "b", "c"))
    data = Splits(made.subset(range(60)), made.subset(range(60, 75)), made.subset(range(75, 90)))
    told: list[str] = []
    options: dict[str, Any] = {
        "plan": PLAN,
        "experiences": (data,),
        "task": classification(),
        "neuron": NEURON,
        "precision": Precision(),
        "trainer": Trainer(epochs=4, batch_size=10),
        "frames": Frames(bins=3),
        "seed": 0,
        "device": torch.device("cpu"),
        "folder": folder,
        "log": lambda *_: None,
        "warn": told.append,
    }
    torch.manual_seed(0)
    return TrainingContext(**(options | changes))


def accuracy(ctx: TrainingContext, net: Net) -> float:
    """Of a network in time steps on the test recordings, by its largest output."""
    right = []
    for batch in ctx.batches(ctx.experiences[0].test, train=False).epoch(0):
        out, _, _ = forward(net, batch.frames)
        right.append(out.sum(0).argmax(1) == batch.target)
    return float(torch.cat(right).float().mean())


@pytest.mark.parametrize("options", [{}, {"loss": "steps"}], ids=str)
@pytest.mark.parametrize("neuron", [{}, {"spike_fn": "single"}, {"kind": "lif", "tau_mem": 5.0}], ids=str)
def test_bptt_learns(options: dict, neuron: dict, tmp_path: Path) -> None:
    s = context(tmp_path, neuron=NEURON | neuron, trainer=Trainer(epochs=8, batch_size=10))
    lr = 0.15 if neuron.get("kind") == "lif" else 0.03  # a leaky neuron weakens its input, so weights are larger
    trained = bptt.train(s, lr=lr, **options)
    seen = ev.evaluate(
        answers.stepped_answer(trained.net), s.batches(s.experiences[0].test, train=False).epoch(0), s.task
    )
    assert seen.metrics["accuracy"] > 0.6  # 1/3 by chance


def test_bptt_with_rounded_weights_ends_on_the_chips_grid(tmp_path: Path) -> None:
    trained = bptt.train(context(tmp_path, precision=Precision(aware=True)), lr=2e-2)
    weight = trained.net.conv1.weight.detach()
    steps = weight / weight.abs().max()
    assert torch.allclose(steps * 127, (steps * 127).round(), atol=1e-2) or torch.allclose(
        steps * 128, (steps * 128).round(), atol=1e-2
    )


def test_loss_per_step_is_the_mean_of_the_steps_losses(tmp_path: Path) -> None:
    s = context(tmp_path)
    batch = next(
        Batches(s.experiences[0].val.subset(range(4)), 5, Frames(3), pad=True).epoch(0)
    )  # the fifth is padding
    out, target = torch.randint(0, 4, (3, 5, 3)).float(), batch.target[:4]
    expected = sum(torch.nn.functional.cross_entropy(0.5 * o[:4], target) for o in out) / 3
    torch.testing.assert_close(bptt.loss_of(s, out, batch, "steps", 0.5), expected)
    whole = torch.nn.functional.cross_entropy(0.5 * out.sum(0)[:4], target)
    torch.testing.assert_close(bptt.loss_of(s, out, batch, "counts", 0.5), whole)


def test_bptt_gradient_equals_finite_differences_of_a_smooth_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the spike replaced by the primitive of psi, the surrogate gradient is the true one."""
    from cil_spl.models import neurons

    slope = 4.0

    class Smooth(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, u, counts, seen, spike_fn, threshold, psi):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(u, threshold)
            ctx.psi = psi
            return torch.sigmoid(slope * (u - threshold))

        backward = neurons._Spike.backward

    monkeypatch.setattr(neurons, "_Spike", Smooth)
    torch.manual_seed(2)
    net = build(PLAN, family="snn", neuron=NEURON | {"surrogate_grad_fn": "sigmoid", "min_v_mem": None}).double()
    net.compute_by(Backend("sinabs"))
    frames = torch.rand(3, 2, 2, 8, 8, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (forward(net, frames)[0] ** 2).sum()

    loss().backward()
    weight = net.conv1.weight
    for place in [(0, 0, 0, 0), (3, 1, 2, 2)]:
        with torch.no_grad():
            weight[place] += 1e-6
            up = loss()
            weight[place] -= 2e-6
            down = loss()
            weight[place] += 1e-6
        assert weight.grad is not None
        assert float(weight.grad[place]) == pytest.approx(float(up - down) / 2e-6, rel=1e-5, abs=1e-7)


def test_scaled_weights_have_the_spread_asked_for() -> None:
    torch.manual_seed(0)
    net = build(PLAN, family="snn", neuron=NEURON)
    frames = torch.poisson(torch.full((4, 8, 2, 8, 8), 0.4))
    scale_to_rate(net, frames, 1.5)
    current = net.conv1(frames.flatten(0, 1))
    assert float(current[current != 0].std().detach()) == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize("aware", [False, True])
def test_conversion_learns_and_takes_the_best_gain_on_validation(aware: bool, tmp_path: Path) -> None:
    s = context(tmp_path, precision=Precision(aware=aware), trainer=Trainer(epochs=6, batch_size=10))
    trained = conversion.train(s, lr=2e-2, gains=(0.05, 4, 8))
    assert trained.notes is not None
    assert trained.ann is not None
    tried = {k: v for k, v in trained.notes.items() if k.startswith("val/gain_")}
    assert tried[f"val/gain_{trained.notes['chosen/gain']:g}"] == max(tried.values())
    test = s.experiences[0].test
    cnn = ev.evaluate(answers.cnn_answer(trained.ann), s.batches(test, train=False, bins=1).epoch(0), s.task)
    snn = ev.evaluate(answers.stepped_answer(trained.net), s.batches(test, train=False).epoch(0), s.task)
    assert cnn.metrics["accuracy"] > 0.7
    assert snn.metrics["accuracy"] > 0.6


def test_gain_is_chosen_on_the_target_where_there_is_one(tmp_path: Path) -> None:
    asked: list[float] = []

    def deployed(net: torch.nn.Sequential, batches: Any, allowed: Any = None) -> float:
        asked.append(float(net.conv1.weight.abs().max().detach()))
        assert len(batches.data) == 15  # the validation set
        return {1: 0.2, 2: 0.9, 0: 0.5}[len(asked) % 3]

    trained = conversion.train(context(tmp_path, deployed=deployed), gains=(1, 2, 4))
    assert trained.notes is not None
    assert trained.notes["chosen/gain"] == 2
    assert asked[1] == pytest.approx(2 * asked[0])


def test_converted_network_at_full_resolution_is_the_cnn(tmp_path: Path) -> None:
    """Rectified networks without biases are homogeneous: with many events counts follow activations."""
    s = context(tmp_path, neuron=NEURON | {"min_v_mem": -1e9})
    torch.manual_seed(4)
    ann = build(PLAN, family="cnn", neuron={}, output_relu=True)
    with torch.no_grad():
        for module in (ann.conv1, ann.linear2):
            module.weight.abs_()  # without inhibition order plays no part
    frames = next(s.batches(s.experiences[0].test, train=False, bins=1).epoch(0)).frames
    net = conversion.convert(s, ann, {"conv1": 1.0, "linear2": 1.0}, 1000.0)
    counts = forward(net, frames)[0][0]
    torch.testing.assert_close(counts / 1000, ann(frames[0]), rtol=2e-3, atol=2e-3)


def test_activations_are_percentiles_of_what_is_positive(tmp_path: Path) -> None:
    s = context(tmp_path)
    ann = build(PLAN, family="cnn", neuron={})
    batches = s.batches(s.experiences[0].train, train=False, bins=1)
    found = conversion.activations(ann, batches, 90.0, 1, torch.device("cpu"))
    first = ann.conv1(next(batches.epoch(0)).frames[0]).detach()
    assert found["conv1"] == pytest.approx(float(np.percentile(first[first > 0].numpy(), 90)), rel=1e-2)


def test_conversion_takes_the_epoch_and_gain_that_score_best_converted(tmp_path: Path) -> None:
    scores = iter([0.1, 0.2, 0.9, 0.3, 0.4, 0.4, 0.9, 0.3])  # two gains in each of three epochs, and at the end
    seen: list[torch.Tensor] = []

    def deployed(net: torch.nn.Sequential, _: Batches, allowed: Any = None) -> float:
        seen.append(net.conv1.weight.detach().clone())
        return next(scores)

    s = context(tmp_path, deployed=deployed, trainer=Trainer(epochs=3, batch_size=10))
    trained = conversion.train(s, gains=(4, 8))
    assert trained.notes is not None
    assert trained.notes["chosen/gain"] == 4
    assert torch.equal(trained.net.conv1.weight, seen[2])
    assert not torch.equal(seen[2], seen[4])


def test_branches_that_are_added_have_one_scale_wherever_they_meet() -> None:
    """a + b, b + c: one activation for all three; d, which is added to the input, has the input's."""
    blocks = [
        {"conv": 2, "padding": 1, "name": "a"}, {"conv": 2, "padding": 1, "name": "b"},
        {"conv": 2, "padding": 1, "inputs": ["a", "b"], "name": "c"},
        {"conv": 2, "padding": 1, "inputs": ["b", "c"], "name": "d"},
        {"conv": 2, "padding": 1, "inputs": ["d", "input"], "name": "e"},
        {"linear": "classes", "name": "out"},
    ]  # fmt: skip
    ann = build(plan_from("p", blocks, (2, 8, 8), 3), family="cnn", neuron={})
    activation = {"a": 1.0, "b": 2.0, "c": 8.0, "d": 32.0, "e": 4.0, "out": 10.0}
    events, into = events_per_unit(ann.plan, activation, 16.0)
    assert events == {"input": 1.0, "a": 2.0, "b": 2.0, "c": 2.0, "d": 1.0, "e": 4.0, "out": 1.6}
    assert into == {"a": 1.0, "b": 2.0, "c": 2.0, "d": 2.0, "e": 1.0, "out": 4.0}
