"""Progressive tandem learning: thresholds, stages, what is frozen and kept, and the network that comes of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cil_spl.data.batches import Batches
from cil_spl.data.samples import from_arrays
from cil_spl.methods import ptl
from cil_spl.models import answers
from cil_spl.models.build import build, plan_from
from cil_spl.models.carry import to_bits
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.neurons import Observation, load_weights, weights_of
from cil_spl.models.parts import parts_of, upto
from cil_spl.models.plan import Plan
from cil_spl.tasks import evaluation as ev
from cil_spl.training import frozen_spikes
from cil_spl.training.checkpoints import read_checkpoint, write_checkpoint
from cil_spl.training.context import Frames, TrainingContext
from cil_spl.training.epochs import Fitted
from cil_spl.training.update import Trainer
from tests.methods.test_cil import Given, software
from tests.methods.test_methods import context
from tests.methods.test_tandem import PAPER, images

OPTIONS: dict[str, Any] = {"levels": 4, "percentile": 90.0, "n_batches": 2, "bits": None}
POOLED = [
    {"conv": 4, "padding": 1, "norm": "batch", "pool": 2},
    {"conv": 5, "padding": 1, "norm": "batch"},
    {"linear": 6, "bias": True},
    {"linear": "classes", "bias": True, "neuron": False},
]


# A frozen layer whose currents a later stage takes too, so that the ANN goes on computing it.
SHORTCUT = [
    {"conv": 3, "padding": 1, "name": "c"},
    {"conv": 3, "padding": 1, "norm": "batch", "neuron": False, "inputs": ["input"], "name": "a"},
    {"add": ["a", "c"], "neuron": True, "name": "m"},
    {"conv": 3, "padding": 1, "neuron": False, "inputs": ["m"], "name": "d"},
    {"add": ["a", "d"], "neuron": True, "name": "e"},
    {"linear": "classes", "neuron": False, "name": "out"},
]


def prepared(
    ctx: TrainingContext, stage: int, dtype: Any = torch.float64, excite: bool = False, **options: Any
) -> ptl.Hybrid:
    """A hybrid with weights as they might be after some training, in the given stage; those before it are over.

    ``excite`` takes the amounts of the first layer's weights, so that all its neurons answer.
    """
    net = ctx.build("cnn")
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(0.1 * torch.randn(n, generator=generator))  # type: ignore[union-attr]
            module.running_var.copy_(0.5 + torch.rand(n, generator=generator))  # type: ignore[union-attr]
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(n, generator=generator))
                module.bias.copy_(0.3 * torch.rand(n, generator=generator))
    if excite:
        with torch.no_grad():
            net.conv1.weight.abs_()  # type: ignore[union-attr,operator]
    hybrid = ptl.Hybrid(ctx, net.to(dtype), **(OPTIONS | options))
    hybrid.spiking.to(dtype)
    for k, part in enumerate(hybrid.stages[: stage + 1]):
        hybrid.convert(k)
        if k < stage:
            hybrid.finish(part)
    return hybrid


class Doubles:
    """Batches in float64."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def epoch(self, n: int) -> Any:
        return (replace(batch, frames=batch.frames.double()) for batch in self.batches.epoch(n))


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TrainingContext.calibration
    monkeypatch.setattr(TrainingContext, "calibration", lambda *args, **kw: Doubles(plain(*args, **kw)))


def a_batch(ctx: TrainingContext) -> Any:
    batch = next(ctx.batches(ctx.experiences[0].val, train=False).epoch(0))
    return replace(batch, frames=batch.frames.double())


def seen_by(ctx: TrainingContext, n: int = 2) -> Tensor:
    """The samples that thresholds are taken on. (B, C, H, W)."""
    batches = ctx.calibration(ctx.experiences[0].train).epoch(0)
    return torch.cat([next(batches).frames.sum(0) for _ in range(n)]).double()


