"""The fast chip against the plain one, and the identities that hold for any chip of its kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference

from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.chip.simulator import run
from cil_spl.data.events import EVENT
from cil_spl.errors import RequestError


def layer(weight: np.ndarray, input_shape: tuple[int, int, int], **options: object) -> ChipLayer:
    defaults: dict = {"stride": (1, 1), "padding": (0, 0), "threshold": 10, "min_v_mem": -10}
    return ChipLayer("l", np.asarray(weight, np.int8), input_shape=input_shape, **(defaults | options))


def random_network(rng: np.random.Generator) -> ChipNetwork:
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    first, layers = shape, []
    depth = int(rng.integers(1, 4))
    for i in range(depth):
        c, height, width = shape
        last = i == depth - 1
        if last:
            kernel, stride, padding = (height, width), (1, 1), (0, 0)
        else:
            padding = (int(rng.integers(0, 3)), int(rng.integers(0, 3)))
            kernel = tuple(int(rng.integers(1, min(5, n + 2 * p) + 1)) for n, p in zip(shape[1:], padding, strict=True))
            stride = tuple(int(s) for s in rng.choice([1, 2, 4], 2))
        f = int(rng.integers(1, 6))
        strength = int(rng.choice([3, 40, 127]))
        weight = rng.integers(-strength, strength + 1, (f, c, *kernel))
        threshold = int(rng.choice([1, 5, 30, 200]))
        low = -int(rng.choice([1, 10, 300]))
        reset = str(rng.choice(["subtract", "subtract", "zero"]))
        new = layer(weight, shape, stride=stride, padding=padding, threshold=threshold, min_v_mem=low, reset=reset)
        f, height, width = new.output_shape
        pool = (1, 1)
        if not last:
            pool = tuple(int(p) for p in rng.choice([q for q in (1, 2, 4) if q <= min(height, width)], 2))
            new = layer(
                weight, shape, stride=stride, padding=padding, threshold=threshold, min_v_mem=low, reset=reset,
                destinations=(Destination(i + 1, pool),),
            )  # fmt: skip
        layers.append(new)
        shape = (f, height // pool[0], width // pool[1])
    return ChipNetwork(tuple(layers), first)


def random_events(rng: np.random.Generator, shape: tuple[int, int, int], n: int, span: int) -> np.ndarray:
    events = np.zeros(n, EVENT)
    c, height, width = shape
    events["x"], events["y"] = rng.integers(0, width, n), rng.integers(0, height, n)
    events["p"], events["t"] = rng.integers(0, c, n), np.sort(rng.integers(0, span, n))
    return events


def replay(network: ChipNetwork, events: np.ndarray) -> Reference:
    reference = Reference(network)
    for e in events:
        reference.event(0, int(e["t"]), int(e["p"]), int(e["y"]), int(e["x"]))
    return reference


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_the_plain_chip_event_for_event(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng)
    recordings = [
        random_events(rng, network.input_shape, int(rng.choice([0, 1, 40])), int(rng.choice([1, 500])))
        for _ in range(3)
    ]
    offsets = np.cumsum([0, *map(len, recordings)])
    edges = np.sort(rng.integers(0, 500, (3, 4)), axis=1)
    answer = run(network, np.concatenate(recordings), offsets, edges, record=("counts", "v_mem", "output"), threads=2)
    assert answer.output is not None
    assert answer.layer_counts is not None
    assert answer.layer_v_mem is not None
    for b, events in enumerate(recordings):
        plain = replay(network, events)
        here = slice(answer.output.offsets[b], answer.output.offsets[b + 1])
        pairs = list(zip(answer.output.t[here].tolist(), answer.output.k[here].tolist(), strict=True))
        assert pairs == plain.output
        assert answer.synops[b].tolist() == plain.synops
        assert answer.saturations[b].tolist() == plain.saturations
        assert answer.events_per_layer[b].tolist() == [c.sum() for c in plain.counts]
        assert answer.counts[b].sum(0).tolist() == [
            sum(k == j for _, k in plain.output) for j in range(network.n_classes)
        ]
        for i in range(len(network.layers)):
            assert np.array_equal(answer.layer_counts[i][b].sum(0), plain.counts[i])
            assert np.array_equal(answer.layer_v_mem[i][b, -1], plain.v[i])
        # The bins: what had come out by each inner edge.
        for t in range(1, 3):
            done = sum(time < edges[b, t] for time, _ in plain.output)
            assert answer.counts[b, :t].sum() == done
            part = replay(network, events[events["t"] < edges[b, t]])
            assert np.array_equal(answer.layer_v_mem[-1][b, t - 1], part.v[-1])


def test_cutting_time_into_bins_does_not_change_the_chip() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        network = random_network(rng)
        events = random_events(rng, network.input_shape, 200, 1000)
        whole = run(network, events, np.array([0, 200]))
        for bins in (2, 7, 50):
            edges = np.linspace(0, 1000, bins + 1).astype(int)[None]
            cut = run(network, events, np.array([0, 200]), edges)
            assert np.array_equal(cut.counts.sum(1), whole.counts.sum(1))
            assert np.array_equal(cut.synops, whole.synops)
            assert np.array_equal(cut.decision_us, whole.decision_us)


def test_states_are_zero_before_each_recording() -> None:
    rng = np.random.default_rng(5)
    network = random_network(rng)
    events = random_events(rng, network.input_shape, 60, 1000)
    alone = run(network, events, np.array([0, 60]))
    twice = run(network, np.concatenate([events, events]), np.array([0, 60, 120]), threads=1)
    assert np.array_equal(twice.counts[0], alone.counts[0])
    assert np.array_equal(twice.counts[1], alone.counts[0])


def single(weights: list[int], threshold: int, low: int) -> tuple[ChipNetwork, np.ndarray]:
    """One neuron, one input feature a weight, the events in the order given."""
    n = len(weights)
    network = ChipNetwork(
        (layer(np.array(weights).reshape(1, n, 1, 1), (n, 1, 1), threshold=threshold, min_v_mem=low),), (n, 1, 1)
    )
    events = np.zeros(n, EVENT)
    events["p"], events["t"] = np.arange(n), np.arange(n)
    return network, events


WEIGHTS = st.lists(st.integers(-20, 20), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(WEIGHTS, st.integers(20, 60))
def test_charge_is_conserved_and_counts_are_the_prefix_maximum(weights: list[int], threshold: int) -> None:
    """No clip, no weight above threshold: c = max(0, floor(max prefix sum / theta)) and v_end = sum - theta c."""
    network, events = single(weights, threshold, -32768)
    answer = run(network, events, np.array([0, len(events)]), record=("v_mem",))
    assert answer.layer_v_mem is not None
    count = int(answer.counts.sum())
    assert count == max(0, int(np.cumsum(weights).max()) // threshold)
    assert int(answer.layer_v_mem[0][0, 0, 0, 0, 0]) == sum(weights) - threshold * count
    assert count >= max(0, sum(weights) // threshold)  # never fewer than one bin of the synchronous network


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.randoms())
def test_order_does_not_matter_for_weights_from_zero_to_threshold(weights: list[int], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(weights)
    random.shuffle(shuffled)
    counts = [
        int(run(*(pair := single(w, 20, -5)), np.array([0, len(pair[1])])).counts.sum()) for w in (weights, shuffled)
    ]
    assert counts[0] == counts[1]


def test_order_matters_for_mixed_signs_and_for_weights_above_threshold() -> None:
    def count(weights: list[int], threshold: int) -> int:
        network, events = single(weights, threshold, -100)
        return int(run(network, events, np.array([0, len(events)])).counts.sum())

    assert count([1, -1] * 8, 1) == 1
    assert count([-1] * 8 + [1] * 8, 1) == 0
    assert count([5, 1, 1], 2) == 3  # 5 fires once, then twice more as events keep coming
    assert count([1, 1, 5], 2) == 2


def test_one_event_out_for_one_event_in() -> None:
    network, events = single([100], 10, -10)
    answer = run(network, events, np.array([0, 1]), record=("v_mem",))
    assert answer.counts.sum() == 1
    assert answer.layer_v_mem is not None
    assert int(answer.layer_v_mem[0].item()) == 90


def test_lower_clip_comes_before_the_spike_test() -> None:
    network, events = single([-100, 10], 10, -5)
    answer = run(network, events, np.array([0, 2]), record=("v_mem",))
    assert answer.layer_v_mem is not None
    assert int(answer.layer_v_mem[0].item()) == 5


def test_decision_is_when_the_winner_took_the_lead_for_good() -> None:
    eye = (np.eye(3) * 10).astype(np.int8).reshape(3, 3, 1, 1)
    network = ChipNetwork((layer(eye, (3, 1, 1)),), (3, 1, 1))
    events = np.zeros(6, EVENT)
    events["p"], events["t"] = [1, 0, 0, 1, 1, 1], [5, 10, 20, 30, 40, 50]
    assert run(network, events, np.array([0, 6])).decision_us.tolist() == [40]
    assert run(network, events, np.array([0, 4])).decision_us.tolist() == [-1]  # a tie
    assert run(network, events[:0], np.array([0, 0])).decision_us.tolist() == [-1]  # silence


def test_one_input_feature_takes_both_polarities() -> None:
    network = ChipNetwork((layer([[[[10]]]], (1, 1, 1)),), (1, 1, 1))
    events = np.zeros(2, EVENT)
    events["p"] = [0, 1]
    assert run(network, events, np.array([0, 2])).counts.sum() == 2


def test_an_event_outside_the_map_is_refused() -> None:
    network = ChipNetwork((layer([[[[10]]]], (1, 1, 1)),), (1, 1, 1))
    events = np.zeros(3, EVENT)
    events["x"][1] = 1
    with pytest.raises(RequestError, match=r"event 1 is .* outside the chip's input map"):
        run(network, events, np.array([0, 3]))
