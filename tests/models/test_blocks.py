"""Which layers are computed in one pass, and that a network's results do not depend on it."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cil_spl.base.errors import RequestError
from cil_spl.chip.quantize import make_aware
from cil_spl.methods import bptt, sltt
from cil_spl.models import blocks, fused, neurons
from cil_spl.models.build import build, plan_from
from cil_spl.models.forward import forward, straight_through
from cil_spl.models.net import Net
from cil_spl.models.neurons import Observation
from cil_spl.models.options import Backend
from cil_spl.models.plan import Layer, Plan
from cil_spl.models.presets import PRESETS
from cil_spl.training.update import Trainer
from tests.methods.test_methods import context

BLOCKS: list[dict[str, Any]] = [
    {"conv": 4, "kernel": 3, "padding": 1, "pool": 2},
    {"conv": 3, "kernel": 3, "stride": 2},
    {"linear": "classes"},
]
NEURON = {"min_v_mem": -1.0}
FRAMES = torch.poisson(torch.full((5, 3, 2, 12, 12), 0.5), generator=torch.Generator().manual_seed(1))


def network(layers: Any = None, shape: tuple[int, int, int] = (2, 12, 12), **neuron: Any) -> Net:
    """With weights that are whole numbers of sixteenths, so that sums are exact and their order says nothing."""
    torch.manual_seed(0)
    net = build(plan_from("p", layers or BLOCKS, shape, 3), family="snn", neuron=NEURON | neuron)
    with torch.no_grad():
        for p in (p for p in net.parameters() if p.dim() in (2, 4)):
            p.copy_((p * 128).round() / 16)
    return net


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way to compute neurons was taken."""
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return real(*args, **more)

        monkeypatch.setattr(module, name, counted)

    for module, name in ((fused, "run_block"), (fused, "run"), (neurons, "_step_by_step")):
        count(module, name)
    return calls


def results(net: Net, frames: Tensor = FRAMES, **how: Any) -> dict[str, Tensor]:
    """Output, states, records and gradients of a network."""
    net.zero_grad()
    frames = frames.clone().requires_grad_()
    out, state, records = forward(net, frames, **how)
    generator = torch.Generator().manual_seed(7)
    loss = (out * torch.rand(out.shape, generator=generator)).sum()
    for value in (*(state[name] for name in sorted(state)), *(records[name] for name in sorted(records))):
        loss = loss + (value * torch.rand(value.shape, generator=generator)).sum()
    loss.backward()
    found = {"out": out, "frames": frames.grad} | {f"state {k}": v for k, v in state.items()}
    found |= {f"record {k}": v for k, v in records.items()}
    return {k: v.detach() for k, v in found.items() if v is not None} | {
        f"gradient {name}": p.grad for name, p in net.named_parameters() if p.grad is not None
    }


def check(net: Net, frames: Tensor = FRAMES, exact: bool = True, **how: Any) -> None:
    """The one pass, and the layers one by one: values to the bit, gradients to the rounding of their sums.

    Where currents are not ``exact``, all is compared to the rounding of doubles.
    """
    found = results(net.compute_by(Backend("auto")), frames, **how)
    expected = results(net.compute_by(Backend("sinabs")), frames, **how)
    net.compute_by(Backend("auto"))
    assert found.keys() == expected.keys()
    assert found["out"].any()
    for name, value in expected.items():
        if not exact or "gradient" in name or name == "frames":
            off, most = float((found[name] - value).abs().max()), float(value.abs().max())
            assert off <= (1e-5 if exact else 1e-12) * max(1.0, most), name
        else:
            assert torch.equal(found[name], value), name


def plan(*layers: Layer) -> Plan:
    return Plan("p", (2, 12, 12), layers)


CONV = Layer("conv", "conv", {"out_channels": 4, "kernel_size": 3, "padding": 1})
SPIKE = Layer("spike", "neuron", {})
POOL = Layer("pool", "avgpool", {"kernel_size": [2, 3]})


