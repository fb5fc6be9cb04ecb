"""Folding is exact, and leaves the given network alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cil_spl.base.errors import RequestError
from cil_spl.chip.quantize import quantize
from cil_spl.models import neurons
from cil_spl.models.build import build, plan_from
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.layers import ScaleNorm
from cil_spl.models.net import Net

FRAMES = torch.poisson(torch.full((5, 4, 2, 8, 8), 0.6), generator=torch.Generator().manual_seed(1)).double()


def network(blocks: list[dict[str, object]], **neuron: object) -> Net:
    torch.manual_seed(0)
    net = build(plan_from("p", blocks, (2, 8, 8), 3), family="snn", neuron={"min_v_mem": -1.0, **neuron}).double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.mul_(4)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 2.0)
                module.bias.uniform_(-0.5, 0.5)
            if isinstance(module, ScaleNorm):
                module.running_square.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["batch", "scale"])
def test_a_norm_is_part_of_the_weights(norm: str, bias: bool) -> None:
    net = network([{"conv": 4, "norm": norm, "bias": bias}, {"linear": "classes", "norm": norm}])
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold(net)
    assert [layer.kind for layer in folded.plan.layers] == ["conv", "neuron", "flatten", "linear", "neuron"]
    _, _, before = forward(net, FRAMES, record=["norm1"])
    _, _, after = forward(folded, FRAMES, record=["conv1"])
    torch.testing.assert_close(after["conv1"], before["norm1"], rtol=0, atol=1e-12)
    assert torch.equal(forward(folded, FRAMES)[0], forward(net, FRAMES)[0])
    assert float(forward(net, FRAMES)[0].sum()) > 0
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())


def test_nothing_to_fold_is_the_same_network() -> None:
    net = network([{"conv": 4}, {"linear": "classes"}])
    assert fold(net) is net


def test_a_norm_without_shift_has_its_batch_in_training_and_a_running_mean_after_it() -> None:
    norm = ScaleNorm(3).double()
    x = torch.randn(50, 3, 4, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 5.0])[:, None, None]
    torch.testing.assert_close(norm(x).square().mean((0, 2, 3)), torch.ones(3).double(), atol=1e-4, rtol=0)
    expected = 0.9 + 0.1 * x.square().mean((0, 2, 3))
    torch.testing.assert_close(norm.running_square, expected)
    norm.eval()
    torch.testing.assert_close(norm(x), x / (expected + norm.eps).sqrt()[:, None, None])


def test_thresholds_of_channels_become_weights() -> None:
    net = network([{"conv": 4}, {"linear": "classes"}], threshold_per="channel")
    with torch.no_grad():
        net.get_submodule("spike1").spike_threshold.copy_(torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None])  # type: ignore[operator]
    folded = fold(net)
    layer = folded.get_submodule("spike1")
    assert layer.spike_threshold.shape == layer.min_v_mem.shape == ()  # type: ignore[union-attr]
    assert (float(layer.spike_threshold), float(layer.min_v_mem)) == (4.0, -4.0)  # type: ignore[arg-type]
    before, _, seen = forward(net, FRAMES, record=["spike1"])
    after, _, folded_seen = forward(folded, FRAMES, record=["spike1"])
    assert torch.equal(seen["spike1"], folded_seen["spike1"])  # powers of two: exact
    assert torch.equal(before, after)
    assert float(before.sum()) > 0
    chip, _ = quantize(net)
    assert chip.layers[0].threshold / chip.layers[0].scale == pytest.approx(4.0, rel=0.02)
    assert chip.layers[0].min_v_mem == -chip.layers[0].threshold


def test_amplitudes_and_time_are_folded() -> None:
    net = network([{"conv": 4, "bias": True}, {"linear": "classes", "bias": True, "neuron": False}])
    folded = fold(net, T=5, amplitudes={"spike1": 3.0})
    with torch.no_grad():
        net.get_submodule("conv1").bias.div_(5)  # type: ignore[operator,union-attr]
    _, _, seen = forward(net, FRAMES, record=["spike1"])
    linear = net.get_submodule("linear2")
    expected = (3.0 * seen["spike1"]).flatten(2) @ linear.weight.T + linear.bias / 5  # type: ignore[operator,union-attr]
    torch.testing.assert_close(forward(folded, FRAMES)[0], expected, rtol=0, atol=1e-12)


def test_branches_of_different_amplitudes_are_refused() -> None:
    net = network([{"conv": 4, "padding": 1, "name": "a"}, {"conv": 4, "padding": 1, "name": "b"},
                   {"linear": "classes", "inputs": ["a", "b"]}])  # fmt: skip
    with pytest.raises(RequestError, match="layer add3: it adds spikes of amplitudes 1 and 2"):
        fold(net, amplitudes={"spike1": 2.0})
    fold(net, amplitudes={"spike1": 2.0, "spike2": 2.0})


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("spike_fn", ["multi", "single"])
def test_a_trained_threshold_has_the_gradient_of_its_spikes_and_its_reset(spike_fn: str, per: str) -> None:
    """Against central differences of the network in which a smooth function stands for the spikes."""
    layer = neurons.make(
        features=3, axes=1, trained_threshold=True, threshold_per=per, spike_fn=spike_fn, min_v_mem=-0.4,
        surrogate_grad_fn="sigmoid",
    ).double()  # fmt: skip
    x = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    g = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    spikes, _ = neurons.run("n", layer, x)
    (spikes * g).sum().backward()
    found = layer.spike_threshold.grad
    theta = layer.spike_threshold.detach()
    s, expected = spikes.detach(), torch.zeros_like(theta)
    # By hand, backwards in time: psi for ds/du, and ds/dtheta as the module's header has it.
    low = neurons.lower_bound(layer).detach()  # type: ignore[union-attr]
    u, v = [], torch.zeros(2, 3, dtype=torch.float64)
    for t in range(6):
        u.append(v + x[t])
        v = torch.maximum(u[t] - theta * s[t], low)
    carried = torch.zeros_like(v)
    for t in reversed(range(6)):
        free = u[t] - theta * s[t] > low
        on_rest = torch.where(free, carried, torch.zeros_like(carried))
        on_s = g[t] - theta * on_rest
        psi = layer.surrogate_grad_fn(u[t], theta)
        by_theta = -on_s * psi * (u[t] / theta if spike_fn == "multi" else 1) - on_rest * s[t]
        by_low = torch.where(free, torch.zeros_like(carried), carried)
        expected = expected + by_theta.sum_to_size(theta.shape)
        if per == "channel":
            expected = expected + (by_low * layer.bound_ratio).sum_to_size(theta.shape)
        carried = on_s * psi + on_rest
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert float(s.sum()) > 0


def test_thresholds_that_no_weights_take_in_stay() -> None:
    """After a sum there are no weights that could take the factor of a channel."""
    net = network(
        [{"conv": 4, "padding": 1, "neuron": False, "name": "a"},
         {"conv": 4, "padding": 1, "neuron": False, "inputs": ["input"], "name": "b"},
         {"add": ["a", "b"], "neuron": True}, {"linear": "classes"}], threshold_per="channel",
    )  # fmt: skip
    with torch.no_grad():
        net.get_submodule("spike3").spike_threshold.copy_(torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None])  # type: ignore[operator]
    folded = fold(net)
    assert torch.equal(forward(folded, FRAMES)[0], forward(net, FRAMES)[0])
    assert float(forward(net, FRAMES)[0].sum()) > 0


def test_amplitudes_pass_a_delay_and_are_refused_at_a_norm() -> None:
    loop: list[dict[str, object]] = [
        {"conv": 4, "padding": 1, "neuron": False, "name": "drive"},
        {"delay": "hidden", "name": "before"},
        {"conv": 4, "padding": 1, "neuron": False, "inputs": ["before"], "name": "back"},
        {"add": ["drive", "back"], "neuron": True, "name": "hidden"},
        {"linear": "classes", "neuron": False},
    ]
    net = network(loop)
    folded = fold(net, amplitudes={"spike4": 2.0})
    for name in ("back", "linear5"):
        assert torch.equal(folded.get_submodule(name).weight, 2 * net.get_submodule(name).weight)  # type: ignore[operator,arg-type]
    assert torch.equal(folded.get_submodule("drive").weight, net.get_submodule("drive").weight)  # type: ignore[arg-type]
    normed = network([{"conv": 4, "padding": 1, "name": "a"}, {"conv": 4, "padding": 1, "name": "b"},
                      {"add": ["a", "b"], "norm": "batch"}, {"linear": "classes"}])  # fmt: skip
    with pytest.raises(RequestError, match=r"layer norm3 \(norm\): spikes of amplitude 2 reach it"):
        fold(normed, amplitudes={"spike1": 2.0, "spike2": 2.0})
    with pytest.raises(RequestError, match=r"layer norm3 \(norm\) follows no weights"):
        fold(normed, T=4)


def test_a_trained_threshold_stays_above_zero() -> None:
    net = network([{"conv": 4}, {"linear": "classes"}], threshold_per="channel", trained_threshold=True)
    with torch.no_grad():
        net.get_submodule("spike1").spike_threshold[2] = -0.3  # type: ignore[index,operator]
    neurons.keep_positive(net)
    found = net.get_submodule("spike1").spike_threshold.flatten()  # type: ignore[operator,union-attr]
    assert found.tolist() == [1.0, 1.0, neurons.LEAST_THRESHOLD, 1.0]
