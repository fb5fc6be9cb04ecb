"""Plans as graphs: branches, feedback, read-outs; the walk, and what a chip holds of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.chip.observer import ChipObserver
from cil_spl.chip.quantize import bake, integer_twin, make_aware, quantize
from cil_spl.chip.rounding import Precision
from cil_spl.chip.simulator import simulate
from cil_spl.data.batches import Batches
from cil_spl.data.options import Frames
from cil_spl.models import answers, neurons
from cil_spl.models.build import build, plan_from
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.init import scale_to_rate
from cil_spl.models.net import Net, copy_weights, walk, weighted
from cil_spl.models.plan import Layer, Plan
from cil_spl.models.stages import Source, destinations, stages
from cil_spl.targets.speck import Speck
from cil_spl.targets.target import TargetNetwork
from tests.chip import networks, reference
from tests.tasks.test_evaluation import recordings

RESIDUAL = [
    {"conv": 4, "padding": 1, "name": "stem"},
    {"conv": 4, "padding": 1, "name": "branch"},
    {"conv": 6, "padding": 1, "pool": 2, "inputs": ["stem", "branch"], "name": "after"},
    {"linear": "classes"},
]
FEEDBACK = [
    {"conv": 4, "padding": 1, "neuron": False, "name": "drive"},
    {"delay": "hidden", "name": "before"},
    {"conv": 4, "padding": 1, "neuron": False, "inputs": ["before"], "name": "back"},
    {"add": ["drive", "back"], "neuron": True, "name": "hidden"},
    {"linear": "classes", "neuron": False, "name": "readout"},
]


def plan(blocks: list[dict[str, object]]) -> Plan:
    return plan_from("p", blocks, (2, 8, 8), 3)


def network(blocks: list[dict[str, object]], factor: float = 3.0, **neuron: object) -> Net:
    torch.manual_seed(0)
    net = build(plan(blocks), family="snn", neuron={"min_v_mem": -1.0, **neuron})
    with torch.no_grad():
        for module in weighted(net).values():
            module.weight.mul_(factor)  # type: ignore[operator]
    return net


FRAMES = torch.poisson(torch.full((5, 3, 2, 8, 8), 0.6), generator=torch.Generator().manual_seed(1))


def plus(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return module(*inputs)  # type: ignore[no-any-return]


def test_a_shortcut_is_added() -> None:
    net = network(RESIDUAL)
    out, _, seen = forward(net, FRAMES, record=["spike1", "spike2", "add3", "after", "spike4"])
    assert torch.equal(seen["add3"], seen["spike1"] + seen["spike2"])
    conv = net.get_submodule("after")(seen["add3"].flatten(0, 1)).unflatten(0, (5, 3))
    assert torch.equal(seen["after"], conv)
    assert torch.equal(out, seen["spike4"])
    assert out.sum() > 0


def test_feedback_is_the_recursion_written_out() -> None:
    net = network(FEEDBACK, reset_fn="subtract")
    out, state, _ = forward(net, FRAMES)
    drive, back, readout = (net.get_submodule(name) for name in ("drive", "back", "readout"))
    v, s = torch.zeros(3, 4, 8, 8), torch.zeros(3, 4, 8, 8)
    expected = []
    for x in FRAMES:
        u = v + (drive(x) + back(s))
        s = torch.where(u > 0, torch.trunc(u), torch.zeros_like(u))
        v = torch.relu(u - s + 1.0) - 1.0
        expected.append(readout(s.flatten(1)))
    assert torch.equal(out, torch.stack(expected))
    assert torch.equal(state["before"], s)
    assert float(s.sum()) > 0


def test_state_is_carried_over_a_cut_in_time_through_feedback_and_weighed_time() -> None:
    net = network([*FEEDBACK, {"weigh_time": 0.5, "name": "leaky"}])
    whole, end, _ = forward(net, FRAMES)
    first, state, _ = forward(net, FRAMES[:2])
    second, state, _ = forward(net, FRAMES[2:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert sorted(state) == ["before", "leaky", "spike4"]
    assert all(torch.equal(state[name], end[name]) for name in state)


def test_the_sum_over_weighed_time_is_the_leaky_sum() -> None:
    net = network([{"linear": "classes", "neuron": False}, {"weigh_time": 0.5}]).double()
    out, _, seen = forward(net, FRAMES.double(), record=["linear1"])
    weights = 0.5 ** torch.arange(4, -1, -1, dtype=torch.float64)
    expected = (seen["linear1"] * weights[:, None, None]).sum(0)
    torch.testing.assert_close(out.sum(0), expected, rtol=0, atol=1e-12)


def test_gradients_flow_through_shortcut_and_feedback() -> None:
    for blocks, name in ((RESIDUAL, "stem"), (FEEDBACK, "back")):
        net = network(blocks)
        out, _, _ = forward(net, FRAMES)
        out.sum().backward()
        grad = net.get_submodule(name).weight.grad
        assert grad is not None
        assert bool(grad.abs().sum() > 0)


def test_the_walk_lets_values_go_after_their_last_reader() -> None:
    net = network(RESIDUAL)
    alive: dict[str, int] = {}
    held: set[str] = set()

    class Value:
        def __init__(self, name: str) -> None:
            self.name = name
            held.add(name)

        def __del__(self) -> None:
            held.discard(self.name)

    def layer(name: str, module: nn.Module, inputs: tuple[Value, ...]) -> Value:
        alive[name] = len(held)
        return Value(name)

    out, records = walk(net, Value("input"), layer, record=["spike2"])
    assert max(alive.values()) <= 3  # never all of the eleven
    assert out.name == "spike4"
    assert records["spike2"].name == "spike2"
    assert sorted(held) == ["spike2", "spike4"]


def test_a_branch_is_no_chain_of_modules_and_a_chain_is() -> None:
    with pytest.raises(RequestError, match="it branches"):
        network(RESIDUAL).as_sequential()
    chain = network([{"conv": 4, "padding": 1}, {"linear": "classes"}])
    assert [name for name, _ in chain.as_sequential().named_children()] == [name for name, _ in chain.named_children()]


def test_weights_are_copied_with_a_factor() -> None:
    one, other = network(RESIDUAL), network(RESIDUAL, factor=1.0)
    copy_weights(one, other, lambda name, w: 2 * w if name == "stem" else w)
    assert torch.equal(other.get_submodule("stem").weight, 2 * one.get_submodule("stem").weight)  # type: ignore[operator]
    assert torch.equal(other.get_submodule("after").weight, one.get_submodule("after").weight)  # type: ignore[arg-type]


def test_fresh_weights_of_a_branching_network_are_scaled() -> None:
    for blocks in (RESIDUAL, FEEDBACK):
        net = network(blocks, factor=1.0)
        scale_to_rate(net, FRAMES, 1.0)
        seen: dict[str, Tensor] = {}

        def weigh(name: str, module: nn.Module, x: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            seen[name] = module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return seen[name]

        forward(net, FRAMES, weigh=weigh)
        first = seen[next(iter(seen))]
        assert float(first[first != 0].std()) == pytest.approx(1.0, rel=1e-3) or blocks is FEEDBACK


# --- what a chip holds of it ---
def test_stages_of_branches() -> None:
    parts = stages(plan(RESIDUAL))
    assert [stage.sources for stage in parts] == [
        (Source("input"),),
        (Source("stem"),),
        (Source("stem"), Source("branch")),
        (Source("after", (2, 2)),),
    ]
    assert destinations(parts, "stem") == [(1, (1, 1)), (2, (1, 1))]
    assert [stage.fold for stage in parts] == [1, 1, 1, 4]


def test_a_shortcut_on_the_chip_is_the_plain_references_event_for_event() -> None:
    net = network(RESIDUAL)
    chip, _ = quantize(net)
    assert [[d.layer for d in layer.destinations] for layer in chip.layers] == [[1, 2], [2], [3], []]
    rng = np.random.default_rng(0)
    parts = [networks.recording(rng, chip, 200) for _ in range(3)]
    events, offsets = networks.joined(parts)
    answer = simulate(chip, events, offsets, np.array([[0, 1 << 30]] * 3), record=("events", "counts"))
    assert answer.layer_counts is not None
    for b, part in enumerate(parts):
        expected = reference.run(chip, part, (0, 1 << 30))
        for k in range(4):
            assert np.array_equal(answer.layer_counts[k][b], expected.layer_counts[k])
            assert answer.synops[b, k] == expected.synops[k]
    assert answer.counts.sum() > 0


def test_in_steps_it_has_the_chips_operations_on_equal_events() -> None:
    net = network(RESIDUAL)
    with torch.no_grad():
        for module in weighted(net).values():
            module.weight.abs_().mul_(0.5)  # type: ignore[operator]
    chip, _ = quantize(net)
    speck = Speck(backend="simulator")
    batch = next(Batches(recordings(6, (8, 8, 2)), 6, Frames(4)).epoch(0))
    on_chip = speck.answer(TargetNetwork(net, chip))(batch)
    in_steps = answers.stepped_answer(integer_twin(chip, net))(batch)
    assert on_chip.events["after"].sum() > 0
    for name in ("stem", "branch", "after", "linear4"):
        assert np.array_equal(on_chip.synops[name], in_steps.synops[name])
        assert np.array_equal(on_chip.events[name], in_steps.events[name])


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (FEEDBACK, r"layer before \(delay\): a chip has no delays, so no feedback; use target=software"),
        ([{"conv": 4, "norm": "batch"}, {"linear": "classes"}], r"layer norm1 \(norm\) adds a current.*norm: scale"),
        ([{"conv": 4, "bias": True}, {"linear": "classes"}], r"layer conv1 \(conv\) has biases.*bias: false"),
        ([{"conv": 4}, {"linear": "classes", "neuron": False}], "layer linear2 has no neurons after it"),
        ([{"conv": 4}, {"linear": "classes"}, {"weigh_time": 0.5}], r"weigh_time.*times alike; use target=software"),
        (
            [{"conv": 4, "padding": 1, "name": "a"}, {"conv": 2, "padding": 1, "inputs": ["input"]},
             {"linear": "classes"}],
            "layer conv2 reads the input; on a chip the first layer",
        ),
        (
            [{"conv": 4, "padding": 1, "pool": 2, "name": "a"}, {"conv": 4, "stride": 2, "padding": 1,
             "inputs": ["input"], "name": "b"}, {"linear": "classes", "inputs": ["a", "b"]}],
            "layer linear3 adds branches that were averaged over 1 and 4 pixels",
        ),
    ],
)  # fmt: skip
def test_what_no_chip_holds_is_refused_with_what_to_do(blocks: list[dict[str, object]], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        stages(plan(blocks))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (
            [{"conv": 4, "name": "a"}, {"linear": "classes", "inputs": ["b"]}],
            r"layers\[1\]: it reads b, no block above",
        ),
        ([{"conv": 4, "inputs": ["b"]}, {"linear": "classes", "name": "b"}], "read it through {delay: …}"),
        ([{"conv": 4, "name": "a"}, {"linear": "classes", "name": "a"}], r"layers\[1\].name=a: this name is taken"),
        ([{"conv": 4, "name": "input"}, {"linear": "classes"}], r"layers\[0\].name=input"),
        (
            [{"conv": 4, "name": "a"}, {"conv": 4, "name": "b"}, {"add": ["a", "b"]}, {"linear": "classes"}],
            r"layer add3: what it adds has the shapes \(4, 6, 6\) and \(4, 4, 4\); they must be equal",
        ),
        (
            [{"conv": 4}, {"add": ["conv1"]}, {"linear": "classes"}],
            r"layers\[1\].add=.*conv1.*: needs a list of the names of two or more",
        ),
        ([{"delay": "b"}, {"conv": 4}, {"linear": "classes"}], r"layers\[0\]: it reads b"),
    ],
)
def test_wiring_that_cannot_be_is_refused(blocks: list[dict[str, object]], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan(blocks)


def test_a_loop_that_nothing_enters_has_no_shape() -> None:
    loop = Plan("p", (1, 4, 4), (Layer("d", "delay", {}, ("n",)), Layer("n", "neuron")))
    with pytest.raises(RequestError, match="its shape follows from itself alone"):
        loop.shapes()


def test_a_plan_survives_a_file() -> None:
    for blocks in (RESIDUAL, FEEDBACK):
        one = plan(blocks)
        again = Plan.from_dict(one.as_dict())
        assert again.shapes() == one.shapes()
        assert [again.inputs(i) for i in range(len(again.layers))] == [one.inputs(i) for i in range(len(one.layers))]


def test_a_copy_starts_and_learns_as_its_original() -> None:
    net = network(RESIDUAL, kind="lif", tau_mem=3.0, v_init=0.25, trained_threshold=True, threshold_per="channel")
    twin = copy.deepcopy(net)
    assert torch.equal(forward(twin, FRAMES)[0], forward(net, FRAMES)[0])
    for name, parameter in net.named_parameters():
        assert twin.get_parameter(name).requires_grad == parameter.requires_grad
        assert twin.get_parameter(name) is not parameter
    spike = twin.get_submodule("spike1")
    assert (spike.v_init, spike.bound_ratio) == (0.25, -1.0)


def test_a_network_of_other_modules_than_its_plan_is_refused() -> None:
    one = plan([{"conv": 4, "padding": 1}, {"linear": "classes"}])
    modules = dict(build(one, family="snn", neuron={}).named_children())
    with pytest.raises(RequestError, match="needs, in this order, conv1, spike1, flatten"):
        Net(one, dict(reversed(modules.items())))


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.b", "needs letters, digits and _"), ("forward", "torch modules have an attribute"), ("plan", "of this name")],
)
def test_names_that_no_module_can_have_are_refused(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=rf"model.layers\[0\].name={name}: .*{message}"):
        plan([{"conv": 4, "name": name}, {"linear": "classes"}])


def test_states_of_channels_start_and_end_in_their_proportion_to_the_threshold() -> None:
    """The chip's one threshold stands for each of them: factors on the weights, and on the states."""
    net = network([*RESIDUAL[:1], {"linear": "classes"}], threshold_per="channel", v_init=0.5)
    with torch.no_grad():
        net.get_submodule("spike1").spike_threshold.copy_(torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None])  # type: ignore[operator]
    folded = fold(net)
    assert folded.get_submodule("spike1").v_init == 2.0
    _, state, _ = forward(net, FRAMES)
    _, after, _ = forward(folded, FRAMES)
    theta = torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None]
    assert torch.equal(after["spike1"], state["spike1"] / theta * 4.0)
    chip, _ = quantize(net)
    assert chip.layers[0].v_init == round(chip.layers[0].scale * 2.0)
    assert integer_twin(chip, net).get_submodule("spike1").v_init == chip.layers[0].v_init
    plain = network([*RESIDUAL[:1], {"linear": "classes"}], v_init=0.999999)
    chip, _ = quantize(plain)
    assert chip.layers[0].v_init == chip.layers[0].threshold - 1