def test_a_convolution_its_neurons_and_their_pooling_are_a_block() -> None:
    block = blocks.Block("conv", "spike", "pool", (2, 3))
    assert blocks.blocks(plan(CONV, SPIKE, POOL)) == {"conv": block, "spike": block, "pool": block}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((CONV, SPIKE), {"conv": "spike", "spike": "spike"}),
        ((CONV, Layer("norm", "norm", {"norm": "batch"}), SPIKE), {}),
        ((CONV, SPIKE, Layer("other", "conv", CONV.params, ("conv",))), {}),  # its currents are read twice
        (
            (CONV, SPIKE, POOL, Layer("out", "avgpool", {"kernel_size": 2}, ("spike",))),
            {"conv": "spike", "spike": "spike"},
        ),
        ((CONV, Layer("relu", "flatten", {})), {}),
        ((CONV,), {}),
    ],
)
def test_what_others_read_as_well_is_no_part_of_a_block(layers: tuple[Layer, ...], expected: dict[str, str]) -> None:
    found = blocks.blocks(plan(*layers))
    assert {name: block.pool or block.neuron for name, block in found.items()} == expected


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "neuron",
    [
        {},
        {"min_v_mem": None},
        {"spike_fn": "single", "spike_threshold": 0.7},
        {"surrogate_grad_fn": "triangle", "v_init": 0.5},
    ],
    ids=str,
)
def test_a_network_is_the_same_whichever_way(neuron: dict, recompute: bool, taken: Counter[str]) -> None:
    net = network(**neuron)
    net.compute_by(Backend(recompute=recompute))
    results(net)
    assert taken == {"run_block": 2, "run": 1}
    check(net, fire=straight_through(["spike3"]))
    check(net, fire=straight_through(["spike3"], through_time=False))


def test_a_leaky_neurons_input_is_normed_as_sinabs_norms_it(taken: Counter[str]) -> None:
    torch.manual_seed(3)
    net = build(plan_from("p", BLOCKS, (2, 12, 12), 3), family="snn", neuron=NEURON | {"kind": "lif", "tau_mem": 2.0})
    with torch.no_grad():
        for p in (p for p in net.parameters() if p.dim() in (2, 4)):
            p.mul_(16)
    check(net.double(), FRAMES.double(), exact=False)
    assert taken["run_block"] == 2


@pytest.mark.parametrize("record", [(), ("conv1",), ("spike1",), ("pool1",), ("conv1", "spike1", "pool1", "spike2")])
@pytest.mark.parametrize("kind", ["avgpool", "sumpool"])
def test_records_are_those_of_the_layers(record: tuple[str, ...], kind: str) -> None:
    check(network([{**BLOCKS[0], "pool_kind": kind}, *BLOCKS[1:]]), record=record)


