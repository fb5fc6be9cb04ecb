from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from cil_spl.base.errors import RequestError
from cil_spl.models.kinds import BUILT_IN, KINDS, Kind, register
from cil_spl.models.plan import Layer, Plan, pair
from cil_spl.models.stages import Source, Stage, stages

CHAIN = Plan(
    "chain",
    (2, 34, 30),  # C, H, W: not square
    (
        Layer("conv1", "conv", {"out_channels": 8, "kernel_size": 3, "padding": 1}),
        Layer("neuron1", "neuron"),
        Layer("pool1", "avgpool", {"kernel_size": 2}),
        Layer("conv2", "conv", {"out_channels": 4, "kernel_size": (5, 3), "stride": (2, 1), "padding": (0, 1)}),
        Layer("neuron2", "neuron"),
        Layer("pool2", "sumpool", {"kernel_size": (3, 1)}),
        Layer("flatten", "flatten"),
        Layer("linear3", "linear", {"out_features": 10}),
        Layer("neuron3", "neuron"),
    ),
)


def plan(*layers: Layer, shape: tuple[int, int, int] = (1, 4, 4)) -> Plan:
    return Plan("p", shape, layers)


def test_shapes_of_every_layer():
    assert CHAIN.shapes() == {
        "input": (2, 34, 30),
        "conv1": (8, 34, 30),
        "neuron1": (8, 34, 30),
        "pool1": (8, 17, 15),
        "conv2": (4, 7, 15),
        "neuron2": (4, 7, 15),
        "pool2": (4, 2, 15),
        "flatten": (120,),
        "linear3": (10,),
        "neuron3": (10,),
    }


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(st.integers(1, 3), st.tuples(st.integers(1, 12), st.integers(1, 12)), sizes, sizes, sizes)
def test_shapes_are_those_of_torch(channels, size, kernel, stride, padding):
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    conv = Layer("c", "conv", {"out_channels": 3, "kernel_size": kernel, "stride": stride, "padding": padding})
    answer = nn.Conv2d(channels, 3, kernel, stride, padding)(torch.zeros(1, channels, *size))
    assert plan(conv, shape=(channels, *size)).shapes()["c"] == tuple(answer.shape[1:])
    assume(all(n >= k for n, k in zip(size, kernel, strict=True)))
    pool = Layer("p", "avgpool", {"kernel_size": kernel})
    answer = nn.AvgPool2d(kernel)(torch.zeros(1, channels, *size))
    assert plan(pool, shape=(channels, *size)).shapes()["p"] == tuple(answer.shape[1:])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer("l", "linear", {"out_features": 3}), "layer l: a linear layer needs a flatten in front"),
        (Layer("c", "conv", {"out_channels": 1, "kernel_size": 5}), r"layer c: its output would be \(1, 0, 0\)"),
        (Layer("c", "conv", {"out_channels": 1, "kernel_size": (1, 6)}), r"layer c: its output would be \(1, 4, -1\)"),
        (Layer("q", "avgpool", {"kernel_size": 5}), r"layer q: its output would be \(1, 0, 0\)"),
        (Layer("m", "maxpool", {"kernel_size": 2}), "layer m: unknown kind 'maxpool'"),
    ],
)
def test_what_a_layer_cannot_take_is_refused(layer, message):
    with pytest.raises(RequestError, match=message):
        plan(layer).shapes()


def test_a_map_is_needed_for_a_convolution():
    after = plan(Layer("f", "flatten"), Layer("c", "conv", {"out_channels": 1, "kernel_size": 1}))
    with pytest.raises(RequestError, match=r"layer c: conv needs a map \(C, H, W\), got \(16,\)"):
        after.shapes()


def test_inputs_are_the_layer_before_unless_said():
    wired = plan(Layer("a", "neuron"), Layer("b", "neuron"), Layer("c", "neuron", inputs=("a",)), Layer("d", "neuron"))
    assert [wired.inputs(i) for i in range(4)] == [("input",), ("a",), ("a",), ("c",)]
    assert not wired.is_chain()
    assert CHAIN.is_chain()
    assert plan(Layer("a", "neuron"), Layer("b", "neuron", inputs=("a",))).is_chain()
    assert not plan(Layer("a", "neuron"), Layer("b", "add", inputs=("a", "input"))).is_chain()


