"""The forward pass with explicit state, records and observed values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cil_spl.models.build import build, plan_from
from cil_spl.models.forward import forward
from cil_spl.models.neurons import Observation
from cil_spl.models.options import Backend

PLAN = plan_from(
    "p",
    [{"conv": 4, "kernel": 3, "padding": 1, "pool": 2}, {"conv": 3, "kernel": 3}, {"linear": "classes"}],
    (2, 8, 8),
    3,
)


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    net = build(PLAN, family="snn", neuron={"min_v_mem": -1.0})
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() > 1:
                p.mul_(3)
    return net


FRAMES = torch.poisson(torch.full((6, 3, 2, 8, 8), 0.6), generator=torch.Generator().manual_seed(1))


def test_cut_in_time_it_is_the_same_network() -> None:
    net = network()
    whole, end, _ = forward(net, FRAMES)
    first, state, _ = forward(net, FRAMES[:2])
    second, state, _ = forward(net, FRAMES[2:], state)
    assert whole.sum() > 0
    assert torch.equal(torch.cat([first, second]), whole)
    assert all(torch.equal(state[name], end[name]) for name in ("spike1", "spike2", "spike3"))


def test_the_callers_state_is_not_touched() -> None:
    net = network()
    _, state, _ = forward(net, FRAMES[:2])
    kept = {name: v.clone() for name, v in state.items()}
    forward(net, FRAMES[2:], state)
    assert all(torch.equal(state[name], v) for name, v in kept.items())


def test_recordings_of_a_batch_do_not_touch_each_other() -> None:
    net = network()
    together, _, _ = forward(net, FRAMES)
    for b in range(3):
        alone, _, _ = forward(net, FRAMES[:, b : b + 1])
        assert torch.equal(alone[:, 0], together[:, b])


def test_records_are_what_layers_put_out() -> None:
    net = network()
    out, _, records = forward(net, FRAMES, record=("spike1", "pool1", "spike3"))
    assert records["spike1"].shape == (6, 3, 4, 8, 8)
    torch.testing.assert_close(
        records["pool1"], torch.nn.functional.avg_pool2d(records["spike1"].flatten(0, 1), 2).unflatten(0, (6, 3))
    )
    assert torch.equal(records["spike3"], out)


def test_an_observed_layer_is_what_the_next_one_sees() -> None:
    """Counts from elsewhere take the layer's place; its own weights still get a gradient, and those elsewhere none."""
    net = network()
    counts = torch.randint(0, 3, (6, 3, 4, 8, 8)).float().requires_grad_()
    out, _, records = forward(net, FRAMES, observed={"spike1": Observation(counts)}, record=("spike1",))
    assert torch.equal(records["spike1"], counts)
    out.sum().backward()
    assert net.conv1.weight.grad is not None
    assert net.conv1.weight.grad.abs().sum() > 0
    assert counts.grad is None


@pytest.mark.parametrize("backend", ["auto", "sinabs"])
def test_a_total_is_the_sum_of_what_would_be_recorded(backend: Any) -> None:
    torch.manual_seed(0)
    net = build(PLAN, family="snn", neuron={"spike_threshold": 0.1}).compute_by(Backend(backend))
    frames = torch.randint(0, 3, (5, 4, *PLAN.input_shape)).float()
    names = [layer.name for layer in PLAN.layers if layer.kind == "neuron"]
    out, _, records = forward(net, frames, record=names)
    again, _, sums = forward(net, frames, total=names)
    assert torch.equal(out, again)
    assert set(sums) == set(names)
    for name in names:
        assert float(sums[name].sum()) > 0
        assert torch.equal(sums[name], records[name].sum(0))
