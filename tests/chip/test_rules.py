"""Layers under rules between time steps and the chip: both ends exact, and what each rule in between must do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.base.errors import RequestError
from cil_spl.chip import rules
from cil_spl.chip.network import Destination
from cil_spl.chip.rules import CHIP, STEPS, Rule
from cil_spl.chip.simulator import simulate
from cil_spl.data.events import EVENT
from cil_spl.data.frames import bin_edges, frames

INTO_THE_BIN = replace(STEPS, clip_each=True)
EVERY_EVENT = replace(INTO_THE_BIN, fire_each=True)
ONE_OUT = replace(EVERY_EVENT, most=1)


def one(*events: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(events), EVENT), np.array([0, len(events)])


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 9))
def test_the_chips_rule_is_the_simulator(seed: int, depth: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_chain(rng, depth, extreme=bool(rng.integers(2)))
    events, offsets = networks.joined([networks.recording(rng, network, int(n)) for n in rng.integers(0, 60, 3)])
    edges = bin_edges(events, offsets, bins)
    chip = simulate(network, events, offsets, edges, record=("counts",), threads=1)
    assert chip.layer_counts is not None
    ours = rules.counts(network, events, offsets, edges, CHIP)
    for seen, expected in zip(ours, chip.layer_counts, strict=True):
        np.testing.assert_array_equal(seen, expected.sum(axis=1))  # B T f y x -> B f y x
    np.testing.assert_array_equal(rules.output_counts(network, ours[-1]), chip.counts.sum(axis=1))


def plain_steps(network, events, offsets, edges_us):  # type: ignore[no-untyped-def]
    """Time steps in plain numpy, bin by bin, dense."""
    c, height, width = network.input_shape
    pictures = frames(events, offsets, edges_us, (width, height, c)).astype(np.int64)
    shapes = [(len(offsets) - 1, *layer.output_shape) for layer in network.layers]
    states = [np.full(s, layer.v_init, np.int64) for s, layer in zip(shapes, network.layers, strict=True)]
    found = [np.zeros_like(v) for v in states]
    for x in pictures:
        for k, layer in enumerate(network.layers):
            (sy, sx), (py, px) = layer.stride, layer.padding
            padded = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
            _, out_height, out_width = layer.output_shape
            _, _, ky, kx = layer.weight.shape
            for y in range(out_height):
                for z in range(out_width):
                    patch = padded[:, :, y * sy : y * sy + ky, z * sx : z * sx + kx]
                    states[k][:, :, y, z] += np.einsum("bcyx,fcyx->bf", patch, layer.weight.astype(np.int64))
            spikes = np.where(states[k] > 0, states[k] // layer.threshold, 0)
            states[k] = states[k] - spikes * layer.threshold if layer.reset == "subtract" else states[k] * (spikes == 0)
            states[k] = np.maximum(states[k], layer.min_v_mem)
            found[k] += spikes
            for d in layer.destinations:
                (p, q), (_, h, w) = d.pool, spikes.shape[1:]
                cut = spikes[:, :, : h // p * p, : w // q * q]
                x = cut.reshape(*cut.shape[:2], h // p, p, w // q, q).sum(axis=(3, 5))
    return found


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 9))
def test_time_steps_are_the_dense_ones(seed: int, depth: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_chain(rng, depth)
    recordings = [networks.recording(rng, network, int(n), outside=False) for n in rng.integers(0, 60, 3)]
    for part in recordings:
        part["p"] %= network.input_shape[0]
    events, offsets = networks.joined(recordings)
    edges = bin_edges(events, offsets, bins)
    expected = plain_steps(network, events, offsets, edges)
    for ours, theirs in zip(rules.counts(network, events, offsets, edges, STEPS), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(st.integers(0, 10**6))
def test_order_has_no_effect_without_inhibition_and_heavy_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.active_chain(rng)
    network = replace(network, layers=tuple(replace(x, weight=np.abs(x.weight)) for x in network.layers))
    events, offsets = networks.joined([networks.recording(rng, network, 300)])
    edges = bin_edges(events, offsets, 2)
    expected = rules.counts(network, events, offsets, edges, CHIP)
    assert all(layer.sum() > 0 for layer in expected)
    for rule in (STEPS, INTO_THE_BIN, EVERY_EVENT, ONE_OUT):
        for ours, theirs in zip(rules.counts(network, events, offsets, edges, rule, (seed,)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@given(st.integers(0, 10**6))
def test_one_event_a_bin_makes_the_first_layer_the_chips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.active_chain(rng)
    events, offsets = networks.joined([networks.recording(rng, network, 200)])
    events["t"] = np.arange(200)
    chip = rules.counts(network, events, offsets, np.array([[0, 200]]), CHIP)
    steps = rules.counts(network, events, offsets, np.arange(201)[None], STEPS)
    np.testing.assert_array_equal(steps[0], chip[0])
    assert chip[0].sum() > 0


def signed() -> networks.ChipNetwork:
    """Feature 0 takes away what feature 1 adds: threshold 1, lower bound -1."""
    return networks.single(np.array([-1, 1]).reshape(1, 2, 1, 1), (2, 1, 1), threshold=1, min_v_mem=-1)


DOWN, UP = (0, 0, 0, 0), (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("events", "rule", "spikes"),
    [
        # Three down, then three up: the bin adds up to nothing; a bound of -1 forgets two of the three.
        ([DOWN] * 3 + [UP] * 3, STEPS, 0),
        ([DOWN] * 3 + [UP] * 3, replace(INTO_THE_BIN, ordered=True), 2),
        ([DOWN] * 3 + [UP] * 3, CHIP, 2),
        # Three up, then three down: only a bin that waits for its end lets them cancel.
        ([UP] * 3 + [DOWN] * 3, replace(INTO_THE_BIN, ordered=True), 0),
        ([UP] * 3 + [DOWN] * 3, replace(EVERY_EVENT, ordered=True), 3),
        ([UP] * 3 + [DOWN] * 3, CHIP, 3),
    ],
)
def test_each_answer_by_hand(events: list[tuple[int, int, int, int]], rule: Rule, spikes: int) -> None:
    found = rules.counts(signed(), *one(*events), np.array([[0, 1]]), rule)
    assert found[0].sum() == spikes


@pytest.mark.parametrize(("rule", "spikes"), [(STEPS, 5), (EVERY_EVENT, 5), (ONE_OUT, 2), (CHIP, 2)])
def test_a_heavy_weight_fires_once_an_event_on_the_chip(rule: Rule, spikes: int) -> None:
    """Two events of weight 25 over a threshold of 10."""
    network = networks.single(np.full((1, 1, 1, 1), 25), (1, 1, 1), threshold=10, min_v_mem=-10)
    assert rules.counts(network, *one(UP, UP), np.array([[0, 1]]), rule)[0].sum() == spikes


def test_the_order_drawn_follows_its_seed() -> None:
    rng = np.random.default_rng(0)
    network = networks.active_chain(rng)
    events, offsets = networks.joined([networks.recording(rng, network, 400)])
    edges = bin_edges(events, offsets, 1)
    a, again, b = (rules.counts(network, events, offsets, edges, ONE_OUT, seed) for seed in ((1,), (1,), (2,)))
    np.testing.assert_array_equal(a[0], again[0])
    assert (a[0] != b[0]).any()
    assert a[0].sum() > 0


def test_the_edge_of_an_odd_map_can_be_kept() -> None:
    first = networks.layer(np.ones((1, 1, 1, 1)), (1, 3, 3), threshold=1, destinations=(Destination(1, (2, 2)),))
    second = networks.layer(np.ones((1, 1, 1, 1)), (1, 1, 1), threshold=1)
    network = networks.ChipNetwork((first, second), (1, 3, 3))
    events, offsets = one(*((x, y, 0, 0) for x in range(3) for y in range(3)))
    dropped, kept = (
        rules.counts(network, events, offsets, np.array([[0, 1]]), rule)[1].sum()
        for rule in (CHIP, replace(CHIP, keep_edges=True))
    )
    assert (dropped, kept) == (4, 9)


def test_branches_are_refused() -> None:
    network = networks.random_graph(np.random.default_rng(0))
    with pytest.raises(RequestError, match="layer stem: only a chain"):
        rules.counts(network, *one(UP), np.array([[0, 1]]), CHIP)
