"""Placement: found whenever there is one, and every limit named."""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.chip.placement import CORES, Need, Placement, assign, need_of, place, place_network, placed, spread_readout
from cil_spl.chip.simulator import simulate
from cil_spl.data.events import EVENT
from cil_spl.models.plan import Layer, Plan


def need(name: str = "conv", **changes: object) -> Need:
    default: dict[str, object] = {
        "features_in": 2, "features": 8, "kernel": (3, 3), "stride": (1, 1), "padding": (1, 1),
        "input_map": (34, 34), "output_map": (34, 34), "pools": ((2, 2),),
    }  # fmt: skip
    return Need(name=name, **{**default, **changes})  # type: ignore[arg-type]


def quickstart() -> Plan:
    def conv(name: str, channels: int, stride: int = 1) -> Layer:
        params = {"out_channels": channels, "kernel_size": (3, 3), "stride": (stride, stride), "padding": (1, 1)}
        return Layer(name, "conv", params)

    layers = (
        conv("conv1", 8), Layer("n1", "neuron"), Layer("p1", "avgpool", {"kernel_size": (2, 2)}),
        conv("conv2", 16), Layer("n2", "neuron"), Layer("p2", "avgpool", {"kernel_size": (2, 2)}),
        conv("conv3", 16, 2), Layer("n3", "neuron"), Layer("flat", "flatten"),
        Layer("out", "linear", {"out_features": 10}), Layer("n4", "neuron"),
    )  # fmt: skip
    return Plan("quickstart", (2, 34, 34), layers)


def test_memory_of_the_quickstart_network_by_hand() -> None:
    """conv1: 2 * 2^(4 + 3) kernel, 8 * 2^(6 + 6) neurons; linear: 16 * 2^(4 + 4) kernel, 10 neurons."""
    placement = place(quickstart())
    rows = placement.table()
    assert [row["kernel entries"] for row in rows] == [256, 8 * 256, 16 * 256, 16 * 256]
    assert [row["neuron entries"] for row in rows] == [8 * 4096, 16 * 1024, 16 * 16, 10]
    assert len(set(placement.cores)) == 4
    assert placement.cores[0] in (0, 1, 2, 3, 4)
    assert "conv1" in str(placement)
    assert len(str(placement).splitlines()) == 5
    assert placement.warnings == (
        "layer conv2: its map of 17 x 17 does not divide by the pooling 2 x 2 after it; events of the last row or "
        "column are dropped (an assumption: the chip's behaviour there is not documented)",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": (3, 5)}, "layer conv: kernel is 3 x 5; the chip allows square ones only"),
        ({"kernel": (17, 17)}, "layer conv: kernel is 17 x 17; the chip allows at most 16 x 16"),
        ({"input_map": (34, 129)}, "layer conv: input map is 34 x 129; the chip allows at most 128 x 128"),
        ({"output_map": (65, 34)}, "layer conv: output map is 65 x 34; the chip allows at most 64 x 64"),
        ({"features_in": 1025}, "layer conv: input features is 1025; the chip allows at most 1024"),
        ({"features": 1025}, "layer conv: output features is 1025; the chip allows at most 1024"),
        ({"stride": (3, 1)}, "layer conv: stride is 3 x 1; the chip allows 1, 2, 4 and 8"),
        ({"padding": (8, 0)}, "layer conv: padding is 8 x 0; the chip allows 0 to 7"),
        ({"pools": ((3, 3),)}, "layer conv: pooling is 3 x 3; the chip allows 1, 2 and 4"),
        ({"pools": ((2, 1),)}, "layer conv: pooling is 2 x 1; the chip allows 1, 2 and 4"),
        ({"pools": ((1, 1),) * 3}, "layer conv: number of destinations is 3; the chip allows at most 2"),
        ({"features_in": 256, "features": 32}, "layer conv fits no core: it needs 128 Ki kernel and 128 Ki neuron"),
    ],
)
def test_each_limit_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        assign([need(**changes)], "model m")


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": (16, 16), "features": 4},
        {"input_map": (128, 128), "output_map": (64, 64)},
        {"features_in": 1024, "features": 1, "kernel": (1, 1)},
        {"features": 1024, "output_map": (1, 1), "kernel": (1, 1)},
        {"stride": (8, 4)},
        {"padding": (7, 0)},
        {"pools": ((4, 4), (1, 1))},
    ],
)
def test_what_lies_just_within_a_limit_is_placed(changes: dict[str, object]) -> None:
    assert len(assign([need(**changes)], "model m").cores) == 1


