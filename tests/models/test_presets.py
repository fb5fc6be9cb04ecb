"""Presets: their sizes against the papers and against parameters that were counted by hand; their width."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.models.build import build, plan_from
from cil_spl.models.forward import forward
from cil_spl.models.presets import ABOUT, PRESETS

MNIST, CIFAR, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 224, 224)
# A convolution has in * out * kernel area weights, a norm two numbers for each feature, the outputs a bias:
# 144 + 4,608 + 9,216 + 18,432, norms 288; 3,136 * 800, norm 1,600; 8,010.
COUNTED = {
    "ptl_mnist": (MNIST, 10, 2_551_098),
    # 2,592 + 221,184 + 884,736 + 1,327,104 + 884,736, norms 2,752; 4,096 * 2,048, norm 4,096; 20,490.
    "alexnet_cifar": (CIFAR, 10, 11_736_298),
    # 9,217,728, norms 5,504; 2,048 * 4,096 + 4,096 * 4,096, norms 16,384; 40,970.
    "vgg11_cifar": (CIFAR, 10, 34_446_410),
    # 9,402,048, norms 5,888; the same.
    "vgg13_cifar": (CIFAR, 10, 34_631_114),
    # 14,710,464, norms 8,448; the same.
    "vgg16_cifar": (CIFAR, 10, 39_942_090),
    # 10,915,200, norms 4,864; 32,768 * 1,024, norm 2,048; 10,250.
    "tandem_cifar": (CIFAR, 10, 44_486_794),
    # 100,352 + 8,192 + 2,048 + 2,048 + 8,192, norms 832; 101,136.
    "autoencoder": (MNIST, 784, 222_800),
    # 34,848 + 614,400 + 884,736 + 1,327,104 + 884,736, norms 2,752; 12,544 * 4,096 + 4,096 * 4,096, norms 16,384;
    # 4,097,000.
    "alexnet_imagenet": (IMAGENET, 1000, 76_019_400),
    # 14,710,464, norms 8,448; 25,088 * 4,096 + 4,096 * 4,096, norms 16,384; 4,097,000.
    "vgg16_imagenet": (IMAGENET, 1000, 138_369_960),
}
PUBLISHED = sorted(COUNTED)


def parameters(name: str, width: float = 1.0, family: str = "cnn") -> int:
    """How many the network has beside those of its neurons (thresholds); no memory is taken for them."""
    shape, n_outputs, _ = COUNTED[name]
    with torch.device("meta"):
        net = build(plan_from(name, PRESETS[name], shape, n_outputs, width), family=family, neuron={})
    return sum(p.numel() for layer, p in net.named_parameters() if not layer.startswith("spike"))


def test_every_preset_but_those_for_the_chip_is_counted() -> None:
    assert set(COUNTED) == set(PRESETS) - {"quickstart", "scnn6"}
    assert set(ABOUT) == set(PRESETS)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("family", ["cnn", "snn"])
def test_parameters_are_those_counted_by_hand(name: str, family: str) -> None:
    assert parameters(name, family=family) == COUNTED[name][2]


def test_a_quarter_of_the_width_is_counted_by_hand() -> None:
    # 648 + 13,824 + 55,296 + 82,944 + 55,296, norms 688; 1,024 * 512, norm 1,024; 5,130
    assert parameters("alexnet_cifar", 0.25) == 739_138
    # 16, 32, 64, 64, 128 x 4: 432 + 4,608 + 18,432 + 36,864 + 73,728 + 3 * 147,456, norms 1,376;
    # 512 * 1,024 + 1,024 * 1,024, norms 4,096; 10,250
    assert parameters("vgg11_cifar", 0.25) == 2_165_018


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("ptl_mnist", [28, 14, 14, 7]),
        ("alexnet_cifar", [32, 16, 8, 8, 4]),
        ("vgg11_cifar", [32, 16, 16, 8, 8, 4, 4, 2]),
        ("vgg13_cifar", [32, 32, 32, 16, 16, 8, 8, 4, 4, 2]),
        ("vgg16_cifar", [32, 32, 32, 16, 16, 16, 8, 8, 8, 4, 4, 4, 2]),
        ("tandem_cifar", [32, 16, 8, 8, 8]),
        ("alexnet_imagenet", [55, 28, 14, 14, 7]),
        ("vgg16_imagenet", [224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14, 7]),
    ],
)
def test_maps_have_the_published_sizes(name: str, pixels: list[int]) -> None:
    shape, n_outputs, _ = COUNTED[name]
    plan = plan_from(name, PRESETS[name], shape, n_outputs)
    assert [plan.shapes()[one.name][1] for one in plan.layers if one.kind == "conv"] == pixels


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_layer_has_a_norm_and_the_outputs_no_neurons(name: str) -> None:
    shape, n_outputs, _ = COUNTED[name]
    plan = plan_from(name, PRESETS[name], shape, n_outputs)
    kinds = [layer.kind for layer in plan.layers if layer.kind != "flatten"]
    assert set(zip(kinds[:-1:3], kinds[1:-1:3], kinds[2:-1:3], strict=True)) <= {
        ("conv", "norm", "neuron"),
        ("linear", "norm", "neuron"),
    }
    assert {layer.params["norm"] for layer in plan.layers if layer.kind == "norm"} == {"batch"}
    assert plan.layers[-1].kind == "linear"
    assert plan.layers[-1].params["bias"]
    assert not any(layer.params.get("bias") for layer in plan.layers[:-1])


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.endswith("imagenet")])
@pytest.mark.parametrize("family", ["cnn", "snn"])
def test_a_narrow_one_answers(name: str, family: str) -> None:
    shape, n_outputs, _ = COUNTED[name]
    net = build(plan_from(name, PRESETS[name], shape, n_outputs, 1 / 16), family=family, neuron={})
    frames = torch.rand(1 if family == "cnn" else 2, 3, *shape)
    outputs, _, _ = forward(net, frames)
    assert outputs.shape == (len(frames), 3, n_outputs)
    assert outputs.isfinite().all()


# width


def features(
    blocks: list[dict], width: float, n_outputs: int = 3, shape: tuple[int, int, int] = (2, 8, 8)
) -> list[int]:
    """Features of every layer with weights."""
    plan = plan_from("p", blocks, shape, n_outputs, width)
    return [layer.params.get("out_channels", layer.params.get("out_features")) for layer in plan.layers if
            layer.kind in ("conv", "linear")]  # fmt: skip


CONV = {"kernel": 3, "padding": 1}


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (1, [6, 5, 1, 4, 3]),
        (0.5, [3, 3, 1, 2, 3]),  # 2.5 and 0.5 are rounded up
        (0.1, [1, 1, 1, 1, 3]),
        (1e-300, [1, 1, 1, 1, 3]),
        (2.5, [15, 13, 3, 10, 3]),
    ],
)
def test_hidden_features_are_multiplied_and_rounded(width: float, expected: list[int]) -> None:
    blocks = [{"conv": 6, **CONV}, {"conv": 5, **CONV}, {"conv": 1, **CONV}, {"linear": 4}, {"linear": "classes"}]
    assert features(blocks, width) == expected


@given(st.integers(1, 10_000), st.floats(1e-6, 100))
def test_the_nearest_number_of_features_is_taken(n: int, width: float) -> None:
    (found, _) = features([{"linear": n}, {"linear": "classes"}], width, shape=(1, 1, 1))
    assert found == max(1, math.floor(n * width + 0.5))
    assert found == 1 or abs(found - n * width) <= 0.5


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([{"linear": 8}, {"linear": 3}], [4, 3]),  # outputs in figures
        ([{"linear": 8}, {"linear": 3, "neuron": False}, {"weigh_time": 0.5}], [4, 3]),
        ([{"linear": "classes"}, {"linear": "classes"}], [3, 3]),
        (
            [{"linear": 8, "name": "stem"}, {"linear": 3, "name": "a"},
             {"linear": 3, "inputs": ["stem"], "name": "b"}, {"add": ["a", "b"]}],
            [4, 3, 3],
        ),
        ([{"linear": 8, "name": "a"}, {"linear": 8}, {"add": ["a", "linear2"], "name": "sum"},
          {"linear": "classes", "inputs": ["sum"]}], [4, 4, 3]),
        ([{"linear": 3, "name": "a"}, {"delay": "a", "name": "back"}, {"add": ["a", "back"]}], [3]),
        ([{"linear": 8, "name": "drive"}, {"delay": "a", "name": "back"}, {"linear": 8, "inputs": ["back"]},
          {"add": ["drive", "linear3"], "name": "a"}, {"linear": "classes"}], [4, 4, 3]),
    ],
)  # fmt: skip
def test_whatever_gives_the_outputs_keeps_its_features(blocks: list[dict], expected: list[int]) -> None:
    assert features(blocks, 0.5, shape=(3, 1, 1)) == expected


def test_names_and_everything_else_stay() -> None:
    blocks = [
        {"conv": 4, **CONV, "name": "stem", "norm": "scale", "pool": 2},
        {"conv": 4, **CONV, "neuron": False},
        {"add": ["conv2", "stem"], "neuron": True, "pool_kind": "sumpool", "pool": 2},
        {"linear": "classes"},
    ]
    one, half = (plan_from("p", blocks, (2, 8, 8), 3, width) for width in (1, 0.5))
    doubled = [{**block, **({"conv": 8} if "conv" in block else {})} for block in blocks]
    assert plan_from("p", doubled, (2, 8, 8), 3, 0.5) == one
    assert [layer.name for layer in half.layers] == [layer.name for layer in one.layers]
    assert one == plan_from("p", blocks, (2, 8, 8), 3)


def test_a_preset_is_not_changed_by_its_width() -> None:
    before = repr(PRESETS)
    features(PRESETS["quickstart"], 0.5, shape=(2, 34, 34))
    assert repr(PRESETS) == before


def test_a_wrong_block_is_named_at_any_width() -> None:
    with pytest.raises(RequestError, match=r"model\.layers\[1\]: it reads nobody, no block above it"):
        plan_from("p", [{"linear": 4}, {"linear": 3, "inputs": ["nobody"]}], (1, 1, 1), 3, 0.5)