def test_states_go_on_where_they_were() -> None:
    net = network()
    whole, end, _ = forward(net, FRAMES)
    first, state, _ = forward(net, FRAMES[:2])
    second, state, _ = forward(net, FRAMES[2:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert all(torch.equal(state[name], end[name]) for name in end)
    check(net, FRAMES[2:], state={name: v.detach() for name, v in forward(net, FRAMES[:2])[1].items()})


@pytest.mark.parametrize("seen_states", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_what_was_observed_is_taken_alike(seen_states: bool, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    counts = torch.randint(0, 3, (5, 3, 4, 12, 12), generator=torch.Generator().manual_seed(2))
    seen = Observation(counts.float(), torch.rand(counts.shape) - 0.5 if seen_states else None)
    if ends:
        check(net, observed={"spike1": seen})
        return
    for limit in (fused.REPLACED_BYTES, 0):  # the forward pass computes nothing, or the states from which to go on
        monkeypatch.setattr(fused, "REPLACED_BYTES", limit)
        monkeypatch.setattr(fused, "PART_BYTES", 1)
        found = []
        for backend in ("auto", "sinabs"):
            net.compute_by(Backend(backend)).zero_grad()
            out, _, _ = forward(net, FRAMES, observed={"spike1": seen}, ends=False)
            out.sum().backward()
            found.append((out.detach(), net.conv1.weight.grad.clone()))
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)


def test_the_caller_may_count_in_whole_numbers() -> None:
    net = network()
    counts = torch.randint(0, 3, (5, 3, 4, 12, 12))
    a, b = (forward(net, FRAMES, observed={"spike1": Observation(c)})[0] for c in (counts, counts.float()))
    assert torch.equal(a, b)


def test_branches_are_right(taken: Counter[str]) -> None:
    layers = [
        {"conv": 4, "kernel": 3, "padding": 1, "name": "stem"},
        {"conv": 4, "kernel": 3, "padding": 1, "pool": 2, "inputs": ["stem"]},
        {"conv": 4, "kernel": 1, "pool": 2, "inputs": ["stem"]},
    ]
    net = network([*layers[:2], BLOCKS[2]])
    check(net)
    assert taken["run_block"] == 2
    twice = plan(CONV, SPIKE, POOL, Layer("other", "avgpool", {"kernel_size": [2, 3]}, ("spike",)),
                 Layer("sum", "add", {}, ("pool", "other")), Layer("again", "neuron", {}))  # fmt: skip
    check(_built(twice))
    currents = plan(CONV, SPIKE, Layer("other", "neuron", {}, ("conv",)), Layer("sum", "add", {}, ("spike", "other")))
    check(_built(currents))


def _built(of: Plan) -> Net:
    from cil_spl.models.kinds import kind_of

    torch.manual_seed(5)
    shapes = of.shapes()
    made = {
        layer.name: kind_of(layer.kind, layer.name).module(
            layer.name, layer.params | (NEURON if layer.kind == "neuron" else {}), [shapes[n] for n in of.inputs(i)]
        )
        for i, layer in enumerate(of.layers)
    }
    net = Net(of, made)
    with torch.no_grad():
        for p in (p for p in net.parameters() if p.dim() in (2, 4)):
            p.copy_((p * 128).round() / 16)
    return net


def _like(conv: nn.Conv2d) -> nn.Conv2d:
    with torch.no_grad():
        conv.weight.copy_((conv.weight * 64).round() / 16)
    return conv


class Doubled(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(x, weight, bias)


def put(name: str, module: Any) -> Any:
    return lambda net: setattr(net, name, module())


def hook(name: str, way: str, does: Any) -> Any:
    return lambda net: getattr(net.get_submodule(name), way)(does)


def doubled(module: Any, inputs: Any, out: Any = None) -> Any:
    return 2 * (inputs[0] if out is None else out)


FALLS_OFF = {
    "dilation": put("conv1", lambda: _like(nn.Conv2d(2, 4, 3, padding=2, dilation=2, bias=False))),
    "groups": put("conv1", lambda: _like(nn.Conv2d(2, 4, 3, padding=1, groups=2, bias=False))),
    "padding in words": put("conv1", lambda: _like(nn.Conv2d(2, 4, 3, padding="same", bias=False))),
    "padding that repeats": put(
        "conv1", lambda: _like(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", bias=False))
    ),
    "a convolution of another kind": put("conv1", lambda: _like(Doubled(2, 4, 3, padding=1, bias=False))),
    "another forward": lambda net: setattr(
        net.conv1, "forward", lambda x, conv=net.conv1: 2 * nn.Conv2d.forward(conv, x)
    ),
    "a hook before": hook("conv1", "register_forward_pre_hook", lambda _, x: (2 * x[0],)),
    "a hook after": hook("conv1", "register_forward_hook", doubled),
    "a hook on the pooling": hook("pool1", "register_forward_hook", doubled),
    "a hook on gradients": hook("conv1", "register_full_backward_hook", lambda m, i, o: (2 * i[0],)),
    "a hook before gradients": hook("conv1", "register_full_backward_pre_hook", lambda m, o: (2 * o[0],)),
    "a larger maximum": put("pool1", lambda: nn.MaxPool2d(2)),
}


@pytest.mark.parametrize("name", FALLS_OFF)
def test_what_is_not_known_is_left_to_the_modules(name: str, taken: Counter[str]) -> None:
    net = network()
    FALLS_OFF[name](net)
    results(net)
    assert taken["run_block"] == 1  # the second convolution's
    check(net)


@pytest.mark.parametrize(
    "neuron",
    [{"threshold_per": "channel", "v_init": 0.25}, {"trained_threshold": True}, {"reset_fn": "zero"},
     {"surrogate_grad_fn": "heaviside"}],
    ids=str,
)  # fmt: skip
def test_neurons_that_it_does_not_know_go_step_by_step(neuron: dict, taken: Counter[str]) -> None:
    net = network(**neuron)
    results(net)
    assert taken == {"_step_by_step": 3}
    check(net)


def test_one_channel_with_its_own_threshold_starts_where_that_says(taken: Counter[str]) -> None:
    net = network([{"conv": 1, "kernel": 3}, BLOCKS[2]], threshold_per="channel", v_init=0.5)
    results(net)
    assert taken["run_block"] == 1
    check(net)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"min_v_mem": torch.full((4, 1, 1), -1.0)}, "lower bound"),
        ({"tau_mem": torch.full((4, 1, 1), 2.0)}, "constant"),
    ],
)
def test_bounds_and_time_constants_of_channels_go_step_by_step(change: dict, reason: str) -> None:
    layer = sl.LIF(**({"tau_mem": 2.0} | change))
    layer.tau_mem.requires_grad_(False)
    assert reason in (fused.reason_against(layer) or "")


def test_rounded_weights_stay_on_it(taken: Counter[str]) -> None:
    net = network()
    make_aware(net, neurons.make(**NEURON))
    assert parametrize.is_parametrized(net.conv1, "weight")
    found = results(net)
    assert taken["run_block"] == 2
    expected = results(net.compute_by(Backend("sinabs")))
    for name in ("conv1", "conv2"):
        key = f"gradient {name}.parametrizations.weight.original"
        assert expected[key].any()
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-4)


