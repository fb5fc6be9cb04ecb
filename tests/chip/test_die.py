"""A die: the ideal chip when everything is off, and each effect what it says."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import networks
import reference
from test_simulator import assert_answers_equal

from cil_spl.base.errors import RequestError
from cil_spl.chip.die import DECIMATION, Die, die_of
from cil_spl.chip.kernels import compiled
from cil_spl.chip.network import ChipNetwork, Destination
from cil_spl.chip.simulator import ChipAnswer, simulate
from cil_spl.data.events import EVENT

RECORD = ("counts", "v_mem", "events")


@pytest.fixture
def network() -> ChipNetwork:
    return networks.active_chain(np.random.default_rng(0))


def same(a: ChipAnswer, b: ChipAnswer) -> bool:
    assert a.layer_events is not None
    assert b.layer_events is not None
    return all(np.array_equal(x.events, y.events) for x, y in zip(a.layer_events, b.layer_events, strict=True))


def random_die(rng: np.random.Generator, names: list[str]) -> Die:
    """Any effects together, some of them by layer; rates at which the test's recordings wait and are dropped."""

    def maybe(*values: float) -> float:
        return float(rng.choice(values)) if rng.random() < 0.4 else 0.0

    def by_layer(*values: int) -> int | dict[str, int]:
        if rng.random() < 0.5:
            return int(rng.choice(values))
        return {name: int(rng.choice(values)) for name in names if rng.random() < 0.7}

    limited = rng.random() < 0.5
    leak: int | dict[str, int] = by_layer(-32768, -3, -1)
    if rng.random() < 0.5:  # in the last layer alone: what fires at every tick must not multiply from layer to layer
        leak = {names[-1]: int(rng.choice([1, 9, 200, 32767]))}
    return Die(
        seed=int(rng.integers(2**62)),
        threshold_spread=maybe(0.3),
        dead=maybe(0.1),
        stuck=maybe(0.05),
        lost=maybe(0.2),
        jitter_us=maybe(0.01, 3, 40),
        reorder_us=maybe(0.5, 20),
        synops_per_second=by_layer(1, 10**5, 10**6, 10**7, 10**15) if limited else None,
        fifo=by_layer(0, 1, 3, 20) if limited and rng.random() < 0.7 else None,
        decimate=by_layer(*DECIMATION) if rng.random() < 0.3 else 1,
        leak=leak if rng.random() < 0.4 else 0,
        leak_period_us=float(rng.choice([17.125, 60, 150])),
    )


def check_against_reference(seed: int, n: int) -> int:
    """A random network, die and two recordings, in the compiled simulator and in the plain one; events dropped."""
    rng = np.random.default_rng(seed)
    chain = networks.random_chain(rng, int(rng.integers(1, 4)), extreme=seed % 7 == 0)
    network = chain if seed % 2 else networks.random_graph(rng)
    die = random_die(rng, [layer.name for layer in network.layers])
    recordings = [networks.recording(rng, network, n) for _ in range(2)]
    edges = np.sort(rng.integers(0, 300, (2, 4)), axis=1)
    return int(reference.assert_same(network, recordings, edges, die).dropped.sum())


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_equals_the_reference_whatever_the_die(seed: int, n: int) -> None:
    check_against_reference(seed, n)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(400))
def test_equals_the_reference_on_hundreds_of_dies(seed: int) -> None:
    check_against_reference(seed, 20)


