"""A user's own network in the place of a plan."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import sinabs.layers as sl
import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.chip.quantize import check_net, quantize
from cil_spl.models import answers
from cil_spl.models.forward import forward
from cil_spl.models.neurons import load_weights, weights_of
from cil_spl.models.own import network

SHAPE = (2, 8, 8)
FRAMES = torch.poisson(torch.full((5, 3, *SHAPE), 0.6), generator=torch.Generator().manual_seed(1))


def neuron() -> sl.IAFSqueeze:
    return sl.IAFSqueeze(batch_size=1, min_v_mem=-1.0)


def chain(shape: tuple[int, int, int], n: int, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1, bias=False), neuron(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(width * 16, n, bias=False), neuron(),
    )  # fmt: skip


class Branching(nn.Module):
    """A sinabs network that no plan can say."""

    def __init__(self, shape: tuple[int, int, int], n: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.spike = nn.Conv2d(shape[0], 4, 3, padding=1, bias=False), neuron()
        self.linear = nn.Linear(4 * 64, n, bias=False)
        self.gate = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        s = self.spike(2 * self.conv(x))
        return self.linear(s.flatten(1)) * self.gate


class Recurrent(nn.Module):
    """A module that handles time itself."""

    over_time = True

    def __init__(self, shape: tuple[int, int, int], n: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(shape[0] * shape[1] * shape[2], n)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.flatten(2))[0]  # type: ignore[no-any-return]


def test_a_chain_of_sinabs_layers_is_a_plan_and_goes_onto_the_chip() -> None:
    net = network("mine", chain, {"width": 6}, SHAPE, 3)
    assert [layer.kind for layer in net.plan.layers] == ["conv", "neuron", "avgpool", "flatten", "linear", "neuron"]
    assert net.plan.layers[0].params["out_channels"] == 6
    chip, _ = quantize(net)
    assert [layer.name for layer in chip.layers] == ["layer0", "layer4"]
    out, _, _ = forward(net, 3 * FRAMES)
    theirs = chain(SHAPE, 3, 6)
    for layer in theirs.modules():
        if isinstance(layer, sl.IAFSqueeze):
            layer.batch_size, layer.num_timesteps = -1, 5
    assert torch.equal(out, theirs(3 * FRAMES.transpose(0, 1).flatten(0, 1)).unflatten(0, (3, 5)).transpose(0, 1))
    assert out.sum() > 0


def test_a_network_with_states_of_its_own_runs_each_batch_from_rest() -> None:
    net = network("mine", Branching, {}, SHAPE, 3)
    assert [layer.kind for layer in net.plan.layers] == ["stateful"]
    first, _, _ = forward(net, FRAMES)
    assert torch.equal(forward(net, FRAMES)[0], first)
    torch.testing.assert_close(forward(net, FRAMES[:, :2])[0], first[:, :2])  # another batch size
    early, state, _ = forward(net, FRAMES[:2])
    late, _, _ = forward(net, FRAMES[2:], state)
    torch.testing.assert_close(torch.cat([early, late]), first)
    first.sum().backward()
    assert bool((net.get_parameter("layer0.module.conv.weight").grad != 0).any())  # type: ignore[union-attr]


def test_a_module_that_handles_time_itself() -> None:
    net = network("mine", Recurrent, {}, SHAPE, 3)
    out, _, _ = forward(net, FRAMES)
    assert out.shape == (5, 3, 3)
    alone, _, _ = forward(net, FRAMES[1:2])
    assert not torch.allclose(alone[0], out[1])  # it remembers the first step
    assert torch.equal(forward(net, FRAMES)[0], out)


def test_what_no_plan_knows_is_a_layer_of_its_own() -> None:
    def make(shape: tuple[int, int, int], n: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(0.5), neuron(), nn.Flatten(), nn.LazyLinear(n))

    net = network("mine", make, {}, SHAPE, 3)
    assert [layer.kind for layer in net.plan.layers] == ["conv", "module", "neuron", "flatten", "linear"]
    net.eval()
    assert torch.equal(forward(net, FRAMES)[0], forward(net, FRAMES)[0])


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (lambda shape, n: 5, {}, "it gives int; it has to give a torch.nn.Module"),
        (lambda shape: nn.Flatten(), {}, r"it is called as make\(input_shape, n_outputs, \*\*model.args\)"),
        (chain, {"wide": 3}, "unexpected keyword argument 'wide'"),
        (lambda shape, n: nn.Flatten(), {}, r"its output has the shape \(128,\).*need \(3,\)"),
        (lambda shape, n: nn.Sequential(nn.LSTM(3, 2)), {}, r"LSTM cannot take an input of shape \(2, 8, 8\)"),
    ],
)
def test_what_is_no_network_for_the_data_is_refused(make: Any, args: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        network("mine", make, args, SHAPE, 3)


class Standardised(nn.Conv2d):
    """A convolution that a plan's would not compute."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), "module"),
        (Standardised(2, 4, 3, padding=1), "module"),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, affine=False)), "module"),
        (nn.AvgPool2d(2, divisor_override=1), "module"),
        (nn.AvgPool2d(2, stride=(2, 2)), "avgpool"),
        (nn.BatchNorm2d(2, track_running_stats=False), "module"),
        (sl.LIFRecurrent(tau_mem=5.0, rec_connect=nn.Identity()), "stateful"),
        (sl.LIFSqueeze(tau_mem=5.0, tau_syn=2.0, batch_size=1), "stateful"),
        (sl.ExpLeakSqueeze(tau_mem=5.0, batch_size=1), "stateful"),
        (sl.IAFSqueeze(batch_size=1), "neuron"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_a_plan_would_compute_otherwise_stays_the_users(layer: nn.Module, kind: str) -> None:
    if isinstance(layer, sl.LIFRecurrent):
        layer = Steps(layer)
    found = network("mine", lambda shape, n: nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(n)), {}, SHAPE, 3)
    assert found.plan.layers[0].kind == kind
    assert found.get_submodule("layer2").weight.shape[0] == 3  # type: ignore[union-attr,index]


