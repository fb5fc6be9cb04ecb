"""Standardised weights: their moments, that they fold, go on from earlier weights and reach the chip."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cil_spl.base.errors import RequestError
from cil_spl.chip.quantize import bake, make_aware
from cil_spl.models import neurons
from cil_spl.models.build import build, plan_from
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.init import scale_to_rate
from cil_spl.models.layers import standardised
from cil_spl.models.net import Net
from cil_spl.models.neurons import weights_of
from cil_spl.models.plan import Plan
from cil_spl.training.context import begin

BLOCKS: list[dict[str, Any]] = [
    {"conv": 3, "norm": "weight", "pool": 2},
    {"linear": 5, "norm": "weight", "scale": 2.74},
    {"linear": "classes"},
]
PLAN = plan_from("ws", BLOCKS, (2, 8, 8), 4)


def network() -> Net:
    torch.manual_seed(0)
    net = build(PLAN, family="snn", neuron={}).double()
    for name in ("conv1", "linear2"):
        norm = standardised(net.get_submodule(name))
        assert norm is not None
        norm.gain.data.uniform_(0.5, 2)
    return net


def test_their_moments() -> None:
    net = network()
    for name, scale in (("conv1", 1.0), ("linear2", 2.74)):
        module: Any = net.get_submodule(name)
        made_of = module.parametrizations.weight
        flat, raw, gain = module.weight.flatten(1), made_of.original.flatten(1), made_of[0].gain
        n = flat.shape[1]
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)).double(), rtol=0, atol=1e-16)
        var = raw.var(1) * n
        torch.testing.assert_close(flat.var(1) * n, scale**2 * gain**2 * var / (var + 1e-4), rtol=0, atol=1e-13)
    assert standardised(net.get_submodule("linear3")) is None
    p = 1 - 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert 1 / math.sqrt(p * (1 - p)) == pytest.approx(2.74, abs=0.005)


def test_they_fold() -> None:
    net, frames = network(), torch.rand(4, 3, 2, 8, 8).double()
    folded = fold(net)
    assert all("standardise" not in layer.params for layer in folded.plan.layers)
    assert all(standardised(module) is None for _, module in folded.named_children())
    record = ["conv1", "linear2", "linear3"]
    found, expected = (forward(one, frames, record=record)[2] for one in (folded, net))
    for name in record:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
    again = Plan.from_dict(PLAN.as_dict())
    assert again.layers[0].params["standardise"] == 1.0
    assert build(fold(net).plan, family="snn", neuron={}).get_submodule("conv1").weight.shape == (3, 2, 3, 3)


def test_fresh_ones_are_scaled_by_their_gain() -> None:
    net, frames = network(), torch.rand(4, 30, 2, 8, 8).double()
    scale_to_rate(net, frames, 0.7)
    out = forward(net, frames, record=["conv1", "linear2"])[2]
    for value in out.values():
        assert float(value[value != 0].std()) == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_starts_from_earlier_ones(finished: bool) -> None:
    earlier, frames = network(), torch.rand(4, 3, 2, 8, 8).double()
    expected = forward(earlier, frames, record=["linear3"])[2]["linear3"]
    if finished:
        bake(earlier)  # as a finished run leaves them: the weights alone
    torch.manual_seed(1)
    net = build(PLAN, family="snn", neuron={}).double()
    begin(net, weights_of(earlier))
    found = forward(net, frames, record=["linear3"])[2]["linear3"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_they_may_be_rounded_too() -> None:
    net = build(PLAN, family="snn", neuron={})
    make_aware(net, neurons.make())
    weight = net.get_submodule("conv1").weight
    assert len(weight.unique()) <= 256
    weight.sum().backward()  # type: ignore[operator]
    norm = standardised(net.get_submodule("conv1"))
    assert norm is not None
    assert norm.gain.grad is not None


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ({"conv": 3, "scale": 2.0}, r"model\.layers\[0\]\.scale=2: it goes with norm: weight alone"),
        ({"conv": 3, "norm": "weight", "scale": 0}, r"scale=0"),
        ({"conv": 3, "norm": "weights"}, "norm=weights"),
    ],
)
def test_what_makes_no_sense_is_refused(block: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        plan_from("x", [block, {"linear": "classes"}], (2, 8, 8), 4)
    damaged = PLAN.as_dict()
    damaged["layers"][0]["params"]["standardise"] = "much"
    with pytest.raises(RequestError, match="standardise=much; needed is a number above 0"):
        Plan.from_dict(damaged)