def check_both_paths(seed: int, n: int, lost: float, decimate: int, spread: float) -> ChipAnswer:
    """A random chain on a die that holds nothing up: layer by layer and depth first, with the same answer."""
    rng = np.random.default_rng(seed)
    network = networks.random_chain(rng, int(rng.integers(1, 5)), extreme=seed % 7 == 0)
    last = network.layers[-1].name
    die = Die(
        seed=seed, lost=lost, decimate={network.layers[0].name: decimate, last: 2}, threshold_spread=spread,
        dead=spread / 3, stuck=spread / 6,
    )  # fmt: skip
    events, offsets = networks.joined([networks.recording(rng, network, n) for n in (n, 0, n // 2)])
    edges = np.sort(rng.integers(0, 300, (3, 4)), axis=1)
    answers = []
    for forced, unused in ((False, "depth_first"), (True, "chain")):
        with pytest.MonkeyPatch.context() as patch:
            if forced:
                patch.setattr(ChipNetwork, "is_chain", False)
            patch.setattr(compiled, unused, None)  # neither path stands in for the other
            answers.append(simulate(network, events, offsets, edges, record=(*RECORD, "output"), die=die))
    assert_answers_equal(*answers)
    return answers[0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 300), st.sampled_from([0.0, 0.1, 0.6]), st.sampled_from(DECIMATION[:4]),
    st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_losses_and_decimators_are_the_same_layer_by_layer_and_depth_first(
    seed: int, n: int, lost: float, decimate: int, spread: float
) -> None:
    check_both_paths(seed, n, lost, decimate, spread)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_both_paths_are_the_same_on_hundreds_of_dies(seed: int) -> None:
    check_both_paths(seed, 400, (0.0, 0.1, 0.6)[seed % 3], DECIMATION[seed % 5], (0.0, 0.3)[seed % 2])


@pytest.mark.parametrize(
    "effect",
    [
        {"threshold_spread": 0.2, "dead": 0.1, "stuck": 0.1},
        {"lost": 0.1},
        {"jitter_us": 30.0},
        {"reorder_us": 30.0},
        {"synops_per_second": 2e7, "fifo": 2},
        {"synops_per_second": 1e7},
        {"decimate": 4},
        {"leak": 20, "leak_period_us": 40},
        {"leak": -20, "leak_period_us": 40},
    ],
)
@pytest.mark.parametrize("branches", [False, True])
def test_each_effect_alone_equals_the_reference(effect: dict[str, float], branches: bool) -> None:
    rng = np.random.default_rng(11)
    network = networks.random_graph(rng) if branches else networks.active_chain(rng)
    recordings = [networks.recording(rng, network, n) for n in (90, 0, 1)]
    recordings[0]["t"] = np.sort(rng.integers(0, 400, 90))
    answer = reference.assert_same(network, recordings, np.tile([0, 100, 200], (3, 1)), Die(seed=5, **effect))
    ideal = reference.assert_same(network, recordings, np.tile([0, 100, 200], (3, 1)))
    assert not same(answer, ideal)
    assert (answer.dropped.sum() > 0) == ("fifo" in effect)


def batch(network: ChipNetwork, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return networks.joined([networks.recording(rng, network, n, outside=False) for _ in range(3)])


def pixels(weight: int, threshold: int, events: int, size: int = 40) -> tuple[ChipNetwork, np.ndarray, np.ndarray]:
    """size x size neurons, each fed by a pixel of its own; every pixel sends ``events`` events."""
    network = networks.single([[[[weight]]]], (1, size, size), threshold=threshold, min_v_mem=-threshold)
    one = np.zeros(size * size * events, EVENT)
    one["y"], one["x"] = np.divmod(np.arange(len(one)) % (size * size), size)
    one["t"] = np.arange(len(one)) * 10
    return network, one, np.array([0, len(one)])


def test_a_die_without_deviations_is_the_ideal_chip(network: ChipNetwork) -> None:
    assert same(
        simulate(network, *batch(network), record=RECORD, die=Die(seed=3)),
        simulate(network, *batch(network), record=RECORD),
    )


@pytest.mark.parametrize(
    "effect",
    [
        {"threshold_spread": 0.2},
        {"dead": 0.2},
        {"stuck": 0.1},
        {"lost": 0.1},
        {"jitter_us": 50.0},
        {"reorder_us": 50.0},
        {"decimate": 8},
    ],
)
def test_the_same_seed_is_the_same_die(effect: dict[str, float], network: ChipNetwork) -> None:
    ideal = simulate(network, *batch(network), record=RECORD)
    a, again, other = (simulate(network, *batch(network), record=RECORD, die=Die(seed=s, **effect)) for s in (1, 1, 2))
    assert same(a, again)
    assert not same(a, ideal)
    assert not same(a, other)


def test_chance_depends_on_the_recording_and_not_on_its_place(network: ChipNetwork) -> None:
    events, offsets = batch(network)
    die = Die(seed=1, lost=0.2, jitter_us=20, threshold_spread=0.1)
    together = simulate(network, events, offsets, die=die)
    for b in range(3):
        alone = simulate(
            network, events[offsets[b] : offsets[b + 1]], np.array([0, offsets[b + 1] - offsets[b]]), die=die
        )
        np.testing.assert_array_equal(alone.events_per_layer[0], together.events_per_layer[b])


def test_dead_neurons_are_silent_and_stuck_ones_answer_every_event() -> None:
    network, events, offsets = pixels(weight=1, threshold=100, events=3)
    counts = simulate(network, events, offsets, die=Die(stuck=0.25)).counts.ravel()
    assert set(counts.tolist()) == {0, 3}
    assert abs((counts == 3).mean() - 0.25) < 0.05
    network, events, offsets = pixels(weight=100, threshold=100, events=3)
    counts = simulate(network, events, offsets, die=Die(dead=0.25)).counts.ravel()
    assert set(counts.tolist()) == {0, 3}
    assert abs((counts == 0).mean() - 0.25) < 0.05


def test_thresholds_spread_as_asked() -> None:
    """One event of weight 100: a neuron fires if its threshold is at most 100, so half of them do."""
    network, events, offsets = pixels(weight=100, threshold=100, events=1)
    fired = simulate(network, events, offsets, die=Die(threshold_spread=0.1)).counts.mean()
    assert abs(fired - 0.5) < 0.06
    found = Die(threshold_spread=0.1).thresholds(0, 1000, (40, 40, 4))
    assert abs(found.mean() - 1000) < 5
    assert abs(found.std() - 100) < 5


def test_the_given_share_of_events_is_lost() -> None:
    network, events, offsets = pixels(weight=100, threshold=100, events=2)
    assert abs(simulate(network, events, offsets, die=Die(lost=0.3)).counts.sum() / len(events) - 0.7) < 0.03


def test_jitter_holds_events_up_and_keeps_time_in_order() -> None:
    """Exponential: mean and standard deviation are the same, and nothing is early."""
    network, events, offsets = pixels(weight=100, threshold=100, events=1)
    answer = simulate(network, events, offsets, record=RECORD, die=Die(jitter_us=100))
    assert answer.layer_events is not None
    found = answer.layer_events[0].events
    assert len(found) == len(events)
    assert (np.diff(found["t"]) >= 0).all()
    delay = found["t"] - (found["y"].astype(int) * 40 + found["x"]) * 10
    assert delay.min() == 0
    assert abs(delay.mean() - 100) < 10
    assert abs(delay.std() - 100) < 10


def test_reordering_reaches_only_as_far_as_asked() -> None:
    network, events, offsets = pixels(weight=100, threshold=100, events=1)
    answer = simulate(network, events, offsets, record=RECORD, die=Die(reorder_us=35))
    assert answer.layer_events is not None
    found = answer.layer_events[0].events
    place = found["y"].astype(int) * 40 + found["x"]
    assert 1 <= np.abs(place - np.arange(len(found))).max() <= 3
    delay = found["t"] - place * 10
    assert (delay.min(), delay.max()) == (0, 34)
    few = simulate(network, events, offsets, record=RECORD, die=Die(reorder_us=10))  # as far apart as the events are
    assert few.layer_events is not None
    np.testing.assert_array_equal(few.layer_events[0].events[["y", "x"]], events[["y", "x"]])


def burst(n: int, t: int = 0) -> np.ndarray:
    """``n`` events of one pixel at the same microsecond."""
    events = np.zeros(n, EVENT)
    events["t"] = t
    return events


def test_a_core_without_end_of_its_rate_is_the_ideal_one(network: ChipNetwork) -> None:
    ideal = simulate(network, *batch(network), record=RECORD)
    for rate in (1e300, 1e16):
        answer = simulate(network, *batch(network), record=RECORD, die=Die(synops_per_second=rate, fifo=0))
        assert same(answer, ideal)
        assert answer.dropped.sum() == 0


@pytest.mark.parametrize("fifo", [0, 1, 5, 30])
def test_a_core_that_is_far_too_slow_drops_all_but_its_queue(fifo: int) -> None:
    """20 events at once: one is taken up, ``fifo`` wait, the rest is dropped; one addition takes a second."""
    network = networks.single([[[[9]]]], (1, 1, 1), threshold=9)
    answer = simulate(network, burst(20), np.array([0, 20]), record=RECORD, die=Die(synops_per_second=1, fifo=fifo))
    kept = min(1 + fifo, 20)
    assert answer.dropped.tolist() == [[20 - kept]]
    assert answer.synops.tolist() == [[kept]]
    assert answer.layer_events is not None
    assert answer.layer_events[0].events["t"].tolist() == [1_000_000 * i for i in range(kept)]


def test_a_core_that_stalls_drops_nothing_and_lags() -> None:
    """8 neurons at 4 million additions per second: an event every 2 us, however fast they come."""
    network = networks.single(np.full((8, 1, 1, 1), 9), (1, 1, 1), threshold=9)
    events = burst(6)
    events["t"] = [0, 0, 0, 5, 20, 21]
    answer = simulate(network, events, np.array([0, 6]), record=RECORD, die=Die(synops_per_second=4e6))
    assert answer.layer_events is not None
    assert answer.layer_events[0].events["t"][::8].tolist() == [0, 2, 4, 6, 20, 22]
    assert answer.dropped.sum() == 0


def test_what_reaches_no_neuron_takes_no_place_in_the_queue() -> None:
    """Pooling drops the third column: its events neither wait nor count as dropped."""
    first = networks.layer([[[[9]]]], (1, 1, 3), threshold=9, destinations=(Destination(1, (1, 2)),), name="a")
    network = ChipNetwork((first, networks.layer([[[[9]]]], (1, 1, 1), threshold=9, name="b")), (1, 1, 3))
    events = burst(9)
    events["x"] = [0, 2, 2, 2, 2, 2, 1, 2, 2]
    answer = simulate(network, events, np.array([0, 9]), die=Die(synops_per_second={"b": 1}, fifo={"b": 1}))
    assert answer.dropped.tolist() == [[0, 0]]
    assert answer.counts.sum() == 2


@pytest.mark.parametrize("n", DECIMATION)
def test_a_decimator_passes_one_event_in_n(n: int) -> None:
    """floor((N + phase) / n) of N events, with a phase below n that is chance; times are those of every n-th event."""
    network = networks.single([[[[9]]]], (1, 1, 1), threshold=9)
    events = burst(1000)
    events["t"] = np.arange(1000)
    phases = set()
    for seed in range(20):
        answer = simulate(network, events, np.array([0, 1000]), record=RECORD, die=Die(seed=seed, decimate=n))
        assert answer.layer_events is not None
        times = answer.layer_events[0].events["t"]
        phase = n - 1 - int(times[0])
        assert 0 <= phase < n
        np.testing.assert_array_equal(times, np.arange(n - 1 - phase, 1000, n))
        assert answer.counts.sum() == answer.events_per_layer.sum() == (1000 + phase) // n
        assert answer.synops.tolist() == [[1000]]
        phases.add(phase)
    assert len(phases) >= min(n, 5)


def test_a_silent_neuron_fires_by_its_leak() -> None:
    """Leak 30 every 10 us, threshold 100, from zero at 5 us: states 30, 60, 90, 120 → fires at the 4th tick, 45 us."""
    network = networks.single([[[[0]]]], (1, 1, 1), threshold=100)
    events = np.concatenate([burst(1, 5), burst(1, 104)])
    die = Die(leak=30, leak_period_us=10)
    answer = simulate(network, events, np.array([0, 2]), np.array([[0, 46, 56, 999]]), record=(*RECORD,), die=die)
    assert answer.layer_events is not None
    assert answer.layer_v_mem is not None
    assert answer.layer_events[0].events["t"].tolist() == [45, 75]  # 20, 50, 80, 110 → 10, and two more: 70
    assert answer.layer_v_mem[0].ravel().tolist() == [20, 50, 70]
    assert answer.synops.tolist() == [[2]]


def test_a_tick_comes_before_the_events_of_its_time_and_none_after_the_last() -> None:
    network = networks.single([[[[10]]]], (1, 1, 1), threshold=100, min_v_mem=-25)
    events = np.concatenate([burst(1, 0), burst(1, 10), burst(1, 20)])
    answer = simulate(
        network, events, np.array([0, 3]), np.array([[0, 10, 20, 999]]), record=("v_mem",),
        die=Die(leak=-100, leak_period_us=10),
    )  # fmt: skip
    assert answer.layer_v_mem is not None
    assert answer.layer_v_mem[0].ravel().tolist() == [10, -15, -15]  # down to the lower bound, then the event


def test_at_most_one_event_a_tick() -> None:
    """A leak of three thresholds: one event a tick, the rest stays; at the end of 16 bits it saturates. The last event
    of the sensor, with a weight of 0, brings another."""
    network = networks.single([[[[0]]]], (1, 1, 1), threshold=10_000)
    events = np.concatenate([burst(1, 0), burst(1, 4)])
    die = Die(leak=30_000, leak_period_us=1)
    answer = simulate(network, events, np.array([0, 2]), np.array([[0, 2, 3, 4, 5]]), record=("v_mem",), die=die)
    assert answer.layer_v_mem is not None
    assert answer.layer_v_mem[0].ravel().tolist() == [20_000, 22_767, 22_767, 12_767]
    assert answer.counts.ravel().tolist() == [1, 1, 1, 2]
    assert answer.saturations.tolist() == [[3]]


def test_a_leak_of_one_layer_leaves_the_others_alone(network: ChipNetwork) -> None:
    network = ChipNetwork(
        tuple(replace(layer, name=name) for layer, name in zip(network.layers, "ab", strict=True)), network.input_shape
    )
    answer = simulate(network, *batch(network), record=RECORD, die=Die(leak={"b": 5, "a": 0}, leak_period_us=10))
    ideal = simulate(network, *batch(network), record=RECORD)
    assert answer.layer_events is not None
    assert ideal.layer_events is not None
    np.testing.assert_array_equal(answer.layer_events[0].events, ideal.layer_events[0].events)
    assert answer.events_per_layer[:, 1].sum() > ideal.events_per_layer[:, 1].sum()


@pytest.mark.parametrize("branches", [False, True])
def test_losses_on_branches(branches: bool) -> None:
    network = (
        networks.random_graph(np.random.default_rng(7))
        if branches
        else networks.random_chain(np.random.default_rng(7), 2)
    )
    events, offsets = batch(network)
    all_lost = simulate(network, events, offsets, die=Die(lost=1.0))
    assert all_lost.synops.sum() == 0
    ideal = simulate(network, events, offsets)
    assert 0 < simulate(network, events, offsets, die=Die(lost=0.3)).synops[:, 0].sum() < ideal.synops[:, 0].sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lost": 1.5}, "target.die.lost=1.5: must be at least 0 and at most 1"),
        ({"lost": float("nan")}, "target.die.lost=nan: needs a finite number, at least 0 and at most 1"),
        ({"dead": True}, "target.die.dead=true: needs a number, at least 0 and at most 1"),
        ({"seed": 1.5}, "target.die.seed=1.5: needs a whole number, at least 0"),
        ({"jitter_us": -1}, "target.die.jitter_us=-1: must be at least 0 and at most 1000000000"),
        ({"jitter_us": "much"}, "target.die.jitter_us=much: needs a number, at least 0"),
        ({"jitter_us": {"conv": 5}}, "target.die.jitter_us={conv: 5}: needs a number, at least 0"),
        ({"decimate": 64}, "target.die.decimate=64: allowed are 1, 2, 4, 8, 16, 32, 128, 256, 512"),
        ({"decimate": {"conv": 3}}, "target.die.decimate.conv=3: allowed are 1, 2,"),
        ({"synops_per_second": 0}, "target.die.synops_per_second=0: must be at least 1, or null"),
        ({"synops_per_second": 1e6, "fifo": 1.5}, "target.die.fifo=1.5: needs a whole number, at least 0"),
        ({"fifo": 4}, "target.die.fifo=4: a core without a rate never waits; set synops_per_second"),
        ({"leak": 40000, "leak_period_us": 1}, "target.die.leak=40000: must be at least -32768 and at most 32767"),
        ({"leak": {"conv": -1}}, "target.die.leak={'conv': -1}: needs the slow clock; set leak_period_us"),
        ({"leak": 1, "leak_period_us": 0}, "target.die.leak_period_us=0: must be at least 0.001"),
        ({"leek": 1}, "target.die.leek=1: no such key; did you mean leak? allowed are seed, threshold_spread, dead"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        die_of(settings, "target.die")


def test_a_layer_that_the_chip_does_not_have_is_refused(network: ChipNetwork) -> None:
    die = die_of({"leak": {"conv9": 2}, "leak_period_us": 10}, "observer.die")
    message = "observer.die.leak.conv9=2: no such layer; the chip's layers are layer, layer"
    with pytest.raises(RequestError, match=re.escape(message)):
        simulate(network, *batch(network), die=die)
