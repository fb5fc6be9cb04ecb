"""The fast simulator equals the slow one, event for event."""

from __future__ import annotations

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
import reference

from cil_spl.base.errors import RequestError
from cil_spl.chip.die import Die
from cil_spl.chip.network import ChipNetwork, Destination
from cil_spl.chip.simulator import ChipAnswer, simulate
from cil_spl.data.events import EVENT

RECORD = ("counts", "v_mem", "events", "output")


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_reference_on_random_chains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_chain(rng, int(rng.integers(1, 5)), extreme=seed % 6 == 5)
    recordings = [networks.recording(rng, network, int(rng.choice([0, 1, 5, 60]))) for _ in range(4)]
    span = max([int(r["t"][-1]) for r in recordings if len(r)], default=1)
    edges = np.sort(rng.integers(0, span + 2, (4, int(rng.integers(2, 6)))), axis=1)
    reference.assert_same(network, recordings, edges)


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_reference_with_branches_and_merges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_graph(rng)
    recordings = [networks.recording(rng, network, int(rng.choice([0, 1, 5, 40]))) for _ in range(3)]
    edges = np.sort(rng.integers(0, 400, (3, int(rng.integers(2, 5)))), axis=1)
    reference.assert_same(network, recordings, edges)


@pytest.mark.parametrize("seed", range(10))
def test_layer_by_layer_is_depth_first_in_a_chain(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_chain(rng, 3)
    events, offsets = networks.joined([networks.recording(rng, network, 300) for _ in range(2)])
    by_layer = simulate(network, events, offsets, record=RECORD)
    monkeypatch.setattr(ChipNetwork, "is_chain", False)
    assert_answers_equal(simulate(network, events, offsets, record=RECORD), by_layer)


@pytest.mark.parametrize(
    ("f", "kernel", "stride", "size"),
    [(8, 3, 1, 12), (16, 3, 2, 12), (16, 1, 1, 12), (16, 3, 2, 20), (10, 8, 1, 8), (20, 8, 1, 8)]
    + [(f, 3, s, 12) for f, s in ((16, 1), (32, 2), (64, 1), (64, 2))],
)
@pytest.mark.parametrize("seldom", [False, True])
def test_layer_by_layer_is_depth_first_in_every_shape(
    f: int, kernel: int, stride: int, size: int, seldom: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each of the shapes that have a loop, and with enough events for it to notice that few make a neuron fire."""
    rng = np.random.default_rng(f + kernel)
    weight = rng.integers(-60, 61, (f, 2, kernel, kernel))
    padding = (0, 0) if kernel == size else (kernel // 2, kernel // 2)
    if seldom:
        weight[:, 1] = 0
    network = networks.single(
        weight, (2, size, size), stride=(stride, stride), padding=padding, threshold=60, min_v_mem=-60
    )
    recordings = [networks.recording(rng, network, 1500, outside=False) for _ in range(2)]
    for one in recordings:
        one["p"] = rng.random(len(one)) < (0.95 if seldom else 0.5)
    events, offsets = networks.joined(recordings)
    by_layer = simulate(network, events, offsets, record=RECORD)
    assert by_layer.events_per_layer.min() > 10
    monkeypatch.setattr(ChipNetwork, "is_chain", False)
    assert_answers_equal(simulate(network, events, offsets, record=RECORD), by_layer)


@pytest.mark.parametrize("weight", [1, 127])  # a weight above the threshold takes the exact step
def test_more_neurons_fire_at_once_than_there_is_room_for(weight: int) -> None:
    """Every addition fires its neuron, so a layer has as many events as additions."""
    kernel = np.full((24, 1, 3, 3), weight, np.int8)
    network = networks.single(kernel, (1, 20, 20), threshold=1, padding=(1, 1), min_v_mem=-5)
    rng = np.random.default_rng(0)
    events, offsets = networks.joined([networks.recording(rng, network, 20_000, outside=False)])
    answer = simulate(network, events, offsets)
    assert answer.synops[0, 0] == answer.events_per_layer[0, 0] > 3_000_000


def assert_answers_equal(a: ChipAnswer, b: ChipAnswer) -> None:
    for name in ("counts", "events_per_layer", "input_events", "synops", "saturations", "dropped", "decision_us"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("layer_counts", "layer_v_mem"):
        for mine, other in zip(getattr(a, name) or [], getattr(b, name) or [], strict=True):
            np.testing.assert_array_equal(mine, other, err_msg=name)
    for mine, other in zip(a.layer_events or [], b.layer_events or [], strict=True):
        np.testing.assert_array_equal(mine.events, other.events)
        np.testing.assert_array_equal(mine.offsets, other.offsets)


@pytest.mark.parametrize(
    ("f", "kernel", "stride"),
    [
        (8, 3, 1),
        (8, 3, 2),
        (8, 3, 4),
        (16, 3, 1),
        (16, 5, 4),
        (20, 3, 1),
        (40, 5, 1),
        (64, 3, 1),
        (64, 3, 2),
        (130, 3, 1),
    ],
)
@pytest.mark.parametrize("threshold", [130, 40])
def test_equals_the_reference_in_every_width_of_window(f: int, kernel: int, stride: int, threshold: int) -> None:
    rng = np.random.default_rng(f + kernel + stride)
    weight = rng.integers(-30, 128, (f, 2, kernel, kernel))
    network = networks.single(
        weight, (2, 7, 9), stride=(stride, stride), padding=(1, 1), threshold=threshold, min_v_mem=-threshold
    )
    one = networks.recording(rng, network, 40)
    slow, fast = (
        reference.run(network, one),
        simulate(network, one, np.array([0, len(one)]), record=("v_mem", "events")),
    )
    assert fast.layer_events is not None
    assert fast.layer_v_mem is not None
    assert len(slow.events[0]) > 10
    assert [tuple(e) for e in fast.layer_events[0].events[["t", "y", "x", "f"]].tolist()] == slow.events[0]
    assert fast.synops[0].tolist() == slow.synops
    np.testing.assert_array_equal(fast.layer_v_mem[0][0, 0], slow.states[0][0])


def test_a_die_that_changes_nothing_takes_the_exact_step_to_the_same_end() -> None:
    network = networks.active_chain(np.random.default_rng(0))
    network = replace(network, layers=tuple(replace(layer, min_v_mem=-32768) for layer in network.layers))
    events, offsets = networks.joined([networks.recording(np.random.default_rng(1), network, 3000)])
    ideal, same = (
        simulate(network, events, offsets, record=RECORD, die=die) for die in (None, Die(threshold_spread=1e-9))
    )
    assert ideal.events_per_layer.min() > 1000
    assert_answers_equal(same, ideal)


@pytest.mark.parametrize("branches", [False, True])
def test_a_recording_does_not_notice_its_neighbours(branches: bool) -> None:
    rng = np.random.default_rng(3)
    network = networks.random_graph(rng) if branches else networks.active_chain(rng)
    recordings = [networks.recording(rng, network, n) for n in (50, 0, 3, 200, 7)]
    assert simulate(network, *networks.joined(recordings)).events_per_layer.sum() > 100
    alone = [simulate(network, *networks.joined([r])) for r in recordings]
    for threads in (1, 2, 4):
        together = simulate(network, *networks.joined(recordings), threads=threads)
        for b, one in enumerate(alone):
            for name in ("counts", "events_per_layer", "synops", "saturations", "decision_us"):
                np.testing.assert_array_equal(getattr(together, name)[b], getattr(one, name)[0], err_msg=name)


def test_bins_never_change_what_the_chip_does() -> None:
    rng = np.random.default_rng(4)
    network = networks.active_chain(rng)
    events, offsets = networks.joined([networks.recording(rng, network, 400, outside=False) for _ in range(3)])
    whole = simulate(network, events, offsets, record=RECORD)
    edges = np.tile(np.linspace(0, int(events["t"].max()) + 1, 14).astype(np.int64), (3, 1))
    binned = simulate(network, events, offsets, edges, record=RECORD)
    np.testing.assert_array_equal(binned.counts.sum(1), whole.counts[:, 0])
    for k in range(len(network.layers)):
        np.testing.assert_array_equal(binned.layer_counts[k].sum(1), whole.layer_counts[k][:, 0])  # type: ignore[index]
        np.testing.assert_array_equal(binned.layer_v_mem[k][:, -1], whole.layer_v_mem[k][:, 0])  # type: ignore[index]
        np.testing.assert_array_equal(binned.layer_events[k].events, whole.layer_events[k].events)  # type: ignore[index]
    np.testing.assert_array_equal(binned.decision_us, whole.decision_us)


def test_a_bin_holds_its_first_edge_and_not_its_last() -> None:
    network = networks.single([[[[9]]]], (1, 1, 1), threshold=9)
    events = one_pixel([5, 10, 19, 20, 99])
    answer = simulate(network, events, np.array([0, 5]), np.array([[10, 20, 30]]))
    assert answer.counts[0, :, 0].tolist() == [3, 2]  # what is earlier goes to the first bin, what is later to the last
    assert simulate(network, events, np.array([0, 5]), np.array([[0, 10, 20, 100]])).counts[0, :, 0].tolist() == [
        1,
        2,
        2,
    ]


def one_pixel(times: list[int], p: list[int] | None = None) -> np.ndarray:
    events = np.zeros(len(times), EVENT)
    events["t"] = times
    if p is not None:
        events["p"] = p
    return events


def test_literal_voltages_of_one_neuron() -> None:
    """Weights 70 and -80, threshold 90, lower bound -50: clip after adding, fire at >=, subtract."""
    network = networks.single([[[[70]], [[-80]]]], (2, 1, 1), threshold=90, min_v_mem=-50)
    polarity = [1, 0, 0, 0, 1, 1, 0]
    events = one_pixel(list(range(7)), polarity)
    edges = np.arange(8)[None]
    answer = simulate(network, events, np.array([0, 7]), edges, record=("v_mem",))
    assert answer.layer_v_mem is not None
    assert answer.layer_v_mem[0][0, :, 0, 0, 0].tolist() == [-50, 20, 0, 70, -10, -50, 20]
    assert answer.counts[0, :, 0].tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_a_weight_above_threshold_lags_and_keeps_firing() -> None:
    """One event in, one event out: what is left above the threshold waits for the next event."""
    network = networks.single([[[[100]], [[-1]]]], (2, 1, 1), threshold=30, min_v_mem=-30)
    answer = simulate(
        network, one_pixel([0, 1, 2, 3], [0, 1, 1, 1]), np.array([0, 4]), np.arange(5)[None], record=("v_mem",)
    )
    assert answer.counts[0, :, 0].tolist() == [1, 1, 1, 0]
    assert answer.layer_v_mem is not None
    assert answer.layer_v_mem[0][0, :, 0, 0, 0].tolist() == [70, 39, 8, 7]
    zero = networks.single([[[[100]], [[-1]]]], (2, 1, 1), threshold=30, min_v_mem=-30, reset="zero")
    answer = simulate(
        zero, one_pixel([0, 1, 2, 3], [0, 1, 1, 1]), np.array([0, 4]), np.arange(5)[None], record=("v_mem",)
    )
    assert answer.layer_v_mem is not None
    assert answer.layer_v_mem[0][0, :, 0, 0, 0].tolist() == [0, -1, -2, -3]


def test_saturation_holds_at_the_end_of_16_bits_and_is_counted() -> None:
    """Each event adds 127 and takes 1 away: after 260 events 127 + 259 * 126 = 32761; then two sums leave 16 bits."""
    network = networks.single([[[[127]]]], (1, 1, 1), threshold=1, min_v_mem=0)
    answer = simulate(network, one_pixel(list(range(263))), np.array([0, 263]), record=("v_mem",))
    assert answer.layer_v_mem is not None
    assert answer.layer_v_mem[0].ravel().tolist() == [32766]
    assert answer.saturations.tolist() == [[3]]
    assert answer.counts.ravel().tolist() == [263]


def test_an_odd_map_drops_the_events_of_its_edge() -> None:
    first = networks.layer([[[[9]]]], (1, 3, 5), threshold=9, destinations=(Destination(1, (2, 2)),))
    second = networks.layer([[[[9]]]], (1, 1, 2), threshold=9)
    network = ChipNetwork((first, second), (1, 3, 5))
    events = np.zeros(15, EVENT)
    events["y"], events["x"] = np.divmod(np.arange(15), 5)
    answer = simulate(network, events, np.array([0, 15]), record=("counts",))
    assert answer.layer_counts is not None
    assert answer.layer_counts[1][0, 0, 0].tolist() == [[4, 4]]
    assert answer.events_per_layer.tolist() == [[15, 8]]
    assert answer.synops.tolist() == [[15, 8]]


def test_events_outside_the_map_are_dropped_and_not_counted() -> None:
    network = networks.single(np.full((1, 2, 1, 1), 9), (2, 2, 2), threshold=9)
    events = np.zeros(6, EVENT)
    events["x"], events["y"], events["p"] = [0, 2, -1, 0, 0, 1], [0, 0, 0, 2, -1, 1], [0, 0, 0, 0, 0, 1]
    answer = simulate(network, events, np.array([0, 6]))
    assert answer.input_events.tolist() == [2]
    assert answer.counts.sum() == 2


def test_a_network_with_one_input_feature_takes_both_polarities() -> None:
    network = networks.single([[[[9]]]], (1, 1, 1), threshold=9)
    assert simulate(network, one_pixel([0, 1], [0, 1]), np.array([0, 2])).counts.sum() == 2


def test_decision_time() -> None:
    """The winner leads from 3, is caught up with at 5, and leads for good from 8; a tie in the end decides nothing."""
    weight = 9 * np.eye(2)[:, :, None, None]
    network = networks.single(weight, (2, 1, 1), threshold=9)
    times, classes = [3, 5, 8, 9], [1, 0, 1, 1]
    assert simulate(network, one_pixel(times, classes), np.array([0, 4])).decision_us.tolist() == [8]
    assert simulate(network, one_pixel(times[:2], classes[:2]), np.array([0, 2])).decision_us.tolist() == [-1]
    assert simulate(network, one_pixel([]), np.array([0, 0])).decision_us.tolist() == [-1]


def test_another_order_is_the_same_for_the_same_seed_and_may_change_the_result() -> None:
    rng = np.random.default_rng(0)
    a = networks.layer(rng.integers(-60, 100, (16, 2, 3, 3)), (2, 6, 6), threshold=60, destinations=(Destination(1),))
    b = networks.layer(rng.integers(-100, 100, (8, 16, 3, 3)), (16, 4, 4), threshold=90)
    network = ChipNetwork((a, b), (2, 6, 6))
    events, offsets = networks.joined([networks.recording(rng, network, 500, outside=False)])
    plain = simulate(network, events, offsets, record=RECORD)
    one, again, other = (simulate(network, events, offsets, record=RECORD, order_seed=s) for s in (1, 1, 2))
    assert_answers_equal(one, again)
    np.testing.assert_array_equal(one.layer_counts[0], plain.layer_counts[0])  # type: ignore[index]
    assert (one.layer_counts[1] != plain.layer_counts[1]).any()  # type: ignore[index]
    assert (one.layer_counts[1] != other.layer_counts[1]).any()  # type: ignore[index]


def test_no_recording_and_no_event() -> None:
    network = networks.single(np.ones((3, 1, 2, 2)), (1, 4, 4))
    assert simulate(network, np.zeros(0, EVENT), np.array([0]), record=RECORD).counts.shape == (0, 1, 27)
    answer = simulate(network, np.zeros(0, EVENT), np.array([0, 0, 0]), record=RECORD)
    assert answer.counts.shape == (2, 1, 27)
    assert answer.counts.sum() == 0


def test_read_only_events_are_taken() -> None:
    network = networks.single([[[[9]]]], (1, 1, 1), threshold=9)
    events = one_pixel([0, 1])
    events.flags.writeable = False
    assert simulate(network, events, np.array([0, 2])).counts.sum() == 2


def test_what_cannot_run_is_refused() -> None:
    network = networks.single([[[[9]]]], (1, 1, 1), threshold=9)
    with pytest.raises(RequestError, match="time runs backwards"):
        simulate(network, one_pixel([5, 4]), np.array([0, 2]))
    with pytest.raises(RequestError, match="record=spikes: allowed are counts, v_mem, events, output"):
        simulate(network, one_pixel([5]), np.array([0, 1]), record=("spikes",))
    with pytest.raises(RequestError, match="edges_us"):
        simulate(network, one_pixel([5]), np.array([0, 1]), np.array([[0, 1], [0, 1]]))
    for broken, message in (
        ({"threshold": 0}, "layer conv: threshold=0; allowed is 1..32767"),
        ({"min_v_mem": 1}, "layer conv: min_v_mem=1; allowed is -32768..0"),
        ({"reset": "none"}, "reset=none; allowed are subtract and zero"),
        ({"destinations": (Destination(0),)}, "the last layer is read out"),
    ):
        with pytest.raises(RequestError, match=re.escape(message)):
            simulate(networks.single([[[[9]]]], (1, 1, 1), name="conv", **broken), one_pixel([5]), np.array([0, 1]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 30))
def test_equals_the_reference_whatever_the_network(seed: int, depth: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_chain(rng, depth) if seed % 3 else networks.random_graph(rng)
    reference.assert_same(network, [networks.recording(rng, network, n)], np.array([[0, 10, 50]]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 3000))
def test_equals_the_reference_on_thousands_of_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = (
        networks.random_chain(rng, int(rng.integers(1, 6)), seed % 5 == 0) if seed % 3 else networks.random_graph(rng)
    )
    recordings = [networks.recording(rng, network, int(rng.choice([0, 1, 30, 100]))) for _ in range(2)]
    reference.assert_same(network, recordings, np.sort(rng.integers(0, 1000, (2, int(rng.integers(2, 6)))), axis=1))
