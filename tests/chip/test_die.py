"""A die: the ideal chip when everything is off, and each effect what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.chip.die import Die
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.simulator import ChipAnswer, run
from cil_spl.data.events import EVENT
from cil_spl.errors import RequestError

RECORD = ("counts", "v_mem", "events")


@pytest.fixture
def network() -> ChipNetwork:
    return networks.active_chain(np.random.default_rng(0))


def same(a: ChipAnswer, b: ChipAnswer) -> bool:
    assert a.layer_events is not None
    assert b.layer_events is not None
    return all(np.array_equal(x.events, y.events) for x, y in zip(a.layer_events, b.layer_events, strict=True))


def batch(network: ChipNetwork, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return networks.joined([networks.recording(rng, network, n, outside=False) for _ in range(3)])


def pixels(weight: int, threshold: int, events: int, size: int = 40) -> tuple[ChipNetwork, np.ndarray, np.ndarray]:
    """size x size neurons, each behind a pixel of its own; every pixel sends ``events`` events."""
    network = networks.single([[[[weight]]]], (1, size, size), threshold=threshold, min_v_mem=-threshold)
    one = np.zeros(size * size * events, EVENT)
    one["y"], one["x"] = np.divmod(np.arange(len(one)) % (size * size), size)
    one["t"] = np.arange(len(one)) * 10
    return network, one, np.array([0, len(one)])


def test_a_die_without_deviations_is_the_ideal_chip(network: ChipNetwork) -> None:
    assert same(
        run(network, *batch(network), record=RECORD, die=Die(seed=3)), run(network, *batch(network), record=RECORD)
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
    ],
)
def test_the_same_seed_is_the_same_die(effect: dict[str, float], network: ChipNetwork) -> None:
    ideal = run(network, *batch(network), record=RECORD)
    a, again, other = (run(network, *batch(network), record=RECORD, die=Die(seed=s, **effect)) for s in (1, 1, 2))
    assert same(a, again)
    assert not same(a, ideal)
    assert not same(a, other)


def test_chance_depends_on_the_recording_and_not_on_its_place(network: ChipNetwork) -> None:
    events, offsets = batch(network)
    die = Die(seed=1, lost=0.2, jitter_us=20, threshold_spread=0.1)
    together = run(network, events, offsets, die=die)
    for b in range(3):
        alone = run(network, events[offsets[b] : offsets[b + 1]], np.array([0, offsets[b + 1] - offsets[b]]), die=die)
        np.testing.assert_array_equal(alone.events_per_layer[0], together.events_per_layer[b])


def test_dead_neurons_are_silent_and_stuck_ones_answer_every_event() -> None:
    network, events, offsets = pixels(weight=1, threshold=100, events=3)
    counts = run(network, events, offsets, die=Die(stuck=0.25)).counts.ravel()
    assert set(counts.tolist()) == {0, 3}
    assert abs((counts == 3).mean() - 0.25) < 0.05
    network, events, offsets = pixels(weight=100, threshold=100, events=3)
    counts = run(network, events, offsets, die=Die(dead=0.25)).counts.ravel()
    assert set(counts.tolist()) == {0, 3}
    assert abs((counts == 0).mean() - 0.25) < 0.05


def test_thresholds_spread_as_asked() -> None:
    """One event of weight 100: a neuron fires if its threshold is at most 100, so half of them do."""
    network, events, offsets = pixels(weight=100, threshold=100, events=1)
    fired = run(network, events, offsets, die=Die(threshold_spread=0.1)).counts.mean()
    assert abs(fired - 0.5) < 0.06
    found = Die(threshold_spread=0.1).thresholds(0, 1000, (40, 40, 4))
    assert abs(found.mean() - 1000) < 5
    assert abs(found.std() - 100) < 5


def test_the_given_share_of_events_is_lost() -> None:
    network, events, offsets = pixels(weight=100, threshold=100, events=2)
    assert abs(run(network, events, offsets, die=Die(lost=0.3)).counts.sum() / len(events) - 0.7) < 0.03


def test_jitter_moves_events_and_keeps_time_in_order() -> None:
    network, events, offsets = pixels(weight=100, threshold=100, events=1)
    answer = run(network, events, offsets, record=RECORD, die=Die(jitter_us=100))
    assert answer.layer_events is not None
    found = answer.layer_events[0].events
    assert len(found) == len(events)
    assert (np.diff(found["t"]) >= 0).all()
    place = found["y"].astype(int) * 40 + found["x"]
    moved = found["t"] - place * 10.0
    inner = moved[(place > 100) & (place < 1500)]  # at the beginning time is cut off at zero
    assert abs(inner.std() - 100) < 10
    assert abs(inner.mean()) < 10


def test_reordering_reaches_only_as_far_as_asked() -> None:
    network, events, offsets = pixels(weight=100, threshold=100, events=1)
    answer = run(network, events, offsets, record=RECORD, die=Die(reorder_us=35))
    assert answer.layer_events is not None
    found = answer.layer_events[0].events
    np.testing.assert_array_equal(found["t"], events["t"])
    moved = np.abs(found["y"].astype(int) * 40 + found["x"] - np.arange(len(found)))
    assert 1 <= moved.max() <= 3


@pytest.mark.parametrize("branches", [False, True])
def test_losses_on_branches(branches: bool) -> None:
    network = (
        networks.random_graph(np.random.default_rng(7))
        if branches
        else networks.random_chain(np.random.default_rng(7), 2)
    )
    events, offsets = batch(network)
    all_lost = run(network, events, offsets, die=Die(lost=1.0))
    assert all_lost.synops.sum() == 0
    ideal = run(network, events, offsets)
    assert 0 < run(network, events, offsets, die=Die(lost=0.3)).synops[:, 0].sum() < ideal.synops[:, 0].sum()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RequestError, match=r"target\.die\.lost=1\.5: allowed is 0 to 1"):
        Die(lost=1.5)
    with pytest.raises(RequestError, match=r"target\.die\.jitter_us=-1: allowed is 0 or more"):
        Die(jitter_us=-1)
    network = networks.random_graph(np.random.default_rng(1))
    with pytest.raises(RequestError, match="need a network without branches"):
        run(network, *batch(network), die=Die(jitter_us=5))
