"""NIR: what is written comes back as the same integers, and what it cannot say is said."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.base.errors import RequestError
from cil_spl.chip import nirfile, nirgraph
from cil_spl.chip.network import ChipNetwork, Destination
from cil_spl.chip.nirgraph import Node
from cil_spl.chip.simulator import simulate
from cil_spl.data.events import EVENT


def chain() -> ChipNetwork:
    """Two layers whose weights reach the end of 8 bits, so that the scale of the file is the one they came with."""
    rng = np.random.default_rng(0)
    weight = [rng.integers(-100, 128, (4, 2, 3, 3)), rng.integers(-100, 128, (3, 4, 4, 4))]
    for w in weight:
        w.flat[0] = 127
    a = networks.layer(weight[0], (2, 8, 8), padding=(1, 1), threshold=90, min_v_mem=-45, name="conv")
    b = networks.layer(weight[1], (4, 4, 4), threshold=60, min_v_mem=-60, name="out")
    a = replace(a, scale=45.0, destinations=(Destination(1, (2, 2)),))
    return ChipNetwork((a, replace(b, scale=30.0)), (2, 8, 8))


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    network = chain()
    warnings = nirfile.write(network, tmp_path / "a.nir")
    assert len(warnings) == 2
    again = nirfile.read(tmp_path / "a.nir")
    for mine, other in zip(network.layers, again.layers, strict=True):
        np.testing.assert_array_equal(mine.weight, other.weight)
        for name in ("name", "stride", "padding", "input_shape", "threshold", "min_v_mem", "destinations"):
            assert getattr(mine, name) == getattr(other, name), name
        assert abs(mine.scale - other.scale) < 1e-4


def test_the_published_network_is_read(shared: Path) -> None:
    network = nirfile.read(shared / "data" / "speck2f" / "cnn_sinabs.nir")
    assert [layer.output_shape for layer in network.layers] == [
        (16, 16, 16), (16, 16, 16), (8, 8, 8), (256, 1, 1), (10, 1, 1),
    ]  # fmt: skip
    assert [layer.destinations[0].pool for layer in network.layers[:-1]] == [(1, 1), (2, 2), (2, 2), (1, 1)]


def test_what_nir_or_the_chip_cannot_say_is_refused(tmp_path: Path) -> None:
    network = chain()
    zero = replace(network, layers=(replace(network.layers[0], reset="zero"), network.layers[1]))
    with pytest.raises(RequestError, match=r"layer conv: NIR's integrate-and-fire subtracts up to 1\.0\.4 and returns"):
        nirfile.write(zero, tmp_path / "a.nir")
    with pytest.raises(RequestError, match="only chains"):
        nirfile.write(networks.random_graph(np.random.default_rng(0)), tmp_path / "a.nir")
    shifted = replace(network.layers[0], destinations=(Destination(1, (2, 2), feature_shift=1),))
    wider = networks.layer(np.ones((3, 5, 4, 4)), (5, 4, 4), name="out")
    with pytest.raises(RequestError, match="layer conv: NIR has no feature shift"):
        nirfile.write(replace(network, layers=(shifted, wider)), tmp_path / "a.nir")
    (tmp_path / "b.nir").write_text("hello")
    with pytest.raises(RequestError, match=r"b\.nir: not a NIR file"):
        nirfile.read(tmp_path / "b.nir")


# Graphs as any tool may write them. Laid out by hand, as the version of nir that is installed writes its own alone.

Changes = Callable[[dict[str, Node]], Any]


def conv(f: int = 4, c: int = 2, side: int = 8, **values: Any) -> Node:
    weight = np.random.default_rng(0).normal(0, 1, (f, c, 3, 3)).astype(np.float32)
    sizes = {"stride": np.array([1, 1]), "padding": np.array([1, 1]), "dilation": np.array([1, 1])}
    rest = {"groups": np.array(1), "bias": np.zeros(f, np.float32), "input_shape": np.array([side, side])}
    return Node("Conv2d", {"weight": weight} | sizes | rest | values)


def neurons(*shape: int, threshold: float = 1.0, **values: Any) -> Node:
    return Node("IF", {"r": np.ones(shape), "v_threshold": np.full(shape, threshold)} | values)


def pool(kind: str = "SumPool2d", size: Any = 2, **values: Any) -> Node:
    return Node(kind, {"kernel_size": size, "stride": size, "padding": np.array([0, 0])} | values)


def nodes() -> dict[str, Node]:
    """Convolution, pooling and a linear layer."""
    return {
        "input": Node("Input", {"shape": np.array([2, 8, 8])}),
        "conv": conv(),
        "fire": neurons(4, 8, 8),
        "pool": pool(),
        "flatten": Node("Flatten", {"start_dim": 0, "end_dim": -1, "input_type": np.array([4, 4, 4])}),
        "linear": Node("Linear", {"weight": np.random.default_rng(1).normal(0, 1, (3, 64)).astype(np.float32)}),
        "out": neurons(3),
        "output": Node("Output", {"shape": np.array([3])}),
    }


def written(path: Path, change: Changes | None = None, version: str = "1.0.4", **others: Node) -> Path:
    found = nodes()
    if change is not None:
        change(found)
    found |= others
    names = list(found)
    nirgraph.write(path, version, found, list(pairwise(names)))
    return path


def values(node: Node) -> dict[str, Any]:
    return node.values  # type: ignore[return-value]


def test_a_graph_is_read(tmp_path: Path) -> None:
    network = nirfile.read(written(tmp_path / "a.nir"))
    assert [(layer.name, layer.output_shape) for layer in network.layers] == [
        ("conv", (4, 8, 8)),
        ("linear", (3, 1, 1)),
    ]
    assert network.layers[0].destinations == (Destination(1, (2, 2)),)
    assert {layer.reset for layer in network.layers} == {"subtract"}


def test_average_pooling_is_folded_into_the_weights_after_it(tmp_path: Path) -> None:
    summed, _ = nirfile.read_float(written(tmp_path / "a.nir"))
    averaged, _ = nirfile.read_float(written(tmp_path / "b.nir", pool=pool("AvgPool2d")))
    np.testing.assert_array_equal(averaged[1].weight, summed[1].weight / 4)
    np.testing.assert_array_equal(averaged[0].weight, summed[0].weight)
    assert averaged[0].pool == (2, 2)


def test_padding_in_words(tmp_path: Path) -> None:
    def valid(found: dict[str, Node]) -> None:
        values(found["conv"])["padding"] = "valid"
        found["fire"] = neurons(4, 6, 6)
        values(found["flatten"])["input_type"] = np.array([4, 3, 3])
        values(found["linear"])["weight"] = np.ones((3, 36))

    network = nirfile.read(written(tmp_path / "a.nir", valid))
    assert (network.layers[0].padding, network.layers[0].output_shape) == ((0, 0), (4, 6, 6))
    same = nirfile.read(written(tmp_path / "b.nir", conv=conv(padding="same")))
    assert (same.layers[0].padding, same.layers[0].output_shape) == ((1, 1), (4, 8, 8))
    even = conv(padding="same", weight=np.ones((4, 2, 2, 2)))
    with pytest.raises(
        RequestError, match=r"padding=same; allowed are valid, same \(odd kernels, stride 1\), or pixels"
    ):
        nirfile.read(written(tmp_path / "c.nir", conv=even))


def put(node: str, key: str, value: Any) -> Changes:
    return lambda found: values(found[node]).update({key: value})


def drop(node: str, key: str | None = None) -> Changes:
    return lambda found: found.pop(node) if key is None else values(found[node]).pop(key)


def low(value: Any, node: str = "fire") -> Changes:
    return lambda found: found.update({node: replace(found[node], metadata={"min_v_mem": value})})


NAN, INF = float("nan"), float("inf")
ODD: list[tuple[Changes, str]] = [
    (
        put("conv", "weight", np.full((4, 2, 3, 3), NAN)),
        r"node conv \(Conv2d\): a weight is not a finite number \(nan\)",
    ),
    (
        put("linear", "weight", np.full((3, 64), -INF)),
        r"node linear \(Linear\): a weight is not a finite number \(-inf\)",
    ),
    (put("conv", "weight", np.full((4, 2, 3, 3), 1e39)), r"node conv .*weight: 1e\+39 is too large for float32"),
    (put("conv", "weight", np.ones((4, 3, 3, 3))), "weight takes 3 features, the map before it has 2"),
    (put("conv", "weight", np.ones((4, 2, 3))), r"weight has the shape \(4, 2, 3\); needed are 4 axes"),
    (put("conv", "weight", np.ones((0, 2, 3, 3))), "needed are numbers"),
    (put("conv", "weight", "None"), "weight=None; needed are numbers"),
    (put("conv", "bias", np.ones(4)), "has a bias"),
    (put("conv", "bias", np.full(4, NAN)), "bias is not a finite number"),
    (put("conv", "bias", np.zeros(5)), r"bias has the shape \(5,\)"),
    (put("conv", "stride", np.array([0, 1])), r"stride=\[0. 1.\]; allowed is 1\.\."),
    (put("conv", "stride", np.array([1.5, 1])), r"stride=\[1.5 1. \]; needed are 2 whole numbers"),
    (put("conv", "stride", np.array([1, 1, 1])), "needed are 2 whole numbers"),
    (put("conv", "padding", np.array([-1, 0])), "padding="),
    (put("conv", "padding", "reflect"), "padding=reflect; allowed are valid, same"),
    (put("conv", "groups", np.array(2)), "groups and dilation are not on the chip"),
    (put("conv", "dilation", np.array([2, 2])), "groups and dilation are not on the chip"),
    (put("conv", "input_shape", np.array([9, 8])), r"input_shape=\(9, 8\); the map before it is \(8, 8\)"),
    (drop("conv", "stride"), r"node conv \(Conv2d\): stride is missing"),
    (put("conv", "transposed", np.array(1)), "transposed is not known of it"),
    (put("fire", "v_threshold", np.full((4, 7, 7), 1.0)), r"node fire \(IF\): v_threshold has the shape \(4, 7, 7\)"),
    (put("fire", "v_threshold", np.arange(256.0).reshape(4, 8, 8)), "v_threshold runs from 0 to 255"),
    (put("fire", "v_threshold", np.zeros((4, 8, 8))), "v_threshold=0; must be above 0"),
    (put("fire", "v_threshold", np.full((4, 8, 8), -1.0)), "v_threshold=-1; must be above 0"),
    (put("fire", "v_threshold", np.full((4, 8, 8), INF)), r"v_threshold is not a finite number \(inf\)"),
    (
        put("fire", "v_threshold", np.full((4, 8, 8), 1e9)),
        "node fire .*every weight of conv rounds to 0: the largest is",
    ),
    (
        put("fire", "v_threshold", np.full((4, 8, 8), 1e-3)),
        "node fire .*v_threshold=0.001 rounds to 0 beside weights up",
    ),
    (put("fire", "v_threshold", np.full((4, 8, 8), 1e300)), "v_threshold: 1e\\+300 is too large for float32"),
    (put("fire", "r", np.full((4, 8, 8), 2.0)), "r: the chip has no resistance"),
    (put("fire", "r", np.full((4, 8, 8), NAN)), "r is not a finite number"),
    (put("fire", "v_reset", np.full((4, 8, 8), 1.0)), "v_threshold=1; must be above 0 and above v_reset=1"),
    (put("fire", "v_reset", np.full((4, 8, 8), -2.0)), "v_reset=-2 lies below the lower bound -1; name a lower one"),
    (put("fire", "v_reset", np.full((4, 8, 8), NAN)), "v_reset is not a finite number"),
    (put("fire", "v_reset", np.zeros((4, 8, 7))), r"v_reset has the shape \(4, 8, 7\)"),
    (
        low("None"),
        r"node fire \(IF\): metadata min_v_mem=None; needed is a finite number of at most 0, or leave it out",
    ),
    (low(np.array(NAN)), "metadata min_v_mem=nan"),
    (low(np.array(-INF)), "metadata min_v_mem=-inf"),
    (low(np.array(0.5)), "metadata min_v_mem=0.5"),
    (low(np.array([-1.0, -2.0])), "metadata min_v_mem="),
    (
        low(np.array(-1e9)),
        "every weight of conv rounds to 0: .* Lower it|v_threshold=1 rounds to 0 beside .*min_v_mem=-1e",
    ),
    (low(np.array(-1.0), "conv"), r"node conv \(Conv2d\): metadata min_v_mem has no effect here"),
    (put("pool", "stride", np.array([1, 1])), "pooling windows must not overlap"),
    (put("pool", "padding", np.array([1, 1])), "pooling windows must not overlap or reach over the edge"),
    (put("pool", "kernel_size", np.array([0, 0])), "kernel_size="),
    (lambda found: found.update(pool=pool(size=16)), r"kernel_size=\(16, 16\); the map before it is only"),
    (put("flatten", "start_dim", 2), "a map is flattened whole"),
    (put("flatten", "input_type", np.array([4, 4, 5])), "input_type="),
    (put("linear", "weight", np.ones((3, 63))), "takes 63 inputs, the map before it has 64"),
    (put("input", "shape", np.array([2, 8])), r"the input is \(2, 8\); the chip takes"),
    (put("input", "shape", np.array([2.5, 8, 8])), "shape=.*whole numbers"),
    (put("input", "shape", np.array([2, 10**9, 8])), "shape=.*; allowed is 1.."),
    (put("output", "shape", np.array([4])), r"node output \(Output\): shape=\(4,\); the map before it is \(3, 1, 1\)"),
    (drop("fire"), "node pool .*pooling must stand after neurons"),
    (drop("out"), "the chain does not end in integrate-and-fire neurons"),
    (drop("output"), r"the chain ends in node out \(IF\); needed is an Output node"),
    (drop("input"), "only chains of layers with one input"),
    (drop("conv"), "node fire .*neurons without weights in front"),
    (lambda found: found.update(fire=Node("LIF", {})), r"node fire \(LIF\): not on the chip"),
    (lambda found: found.update(fire=Node("Nope", {})), r"node fire \(Nope\): not on the chip"),
    (lambda found: found.update(fire=Node("NIRGraph", {})), "node fire .*a graph within the graph"),
    (lambda found: [found.pop(name) for name in ("flatten", "linear", "out")], "pooling after the last neurons"),
]


@pytest.mark.parametrize(("change", "message"), ODD, ids=range(len(ODD)))
def test_what_cannot_be_read_is_named(change: Changes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"a\.nir: .*({message})") as caught:
        nirfile.read(written(tmp_path / "a.nir", change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("input", "conv"), ("conv", "nope")], "its edge conv -> nope names nope, but there is no such node"),
        ([("input", "conv"), ("conv", "fire"), ("fire", "conv")], "its connections run in a circle"),
        ([("input", "conv"), ("conv", "fire"), ("conv", "pool")], "only chains"),
        ([("input", "conv"), ("conv", "output")], "node fire is not on the way from its input to its output"),
        ([("input", "conv"), ("input", "conv")], "only chains"),
    ],
    ids=range(5),
)
def test_edges_that_make_no_chain_are_named(edges: list[tuple[str, str]], message: str, tmp_path: Path) -> None:
    nirgraph.write(tmp_path / "a.nir", "1.0.4", nodes(), edges)
    with pytest.raises(RequestError, match=rf"a\.nir: {message}"):
        nirfile.read(tmp_path / "a.nir")


def test_layers_of_hdf5_that_are_not_nir_are_named(tmp_path: Path) -> None:
    """Groups for values, links to elsewhere, sizes beyond memory; the file stays closed to what lies outside it."""

    def odd(change: Callable[[Any], Any]) -> Path:
        whole = written(tmp_path / "whole.nir").read_bytes()
        (tmp_path / "a.nir").write_bytes(whole)
        with h5py.File(tmp_path / "a.nir", "r+") as file:
            del file.attrs[nirgraph.WRITER]
            change(file)
        return tmp_path / "a.nir"

    def instead(file: Any, name: str, value: Any) -> None:
        del file[name]
        file[name] = value

    weight = "node/nodes/conv/weight"
    huge = {"shape": (10**6, 10**6), "dtype": "f4", "chunks": (1000, 1000)}
    cases: list[tuple[Callable[[Any], Any], str]] = [
        (lambda f: f.pop("version"), "the file: version is missing"),
        (lambda f: instead(f, "version", "new"), "version=new; needed is that of NIR"),
        (lambda f: instead(f, "version", 1.0), "version is no text"),
        (lambda f: f.pop("node"), "node is missing"),
        (lambda f: f.pop("node/edges"), "edges is missing"),
        (lambda f: instead(f, "node/edges", np.ones((3, 2))), "edges: needed are pairs"),
        (lambda f: f.pop("node/nodes"), "nodes is missing"),
        (lambda f: [f.pop("node/nodes"), f.create_group("node/nodes")], "0 nodes"),
        (lambda f: f.pop("node/nodes/conv/type"), "node conv: type is missing"),
        (lambda f: instead(f, "node/nodes/conv/type", b"\xff"), "no text"),
        (lambda f: instead(f, "node/nodes/conv", 3), "conv is a value; needed is a group"),
        (lambda f: [f.pop(weight), f.create_group(weight)], r"node conv \(Conv2d\): weight is a group"),
        (lambda f: instead(f, weight, h5py.Empty("f4")), "weight is float32; needed are numbers"),
        (lambda f: instead(f, weight, np.array([1j])), "weight is complex128; needed are numbers"),
        (lambda f: instead(f, weight, h5py.SoftLink("/version")), "weight is a link to elsewhere"),
        (lambda f: instead(f, weight, h5py.ExternalLink("/etc/passwd", "/x")), "weight is a link to elsewhere"),
        (
            lambda f: [f.pop(weight), f.create_dataset(weight, **huge)],
            r"weight has the shape \(1000000, 1000000\); the",
        ),
    ]
    nirfile.read(odd(lambda f: None))
    for change, message in cases:
        with pytest.raises(RequestError, match=rf"a\.nir: .*{message}"):
            nirfile.read(odd(change))
    for content in (b"", b"hello", (tmp_path / "whole.nir").read_bytes()[:3000]):
        (tmp_path / "a.nir").write_bytes(content)
        with pytest.raises(RequestError, match=r"a\.nir: not a NIR file, or damaged"):
            nirfile.read(tmp_path / "a.nir")
    for path, message in ((tmp_path, "no file, but a folder"), (tmp_path / "b.nir", "no such file")):
        with pytest.raises(RequestError, match=message):
            nirfile.read(path)


def test_no_damaged_file_of_ours_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.nir"
    nirfile.write(chain(), path)
    whole = path.read_bytes()
    drawn = np.random.default_rng(0).choice(len(whole), 300, replace=False).tolist()
    for place in (*drawn, *range(len(whole) - 90, len(whole))):  # the checksum, each byte
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(RequestError, match=r"a\.nir: .*damaged"):
            nirfile.read(path)
    for cut in (80, 60, 1):
        path.write_bytes(whole[:-cut])
        with pytest.raises(RequestError, match=r"a\.nir: .*damaged"):
            nirfile.read(path)


def test_the_quantisers_warnings_are_said_of_a_file_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        nirfile.read(written(tmp_path / "a.nir", put("fire", "v_threshold", np.full((4, 8, 8), 20_000.0))))
        nirfile.read(written(tmp_path / "b.nir", low(np.array(0.0))))
    said = [record.getMessage() for record in caplog.records]
    assert re.search(
        r"a\.nir: node fire \(IF\): weights conv: the thresholds, not the weights, .* only \d of 127", said[0]
    )
    assert "b.nir: node fire (IF): weights conv: the lower threshold is 0" in said[1]
    assert len(said) == 2


# What happens after a spike, by the version of NIR


def in_nir(weight: np.ndarray, events: np.ndarray, threshold: int, low: int, reset: int | None) -> list[int]:
    """Neurons of a 1 x 1 map as NIR has them, one event after another: spikes of each."""
    v, spikes = np.zeros(len(weight), int), np.zeros(len(weight), int)
    for p in events["p"]:
        v = np.maximum(v + weight[:, p, 0, 0], low)
        fires = v >= threshold
        spikes += fires
        v = np.where(fires, v - threshold if reset is None else reset, v)
    return spikes.tolist()


@pytest.mark.parametrize("version", ["1.0.4", "1.0.5", "1.0.8", "1.1", "2.0.0"])
@pytest.mark.parametrize("reset", [None, 0, -50, 30])
def test_neurons_do_after_a_spike_what_nir_says(reset: int | None, version: str, tmp_path: Path) -> None:
    """Weights of which one is 127: the scale is 1, so that chip and NIR count in the same numbers."""
    rng = np.random.default_rng(3)
    weight = rng.integers(-60, 100, (6, 2, 1, 1))
    weight[0, 0] = 127
    node = conv(6, 2, 1, weight=weight.astype(float), padding=np.array([0, 0]), input_shape=np.array([1, 1]))
    fire = neurons(6, 1, 1, threshold=150.0)
    if reset is not None:
        fire = neurons(6, 1, 1, threshold=150.0, v_reset=np.full((6, 1, 1), float(reset)))
    parts = {"input": Node("Input", {"shape": np.array([2, 1, 1])}), "a": node,
             "b": replace(fire, metadata={"min_v_mem": np.array(-60.0)}),
             "output": Node("Output", {"shape": np.array([6, 1, 1])})}  # fmt: skip
    nirgraph.write(tmp_path / "a.nir", version, parts, list(pairwise(parts)))
    network = nirfile.read(tmp_path / "a.nir")
    assert network.layers[0].scale == 1.0
    events = np.zeros(400, EVENT)
    events["t"], events["p"] = np.arange(400), rng.integers(0, 2, 400)
    answer = simulate(network, events, np.array([0, 400]), record=("counts",))
    assert answer.layer_counts is not None
    subtracts = reset is None and version == "1.0.4"
    expected = in_nir(weight, events, 150, -60, None if subtracts else reset or 0)
    assert answer.layer_counts[0].ravel().tolist() == expected
    assert sum(expected) > 100
    other = in_nir(weight, events, 150, -60, 0 if subtracts else None)
    assert expected != other


def test_resets_come_back(tmp_path: Path) -> None:
    network = chain()
    layers = [replace(layer, reset="zero", v_init=20 * k) for k, layer in enumerate(network.layers)]
    nirfile.write(replace(network, layers=tuple(layers)), tmp_path / "a.nir")
    again = nirfile.read(tmp_path / "a.nir").layers
    for mine, other in zip(layers, again, strict=True):
        for name in ("threshold", "min_v_mem", "reset", "v_init"):
            assert getattr(mine, name) == getattr(other, name), name
    start = replace(network.layers[0], v_init=3)
    with pytest.raises(RequestError, match="layer conv: v_init=3; NIR's neurons start at 0"):
        nirfile.write(replace(network, layers=(start, network.layers[1])), tmp_path / "a.nir")


RESETS = "v_reset" in nir.IF.__dataclass_fields__
with_reset = pytest.mark.skipif(
    not RESETS, reason=f"needs nir from 1.0.5 on, whose neurons have v_reset; here is {nir.version}"
)


def test_the_installed_nir_reads_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    network = chain()
    nirfile.write(network, tmp_path / "a.nir")
    graph = nir.read(tmp_path / "a.nir")
    ours = nirfile.read(tmp_path / "a.nir")
    nir.write(tmp_path / "b.nir", graph)
    again = nirfile.read(tmp_path / "b.nir")
    for mine, other in zip(ours.layers, again.layers, strict=True):
        np.testing.assert_array_equal(mine.weight, other.weight)
        assert (mine.threshold, mine.min_v_mem) == (other.threshold, other.min_v_mem)
    assert {layer.reset for layer in again.layers} == {"zero" if RESETS else "subtract"}


@with_reset
@pytest.mark.parametrize("reset", [None, 0.0, -0.5])
def test_files_of_a_nir_with_v_reset(reset: float | None, tmp_path: Path) -> None:
    shape = (4, 8, 8)
    options = {} if reset is None else {"v_reset": np.full(shape, reset)}
    weight = values(conv())["weight"]
    parts = {
        "input": nir.Input(np.array([2, 8, 8])),
        "c": nir.Conv2d((8, 8), weight, (1, 1), (1, 1), (1, 1), 1, np.zeros(4)),
        "n": nir.IF(np.ones(shape), np.ones(shape), **options),
        "output": nir.Output(np.array(shape)),
    }
    nir.write(tmp_path / "a.nir", nir.NIRGraph(parts, list(pairwise(parts))))
    (layer,) = nirfile.read(tmp_path / "a.nir").layers
    k = layer.scale
    shift = reset or 0.0
    assert (layer.reset, layer.threshold, layer.min_v_mem, layer.v_init) == (
        "zero", round(k * (1 - shift)), round(k * (-1 - shift)), round(k * -shift),
    )  # fmt: skip


@with_reset
def test_a_nir_with_v_reset_reads_ours(tmp_path: Path) -> None:
    network = chain()
    layers = tuple(replace(layer, reset="zero") for layer in network.layers)
    nirfile.write(replace(network, layers=layers), tmp_path / "a.nir")
    assert not nir.read(tmp_path / "a.nir").nodes["conv_neurons"].v_reset.any()


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("v108_half", (80, -27, 27, "zero")),
        ("avgpool2", (55, -55, 0, "zero")),
        ("pad_valid", (49, -49, 0, "zero")),
        ("nan_weight", r"node n0 \(Conv2d\): a weight is not a finite number"),
        ("thr_huge", "every weight of n0 rounds to 0"),
        ("meta_low_none", r"node n1 \(IF\): metadata min_v_mem=None"),
        ("map_wrong_if", r"node n1 \(IF\): v_threshold has the shape \(4, 7, 7\); the map before it is \(4, 8, 8\)"),
    ],
)
def test_small_inputs_that_failed(name: str, right: Any, shared: Path) -> None:
    path = shared / "cases" / "nir" / f"{name}.nir"
    if not path.exists():
        pytest.skip("needs the small inputs that failed, in cases/ of the reference data")
    if isinstance(right, str):
        with pytest.raises(RequestError, match=right):
            nirfile.read(path)
        return
    layer = nirfile.read(path).layers[0]
    assert (layer.threshold, layer.min_v_mem, layer.v_init, layer.reset) == right


def heap_object(number: int, size: int) -> bytes:
    """The head of an object in a heap of texts."""
    return number.to_bytes(2, "little") + bytes([1, 0, 0, 0, 0, 0]) + size.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("objects", "sound"),
    [
        (heap_object(1, 5) + b"texts" + bytes(3) + heap_object(0, 24) + bytes(8), True),
        (heap_object(1, 32) + bytes(32), True),
        (heap_object(0, 48) + bytes(32), True),
        (heap_object(0, 0) + bytes(32), False),  # leads to itself
        (heap_object(0, 8) + bytes(32), False),
        (heap_object(1, 8) + bytes(32), False),  # after it, room of no size
        (heap_object(1, 33) + bytes(32), False),
        (heap_object(1, 2**64 - 16) + bytes(32), False),  # back to itself in 64 bits
        (heap_object(0, 2**64 - 16) + bytes(32), False),
    ],
)
def test_a_heap_that_hdf5_would_read_without_end_is_named(objects, sound):
    """Alone: HDF5 itself does not come back from some of them, and no signal ends it."""
    content = b"12345" + b"GCOL" + bytes([1, 0, 0, 0]) + (16 + 48).to_bytes(8, "little") + objects
    if sound:
        nirgraph._check_heaps(content)
    else:
        with pytest.raises(nirgraph._Wrong, match=r"its heap at byte 5 ends in the middle of a text"):
            nirgraph._check_heaps(content)
