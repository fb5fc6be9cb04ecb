"""SLTT and SLTT-K: exact identities, memory that does not grow with time, subsets that a resumed run draws again."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.methods import bptt, sltt, sltt_k
from cil_spl.models.forward import forward
from cil_spl.models.init import scale_to_rate
from cil_spl.models.plan import Layer
from cil_spl.training.context import Frames, TrainingContext
from tests.methods.test_methods import PLAN, accuracy, context

OPTIONS: dict[str, Any] = {"count_scale": 0.5, "straight_through_output": True}


def setting(folder: Path, bins: int, **changes: Any) -> tuple[TrainingContext, Any, Any]:
    """A run in float64, its network at a scale at which it fires, and a batch."""
    ctx = context(folder, frames=Frames(bins=bins), **changes)
    net = ctx.build("snn")
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    scale_to_rate(net, batch.frames, 1.0)
    return ctx, net.double(), replace(batch, frames=batch.frames.double())


def gradients(net: Any, gradient: Any, batch: Any) -> list[Tensor]:
    for p in net.parameters():
        p.grad = None
    steps = list(gradient(batch))
    assert len(steps) == 1
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def assert_same(found: list[Tensor], expected: list[Tensor], atol: float = 0.0) -> None:
    assert len(found) == len(expected) == 2
    for a, b in zip(found, expected, strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("neuron", [{}, {"kind": "lif", "tau_mem": 3.0}, {"surrogate_grad_fn": "triangle"}], ids=str)
def test_it_is_the_gradient_of_the_graph_cut_between_steps(neuron: dict[str, Any], tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 6, neuron={"spike_threshold": 1.0, "min_v_mem": -1.0, **neuron})
    found = gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch)
    state: dict[str, Tensor] = {}
    losses = []
    for frame in batch.frames:
        cut = {name: v_mem.detach() for name, v_mem in state.items()}
        out, state, _ = forward(net, frame[None], cut, fire=bptt.output_neurons(net, True))
        losses.append(ctx.loss(0.5 * out[0], batch))
    expected = torch.autograd.grad(torch.stack(losses).mean(), [p for p in net.parameters() if p.requires_grad])
    assert_same(found, list(expected), 1e-14)


@pytest.mark.parametrize("neuron", [{}, {"kind": "lif", "tau_mem": 3.0}, {"reset_fn": "zero"}], ids=str)
@pytest.mark.parametrize("at_once", [2, 4, 9])
def test_steps_that_are_computed_together_are_what_each_is_alone(
    at_once: int, neuron: dict[str, Any], tmp_path: Path
) -> None:
    ctx, net, batch = setting(tmp_path, 7, neuron={"spike_threshold": 1.0, "min_v_mem": -1.0, **neuron})
    alone = gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch)
    assert_same(gradients(net, sltt.gradient(net, ctx, **OPTIONS, at_once=at_once), batch), alone, 1e-14)


def test_parts_hold_steps_that_are_all_chosen_or_none() -> None:
    assert list(sltt.parts_of(7, 3, range(7))) == [(0, 3), (3, 6), (6, 7)]
    assert list(sltt.parts_of(7, 3, {1, 2, 5})) == [(0, 1), (1, 3), (3, 5), (5, 6), (6, 7)]
    assert list(sltt.parts_of(3, 1, ())) == [(0, 1), (1, 2), (2, 3)]


def test_a_batchs_statistics_are_those_of_each_step(tmp_path: Path) -> None:
    first = PLAN.layers[0]
    norm = Layer("norm1", "norm", {"norm": "batch"})
    ctx, net, batch = setting(tmp_path, 4, plan=replace(PLAN, layers=(first, norm, *PLAN.layers[1:])))
    assert not sltt.parts_are_steps(net.plan)
    alone = gradients(net, sltt.gradient(net, ctx, **OPTIONS, at_once=1), batch)
    again = gradients(net, sltt.gradient(net, ctx, **OPTIONS, at_once=4), batch)
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))


def test_of_one_step_it_is_bptt(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 1)
    found = gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch)
    assert_same(found, gradients(net, bptt.gradient(net, ctx, loss="steps", **OPTIONS), batch))


def test_of_several_steps_it_is_not(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 4)
    found = gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch)
    other = gradients(net, bptt.gradient(net, ctx, loss="steps", **OPTIONS), batch)
    assert max(float((a - b).abs().max()) for a, b in zip(found, other, strict=True)) > 1e-3


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_mean_over_subsets_is_k_over_t_of_it(k: int, tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 4)
    whole = gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch)
    subsets = [set(c) for c in combinations(range(4), k)]
    parts = [
        gradients(net, sltt.gradient(net, ctx, **OPTIONS, steps=lambda _, c=c: c), batch)  # type: ignore[misc]
        for c in subsets
    ]
    mean = [torch.stack(one).mean(0) for one in zip(*parts, strict=True)]
    assert_same(mean, [k / 4 * g for g in whole], 1e-14)


def test_with_all_steps_it_is_sltt(tmp_path: Path) -> None:
    ctx, net, batch = setting(tmp_path, 4)
    along = sltt.gradient(net, ctx, **OPTIONS, steps=sltt_k.Subsets(4, 0))
    assert_same(gradients(net, along, batch), gradients(net, sltt.gradient(net, ctx, **OPTIONS), batch))


def test_subsets_are_uniform_and_go_on_where_they_stood() -> None:
    subsets = sltt_k.Subsets(2, seed=5)
    drawn = [frozenset(subsets(4)) for _ in range(600)]
    assert {len(one) for one in drawn} == {2}
    counts = [drawn.count(frozenset(pair)) for pair in combinations(range(4), 2)]
    assert min(counts) > 60  # 100 expected, standard deviation 9
    state = subsets.state_dict()
    following = [subsets(9) for _ in range(5)]
    again = sltt_k.Subsets(2, seed=77)
    again.load_state_dict(state)
    assert [again(9) for _ in range(5)] == following


def peak_of_saved_bytes(ctx: TrainingContext, net: Any, gradient: Any, batch: Any) -> int:
    """The most bytes that autograd held for a backward pass at one time."""
    live, peak = 0, 0

    class Kept:
        def __init__(self, value: Tensor) -> None:
            nonlocal live, peak
            self.value, self.size = value, value.numel() * value.element_size()
            live += self.size
            peak = max(peak, live)

        def __del__(self) -> None:
            nonlocal live
            live -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
        for _ in gradient(batch):
            pass
    return peak


def test_memory_does_not_grow_with_time(tmp_path: Path) -> None:
    peaks = {}
    for bins in (8, 64):
        ctx = context(tmp_path, frames=Frames(bins=bins))
        net = ctx.build("snn")
        batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
        for name, gradient in (
            ("sltt", sltt.gradient(net, ctx, **OPTIONS)),
            ("bptt", bptt.gradient(net, ctx, loss="steps", **OPTIONS)),
        ):
            peaks[name, bins] = peak_of_saved_bytes(ctx, net, gradient, batch)
    assert peaks["sltt", 8] > 0
    assert peaks["sltt", 64] <= 1.05 * peaks["sltt", 8]
    assert peaks["bptt", 64] > 6 * peaks["bptt", 8]


@pytest.mark.parametrize("train", [sltt.train, sltt_k.train])
def test_it_learns_and_a_seed_repeats(train: Any, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        ctx = context(tmp_path / name)
        net = train(ctx, lr=2e-2).net
        found.append([p.clone() for p in net.parameters()])
        assert accuracy(ctx, net) > 0.7  # 1/3 by chance
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_more_steps_than_there_are() -> None:
    with pytest.raises(RequestError, match=r"method\.k=4: there are only frames\.bins=3"):
        sltt_k.check(OmegaConf.create({"method": {"k": 4}, "frames": {"bins": 3}}))
    assert sltt_k.check(OmegaConf.create({"method": {"k": 3}, "frames": {"bins": 3}})) == []
