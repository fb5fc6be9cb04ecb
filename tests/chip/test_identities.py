"""Identities that hold exactly for the chip's neuron (methods.md 1.6), and where they end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.chip.simulator import simulate
from cil_spl.data.events import EVENT

streams = st.lists(st.integers(-60, 60), min_size=1, max_size=60)


def neuron_with_inputs(weights: list[int], threshold: int, min_v_mem: int) -> tuple[int, int]:
    """Count and final state of one neuron that takes each weight once, in order."""
    network = networks.single(
        np.reshape(weights, (1, -1, 1, 1)), (len(weights), 1, 1), threshold=threshold, min_v_mem=min_v_mem
    )
    if len(weights) == 1:  # one input feature ignores p
        events = np.zeros(1, EVENT)
    else:
        events = np.zeros(len(weights), EVENT)
        events["p"] = events["t"] = np.arange(len(weights))
    answer = simulate(network, events, np.array([0, len(events)]), record=("v_mem",))
    assert answer.layer_v_mem is not None
    return int(answer.counts.sum()), int(answer.layer_v_mem[0].ravel()[0])


@settings(max_examples=200, deadline=None)
@given(streams, st.integers(1, 200))
def test_charge_is_conserved(weights: list[int], threshold: int) -> None:
    """Without clip and saturation: v_end = sum of weights - threshold * count."""
    count, v_end = neuron_with_inputs(weights, threshold, -32768)
    assert v_end == sum(weights) - threshold * count


@settings(max_examples=200, deadline=None)
@given(streams, st.integers(60, 200))
def test_count_is_the_largest_prefix(weights: list[int], threshold: int) -> None:
    """No weight above threshold, no clip: the count is floor(max prefix / threshold), never below the one-bin count."""
    count, _ = neuron_with_inputs(weights, threshold, -32768)
    assert count == max(0, int(np.cumsum(weights).max()) // threshold)
    one_bin = max(0, sum(weights) // threshold)
    assert count >= one_bin
    if min(weights) >= 0:
        assert count == one_bin


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_order_does_not_matter_without_inhibition_and_below_threshold(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.single(rng.integers(0, 61, (5, 2, 3, 3)), (2, 6, 6), threshold=60, padding=(1, 1))
    events = networks.recording(rng, network, n)
    shuffled = events[rng.permutation(n)]
    shuffled["t"] = events["t"]
    a, b = (simulate(network, e, np.array([0, n])) for e in (events, shuffled))
    np.testing.assert_array_equal(a.counts, b.counts)


def test_order_matters_with_inhibition() -> None:
    """Threshold 1, weights +1 and -1: + - + - gives spikes, - - + + with a clip at -2 gives none."""
    assert neuron_with_inputs([1, -1, 1, -1], 1, -2)[0] == 1
    assert neuron_with_inputs([-1, -1, 1, 1], 1, -2)[0] == 0


def test_order_matters_with_a_weight_above_threshold() -> None:
    """20 left over after the first event fires again at the second; the other way round there is no third event."""
    assert neuron_with_inputs([25, 1], 10, -10)[0] == 2
    assert neuron_with_inputs([1, 25], 10, -10)[0] == 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_one_event_a_bin_is_the_synchronous_layer(seed: int, reset: str) -> None:
    """Time steps that hold one event each: v += conv(frame); clip; fire once; subtract. Whole maps, no event loop."""
    rng = np.random.default_rng(seed)
    sy, sx, py, px = (int(n) for n in (*rng.integers(1, 3, 2), *rng.integers(0, 2, 2)))
    weight = rng.integers(-60, 90, (6, 2, 3, 3))
    network = networks.single(
        weight, (2, 7, 8), stride=(sy, sx), padding=(py, px), threshold=70, min_v_mem=-40, reset=reset
    )
    events = networks.recording(rng, network, 80, outside=False)
    events["t"] = np.arange(80)
    answer = simulate(network, events, np.array([0, 80]), np.arange(81)[None], record=("counts", "v_mem"))
    assert answer.layer_counts is not None
    assert answer.layer_v_mem is not None
    f, height, width = network.layers[0].output_shape
    v = np.zeros((f, height, width), np.int64)
    for t, event in enumerate(events):
        frame = np.zeros((2, 7 + 2 * py, 8 + 2 * px), np.int64)
        frame[event["p"], event["y"] + py, event["x"] + px] = 1
        windows = np.lib.stride_tricks.sliding_window_view(frame, (3, 3), axis=(1, 2))[:, ::sy, ::sx]
        v = np.maximum(v + np.einsum("cyxij,fcij->fyx", windows, weight), -40)
        touched = np.einsum("cyxij->yx", windows) > 0  # a state above threshold waits for an event of its own
        spikes = (v >= 70) & touched
        v = np.where(spikes, v - 70 if reset == "subtract" else 0, v)
        np.testing.assert_array_equal(answer.layer_counts[0][0, t], spikes)
        np.testing.assert_array_equal(answer.layer_v_mem[0][0, t], v)