def test_frames_of_other_maps_are_refused_by_torch() -> None:
    net = network()
    with pytest.raises(RuntimeError, match="expected input"):
        forward(net, FRAMES[:, :, :1])
    with pytest.raises(RuntimeError):
        forward(net, FRAMES[..., :1, :1])


def test_large_convolutions_are_torchs_unless_asked(taken: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    monkeypatch.setattr(blocks, "LARGEST", 100)
    results(net)
    assert taken == {"run_block": 1, "run": 2}  # 72 weights, and 108
    taken.clear()
    results(net.compute_by(Backend("fused")))
    assert taken == {"run_block": 2, "run": 1}


def test_a_copy_is_computed_as_its_original(taken: Counter[str]) -> None:
    net = network().compute_by(Backend("sinabs"))
    results(copy.deepcopy(net))
    assert taken == {"_step_by_step": 3}


@pytest.mark.parametrize("unchanged", [False, True])
@pytest.mark.parametrize("preset", ["quickstart", "scnn6"])
def test_what_methods_have_neurons_do_stays_on_it(preset: str, unchanged: bool, taken: Counter[str]) -> None:
    """bptt's and sltt's hand to the neurons is one that the one pass knows, and so is none at all."""
    net = build(plan_from(preset, PRESETS[preset], (2, 16, 16), 3), family="snn", neuron=NEURON)
    frames = torch.poisson(torch.full((2, 2, 2, 16, 16), 0.3))
    convolutions = sum("conv" in layer for layer in PRESETS[preset])
    for fire in (bptt.output_neurons(net, unchanged), neurons.run):
        taken.clear()
        forward(net, frames, fire=fire, ends=False)
        assert taken == {"run_block": convolutions, "run": 1}
        taken.clear()
        forward(net, frames[:1], {}, {}, fire=fire)
        assert taken == {"run_block": convolutions, "run": 1}


def test_another_hand_to_neurons_or_weights_is_called(taken: Counter[str]) -> None:
    net, seen = network(), []

    def fire(name: str, *rest: Any) -> Any:
        seen.append(name)
        return neurons.run(name, *rest)

    results(net, fire=fire)
    results(
        net, weigh=lambda name, module, x: (seen.append(name), module(x.flatten(0, 1)).unflatten(0, x.shape[:2]))[1]
    )
    assert seen == ["spike1", "spike2", "spike3", "conv1", "conv2", "linear3"]
    assert taken["run_block"] == 0


@pytest.mark.parametrize(
    ("neuron", "reason"),
    [
        ({"reset_fn": "zero"}, "reset_fn is not subtract"),
        ({"surrogate_grad_fn": "gaussian"}, "surrogate_grad_fn is Gaussian"),
        ({"trained_threshold": True}, "threshold or time constant is trained"),
        ({"threshold_per": "channel"}, "each channel has a threshold"),
    ],
)
def test_where_it_is_asked_for_the_layer_that_cannot_is_named(neuron: dict, reason: str) -> None:
    net = network(**neuron).compute_by(Backend("fused"))
    with pytest.raises(RequestError) as caught:
        forward(net, FRAMES)
    assert str(caught.value) == (
        f"neurons.backend=fused: layer spike1 is computed step by step, because {reason}; use auto"
    )


@pytest.mark.parametrize("method", [bptt, sltt])
@pytest.mark.parametrize("preset", ["quickstart", "scnn6"])
def test_methods_train_on_it(preset: str, method: Any, taken: Counter[str], tmp_path: Path) -> None:
    """All forward passes of a method: of each, the convolutions in one pass, the output's neurons alone."""
    plan = plan_from(preset, PRESETS[preset], (2, 8, 8), 3)
    ctx = context(tmp_path, plan=plan, trainer=Trainer(epochs=1, batch_size=30))
    ctx.scale(ctx.build("snn"), 1.0)  # layer by layer, as training does first
    before = 2 * taken["run"]
    method.train(ctx)
    convolutions = sum("conv" in layer for layer in PRESETS[preset])
    assert taken["run_block"] == convolutions * (taken["run"] - before)
    assert taken["run_block"] > 0
    assert not taken["_step_by_step"]
