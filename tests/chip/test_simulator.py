"""The fast simulator equals the slow one, event for event."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import networks
import reference

from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.simulator import run

RECORD = ("counts", "v_mem", "events", "output")


def assert_same(network: ChipNetwork, recordings: list[np.ndarray], edges_us: np.ndarray, **options: object) -> None:
    events, offsets = networks.joined(recordings)
    answer = run(network, events, offsets, edges_us, record=RECORD, **options)
    assert answer.layer_events is not None
    assert answer.layer_counts is not None
    assert answer.layer_v_mem is not None
    assert answer.output is not None
    for b, one in enumerate(recordings):
        slow = reference.run(network, one, edges_us[b])
        for k in range(len(network.layers)):
            found = answer.layer_events[k]
            mine = found.events[found.offsets[b] : found.offsets[b + 1]]
            assert [tuple(e) for e in mine[["t", "y", "x", "f"]].tolist()] == slow.events[k]
            np.testing.assert_array_equal(answer.layer_counts[k][b], slow.layer_counts[k])
            for t, states in enumerate(slow.states):
                np.testing.assert_array_equal(answer.layer_v_mem[k][b, t], states[k])
        assert answer.events_per_layer[b].tolist() == [len(e) for e in slow.events]
        assert answer.synops[b].tolist() == slow.synops
        assert answer.saturations[b].tolist() == slow.saturations
        np.testing.assert_array_equal(answer.counts[b], slow.counts)
        out = answer.output
        times, classes = (a[out.offsets[b] : out.offsets[b + 1]].tolist() for a in (out.t, out.k))
        assert len(times) == len(slow.events[-1])
        assert answer.decision_us[b] == reference.decision_us(list(zip(times, classes, strict=True)))


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_reference_on_random_chains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_chain(rng, int(rng.integers(1, 5)), extreme=seed % 6 == 5)
    recordings = [networks.recording(rng, network, int(rng.choice([0, 1, 5, 60]))) for _ in range(4)]
    span = max([int(r["t"][-1]) for r in recordings if len(r)], default=1)
    edges = np.sort(rng.integers(0, span + 2, (4, int(rng.integers(2, 6)))), axis=1)
    assert_same(network, recordings, edges)