class Steps(nn.Module):
    """Sinabs' recurrent layers take (B, T, ...) and know no squeezing."""

    over_time = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)  # type: ignore[no-any-return]


def test_a_network_of_recurrent_modules_is_evaluated_in_steps() -> None:
    net = network("mine", Recurrent, {}, SHAPE, 3)
    assert answers.runs_in_steps(net)
    assert answers.bins_of(net) is None
    assert not answers.runs_in_steps(
        network("mine", lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), {}, SHAPE, 3)
    )


def test_a_module_that_starts_anew_does_not_run_step_by_step() -> None:
    net = network("mine", Recurrent, {}, SHAPE, 3)
    _, state, _ = forward(net, FRAMES[:2])
    with pytest.raises(RequestError, match="starts anew with each call, so it cannot run step by step"):
        forward(net, FRAMES[2:], state)


def test_states_of_own_modules_are_no_weights_and_gradients_stay() -> None:
    def make(shape: tuple[int, int, int], n: int) -> nn.Module:
        inner = nn.Sequential(nn.Conv2d(2, 2, 3), sl.LIFSqueeze(tau_mem=5.0, tau_syn=2.0, batch_size=1))
        inner[1].spike_threshold.requires_grad_(True)
        return nn.Sequential(inner, nn.Flatten(), nn.Linear(72, n))

    net = network("mine", make, {}, SHAPE, 3)
    before = weights_of(net)
    out, state, _ = forward(net, 5 * FRAMES[:2])
    out.sum().backward()
    tau = net.get_parameter("layer0.module.1.tau_mem")
    first = tau.grad.clone()  # type: ignore[union-attr]
    assert float(first) != 0
    forward(net, FRAMES[2:], state)
    assert torch.equal(tau.grad, first)  # type: ignore[arg-type]
    assert set(weights_of(net)) == set(before)
    load_weights(net, before)
    twin = copy.deepcopy(net)
    assert twin.get_parameter("layer0.module.1.spike_threshold").requires_grad


def test_what_a_chip_cannot_round_is_refused_by_its_layer() -> None:
    no_bound = network("mine", lambda shape, n: nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), sl.IAFSqueeze(batch_size=1), nn.Flatten(),
        nn.Linear(144, n, bias=False), neuron()),
        {}, SHAPE, 3)  # fmt: skip
    with pytest.raises(RequestError, match="layer layer1: min_v_mem=None"):
        check_net(no_bound)
    rectified = network("mine", lambda shape, n: nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, n, bias=False), neuron()),
        {}, SHAPE, 3)  # fmt: skip
    with pytest.raises(RequestError, match="layer layer1: ReLU does not spike"):
        check_net(rectified)