def test_shapes_follow_the_wiring():
    wired = plan(
        Layer("pool", "avgpool", {"kernel_size": 2}), Layer("side", "neuron", inputs=("input",)), Layer("on", "neuron")
    )
    assert wired.shapes() == {"input": (1, 4, 4), "pool": (1, 2, 2), "side": (1, 4, 4), "on": (1, 4, 4)}


def test_stages_are_weights_neurons_pooling():
    conv1, conv2, linear3 = CHAIN.layers[0], CHAIN.layers[3], CHAIN.layers[7]
    assert stages(CHAIN) == (
        Stage(conv1, "neuron1", (Source("input"),), 1, (2, 34, 30), (8, 34, 30)),
        # The average over 2 x 2 in front is a sum on the chip, and a quarter in the weights.
        Stage(conv2, "neuron2", (Source("conv1", (2, 2)),), 4, (8, 17, 15), (4, 7, 15)),
        # Sum pooling in front leaves the weights alone; 10 features are a 10 x 1 x 1 map.
        Stage(linear3, "neuron3", (Source("conv2", (3, 1)),), 1, (4, 2, 15), (10, 1, 1)),
    )


def test_the_input_of_a_linear_stage_is_the_map_in_front_of_the_flatten():
    two = plan(
        Layer("f", "flatten"),
        Layer("l1", "linear", {"out_features": 5}),
        Layer("n1", "neuron"),
        Layer("l2", "linear", {"out_features": 2}),
        Layer("n2", "neuron"),
    )
    assert [stage.input_shape for stage in stages(two)] == [(1, 4, 4), (5, 1, 1)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Layer("c", "conv", {"out_channels": 1, "kernel_size": 1})], "layer c has no neurons after it"),
        (
            [Layer("c", "conv", {"out_channels": 1, "kernel_size": 1}), Layer("q", "avgpool", {"kernel_size": 2})],
            "layer c has no neurons after it",
        ),
        ([Layer("q", "avgpool", {"kernel_size": 2})], "no layer with weights"),
        (
            [
                Layer("q", "avgpool", {"kernel_size": 2}),
                Layer("c", "conv", {"out_channels": 1, "kernel_size": 1}),
                Layer("n", "neuron"),
            ],
            r"layer q \(avgpool\) stands where a chip needs conv or linear",
        ),
        ([Layer("n", "neuron")], r"layer n \(neuron\) stands where a chip needs conv or linear"),
    ],
)
def test_what_is_no_chain_of_stages_is_refused(layers, message):
    with pytest.raises(RequestError, match=rf"model p: .*{message}"):
        stages(plan(*layers))


def test_pair():
    assert pair(3) == (3, 3)
    assert pair([3, 1]) == (3, 1)
    with pytest.raises(ValueError, match="unpack"):
        pair([1, 2, 3])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [Layer("a", "neuron", inputs=("b",)), Layer("b", "neuron")],
            "layer a: it reads b, which is computed after it",
        ),
        ([Layer("a", "neuron", inputs=("a",))], "layer a: it reads a, which is computed after it"),
        ([Layer("a", "neuron"), Layer("a", "neuron")], "layer a: two layers have this name"),
        ([Layer("a", "neuron", inputs=("c",))], "layer a: it reads c, but there is no such layer"),
        (
            [Layer("a", "neuron"), Layer("b", "neuron", inputs=("a", "input"))],
            "layer b: neuron reads 2 .* allowed is 1",
        ),
        ([Layer("a", "add", inputs=("input",))], "layer a: add reads 1 layers; allowed is at least 2"),
    ],
)
def test_wiring_that_no_walk_can_follow_is_refused(layers, message):
    with pytest.raises(RequestError, match=message):
        plan(*layers).shapes()


@pytest.mark.parametrize(
    ("name", "over", "message"),
    [
        ("conv", "steps", "a built-in kind"),
        ("inputs", "steps", "another key of a block"),
        ("x", "delay", "over='delay'"),
    ],
)
def test_kinds_that_cannot_be_are_refused(name, over, message):
    with pytest.raises(RequestError, match=message):
        register(name, Kind(shape=lambda *_: (1,), module=lambda *_: nn.Identity(), over=over))
    assert name not in KINDS or name in BUILT_IN