def test_an_observers_states_are_in_the_units_of_each_channel() -> None:
    net = network(RESIDUAL, factor=1.0, threshold_per="channel")
    theta = torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None]
    with torch.no_grad():
        net.get_submodule("spike1").spike_threshold.copy_(theta)  # type: ignore[operator]
    target = Speck(backend="simulator")
    target.place(net.plan)
    observer = ChipObserver(target, net.plan, layers="all", v_mem=True)
    with torch.no_grad():
        net.get_submodule("stem").weight[3].mul_(8)  # type: ignore[index,operator]
    observer.load(net)
    observer.open(next(Batches(recordings(3, (8, 8, 2)), 3, Frames(2)).epoch(0)))
    seen = observer.windows()["spike1"]
    assert seen.v_mem is not None
    assert bool((seen.v_mem < theta).all())  # the chip leaves no state at threshold
    assert bool((seen.v_mem < -1.0).any())  # nor below the bound, which is four times as low for some
    assert bool((seen.v_mem >= -theta - 1e-6).all())
    assert observer.chip is not None
    assert torch.equal(torch.as_tensor(observer.unit["spike1"]), theta / observer.chip.layers[0].threshold)


def test_a_copy_with_rounded_weights_can_be_made_ordinary_without_the_original() -> None:
    """torch keeps the attribute ``weight`` of such a layer on its class, which a copy would share."""
    neuron = {"spike_threshold": 1.0, "min_v_mem": -8.0}
    plan = plan_from("p", [{"conv": 4, "norm": "scale"}, {"linear": "classes"}], (1, 6, 6), 3)
    net = build(plan, family="cnn", neuron=neuron)
    make_aware(net, neurons.make(**neuron), Precision(bits=4, aware=True))
    x = torch.rand(2, 1, 6, 6)
    before = net.eval()(x)
    baked = copy.deepcopy(net)
    bake(baked)
    folded = fold(net)
    assert torch.equal(net(x), before)
    torch.testing.assert_close(baked(x), before)
    torch.testing.assert_close(folded(x), before)
