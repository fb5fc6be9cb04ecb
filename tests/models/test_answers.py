"""Networks as an evaluation sees them: which operations count, where branches and feedback lead events."""

from __future__ import annotations

import torch

from cil_spl.data.batches import Batches
from cil_spl.data.options import Frames
from cil_spl.models import answers
from cil_spl.models.forward import forward
from tests.models.test_net import FRAMES, RESIDUAL, network
from tests.tasks.test_evaluation import recordings


def test_feedback_through_pooling_and_from_the_input_has_operations() -> None:
    """Each event counts where it arrives, a step later: pooled spikes and input events alike."""
    blocks = [
        {"delay": "input", "name": "late"},
        {"conv": 4, "padding": 1, "inputs": ["late"], "pool": 2, "neuron": False, "name": "drive"},
        {"delay": "hidden", "name": "before"},
        {"conv": 4, "padding": 1, "neuron": False, "inputs": ["before"], "name": "back"},
        {"add": ["drive", "drive"], "neuron": True, "pool": 1, "name": "sum"},
        {"conv": 4, "padding": 1, "pool": 1, "name": "hidden", "inputs": ["sum"]},
        {"linear": "classes", "name": "out"},
    ]
    net = network(blocks)
    _, _, seen = forward(net, FRAMES, record=["spike6", "spike7", "spike5"])
    found = answers.traffic(net, FRAMES, seen)
    assert torch.equal(found["drive"], torch.cat([0 * FRAMES[:1], FRAMES[:-1]]))
    assert torch.equal(found["back"], torch.cat([0 * seen["spike6"][:1], seen["spike6"][:-1]]))
    assert float(found["back"].sum()) > 0
    pooled = network([{"delay": "p", "name": "d"},
                      {"conv": 2, "kernel": 1, "inputs": ["input"], "pool": 2, "name": "p"},
                      {"conv": 2, "kernel": 1, "inputs": ["d"], "name": "again"}, {"linear": "classes"}])  # fmt: skip
    _, _, seen = forward(pooled, FRAMES, record=["spike2", "pool2", "spike3", "spike4"])
    found = answers.traffic(pooled, FRAMES, {k: seen[k] for k in ("spike2", "spike3", "spike4")})
    assert torch.equal(found["again"][1:], 4 * seen["pool2"][:-1])


def test_other_values_than_events_are_multiplied_at_every_step() -> None:
    net = network([{"conv": 4, "padding": 1, "neuron": False}, {"conv": 4, "padding": 1}, {"linear": "classes"}])
    batch = next(Batches(recordings(2, (8, 8, 2)), 2, Frames(5)).epoch(0))
    seen = answers.stepped_answer(net)(batch)
    assert seen.macs is not None
    assert seen.macs["conv2"].tolist() == [5 * answers.macs_of(net.plan)["conv2"]] * 2
    assert set(seen.macs) == {"conv2"}


def test_heavy_weights_of_channels_norms_and_branches() -> None:
    net = network(RESIDUAL, factor=0.0, threshold_per="channel")
    with torch.no_grad():
        net.get_submodule("stem").weight[1] = 0.75  # type: ignore[index,operator]
        assert answers.heavy_weights(net) == []
        net.get_submodule("spike1").spike_threshold[1] = 0.5  # type: ignore[index,operator]
    assert answers.heavy_weights(net) == ["stem"]
    scaled = network([{"conv": 4, "padding": 1, "norm": "scale"}, {"linear": "classes"}], factor=0.0)
    with torch.no_grad():
        scaled.get_submodule("conv1").weight[2] = 0.75  # type: ignore[index,operator]
        assert answers.heavy_weights(scaled) == []
        scaled.get_submodule("norm1").weight[2] = 2.0  # type: ignore[index,operator]
    assert answers.heavy_weights(scaled) == ["conv1"]
    averages = network([{"conv": 4, "padding": 1, "pool": 2, "name": "a"},
                        {"conv": 4, "stride": 2, "padding": 1, "pool": 1, "inputs": ["a"], "name": "b"},
                        {"conv": 4, "padding": 1, "pool": 1, "inputs": ["a"], "name": "c"},
                        {"conv": 2, "inputs": ["a", "c"], "name": "d"}, {"linear": "classes"}])  # fmt: skip
    assert answers.averaged(averages.plan, "add4") == 1
    assert answers.averaged(averages.plan, "pool1") == 4
