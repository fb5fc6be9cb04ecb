"""Our simulator against the vendor's, event for event, where the vendor's can be had."""

from __future__ import annotations

import sys

import networks
import numpy as np
import pytest

from cil_spl.chip.simulator import simulate
from cil_spl.targets.board import samna_is_real


@pytest.mark.skipif(
    not samna_is_real(), reason="the vendor's simulator is part of samna, and the real samna is not here"
)
@pytest.mark.parametrize("seed", range(3))
def test_one_layer_equals_the_vendors_simulator(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """One convolution and its neurons: time, place and feature of every event, in order of time."""
    import offline
    import torch
    from sinabs.layers import IAFSqueeze
    from torch import nn

    allowed = [finder for finder in sys.meta_path if not isinstance(finder, offline._NoHardware)]
    monkeypatch.setattr(sys, "meta_path", allowed)  # the real one starts no pip
    from sinabs.backend.dynapcnn import specksim

    rng = np.random.default_rng(seed)
    weight = rng.integers(-40, 90, (5, 2, 3, 3))
    ours = networks.single(weight, (2, 9, 9), stride=(2, 2), padding=(1, 1), threshold=150, min_v_mem=-150)
    convolution = nn.Conv2d(2, 5, 3, stride=2, padding=1, bias=False)
    convolution.weight.data = torch.tensor(weight, dtype=torch.float32)
    net = nn.Sequential(convolution, IAFSqueeze(batch_size=1, spike_threshold=150.0, min_v_mem=-150.0))
    theirs = specksim.from_sequential(net, (2, 9, 9))
    recording = networks.recording(rng, ours, 400, outside=False)
    recording["t"] = np.arange(400) * 10
    answer = simulate(ours, recording, np.array([0, len(recording)]), record=("events",))
    assert answer.layer_events is not None
    mine = answer.layer_events[0].events
    told = theirs(recording)
    rows = [tuple(int(e[name]) for name in ("t", "p", "y", "x")) for e in told]
    assert sorted(rows) == sorted(tuple(int(e[name]) for name in ("t", "f", "y", "x")) for e in mine)
    assert len(rows) > 0