def test_ten_layers_are_one_too_many() -> None:
    with pytest.raises(RequestError, match=r"10 layers with weights .* has 9 cores .* leave out 1"):
        assign([need(f"l{i}", output_map=(4, 4)) for i in range(10)], "model m")


def test_a_crowd_is_named_with_the_nearest_way_out() -> None:
    """Only cores 5 and 6 hold more than 32 Ki kernel entries; three layers want them."""
    big = {"features_in": 64, "features": 64, "output_map": (8, 8)}
    with pytest.raises(
        RequestError, match=r"3 layers compete for 2 cores \(5, 6\).*a .*b .*c .*core 3 with at most 32 Ki"
    ):
        assign([need(name, **big) for name in "abc"], "model m")


def brute_force(needs: list[Need]) -> bool:
    return any(
        all(n.fits(core) for n, core in zip(needs, cores, strict=True))
        for cores in itertools.permutations(range(len(CORES)), len(needs))
    )


sizes = st.sampled_from([(2, 8, 64), (16, 64, 16), (32, 64, 16), (64, 64, 8), (8, 32, 32), (16, 16, 64), (4, 8, 8)])


@settings(max_examples=60, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=6))
def test_a_placement_is_found_whenever_there_is_one(chosen: list[tuple[int, int, int]]) -> None:
    needs = [need(f"l{i}", features_in=c, features=f, output_map=(size, size)) for i, (c, f, size) in enumerate(chosen)]
    if not brute_force(needs):
        with pytest.raises(RequestError):
            assign(needs, "model m")
        return
    cores = assign(needs, "model m").cores
    assert len(set(cores)) == len(needs)
    assert all(n.fits(core) for n, core in zip(needs, cores, strict=True))


def test_a_network_gets_its_cores() -> None:
    a = networks.layer(np.ones((8, 2, 3, 3)), (2, 34, 34), padding=(1, 1), destinations=(Destination(1, (2, 2)),))
    b = networks.layer(np.ones((4, 8, 3, 3)), (8, 17, 17))
    placed = place_network(ChipNetwork((a, b), (2, 34, 34)))
    assert None not in [layer.core for layer in placed.layers]
    assert placed.layers[0].core != placed.layers[1].core


def wide_graph(chosen: list[tuple[int, int, int]], residual: bool) -> ChipNetwork:
    """Branches with one kernel of each size: the stem feeds layers 1 and last (or 2), all others the last."""
    layers: list[ChipLayer] = []
    for k, (c, f, size) in enumerate(chosen):
        weight = np.zeros((f, c, 3, 3), np.int8)
        layers.append(networks.layer(weight, (c, size, size), padding=(1, 1), name=f"l{k}"))
    last = len(layers) - 1
    for k in range(last):
        second = last if residual else min(2, last)
        ends = {k + 1, second} if k == 0 else {last}
        layers[k] = replace(layers[k], destinations=tuple(Destination(d) for d in sorted(ends)))
    return ChipNetwork(tuple(layers), layers[0].input_shape)


