"""What of a user's own network a plan computes as it is, and what a target that rewrites it would lose."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import sinabs.activation as sina
import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

from cil_spl.base.errors import RequestError
from cil_spl.chip.quantize import bake, check_net, integer_twin, make_aware, quantize
from cil_spl.models.forward import forward
from cil_spl.models.init import scale_to_rate
from cil_spl.models.net import Net, master
from cil_spl.models.neurons import keep_positive, weights_of
from cil_spl.models.own import network
from cil_spl.models.plain import is_chain

SHAPE = (2, 8, 8)
FRAMES = torch.poisson(torch.full((5, 3, *SHAPE), 0.6), generator=torch.Generator().manual_seed(1))


def iaf(**options: Any) -> sl.IAFSqueeze:
    return sl.IAFSqueeze(**({"batch_size": 1, "min_v_mem": -1.0} | options))


def lif(**options: Any) -> sl.LIFSqueeze:
    return sl.LIFSqueeze(**({"tau_mem": 4.0, "batch_size": 1, "min_v_mem": -1.0} | options))


def chain(*, neuron: nn.Module | None = None, change: Callable[[nn.Sequential], object] = lambda net: None) -> Net:
    """A small network with these neurons in its middle, after a change to it."""

    def make(shape: tuple[int, int, int], n: int) -> nn.Module:
        torch.manual_seed(0)
        names = ("conv", "spike", "pool", "flat", "linear", "out")
        layers = (nn.Conv2d(2, 4, 3, padding=1, bias=False), iaf() if neuron is None else neuron, nn.AvgPool2d(2))
        layers += (nn.Flatten(), nn.Linear(64, n, bias=False), iaf())
        net = nn.Sequential(OrderedDict(zip(names, layers, strict=True)))
        change(net)
        return net

    return network("mine", make, {}, SHAPE, 3)


def one_weight(neuron: nn.Module, features: int = 1) -> Net:
    """One input, ``features`` neurons, each with the weight 1."""

    def make(shape: tuple[int, int, int], n: int) -> nn.Module:
        layer = nn.Linear(1, features, bias=False)
        nn.init.ones_(layer.weight)
        return nn.Sequential(nn.Flatten(), layer, neuron)

    return network("mine", make, {}, (1, 1, 1), features)


def spikes(net: Net, values: list[float]) -> list[list[float]]:
    """Of each time step, for one value at each. Returns (T, K)."""
    frames = torch.tensor(values).view(-1, 1, 1, 1, 1)
    found: list[list[float]] = forward(net, frames)[0][:, 0].tolist()
    return found


def rounded(net: Net) -> Net:
    return integer_twin(quantize(net, leaky=True)[0], net)


def test_rounded_neurons_take_the_whole_input_where_the_float_ones_do() -> None:
    """u = v / e + 0.7 at tau_mem = 1: 0.7, 0.958, 1.052 -> a spike, 0.052 / e + 0.7 = 0.719, ..."""
    net = one_weight(lif(tau_mem=1.0, norm_input=False))
    expected = [[0.0], [0.0], [1.0], [0.0], [0.0]]
    assert spikes(net, [0.7] * 5) == expected
    assert spikes(rounded(net), [0.7] * 5) == expected
    assert spikes(rounded(one_weight(lif(tau_mem=1.0))), [0.7] * 5) == [[0.0]] * 5  # (1 - 1 / e) 0.7 a step: never 1


def test_rounded_neurons_keep_the_leak_of_each_channel() -> None:
    for kind in ({}, {"train_alphas": True}):
        net = one_weight(lif(tau_mem=torch.tensor([1.0, 1000.0]), norm_input=False, **kind), features=2)
        assert spikes(net, [0.6, 0.6, 0.6]) == [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
        assert spikes(rounded(net), [0.6, 0.6, 0.6]) == spikes(net, [0.6, 0.6, 0.6])
        scale_to_rate(net, torch.ones(2, 3, 1, 1, 1))


def test_neurons_that_a_plan_does_not_compute_run_as_they_are() -> None:
    """0.8 resets to 0.3 after the spike at 1.6: 0.3 + 0.8 is a spike again."""
    net = one_weight(iaf(reset_fn=sina.MembraneReset(reset_value=0.3)))
    assert net.plan.layers[-1].kind == "stateful"
    assert spikes(net, [0.8, 0.8, 0.8, 0.8]) == [[0.0], [1.0], [1.0], [1.0]]
    assert one_weight(iaf(reset_fn=sina.MembraneReset())).plan.layers[-1].kind == "neuron"


class Doubling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Louder(sl.IAFSqueeze):
    def forward(self, input_data: Tensor) -> Tensor:
        return super().forward(2 * input_data)


def test_hooks_and_forwards_of_ones_own_are_run() -> None:
    def double(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return 2 * out

    def twice(module: nn.Module, given: Any) -> Any:
        return (2 * given[0],)

    plain = iaf()
    plain.register_forward_hook(double)
    assert spikes(one_weight(plain), [1.0]) == [[2.0]]
    assert spikes(one_weight(Louder(batch_size=1)), [1.0]) == [[2.0]]

    def whole(change: Callable[[nn.Sequential], object], kind: type[nn.Sequential] = nn.Sequential) -> Net:
        def make(shape: tuple[int, int, int], n: int) -> nn.Module:
            net = kind(nn.Flatten(), nn.Linear(1, 1, bias=False), iaf())
            nn.init.ones_(net[1].weight)
            change(net)
            return net

        return network("mine", make, {}, (1, 1, 1), 1)

    assert spikes(whole(lambda net: net.register_forward_hook(double)), [1.0]) == [[2.0]]
    assert spikes(whole(lambda net: net[1].register_forward_pre_hook(twice)), [1.0]) == [[2.0]]
    assert spikes(whole(lambda net: None, Doubling), [1.0]) == [[2.0]]
    assert is_chain(nn.Sequential(nn.Flatten()))
    assert not is_chain(nn.Flatten())


def hooked(name: str, kind: str) -> Callable[[nn.Sequential], object]:
    return lambda net: getattr(net.get_submodule(name), f"register_{kind}_hook")(lambda *_: None)


@pytest.mark.parametrize(
    ("neuron", "change", "message"),
    [
        (iaf(reset_fn=sina.MembraneReset(reset_value=0.3)), None, "layer spike: reset_fn resets to reset_value=0.3"),
        (iaf(reset_fn=sina.MembraneSubtract(subtract_value=2.0)), None, "layer spike: reset_fn subtracts subtract_val"),
        (lif(tau_syn=2.0), None, "layer spike: tau_syn=2 gives it a synaptic current, which a chip has not"),
        (iaf(spike_threshold=torch.ones(4, 1, 1)), None, "layer spike: spike_threshold has 4 values"),
        (Louder(batch_size=1, min_v_mem=-1.0), None, "layer spike: Louder has a forward of its own"),
        (None, hooked("conv", "forward"), "layer conv: Conv2d has a forward hook, which is lost where"),
        (None, hooked("linear", "forward_pre"), "layer linear: Linear has a forward_pre hook, which is lost where"),
        (None, hooked("pool", "forward"), "layer pool: AvgPool2d has a forward hook, which is lost where"),
        (None, hooked("spike", "full_backward"), "layer spike: IAFSqueeze has a backward hook, which a chip has not"),
        (None, hooked("", "forward"), "layer layer0: Sequential has a forward hook, so it stays in one piece"),
        (None, lambda net: setattr(net.spike, "v_init", 1.5), "layer spike: v_init=1.5 must be below its spike_thresh"),
        (None, lambda net: setattr(net.spike, "v_init", 1.0), "layer spike: v_init=1 must be below its spike_threshol"),
        (iaf(min_v_mem=torch.full((4, 1, 1), -1.0)), None, "layer spike: min_v_mem has 4 values, and a core of the"),
    ],
)  # fmt: skip
def test_what_a_chip_would_lose_is_refused_by_name(neuron: Any, change: Any, message: str) -> None:
    net = chain(neuron=copy.deepcopy(neuron), **({} if change is None else {"change": change}))
    with pytest.raises(RequestError, match=message) as told:
        check_net(net, leaky=True)
    assert "use target=software" in str(told.value).replace("or target", "use target")
    forward(net, FRAMES)


def test_a_hook_on_gradients_stays_and_is_said() -> None:
    net = chain(change=hooked("conv", "full_backward"))
    check_net(net)
    assert len(net.remarks) == 1
    assert net.remarks[0].startswith("layer conv: its backward hook sees all time steps in the batch axis")
    assert chain().remarks == ()


def test_a_threshold_that_is_trained_below_the_start_is_said() -> None:
    net = chain(change=lambda net: setattr(net.spike, "v_init", 0.5))
    check_net(net)
    assert quantize(net)[1] == []
    net.spike.spike_threshold.data.fill_(0.25)  # type: ignore[union-attr]
    chip, warnings = quantize(net)
    assert warnings == [
        "layer spike: v_init=0.5 is not below the trained spike_threshold=0.25; rounded, it is one less than the "
        "threshold, as on a chip a neuron fires at an event only"
    ]
    assert chip.layers[0].v_init == chip.layers[0].threshold - 1


def cut(net: nn.Sequential) -> None:
    prune.l1_unstructured(net.conv, "weight", 36)


COMPUTED = {
    "weight_norm": lambda net: parametrizations.weight_norm(net.conv),
    "weight_norm of old": lambda net: weight_norm(net.conv),
    "prune": cut,
    "orthogonal": lambda net: parametrizations.orthogonal(net.linear),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", COMPUTED.values(), ids=COMPUTED)
def test_weights_that_are_computed_of_others_go_onto_a_chip(change: Any) -> None:
    net = chain(change=change)
    check_net(net)
    before = forward(net, FRAMES)[0]
    before.sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p.sub_(0.01 * p.grad if p.grad is not None else 0)
    chip, _ = quantize(net)  # no forward pass since the weights have changed
    ordinary = copy.deepcopy(net)
    bake(ordinary)
    assert set(weights_of(ordinary)) == set(weights_of(chain()))
    again, _ = quantize(ordinary)
    for a, b in zip(chip.layers, again.layers, strict=True):
        assert (a.weight == b.weight).all()
    assert torch.equal(forward(ordinary, FRAMES)[0], forward(net, FRAMES)[0])
    if change is cut:
        assert int((net.conv.weight == 0).sum()) == 36  # type: ignore[arg-type,union-attr]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", ["weight_norm", "weight_norm of old", "prune"])
def test_they_are_scaled_and_rounded_in_training_as_others_are(name: str) -> None:
    net = chain(change=COMPUTED[name])
    weight = net.conv.weight.clone()  # type: ignore[operator,union-attr]
    with torch.no_grad():
        master(net.conv).mul_(3)
    torch.testing.assert_close(net.conv.weight, 3 * weight)
    make_aware(net, iaf())
    forward(net, FRAMES)[0].sum().backward()
    assert bool((master(net.conv).grad != 0).any())  # type: ignore[union-attr]
    chip, _ = quantize(net)
    assert set((net.conv.weight / net.conv.weight.abs().max() * 127).round().unique().tolist()) <= set(  # type: ignore[operator,union-attr]
        chip.layers[0].weight.astype(float).flatten().tolist()
    )


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_other_numbers_become_float32_and_that_is_said(kind: torch.dtype) -> None:
    net = chain(change=lambda net: net.to(kind))
    assert {p.dtype for p in (*net.parameters(), *net.buffers())} == {torch.float32}
    assert forward(net, FRAMES)[0].dtype == torch.float32
    assert net.remarks[0].endswith(f"its {str(kind)[6:]} numbers become float32, in which networks are trained")


def fail(net: nn.Sequential) -> None:
    net.add_module("../x", nn.Identity())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.requires_grad_(False), "none of its parameters requires a gradient, so there is nothing to"),
        (fail, r"it raised KeyError: .* got: \.\./x' \(test_plain\.py, line \d+\); correct it there$"),
        (lambda net: net.add_module("a/b", nn.ReLU()), "layer a/b: a name needs letters, digits, _ and -"),
        (lambda net: net.add_module("plan", nn.ReLU()), "layer plan: this name is taken; choose another, for ex"),
        (lambda net: net.add_module("input", nn.ReLU()), "layer input: this name is taken; choose another, for ex"),
        (lambda net: net.add_module("blocks", nn.ReLU()), "layer blocks: this name is taken; choose another, for ex"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(change: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        chain(change=change)


def test_a_leaky_readout_and_rectifiers_among_spikes_run() -> None:
    net = chain(neuron=nn.ReLU(), change=lambda net: setattr(net, "out", sl.ExpLeakSqueeze(tau_mem=4.0, batch_size=1)))
    keep_positive(net)
    assert float(forward(net, FRAMES)[0].abs().sum()) > 0


def test_a_net_whose_neurons_it_would_not_compute_is_refused() -> None:
    def make(shape: tuple[int, int, int], n: int) -> nn.Module:
        net = chain()
        net.spike.reset_fn = sina.MembraneReset(reset_value=0.3)  # type: ignore[union-attr]
        return net

    with pytest.raises(RequestError, match=r"layer spike: reset_fn resets to reset_value=0\.3 in place of 0, which no"):
        network("mine", make, {}, SHAPE, 3)
