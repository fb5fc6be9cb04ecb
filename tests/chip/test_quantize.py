"""The chip's rounding: the vendor's rule, its twin for training, and the integers in time steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.chip import quantize as q
from cil_spl.models import neurons
from cil_spl.models.build import build, plan_from
from cil_spl.models.forward import forward
from cil_spl.models.stages import stages

BLOCKS = [
    {"conv": 4, "kernel": 3, "padding": 1, "pool": 2},
    {"conv": 6, "kernel": 3, "stride": 2, "padding": 1, "pool": 2, "pool_kind": "sumpool"},
    {"linear": "classes"},
]
SAMNA = ["samna", "samnagui"] + [
    f"samna.{part}{inner}" for part in ("speck2e", "speck2f", "specksim") for inner in ("", ".configuration", ".nodes")
]
PLAN = plan_from("small", BLOCKS, (2, 16, 12), 5)


def network(**neuron: float) -> torch.nn.Sequential:
    torch.manual_seed(1)
    net = build(PLAN, family="snn", neuron={"min_v_mem": -1.0} | neuron)
    with torch.no_grad():
        for p in (net.conv1.weight, net.conv2.weight, net.linear3.weight):
            p.mul_(3)  # enough for the output to fire
    return net


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40).filter(lambda w: max(map(abs, w)) > 1e-2))
def test_quantising_twice_is_quantising_once(values: list[float]) -> None:
    weight, theta, low = torch.tensor(values), torch.tensor(1.0), torch.tensor(-1.0)
    once = q.to_integers(weight, theta, low)
    assert once.weight.abs().max() in (127, 128)
    assert (once.weight - weight * once.scale).abs().max() <= 0.5
    twin = q.FakeQuantize(stages(PLAN)[0], neurons.make(min_v_mem=-1.0), [], q.CHIP)(weight)
    again = q.to_integers(twin, theta, low)
    assert torch.equal(again.weight, once.weight)
    assert again.threshold == once.threshold
    assert len(set(once.weight.tolist())) <= 256


def test_fake_quantised_gradient_passes_unchanged() -> None:
    weight = torch.randn(4, 2, 3, 3, requires_grad=True)
    g = torch.randn(4, 2, 3, 3)
    after_pooling = q.FakeQuantize(stages(PLAN)[1], neurons.make(min_v_mem=-1.0), [], q.CHIP)
    assert after_pooling.area == 4
    (found,) = torch.autograd.grad((after_pooling(weight) * g).sum(), weight)
    assert torch.equal(found, g)


def test_aware_network_spikes_as_its_integers_do() -> None:
    net = network(spike_threshold=1.0, min_v_mem=-1.0)
    q.make_aware(net, neurons.make())
    frames = torch.poisson(torch.full((6, 20, 2, 16, 12), 0.7))
    aware, _, _ = forward(net, frames)
    q.bake(net)
    assert type(net.conv1).__name__ == "Conv2d"
    chip, warnings = q.quantize(net)
    integers, _, _ = forward(q.integer_twin(chip, net), frames)
    assert not warnings
    assert aware.sum() > 0
    assert torch.equal(aware, integers)


def test_chip_network_of_a_plan() -> None:
    net = network()
    chip, _ = q.quantize(net)
    first, second, third = chip.layers
    assert first.output_shape == (4, 16, 12)
    assert first.destinations[0].pool == (2, 2)
    assert second.input_shape == (4, 8, 6)
    assert second.output_shape == (6, 4, 3)
    assert third.weight.shape == (5, 6, 2, 1)
    assert third.output_shape == (5, 1, 1)
    assert chip.n_classes == 5
    assert first.threshold == round(first.scale)
    assert third.min_v_mem == -third.threshold


def test_average_pooling_is_folded_into_the_weights_behind_it() -> None:
    net = network()
    chip, _ = q.quantize(net)
    largest = net.conv2.weight.abs().max() / 4
    assert chip.layers[1].scale == pytest.approx(float(127.5 / largest.detach()), rel=0.01)
    expected = torch.round(net.conv2.weight.detach() / 4 * chip.layers[1].scale)
    assert torch.equal(torch.from_numpy(chip.layers[1].weight).float(), expected)
    # Sum pooling is what the chip does anyway: nothing to fold after it.
    assert chip.layers[2].scale == pytest.approx(float(127.5 / net.linear3.weight.detach().abs().max()), rel=0.01)


def test_linear_weights_keep_their_order_as_a_kernel() -> None:
    net = network()
    chip, _ = q.quantize(net)
    x = torch.randn(1, 6, 2, 1)
    by_kernel = (torch.from_numpy(chip.layers[2].weight).float() * x).sum(dim=(1, 2, 3))
    by_linear = torch.round(net.linear3.weight.detach() * chip.layers[2].scale) @ x.flatten()
    torch.testing.assert_close(by_kernel, by_linear)


def test_integers_in_time_steps_equal_the_float_network_when_weights_are_on_the_grid() -> None:
    """Exact for a power-of-two scale: k = 128 where the largest weight is -1."""
    net = network(spike_threshold=1.0, min_v_mem=-1.0)
    with torch.no_grad():
        for name, area in (("conv1", 1), ("conv2", 4), ("linear3", 1)):
            weight = net.get_submodule(name).weight
            weight.copy_(torch.randint(-100, 120, weight.shape) / 128 * area)
            weight.view(-1)[0] = -1.0 * area
    chip, _ = q.quantize(net)
    assert [layer.scale for layer in chip.layers] == [128, 128, 128]
    frames = torch.poisson(torch.full((5, 2, 2, 16, 12), 0.5))
    a, _, _ = forward(net, frames)
    b, _, _ = forward(q.integer_twin(chip, net), frames)
    assert a.sum() > 0
    assert torch.equal(a, b)


def test_neurons_without_lower_bound_are_refused() -> None:
    with pytest.raises(RequestError, match=r"spike1: min_v_mem=None"):
        q.quantize(network(min_v_mem=None))  # type: ignore[arg-type]


def test_leaky_neurons_are_refused() -> None:
    with pytest.raises(RequestError, match=r"spike1: LIF.* no multiplicative leak"):
        q.quantize(network(kind="lif", tau_mem=5.0))  # type: ignore[arg-type]


def test_a_wasted_scale_is_told() -> None:
    net = network()
    with torch.no_grad():
        net.conv1.weight.mul_(1e-3)
    _, warnings = q.quantize(net)
    assert "conv1: the thresholds, not the weights, limit the scale" in warnings[0]


def test_diverged_weights_are_refused() -> None:
    net = network()
    with torch.no_grad():
        net.conv1.weight.view(-1)[3] = float("nan")
    with pytest.raises(RequestError, match="not a finite number"):
        q.quantize(net)


def test_vendor_discretisation_gives_the_same_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """sinabs' own Speck network as oracle; samna, which its import starts, is replaced by a mock."""
    import sys
    from unittest.mock import MagicMock

    for name in [m for m in sys.modules if m.startswith(("samna", "sinabs.backend"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in SAMNA:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    from sinabs.backend.dynapcnn import DynapcnnNetwork

    plan = plan_from("oracle", [BLOCKS[0], {**BLOCKS[1], "pool_kind": "avgpool"}, BLOCKS[2]], (2, 16, 16), 5)
    torch.manual_seed(3)
    net = build(plan, family="snn", neuron={"spike_threshold": 1.0, "min_v_mem": -1.0})
    chip, _ = q.quantize(net)
    theirs = DynapcnnNetwork(net, input_shape=(2, 16, 16), discretize=True, dvs_input=False)
    layers = list(theirs.dynapcnn_layers.values())
    assert len(layers) == 3
    for ours, layer in zip(chip.layers, layers, strict=True):
        assert torch.equal(torch.from_numpy(ours.weight).float(), layer.conv_layer.weight.detach())
        assert ours.threshold == int(layer.spk_layer.spike_threshold)
        assert ours.min_v_mem == int(layer.spk_layer.min_v_mem)
    for name in [m for m in sys.modules if m.startswith("sinabs.backend")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_threshold_that_rounds_to_0_is_refused() -> None:
    """127 / 1 is the scale: 0.003 becomes 0.38, then 0; 0.004 becomes 0.51, then 1."""
    weight = torch.tensor([1.0, -0.5])
    with pytest.raises(RequestError, match=r"model\.neuron\.spike_threshold=0\.003 rounds to 0 beside weights up to 1"):
        q.to_integers(weight, torch.tensor(0.003), torch.tensor(-1.0))
    assert q.to_integers(weight, torch.tensor(0.004), torch.tensor(-1.0)).threshold == 1
    with pytest.raises(RequestError, match=r"spike_threshold=1 rounds to 0 beside model\.neuron\.min_v_mem=-1e\+06"):
        q.to_integers(weight, torch.tensor(1.0), torch.tensor(-1e6))


def test_weights_that_all_round_to_0_are_told() -> None:
    net = network(spike_threshold=1e6)
    _, warnings = q.quantize(net)
    assert "layer conv1: the thresholds, not the weights, limit the scale; every weight rounds to 0" in warnings[0]


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_of_fewer_bits(bits: int) -> None:
    net = network(spike_threshold=1.0, min_v_mem=-1.0)
    q.make_aware(net, neurons.make(), q.Precision(bits=bits))
    frames = torch.poisson(torch.full((6, 8, 2, 16, 12), 0.7))
    aware, _, _ = forward(net, frames)
    q.bake(net)
    chip, _ = q.quantize(net, q.Precision(bits=bits))
    top = 2 ** (bits - 1)
    for layer in chip.layers:
        assert -top <= layer.weight.min()
        assert layer.weight.max() <= top - 1
        assert max(-int(layer.weight.min()), int(layer.weight.max())) >= top - 1
    assert torch.equal(aware, forward(q.integer_twin(chip, net), frames)[0])