@settings(max_examples=60, deadline=None)
@given(st.lists(sizes, min_size=3, max_size=6), st.booleans())
def test_branches_are_placed_whenever_they_can_be(chosen: list[tuple[int, int, int]], residual: bool) -> None:
    """What feeds what is no matter of memory: a graph fits exactly where its layers do, each on a core of its own."""
    network = wide_graph(chosen, residual)
    needs = [need_of(network, k) for k in range(len(chosen))]
    if not brute_force(needs):
        with pytest.raises(RequestError):
            place_network(network)
        return
    cores = [layer.core for layer in place_network(network).layers]
    assert len(set(cores)) == len(needs)
    assert all(n.fits(core) for n, core in zip(needs, cores, strict=True) if core is not None)
    assert None not in cores


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_placed_graph_runs_as_before_where_order_is_open_to_none(seed: int) -> None:
    """With no inhibition and no heavy weight, the cores and so the order of branches change nothing."""
    rng = np.random.default_rng(seed)
    graph = networks.random_graph(rng)
    layers = [replace(x, weight=np.abs(x.weight) // 2, threshold=130, reset="subtract") for x in graph.layers]
    graph = replace(graph, layers=tuple(layers))
    there = place_network(graph)
    events = networks.recording(rng, graph, 120)
    before, after = (simulate(n, events, np.array([0, 120]), threads=1) for n in (graph, there))
    np.testing.assert_array_equal(before.events_per_layer, after.events_per_layer)
    assert [x.destinations for x in there.layers] == [x.destinations for x in graph.layers]


def test_a_core_feeds_two_others_at_most() -> None:
    network = wide_graph([(2, 8, 8), (8, 8, 8), (8, 8, 8), (8, 8, 8)], residual=False)
    three = replace(network.layers[0], destinations=(Destination(1), Destination(2), Destination(3)))
    with pytest.raises(RequestError, match="layer l0: number of destinations is 3; the chip allows at most 2"):
        place_network(replace(network, layers=(three, *network.layers[1:])))


def test_the_table_says_where_events_go_in_80_columns() -> None:
    network = networks.random_graph(np.random.default_rng(1))
    lines = str(placed(network)).splitlines()
    stem = network.layers[0]
    assert len(lines) == 1 + sum(max(1, len(layer.destinations)) for layer in network.layers)
    for line, destination in zip(lines[1:3], stem.destinations, strict=True):
        pool = f" /{destination.pool[0]}" if destination.pool != (1, 1) else ""
        assert line.endswith(f"{network.layers[destination.layer].name}{pool}")
    assert lines[-1].endswith("(read out)")
    assert [int(line.split()[1]) for line in lines[1:] if line[0] != " "] == [layer.core for layer in network.layers]
    widest = [need(f"conv{i}", features_in=128, features=128, output_map=(34, 34), feeds=("conv2 /2",)) for i in "1"]
    rows = Placement(tuple(widest), (0,), ())
    assert max(map(len, str(rows).splitlines())) <= 80


def test_long_names_leave_the_ways_of_events_to_lines_below_the_table() -> None:
    wide = [need("the_first_block", features_in=128, features=128, output_map=(34, 34),
                 feeds=("the_second_block", "the_sum_of_both /2")),
            need("the_second_block", feeds=("(read out)",))]  # fmt: skip
    lines = str(Placement(tuple(wide), (0, 1), ())).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[4:] == [
        "Where events go (/pool):",
        "the_first_block   -> the_second_block",
        "                  -> the_sum_of_both /2",
        "the_second_block  -> (read out)",
    ]


def test_cores_that_cannot_be_are_named() -> None:
    network = place_network(networks.random_graph(np.random.default_rng(2)))
    twice = replace(network.layers[1], core=network.layers[0].core)
    with pytest.raises(RequestError, match="layer stem cannot be on core"):
        placed(replace(network, layers=(network.layers[0], twice, *network.layers[2:])))


def test_readout_takes_every_fourth_feature() -> None:
    rng = np.random.default_rng(0)
    network = networks.single(rng.integers(-50, 100, (10, 3, 2, 2)), (3, 2, 2), threshold=90)
    spread = spread_readout(network)
    assert spread.readout == tuple(range(0, 40, 4))
    assert spread.layers[0].weight.shape == (37, 3, 2, 2)
    np.testing.assert_array_equal(spread.layers[0].weight[list(spread.readout)], network.layers[0].weight)
    events = networks.recording(rng, network, 200)
    plain, wired = (simulate(n, events, np.array([0, 200]), record=("output",)) for n in (network, spread))
    np.testing.assert_array_equal(plain.counts, wired.counts)
    assert plain.counts.sum() > 0
    assert plain.output is not None
    assert wired.output is not None
    np.testing.assert_array_equal(plain.output.k, wired.output.k)
    assert spread_readout(spread) is spread


def test_the_readout_has_fifteen_classes() -> None:
    spread_readout(networks.single(np.ones((15, 1, 1, 1)), (1, 1, 1)))
    with pytest.raises(RequestError, match="15 classes, the network 16"):
        spread_readout(networks.single(np.ones((16, 1, 1, 1)), (1, 1, 1)))
    assert EVENT.names == ("x", "y", "t", "p")


def test_placing_for_the_readout_counts_the_spread_features() -> None:
    assert place(quickstart(), readout=True).needs[-1].features == 37


def test_small_layers_make_room_for_large_ones() -> None:
    """Three layers that fit anywhere come first; the fourth needs 64 Ki neurons, which only cores 0, 1 and 2 have."""
    small = [need(f"small{i}", output_map=(4, 4)) for i in range(3)]
    cores = assign([*small, need("large", features=16, output_map=(64, 64))], "model m").cores
    assert cores[3] in (0, 1, 2)
    assert len(set(cores)) == 4