@pytest.mark.parametrize("levels", [3, 16])
def test_threshold_is_the_percentile_over_the_levels(levels: int, tmp_path: Path, in_double: None) -> None:
    """Of all activations, zeros too, by numpy's interpolation; of the second layer at the first one's spikes."""
    ctx = images(tmp_path, POOLED)
    hybrid = prepared(ctx, 1, levels=levels)
    net, x = hybrid.net.eval(), seen_by(ctx)
    first = torch.relu(net.norm1(net.conv1(x)))  # type: ignore[operator]
    theta = np.percentile(first.detach().numpy(), 90.0) / levels
    found = hybrid.thresholds()
    assert found["spike1"] == pytest.approx(theta, rel=1e-12)
    spiking = upto(hybrid.spiking, "spike1")
    frames = torch.zeros(4, *x.shape, dtype=x.dtype)
    frames[0] = x
    counts = forward(spiking, frames)[0].sum(0)
    second = torch.relu(net.norm2(net.conv2(net.pool1(theta * counts))))  # type: ignore[operator]
    assert found["spike2"] == pytest.approx(np.percentile(second.detach().numpy(), 90.0) / levels, rel=1e-9)


def test_threshold_of_each_channel(tmp_path: Path, in_double: None) -> None:
    blocks = [{"conv": 4, "padding": 1, "norm": "scale", "pool": 2}, *POOLED[1:]]  # without a shift counts are exact
    ctx = images(tmp_path, blocks, neuron=PAPER | {"threshold_per": "channel"})
    hybrid = prepared(ctx, 1, excite=True)
    net, x = hybrid.net.eval(), seen_by(ctx)
    first = torch.relu(net.norm1(net.conv1(x))).detach()  # type: ignore[operator]
    theta = np.percentile(np.moveaxis(first.numpy(), 1, 0).reshape(4, -1), 90.0, axis=1) / 4
    assert len(set(theta)) == 4
    # A neuron of channel c spikes where the ANN's activation has thresholds theta_c: counts tell them.
    frames = torch.zeros(4, *x.shape, dtype=x.dtype)
    frames[0] = x
    counts = forward(upto(hybrid.spiking, "spike1"), frames)[0].sum(0)
    exact = first / torch.from_numpy(theta).view(1, -1, 1, 1)
    clear = (exact - exact.round()).abs() > 1e-5
    expected = exact.floor().clamp(0, 4)
    assert (expected > 0).float().mean() > 0.1
    assert torch.equal(counts[clear], expected[clear])
    assert clear.float().mean() > 0.9
    # What they stand for enters the next layer channel by channel: the hybrid is its ANN at theta_c c.
    batch = a_batch(ctx)
    values = hybrid._values(batch, ("spike1",))["spike1"]
    raw = forward(upto(hybrid.spiking, "spike1"), batch.frames)[0].sum(0)
    torch.testing.assert_close(values, raw * torch.from_numpy(theta).view(1, -1, 1, 1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("pool", [False, True], ids=["map", "flattened"])
def test_channels_thresholds_stand_in_the_next_layers_weights(pool: bool, tmp_path: Path, in_double: None) -> None:
    """All converted, the spiking network is what the hybrid is, through pooling and a flatten."""
    blocks = POOLED if pool else [{"conv": 4, "norm": "batch"}, {"linear": "classes", "bias": True, "neuron": False}]
    ctx = images(tmp_path, blocks, neuron=PAPER | {"threshold_per": "channel"})
    hybrid = prepared(ctx, len(parts_of(ctx.plan)) - 1)
    batch = a_batch(ctx)
    hybrid.net.eval()
    spiking = forward(hybrid.spiking, batch.frames)[0].sum(0)
    torch.testing.assert_close(hybrid(batch), spiking, rtol=0, atol=1e-12)
    through_ann = hybrid._walk(batch, hybrid._values(batch, hybrid.given))[0]
    torch.testing.assert_close(through_ann, spiking, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 4, 16])
def test_counts_of_the_first_layer(levels: int, tmp_path: Path) -> None:
    """The whole current at the first step: clip(floor(a / theta), 0, N_s), exactly, with numbers of few bits."""
    ctx = images(tmp_path, [{"conv": 3}, {"linear": "classes", "neuron": False}], frames=Frames(levels, encode="once"))
    net = ctx.build("cnn").double()
    hybrid = ptl.Hybrid(ctx, net, **(OPTIONS | {"levels": levels}))
    hybrid.spiking.double()
    with torch.no_grad():
        net.conv1.weight.copy_(torch.randint(-4, 9, net.conv1.weight.shape) / 8.0)  # type: ignore[union-attr,operator]
    hybrid.activation["conv1"] = torch.tensor(2.0).double()
    hybrid._carry(hybrid.stages)
    frames = torch.zeros(levels, 50, 1, 6, 6).double()
    frames[0] = torch.randint(0, 65, frames[0].shape) / 64.0
    a = net.conv1(frames[0])  # type: ignore[operator]
    counts = forward(upto(hybrid.spiking, "spike1"), frames)[0].sum(0)
    assert torch.equal(counts, (a * levels / 2.0).floor().clamp(0, levels))
    assert len(counts.unique()) == levels + 1


def test_first_hybrid_layer_tends_to_the_anns_as_one_over_the_levels(tmp_path: Path) -> None:
    ctx = images(tmp_path, [{"conv": 3}, {"linear": "classes", "neuron": False}])
    net = ctx.build("cnn").double()
    x = torch.rand(200, 1, 6, 6).double()
    a = torch.relu(net.conv1(x)).detach()  # type: ignore[operator]
    errors = []
    for levels in (8, 32, 128, 512):
        run = replace(ctx, frames=Frames(levels, encode="once"))
        hybrid = ptl.Hybrid(run, net, **(OPTIONS | {"levels": levels}))
        hybrid.spiking.double()
        hybrid.activation["conv1"] = a.max()
        hybrid._carry(hybrid.stages)
        frames = torch.zeros(levels, *x.shape).double()
        frames[0] = x
        counts = forward(upto(hybrid.spiking, "spike1"), frames)[0].sum(0)
        errors.append(float((counts.detach() * a.max() / levels - a).abs().mean()))
    ratios = [big / small for big, small in pairwise(errors)]
    assert all(3.6 < ratio < 4.4 for ratio in ratios), errors


def test_deeper_layers_tend_to_the_anns_with_a_constant_current_alone(tmp_path: Path) -> None:
    """With the paper's encoding neurons burst, late inhibition cannot undo early spikes, and the error levels off."""
    errors: dict[str, list[float]] = {}
    for encode in ("repeat", "once"):
        ctx = images(tmp_path, [{"conv": 8}, {"conv": 8}, {"linear": "classes", "neuron": False}])
        net = ctx.build("cnn").double()
        x = torch.rand(50, 1, 6, 6).double()
        first = torch.relu(net.conv1(x)).detach()  # type: ignore[operator]
        second = torch.relu(net.conv2(first)).detach()  # type: ignore[operator]
        for levels in (8, 32, 128, 512):
            run = replace(ctx, frames=Frames(levels, encode=encode))
            hybrid = ptl.Hybrid(run, net, **(OPTIONS | {"levels": levels}))
            hybrid.spiking.double()
            hybrid.activation |= {"conv1": first.max(), "conv2": second.max()}
            hybrid._carry(hybrid.stages)
            frames = torch.zeros(levels, *x.shape).double()
            frames[: levels if encode == "repeat" else 1] = x
            counts = forward(upto(hybrid.spiking, "spike2"), frames)[0].sum(0)
            errors.setdefault(encode, []).append(float((counts.detach() * second.max() / levels - second).abs().mean()))
    constant, at_once = errors["repeat"], errors["once"]
    assert constant[-1] < constant[0] / 30, errors
    assert at_once[-1] > at_once[1] / 3, errors
    assert at_once[-1] > 10 * constant[-1], errors


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradient_is_that_of_the_layers_that_are_not_frozen(stage: int, tmp_path: Path, in_double: None) -> None:
    ctx = images(tmp_path, POOLED)
    hybrid = prepared(ctx, stage)
    net, batch = hybrid.net.eval(), a_batch(ctx)
    names = ["spike1", "spike2", "spike3"][: stage + 1]
    values = hybrid._values(batch, tuple(names))
    list(hybrid.gradient(1.0)(batch))

    def hand(x: Tensor) -> Tensor:
        one: Any = net
        x1 = torch.relu(one.norm1(one.conv1(x)))
        x1 = x1 + (values["spike1"] - x1).detach()
        x2 = torch.relu(one.norm2(one.conv2(one.pool1(x1 if stage < 1 else x1.detach()))))
        x2 = x2 + (values["spike2"] - x2).detach() if stage >= 1 else x2
        x3 = torch.relu(one.linear3((x2 if stage < 2 else x2.detach()).flatten(1)))
        x3 = x3 + (values["spike3"] - x3).detach() if stage >= 2 else x3
        return one.linear4(x3 if stage < 3 else x3.detach())

    live = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert len(live) == [10, 7, 4, 2][stage]
    expected = torch.autograd.grad(ctx.loss(hand(batch.frames.sum(0)), batch), list(live.values()))
    for (name, p), other in zip(live.items(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, other, rtol=0, atol=1e-12, msg=name)
        assert float(other.abs().max()) > 0, name
    assert all(p.grad is None for name, p in net.named_parameters() if name not in live)


@pytest.mark.parametrize("blocks", [POOLED, SHORTCUT], ids=["chain", "shortcut"])
def test_a_frozen_stage_keeps_its_bits_and_the_best_weights_of_a_stage_go_on(
    blocks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = images(tmp_path, blocks, trainer=Trainer(epochs=2, batch_size=10))
    frozen: list[dict[str, Tensor]] = []
    spiking: list[dict[str, Tensor]] = []
    worse: list[bool] = []  # whether the last epoch of a stage was not its best
    plain = ptl.Hybrid.finish

    def finish(self: ptl.Hybrid, part: Any) -> None:
        plain(self, part)
        best = torch.load(tmp_path / f"stage{self.at + 1:02d}-best.pt", weights_only=True)["keep"]["net"]
        now = weights_of(self.net)
        assert all(torch.equal(now[name], value) for name, value in best.items())
        last = torch.load(tmp_path / f"stage{self.at + 1:02d}-last.pt", weights_only=True)["keep"]["net"]
        worse.append(any(not torch.equal(now[name], value) for name, value in last.items()))
        names = {layer for one in self.stages[: self.at + 1] for layer in one.layers}
        frozen.append({name: value for name, value in now.items() if name.split(".")[0] in names})
        spiking.append({n: v for n, v in weights_of(self.spiking).items() if n.split(".")[0] in names})

    monkeypatch.setattr(ptl.Hybrid, "finish", finish)
    trained = ptl.train(ctx, stage_epochs=4, patience=1, stage_lr=5e-2)
    assert any(worse)
    for earlier, later in pairwise(frozen):
        assert set(earlier) < set(later)
        assert all(torch.equal(value, later[name]) for name, value in earlier.items())
    end = weights_of(trained.net)
    for found in spiking:
        assert all(torch.equal(value, end[name]) for name, value in found.items())


@pytest.mark.parametrize(
    ("losses", "epochs", "best"),
    [([5, 4, 3, 2], 4, 4), ([1, 2, 3, 4], 3, 1), ([3, 3, 2, 5, 1], 5, 5), ([3, 2, 2, 2, 1], 4, 2)],
    ids=["improves", "worsens", "late", "equal is no better"],
)
def test_patience_counts_epochs_without_a_better_loss(
    losses: list[float], epochs: int, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T_p = 2: the counter is back at zero whenever the loss improves; at two the stage ends."""
    ctx = images(tmp_path, POOLED, trainer=Trainer(epochs=1, batch_size=10, limit_batches=1))
    given = iter(losses)
    seen: list[Fitted] = []
    plain = ptl.learn

    def learn(*args: Any, **kw: Any) -> Fitted:
        if kw["stage"] == "stage01":
            kw["score"] = lambda: {"loss": next(given), "accuracy": 0.0}
        seen.append(plain(*args, **kw))
        return seen[-1]

    monkeypatch.setattr(ptl, "learn", learn)
    ptl.train(ctx, stage_epochs=len(losses), patience=2)
    assert (seen[1].epochs, seen[1].best_epoch) == (epochs, best)


def test_patience_of_one_trains(tmp_path: Path) -> None:
    """The paper's pseudo code, taken at its word, would not: its counter starts at one."""
    logged: list[dict[str, float]] = []
    ctx = images(tmp_path, log=lambda metrics, _: logged.append(metrics), trainer=Trainer(epochs=1, batch_size=10))
    trained = ptl.train(ctx, stage_epochs=9, patience=1)
    stages = [metrics["train/stage"] for metrics in logged]
    assert sorted(set(stages)) == [0, 1, 2, 3]
    assert stages == sorted(stages)
    assert trained.notes is not None
    assert trained.notes["train/passes"] == len(logged)


@pytest.mark.parametrize("neuron", [{}, {"threshold_per": "channel"}], ids=str)
def test_deployed_network_is_evaluated_from_spikes_alone(neuron: dict[str, Any], tmp_path: Path) -> None:
    """A loop over steps and neurons that knows nothing of the ANN gives what the evaluation gives."""
    ctx = images(tmp_path, POOLED, neuron=PAPER | neuron, trainer=Trainer(epochs=6, batch_size=10))
    trained = ptl.train(ctx, stage_epochs=4, lr=1e-2)
    test = ctx.batches(ctx.experiences[0].test, train=False)
    seen = ev.evaluate(answers.stepped_answer(trained.net), test.epoch(0), ctx.task)
    assert seen.metrics["accuracy"] > 0.8  # 1/3 by chance
    batch = next(test.epoch(0))
    w = {name: value.double() for name, value in weights_of(trained.net).items()}
    v: list[Any] = [0.0, 0.0, 0.0]
    total: Any = 0.0
    for frame in batch.frames.double():
        x = nn.functional.conv2d(frame, w["conv1.weight"], w["conv1.bias"], padding=1)
        for k, synapse in enumerate(
            [
                lambda s: nn.functional.conv2d(
                    nn.functional.avg_pool2d(s, 2), w["conv2.weight"], w["conv2.bias"], padding=1
                ),
                lambda s: s.flatten(1) @ w["linear3.weight"].T + w["linear3.bias"],
                lambda s: s @ w["linear4.weight"].T + w["linear4.bias"],
            ]
        ):
            v[k] = v[k] + x
            spikes = (v[k] >= 1).double()
            v[k] = v[k] - spikes
            x = synapse(spikes)
        total = total + x
    torch.testing.assert_close(torch.from_numpy(seen.outputs), total, rtol=0, atol=2e-4)


def test_without_training_it_is_the_primitive_conversion(tmp_path: Path) -> None:
    """Weights W theta_{l-1} / theta_l, biases b / (theta_l N_s), no epoch after the ANN's."""
    logged: list[float] = []
    ctx = images(tmp_path, POOLED, log=lambda metrics, _: logged.append(metrics["train/stage"]))
    trained = ptl.train(ctx, stage_epochs=0, levels=8)
    assert set(logged) == {0}
    assert trained.ann is not None
    assert trained.notes is not None
    theta = [trained.notes[f"chosen/threshold_spike{k}"] for k in (1, 2, 3)]
    ann, net = fold(trained.ann), trained.net
    scales = [1 / theta[0], theta[0] / theta[1], theta[1] / theta[2], theta[2]]
    shifts = [1 / theta[0], 1 / theta[1], 1 / theta[2], 1.0]
    for name, scale, shift in zip(("conv1", "conv2", "linear3", "linear4"), scales, shifts, strict=True):
        one, other = ann.get_submodule(name), net.get_submodule(name)
        torch.testing.assert_close(other.weight, one.weight * scale, rtol=1e-5, atol=1e-7)  # type: ignore[operator]
        torch.testing.assert_close(other.bias, one.bias * shift / 4, rtol=1e-5, atol=1e-7)  # type: ignore[operator]


def test_a_trained_ann_can_be_given(tmp_path: Path) -> None:
    """What one run has trained, another converts as that one did."""
    ctx = images(tmp_path / "one", POOLED, trainer=Trainer(epochs=2, batch_size=10))
    one = ptl.train(ctx, stage_epochs=0)
    start = read_checkpoint(tmp_path / "one" / "pretrain-best.pt")["keep"]["net"]
    again = replace(ctx, folder=tmp_path / "other", stages=[], start=start)
    other = ptl.train(again, stage_epochs=0, pretrain=False)
    assert one.notes is not None
    assert other.notes == {**one.notes, "train/passes": one.notes["train/passes"] - 2}
    assert not (tmp_path / "other" / "pretrain-best.pt").exists()


@pytest.mark.parametrize("bits", [4, 8])
def test_spiking_layers_have_so_many_bits_and_the_ann_floats(bits: int, tmp_path: Path) -> None:
    ctx = images(tmp_path, POOLED, trainer=Trainer(epochs=3, batch_size=10))
    masters: list[Tensor] = []
    plain = ptl.Hybrid.finish

    def finish(self: ptl.Hybrid, part: Any) -> None:
        masters.append(self.net.conv1.weight.detach().clone())  # type: ignore[union-attr,operator]
        plain(self, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptl.Hybrid, "finish", finish)
        trained = ptl.train(ctx, stage_epochs=2, bits=bits)
    for name in ("conv1", "conv2", "linear3", "linear4"):
        module: Any = trained.net.get_submodule(name)
        for value in (module.weight.detach(), module.bias.detach()):
            steps = value / value.abs().max() * (2 ** (bits - 1) - 1)
            torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
        assert len(module.weight.detach().round(decimals=6).unique()) <= 2**bits - 1
    assert len(masters[0].unique()) == masters[0].numel()


def test_rounding_to_many_bits_is_none() -> None:
    x = torch.rand(100).double() - 0.5
    torch.testing.assert_close(to_bits(32)(x), x, rtol=0, atol=1e-9)
    assert torch.equal(to_bits(4)(torch.zeros(3)), torch.zeros(3))
    assert to_bits(3)(torch.tensor([3.0, -1.4, 0.4])).tolist() == [3.0, -1.0, 0.0]


@pytest.mark.parametrize("aware", [False, True])
def test_fan_in_limits_the_inputs_of_each_neuron(aware: bool, tmp_path: Path) -> None:
    from cil_spl.chip.rounding import Precision

    neuron = {"spike_threshold": 1.0, "min_v_mem": -8.0}
    blocks = [{"conv": 4, "padding": 1}, {"conv": 4, "padding": 1}, {"linear": "classes"}]
    ctx = images(tmp_path, blocks, neuron=neuron, precision=Precision(aware=aware))
    trained = ptl.train(ctx, stage_epochs=2, fan_in=5)
    for name, n in (("conv1", 5), ("conv2", 5), ("linear3", 5)):
        weight = trained.net.get_submodule(name).weight.detach()  # type: ignore[operator,union-attr]
        kept = (weight.flatten(1) != 0).sum(1)
        assert int(kept.max()) <= n
        assert int(kept.max()) > 2
    whole = ptl.train(replace(ctx, folder=tmp_path / "whole"), stage_epochs=2)
    assert int((whole.net.conv2.weight.flatten(1) != 0).sum(1).max()) > 5  # type: ignore[union-attr,operator]


def test_it_keeps_the_largest_weights(tmp_path: Path) -> None:
    ctx = images(tmp_path, POOLED)
    hybrid = ptl.Hybrid(ctx, ctx.build("cnn"), **OPTIONS)
    before = copy.deepcopy(hybrid.net.conv1.weight.detach())  # type: ignore[union-attr,operator]
    hybrid.convert(0, fan_in=3)
    after = hybrid.net.conv1.weight.detach()  # type: ignore[union-attr,operator]
    for a, b in zip(before.flatten(1), after.flatten(1), strict=True):
        largest = a.abs().argsort(descending=True)[:3]
        assert torch.equal(b[largest], a[largest])
        assert int((b != 0).sum()) == 3


def test_as_the_authors_code_a_converted_layer_can_be_frozen_at_once(tmp_path: Path) -> None:
    """All but the first: their weights in the spiking network are the ANN's of the stage before."""
    ctx = images(tmp_path, POOLED)
    live: list[set[str]] = []
    plain = ptl.learn

    def learn(ctx: Any, net: nn.Module, *args: Any, **kw: Any) -> Fitted:
        live.append({name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad})
        return plain(ctx, net, *args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptl, "learn", learn)
        ptl.train(ctx, stage_epochs=1, train_converted=False)
    everything = {"conv1", "norm1", "conv2", "norm2", "linear3", "linear4"}
    assert live == [everything, everything, {"linear3", "linear4"}, {"linear4"}, {"linear4"}]


@pytest.mark.parametrize("stage", [0, 1])
def test_with_a_chip_that_does_what_the_software_does_the_gradient_is_the_same(stage: int, tmp_path: Path) -> None:
    ctx = context(tmp_path, neuron={"spike_threshold": 1.0, "min_v_mem": -8.0})
    found = []
    for observer in (None, software(["spike1", "spike2"], False)):
        torch.manual_seed(5)
        hybrid = prepared(replace(ctx, observer=observer), stage, torch.float32)
        batch = next(ctx.batches(ctx.experiences[0].val, train=False).epoch(0))
        list(hybrid.gradient(1.0)(batch))
        found.append([p.grad for p in hybrid.net.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) == 2 - stage
    assert all(torch.equal(a, b) and a.abs().max() > 0 for a, b in zip(*found, strict=True))


def test_the_chips_counts_are_the_values_of_what_is_converted(tmp_path: Path) -> None:
    ctx = context(tmp_path, neuron={"spike_threshold": 1.0, "min_v_mem": -8.0})
    counts = {"spike1": torch.full((3, 15, 4, 8, 8), 2.0), "spike2": torch.full((3, 15, 3), 5.0)}
    chip = Given(lambda net, batch: {name: Observation(one) for name, one in counts.items()})
    hybrid = prepared(replace(ctx, observer=chip), 0, torch.float32)
    batch = next(ctx.batches(ctx.experiences[0].val, train=False).epoch(0))
    net, theta = hybrid.net, hybrid.thresholds()["spike1"]
    x: Any = torch.full((15, 4, 8, 8), 6.0 * theta)
    torch.testing.assert_close(hybrid(batch), net.linear2(net.flatten(net.pool1(x))))  # type: ignore[operator]


@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_branches_that_are_added_share_the_threshold_of_the_frozen_one(
    factor: float, tmp_path: Path, in_double: None
) -> None:
    """Their spikes are summed, so one spike has to stand for the same in both, whichever is converted first."""
    blocks = [
        {"conv": 3, "padding": 1, "name": "a"},
        {"conv": 3, "padding": 1, "name": "b"},
        {"conv": 3, "padding": 1, "inputs": ["a", "b"], "name": "c"},
        {"linear": "classes", "neuron": False, "name": "out"},
    ]
    ctx = images(tmp_path, blocks)
    plan = plan_from("branches", blocks, (1, 6, 6), 3)
    assert [part.end for part in parts_of(plan)] == ["spike1", "spike2", "spike3", "out"]
    hybrid = prepared(ctx, 0)
    first = hybrid.thresholds()["spike1"]
    for k in range(1, 4):
        hybrid.finish(hybrid.stages[k - 1])
        with torch.no_grad():
            hybrid.net.b.weight.mul_(factor if k == 1 else 1)  # type: ignore[union-attr,operator]
        hybrid.convert(k)
    theta = hybrid.thresholds()
    assert first == theta["spike1"] == theta["spike2"] != theta["spike3"]
    batch = a_batch(ctx)
    spiking = forward(hybrid.spiking, batch.frames)[0].sum(0)
    through_ann = hybrid._walk(batch, hybrid._values(batch, hybrid.given))[0]
    torch.testing.assert_close(through_ann, spiking, rtol=0, atol=1e-9)


@pytest.mark.parametrize("neuron", [{}, {"threshold_per": "channel"}], ids=str)
def test_its_network_is_read_again_with_the_runs_config(neuron: dict[str, Any], tmp_path: Path) -> None:
    """A config asks for a threshold of each channel, and the network that was made has them in its weights."""
    ctx = images(tmp_path, POOLED, neuron=PAPER | neuron, trainer=Trainer(epochs=1, batch_size=10))
    net = ptl.train(ctx, stage_epochs=0).net
    again = build(Plan.from_dict(net.plan.as_dict()), family="snn", neuron=ctx.neuron)
    load_weights(again, weights_of(net))
    batch = next(ctx.batches(ctx.experiences[0].test, train=False).epoch(0))
    assert torch.equal(forward(again, batch.frames)[0], forward(net, batch.frames)[0])


@pytest.mark.parametrize("neuron", [{}, {"threshold_per": "channel"}], ids=str)
def test_thresholds_go_with_a_checkpoint(neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx = images(tmp_path, POOLED, neuron=PAPER | neuron)
    hybrid, other = prepared(ctx, 1, torch.float32), ptl.Hybrid(ctx, ctx.build("cnn"), **OPTIONS)
    write_checkpoint(tmp_path / "one.pt", {"keep": hybrid.state_dict()})
    other.load_state_dict(read_checkpoint(tmp_path / "one.pt")["keep"])
    assert other.thresholds() == hybrid.thresholds()
    assert all(torch.equal(other.activation[name], value) for name, value in hybrid.activation.items())


def test_going_on_after_a_kill_in_a_stage_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in every stage in turn, each time in its second epoch, and gone on with from the checkpoints."""
    options: dict[str, Any] = {"stage_epochs": 3, "patience": 3, "fan_in": 20, "bits": 6}
    ctx = images(tmp_path / "whole", POOLED, trainer=Trainer(epochs=2, batch_size=10))
    whole = ptl.train(ctx, **options)
    gradient = ptl.Hybrid.gradient
    cut: list[int] = []

    def killed_in(stage: int, steps: int) -> Any:
        left = iter(range(steps))

        def of(self: ptl.Hybrid, scale: float) -> Any:
            plain = gradient(self, scale)

            def step(batch: Any) -> Any:
                if self.at == stage and next(left, None) is None:
                    cut.append(stage)
                    raise KeyboardInterrupt
                return plain(batch)

            return step

        return of

    for stage in range(4):
        monkeypatch.setattr(ptl.Hybrid, "gradient", killed_in(stage, 9 + 5))
        torch.manual_seed(100 * stage)  # what is drawn after the first weights comes from the checkpoints
        with pytest.raises(KeyboardInterrupt):
            ptl.train(replace(ctx, folder=tmp_path / "cut", stages=[]), **options)
    monkeypatch.setattr(ptl.Hybrid, "gradient", gradient)
    lean = [read_checkpoint(tmp_path / "cut" / f"{name}-last.pt").get("lean") for name in ("pretrain", "stage02")]
    assert lean == [True, True]
    torch.manual_seed(7)
    again = ptl.train(replace(ctx, folder=tmp_path / "cut", stages=[]), **options)
    assert cut == [0, 1, 2, 3]
    assert again.notes == whole.notes
    for (name, a), b in zip(whole.net.state_dict().items(), again.net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("neuron", [{}, {"threshold_per": "channel"}], ids=str)
def test_kept_spikes_change_nothing(neuron: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spikes of frozen layers, made once per stage, or in every batch anew: the same network to the bit."""
    made: list[int] = []
    plain = frozen_spikes.FrozenSpikes.__init__

    def init(self: Any, *args: Any) -> None:
        plain(self, *args)
        made.append(int(self.take(torch.arange(20)).sum()))

    monkeypatch.setattr(frozen_spikes.FrozenSpikes, "__init__", init)
    ctx = images(tmp_path, POOLED, neuron=PAPER | neuron, trainer=Trainer(epochs=2, batch_size=10))
    kept = ptl.train(ctx, stage_epochs=3)
    assert len(made) == 2 * 3  # of the training and the validation set, for all stages but the first
    assert min(made) > 0
    monkeypatch.setattr(frozen_spikes, "fits", lambda *_: False)
    torch.manual_seed(0)
    anew = ptl.train(replace(ctx, folder=tmp_path / "anew", stages=[]), stage_epochs=3)
    assert len(made) == 6
    assert anew.notes == kept.notes
    for (name, a), b in zip(kept.net.state_dict().items(), anew.net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("bins", [1, 8, 9, 16, 32, 64])
def test_a_spike_train_is_kept_whole(bins: int) -> None:
    from cil_spl.models.build import build
    from cil_spl.training.frozen_spikes import FrozenSpikes

    rng = np.random.default_rng(bins)
    made = from_arrays(rng.random((5, 2, 3, 3)), np.zeros(5, int), ("a", "b"))
    plan = plan_from("one", [{"conv": 2, "kernel": 1}, {"linear": "classes"}], (2, 3, 3), 2)
    net = upto(build(plan, family="snn", neuron=PAPER), "spike1")
    with torch.no_grad():
        net.conv1.weight.copy_(torch.tensor([[[[0.9]], [[0.3]]], [[[1.5]], [[1.0]]]]))  # type: ignore[union-attr,operator]
    batches = Batches(made, 2, Frames(bins))
    kept = FrozenSpikes(net, batches, bins, torch.device("cpu"))
    whole = torch.cat([forward(net, batch.frames)[0] for batch in batches.epoch(0)], dim=1)
    assert whole.max() == 1
    assert whole[-1].max() == 1
    assert torch.equal(kept.take(torch.arange(5)), whole)
    assert torch.equal(kept.take(torch.tensor([3, -1])), torch.stack([whole[:, 3], torch.zeros_like(whole[:, 0])], 1))
